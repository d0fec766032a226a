"""How much of one latent field another explains, iteration by iteration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike

from repdyn.errors import RepdynError
from repdyn.views.arguments import estimates
from repdyn.views.bands import add_series, style
from repdyn.views.theme import CATEGORIES, new_figure

__all__ = ["alignment"]


def alignment(
    steps: ArrayLike, explained: Mapping[str, Sequence[object]], control: Sequence[object]
) -> go.Figure:
    """Variance of one field's points explained by another's, along the iteration.

    Parameters
    ----------
    steps
        Iterations, shape ``(T,)``.
    explained
        Per quantity, T estimates (mappings or objects with ``value``, ``low``, ``high``).
    control
        T estimates with shuffled pairs.

    Returns
    -------
    plotly.graph_objects.Figure

    Raises
    ------
    RepdynError
        Where lengths differ.
    """
    at = np.asarray(steps)
    caption = (
        "Lines well above the control mean that one orthogonal map carries much of one field into the other; "
        "bands are confidence intervals, fitted and judged on different samples."
    )
    lines = [*explained.items(), ("shuffled pairs (control)", control)]
    last = ", ".join(f"{name} {estimates(values)[0][-1]:.2f}" for name, values in lines)
    figure = new_figure(
        "Alignment of two latent fields",
        caption,
        alt=f"Line chart of variance explained over {len(at)} iterations. At the last: {last}.",
    )
    for rank, (name, values) in enumerate(lines):
        if len(values) != len(at):
            raise RepdynError(f"alignment: {name!r} has {len(values)} estimates for {len(at)} iterations")
        ours = rank < len(explained)
        line = {"color": CATEGORIES[rank], "width": 3, "dash": "solid"} if ours else style(1)
        add_series(figure, at, estimates(values), name, line)
    figure.update_yaxes(title_text="share of variance explained", range=[min(-0.1, _lowest(lines)), 1.02])
    figure.update_xaxes(title_text="iteration")
    return figure


def _lowest(lines: Sequence[tuple[str, Sequence[object]]]) -> float:
    # Explained variance has no lower bound for a wrong map, so the axis is cut.
    return max(-1.0, float(min(np.nanmin(estimates(values)[0]) for _, values in lines)))
