"""Distances between level-set trees."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from repdyn.topology.tree import LevelSetTree

__all__ = ["constrained_edit_distance", "merge_tree_distance", "merge_tree_edit_distance"]

Array = NDArray[np.float64]


def merge_tree_distance(one: LevelSetTree, other: LevelSetTree) -> float:
    r"""Wasserstein distance between merge trees.

    .. math:: W(S, T)^2 = \min_\phi \sum_{(s, t) \in \phi} \lVert s - t \rVert^2
        + \sum_{\text{unmatched } r} \frac{(b_r - d_r)^2}{2}

    over the points (birth, death) of branches in the persistence diagram. :math:`\phi` matches the roots and,
    below matched branches, their child branches one to one. Unmatched branches go to the diagonal with all
    their descendants. A branch is the child of the one that it joins by the elder rule. The Wasserstein
    distance of diagrams, which has no constraint on descent, is a lower bound.

    Parameters
    ----------
    one, other
        Trees; their leaves are the branches. Log-densities are compared as they are. Densities in different
        numbers of dimensions have no common unit: the distance of trees of clouds whose intrinsic dimensions
        differ depends on the unit of the points.

    Returns
    -------
    float
        0 exactly for trees of equal structure, births and deaths; symmetric.

    References
    ----------
    Pont, M., Vidal, J., Delon, J. and Tierny, J. (2022). Wasserstein distances, geodesics and barycenters
    of merge trees. IEEE TVCG 28(1), section 3 (their epsilon parameters at 0).
    """
    births, deaths = zip(one.diagram.T, other.diagram.T)
    children = _child_branches(one), _child_branches(other)
    # Cost of matching a branch and all its descendants to the diagonal.
    removal = [_totals(kids, (b - d) ** 2 / 2) for kids, b, d in zip(children, births, deaths)]
    apart = (births[0][:, None] - births[1]) ** 2 + (deaths[0][:, None] - deaths[1]) ** 2
    cost = np.zeros_like(apart)
    # Children have larger numbers than their elders, so from the last to the first they are known.
    for s in reversed(range(len(births[0]))):
        for t in reversed(range(len(births[1]))):
            cost[s, t] = apart[s, t] + _assigned(cost, children[0][s], children[1][t], removal)
    return float(np.sqrt(cost[0, 0]))


def merge_tree_edit_distance(one: LevelSetTree, other: LevelSetTree) -> float:
    r"""Edit distance between merge trees.

    .. math:: E(S, T) = \min_M \sum_{(s, t) \in M} \min \Big( \lVert s - t \rVert_\infty,
        \frac{\pi_s + \pi_t}{2} \Big) + \sum_{\text{unmatched } r} \frac{\pi_r}{2}

    over the constrained edit mappings *M* of nodes (see :func:`constrained_edit_distance`). A node is a peak,
    a join, or the lowest level, which is the root. Its point is the birth and death of the branch that is
    born or dies there, and :math:`\pi` is the persistence of that branch, which is the cost of adding or
    removing a branch. :func:`merge_tree_distance` compares branches by squares; this distance also compares
    joins, and sums absolute values.

    Parameters
    ----------
    one, other
        Trees. Log-densities are compared as they are, as in :func:`merge_tree_distance`.

    Returns
    -------
    float
        0 exactly for trees of equal structure, births and deaths; symmetric.

    References
    ----------
    Sridharamurthy, R., Masood, T. B., Kamakshidasan, A. and Natarajan, V. (2020). Edit distance between merge
    trees. IEEE TVCG 26(3), section 4.
    """
    (below, pairs), (below_other, pairs_other) = _nodes(one), _nodes(other)
    half, half_other = ((pair[:, 0] - pair[:, 1]) / 2 for pair in (pairs, pairs_other))
    apart = np.abs(pairs[:, None] - pairs_other).max(axis=2)
    change = np.minimum(apart, half[:, None] + half_other)
    return constrained_edit_distance(below, below_other, half, half_other, change)


def constrained_edit_distance(
    children: list[list[int]], others: list[list[int]], removed: Array, added: Array, changed: Array
) -> float:
    """Constrained edit distance between rooted trees with unordered children.

    Nodes are mapped one to one, ancestors to ancestors, and separate subtrees to separate subtrees. Under
    these constraints the distance takes polynomial time.

    Parameters
    ----------
    children, others
        For each node of either tree its children, which have smaller numbers; the root is the last.
    removed, added
        Cost of removing a node of the first tree ``(n,)``, and of adding one of the second ``(m,)``.
    changed
        Cost of mapping one to the other ``(n, m)``.

    Returns
    -------
    float

    Examples
    --------
    >>> one, other = [[], [], [0, 1]], [[]]
    >>> constrained_edit_distance(one, other, np.ones(3), np.ones(1), np.zeros((3, 1)))
    2.0

    References
    ----------
    Zhang, K. (1996). A constrained edit distance between unordered labeled trees. Algorithmica 15(3).
    """
    # Cost of removing (adding) the descendants of a node, and the node with them.
    forests = [np.zeros(len(children)), np.zeros(len(others))]
    trees = [np.array(removed, dtype=np.float64), np.array(added, dtype=np.float64)]
    for forest, tree, below in zip(forests, trees, (children, others)):
        for node, kids in enumerate(below):
            forest[node] = tree[kids].sum()
            tree[node] += forest[node]
    tree, forest = np.zeros((2, len(children), len(others)))
    for s, left in enumerate(children):
        for t, right in enumerate(others):
            # All children of one side map into one child of the other, whose node and siblings are added.
            into = [forest[s, kid] - forests[1][kid] for kid in right]
            outof = [forest[kid, t] - forests[0][kid] for kid in left]
            forest[s, t] = min(
                forests[1][t] + min(into, default=np.inf),
                forests[0][s] + min(outof, default=np.inf),
                _assigned(tree, left, right, trees),
            )
            into = [tree[s, kid] - trees[1][kid] for kid in right]
            outof = [tree[kid, t] - trees[0][kid] for kid in left]
            tree[s, t] = min(
                trees[1][t] + min(into, default=np.inf),
                trees[0][s] + min(outof, default=np.inf),
                forest[s, t] + changed[s, t],
            )
    return float(tree[-1, -1])


def _nodes(tree: LevelSetTree) -> tuple[list[list[int]], Array]:
    """Children of each node, birth and death of its branch ``(n, 2)``; the lowest level is the root."""
    count = len(tree.parent)
    children: list[list[int]] = [[] for _ in range(count + 1)]
    for node, parent in enumerate(tree.parent):
        children[parent].append(node)  # the parent of the last node, -1, is the lowest level
    merging = tree.merging
    pairs = np.empty((count + 1, 2))
    pairs[:count, 0] = tree.density[tree.peak]
    pairs[: len(tree.leaves)] = tree.diagram
    for node in range(len(tree.leaves), count):
        # At a join the branch of the lower peak dies.
        pairs[node] = min(tree.density[tree.peak[child]] for child in children[node]), tree.height[node]
    pairs[-1] = merging.birth[0], merging.death[0]
    return children, pairs


def _child_branches(tree: LevelSetTree) -> list[list[int]]:
    """For each leaf the leaves that join it by the elder rule; leaf 0, the highest, is the root."""
    merging = tree.merging
    peaks = merging.basin[tree.peak[tree.leaf]]
    leaf_of = {int(peak): leaf for leaf, peak in enumerate(peaks)}
    children: list[list[int]] = [[] for _ in peaks]
    for leaf, peak in enumerate(peaks[1:], 1):
        children[leaf_of[int(merging.elder[peak])]].append(leaf)
    return children


def _totals(children: list[list[int]], own: Array) -> Array:
    """Sums ``(n,)`` of the values of each branch and its descendants."""
    total = own.copy()
    for branch in reversed(range(len(own))):
        total[branch] += total[children[branch]].sum()
    return total


def _assigned(cost: Array, left: list[int], right: list[int], removal: list[Array]) -> float:
    """Smallest cost of matching children one to one and removing the others."""
    gone = float(removal[0][left].sum() + removal[1][right].sum())
    if not left or not right:
        return gone
    # Cost that matching a pair saves over removing both.
    saved = removal[0][left][:, None] + removal[1][right] - cost[np.ix_(left, right)]
    rows, columns = linear_sum_assignment(-np.maximum(saved, 0.0))
    return gone - float(np.maximum(saved, 0.0)[rows, columns].sum())
