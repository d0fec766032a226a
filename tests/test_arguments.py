"""Numbers out of range and contents of another kind are refused; they gave a value without a word before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.special import logsumexp

from repdyn import (
    KoopmanAutoencoder,
    LevelSetTree,
    RepdynError,
    RepresentationPaths,
    comparison,
    disentangle,
    fields,
    migration,
    ood,
    persistence,
    topology,
    translate,
    translation,
)
from repdyn.intervals import (
    Estimate,
    bootstrap,
    bootstrap_mean,
    bounded_interval,
    difference_interval,
    ratio_interval,
    share_interval,
)
from repdyn.ranking import auroc_interval, passing_interval, precision_interval

X = np.random.default_rng(0).normal(size=(60, 5))
BROKEN = X.copy()
BROKEN[3, 2] = np.nan
PATHS = RepresentationPaths.from_arrays({"a": X, "b": X[:, ::-1], "c": np.tanh(X)})
FIELD = fields.LatentField(lambda z: torch.tanh(2 * z))

LEVELS: dict[str, Callable[[Any], Any]] = {
    "bootstrap": lambda v: bootstrap(np.mean, X[:, 0], level=v),
    "bootstrap_mean": lambda v: bootstrap_mean(X[:, 0], level=v),
    "share_interval": lambda v: share_interval(X[:, 0] > 0, level=v),
    "ratio_interval": lambda v: ratio_interval(X[:, 0] ** 2, X[:, 1] ** 2, level=v),
    "bounded_interval": lambda v: bounded_interval(0.5, X[:, 0], 60, level=v),
    "auroc_interval": lambda v: auroc_interval(X[:, 0], X[:, 1], level=v),
    "passing_interval": lambda v: passing_interval(X[:, 0], X[:, 1], level=v),
    "passing_interval, rate": lambda v: passing_interval(X[:, 0], X[:, 1], rate=v),
    "precision_interval": lambda v: precision_interval(X[:, 0], X[:, 1], level=v),
    "false_positive_interval": lambda v: ood.false_positive_interval(100, level=v),
    "conformal_threshold": lambda v: ood.conformal_threshold(range(100), v),
    "basin_volumes": lambda v: FIELD.attractors(torch.as_tensor(X[:, :2])).basin_volumes(v),
}

COUNTS: dict[str, Callable[[Any], Any]] = {
    "knn_density": lambda v: topology.knn_density(X, v),
    "nearest_neighbors": lambda v: topology.nearest_neighbors(X, v),
    "farthest_points": lambda v: topology.farthest_points(X, v),
    "LevelSetTree": lambda v: LevelSetTree.fit(X, neighbors=v),
    "landmarks": lambda v: persistence(X, landmarks=v, resamples=2),
    "resamples": lambda v: persistence(X, landmarks=9, resamples=v),
    "max_dim": lambda v: topology.alpha_persistence(X[:, :2], v),
    "neighbor_table": lambda v: comparison.neighbor_table(X, v),
    "fit_low_rank": lambda v: translation.fit_low_rank(X, X, v),
    "fit_cca": lambda v: translation.fit_cca(X, X, v),
    "candidates": lambda v: translate(PATHS, PATHS, candidates=v),
    "latent_dim": lambda v: KoopmanAutoencoder(latent_dim=v).fit(PATHS, epochs=1),
    "epochs": lambda v: KoopmanAutoencoder(latent_dim=2, hidden=(4,)).fit(PATHS, epochs=v),
    "SKD": lambda v: disentangle.SKD(1, v).fit(np.zeros((9, 4, 3)), epochs=1),
    "surrogate": lambda v: fields.SurrogateAutoencoder(v, epochs=1).fit(PATHS, "a"),
    "k": lambda v: ood.KNNDetector(k=v).fit(PATHS),
    "window": lambda v: ood.DriftMonitor(ood.PathDetector().fit(PATHS), window=v),
    "max_steps": lambda v: FIELD.attractors(torch.as_tensor(X[:, :2]), max_steps=v),
    "multipliers": lambda v: fields.leading_multipliers(FIELD, torch.zeros(1, 2), v),
}


@pytest.mark.parametrize("level", [95, 1.0, 0, -0.5, float("nan"), "0.95", True])
@pytest.mark.parametrize("name", LEVELS)
def test_a_level_lies_between_0_and_1(name: str, level: Any) -> None:
    with pytest.raises(RepdynError, match="must lie between 0 and 1"):
        LEVELS[name](level)


@pytest.mark.parametrize("count", [2.5, "3", True, float("nan")])
@pytest.mark.parametrize("name", COUNTS)
def test_a_count_is_a_whole_number(name: str, count: Any) -> None:
    with pytest.raises(RepdynError, match="expected a whole number"):
        COUNTS[name](count)


@pytest.mark.parametrize(
    "name",
    ["knn_density", "farthest_points", "max_dim", "fit_cca", "epochs", "max_steps", "latent_dim", "SKD"],
)
def test_a_float_without_a_fraction_is_a_count(name: str) -> None:
    COUNTS[name](np.float64(3.0))


def test_a_level_as_an_array_of_one_number_gives_the_same_interval() -> None:
    plain, array = (auroc_interval(X[:, 0], X[:, 1], level=level) for level in (0.9, np.float32(0.9)))
    assert (array.low, array.high) == pytest.approx((plain.low, plain.high))


CONTENTS: dict[str, tuple[Callable[[], Any], str]] = {
    "points for distances": (lambda: topology.intrinsic_dimension(X), "nearest_neighbors"),
    "distances in no order": (lambda: topology.intrinsic_dimension(np.abs(X)), "ascending"),
    "a NaN among distances": (lambda: topology.intrinsic_dimension(np.sort(np.abs(BROKEN))), "NaN"),
    "points for neighbors": (lambda: comparison.mutual_neighbors(X, X), "neighbor_table"),  # type: ignore[arg-type]
    "tables of other samples": (
        lambda: comparison.mutual_neighbors(
            comparison.neighbor_table(X[:50], 3), comparison.neighbor_table(X, 3)
        ),
        "one shape",
    ),
    "tables of other sizes": (
        lambda: comparison.mutual_neighbors(comparison.neighbor_table(X, 3), comparison.neighbor_table(X, 5)),
        "one shape",
    ),
    "neighbors of NaN": (lambda: comparison.neighbor_table(BROKEN, 3), "row 3"),
    "a Gram matrix of NaN": (lambda: comparison.unbiased_gram(BROKEN), "row 3"),
    "Procrustes of NaN": (lambda: comparison.procrustes_distance(BROKEN, X), "row 3"),
    "Procrustes of other samples": (lambda: comparison.procrustes_distance(X, X[:50]), "same N"),
    "NaN for a class": (lambda: disentangle.frame_consistency(np.full((5, 6), np.nan)), "NaN"),
    "three steps of an orbit": (lambda: fields.lyapunov_exponents(np.zeros((3, 2, 1))), "8 steps"),
    "multipliers at NaN": (
        lambda: fields.leading_multipliers(FIELD, torch.full((1, 2), torch.nan)),
        "finite",
    ),
    "rows of documents before the first": (
        lambda: migration.documents_found(X, X[:2], np.array([-1, 0])),
        "from 0 to 59",
    ),
    "rows of fewer documents": (lambda: migration.documents_found(X, X, np.arange(5)), "60 integers"),
    "documents of NaN": (lambda: migration.documents_found(BROKEN, X, np.arange(60)), "finite"),
    "logits of one sample": (lambda: ood.energy(X[0]), "shape"),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_contents_of_another_kind_are_refused_with_a_reason(name: str) -> None:
    call, reason = CONTENTS[name]
    with pytest.raises(RepdynError, match=reason):
        call()


def test_the_dimension_of_points_follows_from_their_distances() -> None:
    x = np.random.default_rng(1).normal(size=(2000, 6))
    ours = topology.intrinsic_dimension(topology.nearest_neighbors(x, 10)[0])
    distances = np.sort(cdist(x, x), axis=1)[:, 1:11]  # by another library
    expected = 1 / np.mean(np.log(distances[:, -1:] / distances[:, :-1]))
    assert ours == pytest.approx(expected)
    assert 5 < ours < 7


def test_broken_logits_have_the_lowest_energy() -> None:
    logits = np.array([[1.0, 2.0], [np.nan, 9.0], [np.inf, 0.0], [-np.inf, 3.0]])
    found = ood.energy(logits)
    assert found[[0, 3]] == pytest.approx(logsumexp(logits[[0, 3]], axis=1))
    assert (found[[1, 2]] == -np.inf).all()


@pytest.mark.parametrize("interval", [auroc_interval, passing_interval, precision_interval])
def test_a_ranking_reads_infinite_scores_by_their_order_and_refuses_nan(interval: Callable[..., Any]) -> None:
    above, below = X[:, 0].copy(), X[:, 1].copy()
    above[5], below[7] = 1e6, -1e6
    finite = interval(above, below)
    above[5], below[7] = np.inf, -np.inf
    infinite = interval(above, below)
    assert (infinite.value, infinite.low, infinite.high) == (finite.value, finite.low, finite.high)
    above[5] = np.nan  # one NaN gave an AUPR of .495 without a word
    with pytest.raises(RepdynError, match="1 of 120 scores are NaN"):
        interval(above, below)


def test_a_figure_that_is_not_a_number_has_no_interval() -> None:
    found = bootstrap(np.mean, BROKEN[:, 2])
    assert np.isnan([found.value, found.low, found.high]).all()


def test_figures_of_two_levels_have_no_difference() -> None:
    one, other = Estimate(0.5, 0.4, 0.6, 0.9), Estimate(0.5, 0.4, 0.6, 0.95)
    with pytest.raises(RepdynError, match="one level"):
        difference_interval(one, other, 0.0)
