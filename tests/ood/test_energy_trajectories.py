"""How points move under energy fields: an independent oracle, planted faults, rates, and hostile data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score

from repdyn.errors import RepdynError
from repdyn.fields import EnergyField
from repdyn.ood import EnergyTrajectoryDetector, UnionDetector, load_detector
from repdyn.ood.settings import ENERGY_TRAJECTORY
from repdyn.paths import RepresentationPaths

Array = NDArray[np.float64]


def groups(n: int, seed: int, d: int = 20, wide: float = 0.3) -> Array:
    generator = np.random.default_rng(seed)
    centers = np.random.default_rng(99).normal(size=(6, d))
    return centers[generator.integers(6, size=n)] + wide * generator.normal(size=(n, d))


def auroc(detector: EnergyTrajectoryDetector, usual: Array, foreign: Array) -> float:
    scores = np.concatenate([detector.score_samples(usual), detector.score_samples(foreign)])
    return float(roc_auc_score(np.repeat([1, 0], [len(usual), len(foreign)]), scores))


def by_hand(x: Array, bank: Array, sigmas: Array, kept: int) -> Array:
    """The features of new points, from distances and another library's components."""
    pca = PCA(kept).fit(bank)
    z, own = pca.transform(x), pca.transform(bank)
    columns = [np.log(np.linalg.norm(x - pca.inverse_transform(z), axis=1))]
    for sigma in sigmas:

        def step(y: Array, sigma: float = sigma) -> Array:
            weights = np.exp(-cdist(y, own, "sqeuclidean") / (2 * sigma**2))
            return np.asarray(weights @ own / weights.sum(1, keepdims=True))

        density = np.exp(-cdist(z, own, "sqeuclidean") / (2 * sigma**2)).mean(1)
        once = step(z)
        thrice = step(step(once))
        ways = [np.log(np.linalg.norm(end - z, axis=1) / sigma) for end in (once, thrice)]
        columns += [-np.log(density), *ways]
    return np.stack(columns, axis=1)


def test_the_features_are_those_of_distances_and_of_the_field() -> None:
    bank, new = groups(80, 0, d=10), groups(30, 1, d=10)
    detector = EnergyTrajectoryDetector().fit(bank)
    sigmas = detector.sigmas_
    # All ten components are kept, so that nothing is left outside: this column is constant.
    distances = by_hand(new, bank, sigmas, 10)[:, 1:]
    scored = detector.score_samples(new)
    full = np.column_stack([np.full(30, np.log(detector._coordinates.least[0])), distances])
    full = (full - detector._location) / detector._scale
    np.testing.assert_allclose(-detector._gaussian.distance(full), scored, rtol=1e-6)
    field = EnergyField(float(sigmas[2]), components=None).fit(bank)
    z = field.encode(new)
    np.testing.assert_allclose(field.energy(z).numpy() / sigmas[2] ** 2, distances[:, 6], rtol=1e-4)
    lengths = field.displacement(z).norm(dim=1).log().numpy() - np.log(sigmas[2])
    np.testing.assert_allclose(lengths, distances[:, 7], rtol=1e-4)


def test_what_lies_outside_of_the_components_is_one_feature() -> None:
    generator = np.random.default_rng(0)
    scale = np.linspace(1, 0.05, 90)
    fit, usual = (generator.normal(size=(n, 90)) * scale for n in (400, 200))
    detector = EnergyTrajectoryDetector().fit(fit)
    assert detector._coordinates.axes.shape == (90, ENERGY_TRAJECTORY.components)
    values = by_hand(usual, fit, detector.sigmas_, ENERGY_TRAJECTORY.components)
    full = (values - detector._location) / detector._scale
    np.testing.assert_allclose(-detector._gaussian.distance(full), detector.score_samples(usual), rtol=1e-5)


@pytest.mark.parametrize("kind", ["between groups", "too likely", "outside"])
def test_planted_faults_are_found(kind: str) -> None:
    fit, usual = groups(1200, 0), groups(400, 1)
    other = groups(400, 2)
    generator = np.random.default_rng(3)
    foreign = {
        "between groups": (other + other[generator.permutation(400)]) / 2,
        # Pulled to the center of its group: more likely than almost all points of the data.
        "too likely": groups(400, 2, wide=0.05),
        "outside": other + 0.5 * generator.normal(size=other.shape),
    }[kind]
    assert auroc(EnergyTrajectoryDetector().fit(fit), usual, foreign) > 0.9


