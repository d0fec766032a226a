"""What a translation is worth, beside its controls, and which classes it confuses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike, NDArray
from plotly.subplots import make_subplots

from repdyn.errors import RepdynError
from repdyn.views.arguments import estimate, finite
from repdyn.views.theme import ACCENT, CONTROL, SEQUENTIAL, describe, new_figure, plain, veil

__all__ = ["translation"]

_SHOWN_CLASSES = 60  # labelled rows that a reader can tell apart at 800 px


def translation(
    bars: Mapping[str, object],
    confusion: ArrayLike | None,
    class_names: Sequence[str] | None,
    verdict: str,
) -> go.Figure:
    """Retrieval or accuracy of a translation beside its controls, and its confusion matrix.

    Parameters
    ----------
    bars
        Estimates by name (mappings or objects with ``value``, ``low``, ``high``); the first is the
        translation in question, all others are its controls and bounds.
    confusion
        Shape ``(C, C)``, row: class of the input, column: class of what it was translated to; or ``None``.
        Rows are shown as shares of their sum.
    class_names
        C names in the order of the rows (best the order of the tree's leaves), or ``None``.
    verdict
        ``"found"``, ``"not found"`` or ``"inconclusive"``; part of the caption.

    Returns
    -------
    plotly.graph_objects.Figure
    """
    if not bars:
        raise RepdynError("translation: bars names nothing; give at least the translation's own estimate")
    read = {str(name): estimate(given) for name, given in bars.items()}
    if not any(np.isfinite(value) for value, _, _ in read.values()):
        raise RepdynError("translation: bars hold no finite number: a figure of nothing is not drawn")
    matrix = None
    if confusion is not None:
        matrix = finite("translation: confusion", confusion, shape=(None, None))
        if matrix.shape[0] != matrix.shape[1]:
            raise RepdynError(f"translation: confusion must be square, got {matrix.shape}")
        if class_names is not None and len(class_names) != len(matrix):
            raise RepdynError(
                f"translation: class_names has {len(class_names)} names for {len(matrix)} rows of confusion"
            )
    bar_height = 70 + 34 * len(read)
    if matrix is None:
        figure = new_figure("", "", height=bar_height + 130)
    else:
        side = 460
        figure = make_subplots(
            rows=2, cols=1, row_heights=[bar_height, side], vertical_spacing=90 / (bar_height + side + 90)
        )
        figure.update_layout(height=bar_height + side + 230)
    _draw_bars(figure, read)
    if matrix is not None:
        _draw_confusion(figure, matrix, class_names)
    figure.update_layout(showlegend=False, margin_l=24)
    ours, (value, low, high) = next(iter(read.items()))
    interval = f" [{low:.3g}, {high:.3g}]" if np.isfinite([low, high]).all() else ""
    reading = (
        ""
        if matrix is None
        else (" In the matrix below, a dark diagonal means that classes arrive where they should.")
    )
    return describe(
        figure,
        "Translation between the two models",
        f"Verdict: {verdict}. ‘{ours}’ reaches {value:.3g}{interval}; it has learned something only where "
        f"its interval lies clear of the controls' (grey).{reading}",
        alt=f"Bar chart, verdict {verdict}: "
        + ", ".join(f"{name} {value:.3g}" for name, (value, _, _) in read.items())
        + ("." if matrix is None else f". Confusion matrix of {len(matrix)} classes."),
    )


def _draw_bars(figure: go.Figure, read: Mapping[str, tuple[float, float, float]]) -> None:
    value, low, high = np.array(list(read.values()), dtype=np.float64).T
    known = np.isfinite(low) & np.isfinite(high)
    figure.add_bar(
        x=value,
        y=list(range(len(read))),
        orientation="h",
        marker_color=[ACCENT] + [CONTROL[0]] * (len(read) - 1),
        error_x={
            "array": np.where(known, high - value, 0.0),
            "arrayminus": np.where(known, value - low, 0.0),
            "thickness": 1.6,
            "width": 5,
        },
        customdata=[f" [{a:.3g}, {b:.3g}]" if k else "" for a, b, k in zip(low, high, known)],
        hovertemplate="%{x:.3g}%{customdata}<extra></extra>",
    )
    for k, (v, h) in enumerate(zip(value, np.where(known, high, value))):
        if np.isfinite(v):
            figure.add_annotation(x=max(v, h), y=k, text=f"{v:.3g}", xanchor="left", xshift=8)
    figure.layout.yaxis.update(
        tickvals=list(range(len(read))),
        ticktext=[plain(name, 34) + "  " for name in read],
        autorange="reversed",
        showgrid=False,
        zeroline=False,
    )
    top = float(np.nanmax(np.where(known, high, value)))
    right = 1.12 * top if top > 0 else 1.0
    figure.layout.xaxis.range = [min(0.0, float(np.nanmin(np.where(known, low, value)))), right]
    figure.layout.yaxis.tickfont.size = 13


def _draw_confusion(
    figure: go.Figure, matrix: NDArray[np.float64], class_names: Sequence[str] | None
) -> None:
    total = np.nansum(matrix, axis=1, keepdims=True)
    share = matrix / np.where(total > 0, total, 1.0)
    names = [plain(name, 20) for name in class_names] if class_names is not None else None
    index = list(range(len(matrix)))
    labels = names or [str(k) for k in index]
    figure.add_heatmap(
        x=index,
        y=index,
        z=share,
        zmin=0.0,
        colorscale=[list(stop) for stop in SEQUENTIAL],
        customdata=[[[labels[i], labels[j], matrix[i, j]] for j in index] for i in index],
        hovertemplate="%{customdata[0]} → %{customdata[1]}<br>%{z:.1%} (%{customdata[2]:.4g})<extra></extra>",
        colorbar={
            "len": 0.5,
            "y": 0.02,
            "yanchor": "bottom",
            "thickness": 10,
            "tickformat": ".0%",
            "outlinewidth": 0,
        },
        xgap=1 if len(matrix) <= _SHOWN_CLASSES else 0,
        ygap=1 if len(matrix) <= _SHOWN_CLASSES else 0,
        row=2,
        col=1,
    )
    step = max(1, -(-len(matrix) // 30))
    ticks = {"tickvals": index[::step], "ticktext": labels[::step], "showgrid": False, "zeroline": False}
    figure.update_xaxes(
        title_text="class after translation", tickangle=-45, constrain="domain", row=2, col=1, **ticks
    )
    figure.update_yaxes(
        title_text="class of the input",
        autorange="reversed",
        scaleanchor="x2",
        constrain="domain",
        row=2,
        col=1,
        **ticks,
    )
    figure.update_yaxes(tickfont_size=11, row=2, col=1)
    figure.update_xaxes(tickfont_size=11, row=2, col=1)
    figure.update_layout(xaxis2={"linecolor": veil(0.4)})
