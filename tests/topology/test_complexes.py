"""Other complexes: known answers, agreement with Vietoris-Rips and with each other, faults."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repdyn.errors import RepdynError
from repdyn.topology import (
    alpha_persistence,
    cubical_persistence,
    sparse_persistence,
)
from repdyn.topology.homology import vietoris_rips
from repdyn.topology.merge_tree import merge_superlevel_sets


def ring(n=200, noise=0.05, seed=0):
    rng = np.random.default_rng(seed)
    angle = rng.uniform(0, 2 * np.pi, n)
    return np.column_stack([np.cos(angle), np.sin(angle)]) + noise * rng.normal(size=(n, 2))


def test_alpha_square_and_equal_components():
    components, loops = alpha_persistence([[0, 0], [1, 0], [0, 1], [1, 1]])
    np.testing.assert_allclose(components, [[0, 0.5]] * 3)
    np.testing.assert_allclose(loops, [[0.5, np.sqrt(0.5)]])
    x = np.random.default_rng(0).normal(size=(60, 3))
    # In dimension 0 balls of radius r meet where Vietoris-Rips has edges of 2 r.
    rips, _, scale = vietoris_rips(x, 0)
    np.testing.assert_allclose(
        np.sort(2 * alpha_persistence(x, 0)[0][:, 1]), np.sort(rips[0][:, 1]) * scale, rtol=1e-5
    )


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000))
def test_cubical_bars_are_the_level_set_trees(seed):
    values = np.random.default_rng(seed).normal(size=40)
    graph = np.column_stack([np.maximum(np.arange(40) - 1, 0), np.minimum(np.arange(40) + 1, 39)])
    merging = merge_superlevel_sets(values, graph)
    ours = sorted(zip(merging.birth, merging.death))
    np.testing.assert_allclose(sorted(map(tuple, cubical_persistence(values)[0])), ours)


def test_cubical_hole_of_a_ring_shaped_density():
    axis = np.linspace(-2, 2, 81)
    radius = np.hypot(*np.meshgrid(axis, axis))
    _, loops = cubical_persistence(np.exp(-((radius - 1) ** 2) / 0.1))
    lengths = np.sort(loops[:, 0] - loops[:, 1])
    assert lengths[-1] > 0.8
    assert lengths[:-1].max(initial=0.0) < 0.2


@pytest.mark.parametrize("engine", [alpha_persistence, sparse_persistence])
def test_every_engine_sees_a_ring_and_two_of_them(engine):
    for count in (1, 2):
        x = np.concatenate([ring(seed=k) + np.array([6.0 * k, 0.0]) for k in range(count)])
        born, dies = engine(x)[1].T
        assert (dies > 3 * np.maximum(born, 1e-6)).sum() == count
        assert (dies - born).max() > 0.2


def test_sparse_is_within_its_factor_of_vietoris_rips():
    x = ring(80)
    exact, _, scale = vietoris_rips(x, 1)
    exact, error = exact[1] * scale, 0.2
    longest = exact[np.argmax(exact[:, 1] - exact[:, 0])]
    sparse = sparse_persistence(x, 1, error)[1]
    found = sparse[np.argmax(sparse[:, 1] - sparse[:, 0])]
    assert np.abs(np.log(found / longest)).max() <= -np.log(1 - error) + 1e-6


def test_bad_input():
    x = ring(20)
    for engine in (alpha_persistence, sparse_persistence):
        with pytest.raises(RepdynError, match="row 3"):
            engine(np.where(np.arange(40).reshape(20, 2) == 7, np.nan, x))
        with pytest.raises(RepdynError, match="max_dim"):
            engine(x, -1)
        for few in (np.ones((10, 2)), np.zeros((1, 2)), np.repeat(x[:3], 5, axis=0)):
            assert all(np.isfinite(diagram).all() for diagram in engine(few))
            assert len(engine(few)[1]) == 0 or (np.diff(engine(few)[1]) < 2).all()
    with pytest.raises(RepdynError, match="at most 5"):
        alpha_persistence(np.zeros((10, 6)))
    with pytest.raises(RepdynError, match="between 0 and 1"):
        sparse_persistence(x, error=1.0)
    with pytest.raises(RepdynError, match="not empty"):
        cubical_persistence([])
    with pytest.raises(RepdynError, match="finite"):
        cubical_persistence([[0.0, np.nan]])
