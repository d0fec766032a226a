"""Evaluation of a translation with its controls, and its confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike, NDArray
from plotly.subplots import make_subplots

from repdyn.errors import RepdynError
from repdyn.views.arguments import estimate, finite
from repdyn.views.bars import add_bars
from repdyn.views.notebook import CellFigure
from repdyn.views.theme import ACCENT, CONTROL, SEQUENTIAL, describe, plain, veil

__all__ = ["stitching", "translation", "tree_order"]

_SIDE = 460  # pixels of the confusion matrix
_GAP = 90  # pixels between panels: a title and tick labels fit
_SHOWN_CLASSES = 60  # labeled rows that a reader can distinguish at 800 px


def translation(
    bars: Mapping[str, object],
    confusion: ArrayLike | None,
    class_names: Sequence[str] | None,
    verdict: str,
    stitching: Mapping[str, object] | None = None,
) -> go.Figure:
    """Retrieval or accuracy of a translation and its controls, and its confusion matrix.

    Parameters
    ----------
    bars
        Estimates by name (mappings or objects with ``value``, ``low``, ``high``); the first is the
        translation in question, all others are its controls and bounds.
    confusion
        Shape ``(C, C)``, row: class of the input, column: class of what it was translated to; or ``None``.
        Rows are shown as shares of their sum.
    class_names
        C names in the order of the rows, or ``None``.
    verdict
        A verdict such as ``"found"``, ``"ambiguous"`` or ``"not found"``; part of the caption.
    stitching
        Accuracies of A's body, a translation and B's head, by name as ``bars``, or ``None``. Drawn below.

    Returns
    -------
    plotly.graph_objects.Figure
        Classes stand in the order of a tree: those that are confused with each other are neighbours.
    """
    if not bars:
        raise RepdynError("translation: bars names nothing; give at least the translation's own estimate")
    groups = {"retrieval: the nearest is the right one": _read("bars", bars)}
    if stitching:
        groups["stitched: A's body, the translation, B's head"] = _read("stitching", stitching)
    matrix = None
    if confusion is not None:
        matrix = finite("translation: confusion", confusion, shape=(None, None))
        if matrix.shape[0] != matrix.shape[1]:
            raise RepdynError(f"translation: confusion must be square, got {matrix.shape}")
        if class_names is not None and len(class_names) != len(matrix):
            raise RepdynError(
                f"translation: class_names has {len(class_names)} names for {len(matrix)} rows of confusion"
            )
    heights = [70 + 34 * len(read) for read in groups.values()] + ([_SIDE] if matrix is not None else [])
    inside = sum(heights) + _GAP * (len(heights) - 1)
    figure = make_subplots(
        rows=len(heights),
        cols=1,
        row_heights=heights,
        vertical_spacing=_GAP / inside if len(heights) > 1 else 0,
        figure=CellFigure(),
        subplot_titles=[*groups, *([""] if matrix is not None else [])],
    )
    for annotation in figure.layout.annotations:
        annotation.update(x=0, xanchor="left", yshift=4, font={"size": 13})
    below = 0
    if matrix is not None:
        # Labels stand upright below the matrix. Their room is fixed: plotly's own margins shrink the matrix.
        names = [plain(name, 20) for name in class_names or [str(len(matrix))]]
        longest = max(map(len, names))
        below = 50 + 6 * longest
        figure.update_layout(margin_b=below)
    figure.update_layout(height=inside + 120 + below)
    for row, read in enumerate(groups.values(), start=1):
        add_bars(figure, row, read, [ACCENT] + [CONTROL[0]] * (len(read) - 1))
    if matrix is not None:
        _draw_confusion(figure, len(heights), matrix, class_names)
    figure.update_layout(showlegend=False, margin_l=24)
    read = next(iter(groups.values()))
    ours, (value, low, high) = next(iter(read.items()))
    reading = (
        ""
        if matrix is None
        else (
            " In the matrix below, the diagonal holds correctly translated classes; adjacent classes "
            "are often confused."
        )
    )
    return describe(
        figure,
        "Translation between the two models",
        f"Verdict: {verdict}. ‘{ours}’ reaches {value:.3g}{_interval(low, high)}; it beats "
        f"the controls (gray) only if its interval lies above theirs.{reading}",
        alt=f"Bar chart, verdict {verdict}: "
        + ", ".join(
            f"{name} {value:.3g}" for group in groups.values() for name, (value, _, _) in group.items()
        )
        + ("." if matrix is None else f". Confusion matrix of {len(matrix)} classes."),
    )


def stitching(accuracy: Mapping[str, object], verdict: str) -> go.Figure:
    """Accuracy of A's body, a translation and B's head, with controls and bounds.

    Parameters
    ----------
    accuracy
        Estimates by name as ``bars`` of :func:`translation`, this translation's first.
    verdict
        A verdict such as ``"found"``, ``"ambiguous"`` or ``"not found"``; part of the caption.

    Returns
    -------
    plotly.graph_objects.Figure
    """
    read = _read("stitching", accuracy)
    figure = make_subplots(rows=1, cols=1, figure=CellFigure())
    figure.update_layout(height=200 + 34 * len(read), showlegend=False, margin_l=24)
    add_bars(figure, 1, read, [ACCENT] + [CONTROL[0]] * (len(read) - 1))
    ours, (value, low, high) = next(iter(read.items()))
    return describe(
        figure,
        "B's head on A's translated representations",
        f"Verdict: {verdict}. With ‘{ours}’ between A's body and B's head "
        f"{value:.3g}{_interval(low, high)} of the predictions are correct. Gray: controls "
        "without a translation, and B's own accuracy as the upper bound.",
        alt=f"Bar chart of accuracies, verdict {verdict}: "
        + ", ".join(f"{name} {one:.3g}" for name, (one, _, _) in read.items())
        + ".",
    )


def _interval(low: float, high: float) -> str:
    return f" [{low:.3g}, {high:.3g}]" if np.isfinite([low, high]).all() else ""


def _read(what: str, given: Mapping[str, object]) -> dict[str, tuple[float, float, float]]:
    read = {str(name): estimate(one) for name, one in given.items()}
    if not any(np.isfinite(value) for value, _, _ in read.values()):
        raise RepdynError(f"translation: {what} hold no finite number; give at least one")
    return read


def tree_order(confusion: ArrayLike) -> NDArray[np.int64]:
    """Classes in the order of the leaves of their confusion tree.

    Average linkage of one minus the mean of both shares of confusion, leaves ordered so that neighbours are
    as near as the tree allows.

    Parameters
    ----------
    confusion
        Shape ``(C, C)``, finite where known.

    Returns
    -------
    numpy.ndarray
        A permutation of C classes.

    References
    ----------
    Bar-Joseph, Z., Gifford, D. K., Jaakkola, T. S. (2001). Fast optimal leaf ordering for hierarchical
    clustering. Bioinformatics 17.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage, optimal_leaf_ordering  # slow to load
    from scipy.spatial.distance import squareform

    share = np.nan_to_num(_shares(np.asarray(confusion, dtype=np.float64)))
    if len(share) < 3:
        return np.arange(len(share))
    near = (share + share.T) / 2
    np.fill_diagonal(near, 0.0)
    apart = squareform(near.max() - near, checks=False) + 1e-9
    tree = optimal_leaf_ordering(linkage(apart, method="average"), apart)
    return np.asarray(leaves_list(tree), dtype=np.int64)


