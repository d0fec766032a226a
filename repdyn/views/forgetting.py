"""Accuracy before and after an unlearning edit, attacks on it, and the excitation of modes by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike

from repdyn.errors import RepdynError
from repdyn.views.arguments import finite
from repdyn.views.theme import CATEGORIES, SEQUENTIAL, category_colors, new_figure, plain, veil

__all__ = ["attack", "excitation", "forgetting"]

_MOST = 40  # classes or modes drawn
_TARGET, _OTHERS = CATEGORIES[5], CATEGORIES[0]

Pair = Mapping[str, Mapping[str, float]]


def forgetting(forgotten: Pair, retained: Pair, per_class: Mapping[str, Pair]) -> go.Figure:
    """Accuracy of the forgotten and the retained classes before and after an edit.

    Parameters
    ----------
    forgotten, retained
        ``{"before": {"value", "low", "high"}, "after": …}``.
    per_class
        The same for each retained class; of many, those with the largest loss are drawn.

    Returns
    -------
    plotly.graph_objects.Figure
    """
    worst = sorted(per_class.items(), key=lambda item: item[1]["after"]["value"] - item[1]["before"]["value"])
    rows: list[tuple[str, Pair, str]] = [("forgotten class", forgotten, _TARGET)]
    rows += [("retained classes", retained, _OTHERS)]
    rows += [(f"class {plain(name, 24)}", pair, _OTHERS) for name, pair in worst[:_MOST]]
    left = f", the {_MOST} of {len(worst)} classes that lost most" if len(worst) > _MOST else ""
    after, before = forgotten["after"]["value"], forgotten["before"]["value"]
    figure = new_figure(
        "What the edit forgot",
        f"Accuracy of the forgotten class: {before:.3f} to {after:.3f}; of the retained classes: "
        f"{retained['before']['value']:.3f} to {retained['after']['value']:.3f}. Hollow: before the edit; "
        f"filled: after it; 95 % intervals{left}.",
        alt=f"Accuracy before and after the edit for {len(rows)} groups of samples.",
        height=200 + 34 * len(rows),
    )
    for place, (name, pair, color) in enumerate(rows):
        for when, symbol, beside in (("before", "circle-open", -0.14), ("after", "circle", 0.14)):
            legend = f"{when} the edit"
            _mark(figure, place + beside, name, pair[when], color, symbol, legend, first=place == 0)
    _rows(figure, [name for name, _, _ in rows])
    return figure


def attack(figures: Mapping[str, Mapping[str, Mapping[str, float]]], chance: float) -> go.Figure:
    """Recovery of a forgotten class by attacks, for each model.

    Parameters
    ----------
    figures
        ``{model: {figure: {"value", "low", "high"}}}``.
    chance
        Accuracy of the probe at chance.

    Returns
    -------
    plotly.graph_objects.Figure
    """
    if not figures:
        raise RepdynError("attack: there is no model to draw")
    whats = list(next(iter(figures.values())))
    figure = new_figure(
        "Can the forgotten class be recovered?",
        f"Each model under the same attacks, with 95 % intervals. The probe's figure is a balanced accuracy "
        f"(chance: {chance:g}); the others are accuracies. If the class is removed, the attacks recover no "
        "more than from a network trained without it.",
        alt=f"{len(whats)} figures of {len(figures)} models under attack.",
        height=220 + 18 * len(whats) * len(figures),
    )
    colors = category_colors(len(whats))
    for rank, (what, color) in enumerate(zip(whats, colors)):
        beside = 0.7 * ((rank + 0.5) / len(whats) - 0.5)  # each attack has its own line in the model's row
        for place, (name, values) in enumerate(figures.items()):
            _mark(figure, place + beside, plain(name), values[what], color, "circle", what, first=place == 0)
    figure.add_vline(x=chance, line={"color": veil(0.9), "width": 1, "dash": "dot"})
    _rows(figure, [plain(name) for name in figures])
    return figure


def excitation(by_class: ArrayLike, classes: Sequence[str], certified: ArrayLike) -> go.Figure:
    """Mean amplitude of each class in each mode, relative to the typical amplitude of the mode.

    Parameters
    ----------
    by_class
        Shape ``(C, K)``.
    classes
        Names of the classes.
    certified
        Shape ``(K,)``: which modes the data certify; marked on the axis.

    Returns
    -------
    plotly.graph_objects.Figure
    """
    values = finite("excitation: by_class", by_class, shape=(len(classes), None))
    true = np.asarray(certified, dtype=bool)
    if true.shape != (values.shape[1],):
        raise RepdynError(f"excitation: certified must have shape ({values.shape[1]},), got {true.shape}")
    shown_modes, shown_classes = min(values.shape[1], _MOST), min(len(classes), _MOST)
    figure = new_figure(
        "Which classes excite which mode",
        "Mean amplitude of the eigenfunction over a class; 1 is typical for the mode. Modes are sorted by "
        "falling modulus of their eigenvalue; a star marks certified modes.",
        alt=f"Amplitudes of {values.shape[1]} modes in {len(classes)} classes, {int(true.sum())} certified.",
        height=240 + 18 * shown_classes,
    )
    figure.add_heatmap(
        z=values[:shown_classes, :shown_modes].astype(np.float32),
        x=[f"{k}{' ★' if true[k] else ''}" for k in range(shown_modes)],
        y=[plain(name, 24) for name in classes[:shown_classes]],
        colorscale=[[at, color] for at, color in SEQUENTIAL],
        zmin=0,
        colorbar={"title": {"text": "amplitude"}, "len": 0.9},
        hovertemplate="mode %{x}, class %{y}: %{z:.2f}<extra></extra>",
    )
    figure.update_xaxes(title_text="mode", type="category")
    figure.update_yaxes(type="category")
    return figure


def _rows(figure: go.Figure, names: Sequence[str]) -> None:
    """Name the rows 0, 1, … from the top, on an axis of accuracies."""
    figure.update_yaxes(
        tickvals=list(range(len(names))),
        ticktext=[name + "  " for name in names],
        range=[len(names) - 0.5, -0.5],
        showgrid=False,
        zeroline=False,
    )
    figure.update_xaxes(title_text="accuracy", range=[-0.03, 1.03], zeroline=False)


def _mark(
    figure: go.Figure,
    place: float,
    row: str,
    values: Mapping[str, Any],
    color: str,
    symbol: str,
    name: str,
    *,
    first: bool,
) -> None:
    low, high = values.get("low", np.nan), values.get("high", np.nan)
    figure.add_scatter(
        x=[values["value"]],
        y=[place],
        mode="markers",
        name=name,
        legendgroup=name,
        showlegend=first,
        marker={"size": 11, "color": color, "symbol": symbol, "line": {"width": 2, "color": color}},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [max(0.0, high - values["value"])],
            "arrayminus": [max(0.0, values["value"] - low)],
            "color": color,
            "thickness": 1.4,
            "width": 4,
        },
        hovertemplate=f"{row}, {name}: %{{x:.3f}}<extra></extra>",
    )
