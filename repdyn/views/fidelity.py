"""Prediction error of a model of the path at each depth, with controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from repdyn.errors import RepdynError
from repdyn.views.arguments import estimates
from repdyn.views.bands import add_series, style, symbol
from repdyn.views.depths import depth_ticks
from repdyn.views.theme import CONTROL, OTHER, describe, panels

__all__ = ["fidelity"]

_LOG_BEYOND = 30.0  # a ratio of largest to smallest FVU at which a linear axis hides the small ones


def fidelity(
    point_names: Sequence[str],
    fvu: Mapping[str, Sequence[object]],
    accuracy: Mapping[str, Sequence[object]] | None = None,
) -> go.Figure:
    """Fraction of variance unexplained, and accuracy, at each depth.

    Parameters
    ----------
    point_names
        The L points in order of depth.
    fvu
        Per model, L estimates (mappings or objects with ``value``, ``low``, ``high``). The first is the
        one in question, all others are its controls.
    accuracy
        Likewise, for accuracies, or ``None``.

    Returns
    -------
    plotly.graph_objects.Figure

    Raises
    ------
    RepdynError
        Where lengths differ or a quantity has no finite value.
    """
    quantities = [("Fraction of variance unexplained (lower is better)", "FVU", fvu)]
    if accuracy:
        quantities.append(("Accuracy (higher is better)", "accuracy", accuracy))
    read = [_read(what, models, len(point_names)) for _, what, models in quantities]
    figure = panels(
        [title for title, _, _ in quantities],
        columns=1,
        height=200 + 260 * len(quantities),
        shared_xaxes=True,
        vertical_spacing=0.11,
    )
    # A model has one color in both panels, whichever of them it appears in.
    names = list(dict.fromkeys(name for models in read for name in models))
    for row, models in enumerate(read, start=1):
        for name, values in models.items():
            # What has an accuracy and nothing unexplained is the true representation: no control, a ceiling.
            role = "control" if name in read[0] else "ceiling"
            shown = row == 1 or role == "ceiling"
            _draw(figure, row, names.index(name), name, values, shown=shown, role=role)
    values = np.concatenate([v[0] for v in read[0].values()])
    values = values[np.isfinite(values) & (values > 0)]
    if len(values) and values.max() / values.min() > _LOG_BEYOND:
        # 0.1, 0.2, 0.5, 1, 2, …, each written out: plotly would shorten what lies between to its first digit.
        decades = np.arange(np.floor(np.log10(values.min())), np.ceil(np.log10(values.max())) + 1)
        ticks = np.outer(10.0**decades, (1, 2, 5)).ravel()
        figure.update_yaxes(
            type="log", row=1, col=1, tickvals=ticks.tolist(), ticktext=[f"{tick:g}" for tick in ticks]
        )
    else:
        figure.update_yaxes(rangemode="tozero", row=1, col=1)
    # Error 1 is that of predicting the mean.
    figure.add_hline(y=1, row=1, col=1, line={"width": 1, "dash": "dot", "color": CONTROL[0]})
    if accuracy:
        figure.update_yaxes(tickformat=".0%", row=2, col=1)
    depth_ticks(figure, point_names)
    figure.update_xaxes(title_text="depth", row=len(read), col=1)
    figure.update_layout(hovermode="x unified")
    ours = names[0]
    return describe(
        figure,
        "Fidelity through depth",
        f"Unexplained variance: where a control lies below the line of {ours}, the control wins. "
        "Bands are 95 % intervals; 1 (dotted) is what predicting the mean gives.",
        alt=_alt(ours, read[0], point_names),
    )


def _read(what: str, models: Mapping[str, Sequence[object]], depths: int) -> dict[str, NDArray[np.float64]]:
    if not models:
        raise RepdynError(f"fidelity: {what} names no model; give at least one")
    read = {}
    for name, given in models.items():
        if len(given) != depths:
            raise RepdynError(f"fidelity: {what} of {name!r} has {len(given)} estimates for {depths} points")
        read[str(name)] = estimates(given)
    if not any(np.isfinite(values[0]).any() for values in read.values()):
        raise RepdynError(f"fidelity: {what} holds no finite number, so there is nothing to draw")
    return read


def _draw(
    figure: go.Figure, row: int, rank: int, name: str, values: NDArray[np.float64], *, shown: bool, role: str
) -> None:
    line = style(rank) if role != "ceiling" else {"color": OTHER, "width": 1, "dash": "solid"}
    legend = name if rank == 0 else f"{name} ({role})"
    marker = symbol(rank) if role != "ceiling" else "circle"
    at = np.arange(values.shape[1])
    add_series(figure, at, values, legend, line, marker, showlegend=shown, row=row, col=1)


def _alt(ours: str, fvu: Mapping[str, NDArray[np.float64]], point_names: Sequence[str]) -> str:
    last = ", ".join(f"{name} {values[0][-1]:.3g}" for name, values in fvu.items())
    return (
        f"Line chart of the fraction of variance unexplained at {len(point_names)} depths for {ours} and "
        f"{len(fvu) - 1} controls. At the last point, {point_names[-1]}: {last}."
    )
