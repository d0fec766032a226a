"""Pseudo-OOD splits leave enough to fit on, whatever the sizes of the groups."""

from __future__ import annotations

import numpy as np
import pytest

from repdyn.ood import KNNDetector, MahalanobisDetector, recommend
from repdyn.ood.pseudo_ood import HELD_OUT, contracted, split_pseudo_ood
from repdyn.paths import RepresentationPaths


def noise(count: int, seed: int = 0) -> RepresentationPaths:
    x = np.random.default_rng(seed).normal(size=(2, count, 4))
    return RepresentationPaths.from_arrays({"a": x[0], "b": x[1]})


@pytest.mark.parametrize(
    "sizes", [[40] * 10, [180, 180, 10, 10, 10, 10], [380, 5, 5, 5, 5], [210, 190], [100, 100, 100, 100]]
)
def test_half_of_the_paths_or_more_are_fitted_and_tested_on(sizes: list[int]) -> None:
    group = np.repeat(np.arange(len(sizes)), sizes)
    for seed in range(20):
        split = split_pseudo_ood(noise(len(group)), group, np.random.default_rng(seed))
        held = len(split.sets[HELD_OUT])
        assert 0 < held <= len(group) / 2
        assert len(split.fit) + len(split.sets["in-distribution"]) == len(group) - held


def test_groups_of_one_size_are_drawn_as_a_plain_permutation_draws_them() -> None:
    paths, group = noise(100), np.repeat(np.arange(10), 10)
    for seed in range(10):
        expected = np.random.default_rng(seed).permutation(10)[:2]
        held = split_pseudo_ood(paths, group, np.random.default_rng(seed)).sets[HELD_OUT]
        np.testing.assert_array_equal(held["a"], paths.subset(np.flatnonzero(np.isin(group, expected)))["a"])


@pytest.mark.parametrize("seed", range(3))
def test_one_wide_coordinate_does_not_end_a_recommendation(seed: int) -> None:
    # Clusters of directions are then two of nearly all paths, and eight of a handful.
    x = np.random.default_rng(seed).normal(size=(2, 400, 6))
    x[..., 0] *= 1e4
    paths = RepresentationPaths.from_arrays({"a": x[0], "b": x[1]})
    found = recommend(paths, {"knn": KNNDetector(), "mahalanobis": MahalanobisDetector()}, seed=seed)
    assert found.verdict in ("found", "inconclusive", "not found")


def test_contracted_paths_lie_halfway_to_the_mean_at_every_point() -> None:
    generator = np.random.default_rng(0)
    sizes = {"a": 4, "b": 2, "logits": 3}
    drawn = {name: generator.normal(size=(30, width)) + 100 for name, width in sizes.items()}
    arrays = {name: x.astype(np.float32) for name, x in drawn.items()}
    logits = arrays.pop("logits")
    paths = RepresentationPaths.from_arrays(arrays, logits=logits, labels=np.arange(30))
    found = contracted(paths)
    for name, x in {**arrays, "logits": logits}.items():
        own = found.logits if name == "logits" else found[name]
        middle = x.astype(np.float64).mean(axis=0)
        np.testing.assert_allclose(own, (x + middle) / 2, rtol=1e-6)
        assert np.asarray(own).dtype == x.dtype
    assert found.labels is None
