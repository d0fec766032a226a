"""The geometry of a tree drawn as an icicle: selection and order of leaves, and position of nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repdyn.errors import RepdynError
from repdyn.views.arguments import finite

__all__ = ["REST", "Icicle", "collapse", "lay_out", "read_tree", "untangle"]

REST = -2  # index of the node that replaces all collapsed leaves
_THICKEST_REST = 0.15  # maximum share of the height for the collapsed leaves
_THINNEST = 0.25  # minimum height relative to an equal share, so that a leaf of tiny mass stays visible


@dataclass(frozen=True, eq=False)
class Icicle:
    """A small tree, ready to be drawn.

    Attributes
    ----------
    node
        Shape ``(M,)``: index of each node in the tree it came from, :data:`REST` for the collapsed leaves.
    parent
        Shape ``(M,)``: row of the parent, -1 at a root.
    start, peak, mass
        Shape ``(M,)``: level where the node splits off, highest level it reaches, samples' share.
    label
        M names, empty where there is none.
    collapsed
        Number of collapsed leaves.
    """

    node: NDArray[np.int64]
    parent: NDArray[np.int64]
    start: NDArray[np.float64]
    peak: NDArray[np.float64]
    mass: NDArray[np.float64]
    label: tuple[str, ...]
    collapsed: int = 0

    @property
    def is_leaf(self) -> NDArray[np.bool_]:
        """Shape ``(M,)``: whether a node has no children."""
        leaf = np.ones(len(self.parent), dtype=bool)
        leaf[self.parent[self.parent >= 0]] = False
        return leaf

    def children(self, row: int) -> NDArray[np.int64]:
        """Rows of a node's children; the roots for -1."""
        return np.flatnonzero(self.parent == row)

    def column(self) -> NDArray[np.int64]:
        """Shape ``(M,)``: how many ancestors each node has."""
        depth = np.zeros(len(self.parent), dtype=np.int64)
        above = self.parent.copy()
        while (above >= 0).any():
            depth += above >= 0
            above = np.where(above >= 0, self.parent[above], -1)
        return depth

    def below(self, row: int) -> NDArray[np.int64]:
        """Rows of a node and of all its descendants."""
        rows, frontier = [np.array([row])], np.array([row])
        while len(frontier):
            frontier = np.flatnonzero(np.isin(self.parent, frontier))
            rows.append(frontier)
        return np.concatenate(rows)


def read_tree(name: str, tree: Mapping[str, Any]) -> Icicle:
    """Check a tree given as a mapping of arrays.

    Parameters
    ----------
    name
        Name of the tree, for errors.
    tree
        ``parent`` (M,), -1 at a root; ``height`` (M,); ``death`` or ``saddle`` (M,); ``mass`` (M,); and,
        optionally, ``label``, M names.

    Returns
    -------
    Icicle

    Raises
    ------
    RepdynError
        On missing arrays, lengths that differ, a parent that does not exist, or a circle.
    """
    saddle = "death" if "death" in tree else "saddle"
    missing = [key for key in ("parent", "height", saddle, "mass") if key not in tree]
    if missing:
        raise RepdynError(
            f"{name} lacks {', '.join(missing)}; it has {', '.join(map(str, tree)) or 'nothing'}"
        )
    parent = np.asarray(tree["parent"], dtype=np.int64)
    if parent.ndim != 1 or len(parent) == 0:
        raise RepdynError(f"{name}: parent must have shape (M,) with M > 0, got {parent.shape}")
    if parent.max() >= len(parent):
        raise RepdynError(f"{name}: parent {parent.max()} does not exist among {len(parent)} nodes")
    parent = np.where(parent < 0, -1, parent)
    _refuse_circles(name, parent)
    peak, start, mass = (
        finite(f"{name}: {k}", tree[k], shape=parent.shape) for k in ("height", saddle, "mass")
    )
    given = tree.get("label")
    if given is not None and len(given) != len(parent):
        raise RepdynError(f"{name}: label has {len(given)} names for {len(parent)} nodes")
    label = tuple("" if given is None or one is None else str(one) for one in given or [""] * len(parent))
    return Icicle(np.arange(len(parent)), parent, start, peak, np.nan_to_num(np.maximum(mass, 0)), label)


