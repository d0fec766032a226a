"""Dynamics through depth: phases that share one map, and gains of perturbations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from repdyn.errors import RepdynError
from repdyn.views.arguments import estimates
from repdyn.views.bands import add_series, style, symbol
from repdyn.views.depths import depth_ticks
from repdyn.views.fidelity import fidelity
from repdyn.views.theme import CONTROL, describe, panels

__all__ = ["gain", "phases"]


def phases(
    point_names: Sequence[str],
    fvu: Mapping[str, Sequence[object]],
    starts: Sequence[int],
    verdict: str,
) -> go.Figure:
    """Unexplained variance of a step by maps of phases and by simpler and larger models, at each depth.

    Parameters
    ----------
    point_names
        The points that steps lead to, in order of depth.
    fvu
        As for :func:`repdyn.views.fidelity.fidelity`; the first are the maps of phases.
    starts
        Number of the first step of each phase, from 0 on.
    verdict
        The verdict.

    Returns
    -------
    plotly.graph_objects.Figure
    """
    figure = fidelity(point_names, fvu)
    for start in starts[1:]:
        figure.add_vline(x=start - 0.5, line={"width": 1, "dash": "dot", "color": CONTROL[0]})
    marked = "; a vertical line marks the start of a phase" if len(starts) > 1 else ""
    caption = (
        f"Verdict: {verdict}. Phases: {len(starts)}{marked}. Lower is better. One map for all steps is the "
        "simplest model, a map per step the largest. Bands are 95 % intervals."
    )
    return describe(figure, "Phases of depth", caption, f"{caption} {figure.layout.meta['alt']}")


def gain(
    point_names: Sequence[str], series: Mapping[str, Sequence[object]], target: str, verdict: str
) -> go.Figure:
    """Gain of a unit perturbation at each depth.

    Parameters
    ----------
    point_names
        Where the perturbation is added, L points in order of depth.
    series
        L estimates (mappings or objects with ``value``, ``low``, ``high``) by name; the first is the fitted
        gain.
    target
        Name of the point that moves.
    verdict
        The verdict.

    Returns
    -------
    plotly.graph_objects.Figure

    Raises
    ------
    RepdynError
        Where lengths differ.
    """
    figure = panels([f"Move of {target} for a unit perturbation"], columns=1, height=440)
    shown = []
    for rank, (name, given) in enumerate(series.items()):
        if len(given) != len(point_names):
            raise RepdynError(f"gain: {name!r} has {len(given)} estimates for {len(point_names)} points")
        values = estimates(given)
        add_series(figure, np.arange(len(given)), values, name, style(rank), symbol(rank), row=1, col=1)
        shown.append(f"{name} {values[0][0]:.3g} to {values[0][-1]:.3g}")
    figure.update_yaxes(rangemode="tozero", title_text="gain")
    depth_ticks(figure, point_names)
    figure.update_xaxes(title_text="point of the perturbation")
    figure.update_layout(hovermode="x unified")
    known = " The gray line is measured by Jacobians of the model." if len(series) > 1 else ""
    caption = (
        f"Verdict: {verdict}. Root mean square move of the last point, by maps of single tokens.{known} "
        "Bands are 95 % intervals."
    )
    alt = f"Line chart of the gain at {len(point_names)} depths, first to last: {', '.join(shown)}."
    return describe(figure, "Sensitivity through depth", caption, alt)
