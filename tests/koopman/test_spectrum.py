"""Spectrum: planted systems to 1e-6, a peer's eigenvalues, residuals that tell true from false."""

from __future__ import annotations

import numpy as np
import pytest

from repdyn.errors import RepdynError
from repdyn.koopman import KoopmanAutoencoder
from repdyn.koopman.spectrum import KoopmanSpectrum, decompose, riesz_projector

PLANTED = np.array([0.95, 0.8 * np.exp(0.7j), 0.8 * np.exp(-0.7j), 0.3])


def _planted(points: int = 5, samples: int = 100, noise: float = 0.0, seed: int = 0) -> np.ndarray:
    """Trajectories of a non-normal linear system with the planted eigenvalues, ``(points, N, 4)``."""
    draw = np.random.default_rng(seed)
    turn = 0.8 * np.array([[np.cos(0.7), np.sin(0.7)], [-np.sin(0.7), np.cos(0.7)]])
    block = np.zeros((4, 4))
    block[0, 0], block[1:3, 1:3], block[3, 3] = 0.95, turn, 0.3
    change = np.random.default_rng(7).standard_normal((4, 4))
    step = np.linalg.solve(change, block @ change)
    states = [draw.standard_normal((samples, 4))]
    for _ in range(points - 1):
        states.append(states[-1] @ step + noise * draw.standard_normal((samples, 4)))
    return np.stack(states)


def _same(found: np.ndarray, wanted: np.ndarray) -> float:
    return max(np.abs(found - one).min() for one in wanted)


def test_a_planted_system_is_recovered_and_certified() -> None:
    found = decompose(_planted(), resamples=20)
    assert _same(found.eigenvalues, PLANTED) < 1e-6
    assert found.certified.all()
    assert found.residuals.max() < 1e-5
    assert np.all(np.diff(np.abs(found.eigenvalues)) <= 1e-12)
    turning = np.abs(found.eigenvalues.imag) > 0.1
    assert np.allclose(np.abs(found.frequencies[turning]), 0.7 / (2 * np.pi), atol=1e-6)
    assert np.allclose(found.decay_rates, -np.log(np.abs(found.eigenvalues)))


def test_eigenfunctions_advance_by_their_eigenvalue_and_modes_rebuild_the_state() -> None:
    z = _planted()
    found = decompose(z, resamples=2)
    assert np.allclose(found.eigenfunctions(z[1]), found.eigenfunctions(z[0]) * found.eigenvalues, atol=1e-6)
    assert np.allclose((found.eigenfunctions(z[2]) @ found.modes).real, z[2], atol=1e-8)


def test_intervals_cover_the_truth_under_noise_and_widen_with_it() -> None:
    quiet, loud = (decompose(_planted(noise=s, samples=400), resamples=100) for s in (0.02, 0.2))
    first = np.abs(loud.eigenvalues).argmax()
    assert loud.modulus_low[first] <= 0.95 <= loud.modulus_high[first]
    assert (loud.modulus_high - loud.modulus_low).sum() > 2 * (quiet.modulus_high - quiet.modulus_low).sum()


def test_no_pair_of_unrelated_observables_is_certified() -> None:
    draw = np.random.default_rng(0)
    found = decompose(draw.standard_normal((2, 500, 6)), resamples=5)
    assert not found.certified.any()
    assert "0 of 6" in repr(found)
    assert "not certified" in repr(found)


def test_eigenvalues_equal_kooplearns() -> None:
    linear_model = pytest.importorskip(
        "kooplearn.linear_model", reason="kooplearn is a peer, not a dependency"
    )
    # The peer takes one trajectory.
    draw = np.random.default_rng(3)
    z = _planted(points=2, samples=1)
    step = np.linalg.lstsq(_planted()[0], _planted()[1], rcond=None)[0]
    rows = [z[0, 0]]
    for _ in range(300):
        rows.append(rows[-1] @ step + 0.1 * draw.standard_normal(4))
    trajectory = np.array(rows)
    peer = linear_model.Ridge(alpha=1e-12, n_components=4, reduced_rank=False).fit(trajectory)
    ours = decompose(trajectory[:, None, :], resamples=2)
    assert _same(ours.eigenvalues, np.asarray(peer.eig())) < 1e-6


def test_henrici_is_zero_for_normal_operators_only() -> None:
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((4, 4)))[0]
    x = np.random.default_rng(1).standard_normal((200, 4))
    assert decompose(np.stack([x, x @ rotation]), resamples=2).henrici < 1e-4
    shear = np.eye(4) + np.diag([5.0, 0, 0], 1)
    assert decompose(np.stack([x, x @ shear]), resamples=2).henrici > 0.7


def test_pseudospectrum_vanishes_at_eigenvalues_and_not_between() -> None:
    found = decompose(_planted(noise=0.01, samples=400), resamples=2)
    at, between = found.pseudospectrum(np.array([0.95 + 0j, -0.5 + 0.5j]))
    assert at < 0.1 < between


def test_riesz_projector_is_idempotent_commutes_and_counts() -> None:
    step = np.linalg.lstsq(_planted()[0], _planted()[1], rcond=None)[0]
    found = riesz_projector(step, 0.95, 0.3)
    assert np.allclose(found @ found, found, atol=1e-10)
    assert np.allclose(found @ step, step @ found, atol=1e-10)
    assert np.trace(found).real == pytest.approx(1, abs=1e-8)


def test_too_few_pairs_certify_nothing() -> None:
    with pytest.raises(RepdynError, match="cannot certify"):
        decompose(np.random.default_rng(0).standard_normal((2, 7, 4)))


def test_spectrum_of_an_autoencoder_is_saved_and_drawn(train, tmp_path) -> None:
    kae = KoopmanAutoencoder(6, ()).fit(train, epochs=20, batch_size=64)
    found = kae.spectrum(train, resamples=5)
    assert found.modes.shape == (6, 6)
    last = train["layer3"]
    rebuilt = (found.eigenfunctions(kae.encode(last, "layer3")) @ found.modes).real + last.mean(axis=0)
    assert np.square(rebuilt - last).sum() < 0.05 * np.square(last - last.mean(axis=0)).sum()
    found.save(tmp_path / "spectrum")
    again = KoopmanSpectrum.load(tmp_path / "spectrum")
    assert again.to_dict() == found.to_dict()
    assert np.array_equal(again.vectors, found.vectors)
    assert len(found.plot().data) > 0
