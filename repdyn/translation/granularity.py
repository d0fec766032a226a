"""A level-set tree at several granularities, and which of its nodes the leaves of a coarser one are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from repdyn.topology import LevelSetTree

__all__ = ["branches_of", "granularities"]

Index = NDArray[np.int64]

COARSER = 2 / 3
"""Leaves of a granularity, of those of the one before: what is one leaf at one is seldom one at the next."""


def granularities(
    tree_a: LevelSetTree, tree_b: LevelSetTree, most: int, fewest: int
) -> list[tuple[LevelSetTree, LevelSetTree]]:
    """The two trees with ever fewer leaves, the most persistent ones: as they are, then both cut alike.

    Parameters
    ----------
    tree_a, tree_b
        Not more finely cut than given.
    most, fewest
        Leaves; the first granularity may have fewer.
    """
    counts = len(tree_a.leaves), len(tree_b.leaves)
    found: list[tuple[int, int]] = []
    leaves = float(min(max(counts), most))
    while not found or round(leaves) >= fewest:
        cut = min(round(leaves), counts[0]), min(round(leaves), counts[1])
        if cut not in found:
            found.append(cut)
        leaves *= COARSER
    return [(_cut(tree_a, n), _cut(tree_b, m)) for n, m in found]


def branches_of(tree: LevelSetTree, cut: LevelSetTree) -> Index:
    """For each leaf of a coarser cut, the node of the tree that it is.

    The lowest join below the leaf's peak above which no other kept peak lies.

    Parameters
    ----------
    tree
        The tree.
    cut
        The same with some leaves only.

    Returns
    -------
    (n,) array
    """
    leaf_at = {int(tree.peak[leaf]): int(leaf) for leaf in tree.leaves}
    kept = [leaf_at[int(cut.peak[leaf])] for leaf in cut.leaves]
    inside = np.zeros(len(tree.parent), dtype=np.int64)  # kept leaves above each node
    for leaf in kept:
        node = leaf
        while node >= 0:
            inside[node] += 1
            node = int(tree.parent[node])
    found = []
    for node in kept:
        while tree.parent[node] >= 0 and inside[tree.parent[node]] == 1:
            node = int(tree.parent[node])
        found.append(node)
    return np.array(found, dtype=np.int64)


def _cut(tree: LevelSetTree, leaves: int) -> LevelSetTree:
    return tree if leaves == len(tree.leaves) else tree.prune(leaves)
