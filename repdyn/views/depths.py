"""The axis of depths: which points are named below it, and by how much of their name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from repdyn.views.theme import plain

__all__ = ["depth_ticks", "short"]

_MOST_NAMED = 12  # names that fit below a plot of 800 pixels
_CHARACTERS = 96  # that fit there side by side, at the size of tick labels


def depth_ticks(figure: go.Figure, names: Sequence[str], **placement: Any) -> None:
    """Name depths 0, 1, … on an x axis; of many, every second, third … is named.

    Parameters
    ----------
    figure
        Drawn into.
    names
        The points in order of depth.
    **placement
        ``row`` and ``col``, where the figure has panels.
    """
    named = range(0, len(names), max(1, -(-len(names) // _MOST_NAMED)))
    figure.update_xaxes(
        tickvals=list(named),
        ticktext=[short(names[k], _CHARACTERS // len(named)) for k in named],
        ticklabeloverflow="allow",  # the last name reaches beyond the plot, and is not to be hidden for it
        **placement,
    )


def short(name: str, limit: int) -> str:
    """A point's name cut at its front: ``encoder.layer.4`` and ``encoder.layer.5`` differ at their ends.

    Examples
    --------
    >>> short("encoder.layer.5", 9)
    'layer.5'
    >>> short("a_very_long_stem", 9)
    '…ong_stem'
    """
    limit = max(limit, 8)
    line = " ".join(str(name)[-400:].split())
    if len(line) <= limit:
        return plain(line, limit)
    whole = line[-limit - 1 :].partition(".")[2]  # from a dot on, where that leaves more than a number
    return plain(whole if len(whole) > 3 else "…" + line[1 - limit :], limit)
