"""The Wasserstein distance between merge trees: by hand, against all matchings, as a metric."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repdyn.topology import LevelSetTree, merge_tree_distance, merge_tree_edit_distance
from repdyn.topology.distance import _child_branches, constrained_edit_distance


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


def nested_children(tree):
    """Nested pairs as lists of children, the root last."""
    children = []

    def visit(node):
        kids = [visit(child) for child in node]
        children.append(kids)
        return len(children) - 1

    visit(tree)
    return children


def all_mappings(children, others, removed, added, changed):
    """Zhang's definition, by trying every one-to-one mapping and keeping those it allows."""

    def ancestors(below):
        parent = {child: node for node, kids in enumerate(below) for child in kids}
        chains = [[node] for node in range(len(below))]
        for chain in chains:
            while chain[-1] in parent:
                chain.append(parent[chain[-1]])
        return chains

    chains = ancestors(children), ancestors(others)

    def above(side, a, b):
        return a != b and a in chains[side][b]

    def join(side, a, b):
        return next(node for node in chains[side][a] if node in chains[side][b])

    def allowed(pairs):
        for (a, x), (b, y) in itertools.permutations(pairs, 2):
            if above(0, a, b) != above(1, x, y):
                return False
        return all(
            above(0, join(0, a, b), c) == above(1, join(1, x, y), z)
            for (a, x), (b, y), (c, z) in itertools.permutations(pairs, 3)
            if not (above(0, a, b) or above(0, b, a))
        )

    best = np.inf
    for size in range(min(len(children), len(others)) + 1):
        for chosen in itertools.combinations(range(len(children)), size):
            for images in itertools.permutations(range(len(others)), size):
                pairs = list(zip(chosen, images))
                cost = sum(changed[p] for p in pairs) + removed.sum() + added.sum()
                cost -= removed[list(chosen)].sum() + added[list(images)].sum()
                if cost < best and allowed(pairs):
                    best = cost
    return best


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000))
def test_edit_distance_equals_the_best_of_all_mappings(seed):
    rng = np.random.default_rng(seed)

    def grown(size):
        parent = [int(rng.integers(node + 1, size)) for node in range(size - 1)]
        return [[child for child, up in enumerate(parent) if up == node] for node in range(size)]

    sizes = rng.integers(1, 6, size=2)
    one, other = (grown(size) for size in sizes)
    removed, added = (rng.uniform(0.5, 1.5, size) for size in sizes)
    changed = np.minimum(rng.uniform(0, 2, sizes), removed[:, None] + added)
    expected = all_mappings(one, other, removed, added, changed)
    assert constrained_edit_distance(one, other, removed, added, changed) == pytest.approx(expected)


def test_edit_distance_of_structures_by_hand():
    two, three = ((), ()), (((), ()), ())
    for a, b, expected in ((two, two, 0), (two, three, 2), ((), three, 4), (three, (((), ()), ((), ())), 2)):
        one, other = nested_children(a), nested_children(b)
        sizes = len(one), len(other)
        found = constrained_edit_distance(one, other, np.ones(sizes[0]), np.ones(sizes[1]), np.zeros(sizes))
        assert found == expected


def test_merge_tree_edit_distance_by_hand():
    one = line([0, 5, 1, 4, 0])
    assert merge_tree_edit_distance(one, line([0, 5, 5, 5, 0])) == pytest.approx(3.0)  # 4 to 1 goes
    # The lower peak falls from 4 to 3: its branch stands at two nodes, peak and join.
    assert merge_tree_edit_distance(one, line([0, 5, 1, 3, 0])) == pytest.approx(2.0)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 500), st.integers(0, 500), st.integers(0, 500))
def test_edit_distance_is_a_metric(a, b, c):
    x, y, z = (random_tree(seed, 14) for seed in (a, b, c))
    assert merge_tree_edit_distance(x, x) == 0
    assert merge_tree_edit_distance(x, y) == pytest.approx(merge_tree_edit_distance(y, x))
    direct = merge_tree_edit_distance(x, z)
    assert direct <= merge_tree_edit_distance(x, y) + merge_tree_edit_distance(y, z) + 1e-9
