"""The exact merge tree of the superlevel sets of a function on a graph, from arrays to arrays."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

__all__ = ["Branches", "Merging", "branches_of", "merge_superlevel_sets"]

Array = NDArray[np.float64]
Index = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Merging:
    """The higher peak that each peak of a function joins, and the level, by the elder rule.

    Peaks are numbered by decreasing height; 0 is the highest.

    Attributes
    ----------
    peak
        The point at the top, shape ``(P,)``.
    birth, death
        Height of the peak, and level at which its component joins one with a higher peak ``(P,)``.
        Unconnected components join at the minimum of the function.
    elder
        The peak whose component it joins ``(P,)``; -1 for the highest.
    across_saddle
        The peak of the basin on the other side of that saddle ``(P,)``, which gets its points if the peak is
        removed. Other peaks may lie between it and the elder. -1 for the highest.
    order
        Number of points above the join ``(P,)``; N or more if only a bridge joins; -1 for the highest.
    basin
        The peak that steepest ascent from each point reaches ``(N,)``.
    """

    peak: Index
    birth: Array
    death: Array
    elder: Index
    across_saddle: Index
    order: Index
    basin: Index

    @property
    def persistence(self) -> Array:
        """Birth minus death, shape ``(P,)``."""
        return self.birth - self.death

    def repeated(self, values: Array, point: Index, vertex: Index) -> Merging:
        """The same merging for points of which several can be one vertex.

        Parameters
        ----------
        values
            The function at each vertex ``(U,)``.
        point
            The point that represents each vertex ``(U,)``.
        vertex
            Vertex of each point ``(N,)``.
        """
        if len(vertex) == len(point):
            return self
        falling = np.lexsort((np.arange(len(values)), -values))
        higher = np.r_[0, np.cumsum(np.bincount(vertex)[falling])]  # points above each rank
        bridged = self.order >= len(values)
        order = np.where(bridged, self.order - len(values) + len(vertex), self.order)
        order[~bridged & (order > 0)] = higher[order[~bridged & (order > 0)]]
        return replace(self, peak=point[self.peak], order=order, basin=self.basin[vertex])

    @property
    def components(self) -> int:
        """Number of connected components of the graph without bridges."""
        return 1 + int((self.order >= len(self.basin)).sum())


@dataclass(frozen=True, eq=False)
class Branches:
    """A binary tree of branches: leaves first, then merges from the highest to the lowest, the root last.

    Attributes
    ----------
    parent
        -1 at the root, shape ``(M,)``.
    height, saddle
        Level where the branch begins (peak, or merge of its children) and where it joins its parent.
    peak
        Number of the highest peak in the branch.
    leaf_of_peak
        For every peak, removed ones included, the leaf that has its points ``(P,)``.
    """

    parent: Index
    height: Array
    saddle: Array
    peak: Index
    leaf_of_peak: Index


def merge_superlevel_sets(values: Array, neighbors: Index, bridges: Index | None = None) -> Merging:
    """Sweep the level downwards and record the births and joins of components of ``{values >= level}``.

    Parameters
    ----------
    values
        The function at each vertex ``(N,)``. Equal values are ordered by index.
    neighbors
        Vertices that each vertex is joined to ``(N, k)``; edges count in both directions.
    bridges
        Pairs of vertices ``(B, 2)`` that join components of the graph below every level, in this order.
        Components that are still separate join that of the highest peak.

    Returns
    -------
    Merging

    Notes
    -----
    Steepest ascent assigns every vertex to a peak by pointer doubling; the highest edge between each pair
    of basins is kept; a spanning tree of these edges holds all merges. Every step is a sort or a scan, so
    the cost is O(E log E) for E edges, and only merges, of which there are as many as peaks, are a loop.

    References
    ----------
    Chazal, F., Guibas, L., Oudot, S. and Skraba, P. (2013). Persistence-based clustering in Riemannian
    manifolds. Journal of the ACM 60(6), algorithm 1.
    """
    n = len(values)
    order = np.lexsort((np.arange(n), -values))
    rank = np.empty(n, dtype=np.int64)
    rank[order] = np.arange(n)

    highest = rank.copy()
    if neighbors.size:
        np.minimum(highest, rank[neighbors].min(axis=1), out=highest)
        np.minimum.at(highest, neighbors.ravel(), np.repeat(rank, neighbors.shape[1]))
    ascent = order[highest]
    while True:
        further = ascent[ascent]
        if np.array_equal(further, ascent):
            break
        ascent = further
    peak = order[ascent[order] == order]
    number = np.full(n, -1, dtype=np.int64)
    number[peak] = np.arange(len(peak))
    basin = number[ascent]

    level, left, right = _basin_edges(rank, basin, neighbors, len(peak))
    if bridges is not None:
        level = np.concatenate([level, n + np.arange(len(bridges))])
        left, right = (np.concatenate([side, basin[end]]) for side, end in zip((left, right), bridges.T))
    elder, across_saddle = np.zeros((2, len(peak)), dtype=np.int64)
    joined = np.full(len(peak), n + len(peak), dtype=np.int64)
    elder[0] = across_saddle[0] = joined[0] = -1
    root = list(range(len(peak)))
    for at, a, b in zip(level.tolist(), left.tolist(), right.tolist()):
        root_a, root_b = _find(root, a), _find(root, b)
        if root_a == root_b:  # a bridge within one component
            continue
        older, younger, other_side = (root_a, root_b, a) if root_a < root_b else (root_b, root_a, b)
        root[younger] = older
        elder[younger], across_saddle[younger], joined[younger] = older, other_side, at
    # Several components can join at one saddle point: all of them join the highest.
    for younger in range(1, len(peak)):
        older = elder[younger]
        while older > 0 and joined[older] == joined[younger]:
            older = elder[older]
        elder[younger] = older
    death = np.full(len(peak), values.min(), dtype=np.float64)
    inside = (joined >= 0) & (joined < n)
    death[inside] = values[order[joined[inside]]]
    return Merging(peak, values[peak].astype(np.float64), death, elder, across_saddle, joined, basin)


def branches_of(merging: Merging, kept: NDArray[np.bool_]) -> Branches:
    """Build the tree of branches whose leaves are the kept peaks.

    Parameters
    ----------
    merging
        The complete merging.
    kept
        Which peaks to keep ``(P,)``; with a peak its elder must be kept, which holds for "the most
        persistent", because an elder is at least as persistent.

    Returns
    -------
    Branches
    """
    leaves = np.flatnonzero(kept)
    count = len(leaves)
    target = np.where(kept, np.arange(len(kept)), merging.across_saddle)
    while not kept[target].all():  # pointer doubling: every chain ends at a kept peak
        target = target[target]
    leaf_of_peak = np.cumsum(kept)[target] - 1

    total = 2 * count - 1
    parent = np.full(total, -1, dtype=np.int64)
    height = np.empty(total)
    top = np.empty(total, dtype=np.int64)
    height[:count], top[:count] = merging.birth[leaves], leaves
    branch = {int(peak): leaf for leaf, peak in enumerate(leaves)}
    younger = leaves[1:]
    # By falling level; at one saddle point the youngest first, while its elder still has its own branch.
    merges = younger[np.lexsort((-younger, merging.order[younger]))]
    for node, peak in enumerate(merges.tolist(), count):
        older = int(merging.elder[peak])
        parent[branch.pop(peak)] = node
        parent[branch[older]] = node
        height[node], top[node] = merging.death[peak], older
        branch[older] = node
    saddle = np.where(parent >= 0, height[parent], merging.death[0])
    return Branches(parent, height, saddle, top, leaf_of_peak)


def _basin_edges(rank: Index, basin: Index, neighbors: Index, peaks: int) -> tuple[Index, Index, Index]:
    """Edges of the spanning tree of basins, highest first: (rank of the saddle, basin, basin)."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import minimum_spanning_tree

    empty = np.empty(0, dtype=np.int64)
    if peaks == 1 or not neighbors.size:
        return empty, empty, empty
    source = np.repeat(np.arange(len(rank)), neighbors.shape[1])
    target = neighbors.ravel()
    across = basin[source] != basin[target]
    source, target = source[across], target[across]
    low = np.minimum(basin[source], basin[target])
    high = np.maximum(basin[source], basin[target])
    level = np.maximum(rank[source], rank[target])
    pair = low * peaks + high
    sorted_ = np.lexsort((level, pair))
    first = sorted_[np.r_[True, np.diff(pair[sorted_]) > 0]] if len(sorted_) else sorted_
    low, high, level = low[first], high[first], level[first]
    # A zero weight would mean "no edge".
    graph = coo_matrix((level + 1.0, (low, high)), shape=(peaks, peaks)).tocsr()
    tree = minimum_spanning_tree(graph).tocoo()
    order = np.lexsort((tree.col, tree.row, tree.data))
    return (
        tree.data[order].astype(np.int64) - 1,
        tree.row[order].astype(np.int64),
        tree.col[order].astype(np.int64),
    )


def _find(root: list[int], a: int) -> int:
    """Root of the component of ``a`` in a union-find forest."""
    while root[a] != a:
        root[a] = root[root[a]]  # path halving
        a = root[a]
    return a
