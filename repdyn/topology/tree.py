"""The level-set tree of a density: which regions are denser than what separates them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repdyn.artifacts import load_artifact, refuses_damage, save_artifact
from repdyn.conformity import check_arrays, check_values
from repdyn.errors import RepdynError
from repdyn.paths import drawn_rows
from repdyn.paths.columns import VectorColumn
from repdyn.reading import as_array
from repdyn.repeats import groups_of_equal_rows
from repdyn.topology.density import inverse_dimension, noise_persistence, values_of
from repdyn.topology.merging import Merging, merge_superlevel_sets, nodes_of
from repdyn.topology.neighbors import as_points, component_bridges, nearest_neighbors

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = ["LevelSetTree"]

Array = NDArray[np.float64]
Index = NDArray[np.int64]

# Of a store's samples in float64: of 768 dimensions about as many as are compared each with each.
HELD_BYTES = 120_000_000
_HELD = ("peak", "birth", "death", "elder", "beside", "order", "basin")  # of a merging, on disk


@dataclass(frozen=True, eq=False)
class LevelSetTree:
    r"""Merge tree of the superlevel sets of a density, simplified by persistence.

    .. math:: \{x : \log f(x) \ge \lambda\}, \quad \lambda \text{ from } \infty \text{ to } -\infty

    As the level falls, components are born at peaks and join at saddles. A leaf is a peak that rises at
    least ``threshold`` above the saddle where it joins a higher one; an inner node is a join. The tree
    depends on no basis: any rotation, shift or scaling of the space gives the same one.

    Attributes
    ----------
    parent : (M,) array
        Node that each node joins; -1 at the root, which is the last. Leaves come first, by falling height.
    height : (M,) array
        Log-density where the branch begins: a leaf's peak, an inner node's join.
    saddle : (M,) array
        Log-density where the branch joins its parent; at the root, the lowest of all points.
    persistence : (M,) array
        Rise of the branch's highest peak above ``saddle``.
    mass : (M,) array
        Fraction of the points in the branch; 1 at the root.
    intrinsic_dimension : (M,) array
        Dimension that the points of the branch fill.
    leaf : (M,) array of bool
    peak : (M,) array
        Point at the branch's highest peak.
    assignment : (N,) array
        Leaf of each point; of a store too large to hold, of each point drawn, see ``rows``.
    density : (N,) array
        Log-density at each point.
    inverse_dimension : (N,) array
        Each point's estimate of 1 over the intrinsic dimension; only means over many points are exact.
    threshold
        Persistence that leaves have at least.
    neighbors
        Neighbours of each point, among different points, in the graph that the tree lives on.
    merging
        The complete tree before simplification.
    rows : (N,) array or None
        Which samples of the store the points are, where not all were taken.
    total
        Samples in the store, where not all were taken.

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

    @classmethod
    def fit(
        cls,
        x: ArrayLike,
        density: str | Callable[[Array], ArrayLike] | ArrayLike = "knn",
        neighbors: int = 15,
        persistence: float | None = None,
        seed: int = 0,
    ) -> LevelSetTree:
        r"""Estimate the density, build the exact tree on the graph of nearest neighbours, simplify it.

        Parameters
        ----------
        x
            Points, shape ``(N, D)``. Equal points are one vertex of the graph. Of a point of a store that
            takes more than 120 MB in float64, as many samples as fit are drawn, and the tree says so.
        density
            ``"knn"`` (:func:`knn_density`), ``"mixture"`` (:func:`mixture_density`), a function from
            points to log-densities, or log-densities ``(N,)``.
        neighbors
            Of each point in the graph, and k of the kNN density; fewer where there are fewer points.
        persistence
            Peaks that rise less above their saddle are joined to it. By default what noise makes of a
            kNN density, :math:`\sqrt{2 \log N \, \psi'(k)}` (its standard error times the height that
            the largest of N errors reaches), and 0 for any other density.
        seed
            Of the mixture, and of the samples that are drawn.

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
            rows = drawn_rows(len(x), max(1, HELD_BYTES // (8 * x.width)), seed)
            x = np.asarray(x) if rows is None else x.take(rows)
            if rows is not None and not (isinstance(density, str) or callable(density)):
                density = as_array(density)[rows]
        points = as_points(x, "LevelSetTree.fit")
        if neighbors < 1:
            raise RepdynError(f"LevelSetTree.fit: neighbors={neighbors}; expected 1 or more")
        if persistence is not None and not persistence >= 0:
            raise RepdynError(f"LevelSetTree.fit: persistence={persistence}; expected a number of 0 or more")
        groups = groups_of_equal_rows(points)
        _, first, often = np.unique(groups, return_index=True, return_counts=True)
        different = points[first]  # the graph joins different points: copies would be each other's neighbors
        count = min(neighbors, len(different) - 1)
        if count == 0:  # one point: one leaf, of which nothing more can be said
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
        top = np.lexsort((np.arange(len(points)), -values, groups))  # of equal points, the highest stands
        top = top[np.r_[True, np.diff(groups[top]) > 0]]
        merging = merge_superlevel_sets(values[top], indices, component_bridges(different, indices))
        merging = merging.repeated(values[top], top, groups)
        kept = merging.persistence >= persistence
        found = _view(merging, kept, values, inverse_dimension(distances)[groups], persistence, count)
        return found if rows is None else replace(found, rows=rows, total=total)

    @property
    def leaves(self) -> Index:
        """Numbers of the leaves, shape ``(L,)``: 0 to L - 1."""
        return np.flatnonzero(self.leaf)

    @property
    def n_peaks(self) -> int:
        """Peaks before simplification: the finest granularity there is."""
        return len(self.merging.peak)

    @property
    def dimension(self) -> float:
        """Intrinsic dimension of all points."""
        return float(self.intrinsic_dimension[-1])

    @property
    def components(self) -> int:
        """Connected components of the neighbour graph; they join at the lowest density, near ones first."""
        return self.merging.components

    @property
    def diagram(self) -> Array:
        """Birth and death of every leaf by the elder rule ``(L, 2)``, in the order of the leaves."""
        peaks = self.merging.basin[self.peak[self.leaf]]
        return np.column_stack([self.merging.birth[peaks], self.merging.death[peaks]])

    def simplify(self, persistence: float) -> LevelSetTree:
        """Keep the leaves of at least this persistence; a smaller one than ``threshold`` brings leaves back.

        Parameters
        ----------
        persistence
            In units of log-density. The highest peak always stays.
        """
        if not persistence >= 0:
            raise RepdynError(f"simplify: persistence={persistence}; expected a number of 0 or more")
        return self._kept(self.merging.persistence >= persistence, persistence)

    def prune(self, n_leaves: int) -> LevelSetTree:
        """Keep the most persistent leaves, so many.

        Parameters
        ----------
        n_leaves
            From 1 to :attr:`n_peaks`; not limited by the present simplification.

        Raises
        ------
        RepdynError
            If the density has not so many peaks.
        """
        if not 1 <= n_leaves <= self.n_peaks:
            raise RepdynError(
                f"the density has {self.n_peaks} peaks on this graph, {n_leaves} leaves were asked for; "
                "ask for fewer, or fit with fewer neighbors"
            )
        persistence = self.merging.persistence
        # Stable: among equals the higher peak stays, so that no leaf is left without its elder.
        chosen = np.argsort(-persistence, kind="stable")[:n_leaves]
        kept = np.zeros(self.n_peaks, dtype=bool)
        kept[chosen] = True
        return self._kept(kept, float(persistence[chosen[-1]]))

    def cut(self, n_leaves: int) -> Index:
        """Cluster labels at a granularity: each point's leaf when the most persistent leaves are kept.

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
        """Draw the tree, its height the log-density."""
        from repdyn.views.trees import tree  # imported here: plotly only when something is drawn

        return tree(self._drawn())

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
            **{name: np.asarray(value).tolist() for name, value in self._drawn().items() if name != "label"},
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the tree, complete, to a folder (kind ``"tree"``)."""
        merging = self.merging
        kept = np.zeros(self.n_peaks, dtype=bool)
        kept[merging.basin[self.peak[self.leaf]]] = True
        config: dict[str, Any] = {"threshold": self.threshold, "neighbors": self.neighbors}
        tensors = {name: getattr(merging, name) for name in _HELD}
        points: dict[str, NDArray[Any]] = {
            "density": self.density,
            "inverse_dimension": self.inverse_dimension,
        }
        if self.rows is not None:
            config["total"], points["rows"] = self.total, self.rows
        save_artifact(path, "tree", config, {**tensors, **points, "kept": kept})

    @classmethod
    @refuses_damage
    def load(cls, path: str | os.PathLike[str]) -> LevelSetTree:
        """Read a tree that :meth:`save` wrote."""
        artifact = load_artifact(path, "tree")
        held, config = artifact.tensors, artifact.config
        try:
            merging = Merging(**{name: held[name] for name in _HELD})
            points = held["kept"], held["density"], held["inverse_dimension"]
            settings = float(config["threshold"]), int(config["neighbors"])
        except KeyError as missing:
            raise RepdynError(f"{path}: is not a whole tree, {missing} is missing; save it again") from None
        tree = _view(merging, *points, *settings)
        if "rows" not in held:
            return tree
        check_values(config, total=int)
        check_arrays(held, rows=f"{len(tree.assignment)}")
        return replace(tree, rows=held["rows"], total=int(config["total"]))

    def _counted(self) -> str:
        count = f"{len(self.assignment)} points"
        return count if self.total is None else f"{count} drawn from {self.total}"

    def _drawn(self) -> dict[str, Any]:
        """The arrays that a picture needs."""
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
        tree = _view(self.merging, kept, self.density, self.inverse_dimension, threshold, self.neighbors)
        return replace(tree, rows=self.rows, total=self.total)

    def __repr__(self) -> str:
        leaves = self.leaves
        lines = [
            f"LevelSetTree: {len(leaves)} leaves of persistence ≥ {self.threshold:.2f} "
            f"({self.n_peaks} peaks) over {self._counted()}, "
            f"intrinsic dimension {self.dimension:.1f}"
        ]
        if self.components > 1:
            lines.append(f"  the neighbour graph has {self.components} components")
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
    """The tree whose leaves are the kept peaks."""
    kept = kept.copy()
    kept[0] = True  # the highest peak has nothing to join
    nodes = nodes_of(merging, kept)
    leaves = (len(nodes.parent) + 1) // 2
    assignment = nodes.leaf_of_peak[merging.basin]
    known = np.isfinite(inverse)
    # Points, points that tell a dimension, and what they tell: sums over leaves, then over branches.
    weights = (np.ones(len(inverse)), known, np.where(known, inverse, 0.0))
    sums = np.zeros((3, len(nodes.parent)))
    sums[:, :leaves] = [np.bincount(assignment, weight, minlength=leaves) for weight in weights]
    for node, parent in enumerate(nodes.parent[:-1]):  # children come before their parent
        sums[:, parent] += sums[:, node]
    told = sums[2] > 0
    return LevelSetTree(
        parent=nodes.parent,
        height=nodes.height,
        saddle=nodes.saddle,
        persistence=merging.birth[nodes.peak] - nodes.saddle,
        mass=sums[0] / len(assignment),
        intrinsic_dimension=np.where(told, sums[1] / np.where(told, sums[2], 1.0), 1.0),
        leaf=np.arange(len(nodes.parent)) < leaves,
        peak=merging.peak[nodes.peak],
        assignment=assignment,
        density=density,
        inverse_dimension=inverse,
        threshold=float(threshold),
        neighbors=neighbors,
        merging=merging,
    )
