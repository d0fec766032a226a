"""Similarity of two models at all pairs of depths, or of two points with what chance gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from repdyn.errors import RepdynError
from repdyn.views.bars import add_bars
from repdyn.views.depths import short
from repdyn.views.theme import CATEGORIES, CONTROL, describe, panels

__all__ = ["comparison"]

_LONGEST = 18  # characters of a point's name beside a map


def comparison(
    points_a: Sequence[str],
    points_b: Sequence[str],
    depths: Mapping[str, tuple[NDArray[np.float64], float]],
    measures: Mapping[str, tuple[Mapping[str, float], float]],
    verdict: str,
    trees: Mapping[str, Mapping[str, float]],
) -> go.Figure:
    """A map of similarities for each measure; of one pair of points, bars.

    Parameters
    ----------
    points_a, points_b
        Names of the points, in order of depth.
    depths
        ``(values (L_a, L_b), value by chance)`` of each measure.
    measures
        ``({"value", "low", "high"}, value by chance)`` of each measure at the last points.
    verdict
        The verdict.
    trees
        ``{"value", "low", "high"}`` of each distance of trees.

    Returns
    -------
    plotly.graph_objects.Figure

    Raises
    ------
    RepdynError
        If there is nothing to draw.
    """
    if not measures and not trees:
        raise RepdynError("comparison: nothing was measured, so nothing is drawn")
    title = "How alike two models are"
    if depths and max(values.size for values, _ in depths.values()) > 1:
        names = [f"{name} (by chance {chance:.2f})" for name, (_, chance) in depths.items()]
        figure = panels(names, columns=len(depths), height=460, horizontal_spacing=0.16)
        for k, (values, _) in enumerate(depths.values(), start=1):
            figure.add_heatmap(
                z=values,
                x=[f"{n} {short(p, _LONGEST)}" for n, p in enumerate(points_b)],
                y=[f"{n} {short(p, _LONGEST)}" for n, p in enumerate(points_a)],
                zmin=0,
                zmax=1,
                colorscale="Viridis",
                showscale=k == len(depths),
                texttemplate="%{z:.2f}" if values.size <= 100 else None,
                row=1,
                col=k,
            )
            figure.update_xaxes(title_text="B", row=1, col=k)
            figure.update_yaxes(title_text="A" if k == 1 else None, row=1, col=k)
        caption = (
            f"Verdict: {verdict}. Each cell is one depth of A against one of B. The value by chance is what "
            "the best of all cells reaches with the samples in random order, in one of twenty cases."
        )
        best = ", ".join(f"{name} up to {values.max():.2f}" for name, (values, _) in depths.items())
        return describe(
            figure, title, caption, f"Maps of similarity between the depths of two models: {best}."
        )
    shown, colors = {}, []
    for name, (value, chance) in measures.items():
        shown[name] = (value["value"], value["low"], value["high"])
        shown[f"{name}, by chance"] = (chance, chance, chance)
        colors += [CATEGORIES[0], CONTROL[0]]
    for name, value in trees.items():
        shown[f"trees, {name}"] = (value["value"], value["low"], value["high"])
        colors.append(CONTROL[0] if name.startswith("halves") else CATEGORIES[0])
    figure = panels([""], columns=1, height=160 + 34 * len(shown))
    add_bars(figure, 1, shown, colors)
    caption = f"Verdict: {verdict}. Controls are gray: samples in random order, and two halves of one model."
    return describe(
        figure, title, caption, f"Bars: {', '.join(f'{n} {v[0]:.2f}' for n, v in shown.items())}."
    )
