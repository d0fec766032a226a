"""Points that occur several times, in any unit, far from zero, or in clusters far apart."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import cKDTree
from sklearn.datasets import make_circles
from sklearn.metrics import adjusted_rand_score

from repdyn.topology import LevelSetTree, knn_density, mixture_density, nearest_neighbors
from repdyn.topology import neighbors as room
from repdyn.topology.neighbors import component_bridges
from repdyn.topology.settings import NeighborSettings


@pytest.mark.parametrize("times", [2, 10, 40])
@pytest.mark.parametrize("noise", [0.0, 1e-8])
def test_copies_of_all_points_change_no_leaf(times, noise):
    g = np.random.default_rng(0)
    x = np.concatenate([g.normal(size=(60, 4)), g.normal(size=(80, 4)) + 8])
    once = LevelSetTree.fit(x)
    order = g.permutation(times * len(x))
    copies = np.repeat(x, times, axis=0)[order]
    often = LevelSetTree.fit(copies + noise * g.normal(size=copies.shape))
    assert len(often.leaves) == len(once.leaves) == 2
    assert often.n_peaks == once.n_peaks
    assert often.components == once.components
    np.testing.assert_allclose(often.persistence, once.persistence, atol=1e-5)
    np.testing.assert_allclose(often.mass, once.mass)
    np.testing.assert_allclose(often.intrinsic_dimension, once.intrinsic_dimension, rtol=1e-5)
    assert (often.assignment == np.repeat(once.assignment, times)[order]).all()
    assert (often.merging.basin[often.merging.peak] == np.arange(often.n_peaks)).all()
    assert (often.prune(2).assignment == often.cut(2)).all()


def test_sixty_points_ten_times_are_one_leaf():
    g = np.random.default_rng(0)
    assert len(LevelSetTree.fit(np.repeat(g.normal(size=(60, 4)), 10, axis=0)).leaves) == 1


@pytest.mark.parametrize(("width", "count"), [(1, 600), (2, 600), (2, 2000), (4, 3000)])
def test_rounded_values_are_one_leaf_and_two_clusters_two(width, count):
    g = np.random.default_rng(1)
    x = g.normal(size=(count, width))
    assert len(LevelSetTree.fit(x.round(1)).leaves) == 1
    two = np.concatenate([x, g.normal(size=(count, width)) + 7])
    tree = LevelSetTree.fit(two.round(1))
    assert len(tree.leaves) == 2
    assert adjusted_rand_score(np.repeat([0, 1], count), tree.assignment) > 0.98


def test_some_points_many_times_and_a_saved_tree(tmp_path):
    g = np.random.default_rng(2)
    x = np.concatenate([np.repeat(g.normal(size=(1, 4)), 500, axis=0), g.normal(size=(500, 4))])
    tree = LevelSetTree.fit(x)
    assert len(tree.leaves) == 1
    tree.save(tmp_path / "t")
    assert (LevelSetTree.load(tmp_path / "t").assignment == tree.assignment).all()
    given = g.normal(size=len(x))
    own = LevelSetTree.fit(x, density=given)
    assert (own.density == given).all()
    assert own.height[0] == given.max()
    assert given[own.peak[0]] == given.max()
    assert len(LevelSetTree.fit(np.zeros((30, 3))).leaves) == 1


def test_density_of_copies_is_that_of_the_points_and_of_a_grid_its_counts():
    g = np.random.default_rng(3)
    x = g.normal(size=(200, 3))
    shift = knn_density(np.repeat(x, 4, axis=0), dimension=3)[::4] - knn_density(x, dimension=3)
    np.testing.assert_allclose(shift, shift[0])
    grid = g.normal(size=(20_000, 1)).round(1)
    found = knn_density(grid, neighbors=4, dimension=1)
    inner = np.abs(grid[:, 0]) < 1.5
    slope = np.polyfit(grid[inner, 0] ** 2, found[inner], 1)[0]
    assert slope == pytest.approx(-0.5, abs=0.1)  # of a standard normal's log-density


@pytest.mark.parametrize("scale", [2.0**-660, 1e-20, 1e-10, 1e10, 1e150])
@pytest.mark.parametrize("density", ["knn", "mixture"])
def test_no_unit_changes_the_tree(scale, density):
    scale = 2.0 ** round(np.log2(scale))  # so that rounding is the same
    circles = make_circles(200, factor=0.3)[0]  # all densities tie: rounding alone would part a mixture's
    for x in (np.random.default_rng(0).normal(size=(200, 14)), *([circles] if density == "knn" else [])):
        plain, other = LevelSetTree.fit(x, density=density), LevelSetTree.fit(x * scale, density=density)
        assert (other.assignment == plain.assignment).all()
        np.testing.assert_allclose(other.persistence, plain.persistence, atol=1e-6)
        shift = other.density - plain.density
        np.testing.assert_allclose(shift, shift.mean(), atol=1e-5)


def test_bridges_of_components_however_near():
    g = np.random.default_rng(4)
    x = np.concatenate([g.normal(size=(30, 2)) + 40 * np.array([k, 0]) for k in range(4)])
    indices = nearest_neighbors(x, 5)[1]
    expected = component_bridges(x, indices)
    assert len(expected) == 3
    assert {frozenset(np.unique(pair // 30).tolist()) for pair in expected} == {
        frozenset({0, 1}),
        frozenset({1, 2}),
        frozenset({2, 3}),
    }
    for scale in (1e-12, 1e-100, 1e100):
        assert {tuple(p) for p in component_bridges(x * scale, indices)} == {tuple(p) for p in expected}


def recall(found: np.ndarray, x: np.ndarray, k: int) -> float:
    true = cKDTree(x).query(x, k=k + 1)[1][:, 1:]
    return float(np.mean([len(set(a) & set(b)) / k for a, b in zip(found, true)]))


@pytest.mark.parametrize("apart", [0.0, 1e4, 1e7])
def test_neighbors_in_clusters_far_apart_are_exact(apart):
    g = np.random.default_rng(5)
    x = g.normal(size=(800, 16))
    x[::2] += apart
    distances, indices = nearest_neighbors(x, 10)
    assert recall(indices, x, 10) == 1
    np.testing.assert_allclose(distances, cKDTree(x).query(x, k=11)[0][:, 1:], rtol=1e-7)


def test_neighbors_nearer_than_float64_products_can_tell():
    g = np.random.default_rng(6)
    x = 1e-3 * g.normal(size=(300, 12))
    x[::2] += 1e5
    assert recall(nearest_neighbors(x, 5)[1], x, 5) == 1


def test_neighbors_by_cells_in_clusters_far_apart(monkeypatch):
    monkeypatch.setattr(room, "NEIGHBORS", NeighborSettings(exact_points=500, candidates=1500))
    g = np.random.default_rng(7)
    x = g.normal(size=(3000, 12))
    x[::3] += 1e4
    x[1::3] -= 3e4
    assert recall(nearest_neighbors(x, 10)[1], x, 10) > 0.95


def test_a_common_shift_changes_no_neighbor():
    g = np.random.default_rng(8)
    x = g.normal(size=(400, 14))
    assert (nearest_neighbors(x + 1e7, 8)[1] == nearest_neighbors((x + 1e7) - 1e7, 8)[1]).all()


def test_a_mixture_of_repeated_points_holds_whole_groups_out():
    g = np.random.default_rng(9)
    x = g.normal(size=(80, 2))
    copies = np.repeat(x, 6, axis=0)
    fresh = g.normal(size=(2000, 2))
    # One Gaussian is the truth: copies on both sides would make many narrow components look better.
    assert mixture_density(copies)(fresh).mean() > mixture_density(x)(fresh).mean() - 0.3
