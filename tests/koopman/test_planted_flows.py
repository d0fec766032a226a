"""Planted linear flows: their eigenvalues come through the autoencoder, and frames that differ are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from repdyn.koopman import KoopmanAutoencoder, KoopmanSpectrum, autonomy, controls
from repdyn.koopman.frames import PointFrames
from repdyn.koopman.start import logarithm
from repdyn.paths import RepresentationPaths

TURN = 0.95 * np.exp(0.3j)
KINDS = {
    "issue": [0.98, 0.9, 0.8, 0.7, TURN, TURN.conjugate()],
    "rotates": [1.0, 1.0, 0.99, 0.98, np.exp(0.3j), np.exp(-0.3j)],
    "decays": [0.7, 0.6, 0.5, 0.4, 0.6 * np.exp(1j), 0.6 * np.exp(-1j)],
    "grows": [1.2, 1.1, 1.0, 0.9, 1.05 * np.exp(0.3j), 1.05 * np.exp(-0.3j)],
}


def flow(
    values: list[complex],
    samples: int = 300,
    mean: float = 0.0,
    drift: float = 0.0,
    wide: float = 1.0,
    rounded: bool = False,
    dtype: str = "float32",
) -> RepresentationPaths:
    """Nine points of ``x_(l+1) = x_l A + b`` with these eigenvalues of a non-normal ``A``."""
    block = np.zeros((6, 6))
    block[:4, :4] = np.diag(np.real(values[:4]))
    a, b = values[4].real, values[4].imag
    block[4:, 4:] = [[a, b], [-b, a]]
    change = np.random.default_rng(5).standard_normal((6, 6))
    step = np.linalg.solve(change, block @ change)
    draw = np.random.default_rng(0)
    x, offset = draw.standard_normal((samples, 6)) + mean, drift * draw.standard_normal(6)
    arrays = {}
    for number in range(9):
        own = x * np.array([wide, 1, 1, 1, 1, 1])
        if rounded:
            own = torch.from_numpy(own).bfloat16().double().numpy()
        arrays[f"p{number}"] = own.astype(dtype)
        x = x @ step + offset
    return RepresentationPaths.from_arrays(arrays)


def apart(found: np.ndarray, planted: list[complex]) -> float:
    """Largest distance of a planted eigenvalue from the nearest one found."""
    return max(float(np.abs(found - one).min()) for one in planted)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"mean": 3.0},
        {"drift": 1.0},
        {"wide": 1000.0},
        {"wide": 1000.0, "drift": 1.0},
        {"samples": 12},
        {"dtype": "float64"},
    ],
    ids=str,
)
def test_eigenvalues_come_through_the_autoencoder(kind: str, change: dict) -> None:
    paths = flow(KINDS[kind], **change)
    kae = KoopmanAutoencoder(latent_dim=6, hidden=()).fit(paths, epochs=4, seed=0)
    found = kae.spectrum(paths, resamples=10)
    assert not found.relative
    assert apart(found.eigenvalues, KINDS[kind]) < 1e-3
    assert found.certified.all()
    own = np.linalg.eigvals(kae.operator_.matrix(0, 1).detach().double().numpy())
    assert apart(own, KINDS[kind]) < 1e-3
    assert kae.chosen_ == "generator"
    last = np.asarray(paths["p8"], dtype=np.float64)
    error = np.square(kae.propagate(paths["p0"], "p0", "p8") - last).sum()
    assert error < 1e-4 * np.square(last - last.mean(axis=0)).sum()


@pytest.mark.parametrize("kind", ["issue", "rotates", "grows"])
def test_rounding_to_bfloat16_costs_what_it_costs_a_plain_regression(kind: str) -> None:
    paths = flow(KINDS[kind], rounded=True, samples=2000)
    kae = KoopmanAutoencoder(latent_dim=6, hidden=()).fit(paths, epochs=2, seed=0)
    states = np.stack([np.asarray(paths[point], dtype=np.float64) for point in paths.points])
    states -= states.mean(axis=1, keepdims=True)
    plain = np.linalg.lstsq(states[:-1].reshape(-1, 6), states[1:].reshape(-1, 6), rcond=None)[0]
    found = kae.spectrum(paths, resamples=10).eigenvalues
    assert apart(found, list(np.linalg.eigvals(plain))) < 1e-3


def test_more_observables_than_dimensions_add_no_false_certificate() -> None:
    paths = flow(KINDS["issue"])
    kae = KoopmanAutoencoder(latent_dim=9, hidden=()).fit(paths, epochs=2, seed=0)
    found = kae.spectrum(paths, resamples=10)
    assert apart(found.eigenvalues, KINDS["issue"]) < 1e-3
    certified = found.koopman_eigenvalues
    assert all(min(abs(value - one) for one in KINDS["issue"]) < 1e-3 for value in certified)


def widening() -> RepresentationPaths:
    draw = np.random.default_rng(0)
    x = draw.standard_normal((300, 4))
    return RepresentationPaths.from_arrays(
        {"a": x, "b": 3 * x[:, ::-1], "c": 0.5 * x @ draw.standard_normal((4, 6))}
    )


def test_where_widths_differ_nothing_is_certified_and_the_frames_are_reported(tmp_path: Path) -> None:
    paths = widening()
    kae = KoopmanAutoencoder(latent_dim=4, hidden=()).fit(paths, epochs=4)
    found = kae.spectrum(paths, resamples=10)
    assert found.relative
    assert not found.certified.any()
    assert len(found.koopman_eigenvalues) == 0
    assert found.consistent.any()
    text = repr(found)
    assert "0 of 4 eigenvalues certified" in text
    assert "relative to frames" in text
    assert "none is a property of depth" in text
    values = found.to_dict()
    assert values["relative"] is True
    assert values["certified"] == 0
    # The first step multiplies by three and the frames divide by it.
    assert values["frame_scale"][0] == pytest.approx(3, rel=1e-4)
    assert values["frame_rotation"][1] is None
    assert "no property of depth" in found.plot().to_json()
    found.save(tmp_path / "spectrum")
    again = KoopmanSpectrum.load(tmp_path / "spectrum")
    assert again.relative
    assert repr(again) == text
    depth = autonomy(paths, paths)
    assert depth.relative
    assert "relative to frames" in repr(depth)
    one = flow(KINDS["issue"])
    assert not autonomy(one, one).relative
    assert controls(paths).relative


def test_frames_of_their_own_report_a_known_rotation() -> None:
    angle = 0.7
    turn = torch.tensor([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    x = torch.randn(500, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    frames = PointFrames({"a": 2, "b": 2}).double().fit([x, 5 * x @ turn])
    assert frames.relative
    assert frames.rotations()[0] == pytest.approx(angle / (2 * np.pi), abs=1e-6)
    assert float(frames.scale[1] / frames.scale[0]) == pytest.approx(5)
    common = PointFrames({"a": 2, "b": 2}, common=True).double().fit([x, 5 * x @ turn])
    assert not common.relative
    assert torch.allclose(common.lift(5 * x @ turn, 1), common.lift(5 * x @ turn, 0))
    assert common.variance.tolist() == pytest.approx([2 / 26, 50 / 26])


def test_an_autoencoder_of_version_01_keeps_its_numbers_and_its_frames() -> None:
    kae = KoopmanAutoencoder.from_pretrained(Path(__file__).parents[1] / "data" / "schema1" / "koopman")
    x = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)
    # Computed by the code before frames were shared.
    expected = [
        [-0.7552427, -0.61531615, -0.4290018, -0.1743663],
        [0.13814008, 0.33044565, 0.53026605, 0.7674425],
    ]
    np.testing.assert_allclose(kae.propagate(x, "a", 1.5), expected, rtol=1e-5, atol=1e-6)
    assert kae.frames_.relative


def test_the_logarithm_is_the_real_one_where_it_exists() -> None:
    draw = np.random.default_rng(0)
    matrix = torch.from_numpy(np.eye(5) + 0.3 * draw.standard_normal((5, 5)))
    generator, mean = logarithm(matrix)
    assert torch.allclose(torch.linalg.matrix_exp(generator), matrix, atol=1e-10)
    assert torch.allclose(generator @ mean, matrix - torch.eye(5, dtype=matrix.dtype), atol=1e-10)
    flipped, _ = logarithm(torch.diag(torch.tensor([1.0, -0.5], dtype=torch.float64)))
    assert torch.allclose(flipped, torch.diag(torch.log(torch.tensor([1.0, 0.5], dtype=torch.float64))))
