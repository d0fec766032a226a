"""What the verdict on a translation rests on: whether maps from disjoint halves of the data agree."""

from __future__ import annotations

from collections.abc import Mapping

import plotly.graph_objects as go

from repdyn.errors import RepdynError
from repdyn.views.arguments import estimate
from repdyn.views.bars import add_bars
from repdyn.views.theme import ACCENT, CONTROL, describe, panels

__all__ = ["replication"]


def replication(evidence: Mapping[str, object], verdict: str, reason: str) -> go.Figure:
    """Figures of two maps that were fitted on disjoint halves.

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
    figure = panels([""], columns=1, height=200 + 34 * len(read))
    tests = ("halves", "other half", "different map", "other clusters", "agreement with rivals")
    compares = [any(test in name for test in tests) for name in read]
    add_bars(figure, 1, read, [ACCENT if yes else CONTROL[0] for yes in compares])
    figure.update_layout(showlegend=False, margin_l=24)
    return describe(
        figure,
        "Do independent maps agree, and is there only one?",
        f"Verdict: {verdict}. {reason[:1].upper()}{reason[1:]}. Blue compares maps with each other; grey "
        "describes this map alone.",
        alt=f"Bar chart, verdict {verdict}: " + ", ".join(f"{n} {v[0]:.3g}" for n, v in read.items()) + ".",
    )
