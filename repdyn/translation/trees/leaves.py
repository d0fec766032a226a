"""Leaves of a level-set tree as geometry, at several granularities, and inner nodes above matched leaves."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from repdyn.errors import RepdynError
from repdyn.reading import as_array
from repdyn.translation.coordinates import Cloud, label_means, unit_rows
from repdyn.translation.trees.settings import MATCH, PAIRING

if TYPE_CHECKING:
    from repdyn.topology import LevelSetTree, NodeAttributes

__all__ = [
    "Leaves",
    "MatchedLeaves",
    "attractor_traits",
    "branches_of",
    "cosines",
    "granularities",
    "inner_pairs_of",
    "standardized",
    "trait_agreement",
]

Floats = NDArray[np.float64]
Index = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Leaves:
    """Leaves as masses and vectors whose inner products are their geometry.

    Attributes
    ----------
    mass
        Fraction of the points in each leaf, shape ``(n,)``.
    form
        ``(n, D)``: centroids of the leaves' cores; or, from the tree alone, vectors with the tree's inner
        products.
    points, rows, assignment
        The points in the cores, ``(K, D)``, their row numbers and their leaves, ``(K,)``. Points are None
        where the tree alone is known.
    traits
        Properties of a leaf that need no basis, shape ``(n, T)``: mass, persistence, with points their root
        mean square distance from the centroid, and properties of its attractors if they were given.
    """

    mass: Floats
    form: Floats
    points: NDArray[np.float32] | None
    rows: Index
    assignment: Index
    traits: Floats

    @classmethod
    def of(cls, tree: LevelSetTree, x: ArrayLike | None, name: str) -> Leaves:
        """Leaves of a tree, with the points it was fitted on or without them."""
        mass = np.bincount(tree.assignment, minlength=len(tree.leaves)) / len(tree.assignment)
        traits = np.column_stack([mass, tree.persistence[tree.leaves]])
        rows = _cores(tree)
        assignment = tree.assignment[rows]
        if x is None:
            return cls(mass, _shape_alone(tree), None, rows, assignment, traits)
        cloud = Cloud.of(x, f"match_trees: {name}")
        if len(cloud.points) != len(tree.assignment):
            raise RepdynError(
                f"match_trees: {name} has {len(cloud.points)} points, its tree has {len(tree.assignment)}"
            )
        points = cloud.points[rows]
        centroids = label_means(points, assignment)
        apart = ((points - centroids[assignment]) ** 2).sum(axis=1)
        spread = np.sqrt(np.bincount(assignment, apart) / np.bincount(assignment))
        return cls(mass, centroids, points, rows, assignment, np.column_stack([traits, spread]))

    def as_given(self, x: ArrayLike) -> Leaves:
        """The same leaves with centroids of the points themselves, not of their directions."""
        raw = as_array(x, np.float64)
        points = (raw - raw.mean(0)).astype(np.float32)[self.rows]
        centroids = label_means(points, self.assignment)
        return replace(self, points=points, form=centroids)

    def resampled(self, generator: np.random.Generator) -> tuple[Floats, Floats]:
        """Masses ``(n,)`` and vectors ``(n, D)`` on a bootstrap of the points; unchanged for a tree alone."""
        if self.points is None:
            return self.mass, self.form
        # Poisson weights are a bootstrap of varying size; a leaf without a drawn point keeps its centroid.
        weight = generator.poisson(1.0, len(self.points)).astype(np.float64)
        total = np.bincount(self.assignment, weight, minlength=len(self.mass))
        indicator = np.zeros((len(self.mass), len(weight)), dtype=np.float32)
        indicator[self.assignment, np.arange(len(weight))] = weight
        sums = np.asarray(indicator @ self.points, dtype=np.float64)
        drawn = total[:, None] > 0
        mass = self.mass * total / np.bincount(self.assignment)
        return mass / mass.sum(), np.where(drawn, sums / np.maximum(total[:, None], 1.0), self.form)


@dataclass(frozen=True, eq=False)
class MatchedLeaves:
    """Pairs of two sets of leaves.

    Attributes
    ----------
    a, b
        The leaves.
    pairs, confidence
        Leaf of a, leaf of b, shape ``(P, 2)``; the share of bootstraps that contain the pair.
    objective, traits
        How well the geometry and the traits of matched leaves agree.
    score
        What is compared with surrogates.
    """

    a: Leaves
    b: Leaves
    pairs: Index
    confidence: Floats
    objective: float
    traits: float
    score: float

    @property
    def weight(self) -> Floats:
        """Mass of each pair: the geometric mean of its leaves'."""
        return np.sqrt(self.a.mass[self.pairs[:, 0]] * self.b.mass[self.pairs[:, 1]])

    @property
    def agreement(self) -> float:
        """Mean confidence of the pairs by their mass."""
        return float(self.weight @ self.confidence / self.weight.sum())


def cosines(mass: Floats, form: Floats, power: float) -> Floats:
    r"""Cosines between leaves about their common mean, the spectrum flattened.

    .. math:: U \Sigma V^\top = M^{1/2} (C - m^\top C), \qquad
              A_{ij} = \cos\big((M^{-1/2} U \Sigma^p)_i,\; (M^{-1/2} U \Sigma^p)_j\big)

    Parameters
    ----------
    mass, form
        Shapes ``(n,)`` and ``(n, D)``.
    power
        p; 1 leaves the geometry as it is.
    """
    root = np.sqrt(np.maximum(mass, 1e-12))[:, None]
    left, values, _ = np.linalg.svd(root * (form - mass @ form), full_matrices=False)
    kept = values > 1e-6 * max(float(values[0]), 1e-30)
    rows = unit_rows((left[:, kept] * values[kept] ** power) / root)
    return np.asarray(rows @ rows.T, dtype=np.float64)


