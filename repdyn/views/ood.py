"""Scores of in-distribution and other data with the threshold, and a comparison of detectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike, NDArray
from plotly.subplots import make_subplots

from repdyn.errors import RepdynError, nearest_names
from repdyn.views.arguments import estimate, finite
from repdyn.views.bands import add_band
from repdyn.views.depths import depth_ticks
from repdyn.views.notebook import CellFigure
from repdyn.views.theme import (
    ACCENT,
    CATEGORIES,
    category_colors,
    describe,
    plain,
    translucent,
    veil,
)

__all__ = ["ood"]

_BINS = 60
_TABLE_ROW = 28  # pixels
_AXIS = 50  # pixels that ticks and title take below the histogram
_GAP = _AXIS + 74  # pixels between panels: the histogram's axis, and three rows of legend
_TAIL = 0.002  # share of scores at each end that may leave the axis, so that one outlier does not flatten it


def ood(
    scores: Mapping[str, ArrayLike],
    in_distribution: str,
    threshold: float,
    table: Mapping[str, Mapping[str, Mapping[str, object]]],
    profile: Mapping[str, Any] | None = None,
) -> go.Figure:
    """Histograms of a detector's scores with its threshold, and a table of detectors and controls.

    In the report, clicking a bar shows the profile through depth of an input in that bar.

    Parameters
    ----------
    scores
        Per data set, ``(N,)`` scores; higher is more normal.
    in_distribution
        Name of the in-distribution set among them.
    threshold
        Scores below it are flagged.
    table
        ``{detector: {data set: {"auroc": ..., "fpr95": ...}}}``, numbers or estimates with ``value``,
        ``low``, ``high``. The first detector is under evaluation, all others are its controls.
    profile
        Contribution of each depth to the score, or ``None``: ``{"points": (L,) names, "low": (L,),
        "median": (L,), "high": (L,)}`` over in-distribution data, and, optionally, ``"samples": {data set:
        (N, L)}``, the profile of every scored input.

    Returns
    -------
    plotly.graph_objects.Figure
    """
    if in_distribution not in scores:
        raise RepdynError(
            f"ood: in_distribution {in_distribution!r} is not among scores; "
            f"{nearest_names(in_distribution, list(scores))}"
        )
    if not np.isfinite(threshold):
        raise RepdynError(f"ood: threshold must be a finite number, got {threshold}")
    # In-distribution first: it takes the accent color and lies beneath.
    names = [in_distribution, *[name for name in scores if name != in_distribution]]
    read = {name: finite(f"ood: scores of {name!r}", scores[name], shape=(None,)) for name in names}
    cells = _cells(table)
    panels_used = ["histogram"] + (["profile"] if profile is not None else []) + (["table"] if cells else [])
    table_height = _TABLE_ROW * (_lines(cells) + 1) + 14 if cells else 0
    heights = {"histogram": 300, "profile": 230, "table": table_height}
    plot_height = sum(heights[p] for p in panels_used) + _GAP * (len(panels_used) - 1)
    figure = make_subplots(
        rows=len(panels_used),
        cols=1,
        specs=[[{"type": "table" if p == "table" else "xy"}] for p in panels_used],
        row_heights=[heights[p] for p in panels_used],
        vertical_spacing=_GAP / plot_height if len(panels_used) > 1 else 0,
        figure=CellFigure(),
    )
    below = 24 if len(panels_used) > 1 else _GAP  # pixels: room for the legend, where no panel follows
    figure.update_layout(height=plot_height + 136 + below, barmode="overlay", bargap=0, margin_b=below)
    # The legend stands below the histogram, which it is of, and not below the table.
    legend_top = figure.layout.yaxis.domain[0] - _AXIS / plot_height
    figure.update_layout(legend={"yref": "paper", "y": legend_top, "yanchor": "top"})
    representatives = _histograms(figure, read, threshold)
    if profile is not None:
        _profile(figure, profile, read, representatives)
    if cells:
        header = ["detector", "data set", "AUROC ↑", "FPR@95 ↓"]
        figure.add_table(
            header={"values": header, "height": _TABLE_ROW},
            cells={"values": cells, "height": _TABLE_ROW},
            columnwidth=[1.3, 1.05, 1.2, 1.2],
            row=len(panels_used),
            col=1,
        )
    flagged = ", ".join(_flagged(name, s[np.isfinite(s)] < threshold) for name, s in read.items())
    return describe(
        figure,
        "Out-of-distribution scores",
        f"Left of the dashed threshold inputs are flagged: {flagged} (95 % intervals). A detector "
        "beats its controls if its AUROC interval lies above theirs.",
        alt=f"Overlaid histograms of scores of {len(read)} data sets; flagged: {flagged}. Table of AUROC and "
        f"FPR@95 of {len(table)} detectors.",
    )


def _histograms(
    figure: go.Figure, read: Mapping[str, NDArray[np.float64]], threshold: float
) -> dict[int, tuple[str, list[int]]]:
    """Draw shares per bin; return, per trace, the input that represents each bar."""
    known = {name: s[np.isfinite(s)] for name, s in read.items()}
    low = min(threshold, *(float(np.quantile(s, _TAIL)) for s in known.values()))
    high = max(threshold, *(float(np.quantile(s, 1 - _TAIL)) for s in known.values()))
    edges = np.linspace(low, high if high > low else low + 1.0, _BINS + 1)
    middle = (edges[1:] + edges[:-1]) / 2
    representatives = {}
    for name, color in zip(read, category_colors(len(read))):
        values = np.clip(known[name], edges[0], edges[-1])
        places = np.flatnonzero(np.isfinite(read[name]))
        order = places[np.argsort(read[name][places])]
        # The median input represents its bar.
        bar = np.searchsorted(edges[1:-1], np.sort(values), side="right")
        counts = np.bincount(bar, minlength=_BINS)
        median = (np.cumsum(counts) - (counts + 1) // 2)[counts > 0]
        share = counts / len(values)
        representatives[len(figure.data)] = (name, [int(k) for k in order[median]])
        figure.add_bar(
            x=middle[share > 0],
            y=share[share > 0],
            width=edges[1] - edges[0],
            name=f"{plain(name, 30)} ({len(values)})",
            legendgroup=f"{plain(name, 30)} ({len(values)})",
            showlegend=False,
            marker={"color": translucent(color, 0.22), "line": {"width": 0}},
            customdata=order[median],
            hovertemplate="%{y:.1%} near %{x:.4g}<extra>" + plain(name, 30) + "</extra>",
            row=1,
            col=1,
        )
    for trace, color in zip(list(representatives), category_colors(len(read))):
        _outline(figure, figure.data[trace], edges, color)
    figure.add_vline(x=threshold, line={"dash": "dash", "width": 1.6, "color": veil(1.0)}, row=1, col=1)
    figure.add_annotation(
        x=threshold,
        y=1,
        yref="y domain",
        text=f"threshold {threshold:.3g}",
        xanchor="center",
        yanchor="bottom",
        row=1,
        col=1,
    )
    figure.update_yaxes(title_text="share of inputs", tickformat=".0%", rangemode="tozero", row=1, col=1)
    figure.update_xaxes(title_text="score (higher is more normal)", zeroline=False, row=1, col=1)
    return representatives


def _outline(figure: go.Figure, bars: go.Bar, edges: NDArray[np.float64], color: str) -> None:
    """Draw the upper edge of a histogram, which stays readable where fills overlap."""
    share = np.zeros(len(edges) - 1)
    share[np.searchsorted(edges, np.asarray(bars.x)) - 1] = bars.y
    figure.add_scatter(
        x=edges,
        y=np.append(share, share[-1]),
        mode="lines",
        name=bars.name,  # its line is easier to see in the legend than the bars' faint fill
        legendgroup=bars.name,
        line={"shape": "hv", "color": color, "width": 1.6},
        hoverinfo="skip",
        row=1,
        col=1,
    )


def _profile(
    figure: go.Figure,
    profile: Mapping[str, Any],
    read: Mapping[str, NDArray[np.float64]],
    representatives: Mapping[int, tuple[str, list[int]]],
) -> None:
    points: Sequence[str] = list(profile["points"])
    low, median, high = (
        finite(f"ood: profile {end!r}", profile[end], shape=(len(points),))
        for end in ("low", "median", "high")
    )
    depth = np.arange(len(points))
    add_band(figure, depth, low, high, ACCENT, name="in-distribution, 5–95 %", row=2, col=1)
    figure.add_scatter(
        x=depth,
        y=median,
        mode="lines",
        line={"color": ACCENT, "width": 2},
        name="median",
        showlegend=False,
        hovertemplate="median %{y:.3g}<extra></extra>",
        row=2,
        col=1,
    )
    samples: Mapping[str, ArrayLike] = profile.get("samples") or {}
    if samples:
        _chosen(figure, samples, read, representatives, len(points))
    depth_ticks(figure, points, row=2, col=1)
    figure.update_xaxes(title_text="depth", row=2, col=1)
    figure.update_yaxes(title_text="distance at depth", row=2, col=1)


def _chosen(
    figure: go.Figure,
    samples: Mapping[str, ArrayLike],
    read: Mapping[str, NDArray[np.float64]],
    representatives: Mapping[int, tuple[str, list[int]]],
    depths: int,
) -> None:
    """The profile of one input, and the data that a click on a bar replaces it with."""
    lines: list[list[float | None]] = []
    start: dict[int, int] = {}
    for trace, (name, index) in representatives.items():
        if name not in samples:
            continue
        array = finite(f"ood: profile of {name!r}", samples[name], shape=(len(read[name]), depths))
        start[trace] = len(lines)
        lines += [[float(f"{v:.4g}") if np.isfinite(v) else None for v in array[k]] for k in index]
        figure.data[trace].customdata = np.arange(start[trace], start[trace] + len(index))
    if not lines:
        return
    # Initially, the most anomalous input of the last data set.
    first = start[max(start)]
    chosen = len(figure.data)
    figure.add_scatter(
        x=np.arange(depths),
        y=lines[first],
        mode="lines+markers",
        line={"color": CATEGORIES[5], "width": 2.6},
        name="one input (click a bar to change)",
        hovertemplate="%{y:.3g}<extra>chosen input</extra>",
        row=2,
        col=1,
    )
    figure.update_layout(meta={"links": {"sources": list(start), "targets": [{"trace": chosen, "y": lines}]}})


def _flagged(name: str, below: NDArray[np.bool_]) -> str:
    """The share of inputs that are flagged, with its 95 % interval (Wilson's, valid at 0 and 1)."""
    n, share, z = len(below), float(below.mean()), 1.959964
    middle, half = share + z * z / (2 * n), z * float(np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)))
    low, high = ((middle + sign * half) / (1 + z * z / n) for sign in (-1, 1))
    return f"{share:.0%} [{max(low, 0.0):.0%}, {min(high, 1.0):.0%}] of {name}"


