"""The density of vectors without labels: an oracle, planted groups, and data without groups."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.metrics import roc_auc_score

from repdyn.errors import RepdynError
from repdyn.ood import MahalanobisDetector, MixtureDetector, UnionDetector, load_detector
from repdyn.paths import RepresentationPaths


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def groups(n: int, seed: int, k: int = 12, d: int = 16, shift: float = 0.0) -> np.ndarray:
    """Vectors of k directions, wide along two of the coordinates that all share."""
    generator = np.random.default_rng(seed)
    centers = np.random.default_rng(99).normal(size=(k, d))
    noise = generator.normal(size=(n, d)) * np.array([1.0, 1.0, *[0.15] * (d - 2)])
    return (centers[np.arange(n) % k] + noise + shift * np.eye(d)[5]) * generator.uniform(0.5, 2, (n, 1))


def between(n: int, seed: int) -> np.ndarray:
    """Means of two groups each: near the data as a whole, near no group."""
    generator = np.random.default_rng(seed)
    x = groups(2 * n, seed)
    return (x[:n] / np.linalg.norm(x[:n], axis=1, keepdims=True) + unit(x[n + generator.permutation(n)])) / 2


def test_the_score_is_the_log_density_of_its_mixture() -> None:
    x = groups(300, 0)
    detector = MixtureDetector(6).fit(x)
    density = detector._density
    covariance = np.linalg.inv(density.whitener @ density.whitener.T)
    means = density.center + density.means @ np.linalg.inv(density.whitener)
    weights = density.offsets - density.offsets.max()
    weights = np.exp(weights) / np.exp(weights).sum()
    new = unit(groups(50, 3))
    oracle = np.log(sum(w * multivariate_normal(m, covariance).pdf(new) for w, m in zip(weights, means)))
    np.testing.assert_allclose(detector.score_samples(new), oracle, rtol=1e-6)


def test_what_lies_between_groups_is_foreign_without_labels() -> None:
    fit, usual, foreign = groups(1500, 0), groups(400, 1), between(400, 2)
    is_usual = np.repeat([1, 0], 400)
    found = {
        type(one).__name__: roc_auc_score(
            is_usual, np.concatenate([one.fit(fit).score_samples(usual), one.score_samples(foreign)])
        )
        for one in (MixtureDetector(), MahalanobisDetector())
    }
    assert found["MixtureDetector"] > 0.9
    assert found["MixtureDetector"] > found["MahalanobisDetector"] + 0.1


@pytest.mark.parametrize("seed", range(3))
def test_the_rate_of_held_out_samples_is_that_of_the_threshold(seed: int) -> None:
    detector = MixtureDetector(seed=seed).fit(groups(1500, seed))
    # Its mixture is of all samples, those of the calibration scores are of four fifths: a little lower.
    assert 0.02 < float((detector.predict(groups(2000, 50 + seed)) == -1).mean()) < 0.07


def test_one_cloud_is_scored_as_by_its_gaussian() -> None:
    # Nothing is to be found: the mixture may not be worse than the one Gaussian that it is.
    generator = np.random.default_rng(0)
    draw = lambda n, shift: generator.normal(size=(n, 20)) + 3 + shift * np.eye(20)[0]  # noqa: E731
    fit, sets = draw(2000, 0), np.concatenate([draw(500, 0), draw(500, 3)])
    is_usual = np.repeat([1, 0], 500)
    mixture, gaussian = (
        roc_auc_score(is_usual, one.fit(fit).score_samples(sets))
        for one in (MixtureDetector(), MahalanobisDetector())
    )
    assert mixture > gaussian - 0.03


def test_copies_count_once_and_are_in_one_fold() -> None:
    x = groups(300, 0)
    once, often = MixtureDetector(6).fit(x), MixtureDetector(6).fit(np.repeat(x, 3, axis=0))
    assert len(once.calibration_scores_) == len(often.calibration_scores_) == 300
    new = groups(100, 1)
    np.testing.assert_allclose(once.score_samples(new), often.score_samples(new))


def test_lengths_do_not_count() -> None:
    x = groups(300, 0)
    detector = MixtureDetector(6).fit(x)
    new = groups(40, 1)
    np.testing.assert_allclose(detector.score_samples(1.5 * new), detector.score_samples(new), rtol=1e-9)


def test_a_bank_is_drawn_and_said() -> None:
    detector = MixtureDetector(5, bank=100).fit(groups(400, 0))
    assert "100 of 400 different samples" in repr(detector)
    assert len(detector.calibration_scores_) == 400


def test_it_is_saved_and_loaded(tmp_path) -> None:
    detector = MixtureDetector(5, bank=200, seed=3).fit(groups(300, 0))
    detector.save(tmp_path / "one")
    again = load_detector(tmp_path / "one")
    assert repr(again) == repr(detector)
    assert again.get_params() == detector.get_params()
    new = groups(50, 1)
    np.testing.assert_array_equal(again.score_samples(new), detector.score_samples(new))
    assert again.ridge_ == detector.ridge_


@pytest.mark.parametrize(
    ("given", "x", "match"),
    [
        ({"atoms": 0}, groups(60, 0), "atoms: must lie between 1 and the 60"),
        ({"atoms": 61}, groups(60, 0), "atoms: must lie between 1 and the 60"),
        ({"atoms": 2.5}, groups(60, 0), "atoms"),
        ({"bank": 2.5}, groups(60, 0), "bank"),
        ({"bank": 5}, groups(60, 0), "bank: must be at least 20"),
        ({}, groups(19, 0), "got 19 samples of which 19 differ"),
        ({}, np.repeat(groups(5, 0), 20, axis=0), "got 100 samples of which 5 differ"),
        ({}, np.ones((50, 8)), "which 1 differ"),
    ],
)
def test_bad_input(given: dict, x: np.ndarray, match: str) -> None:
    with pytest.raises(RepdynError, match=match):
        MixtureDetector(**given).fit(x)


def test_it_is_a_member_of_a_union_without_labels_only() -> None:
    x = groups(400, 0)
    labels = np.arange(400) % 12
    plain = UnionDetector().fit(RepresentationPaths.from_arrays({"x": x}))
    labeled = UnionDetector().fit(RepresentationPaths.from_arrays({"x": x}, labels=labels))
    assert "mixture" in plain.controls_
    assert "mixture" not in labeled.controls_
