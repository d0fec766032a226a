"""Attractors through training: basin shares, births, deaths and mergers."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike

from repdyn.errors import RepdynError
from repdyn.views.theme import CATEGORIES, OTHER, describe, panels

__all__ = ["tracking"]

_NAMED = len(CATEGORIES)
"""Attractors with a color of their own; the rest are one band."""


def tracking(steps: ArrayLike, shares: ArrayLike, counts: ArrayLike) -> go.Figure:
    """Basin shares through training, and below them the number of attractors, births, deaths and mergers.

    Parameters
    ----------
    steps
        Training step of each checkpoint, shape ``(T,)``.
    shares
        Share of the starts that each attractor holds, shape ``(T, A)``.
    counts
        Attractors, births, deaths, mergers; shape ``(T, 4)``.

    Returns
    -------
    plotly.graph_objects.Figure

    Raises
    ------
    RepdynError
        Where shapes disagree.
    """
    steps, shares, counts = np.asarray(steps), np.asarray(shares, dtype=float), np.asarray(counts)
    if shares.ndim != 2 or len(shares) != len(steps) or counts.shape != (len(steps), 4):
        raise RepdynError(
            f"tracking: {len(steps)} steps need shares (T, A) and counts (T, 4), got {shares.shape} and "
            f"{counts.shape}"
        )
    figure = panels(
        ["Share of the starts that each attractor holds", "Attractors, and what happened to them"],
        columns=1,
        height=620,
        shared_xaxes=True,
        vertical_spacing=0.12,
    )
    order = np.argsort(-shares.max(axis=0, initial=0.0), kind="stable")
    for rank, a in enumerate(order[:_NAMED]):
        _band(figure, steps, shares[:, a], f"attractor {a}", CATEGORIES[rank])
    rest = order[_NAMED:]
    if len(rest):
        _band(figure, steps, shares[:, rest].sum(axis=1), f"{len(rest)} smaller ones", OTHER)
    figure.add_scatter(
        x=steps, y=counts[:, 0], mode="lines+markers", name="attractors", line={"color": OTHER}, row=2, col=1
    )
    for column, (name, symbol) in enumerate(
        (("births", "triangle-up"), ("deaths", "x"), ("mergers", "diamond")), start=1
    ):
        seen = counts[:, column] > 0
        figure.add_scatter(
            x=steps[seen],
            y=counts[seen, column],
            mode="markers",
            name=name,
            marker={"symbol": symbol, "size": 10, "color": CATEGORIES[column - 1]},
            row=2,
            col=1,
        )
    figure.update_yaxes(tickformat=".0%", range=[0, 1], row=1, col=1)
    figure.update_yaxes(title_text="count", rangemode="tozero", row=2, col=1)
    figure.update_xaxes(title_text="training step", row=2, col=1)
    last = counts[-1]
    return describe(
        figure,
        "Attractors through training",
        "Bands are basins; one color is one attractor, tracked by continuation. The remaining height is the "
        "share of starts that reached none. Births, deaths and mergers are counted per checkpoint.",
        alt=f"Stacked bands of the basin shares of {shares.shape[1]} attractors at {len(steps)} checkpoints; "
        f"at the last there are {last[0]} attractors.",
    )


def _band(figure: go.Figure, steps: object, share: object, name: str, color: str) -> None:
    figure.add_scatter(
        x=steps,
        y=share,
        mode="lines",
        name=name,
        stackgroup="basins",
        line={"width": 0.5, "color": color},
        hovertemplate="%{y:.1%}",
        row=1,
        col=1,
    )