def _lines(cells: Sequence[Sequence[str]]) -> int:
    """Number of lines of the table with wrapped names, because plotly cuts off overflowing rows."""
    return sum(
        max(1, -(-len(detector.removeprefix("<b>").removesuffix("</b>")) // 21), -(-len(data) // 17))
        for detector, data, *_ in zip(*cells)
    )


def _cells(table: Mapping[str, Mapping[str, Mapping[str, object]]]) -> list[list[str]]:
    columns: list[list[str]] = [[], [], [], []]
    for rank, (detector, sets) in enumerate(table.items()):
        for place, (name, figures) in enumerate(sets.items()):
            shown = f"<b>{plain(detector, 40)}</b>" if rank == 0 else plain(detector, 40)
            row = [
                shown if place == 0 else "",
                plain(name, 26),
                _cell(figures, "auroc"),
                _cell(figures, "fpr95"),
            ]
            for column, cell in zip(columns, row):
                column.append(cell)
    return columns if columns[0] else []


def _cell(figures: Mapping[str, object], name: str) -> str:
    value, low, high = estimate(figures.get(name))
    if not np.isfinite(value):
        return "–"
    interval = f" [{low:.3f}, {high:.3f}]" if np.isfinite(low) and np.isfinite(high) else ""
    return f"{value:.3f}{interval}"
