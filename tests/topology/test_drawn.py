"""Trees and persistence of stores that are not held: of samples that are drawn, and said to be."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from repdyn.paths import RepresentationPaths, open_paths
from repdyn.topology import LevelSetTree, PathPersistence, persistence
from repdyn.topology.homology import covering_radius
from repdyn.topology.settings import NeighborSettings, PersistenceSettings


@pytest.fixture
def store(tmp_path: Any) -> RepresentationPaths:
    g = np.random.default_rng(0)
    angle = g.uniform(0, 2 * np.pi, 900)
    ring = np.column_stack([np.cos(angle), np.sin(angle), 0.05 * g.normal(size=900)])
    two = g.normal(size=(900, 3)) + 9 * g.integers(2, size=900)[:, None]
    RepresentationPaths.from_arrays({"ring": ring, "two": two}).save(tmp_path / "a.paths")
    return open_paths(tmp_path / "a.paths")


def test_a_tree_of_drawn_samples_says_which(
    store: RepresentationPaths, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    whole = LevelSetTree.fit(store["two"])
    assert whole.rows is None
    assert whole.total is None
    np.testing.assert_array_equal(whole.assignment, LevelSetTree.fit(np.asarray(store["two"])).assignment)
    monkeypatch.setattr("repdyn.topology.tree.NEIGHBORS", NeighborSettings(held_bytes=300 * 3 * 8))
    tree = LevelSetTree.fit(store["two"], seed=3)
    assert tree.rows is not None
    assert (len(tree.rows), tree.total, len(tree.assignment)) == (300, 900, 300)
    assert (np.diff(tree.rows) > 0).all()
    assert "300 points drawn from 900" in repr(tree)
    assert tree.to_dict()["of"] == 900
    expected = LevelSetTree.fit(np.asarray(store["two"])[tree.rows])
    np.testing.assert_array_equal(tree.assignment, expected.assignment)
    np.testing.assert_array_equal(tree.prune(2).rows, tree.rows)
    np.testing.assert_array_equal(LevelSetTree.fit(store["two"], seed=3).rows, tree.rows)
    assert not np.array_equal(LevelSetTree.fit(store["two"], seed=4).rows, tree.rows)
    tree.save(tmp_path / "tree")
    again = LevelSetTree.load(tmp_path / "tree")
    np.testing.assert_array_equal(again.rows, tree.rows)
    assert repr(again) == repr(tree)
    # Both clouds are found all the same, and a density that is given goes with its samples.
    assert len(tree.leaves) == len(whole.leaves) == 2
    given = LevelSetTree.fit(store["two"], density=whole.density, persistence=0.5, seed=3)
    np.testing.assert_array_equal(given.density, whole.density[tree.rows])


def test_what_is_in_memory_is_taken_whole(
    store: RepresentationPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("repdyn.topology.tree.NEIGHBORS", NeighborSettings(held_bytes=300 * 3 * 8))
    assert len(LevelSetTree.fit(np.asarray(store["two"])).assignment) == 900


@pytest.mark.parametrize("single", [False, True])
def test_persistence_of_drawn_samples_covers_all(
    store: RepresentationPaths, single: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    whole = persistence(store, resamples=3, landmarks=30)
    module = import_module("repdyn.topology.persistence")
    settings = PersistenceSettings(held_bytes=300 * 3 * 8, sample_points=200)
    monkeypatch.setattr(module, "PERSISTENCE", settings)
    if single:
        found = persistence(store["ring"], resamples=3, landmarks=30)
        assert "300 samples drawn from 900" in repr(found)
        found = PathPersistence({"ring": found})
    else:
        found = persistence(store, resamples=3, landmarks=30)
        assert list(found.points) == ["ring", "two"]
        assert "300 samples drawn from 900" in repr(found)
    for name, one in found.points.items():
        assert (one.drawn, one.total) == (300, 900)
        assert one.to_dict()["total"] == 900
        assert one.verdicts == whole.points[name].verdicts
        assert one.radius >= 0.5 * whole.points[name].radius  # no landmarks cover better than twice as well
    found.save(tmp_path / "p")
    assert repr(PathPersistence.load(tmp_path / "p")) == repr(found)
    assert whole.points["ring"].total is None
    assert "drawn" not in repr(whole)


@pytest.mark.parametrize("shift", [0.0, 1e4])
def test_the_covering_radius_is_the_largest_distance_to_a_landmark(shift: float) -> None:
    g = np.random.default_rng(0)
    x = g.normal(size=(200, 5)) + shift
    x[:, 0] *= 1000
    landmarks = x[:7]
    np.testing.assert_allclose(
        covering_radius(x, landmarks), cdist(x, landmarks).min(axis=1).max(), rtol=1e-6
    )
    assert covering_radius(landmarks, landmarks) <= 1e-3 * np.abs(x).max()
