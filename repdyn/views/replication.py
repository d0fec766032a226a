"""The evidence for the verdict on a translation: agreement of maps from disjoint halves of the data."""

from __future__ import annotations

from collections.abc import Mapping

import plotly.graph_objects as go

from repdyn.errors import RepdynError
from repdyn.views.arguments import estimate
from repdyn.views.bars import add_bars
from repdyn.views.theme import ACCENT, CONTROL, describe, panels

__all__ = ["replication"]

COMPARES = (
    "halves",
    "other half",
    "different map",
    "other clusters",
    "agreement with rivals",
    "standard errors",
)
"""Substrings in names of figures that compare maps with each other."""

COUNTS = ("standard errors", "maps that fit", "directions")
"""Substrings in names of figures that are not shares; these have their own axis."""


def replication(evidence: Mapping[str, object], verdict: str, reason: str) -> go.Figure:
    """Figures of two maps that were fitted on disjoint halves, and of rivals.

    Parameters
    ----------
    evidence
        Numbers or estimates by name. Those that compare the two maps stand out from those of either alone.
    verdict
        A verdict such as ``"found"``, ``"ambiguous"`` or ``"not found"``.
    reason
        Why.

    Returns
    -------
    plotly.graph_objects.Figure
    """
    if not evidence:
        raise RepdynError("replication: there is no evidence to draw; the translation was not derived")
    read = {name: estimate(value) for name, value in evidence.items()}
    counts = {name: value for name, value in read.items() if any(word in name for word in COUNTS)}
    shares = {name: value for name, value in read.items() if name not in counts}
    parts = [part for part in (shares, counts) if part]
    figure = panels(
        [""] * len(parts),
        columns=1,
        height=200 + 34 * len(read) + 40 * (len(parts) - 1),
        row_heights=[len(part) for part in parts],
        vertical_spacing=0.1,
    )
    for row, part in enumerate(parts, start=1):
        compares = [any(word in name for word in COMPARES) for name in part]
        add_bars(figure, row, part, [ACCENT if yes else CONTROL[0] for yes in compares])
    figure.update_layout(showlegend=False, margin_l=24)
    return describe(
        figure,
        "Do independent maps agree, and is there only one?",
        f"Verdict: {verdict}. {reason[:1].upper()}{reason[1:]}. Blue compares maps with each other; gray "
        "describes this map alone.",
        alt=f"Bar chart, verdict {verdict}: " + ", ".join(f"{n} {v[0]:.3g}" for n, v in read.items()) + ".",
    )