def test_points_alike_are_not_told_apart() -> None:
    assert (
        0.44 < auroc(EnergyTrajectoryDetector().fit(groups(1000, 0)), groups(600, 1), groups(600, 2)) < 0.56
    )


@pytest.mark.parametrize("seed", range(3))
def test_the_rate_of_new_points_is_that_of_the_threshold(seed: int) -> None:
    detector = EnergyTrajectoryDetector(seed=seed).fit(groups(1500, seed))
    assert 0.02 < float((detector.predict(groups(2000, 50 + seed)) == -1).mean()) < 0.08


def test_fitted_points_and_copies_are_usual() -> None:
    # A bank's own point is a mode at small noise. It may not look unlike every other input for that.
    fit = groups(800, 0)
    detector = EnergyTrajectoryDetector().fit(fit)
    assert (detector.predict(fit) == -1).mean() < 0.1
    moved = fit + 1e-7 * np.random.default_rng(0).normal(size=fit.shape)
    np.testing.assert_allclose(detector.score_samples(moved), detector.score_samples(fit), rtol=1e-3)
    repeated = EnergyTrajectoryDetector().fit(np.repeat(fit[:200], 4, axis=0))
    assert (repeated.predict(fit[:200]) == -1).mean() < 0.12


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_units_and_basis_do_not_matter(dtype: type, unit: float) -> None:
    fit, new = groups(300, 0), groups(100, 1)
    q, _ = np.linalg.qr(np.random.default_rng(5).normal(size=(20, 20)))
    one = EnergyTrajectoryDetector().fit(fit).score_samples(new)
    other = EnergyTrajectoryDetector().fit((unit * (fit @ q)).astype(dtype))
    assert np.corrcoef(one, other.score_samples((unit * (new @ q)).astype(dtype)))[0, 1] > 0.999


def test_one_wide_coordinate_does_not_hide_the_others() -> None:
    wide = np.ones(20)
    wide[7] = 2000.0
    foreign = (groups(400, 2) + groups(400, 4)) / 2
    found = auroc(
        EnergyTrajectoryDetector().fit(groups(1200, 0) * wide), groups(400, 1) * wide, foreign * wide
    )
    assert found > 0.85


def test_saved_loaded_and_as_a_module(tmp_path: object) -> None:
    fit, new = groups(300, 0, d=80), groups(64, 1, d=80)
    detector = EnergyTrajectoryDetector(bank=200).fit(fit)
    detector.save(f"{tmp_path}/detector")
    back = load_detector(f"{tmp_path}/detector")
    assert np.array_equal(back.score_samples(new), detector.score_samples(new))
    assert "bank of 200" in repr(detector)
    module = detector.as_module()
    x = torch.from_numpy(new).float().requires_grad_()
    scores = module({detector.points_[0]: x})
    np.testing.assert_allclose(scores.detach().numpy(), detector.score_samples(new), rtol=2e-3)
    scores.sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


def test_it_reads_the_first_point_and_is_a_member_of_a_union() -> None:
    paths = RepresentationPaths.from_arrays({"pixels": groups(400, 0), "code": groups(400, 0)[:, :4]})
    alone = EnergyTrajectoryDetector().fit(paths)
    assert alone.points_ == ("pixels",)
    union = UnionDetector({"energy trajectory": EnergyTrajectoryDetector()}).fit(paths)
    same = RepresentationPaths.from_arrays({"pixels": groups(90, 1), "code": groups(90, 1)[:, :4]})
    order = np.argsort(alone.score_samples(same))
    assert (np.diff(union.score_samples(same)[order]) >= 0).all()


def test_refused() -> None:
    with pytest.raises(RepdynError, match="at least 20 different samples, got 40 samples of which 10"):
        EnergyTrajectoryDetector().fit(np.repeat(groups(10, 0), 4, axis=0))
    with pytest.raises(RepdynError, match="bank: must be at least 20, got 5"):
        EnergyTrajectoryDetector(bank=5).fit(groups(100, 0))
    with pytest.raises(RepdynError, match="all the same vector"):
        EnergyTrajectoryDetector().fit(1 + 1e-14 * groups(100, 0))
