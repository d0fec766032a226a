"""The translucent band of a line's intervals."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike

from repdyn.views.theme import INTERVAL_ALPHA, translucent

__all__ = ["add_band"]


def add_band(
    figure: go.Figure, x: ArrayLike, low: ArrayLike, high: ArrayLike, color: str, **placement: Any
) -> None:
    """Fill between the ends of intervals; where they are unknown (NaN) nothing is drawn.

    Parameters
    ----------
    figure
        Drawn into.
    x, low, high
        Shape ``(K,)`` each.
    color
        Of the line that the band belongs to.
    **placement
        Further properties of the trace: ``row``, ``col``, ``legendgroup``, ``name``.
    """
    at, lower, upper = (np.asarray(values, dtype=float) for values in (x, low, high))
    known = np.isfinite(lower) & np.isfinite(upper)
    if not known.any():
        return
    at, lower, upper = at[known], lower[known], upper[known]
    figure.add_scatter(
        x=np.concatenate([at, at[::-1]]),
        y=np.concatenate([upper, lower[::-1]]),
        fill="toself",
        mode="lines",
        line={"width": 0},
        fillcolor=translucent(color, INTERVAL_ALPHA),
        hoverinfo="skip",
        showlegend="name" in placement,
        **placement,
    )
