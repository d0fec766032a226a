"""What a level-set tree's nodes look like in space, in quantities that no change of basis changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist

from repdyn.errors import RepdynError
from repdyn.topology.neighbors import as_points
from repdyn.topology.tree import LevelSetTree

__all__ = ["NodeAttributes", "node_attributes"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class NodeAttributes:
    """Attributes of the M nodes of a tree; all but ``centroid`` are free of the basis.

    Attributes
    ----------
    centroid : (M, D) array
        Mean of the points in the branch.
    spectrum : (M, S) array
        Largest eigenvalues of the points' covariance, falling, 0 where a branch has too few points.
    spread : (M,) array
        Trace of the covariance: what the spectrum is a part of.
    distances : (M, M) array
        Between centroids.
    mass, height, saddle, persistence, intrinsic_dimension : (M,) arrays
        As in the tree.
    """

    centroid: Array
    spectrum: Array
    spread: Array
    distances: Array
    mass: Array
    height: Array
    saddle: Array
    persistence: Array
    intrinsic_dimension: Array

    def to_dict(self) -> dict[str, Any]:
        """Plain values for ``--json``."""
        return {name: value.tolist() for name, value in vars(self).items()}

    def __repr__(self) -> str:
        nodes, width = self.centroid.shape
        return (
            f"NodeAttributes of {nodes} nodes in {width} dimensions, "
            f"{self.spectrum.shape[1]} eigenvalues each: "
            f"spread {self.spread.min():.3g} to {self.spread.max():.3g}, "
            f"centroids {self.distances.max():.3g} apart at most"
        )


def node_attributes(tree: LevelSetTree, x: ArrayLike, spectrum: int = 16) -> NodeAttributes:
    r"""Describe every node of a tree by the points in its branch.

    .. math:: \Sigma_v = \frac{1}{n_v} \sum_{i \in v} (x_i - \mu_v)(x_i - \mu_v)^\top

    Parameters
    ----------
    tree
        A tree of these points.
    x
        The points, shape ``(N, D)``.
    spectrum
        S, eigenvalues to keep.

    Returns
    -------
    NodeAttributes

    Raises
    ------
    RepdynError
        If the points are not as many as the tree's.

    Notes
    -----
    Scatter matrices of children add up to their parent's, so every point is visited once; at most as many
    D × D matrices live as branches are open, heavier children first.
    """
    points = as_points(x, "node_attributes")
    if len(points) != len(tree.assignment):
        raise RepdynError(
            f"node_attributes: x has {len(points)} points, the tree {len(tree.assignment)}; "
            "give the tree's own"
        )
    if spectrum < 1:
        raise RepdynError(f"node_attributes: spectrum={spectrum}; expected 1 or more")
    nodes, kept = len(tree.parent), min(spectrum, points.shape[1])
    centroid = np.zeros((nodes, points.shape[1]))
    values, spread = np.zeros((nodes, kept)), np.zeros(nodes)
    count = np.rint(tree.mass * len(points))
    members = np.split(
        np.argsort(tree.assignment, kind="stable"), np.cumsum(count[tree.leaf]).astype(int)[:-1]
    )
    scatter: dict[int, Array] = {}
    for node in _children_first(tree):
        children = np.flatnonzero(tree.parent == node)
        if len(children) == 0:
            own = points[members[node]]
            centroid[node] = own.mean(axis=0)
            own = own - centroid[node]
            total = own.T @ own
        else:
            a, b = children.tolist()
            centroid[node] = (count[a] * centroid[a] + count[b] * centroid[b]) / count[node]
            between = centroid[a] - centroid[b]
            total = scatter.pop(a) + scatter.pop(b)
            total += count[a] * count[b] / count[node] * np.outer(between, between)
        values[node] = np.maximum(np.linalg.eigvalsh(total)[::-1][:kept], 0.0) / count[node]
        spread[node] = np.trace(total) / count[node]
        scatter[node] = total
    return NodeAttributes(
        centroid,
        values,
        spread,
        cdist(centroid, centroid),
        tree.mass,
        tree.height,
        tree.saddle,
        tree.persistence,
        tree.intrinsic_dimension,
    )


def _children_first(tree: LevelSetTree) -> list[int]:
    """Nodes in an order that keeps few branches open: the child with more leaves is walked first."""
    leaves = tree.leaf.astype(int)
    for node, parent in enumerate(tree.parent[:-1]):
        leaves[parent] += leaves[node]
    order, stack = [], [len(tree.parent) - 1]
    while stack:  # parents before children, the lighter child first; reversed below
        node = stack.pop()
        order.append(node)
        children = np.flatnonzero(tree.parent == node)
        stack += children[np.argsort(-leaves[children], kind="stable")].tolist()
    return order[::-1]