def trait_agreement(one: Floats, other: Floats) -> float:
    """Mean rank correlation of the traits of matched leaves, both ``(P, T)``, in one order.

    Ranks are used because only the order of a trait is comparable between two models.
    """
    found = []
    for left, right in zip(one.T, other.T):
        a, b = rankdata(left), rankdata(right)
        spread = float(a.std() * b.std())
        found.append(float(((a - a.mean()) * (b - b.mean())).mean()) / spread if spread > 0 else 0.0)
    return float(np.mean(found))


def attractor_traits(
    tree_a: LevelSetTree, nodes_a: NodeAttributes, tree_b: LevelSetTree, nodes_b: NodeAttributes
) -> tuple[Floats, Floats]:
    """Attractor properties of the leaves of two trees, shapes ``(n_a, T)`` and ``(n_b, T)``.

    Number of attractors of a leaf, share of it that they attract, and contraction; only properties that are
    known for every leaf of both trees and vary within each.
    """
    sides = []
    for tree, nodes, name in ((tree_a, nodes_a, "nodes_a"), (tree_b, nodes_b, "nodes_b")):
        if len(nodes.mass) != len(tree.parent):
            raise RepdynError(
                f"match_trees: {name} describes {len(nodes.mass)} nodes, its tree has {len(tree.parent)}"
            )
        known = np.column_stack([nodes.attractors, nodes.drawn, nodes.contraction])
        sides.append(np.asarray(known[tree.leaves], dtype=np.float64))
    kept = np.all([np.isfinite(side).all(axis=0) & (np.ptp(side, axis=0) > 0) for side in sides], axis=0)
    return sides[0][:, kept], sides[1][:, kept]


def standardized(matrix: Floats, size: int) -> Floats:
    """Off-diagonal entries of mean 0 and variance 1, padded with zeros, which stand for "unmatched"."""
    count = len(matrix)
    off = ~np.eye(count, dtype=bool)
    scaled = (matrix - matrix[off].mean()) / max(float(matrix[off].std()), 1e-12)
    np.fill_diagonal(scaled, 0.0)
    padded = np.zeros((size, size))
    padded[:count, :count] = scaled
    return padded


def inner_pairs_of(
    tree_a: LevelSetTree, tree_b: LevelSetTree, pairs: Index, confidence: Floats, weight: Floats
) -> tuple[Index, Floats]:
    """Inner nodes whose matched leaves largely coincide, each at most once, the root left out.

    Parameters
    ----------
    tree_a, tree_b
        The trees.
    pairs, confidence, weight
        Matched leaves ``(P, 2)``, or branches in their place, and for each pair its confidence and mass.

    Returns
    -------
    pairs : (Q, 2) array
    confidence : (Q,) array
        Mean over the shared leaves times the overlap of masses.
    """
    below_a, below_b = _below(tree_a, pairs[:, 0]), _below(tree_b, pairs[:, 1])
    scores = []
    for u, of_a in below_a.items():
        for v, of_b in below_b.items():
            union = weight[of_a | of_b].sum()
            overlap = float(weight[of_a & of_b].sum() / union) if union > 0 else 0.0
            if overlap >= PAIRING.inner_overlap:
                scores.append((overlap * float(confidence[of_a & of_b].mean()), u, v))
    taken: list[tuple[float, int, int]] = []
    for score, u, v in sorted(scores, reverse=True):
        if all(u != other[1] and v != other[2] for other in taken):
            taken.append((score, u, v))
    found = np.array([(u, v) for _, u, v in taken], dtype=np.int64).reshape(-1, 2)
    return found, np.array([score for score, _, _ in taken])


def _cores(tree: LevelSetTree) -> Index:
    """Row numbers ``(K,)`` of the densest points of every leaf."""
    order = np.lexsort((-tree.density, tree.assignment))
    counts = np.bincount(tree.assignment, minlength=len(tree.leaves))
    rank = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    kept = np.maximum(np.ceil(PAIRING.core * counts), PAIRING.min_in_core)
    return np.sort(order[rank < np.repeat(kept, counts)])


def _shape_alone(tree: LevelSetTree) -> Floats:
    """Vectors ``(n, n)`` whose inner products are the heights of the lowest joins above two leaves."""
    count = len(tree.leaves)
    heights = tree.height - tree.height.min()
    shared = np.empty((count, count))
    above = [_ancestors(tree.parent, leaf) for leaf in range(count)]
    for i in range(count):
        for j in range(i, count):
            # Two branches share the stem from the root to their join: an ultrametric, so positive definite.
            join = next(node for node in above[i] if node in set(above[j]))
            shared[i, j] = shared[j, i] = heights[join]
    values, vectors = np.linalg.eigh(shared)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0)))


def _ancestors(parent: Index, node: int) -> list[int]:
    """The node itself, its parent, and so on to the root."""
    chain = [node]
    while parent[chain[-1]] >= 0:
        chain.append(int(parent[chain[-1]]))
    return chain


def _below(tree: LevelSetTree, leaves: Index) -> dict[int, NDArray[np.bool_]]:
    """Mask ``(P,)`` of the matched leaves below each inner node, by node; the root is left out."""
    found: dict[int, NDArray[np.bool_]] = {}
    for k, leaf in enumerate(leaves):
        for node in _ancestors(tree.parent, int(leaf))[1:-1]:
            found.setdefault(node, np.zeros(len(leaves), dtype=bool))[k] = True
    return found


def granularities(
    tree_a: LevelSetTree, tree_b: LevelSetTree, most: int, fewest: int
) -> list[tuple[LevelSetTree, LevelSetTree]]:
    """The two trees with fewer and fewer leaves, the most persistent ones, both cut to the same number.

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
        leaves *= MATCH.coarser
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