def collapse(tree: Icicle, most: int, keep_first: ArrayLike = ()) -> Icicle:
    """The tree of at most ``most`` leaves, all others in one leaf beneath the root.

    Parameters
    ----------
    tree
        Any.
    most
        Leaves that are drawn, the collapsed one among them.
    keep_first
        Nodes that should be kept before others, such as matched ones; then the leaves of largest mass are.

    Returns
    -------
    Icicle
        Nodes that are left with one child are merged with it.
    """
    leaves = np.flatnonzero(tree.is_leaf)
    wanted = np.isin(leaves, np.asarray(keep_first, dtype=np.int64))
    ranked = leaves[np.lexsort((-tree.mass[leaves], ~wanted))]
    kept = ranked if len(ranked) <= most else ranked[: most - 1]
    rest = ranked[len(kept) :]
    if not len(rest) and (np.bincount(tree.parent[tree.parent >= 0]) != 1).all():
        return tree
    on_path = np.zeros(len(tree.parent), dtype=bool)
    on_path[kept] = True
    above = np.unique(tree.parent[kept])
    while len(above := above[above >= 0]):
        on_path[above] = True
        above = np.unique(tree.parent[above])
    sons = np.bincount(tree.parent[on_path & (tree.parent >= 0)], minlength=len(tree.parent))
    stays = on_path & (sons != 1)
    rows = np.flatnonzero(stays)
    up = tree.parent[rows]
    # A parent with one child is merged into it: the next ancestor that stays becomes the parent.
    while (skip := (up >= 0) & ~stays[up]).any():
        up[skip] = tree.parent[up[skip]]
    place = np.full(len(tree.parent) + 1, -1)
    place[rows] = np.arange(len(rows))
    node = tree.node[rows]
    start, peak, mass = tree.start[rows], tree.peak[rows], tree.mass[rows]
    parent, label = place[up], [tree.label[k] for k in rows]
    if len(rest):
        roots = np.flatnonzero(parent < 0)
        root = roots[0] if len(roots) == 1 and len(kept) > 1 else -1
        node = np.append(node, REST)
        start = np.append(start, np.nanmin(tree.start))
        peak = np.append(peak, np.nanmax(tree.peak[rest]))
        mass = np.append(mass, tree.mass[rest].sum())
        parent = np.append(parent, root)
        label.append(f"{len(rest)} smaller leaves")
    return Icicle(node, parent, start, peak, mass, tuple(label), len(rest))


def lay_out(tree: Icicle, wish: ArrayLike | None = None) -> NDArray[np.float64]:
    """Place every node on the unit interval, its children within it, as large as their mass.

    Parameters
    ----------
    tree
        Any.
    wish
        Shape ``(M,)``: where each leaf would like to be (NaN: anywhere), so that ribbons cross less; children
        are ordered by the mean wish of the leaves below. Without, by mass, largest first.

    Returns
    -------
    numpy.ndarray
        Shape ``(M, 2)``: low and high end.
    """
    leaf = tree.is_leaf
    size = np.where(leaf, tree.mass, 0.0)
    if size.sum() <= 0:
        size = leaf.astype(np.float64)
    size = np.where(leaf, np.maximum(size / size.sum(), _THINNEST / leaf.sum()), 0.0)
    rest = tree.node == REST
    size[rest] = np.minimum(size[rest], _THICKEST_REST / (1 - _THICKEST_REST) * size[~rest].sum())
    pull = (
        np.full(len(size), np.nan) if wish is None else np.where(leaf, np.asarray(wish, dtype=float), np.nan)
    )
    weight = np.where(np.isnan(pull), 0.0, size)
    moment = np.where(np.isnan(pull), 0.0, pull) * weight
    # Sums over all leaves below, one level of the tree at a time, deepest first.
    column = tree.column()
    for depth in range(int(column.max()), 0, -1):
        rows = np.flatnonzero(column == depth)
        for sums in (size, weight, moment):
            np.add.at(sums, tree.parent[rows], sums[rows])
    mean = np.divide(moment, weight, out=np.full(len(size), np.nan), where=weight > 0)
    ends = np.zeros((len(size), 2))
    total = size[tree.children(-1)].sum()
    for row in [-1, *np.argsort(column, kind="stable")]:
        sons = tree.children(int(row))
        rest = tree.node[sons] == REST
        key = np.where(np.isnan(mean[sons]), np.inf, mean[sons])
        sons = sons[np.lexsort((-size[sons], key, rest))]
        at = 0.0 if row < 0 else ends[row, 0]
        edges = at + np.append(0.0, np.cumsum(size[sons] / total))
        ends[sons] = np.stack([edges[:-1], edges[1:]], axis=1)
    return ends


def untangle(
    a: Icicle, b: Icicle, pairs: Sequence[tuple[int, int]], rounds: int = 4
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lay out two trees so that few ribbons cross: each in turn by the barycenters of its partners.

    Parameters
    ----------
    a, b
        The trees.
    pairs
        Rows of matched nodes.
    rounds
        Sweeps; the order settles after two or three.

    Returns
    -------
    tuple of numpy.ndarray
        As :func:`lay_out`, for each tree.

    References
    ----------
    Sugiyama, K., Tagawa, S., Toda, M. (1981). Methods for visual understanding of hierarchical system
    structures. IEEE Trans. Systems, Man, and Cybernetics 11(2): the barycentre method.
    """
    place_a, place_b = lay_out(a), lay_out(b)
    for _ in range(rounds):
        place_b = lay_out(b, _wishes(b, place_a, [(j, i) for i, j in pairs]))
        place_a = lay_out(a, _wishes(a, place_b, pairs))
    return place_a, place_b


def _wishes(
    tree: Icicle, other: NDArray[np.float64], pairs: Sequence[tuple[int, int]]
) -> NDArray[np.float64]:
    wish = np.full(len(tree.parent), np.nan)
    # Large subtrees first: a leaf's own partner then overrides that of a node above it.
    for own, partner in sorted(pairs, key=lambda pair: -len(tree.below(pair[0]))):
        wish[tree.below(own)] = other[partner].mean()
    return wish


def _refuse_circles(name: str, parent: NDArray[np.int64]) -> None:
    above = parent.copy()
    # Doubling: after k rounds `above` is 2^k generations up, and a tree has fewer than M of them.
    for _ in range(int(np.ceil(np.log2(len(parent) + 1))) + 1):
        above = np.where(above >= 0, above[above], -1)
    if (above >= 0).any():
        raise RepdynError(f"{name}: parent has a cycle at node {int(np.flatnonzero(above >= 0)[0])}")
