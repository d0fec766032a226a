"""Densities, neighbours, attributes and support of nodes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import repdyn.topology.neighbors as neighbors_module
from repdyn.errors import RepdynError
from repdyn.topology import (
    LevelSetTree,
    intrinsic_dimension,
    knn_density,
    leaf_support,
    mixture_density,
    nearest_neighbors,
    node_attributes,
)


@pytest.mark.parametrize("dimensions", [3, 40])
@pytest.mark.parametrize("n", [50, 700])
def test_neighbors_equal_scikit_learn(dimensions, n):
    from sklearn.neighbors import NearestNeighbors

    # Far from the origin, where the expanded square would lose its digits.
    x = np.random.default_rng(0).normal(size=(n, dimensions)) + 100.0
    distances, indices = nearest_neighbors(x, 12)
    theirs = NearestNeighbors(n_neighbors=12, algorithm="brute").fit(x - 100.0).kneighbors()
    np.testing.assert_allclose(distances, theirs[0], rtol=1e-5)
    assert (indices == theirs[1]).mean() > 0.999


@pytest.mark.parametrize("dimensions", [3, 40])
def test_a_point_is_not_its_own_neighbor_even_among_duplicates(dimensions):
    x = np.repeat(np.random.default_rng(0).normal(size=(5, dimensions)), 20, axis=0)
    distances, indices = nearest_neighbors(x, 6)
    assert (indices != np.arange(100)[:, None]).all()
    assert (distances < 1e-6).all()
    assert all(len(set(row)) == 6 for row in indices.tolist())


def test_neighbors_by_cells_are_nearly_exact():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(12_000, 6)) @ rng.normal(size=(6, 30))
    distances, indices = neighbors_module._by_cells(x, 10)
    exact = neighbors_module._by_blocks(x, 10)
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(indices, exact[1])]) > 0.97
    assert (distances >= exact[0] - 1e-9).all()
    assert (indices != np.arange(len(x))[:, None]).all()
    assert all(len(set(row)) == 10 for row in indices[::50].tolist())


def test_knn_density_is_right_for_a_gaussian_in_a_wider_space():
    rng = np.random.default_rng(0)
    flat = rng.normal(size=(4000, 2))
    x = flat @ np.linalg.qr(rng.normal(size=(30, 2)))[0].T
    truth = -np.log(2 * np.pi) - (flat**2).sum(1) / 2
    error = knn_density(x, neighbors=20) - truth
    inside = (flat**2).sum(1) < 4
    assert abs(error[inside].mean()) < 0.1
    assert error[inside].std() < 0.4


@pytest.mark.parametrize("d", [1, 3, 8])
def test_intrinsic_dimension_of_planes(d):
    rng = np.random.default_rng(0)
    x = rng.random((2000, d)) @ rng.normal(size=(d, 25))
    distances, _ = nearest_neighbors(x, 15)
    assert intrinsic_dimension(distances) == pytest.approx(d, rel=0.2)


def test_mixture_finds_its_number_of_components():
    rng = np.random.default_rng(0)
    x = np.concatenate([c + rng.normal(size=(300, 3)) for c in (np.zeros(3), [9, 0, 0], [0, 9, 0])])
    density = mixture_density(x)
    assert density([[0, 0, 0]])[0] > density([[4.5, 4.5, 4.5]])[0] + 5
    truth = np.log(1 / 3) - 1.5 * np.log(2 * np.pi)
    assert density([[0, 0, 0]])[0] == pytest.approx(truth, abs=0.3)
    with pytest.raises(RepdynError, match="at least 5"):
        mixture_density(x[:4])


def three(seed=0):
    rng = np.random.default_rng(seed)
    scales = (1.0, 2.0, 0.5)
    centres = 12 * np.eye(3, 6)
    return np.concatenate([c + s * rng.normal(size=(300, 6)) for c, s in zip(centres, scales)])


def test_attributes_are_those_of_the_branches_points():
    x = three()
    tree = LevelSetTree.fit(x)
    nodes = node_attributes(tree, x, spectrum=4)
    for leaf in tree.leaves:
        own = x[tree.assignment == leaf]
        np.testing.assert_allclose(nodes.centroid[leaf], own.mean(0))
        np.testing.assert_allclose(
            nodes.spectrum[leaf], np.linalg.eigvalsh(np.cov(own.T, bias=True))[::-1][:4]
        )
    np.testing.assert_allclose(nodes.centroid[-1], x.mean(0))
    np.testing.assert_allclose(nodes.spread[-1], x.var(0).sum())
    np.testing.assert_allclose(nodes.spectrum[-1], np.linalg.eigvalsh(np.cov(x.T, bias=True))[::-1][:4])
    np.testing.assert_allclose(nodes.intrinsic_dimension, tree.intrinsic_dimension)


def test_attributes_need_no_basis():
    x = three()
    rotation, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))
    one = node_attributes(LevelSetTree.fit(x), x)
    other = node_attributes(LevelSetTree.fit(x @ rotation), x @ rotation)
    for name in ("spectrum", "spread", "distances", "mass", "height", "persistence", "intrinsic_dimension"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=1e-7)
    with pytest.raises(RepdynError, match="900"):
        node_attributes(LevelSetTree.fit(x), x[:5])


def test_attractor_data_of_branches():
    from repdyn.fields import LatentField

    x = three()
    tree = LevelSetTree.fit(x)
    centres = torch.from_numpy(np.stack([x[tree.assignment == leaf].mean(0) for leaf in tree.leaves]))

    def towards(z):  # each point halfway to the nearest of three centres
        return 0.5 * z + 0.5 * centres[torch.cdist(z, centres).argmin(1)]

    found = LatentField(towards).attractors(torch.from_numpy(x))
    nodes = node_attributes(tree, x, basin=found.basin, multipliers=found.multipliers)
    np.testing.assert_allclose(nodes.attractors[tree.leaves], 1.0, atol=0.1)
    assert nodes.attractors[-1] == pytest.approx(3.0, abs=0.1)
    np.testing.assert_allclose(nodes.drawn, 1.0)
    np.testing.assert_allclose(nodes.contraction, 0.5, atol=1e-3)
    none = node_attributes(tree, x, basin=np.full(len(x), -1))
    assert np.isnan(none.attractors).all()
    assert (none.drawn == 0).all()
    assert np.isnan(node_attributes(tree, x).drawn).all()
    with pytest.raises(RepdynError, match="basin has shape"):
        node_attributes(tree, x, basin=found.basin[:5])
    with pytest.raises(RepdynError, match="multipliers"):
        node_attributes(tree, x, basin=found.basin, multipliers=[0.5])


def test_support_separates_planted_leaves_from_noise():
    x = three()
    tree = LevelSetTree.fit(x, neighbors=6)
    assert leaf_support(tree, x, resamples=8).tolist() == [1.0, 1.0, 1.0]
    noisy = tree.simplify(0.0)
    support = leaf_support(noisy, x, resamples=8)
    assert support.min() < 0.5
    one = np.random.default_rng(0).normal(size=(200, 3))
    assert leaf_support(LevelSetTree.fit(one), one, resamples=3).tolist() == [1.0]
