"""Two level-set trees, leaf against leaf, joined by ribbons; and one tree by itself.

The picture this project is about: each model's latent space as a tree of its dense regions, drawn as an
icicle that grows inwards from its root, and between the two the matched pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike, NDArray

from repdyn.errors import RepdynError
from repdyn.views.boxes import GAP, box, filled, grey_boxes, hover_text, ink_on, leaf_count, name_of, write
from repdyn.views.icicle import REST, Icicle, collapse, lay_out, read_tree, untangle
from repdyn.views.theme import CATEGORIES, OTHER, describe, new_figure, plain, translucent, veil

__all__ = ["tree", "two_trees"]

_MOST_LEAVES = 60
# The width of the picture is 1: roots and inner nodes, then leaves wide enough for a name, then ribbons.
_TRUNK, _FACE = 0.18, 0.345
_LEGIBLE = 13  # pixels that a name needs


def two_trees(
    tree_a: Mapping[str, Any], tree_b: Mapping[str, Any], pairs: ArrayLike, confidence: ArrayLike
) -> go.Figure:
    """Two level-set trees as mirrored icicles, with a ribbon for every matched pair of nodes.

    Parameters
    ----------
    tree_a, tree_b
        Mappings of arrays: ``parent`` (M,), -1 at a root; ``height`` (M,), the density level a node reaches;
        ``death`` or ``saddle`` (M,), the level where it joins its parent; ``mass`` (M,); ``label``, M names
        or ``None``.
    pairs
        Shape ``(P, 2)``: node of A, node of B.
    confidence
        Shape ``(P,)``, in [0, 1]. A ribbon's strength, and how little it narrows halfway.

    Returns
    -------
    plotly.graph_objects.Figure
        At most 60 leaves a tree are drawn, matched ones first, the rest is collapsed into one. Leaves
        without a partner are hatched and have no ribbon.
    """
    whole_a, whole_b = read_tree("two_trees: tree_a", tree_a), read_tree("two_trees: tree_b", tree_b)
    given, trust = _read_pairs(pairs, confidence, len(whole_a.parent), len(whole_b.parent))
    a = collapse(whole_a, _MOST_LEAVES, given[:, 0])
    b = collapse(whole_b, _MOST_LEAVES, given[:, 1])
    row_a = {int(node): row for row, node in enumerate(a.node)}
    row_b = {int(node): row for row, node in enumerate(b.node)}
    drawn = [k for k, (i, j) in enumerate(given.tolist()) if i in row_a and j in row_b]
    rows = [(row_a[int(given[k, 0])], row_b[int(given[k, 1])]) for k in drawn]
    place_a, place_b = untangle(a, b, rows)
    # A pair that contains others would lie beneath their ribbons: it is in the hover text, not drawn.
    outer = {k for k in range(len(rows)) if _contains(a, b, rows[k], rows)}
    inner_a, inner_b = _inner_partners(a, b, rows, outer, trust[drawn])
    shown = [k for k in range(len(rows)) if k not in outer]

    leaves_a, leaves_b = int(a.is_leaf.sum()), int(b.is_leaf.sum())
    height = int(np.clip(200 + 22 * max(leaves_a, leaves_b), 460, 980))
    figure = new_figure("", "", height=height)
    # Colors follow A's order on the face, so that neighbours differ.
    by_place = sorted(shown, key=lambda k: place_a[rows[k][0]].mean())
    colors = {k: CATEGORIES[rank % len(CATEGORIES)] for rank, k in enumerate(by_place)}
    tint_a, tint_b = _tints(a, b, rows, colors)
    for k in sorted(shown, key=lambda k: -np.ptp(place_a[rows[k][0]])):
        i, j = rows[k]
        hover = f"{name_of('A', a, i)} ↔ {name_of('B', b, j)}<br>confidence {trust[drawn[k]]:.2f}"
        _ribbon(figure, place_a[i], place_b[j], float(trust[drawn[k]]), colors[k], hover)
    pixels = height - 150
    _half(figure, "A", a, place_a, tint_a, inner_a, pixels, mirror=False)
    _half(figure, "B", b, place_b, tint_b, inner_b, pixels, mirror=True)
    _frame(figure, f"A · {leaf_count(a)}", f"B · {leaf_count(b)}")
    lone = [
        int((t.is_leaf & (t.node != REST) & np.array([c is None for c in tint])).sum())
        for t, tint in ((a, tint_a), (b, tint_b))
    ]
    hidden = f" {len(given) - len(drawn)} pairs lie among collapsed leaves and are not drawn." * (
        len(drawn) < len(given)
    )
    if outer:
        hidden += f" Pairs of inner regions that contain these ({len(outer)}) are in the hover text."
    return describe(
        figure,
        "Two latent trees, matched",
        f"Ribbons join regions of A to regions of B ({len(given)} pairs); they are opaque and wide where "
        f"the confidence is high, faint and thin where it is low. Hatched leaves have no partner "
        f"({lone[0]} in A, {lone[1]} in B).{hidden}",
        alt=f"Two mirrored tree diagrams of {leaf_count(a)} and {leaf_count(b)}, joined by "
        f"{len(shown)} ribbons of "
        + (
            f"mean confidence {trust.mean():.2f}."
            if len(trust)
            else "no confidence, because no pair is matched."
        ),
    )


def tree(tree: Mapping[str, Any], level: str = "log-density") -> go.Figure:
    """One level-set tree: boxes from the level where a region splits off to the level where it ends.

    Parameters
    ----------
    tree
        As in :func:`two_trees`.
    level
        What the heights are, for the axis.

    Returns
    -------
    plotly.graph_objects.Figure
        A leaf's length is its persistence, its width the mass it holds.
    """
    one = collapse(read_tree("tree", tree), _MOST_LEAVES)
    place = lay_out(one)
    leaf = one.is_leaf
    lowest = float(np.nanmin(np.where(np.isfinite(one.start), one.start, np.nan)))
    start = np.where(np.isfinite(one.start), one.start, lowest)
    end = one.peak.copy()
    for row in np.flatnonzero(~leaf):  # an inner node ends where its first children split off
        end[row] = start[one.children(int(row))].max()
    height = int(np.clip(190 + 22 * leaf.sum(), 420, 980))
    figure = new_figure("", "", height=height)
    span = max(float(np.nanmax(end)) - lowest, 1e-12)
    inner = np.flatnonzero(~leaf)
    boxes = [box(start[k], end[k], place[k], gap=GAP * span) for k in inner]
    grey_boxes(figure, boxes, [hover_text("", one, int(k)) for k in inner])
    order = np.flatnonzero(leaf)[np.argsort(place[leaf].mean(axis=1))]
    for rank, k in enumerate(order):
        rest = one.node[k] == REST
        color = OTHER if rest else CATEGORIES[rank % len(CATEGORIES)]
        x, y = box(start[k], end[k], place[k], gap=GAP * span)
        filled(figure, x, y, translucent(color, 0.85), hover_text("", one, int(k)), hatched=bool(rest))
        if np.ptp(place[k]) * (height - 150) > _LEGIBLE:
            write(
                figure,
                float(end[k]),
                float(place[k].mean()),
                plain(one.label[k] or f"leaf {one.node[k]}", 22),
                "left",
            )
    figure.update_xaxes(
        showgrid=False,
        zeroline=False,
        ticks="outside",
        title_text=plain(level),
        range=[lowest - 0.01 * span, lowest + 1.22 * span],
    )
    figure.update_yaxes(visible=False, range=[1.01, -0.01])
    figure.update_layout(showlegend=False, margin_l=24)
    return describe(
        figure,
        "Level-set tree",
        f"The height, {plain(level)}, rises from left to right, and one region splits into "
        f"{leaf_count(one)}: long boxes are persistent clusters, short ones may be noise. The "
        "thickness of a box is its mass.",
        alt=f"Tree diagram of {leaf_count(one)}; the longest has persistence "
        f"{np.nanmax((end - start)[leaf]):.3g}.",
    )


def _read_pairs(
    pairs: ArrayLike, confidence: ArrayLike, size_a: int, size_b: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    given = np.asarray(pairs, dtype=np.int64).reshape(-1, 2)
    trust = np.asarray(confidence, dtype=np.float64)
    if trust.shape != (len(given),):
        raise RepdynError(
            f"two_trees: confidence must have shape ({len(given)},) like pairs, got {trust.shape}"
        )
    if len(given) and ((given < 0).any() or given[:, 0].max() >= size_a or given[:, 1].max() >= size_b):
        raise RepdynError(f"two_trees: pairs must be nodes below {size_a} of A and below {size_b} of B")
    return given, np.clip(np.nan_to_num(trust), 0.0, 1.0)


def _tints(
    a: Icicle, b: Icicle, rows: list[tuple[int, int]], colors: Mapping[int, str]
) -> tuple[list[str | None], list[str | None]]:
    """The color of every node by the pair that it, or the nearest node above it, belongs to."""
    tints: list[list[str | None]] = []
    for side, one in enumerate((a, b)):
        tint: list[str | None] = [None] * len(one.parent)
        for k in sorted(colors, key=lambda k: -len(one.below(rows[k][side]))):
            for row in one.below(rows[k][side]):
                tint[row] = colors[k]
        for k in set(range(len(rows))) - set(colors):  # matched, but its ribbon is not drawn
            tint[rows[k][side]] = tint[rows[k][side]] or OTHER
        tints.append(tint)
    return tints[0], tints[1]


def _contains(a: Icicle, b: Icicle, pair: tuple[int, int], rows: list[tuple[int, int]]) -> bool:
    """Whether another pair lies within this one, in either tree."""
    within_a, within_b = set(a.below(pair[0]).tolist()), set(b.below(pair[1]).tolist())
    return any(other != pair and (other[0] in within_a or other[1] in within_b) for other in rows)


def _inner_partners(
    a: Icicle, b: Icicle, rows: list[tuple[int, int]], outer: set[int], trust: NDArray[np.float64]
) -> tuple[dict[int, str], dict[int, str]]:
    """Hover texts of inner nodes whose pair is not drawn."""
    of_a, of_b = {}, {}
    for k in outer:
        i, j = rows[k]
        of_a[i] = f"<br>↔ {name_of('B', b, j)}, confidence {trust[k]:.2f}"
        of_b[j] = f"<br>↔ {name_of('A', a, i)}, confidence {trust[k]:.2f}"
    return of_a, of_b


def _ribbon(
    figure: go.Figure,
    left: NDArray[np.float64],
    right: NDArray[np.float64],
    trust: float,
    color: str,
    hover: str,
) -> None:
    t = np.linspace(0, 1, 48)
    smooth = t * t * t * (t * (6 * t - 15) + 10)  # Perlin's smootherstep: leaves each leaf at a right angle
    x = _FACE + t * (1 - 2 * _FACE)
    middle = left.mean() + smooth * (right.mean() - left.mean())
    thick = np.ptp(left) + smooth * (np.ptp(right) - np.ptp(left)) - 2 * GAP
    # A ribbon of low confidence is thin in the middle, which is visible in gray print, too.
    waist = 1 - (1 - trust) * 0.92 * np.sin(np.pi * t) ** 1.5
    half = np.maximum(thick, 2 * GAP) * waist / 2
    filled(
        figure,
        np.concatenate([x, x[::-1]]),
        np.concatenate([middle - half, (middle + half)[::-1]]),
        translucent(color, 0.22 + 0.42 * trust),
        hover,
    )


def _half(
    figure: go.Figure,
    name: str,
    one: Icicle,
    place: NDArray[np.float64],
    tint: list[str | None],
    partners: Mapping[int, str],
    pixels: int,
    *,
    mirror: bool,
) -> None:
    leaf, column = one.is_leaf, one.column()
    width = _TRUNK / max(1, int(column.max()))

    def across(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return 1 - x if mirror else x

    boxes, hover = [], []
    for k in range(len(leaf)):
        stem_end = _TRUNK if leaf[k] else (column[k] + 1) * width
        if column[k] * width < stem_end - 1e-9:
            x, y = box(column[k] * width, stem_end, place[k], gap=GAP)
            boxes.append((across(x), y))
            hover.append(hover_text(name, one, k) + partners.get(k, ""))
    grey_boxes(figure, boxes, hover)
    for k in np.flatnonzero(leaf).tolist():
        x, y = box(_TRUNK, _FACE, place[k], gap=GAP)
        color = tint[k]
        fill = veil(0.35) if color is None else translucent(color, 0.9)
        filled(
            figure,
            across(x),
            y,
            fill,
            hover_text(name, one, k, color is None) + partners.get(k, ""),
            hatched=color is None,
        )
        if np.ptp(place[k]) * pixels >= _LEGIBLE and one.label[k]:
            at = float(across(np.array([_TRUNK + 0.006]))[0])
            ink = None if color is None else ink_on(color)
            write(
                figure,
                at,
                float(place[k].mean()),
                plain(one.label[k], 18),
                "right" if mirror else "left",
                ink,
            )


def _frame(figure: go.Figure, left: str, right: str) -> None:
    for x, anchor, text in ((0.0, "left", left), (1.0, "right", right)):
        figure.add_annotation(x=x, y=0, yshift=16, text=text, xanchor=anchor, font={"size": 14})
    figure.update_xaxes(visible=False, range=[-0.002, 1.002], fixedrange=True)
    figure.update_yaxes(visible=False, range=[1.002, -0.045], fixedrange=True)
    figure.update_layout(showlegend=False, margin={"l": 24, "r": 24, "b": 20})
