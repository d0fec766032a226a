"""Which cluster each sample is in at each depth: a band per stream of samples that moves together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike, NDArray

from repdyn.errors import RepdynError
from repdyn.views.boxes import GAP, box, filled
from repdyn.views.depths import depth_ticks
from repdyn.views.theme import CATEGORIES, OTHER, describe, new_figure, plain, translucent

__all__ = ["cluster_flow"]

_MOST_CLUSTERS = 8  # drawn per depth; the smaller ones are merged into one
_MOST_DEPTHS = 12  # columns that fit at 800 px
_BAR = 0.14  # share of a column's width for the clusters; the rest is for the flow


def cluster_flow(membership: ArrayLike, labels: ArrayLike | None, point_names: Sequence[str]) -> go.Figure:
    """Cluster membership through depth, as flows between neighboring depths.

    Parameters
    ----------
    membership
        Shape ``(L, N)``, integers: the cluster of each sample at each depth, negative where it has none.
        Indices of different depths need not agree.
    labels
        Shape ``(N,)``, or ``None``. A band has the color of its most frequent class, the stronger the
        purer it is; without labels, the color of the cluster at the first depth.
    point_names
        The L points in order of depth.

    Returns
    -------
    plotly.graph_objects.Figure
        At most 12 depths, evenly spaced, and 8 clusters at each.
    """
    given = np.asarray(membership)
    if given.ndim != 2 or given.shape[0] != len(point_names) or given.size == 0:
        raise RepdynError(
            f"cluster_flow: membership must have shape ({len(point_names)}, N), got {given.shape}"
        )
    samples = given.shape[1]
    classes = given[0] if labels is None else np.asarray(labels)
    if classes.shape != (samples,):
        raise RepdynError(f"cluster_flow: labels must have shape ({samples},), got {classes.shape}")
    names, code, sizes = np.unique(classes.astype(str), return_inverse=True, return_counts=True)
    colors = np.full(len(names), OTHER, dtype=object)
    ranked = np.argsort(-sizes, kind="stable")[: len(CATEGORIES)]
    colors[ranked] = CATEGORIES[: len(ranked)]

    depths = np.unique(np.linspace(0, len(given) - 1, min(_MOST_DEPTHS, len(given))).round().astype(int))
    columns = _ordered([_largest(given[k]) for k in depths])
    figure = new_figure("", "", height=520)
    for k, column in enumerate(columns[:-1]):
        _bands(figure, k, column, columns[k + 1], code, colors, names)
    for k, column in enumerate(columns):
        for cluster in range(int(column.max()) + 1):
            inside = column == cluster
            low, high = _extent(column, cluster)
            x, y = box(k - _BAR / 2, k + _BAR / 2, np.array([low, high]), GAP)
            share = np.bincount(code[inside], minlength=len(names))
            most = int(share.argmax())
            hover = f"{inside.sum()} samples, {share[most] / inside.sum():.0%} {plain(names[most], 30)}"
            filled(figure, x, y, str(colors[most]), f"{plain(point_names[depths[k]], 30)}<br>{hover}")
    for rank in ranked if labels is not None else []:
        figure.add_scatter(
            x=[None],
            y=[None],
            mode="markers",
            name=plain(names[rank], 24),
            marker={"size": 9, "symbol": "square", "color": colors[rank]},
        )
    depth_ticks(figure, [point_names[k] for k in depths])
    figure.update_xaxes(showgrid=False, zeroline=False, range=[-0.15, len(depths) - 0.85])
    figure.update_yaxes(visible=False, range=[1.01, -0.01])
    figure.update_layout(showlegend=labels is not None, margin_l=24)
    for trace in figure.data[: len(figure.data) - (len(ranked) if labels is not None else 0)]:
        trace.showlegend = False
    shown = "" if len(depths) == len(given) else f" {len(depths)} of {len(given)} depths are drawn."
    if len(names) > len(ranked) and labels is not None:
        shown += f" Gray: most frequent is one of the {len(names) - len(ranked)} smaller classes."
    return describe(
        figure,
        "Clusters through depth",
        "A band is the samples that go from one cluster to another; bands that stay whole are groups that "
        f"the model keeps together, strong color means samples of one class.{shown}",
        alt=f"Flow diagram of {samples} samples through the clusters of {len(depths)} depths.",
    )


def _largest(membership: NDArray[np.generic]) -> NDArray[np.int64]:
    """Clusters numbered by falling size, the small ones and the unassigned together in the last."""
    values, code, counts = np.unique(membership, return_inverse=True, return_counts=True)
    counts = np.where(values < 0, 0, counts)
    rank = np.empty(len(values), dtype=np.int64)
    rank[np.argsort(-counts, kind="stable")] = np.arange(len(values))
    return np.minimum(rank, _MOST_CLUSTERS - 1)[code]


def _ordered(columns: list[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
    """Renumber each depth's clusters by where their samples were at the depth before, so that few cross."""
    done = columns[:1]
    for column in columns[1:]:
        before = np.array([np.mean(_extent(done[-1], int(c))) for c in range(int(done[-1].max()) + 1)])
        count = int(column.max()) + 1
        mean = np.bincount(column, before[done[-1]], count) / np.bincount(column, minlength=count)
        rank = np.empty(count, dtype=np.int64)
        rank[np.argsort(mean, kind="stable")] = np.arange(count)
        done.append(rank[column])
    return done


def _extent(column: NDArray[np.int64], cluster: int) -> tuple[float, float]:
    low = float((column < cluster).mean())
    return low, low + float((column == cluster).mean())


def _bands(
    figure: go.Figure,
    at: int,
    left: NDArray[np.int64],
    right: NDArray[np.int64],
    code: NDArray[np.int64],
    colors: NDArray[np.object_],
    names: NDArray[np.str_],
) -> None:
    """One band per pair of clusters that share samples, stacked in order at both of its ends."""
    flow = np.zeros((int(left.max()) + 1, int(right.max()) + 1))
    np.add.at(flow, (left, right), 1 / len(left))
    start = np.cumsum(flow.ravel()).reshape(flow.shape) - flow
    end = (np.cumsum(flow.T.ravel()).reshape(flow.T.shape) - flow.T).T
    t = np.linspace(0, 1, 16)
    smooth = t * t * (3 - 2 * t)
    x = at + _BAR / 2 + t * (1 - _BAR)
    for i, j in np.argwhere(flow > 0):
        y = start[i, j] + smooth * (end[i, j] - start[i, j])
        share = np.bincount(code[(left == i) & (right == j)], minlength=len(names))
        most, purity = int(share.argmax()), share.max() / share.sum()
        filled(
            figure,
            np.concatenate([x, x[::-1]]),
            np.concatenate([y, (y + flow[i, j])[::-1]]),
            translucent(str(colors[most]), 0.12 + 0.43 * float(purity)),
            f"{share.sum()} samples, {purity:.0%} {plain(names[most], 30)}",
        )