def _shares(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    total = np.nansum(matrix, axis=1, keepdims=True)
    return np.asarray(matrix / np.where(total > 0, total, 1.0))


def _draw_confusion(
    figure: go.Figure, row: int, matrix: NDArray[np.float64], class_names: Sequence[str] | None
) -> None:
    order = tree_order(matrix)
    names = [str(k) for k in order] if class_names is None else [plain(class_names[k], 20) for k in order]
    matrix = matrix[np.ix_(order, order)]
    share = _shares(matrix)
    index = list(range(len(matrix)))
    labels = names
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
        row=row,
        col=1,
    )
    step = max(1, -(-len(matrix) // 30))
    ticks = {"tickvals": index[::step], "ticktext": labels[::step], "showgrid": False, "zeroline": False}
    figure.update_xaxes(
        title_text="class after translation",
        tickangle=-90,
        automargin=False,
        title_standoff=8 + 6 * max(map(len, labels)),
        row=row,
        col=1,
        **ticks,
    )
    figure.update_yaxes(
        title_text="class of the input",
        autorange="reversed",
        row=row,
        col=1,
        **ticks,
    )
    figure.update_yaxes(tickfont_size=11, row=row, col=1)
    figure.update_xaxes(tickfont_size=11, row=row, col=1)
    figure.update_xaxes(linecolor=veil(0.4), row=row, col=1)
