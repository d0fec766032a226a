"""Spectrum: planted systems to 1e-6, a peer's eigenvalues, residuals that tell true from false."""

from __future__ import annotations

import numpy as np
import pytest

from repdyn.errors import RepdynError
from repdyn.koopman import KoopmanAutoencoder
from repdyn.koopman.resdmd import riesz_projector, spectral_projector
from repdyn.koopman.spectrum import KoopmanSpectrum, decompose

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
        "kooplearn.linear_model", reason="kooplearn is a peer; pip install 'repdyn[test]' brings it"
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
    z = kae.encode(last, "layer3")
    rebuilt = (found.eigenfunctions(z - z.mean(axis=0)) @ found.modes).real + last.mean(axis=0)
    assert np.square(rebuilt - last).sum() < 0.05 * np.square(last - last.mean(axis=0)).sum()
    found.save(tmp_path / "spectrum")
    again = KoopmanSpectrum.load(tmp_path / "spectrum")
    assert again.to_dict() == found.to_dict()
    assert np.array_equal(again.vectors, found.vectors)
    assert len(found.plot().data) > 0


def test_the_certificate_goes_by_samples_that_a_pair_was_not_found_on() -> None:
    # As many observables as half the pairs fit noise well in sample; unseen samples tell.
    draw = np.random.default_rng(0)
    found = decompose(draw.standard_normal((2, 40, 20)), resamples=20, threshold=0.9)
    assert np.all(found.residuals_high >= found.residuals)
    assert not found.certified.any()
    assert len(found.koopman_eigenvalues) == 0
    true = decompose(_planted(), resamples=20)
    assert len(true.koopman_eigenvalues) == 4


def test_discs_and_intervals_cover_the_truth_as_often_as_they_say() -> None:
    hits = []
    for seed in range(40):
        found = decompose(_planted(noise=0.1, samples=200, seed=seed), resamples=60)
        slow = np.abs(found.eigenvalues - 0.95).argmin()
        turning = np.abs(found.eigenvalues - PLANTED[1]).argmin()
        hits.append(
            (
                abs(found.eigenvalues[slow] - 0.95) <= found.radius[slow],
                found.modulus_low[slow] <= 0.95 <= found.modulus_high[slow],
                found.frequency_low[turning] <= 0.7 / (2 * np.pi) <= found.frequency_high[turning],
            )
        )
    # 40 draws at 95 %: fewer than 33 hits have a chance of 1 in 500 for each of the three.
    assert np.sum(hits, axis=0).min() >= 33


def test_a_constant_eigenfunction_is_said_to_be_one() -> None:
    z = _planted(samples=200)
    with_one = np.concatenate([z, np.ones((*z.shape[:2], 1))], axis=2)
    found = decompose(with_one, resamples=5)
    flat = np.abs(found.eigenvalues - 1).argmin()
    assert found.variation[flat] < 1e-6
    assert np.delete(found.variation, flat).min() > 0.5
    assert "(constant)" in repr(found)


def test_ill_conditioned_observables_are_reported() -> None:
    z = _planted(samples=200)
    doubled = np.concatenate([z, z @ np.ones((4, 2)) / 2], axis=2)
    found = decompose(doubled, resamples=2)
    assert found.condition > 1e12
    assert "ill-conditioned" in repr(found)
    defective = np.array([[1.0, 1.0], [0.0, 1.0 + 1e-5]])
    x = np.random.default_rng(0).standard_normal((200, 2))
    assert "read clusters" in repr(decompose(np.stack([x, x @ defective]), resamples=2))


def test_clusters_hold_what_cannot_be_told_apart_and_conjugates() -> None:
    found = decompose(_planted(noise=0.02, samples=400), resamples=50)
    turning = set(np.flatnonzero(np.abs(found.eigenvalues.imag) > 0.1))
    assert turning in [set(rows) for rows in found.clusters()]
    draw = np.random.default_rng(0)
    x = draw.standard_normal((300, 3))
    close = x @ np.diag([0.9, 0.9 + 1e-4, 0.2]) + 0.05 * draw.standard_normal((300, 3))
    groups = decompose(np.stack([x, close]), resamples=50).clusters()
    assert sorted(len(rows) for rows in groups) == [1, 2]


def test_projectors_of_clusters_split_observables_into_parts_that_stay_apart() -> None:
    z = _planted()
    found = decompose(z, resamples=20)
    parts = [found.projector(rows) for rows in found.clusters()]
    assert all(np.isrealobj(part) for part in parts)
    assert np.allclose(sum(parts), np.eye(4), atol=1e-8)
    for part in parts:
        assert np.allclose(part @ part, part, atol=1e-8)
        assert np.allclose(part @ found.operator, found.operator @ part, atol=1e-8)


def test_a_projector_needs_no_contour_and_equals_the_one_of_a_contour() -> None:
    step = np.linalg.lstsq(_planted()[0], _planted()[1], rcond=None)[0]
    values = np.linalg.eigvals(step)
    chosen = values[np.abs(np.abs(values) - 0.8) < 0.01]
    ours = spectral_projector(step, chosen)
    assert np.isrealobj(ours)
    by_contours = sum(riesz_projector(step, centre, 0.1) for centre in chosen)
    assert np.allclose(ours, by_contours, atol=1e-8)
    assert np.iscomplexobj(spectral_projector(step, chosen[:1]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: riesz_projector(np.diag([1.0, 0.5]), 0.0, 1.0), "lies"),
        (lambda: riesz_projector(np.eye(2), 1.0, 0.0), "radius"),
        (lambda: spectral_projector(np.eye(2), []), "empty"),
        (lambda: spectral_projector(np.diag([1.0, 0.5]), [0.7]), "match"),
        (lambda: spectral_projector(np.diag([1.0, 1.0, 0.5]), [1.0]), "coincide"),
        (lambda: decompose(np.zeros((3, 4))), "shape"),
        (lambda: decompose(np.full((2, 9, 2), np.nan)), "finite"),
        (lambda: decompose(np.random.default_rng(0).random((2, 9, 2)), resamples=1), "resamples"),
    ],
)
def test_nonsense_is_refused(call, message) -> None:
    with pytest.raises(RepdynError, match=message):
        call()


def test_eigenvalues_equal_pydmds() -> None:
    pydmd = pytest.importorskip("pydmd", reason="PyDMD is a peer; pip install 'repdyn[test]' brings it")
    z = _planted(noise=0.05, samples=300)
    before, after = z[:-1].reshape(-1, 4), z[1:].reshape(-1, 4)
    peer = pydmd.DMD(svd_rank=-1).fit(before.T, after.T)
    ours = decompose(z, resamples=2)
    assert _same(ours.eigenvalues, np.asarray(peer.eigs)) < 1e-6
    assert _same(np.asarray(peer.eigs), ours.eigenvalues) < 1e-6


def test_the_pseudospectrum_is_drawn() -> None:
    figure = decompose(_planted(noise=0.05), resamples=5).plot_pseudospectrum(resolution=9)
    assert np.asarray(figure.data[0].z).shape == (9, 9)
    assert np.allclose(figure.data[0].z, np.asarray(figure.data[0].z)[::-1])
