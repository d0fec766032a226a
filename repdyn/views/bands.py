"""Lines with interval bands: a strong line for ours, distinct gray lines for the controls."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike, NDArray

from repdyn.views.theme import ACCENT, CONTROL, INTERVAL_ALPHA, plain, translucent

__all__ = ["add_band", "add_series", "style", "symbol"]

_DASHES = ("dash", "dot", "dashdot", "longdash", "longdashdot", "solid")
_SYMBOLS = ("square", "diamond", "triangle-up", "x", "triangle-down", "cross")
_CONTROL_ALPHA = 0.07  # low, because bands of many controls overlap and must not cover ours


def style(rank: int) -> dict[str, Any]:
    """Line of the model in question (0), or of its n-th control: grey, distinguished by dash."""
    if rank == 0:
        return {"color": ACCENT, "width": 3, "dash": "solid"}
    return {
        "color": CONTROL[(rank - 1) % len(CONTROL)],
        "width": 1.6,
        "dash": _DASHES[(rank - 1) % len(_DASHES)],
    }


def symbol(rank: int) -> str:
    """Marker of the model in question (0), or of its n-th control."""
    return "circle" if rank == 0 else _SYMBOLS[(rank - 1) % len(_SYMBOLS)]


def add_series(
    figure: go.Figure,
    x: ArrayLike,
    estimates: NDArray[np.float64],
    name: str,
    line: dict[str, Any],
    marker: str = "circle",
    **placement: Any,
) -> None:
    """A line through estimates, in the band of their intervals; the pointer shows both.

    Parameters
    ----------
    figure
        The figure to draw into.
    x
        Shape ``(K,)``.
    estimates
        Shape ``(3, K)``: values, low ends, high ends.
    name
        Name in the legend.
    line
        Its color, width and dash, as of :func:`style`.
    marker
        Its symbol, as of :func:`symbol`.
    **placement
        Further properties of the line: ``row``, ``col``, ``showlegend``.
    """
    value, low, high = estimates
    where = {key: placement[key] for key in ("row", "col") if key in placement}
    strong = line["width"] > 2
    alpha = INTERVAL_ALPHA if strong else _CONTROL_ALPHA
    add_band(figure, x, low, high, line["color"], alpha=alpha, legendgroup=name, **where)
    figure.add_scatter(
        x=np.asarray(x),
        y=value,
        mode="lines+markers",
        name=plain(name),
        legendgroup=name,
        customdata=[
            f" [{a:.3g}, {b:.3g}]" if np.isfinite(a) and np.isfinite(b) else "" for a, b in zip(low, high)
        ],
        hovertemplate="%{y:.3g}%{customdata}",
        line=line,
        marker={"size": 7 if strong else 6, "symbol": marker},
        **placement,
    )


def add_band(
    figure: go.Figure,
    x: ArrayLike,
    low: ArrayLike,
    high: ArrayLike,
    color: str,
    alpha: float = INTERVAL_ALPHA,
    **placement: Any,
) -> None:
    """Fill between the ends of intervals; where they are unknown (NaN) nothing is drawn.

    Parameters
    ----------
    figure
        The figure to draw into.
    x, low, high
        Shape ``(K,)`` each.
    color
        Color of the line of this band.
    alpha
        Opacity.
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
        fillcolor=translucent(color, alpha),
        hoverinfo="skip",
        showlegend="name" in placement,
        **placement,
    )
