"""Persistence diagrams at some depths, and the longest-lived features at all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike, NDArray

from repdyn.errors import RepdynError
from repdyn.views.depths import depth_ticks
from repdyn.views.theme import CATEGORIES, describe, panels, veil

__all__ = ["persistence"]

_PANELS = 6  # diagrams drawn; two rows of three are legible at 800 px
_COLUMNS = 3
_DRAWN = 400  # features per diagram and dimension: the longest-lived
_SYMBOLS = ("circle", "triangle-up", "square", "diamond")


def persistence(diagrams: Mapping[str, Sequence[ArrayLike]]) -> go.Figure:
    """Birth and death of topological features, through depth.

    Parameters
    ----------
    diagrams
        Per point, in order of depth, one array ``(n, 2)`` of births and deaths per homology dimension.
        An infinite death is drawn as an open mark on the upper edge.

    Returns
    -------
    plotly.graph_objects.Figure
        At most six diagrams, evenly spaced in depth and always with the first and the last, above the
        largest finite persistence of each dimension at every depth.
    """
    read = _read(diagrams)
    names = list(read)
    chosen = np.unique(np.linspace(0, len(names) - 1, min(_PANELS, len(names))).round().astype(int))
    rows = -(-len(chosen) // _COLUMNS)
    columns = min(_COLUMNS, len(chosen))
    through_depth = len(names) > 1
    specs: list[list[dict[str, int] | None]] = [[{} for _ in range(columns)] for _ in range(rows)]
    titles = [names[k] for k in chosen] + [""] * (rows * columns - len(chosen))
    if through_depth:
        specs.append([{"colspan": columns}, *[None] * (columns - 1)])
        titles.append("largest persistence through depth")
    figure = panels(
        titles,
        columns=columns,
        height=150 + 265 * rows + 260 * through_depth,
        specs=specs,
        vertical_spacing=0.12 if rows + through_depth > 1 else 0.0,
        horizontal_spacing=0.06,
        row_heights=[1.0] * rows + [0.85] * through_depth,
    )
    ceiling = _ceiling(read)
    for place, k in enumerate(chosen):
        row, column = place // columns + 1, place % columns + 1
        _diagram(figure, row, column, read[names[k]], ceiling, legend=place == 0)
    for place in range(len(chosen), rows * columns):
        figure.update_xaxes(visible=False, row=place // columns + 1, col=place % columns + 1)
        figure.update_yaxes(visible=False, row=place // columns + 1, col=place % columns + 1)
    figure.update_yaxes(title_text="death", row=1, col=1)
    if through_depth:
        _summary(figure, rows + 1, read)
    shown = "" if len(chosen) == len(names) else f" {len(chosen)} of {len(names)} depths are drawn."
    return describe(
        figure,
        "Persistence through depth",
        "Features far above the diagonal persist over a long range of scales; features near it may be "
        f"sampling noise.{shown}",
        alt=f"Persistence diagrams at {len(chosen)} of {len(names)} depths, in up to "
        f"{max(len(d) for d in read.values())} homology dimensions.",
    )


def _read(diagrams: Mapping[str, Sequence[ArrayLike]]) -> dict[str, list[NDArray[np.float64]]]:
    if not diagrams:
        raise RepdynError("persistence: there is no diagram; give at least one point")
    read: dict[str, list[NDArray[np.float64]]] = {}
    for name, dimensions in diagrams.items():
        arrays = [np.asarray(d, dtype=np.float64).reshape(-1, 2) for d in dimensions]
        read[str(name)] = [d[np.isfinite(d[:, 0]) & ~np.isnan(d[:, 1])] for d in arrays]
    if not any(len(d) for arrays in read.values() for d in arrays):
        raise RepdynError("persistence: no diagram holds a finite birth, so there is nothing to draw")
    return read


def _ceiling(read: Mapping[str, Sequence[NDArray[np.float64]]]) -> float:
    largest = max(
        (float(d[np.isfinite(d)].max()) for arrays in read.values() for d in arrays if d.size), default=1.0
    )
    return 1.08 * largest if largest > 0 else 1.0


def _diagram(
    figure: go.Figure,
    row: int,
    column: int,
    dimensions: Sequence[NDArray[np.float64]],
    ceiling: float,
    *,
    legend: bool,
) -> None:
    figure.add_scatter(
        x=[0, ceiling],
        y=[0, ceiling],
        mode="lines",
        line={"color": veil(0.6), "width": 1},
        hoverinfo="skip",
        showlegend=False,
        row=row,
        col=column,
    )
    for k, diagram in enumerate(dimensions):
        life = diagram[:, 1] - diagram[:, 0]
        longest = diagram[np.argsort(-life, kind="stable")[:_DRAWN]]
        endless = ~np.isfinite(longest[:, 1])
        symbol = _SYMBOLS[k % len(_SYMBOLS)]
        for mask, kind, size in ((~endless, symbol, 6), (endless, symbol + "-open", 10)):
            figure.add_scatter(
                x=longest[mask, 0],
                y=np.where(endless, ceiling, longest[:, 1])[mask],
                mode="markers",
                name=f"dimension {k}",
                legendgroup=str(k),
                showlegend=legend and kind == symbol,
                marker={
                    "size": size,
                    "color": CATEGORIES[k % len(CATEGORIES)],
                    "opacity": 0.75,
                    "symbol": kind,
                },
                text=["never" if e else f"{d:.4g}" for e, d in zip(endless[mask], longest[mask, 1])],
                hovertemplate=f"dimension {k}<br>born %{{x:.4g}}, dies %{{text}}<extra></extra>",
                row=row,
                col=column,
            )
    edge = [-0.03 * ceiling, 1.05 * ceiling]
    figure.update_xaxes(range=edge, zeroline=False, nticks=4, row=row, col=column)
    figure.update_yaxes(range=edge, zeroline=False, nticks=4, showticklabels=column == 1, row=row, col=column)


def _summary(figure: go.Figure, row: int, read: Mapping[str, Sequence[NDArray[np.float64]]]) -> None:
    names = list(read)
    for k in range(max(len(dimensions) for dimensions in read.values())):
        largest = np.full(len(names), np.nan)
        for depth, dimensions in enumerate(read.values()):
            if k < len(dimensions):
                life = dimensions[k][:, 1] - dimensions[k][:, 0]
                life = life[np.isfinite(life)]
                largest[depth] = life.max() if len(life) else 0.0
        figure.add_scatter(
            x=np.arange(len(names)),
            y=largest,
            mode="lines+markers",
            name=f"dimension {k}",
            legendgroup=str(k),
            showlegend=False,
            line={"color": CATEGORIES[k % len(CATEGORIES)], "width": 2.4},
            marker={"symbol": _SYMBOLS[k % len(_SYMBOLS)], "size": 7},
            hovertemplate="%{y:.4g}",
            row=row,
            col=1,
        )
    depth_ticks(figure, names, row=row, col=1)
    figure.update_xaxes(title_text="depth", row=row, col=1)
    figure.update_yaxes(rangemode="tozero", nticks=5, row=row, col=1)
