"""The slider and the play and pause buttons of a figure whose frames are named by their number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["player"]

_BUTTONS = 24  # pixels between the slider and the buttons below it
_ROOM = 96  # pixels that slider and buttons take beyond their distance from the plot


def player(labels: Sequence[str], motion: Mapping[str, Any], below: int) -> dict[str, Any]:
    """Layout of a figure that plays.

    Parameters
    ----------
    labels
        Text of the slider at each frame.
    motion
        ``frame`` and ``transition`` of plotly's animation options.
    below
        Pixels between the plot and the slider.

    Returns
    -------
    dict
        Arguments of ``figure.update_layout``.
    """
    moving = {**motion, "mode": "immediate"}
    stop = {"frame": {"duration": 0, "redraw": False}, "mode": "immediate"}
    return {
        "sliders": [
            {
                "active": 0,
                "x": 0.17,
                "len": 0.83,
                "pad": {"t": below, "b": 0},
                "currentvalue": {"prefix": "", "xanchor": "left"},
                "tickwidth": 0,
                "minorticklen": 0,
                "steps": [
                    {"label": label, "method": "animate", "args": [[str(k)], moving]}
                    for k, label in enumerate(labels)
                ],
            }
        ],
        "updatemenus": [
            {
                "type": "buttons",
                "direction": "left",
                "showactive": False,
                "x": 0.0,
                "y": 0.0,
                "xanchor": "left",
                "yanchor": "top",
                "pad": {"t": below + _BUTTONS},
                "buttons": [
                    {"label": "▶", "method": "animate", "args": [None, {**moving, "fromcurrent": True}]},
                    {"label": "❚❚", "method": "animate", "args": [[None], stop]},
                ],
            }
        ],
        "margin": {"b": below + _ROOM, "l": 24},
    }
