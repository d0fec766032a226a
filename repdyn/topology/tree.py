"""The level-set tree of a density: regions that are denser than their surroundings, and their stability."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repdyn.arguments import whole
from repdyn.conformity import check_arrays, check_values
from repdyn.errors import RepdynError
from repdyn.paths import drawn_rows
from repdyn.paths.columns import VectorColumn
from repdyn.progress import track
from repdyn.reading import as_array
from repdyn.repeats import groups_of_equal_rows
from repdyn.results import Result
from repdyn.topology.density import inverse_dimension, noise_persistence, values_of
from repdyn.topology.merge_tree import Merging, branches_of, merge_superlevel_sets
from repdyn.topology.neighbors import as_points, component_bridges, nearest_neighbors
from repdyn.topology.settings import NEIGHBORS, PERSISTENCE

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = ["LevelSetTree", "leaf_support"]

Array = NDArray[np.float64]
Index = NDArray[np.int64]

_HELD = {
    "peak": "peak", "birth": "birth", "death": "death", "elder": "elder", "across_saddle": "beside",
    "order": "order", "basin": "basin",
}  # fmt: skip
"""Fields of a merging, and their names on disk, which are those of version 0.1."""


@dataclass(frozen=True, eq=False)
class LevelSetTree(Result, kind="tree"):
    r"""Merge tree of the superlevel sets of a density, simplified by persistence.

    .. math:: \{x : \log f(x) \ge \lambda\}, \quad \lambda \text{ from } \infty \text{ to } -\infty

    As the level falls, components are born at peaks and join at saddles. A leaf is a peak that rises at
    least ``threshold`` above the saddle where it joins a higher one. An inner node is a join. The tree is
    invariant under rotation, shift and scaling of the space.

    Attributes
    ----------
    parent : (M,) array
        Node that each node joins; -1 at the root, which is the last. Leaves come first, by falling height.
    height : (M,) array
        Log-density at the start of the branch: the peak of a leaf, the join of an inner node.
    saddle : (M,) array
        Log-density where the branch joins its parent; at the root, the lowest of all points.
    persistence : (M,) array
        Rise of the branch's highest peak above ``saddle``.
    mass : (M,) array
        Fraction of the points in the branch; 1 at the root.
    intrinsic_dimension : (M,) array
        Intrinsic dimension of the points of the branch.
    leaf : (M,) array of bool
    peak : (M,) array
        Point at the branch's highest peak.
    assignment : (N,) array
        Leaf of each point; of each drawn point if the store is too large, see ``rows``.
    density : (N,) array
        Log-density at each point.
    inverse_dimension : (N,) array
        Estimate of 1 over the intrinsic dimension at each point; only means over many points are precise.
    threshold
        Smallest persistence of a leaf.
    neighbors
        Number of neighbors of each different point in the graph.
    merging
        The complete tree before simplification.
    rows : (N,) array or None
        Indices of the points in the store, if not all were used.
    total
        Number of samples in the store, if not all were used.
    level
        What the heights are: the log-density; or, for the modes through the scales that
        :func:`repdyn.fields.mode_tree` gives, the negative logarithm of the noise. Other attributes are to
        be read accordingly.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(400, 3))
    >>> x[200:] += 8
    >>> LevelSetTree.fit(x).leaves.tolist()
    [0, 1]

    References
    ----------
    Chaudhuri, K. and Dasgupta, S. (2010). Rates of convergence for the cluster tree. NIPS 23.
    Chazal, F. et al. (2013). Persistence-based clustering in Riemannian manifolds. Journal of the ACM 60(6).
    """

    parent: Index
    height: Array
    saddle: Array
    persistence: Array
    mass: Array
    intrinsic_dimension: Array
    leaf: NDArray[np.bool_]
    peak: Index
    assignment: Index
    density: Array
    inverse_dimension: Array
    threshold: float
    neighbors: int
    merging: Merging
    rows: Index | None = None
    total: int | None = None
    level: str = "log-density"

    @classmethod
    def fit(
        cls,
        x: ArrayLike,
        density: str | Callable[[Array], ArrayLike] | ArrayLike = "knn",
        neighbors: int = 15,
        persistence: float | None = None,
        seed: int = 0,
    ) -> LevelSetTree:
        r"""Estimate the density, build the exact tree on the nearest-neighbor graph, and simplify it.

        Parameters
        ----------
        x
            Points, shape ``(N, D)``. Equal points are one vertex of the graph. If a point of a store takes
            more than 120 MB in float64, as many samples as fit are drawn, and the tree reports it.
        density
            ``"knn"`` (:func:`knn_density`), ``"mixture"`` (:func:`mixture_density`), a function from
            points to log-densities, or log-densities ``(N,)``.
        neighbors
            Number of neighbors in the graph, and k of the kNN density; fewer if there are fewer points.
        persistence
            Peaks that rise less above their saddle are removed. Default: for a kNN density the persistence of
            peaks by noise, :math:`\sqrt{2 \log N \, \psi'(k)}` (its standard error times the expected
            largest of N errors); 0 for any other density.
        seed
            Of the mixture, and of the drawn samples.

        Returns
        -------
        LevelSetTree

        Raises
        ------
        RepdynError
            On a wrong shape, values that are not finite, or an unknown density.
        """
        total, rows = len(x) if isinstance(x, VectorColumn) else None, None
        if isinstance(x, VectorColumn):
            rows = drawn_rows(len(x), max(1, NEIGHBORS.held_bytes // (8 * x.width)), seed)
            x = np.asarray(x) if rows is None else x.take(rows)
            if rows is not None and not (isinstance(density, str) or callable(density)):
                density = as_array(density)[rows]
        points = as_points(x, "LevelSetTree.fit")
        neighbors = whole("neighbors", neighbors)
        if neighbors < 1:
            raise RepdynError(f"LevelSetTree.fit: neighbors={neighbors}; expected 1 or more")
        if persistence is not None and not persistence >= 0:
            raise RepdynError(f"LevelSetTree.fit: persistence={persistence}; expected a number of 0 or more")
        groups = groups_of_equal_rows(points)
        _, first, often = np.unique(groups, return_index=True, return_counts=True)
        different = points[first]  # copies would be each other's only neighbors
        count = min(neighbors, len(different) - 1)
        if count == 0:  # one different point: a single leaf
            distances, indices = np.empty((1, 0)), np.empty((1, 0), dtype=np.int64)
        else:
            distances, indices = nearest_neighbors(different, count)
        values = values_of(density, points, (distances, indices, often), groups, seed)
        if persistence is None:
            persistence = (
                noise_persistence(len(different), count)
                if isinstance(density, str) and density == "knn"
                else 0.0
            )
        top = np.lexsort(
            (np.arange(len(points)), -values, groups)
        )  # the highest of equal points represents them
        top = top[np.r_[True, np.diff(groups[top]) > 0]]
        merging = merge_superlevel_sets(values[top], indices, component_bridges(different, indices))
        merging = merging.repeated(values[top], top, groups)
        kept = merging.persistence >= persistence
        tree = _view(merging, kept, values, inverse_dimension(distances)[groups], persistence, count)
        return tree if rows is None else replace(tree, rows=rows, total=total)

    @classmethod
    def from_merging(
        cls,
        merging: Merging,
        x: ArrayLike,
        density: ArrayLike,
        persistence: float,
        level: str,
        neighbors: int = 15,
    ) -> LevelSetTree:
        """Tree of a merging that was found otherwise than on the nearest-neighbor graph.

        Parameters
        ----------
        merging
            Peaks and the levels at which they join.
        x
            Points, shape ``(N, D)``, for the intrinsic dimension.
        density
            Log-density at each point, shape ``(N,)``.
        persistence
            Smallest persistence of a leaf.
        level
            What the heights are.
        neighbors
            Number of neighbors from which the dimension is estimated.
        """
        points = as_points(x, "LevelSetTree.from_merging")
        groups = groups_of_equal_rows(points)
        _, first = np.unique(groups, return_index=True)
        count = min(neighbors, len(first) - 1)
        distances = nearest_neighbors(points[first], count)[0] if count else np.empty((1, 0))
        kept = merging.persistence >= persistence
        inverse = inverse_dimension(distances)[groups]
        tree = _view(merging, kept, as_array(density, np.float64), inverse, persistence, count)
        return replace(tree, level=level)

    @property
    def leaves(self) -> Index:
        """Numbers of the leaves, shape ``(L,)``: 0 to L - 1."""
        return np.flatnonzero(self.leaf)

    @property
    def n_peaks(self) -> int:
        """Number of peaks before simplification, the finest granularity."""
        return len(self.merging.peak)

    @property
    def dimension(self) -> float:
        """Intrinsic dimension of all points."""
        return float(self.intrinsic_dimension[-1])

    @property
    def components(self) -> int:
        """Number of components of the neighbor graph. They join at the lowest density, close ones first."""
        return self.merging.components

    @property
    def diagram(self) -> Array:
        """Birth and death of every leaf by the elder rule ``(L, 2)``, in the order of the leaves."""
        peaks = self.merging.basin[self.peak[self.leaf]]
        return np.column_stack([self.merging.birth[peaks], self.merging.death[peaks]])

    def simplify(self, persistence: float) -> LevelSetTree:
        """Keep the leaves of at least this persistence. A value below ``threshold`` restores leaves.

        Parameters
        ----------
        persistence
            In units of log-density. The highest peak is always kept.
        """
        if not persistence >= 0:
            raise RepdynError(f"simplify: persistence={persistence}; expected a number of 0 or more")
        return self._kept(self.merging.persistence >= persistence, persistence)

    def prune(self, n_leaves: int) -> LevelSetTree:
        """Keep this number of leaves, the most persistent ones.

        Parameters
        ----------
        n_leaves
            From 1 to :attr:`n_peaks`, independent of the present simplification.

        Raises
        ------
        RepdynError
            If the density has fewer peaks.
        """
        n_leaves = whole("n_leaves", n_leaves)
        if not 1 <= n_leaves <= self.n_peaks:
            raise RepdynError(
                f"n_leaves: expected 1 to {self.n_peaks}, the peaks of the density on this graph, got "
                f"{n_leaves}; fewer neighbors give more peaks"
            )
        persistence = self.merging.persistence
        # Stable: among equal ones the higher peak is kept, so that every leaf keeps its elder.
        chosen = np.argsort(-persistence, kind="stable")[:n_leaves]
        kept = np.zeros(self.n_peaks, dtype=bool)
        kept[chosen] = True
        return self._kept(kept, float(persistence[chosen[-1]]))

    def cut(self, n_leaves: int) -> Index:
        """Cluster labels at a granularity: the leaf of each point after :meth:`prune`.

        Parameters
        ----------
        n_leaves
            As in :meth:`prune`.

        Returns
        -------
        (N,) array
            0 to ``n_leaves - 1``, by falling height of the peak. Every point is assigned.
        """
        return self.prune(n_leaves).assignment

    def plot(self) -> Figure:
        """Draw the tree, its height the log-density or what :attr:`level` says."""
        from repdyn.views.trees import tree  # plotly is slow to import

        return tree(self._drawn(), self.level)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for ``--json``: the nodes and the sizes, not the points."""
        return {
            "points": len(self.assignment),
            **({} if self.total is None else {"of": self.total}),
            "leaves": int(self.leaf.sum()),
            "peaks": self.n_peaks,
            "components": self.components,
            "neighbors": self.neighbors,
            "dimension": self.dimension,
            "threshold": self.threshold,
            "level": self.level,
            **{name: np.asarray(value).tolist() for name, value in self._drawn().items() if name != "label"},
        }

    def _record(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """The complete merging and the kept peaks; the arrays over nodes follow from them."""
        merging = self.merging
        kept = np.zeros(self.n_peaks, dtype=bool)
        kept[merging.basin[self.peak[self.leaf]]] = True
        config: dict[str, Any] = {"threshold": self.threshold, "neighbors": self.neighbors}
        tensors = {saved: getattr(merging, name) for name, saved in _HELD.items()}
        tensors |= {"density": self.density, "inverse_dimension": self.inverse_dimension, "kept": kept}
        if self.rows is not None:
            config["total"], tensors["rows"] = self.total, self.rows
        # Left out where it is the usual one, as in folders that were written before there was another.
        if self.level != LevelSetTree.level:
            config["level"] = self.level
        return config, tensors

    @classmethod
    def _revive(cls, config: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> Self:
        """The tree of what :meth:`_record` gave."""
        merging = Merging(**{name: tensors[saved] for name, saved in _HELD.items()})
        points = tensors["kept"], tensors["density"], tensors["inverse_dimension"]
        tree = _view(merging, *points, float(config["threshold"]), int(config["neighbors"]))
        if "rows" in tensors:
            check_values(config, total=int)
            check_arrays(tensors, rows=f"{len(tree.assignment)}")
            tree = replace(tree, rows=tensors["rows"], total=int(config["total"]))
        if "level" in config:
            check_values(config, level=str)
            tree = replace(tree, level=config["level"])
        return tree  # type: ignore[return-value]  # no class derives from it

    def _counted(self) -> str:
        """Words for the number of points."""
        count = f"{len(self.assignment)} points"
        return count if self.total is None else f"{count} drawn from {self.total}"

    def _drawn(self) -> dict[str, Any]:
        """Arrays for a picture, by node."""
        return {
            "parent": self.parent,
            "height": self.height,
            "death": self.saddle,
            "saddle": self.saddle,
            "mass": self.mass,
            "persistence": self.persistence,
            "label": None,
        }

    def _kept(self, kept: NDArray[np.bool_], threshold: float) -> LevelSetTree:
        """The tree whose leaves are the kept peaks ``(P,)``."""
        tree = _view(self.merging, kept, self.density, self.inverse_dimension, threshold, self.neighbors)
        return replace(tree, rows=self.rows, total=self.total, level=self.level)

    def __repr__(self) -> str:
        leaves = self.leaves
        lines = [
            f"LevelSetTree: {len(leaves)} leaves of persistence ≥ {self.threshold:.2f} in {self.level} "
            f"({self.n_peaks} peaks) over {self._counted()}, "
            f"intrinsic dimension {self.dimension:.1f}"
        ]
        if self.components > 1:
            lines.append(f"  the neighbor graph has {self.components} components")
        largest = leaves[np.argsort(-self.mass[leaves], kind="stable")][:8]
        born = self.diagram
        lines += [
            f"  leaf {leaf}: mass {self.mass[leaf]:.3f}, peak {born[leaf, 0]:.2f}, "
            f"persistence {born[leaf, 0] - born[leaf, 1]:.2f}"
            for leaf in largest
        ]
        if len(leaves) > len(largest):
            lines.append(f"  … and {len(leaves) - len(largest)} smaller ones")
        return "\n".join(lines)


def _view(
    merging: Merging,
    kept: NDArray[np.bool_],
    density: Array,
    inverse: Array,
    threshold: float,
    neighbors: int,
) -> LevelSetTree:
    """The tree whose leaves are the kept peaks ``(P,)``, from arrays over points ``(N,)``."""
    kept = kept.copy()
    kept[0] = True  # the highest peak joins no other
    nodes = branches_of(merging, kept)
    leaves = (len(nodes.parent) + 1) // 2
    assignment = nodes.leaf_of_peak[merging.basin]
    known = np.isfinite(inverse)
    # Counts of points, counts and sums of known estimates: first over leaves, then over branches.
    weights = (np.ones(len(inverse)), known, np.where(known, inverse, 0.0))
    sums = np.zeros((3, len(nodes.parent)))
    sums[:, :leaves] = [np.bincount(assignment, weight, minlength=leaves) for weight in weights]
    for node, parent in enumerate(nodes.parent[:-1]):  # children come before their parent
        sums[:, parent] += sums[:, node]
    positive = sums[2] > 0
    return LevelSetTree(
        parent=nodes.parent,
        height=nodes.height,
        saddle=nodes.saddle,
        persistence=merging.birth[nodes.peak] - nodes.saddle,
        mass=sums[0] / len(assignment),
        intrinsic_dimension=np.where(positive, sums[1] / np.where(positive, sums[2], 1.0), 1.0),
        leaf=np.arange(len(nodes.parent)) < leaves,
        peak=merging.peak[nodes.peak],
        assignment=assignment,
        density=density,
        inverse_dimension=inverse,
        threshold=float(threshold),
        neighbors=neighbors,
        merging=merging,
    )


def leaf_support(
    tree: LevelSetTree,
    x: ArrayLike,
    density: str | Callable[[Array], ArrayLike] | ArrayLike = "knn",
    resamples: int = 20,
    seed: int = 0,
) -> Array:
    r"""Share of bootstrap samples whose tree has each leaf too.

    .. math:: s_\ell = \frac1B \sum_b \left[ \max_m
        \frac{|\ell \cap b \cap m|}{|(\ell \cap b) \cup m|} > \frac12 \right]

    over the leaves *m* of the tree of sample *b*. Samples are drawn with replacement, and each point is used
    once, because copies would be their own nearest neighbors. The tree of a sample is simplified at the same
    persistence.

    Parameters
    ----------
    tree
        A tree of these points.
    x
        The points ``(N, D)``.
    density
        As in :meth:`LevelSetTree.fit` of the tree.
    resamples
        Number B of samples.
    seed
        Of the samples.

    Returns
    -------
    (L,) array
        Between 0 and 1, in the order of the leaves.

    Raises
    ------
    RepdynError
        If the tree has another number of points.

    References
    ----------
    Felsenstein, J. (1985). Confidence limits on phylogenies: an approach using the bootstrap. Evolution 39.
    Hennig, C. (2007). Cluster-wise assessment of cluster stability. Computational Statistics and Data
    Analysis 52.
    """
    points = as_points(x, "leaf_support")
    if len(points) != len(tree.assignment):
        raise RepdynError(
            f"leaf_support: x has {len(points)} points, the tree {len(tree.assignment)}; give the points of "
            "the tree"
        )
    resamples = whole("leaf_support: resamples", resamples)
    if resamples < 1:
        raise RepdynError(f"leaf_support: resamples={resamples}; expected 1 or more")
    generator = np.random.default_rng(seed)
    count = len(tree.leaves)
    returned = np.zeros(count)
    for _ in track(range(resamples), "bootstrapping leaves"):
        drawn = np.unique(generator.integers(len(points), size=len(points)))
        given = density if isinstance(density, str) or callable(density) else as_array(density)[drawn]
        other = LevelSetTree.fit(
            points[drawn], given, max(tree.neighbors, 1), persistence=tree.threshold, seed=seed
        )
        leaves = len(other.leaves)
        shared = np.zeros((count, leaves))
        np.add.at(shared, (tree.assignment[drawn], other.assignment), 1)
        union = shared.sum(axis=1, keepdims=True) + shared.sum(axis=0) - shared
        returned += (shared / union).max(axis=1) > PERSISTENCE.same_leaf
    return returned / resamples
