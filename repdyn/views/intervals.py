"""Bar chart of the figures of any result with their intervals."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import plotly.graph_objects as go

from repdyn.errors import RepdynError
from repdyn.views.bars import add_bars
from repdyn.views.theme import CATEGORIES, CONTROL, describe, panels

__all__ = ["intervals"]

_MOST = 30  # rows drawn


def intervals(
    title: str,
    figures: Mapping[str, tuple[float, float, float]],
    controls: Collection[str] = (),
    caption: str = "",
) -> go.Figure:
    """Horizontal bars with 95 % intervals.

    Parameters
    ----------
    title
        Title of the picture.
    figures
        ``(value, low, high)`` by name; of more than 30, the first 30 are drawn, which the caption notes.
    controls
        Names of those that are drawn gray.
    caption
        Written before what is said of the intervals.

    Returns
    -------
    plotly.graph_objects.Figure

    Raises
    ------
    RepdynError
        If there is none.
    """
    if not figures:
        raise RepdynError("intervals: there is no figure to draw; give at least one")
    shown = dict(list(figures.items())[:_MOST])
    left = f" The first {_MOST} of {len(figures)} figures are drawn." if len(figures) > _MOST else ""
    figure = panels([""], columns=1, height=160 + 34 * len(shown))
    add_bars(figure, 1, shown, [CONTROL[0] if name in controls else CATEGORIES[0] for name in shown])
    alt = f"{title}: {len(shown)} figures with their intervals."
    return describe(figure, title, f"{caption} Each figure with its 95 % interval.{left}".strip(), alt)
