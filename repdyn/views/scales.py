"""Modes through scales of noise: a tree whose branches merge from the finest scale to the coarsest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike, NDArray

from repdyn.errors import RepdynError
from repdyn.views.arguments import finite
from repdyn.views.theme import CATEGORIES, OTHER, describe, new_figure, plain, veil

__all__ = ["scales"]

_NAMED = 12  # modes at the scale used that are named
_THINNEST = 0.002  # share of the points from which a branch is drawn
_WIDEST = 26.0  # pixels


def scales(
    sigmas: ArrayLike,
    level: ArrayLike,
    parent: ArrayLike,
    mass: ArrayLike,
    sigma: float,
    *,
    names: Sequence[str] | None = None,
    agreement: ArrayLike | None = None,
) -> go.Figure:
    """Branches of a tree of modes, over the scale of the noise.

    Parameters
    ----------
    sigmas
        Shape ``(S,)``, increasing.
    level, parent, mass
        Shape ``(T,)``: index of each node's scale, the node that it becomes at the next (or -1), and the
        share of the points in its basin.
    sigma
        The scale that is used, one of ``sigmas``.
    names
        A name of each node, shape ``(T,)``; those of the largest nodes at ``sigma`` are drawn.
    agreement
        Adjusted agreement of two halves at each scale, shape ``(S,)``.

    Returns
    -------
    plotly.graph_objects.Figure
        Branches of at least a five-hundredth of the points. Their order and position say nothing but which
        merge.
    """
    scale = finite("scales: sigmas", sigmas, shape=(None,))
    share = finite("scales: mass", mass, shape=(None,))
    at, above = np.asarray(level, dtype=np.int64), np.asarray(parent, dtype=np.int64)
    if at.shape != share.shape or above.shape != share.shape:
        raise RepdynError(
            f"scales: level {at.shape}, parent {above.shape}, mass {share.shape}; expected one entry a node"
        )
    if names is not None and len(names) != len(share):
        raise RepdynError(f"scales: names has {len(names)} entries for {len(share)} nodes")
    used = int(np.abs(scale - sigma).argmin())
    center = _centers(at, above, share)
    root = _ancestor_at(at, above, used)
    ranked = np.flatnonzero(at == used)
    ranked = ranked[np.argsort(-share[ranked], kind="stable")]
    colors = dict(zip(ranked[: len(CATEGORIES)].tolist(), CATEGORIES))

    figure = new_figure("", "", height=560)
    drawn = np.flatnonzero((share >= _THINNEST) & (above >= 0))
    # Few traces, so that a report of thousands of branches opens: one for each color and width.
    width = np.maximum(1, np.round(_WIDEST * np.sqrt(share[drawn])))
    color = np.array([colors.get(int(r), OTHER) for r in root[drawn]])
    for own in sorted(set(zip(color.tolist(), width.tolist())), key=lambda pair: (pair[0] != OTHER, pair[1])):
        nodes = drawn[(color == own[0]) & (width == own[1])]
        x = np.stack([center[nodes], center[above[nodes]], np.full(len(nodes), np.nan)], axis=1).ravel()
        y = np.stack([scale[at[nodes]], scale[at[above[nodes]]], np.full(len(nodes), np.nan)], axis=1).ravel()
        figure.add_scatter(
            x=x, y=y, mode="lines", line={"width": own[1], "color": own[0]}, opacity=0.75, hoverinfo="skip",
            showlegend=False,
        )  # fmt: skip
    shown = ranked[share[ranked] >= _THINNEST]
    hover = [
        f"{plain(names[i], 60) if names is not None else f'mode {k + 1}'}<br>{share[i]:.1%} of the points"
        for k, i in enumerate(shown)
    ]
    figure.add_scatter(
        x=center[shown], y=np.full(len(shown), scale[used]), mode="markers", hovertext=hover,
        hoverinfo="text",
        marker={
            "size": 4 + 0.6 * _WIDEST * np.sqrt(share[shown]),
            "color": [colors.get(int(i), OTHER) for i in shown],
        },
        showlegend=False,
    )  # fmt: skip
    if names is not None:
        for i in shown[: min(_NAMED, len(CATEGORIES))]:
            figure.add_scatter(
                x=[None], y=[None], mode="markers", name=f"{share[i]:.1%} {plain(names[i], 48)}",
                marker={"size": 9, "symbol": "square", "color": colors[int(i)]},
            )  # fmt: skip
    figure.add_hline(y=float(scale[used]), line={"color": veil(0.5), "width": 1, "dash": "dot"})
    figure.update_xaxes(visible=False)
    figure.update_yaxes(type="log", title_text="scale of the noise")
    figure.update_layout(
        showlegend=names is not None, legend={"orientation": "h", "y": -0.02, "x": 0, "yanchor": "top"}
    )
    count = len(ranked)
    told = "" if agreement is None else _told(np.asarray(agreement, dtype=np.float64)[used])
    hidden = int((share[ranked] < _THINNEST).sum())
    left_out = f" {hidden} modes of less than {_THINNEST:.1%} are not drawn." if hidden else ""
    return describe(
        figure,
        "Modes through scales of noise",
        f"{count} modes at the scale that is used, {scale[used]:.3g} (dotted line){told}. Width is the share "
        f"of the points. Branches merge upward; their order has no meaning.{left_out}",
        alt=f"Tree of modes over {len(scale)} scales of noise; {count} modes at {scale[used]:.3g}, the "
        f"largest with {share[ranked[0]]:.0%} of the points.",
    )


def _told(agreement: float) -> str:
    """How well the basins replicate, where it is known."""
    return f", whose basins two halves of the data share to {agreement:.2f}" if np.isfinite(agreement) else ""


def _centers(
    level: NDArray[np.int64], parent: NDArray[np.int64], mass: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Horizontal position of each node: the middle of its part of its parent's interval, ``(T,)``."""
    start, center = np.zeros(len(level)), np.zeros(len(level))
    children: dict[int, list[int]] = {}
    for node in range(len(level)):
        children.setdefault(int(parent[node]), []).append(node)
    frontier, left = [(-1, 0.0)], 0.0
    while frontier:
        node, left = frontier.pop()
        # The heaviest child is in the middle, so that trunks are straight.
        ordered = sorted(children.get(node, []), key=lambda child: mass[child])
        for child in ordered[::2] + ordered[1::2][::-1]:
            start[child], center[child] = left, left + mass[child] / 2
            frontier.append((child, left))
            left += mass[child]
    return center


def _ancestor_at(level: NDArray[np.int64], parent: NDArray[np.int64], used: int) -> NDArray[np.int64]:
    """The node at one scale that each finer node becomes; -1 for coarser nodes. Shape ``(T,)``."""
    found = np.where(level == used, np.arange(len(level)), -1)
    for node in np.argsort(-level, kind="stable"):
        if level[node] < used:
            found[node] = found[parent[node]]
    return found
