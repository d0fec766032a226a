"""The Wasserstein distance between merge trees: by hand, against all matchings, as a metric."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repdyn.topology import LevelSetTree, merge_tree_distance
from repdyn.topology.distance import _child_branches


def random_tree(seed, points=25):
    """A tree of random heights on the neighbour graph of random points."""
    rng = np.random.default_rng(seed)
    return LevelSetTree.fit(rng.normal(size=(points, 2)), density=rng.normal(size=points), neighbors=4)


def line(heights):
    x = np.arange(len(heights), dtype=float)[:, None]
    return LevelSetTree.fit(x, density=np.array(heights, dtype=float), neighbors=2)


def all_matchings(one, other):
    """The definition, by trying every matching."""
    kids = _child_branches(one), _child_branches(other)
    diagrams = one.diagram, other.diagram

    def removed(side, branch):
        b, d = diagrams[side][branch]
        return (b - d) ** 2 / 2 + sum(removed(side, child) for child in kids[side][branch])

    def matched(s, t):
        best = np.inf
        left, right = kids[0][s], kids[1][t]
        for size in range(min(len(left), len(right)) + 1):
            for chosen in itertools.combinations(left, size):
                for images in itertools.permutations(right, size):
                    total = sum(matched(a, b) for a, b in zip(chosen, images))
                    total += sum(removed(0, a) for a in left if a not in chosen)
                    total += sum(removed(1, b) for b in right if b not in images)
                    best = min(best, total)
        return ((diagrams[0][s] - diagrams[1][t]) ** 2).sum() + best

    return np.sqrt(matched(0, 0))


def test_by_hand():
    one, other = line([0, 5, 1, 4, 0]), line([0, 5, 5, 5, 0])
    assert merge_tree_distance(one, other) == pytest.approx(np.sqrt(3**2 / 2))
    assert merge_tree_distance(one, line([0, 5, 1, 3, 0])) == pytest.approx(1.0)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 500), st.integers(0, 500))
def test_equals_the_best_of_all_matchings(a, b):
    one, other = random_tree(a).prune(min(5, random_tree(a).n_peaks)), random_tree(b)
    other = other.prune(min(5, other.n_peaks))
    assert merge_tree_distance(one, other) == pytest.approx(all_matchings(one, other))


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 500), st.integers(0, 500), st.integers(0, 500))
def test_is_a_metric(a, b, c):
    x, y, z = random_tree(a), random_tree(b), random_tree(c)
    assert merge_tree_distance(x, x) == 0
    assert merge_tree_distance(x, y) == pytest.approx(merge_tree_distance(y, x))
    assert merge_tree_distance(x, z) <= merge_tree_distance(x, y) + merge_tree_distance(y, z) + 1e-9
