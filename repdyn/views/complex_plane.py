"""Parts of eigenvalue pictures: the unit circle, and marks of certified and other eigenvalues."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from repdyn.views.theme import OTHER, veil

__all__ = ["add_eigenvalues", "add_unit_circle"]


def add_unit_circle(figure: go.Figure, **placement: Any) -> None:
    """The circle on which a mode lasts."""
    angle = np.linspace(0, 2 * np.pi, 181)
    figure.add_scatter(
        x=np.cos(angle),
        y=np.sin(angle),
        mode="lines",
        line={"color": veil(0.85), "width": 1.2},
        hoverinfo="skip",
        showlegend=False,
        **placement,
    )


def add_eigenvalues(
    figure: go.Figure,
    values: NDArray[np.complex128],
    certified: NDArray[np.bool_],
    residual: NDArray[np.float64] | None,
    color: str,
    size: int,
    doubtful: str = OTHER,
    **placement: Any,
) -> None:
    """Eigenvalues, filled where the data certify them and hollow where not; each has a hover text.

    Parameters
    ----------
    figure
        The figure to draw into.
    values
        Shape ``(K,)``.
    certified
        Shape ``(K,)``.
    residual
        Shape ``(K,)``, or ``None`` where marks have no residual.
    color, doubtful
        Colors of certified eigenvalues and of all others.
    size
        Size of a mark in pixels.
    **placement
        ``row`` and ``col``.
    """
    hover = "|λ| = %{customdata[1]:.3f}, angle %{customdata[2]:.2f} rad per step"
    hover += "" if residual is None else "<br>residual %{customdata[3]:.3g}"
    for mask, name, paint, symbol in (
        (~certified, "not certified", doubtful, "circle-open"),
        (certified, "certified", color, "circle"),
    ):
        some = values[mask]
        columns = [np.flatnonzero(mask), np.abs(some), np.angle(some)]
        columns += [] if residual is None else [residual[mask]]
        figure.add_scatter(
            x=some.real,
            y=some.imag,
            mode="markers",
            name=name,
            legendgroup=name,
            marker={"size": size, "color": paint, "symbol": symbol, "opacity": 0.9},
            customdata=np.stack(columns, axis=1),
            hovertemplate=hover + "<extra></extra>",
            **placement,
        )
