"""How far two level-set trees are from each other, as trees."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from repdyn.topology.tree import LevelSetTree

__all__ = ["merge_tree_distance"]

Array = NDArray[np.float64]


def merge_tree_distance(one: LevelSetTree, other: LevelSetTree) -> float:
    r"""Compute the Wasserstein distance between merge trees.

    .. math:: W(S, T)^2 = \min_\phi \sum_{(s, t) \in \phi} \lVert s - t \rVert^2
        + \sum_{\text{unmatched } r} \frac{(b_r - d_r)^2}{2}

    over the branches' points (birth, death) in the persistence diagram, where :math:`\phi` matches the
    roots and, below matched branches, any of their child branches one to one; a branch that is not
    matched goes to the diagonal with all below it. A branch is the child of the one it joins by the elder
    rule. Without the constraint of descent this is the Wasserstein distance of diagrams, which it bounds
    from above.

    Parameters
    ----------
    one, other
        Trees; their leaves are the branches. Log-densities are compared as they are.

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
    # What it costs to send a branch and all below it to the diagonal.
    removal = [_totals(kids, (b - d) ** 2 / 2) for kids, b, d in zip(children, births, deaths)]
    apart = (births[0][:, None] - births[1]) ** 2 + (deaths[0][:, None] - deaths[1]) ** 2
    cost = np.zeros_like(apart)
    # Children have larger numbers than their elders: from the last to the first, they are known.
    for s in reversed(range(len(births[0]))):
        for t in reversed(range(len(births[1]))):
            cost[s, t] = apart[s, t] + _assigned(cost, children[0][s], children[1][t], removal)
    return float(np.sqrt(cost[0, 0]))


def _child_branches(tree: LevelSetTree) -> list[list[int]]:
    """For each leaf the leaves that join it by the elder rule; leaf 0, the highest, is the root."""
    merging = tree.merging
    peaks = merging.basin[tree.peak[tree.leaf]]
    place = {int(peak): leaf for leaf, peak in enumerate(peaks)}
    children: list[list[int]] = [[] for _ in peaks]
    for leaf, peak in enumerate(peaks[1:], 1):
        children[place[int(merging.elder[peak])]].append(leaf)
    return children


def _totals(children: list[list[int]], own: Array) -> Array:
    total = own.copy()
    for branch in reversed(range(len(own))):
        total[branch] += total[children[branch]].sum()
    return total


def _assigned(cost: Array, left: list[int], right: list[int], removal: list[Array]) -> float:
    """Least cost of matching some children one to one and removing the others."""
    gone = float(removal[0][left].sum() + removal[1][right].sum())
    if not left or not right:
        return gone
    # A pair is worth matching by what it saves over removing both; at least nothing.
    saved = removal[0][left][:, None] + removal[1][right] - cost[np.ix_(left, right)]
    rows, columns = linear_sum_assignment(-np.maximum(saved, 0.0))
    return gone - float(np.maximum(saved, 0.0)[rows, columns].sum())
