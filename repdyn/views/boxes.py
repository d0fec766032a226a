"""Drawing parts of tree pictures: boxes, hatching, names, and the hover text of a node."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from repdyn.views.icicle import REST, Icicle
from repdyn.views.theme import plain, veil

__all__ = ["GAP", "box", "filled", "grey_boxes", "hover_text", "ink_on", "leaf_count", "name_of", "write"]

GAP = 0.0016  # gap around every box, so that the background separates boxes


def box(
    x0: float, x1: float, extent: NDArray[np.float64], gap: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A rectangle as a closed line, inset so that neighbours do not touch.

    ``extent`` is its low and high end across; ``gap`` is what is left free along.
    """
    x0, x1 = x0 + gap / 2, max(x1 - gap / 2, x0 + gap / 2)
    y0, y1 = float(extent[0]), float(extent[1])
    inset = min(GAP, (y1 - y0) / 4)
    return np.array([x0, x1, x1, x0, x0]), np.array([y0, y0, y1, y1, y0]) + inset * np.array(
        [1, 1, -1, -1, 1]
    )


def grey_boxes(
    figure: go.Figure, boxes: list[tuple[NDArray[np.float64], NDArray[np.float64]]], hover: list[str]
) -> None:
    """Inner nodes as one trace, and invisible marks in their middles with their hover text."""
    if not boxes:
        return
    figure.add_scatter(
        x=np.concatenate([np.append(x, np.nan) for x, _ in boxes]),
        y=np.concatenate([np.append(y, np.nan) for _, y in boxes]),
        fill="toself",
        mode="lines",
        line={"width": 0},
        fillcolor=veil(0.26),
        hoverinfo="skip",
    )
    figure.add_scatter(
        x=[float(x[:4].mean()) for x, _ in boxes],
        y=[float(y[:4].mean()) for _, y in boxes],
        mode="markers",
        marker={"size": 14, "opacity": 0},
        text=hover,
        hoverinfo="text",
    )


def filled(
    figure: go.Figure,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    color: str,
    hover: str,
    *,
    hatched: bool = False,
) -> None:
    """A closed line, filled or hatched, with a hover text."""
    figure.add_scatter(
        x=x.astype(np.float32),  # half the file, and sharper than any screen
        y=y.astype(np.float32),
        fill="toself",
        mode="lines",
        line={"width": 1 if hatched else 0, "color": veil(0.7), "dash": "dot"},
        fillcolor="rgba(0, 0, 0, 0)" if hatched else color,
        fillpattern={
            "shape": "/",
            "fgcolor": color,
            "bgcolor": "rgba(0, 0, 0, 0)",
            "size": 7,
            "solidity": 0.25,
        }
        if hatched
        else None,
        hoveron="fills",
        text=hover,
        hoverinfo="text",
    )


def write(figure: go.Figure, x: float, y: float, text: str, anchor: str, ink: str | None = None) -> None:
    """Write a name next to a position; without ``ink``, in the template's color."""
    figure.add_annotation(
        x=x,
        y=y,
        text=text,
        xanchor=anchor,
        xshift=5 if anchor == "left" else -5,
        font={"size": 11} if ink is None else {"size": 11, "color": ink},
    )


def ink_on(color: str) -> str:
    """Black or white, whichever is read better on a color."""
    red, green, blue = (int(color[k : k + 2], 16) / 255 for k in (1, 3, 5))
    return "#111820" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "#ffffff"


def name_of(side: str, one: Icicle, row: int) -> str:
    """A node as a reader may look it up: tree, index, label."""
    return f"{side}{one.node[row]}" + (f" {plain(one.label[row], 30)}" if one.label[row] else "")


def hover_text(side: str, one: Icicle, row: int, lone: bool = False) -> str:
    """Hover text of a node."""
    if one.node[row] == REST:
        return f"{one.collapsed} smaller leaves, together<br>mass {one.mass[row]:.3g}"
    return (
        f"{name_of(side, one, row)}<br>mass {one.mass[row]:.3g}<br>from level {one.start[row]:.3g} to "
        f"{one.peak[row]:.3g}" + ("<br>no partner" if lone else "")
    )


def leaf_count(one: Icicle) -> str:
    """How many leaves a tree has, and how many of them are drawn."""
    count = int(one.is_leaf.sum())
    if one.collapsed:
        return f"{count - 1 + one.collapsed} leaves ({count - 1} drawn)"
    return f"{count} leaves" if count != 1 else "1 leaf"
