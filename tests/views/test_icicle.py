"""The geometry of trees: nothing overlaps, nothing is lost, ribbons cross less after untangling."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repdyn.errors import RepdynError
from repdyn.views.icicle import REST, collapse, lay_out, read_tree, untangle


def merge_tree(seed: int, leaves: int) -> dict[str, Any]:
    """Random pairs join until one root is left."""
    rng = np.random.default_rng(seed)
    parent = np.full(2 * leaves - 1, -1)
    mass = np.append(rng.dirichlet(np.ones(leaves)), np.zeros(leaves - 1))
    alive = list(range(leaves))
    for node in range(leaves, 2 * leaves - 1):
        for _ in range(2):
            parent[alive.pop(int(rng.integers(len(alive))))] = node
        alive.append(node)
        mass[node] = mass[parent == node].sum()
    level = np.linspace(2, 1, len(parent))
    return {"parent": parent, "height": level + 0.1, "death": level, "mass": mass}


def crossings(a: np.ndarray, b: np.ndarray, pairs: list[tuple[int, int]]) -> int:
    ends = [(a[i].mean(), b[j].mean()) for i, j in pairs]
    return sum((p[0] - q[0]) * (p[1] - q[1]) < 0 for k, p in enumerate(ends) for q in ends[:k])


@given(st.integers(0, 10_000), st.integers(1, 40))
@settings(deadline=None, max_examples=40)
def test_leaves_tile_the_interval_and_children_their_parent(seed: int, leaves: int) -> None:
    tree = read_tree("t", merge_tree(seed, leaves))
    ends = lay_out(tree)
    tiles = ends[tree.is_leaf][np.argsort(ends[tree.is_leaf][:, 0])]
    np.testing.assert_allclose(tiles[0, 0], 0, atol=1e-12)
    np.testing.assert_allclose(tiles[-1, 1], 1)
    np.testing.assert_allclose(tiles[1:, 0], tiles[:-1, 1])
    for row in np.flatnonzero(~tree.is_leaf):
        sons = ends[tree.children(int(row))]
        np.testing.assert_allclose([sons.min(), sons.max()], ends[row])


def test_sizes_follow_mass_and_the_smallest_leaf_is_still_seen() -> None:
    given = {"parent": [3, 3, 3, -1], "height": [1] * 4, "death": [0] * 4, "mass": [0.6, 0.4, 0.0, 1.0]}
    size = np.ptp(lay_out(read_tree("t", given)), axis=1)
    assert size[0] / size[1] == pytest.approx(1.5)
    assert 0.05 < size[2] < 0.15


def test_no_mass_at_all_gives_equal_leaves() -> None:
    given = {"parent": [2, 2, -1], "height": [1] * 3, "saddle": [0] * 3, "mass": [0.0] * 3}
    np.testing.assert_allclose(np.ptp(lay_out(read_tree("t", given)), axis=1), [0.5, 0.5, 1.0])


def test_collapsing_keeps_the_heaviest_and_the_wanted_and_loses_no_mass() -> None:
    whole = read_tree("t", merge_tree(0, 50))
    light = int(np.argmin(np.where(whole.is_leaf, whole.mass, 2)))
    small = collapse(whole, 10, [light])
    assert small.is_leaf.sum() == 10
    assert small.collapsed == 41
    assert light in small.node
    assert small.mass[small.is_leaf].sum() == pytest.approx(1)
    assert (np.bincount(small.parent[small.parent >= 0]) != 1).all()
    heaviest = np.argsort(-np.where(whole.is_leaf, whole.mass, 0))[:8]
    assert set(heaviest) <= set(small.node)
    assert (small.node == REST).sum() == 1


def test_a_small_tree_is_not_collapsed() -> None:
    whole = read_tree("t", merge_tree(0, 12))
    assert collapse(whole, 12) is whole


def test_a_chain_of_one_child_each_is_one_leaf() -> None:
    given = {"parent": [1, 2, -1], "height": [3, 2, 1], "death": [2, 1, 0], "mass": [1, 1, 1]}
    one = collapse(read_tree("t", given), 60)
    assert list(one.node) == [0]
    assert list(one.parent) == [-1]


@given(st.integers(0, 500))
@settings(deadline=None, max_examples=15)
def test_a_tree_and_its_relabelled_self_untangle_without_a_crossing(seed: int) -> None:
    a = merge_tree(seed, 12)
    order = np.random.default_rng(seed).permutation(len(a["parent"]))
    back = np.argsort(order)
    b = {key: value[order] for key, value in a.items()}
    b["parent"] = np.where(b["parent"] >= 0, back[b["parent"]], -1)
    pairs = [(k, int(back[k])) for k in range(12)]
    place_a, place_b = untangle(read_tree("a", a), read_tree("b", b), pairs)
    assert crossings(place_a, place_b, pairs) == 0


def test_untangling_never_crosses_more_than_sorting_by_mass() -> None:
    rng = np.random.default_rng(1)
    before = after = 0
    for seed in range(10):
        a, b = read_tree("a", merge_tree(seed, 16)), read_tree("b", merge_tree(seed + 100, 16))
        pairs = [(k, int(j)) for k, j in enumerate(rng.permutation(16))]
        before += crossings(lay_out(a), lay_out(b), pairs)
        after += crossings(*untangle(a, b, pairs), pairs)
    assert after < 0.8 * before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"parent": [1, 0, 0]}, "cycle"),
        ({"parent": [7, 2, -1]}, "parent 7 does not exist among 3"),
        ({"mass": [1, 1]}, r"mass must have shape \(3\)"),
        ({"label": ["a"]}, "label has 1 names for 3"),
        ({"height": [np.nan] * 3}, "no finite number"),
        ({"parent": []}, "M > 0"),
    ],
)
def test_bad_trees_say_what_is_wrong(change: dict[str, Any], said: str) -> None:
    good = {"parent": [2, 2, -1], "height": [1, 1, 1], "death": [0, 0, 0], "mass": [1, 1, 2]}
    with pytest.raises(RepdynError, match=said):
        read_tree("t", {**good, **change})
    with pytest.raises(RepdynError, match="lacks height, saddle, mass"):
        read_tree("t", {"parent": [-1]})
