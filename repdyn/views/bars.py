"""Horizontal bars with intervals and values, named at their left."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from repdyn.views.theme import plain

__all__ = ["add_bars"]


def add_bars(
    figure: go.Figure, row: int, read: Mapping[str, tuple[float, float, float]], colors: Sequence[str]
) -> None:
    """One bar per estimate, from the top, with its interval and its printed value.

    Parameters
    ----------
    figure
        Of :func:`plotly.subplots.make_subplots` with one column.
    row
        The panel.
    read
        ``(value, low, high)`` by name; ends that are not finite are not drawn.
    colors
        One color per estimate.
    """
    value, low, high = np.array(list(read.values()), dtype=np.float64).T
    known = np.isfinite(low) & np.isfinite(high)
    figure.add_bar(
        x=value,
        y=list(range(len(read))),
        orientation="h",
        marker_color=list(colors),
        error_x={
            "array": np.where(known, high - value, 0.0),
            "arrayminus": np.where(known, value - low, 0.0),
            "thickness": 1.6,
            "width": 5,
        }
        if known.any()
        else None,
        customdata=[f" [{a:.3g}, {b:.3g}]" if k else "" for a, b, k in zip(low, high, known)],
        hovertemplate="%{x:.3g}%{customdata}<extra></extra>",
        row=row,
        col=1,
    )
    for k, (v, h) in enumerate(zip(value, np.where(known, high, value))):
        if np.isfinite(v):
            figure.add_annotation(x=max(v, h), y=k, text=f"{v:.3f}", xanchor="left", xshift=8, row=row, col=1)
    figure.update_yaxes(
        tickvals=list(range(len(read))),
        ticktext=[_two_lines(name) for name in read],
        autorange="reversed",
        showgrid=False,
        zeroline=False,
        tickfont_size=13,
        row=row,
        col=1,
    )
    top = float(np.nanmax(np.where(known, high, value)))
    right = 1.12 * top if top > 0 else 1.0
    left = min(0.0, float(np.nanmin(np.where(known, low, value))))
    figure.update_xaxes(range=[left, right], row=row, col=1)


def _two_lines(name: str) -> str:
    """A name in at most two lines, with space between it and its bar."""
    lines = [name] if len(name) <= 34 else textwrap.wrap(name, 26, max_lines=2, placeholder="…")
    return "<br>".join(plain(line, 34) + "  " for line in lines)
