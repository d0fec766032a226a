"""Attributes of the nodes of a level-set tree that do not depend on the basis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist

from repdyn.errors import RepdynError
from repdyn.reading import as_array
from repdyn.results import Result
from repdyn.topology.neighbors import as_points
from repdyn.topology.tree import LevelSetTree

__all__ = ["NodeAttributes", "node_attributes"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class NodeAttributes(Result, kind="node_attributes"):
    """Attributes of the M nodes of a tree. All except ``centroid`` are independent of the basis.

    Attributes
    ----------
    centroid : (M, D) array
        Mean of the points in the branch.
    spectrum : (M, S) array
        Largest eigenvalues of the covariance of the points, descending; 0 where a branch has too few points.
    spread : (M,) array
        Trace of the covariance.
    distances : (M, M) array
        Distances between centroids.
    mass, height, saddle, persistence, intrinsic_dimension : (M,) arrays
        As in the tree.
    attractors : (M,) array
        Effective number of attractors of the points of the branch: the exponential of the entropy of their
        shares. 1 if all points reach one, NaN if none is known.
    drawn : (M,) array
        Share of the points of the branch that reach an attractor; NaN without attractors.
    contraction : (M,) array
        Mean modulus of the leading multiplier of the attractors that the points reach; NaN if none is known.
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
    attractors: Array
    drawn: Array
    contraction: Array

    def to_dict(self) -> dict[str, Any]:
        """Plain values for ``--json``."""
        return {name: value.tolist() for name, value in vars(self).items()}

    def __repr__(self) -> str:
        nodes, width = self.centroid.shape
        return (
            f"NodeAttributes of {nodes} nodes in {width} dimensions, "
            f"{self.spectrum.shape[1]} eigenvalues each: "
            f"spread {self.spread.min():.3g} to {self.spread.max():.3g}, "
            f"largest distance of centroids {self.distances.max():.3g}"
        )


def node_attributes(
    tree: LevelSetTree,
    x: ArrayLike,
    spectrum: int = 16,
    basin: ArrayLike | None = None,
    multipliers: ArrayLike | None = None,
) -> NodeAttributes:
    r"""Attributes of every node of a tree, from the points in its branch.

    .. math:: \Sigma_v = \frac{1}{n_v} \sum_{i \in v} (x_i - \mu_v)(x_i - \mu_v)^\top

    Parameters
    ----------
    tree
        A tree of these points.
    x
        The points, shape ``(N, D)``.
    spectrum
        Number S of eigenvalues.
    basin
        Attractor that each point reaches, -1 for none, shape ``(N,)``: ``field.attractors(x).basin`` of a
        :class:`~repdyn.fields.LatentField`.
    multipliers
        Of each attractor, the leading one first, shape ``(A,)`` or ``(A, k)``.

    Returns
    -------
    NodeAttributes

    Raises
    ------
    RepdynError
        If the tree has another number of points, or basins and multipliers do not match them.

    Notes
    -----
    The scatter matrix of a parent follows from those of its children, so every point is used once. Children
    with more leaves come first, so that few D × D matrices are in memory.
    """
    points = as_points(x, "node_attributes")
    if len(points) != len(tree.assignment):
        raise RepdynError(
            f"node_attributes: x has {len(points)} points, the tree {len(tree.assignment)}; "
            "give the points of the tree"
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
        *_attractor_data(tree, basin, multipliers),
    )


def _attractor_data(
    tree: LevelSetTree, basin: ArrayLike | None, multipliers: ArrayLike | None
) -> tuple[Array, Array, Array]:
    """Effective number of attractors, share of points that reach one, mean multiplier; shape ``(M,)``
    each."""
    unknown = np.full(len(tree.parent), np.nan)
    if basin is None:
        return unknown, unknown, unknown
    reached = as_array(basin)
    if reached.shape != tree.assignment.shape or reached.dtype.kind not in "iu":
        raise RepdynError(
            f"node_attributes: basin has shape {reached.shape} of {reached.dtype}; "
            f"expected an attractor's number or -1 for each of {len(tree.assignment)} points"
        )
    count = int(reached.max(initial=-1)) + 1
    known_points = reached >= 0
    held = np.zeros((len(tree.parent), count))
    np.add.at(held, (tree.assignment[known_points], reached[known_points]), 1)
    for node, parent in enumerate(tree.parent[:-1]):  # children come before their parent
        held[parent] += held[node]
    total = held.sum(axis=1)
    known = total > 0
    shares = held[known] / total[known, None]
    number, contraction = unknown.copy(), unknown.copy()
    number[known] = np.exp(-(shares * np.log(np.where(shares > 0, shares, 1.0))).sum(axis=1))
    if multipliers is not None:
        leading = np.abs(as_array(multipliers))
        leading = leading[:, 0] if leading.ndim == 2 and leading.shape[1] else leading
        if leading.ndim != 1 or len(leading) < count:
            raise RepdynError(
                f"node_attributes: multipliers have shape {np.shape(multipliers)}; "
                f"expected a row for each of {count} attractors"
            )
        # Chaotic sets have no multiplier and are left out of the mean.
        finite = np.isfinite(leading[:count])
        weight = held[:, finite].sum(axis=1)
        some = weight > 0
        contraction[some] = (held[:, finite] @ leading[:count][finite])[some] / weight[some]
    return number, total / (tree.mass * len(reached)), contraction


def _children_first(tree: LevelSetTree) -> list[int]:
    """Nodes, children before parents; of two children, the one with more leaves comes first."""
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
