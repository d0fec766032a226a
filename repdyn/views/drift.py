"""A stream over time: the share of it that is flagged, and which depth has moved."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike
from plotly.subplots import make_subplots

from repdyn.errors import RepdynError
from repdyn.views.arguments import estimate, estimates
from repdyn.views.bands import add_band, add_series, style
from repdyn.views.depths import depth_ticks
from repdyn.views.notebook import CellFigure
from repdyn.views.theme import CONTROL, describe

__all__ = ["drift"]


def drift(
    end: ArrayLike,
    flagged: Sequence[object],
    expected: object,
    points: Sequence[str],
    shift: Sequence[object],
    verdict: str,
) -> go.Figure:
    """Share flagged in each window of a stream, and the mean distance at each depth in the last one.

    Parameters
    ----------
    end
        Number of the last sample of each window, shape ``(W,)``.
    flagged
        W estimates (mappings or objects with ``value``, ``low``, ``high``).
    expected
        An estimate: what is flagged of data like the calibration's.
    points
        Names of the depths, L of them; empty where there is no profile.
    shift
        L estimates, 0 is usual.
    verdict
        Whether the last window has drifted.

    Returns
    -------
    plotly.graph_objects.Figure
    """
    x = np.asarray(end, dtype=float)
    if len(x) != len(flagged) or len(points) != len(shift):
        raise RepdynError(
            f"drift: {len(x)} windows, {len(flagged)} shares; {len(points)} points, {len(shift)} shifts"
        )
    rows = 2 if len(points) else 1
    figure = make_subplots(rows=rows, cols=1, vertical_spacing=0.22 if rows == 2 else 0, figure=CellFigure())
    value, low, high = estimate(expected)
    span = np.array([0.0, float(x[-1])])
    add_band(figure, span, np.full(2, low), np.full(2, high), CONTROL[0], name="expected", row=1, col=1)
    add_series(figure, x, estimates(flagged), "flagged", style(0), row=1, col=1)
    figure.update_xaxes(title_text="samples seen", row=1, col=1)
    figure.update_yaxes(title_text="share flagged", tickformat=".0%", rangemode="tozero", row=1, col=1)
    if rows == 2:
        add_series(
            figure, np.arange(len(points)), estimates(shift), "last window", style(0),
            row=2, col=1, showlegend=False,
        )  # fmt: skip
        depth_ticks(figure, points, row=2, col=1)
        figure.update_xaxes(title_text="depth", row=2, col=1)
        figure.update_yaxes(title_text="mean distance (0 is usual)", row=2, col=1)
    figure.update_layout(height=340 * rows)
    last = estimates(flagged)[:, -1]
    return describe(
        figure,
        "Drift of a stream",
        f"Verdict: {verdict}. Drift is found where the line's band leaves the expected one. Depths whose "
        "band leaves 0 have moved.",
        alt=f"Share flagged in {len(x)} windows; in the last {last[0]:.1%} "
        f"[{last[1]:.1%}, {last[2]:.1%}], expected {value:.1%}.",
    )
