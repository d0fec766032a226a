"""Probe accuracy of the static and the dynamic part at each depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from repdyn.errors import RepdynError
from repdyn.views.arguments import estimates
from repdyn.views.bands import add_series, style, symbol
from repdyn.views.depths import depth_ticks
from repdyn.views.theme import CONTROL, describe, panels

__all__ = ["depth_factors"]


def depth_factors(
    point_names: Sequence[str],
    probes: Mapping[str, Mapping[str, Sequence[object]]],
    majority: float,
    verdict: str,
) -> go.Figure:
    """Accuracy of a probe for the label at each depth, a panel for each part of the representation.

    Parameters
    ----------
    point_names
        The L points in order of depth.
    probes
        Per split, per part, L estimates (mappings or objects with ``value``, ``low``, ``high``). The first
        split is the fitted model, the others are its controls.
    majority
        Accuracy at chance.
    verdict
        Whether the static part of the first split beats its controls'.

    Returns
    -------
    plotly.graph_objects.Figure

    Raises
    ------
    RepdynError
        Where lengths or parts differ.
    """
    if not probes:
        raise RepdynError("depth_factors: there is no split; give at least one")
    parts = list(next(iter(probes.values())))
    figure = panels(
        [f"{part} part" for part in parts],
        columns=1,
        height=200 + 240 * len(parts),
        shared_xaxes=True,
        vertical_spacing=0.11,
    )
    for rank, (split, rows) in enumerate(probes.items()):
        if list(rows) != parts:
            raise RepdynError(f"depth_factors: {split!r} has the parts {list(rows)}, the first {parts}")
        for row, part in enumerate(parts, start=1):
            if len(rows[part]) != len(point_names):
                raise RepdynError(
                    f"depth_factors: {split!r} has {len(rows[part])} estimates for {len(point_names)} points"
                )
            legend = split if rank == 0 else f"{split} (control)"
            x, values = np.arange(len(point_names)), estimates(rows[part])
            add_series(
                figure, x, values, legend, style(rank), symbol(rank), showlegend=row == 1, row=row, col=1
            )
    for row in range(1, len(parts) + 1):
        figure.add_hline(y=majority, row=row, col=1, line={"width": 1, "dash": "dot", "color": CONTROL[0]})
    figure.update_yaxes(tickformat=".0%", rangemode="tozero")
    depth_ticks(figure, point_names)
    figure.update_xaxes(title_text="depth", row=len(parts), col=1)
    figure.update_layout(hovermode="x unified")
    last = ", ".join(
        f"{split} {part} {estimates(rows[part])[0][-1]:.3g}"
        for split, rows in probes.items()
        for part in parts
    )
    return describe(
        figure,
        "Static and dynamic factors through depth",
        f"Verdict: {verdict}. Accuracy of a linear probe for the label. The solid line of the static part "
        "should lie above the controls', splits of the same rank that do not use dynamics; dotted: "
        "the most frequent label. Bands are confidence intervals.",
        alt=f"Line chart of probe accuracy at {len(point_names)} depths. At {point_names[-1]}: {last}.",
    )
