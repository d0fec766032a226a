"""Positions of samples in one plane, animated through depth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike, NDArray

from repdyn.errors import RepdynError
from repdyn.views.animation import player
from repdyn.views.arguments import finite, thin
from repdyn.views.theme import CATEGORIES, OTHER, describe, new_figure, plain, translucent

__all__ = ["path_flow"]

_DRAWN = 1200  # samples: enough to show the distribution, few enough for a smooth SVG animation
_TRAILS = 120  # samples whose whole path is drawn, faint, behind the cloud
_SMOOTH = {
    "frame": {"duration": 700, "redraw": False},
    "transition": {"duration": 600, "easing": "cubic-in-out"},
}
_MARGIN = 0.06  # of the range, around the outermost sample


def path_flow(
    projected: ArrayLike,
    labels: ArrayLike | None,
    point_names: Sequence[str],
    explained: ArrayLike | float,
    total: int | None = None,
) -> go.Figure:
    """Samples in a common plane, animated through depth, with a slider.

    Parameters
    ----------
    projected
        Shape ``(L, N, 2)``: each sample's coordinates at each depth, all in one plane.
    labels
        Shape ``(N,)``, or ``None``. The most frequent classes have a color each, the rest share a gray.
    point_names
        The L points in order of depth.
    explained
        The plane's share of the variance, ``(L,)`` or one number for all depths; always shown.
    total
        Total number of samples, if the given ones are a subset.

    Returns
    -------
    plotly.graph_objects.Figure
        With one frame per depth. At most 1200 samples are drawn, and the caption gives both numbers.
    """
    positions = finite("path_flow: projected", projected, shape=(len(point_names), None, 2))
    share = np.broadcast_to(np.asarray(explained, dtype=np.float64), (len(point_names),))
    count = positions.shape[1]
    classes = _classes(labels, count)
    drawn = thin(count, _DRAWN)
    # float32 halves the file and is precise enough for a screen.
    shown = positions[:, drawn].astype(np.float32)
    members = [(name, color, np.flatnonzero(index[drawn])) for name, color, index in classes]
    members = [(name, color, index) for name, color, index in members if len(index)]

    figure = new_figure("", "", height=640)
    for _, color, index in members:
        # No trails for the small classes: together they are often most samples and would cover the others.
        trailed = index if color != OTHER else index[:0]
        figure.add_scatter(**_trails(shown, trailed, color, len(drawn)))
    for name, color, index in members:
        figure.add_scatter(
            x=shown[0, index, 0],
            y=shown[0, index, 1],
            mode="markers",
            name=name,
            legendgroup=name,
            showlegend=labels is not None,
            marker={"size": 6, "color": color, "opacity": 0.8}
            if color != OTHER
            else {"size": 3, "color": color, "opacity": 0.3},
            hovertemplate=f"{name}<extra></extra>",
        )
    moving = list(range(len(members), 2 * len(members)))
    figure.frames = [
        go.Frame(
            name=str(depth),
            traces=moving,
            data=[go.Scatter(x=shown[depth, i, 0], y=shown[depth, i, 1]) for _, _, i in members],
        )
        for depth in range(len(point_names))
    ]
    steps = [f"{plain(name, 24)} · plane shows {part:.0%}" for name, part in zip(point_names, share)]
    figure.update_layout(**player(steps, _SMOOTH, below=34))
    for axis, k in (("xaxis", 0), ("yaxis", 1)):
        values = positions[..., k][np.isfinite(positions[..., k])]
        pad = _MARGIN * float(np.ptp(values)) or 1.0
        figure.layout[axis].update(
            range=[float(values.min()) - pad, float(values.max()) + pad], showticklabels=False, zeroline=False
        )
    figure.layout.yaxis.update(scaleanchor="x", title_text="second direction")
    figure.layout.xaxis.update(title_text="first direction", constrain="domain")
    total = count if total is None else total
    some = f"{len(drawn)} of {total} samples are drawn" if len(drawn) < total else f"All {count} samples"
    return describe(
        figure,
        "Paths through depth",
        f"Press play or drag the slider: groups that the model separates move apart with depth. {some}; "
        f"the plane shows {share.min():.0%} to {share.max():.0%} of the variance, so groups that "
        f"overlap here may be separate in the full space.{_faint(members)}",
        alt=f"Animated scatter plot of {len(drawn)} samples in {len(members)} groups at {len(point_names)} "
        f"depths, from {point_names[0]} to {point_names[-1]}.",
    )


def _classes(labels: ArrayLike | None, count: int) -> list[tuple[str, str, NDArray[np.bool_]]]:
    """Name, color and membership of each group: the largest classes, then all others together."""
    if labels is None:
        return [("samples", CATEGORIES[0], np.ones(count, dtype=bool))]
    given = np.asarray(labels)
    if given.shape != (count,):
        raise RepdynError(f"path_flow: labels must have shape ({count},), got {given.shape}")
    names, code, sizes = np.unique(given.astype(str), return_inverse=True, return_counts=True)
    ranked = np.argsort(-sizes, kind="stable")
    own = ranked[: len(CATEGORIES)] if len(ranked) > len(CATEGORIES) else np.sort(ranked)
    groups = [(plain(names[k], 24), CATEGORIES[i], code == k) for i, k in enumerate(own)]
    if len(ranked) > len(own):
        rest = np.isin(code, ranked[len(own) :])
        # Others first: drawn beneath.
        groups.insert(0, (f"{len(ranked) - len(own)} other classes", OTHER, rest))
    return groups


def _faint(members: Sequence[tuple[str, str, NDArray[np.int64]]]) -> str:
    """The sentence on classes without a color, if there are any."""
    names = [name for name, color, _ in members if color == OTHER]
    return (
        f" The {len(CATEGORIES)} largest classes are colored; {names[0]} are small gray dots."
        if names
        else ""
    )


def _trails(shown: NDArray[np.float32], index: NDArray[np.int64], color: str, total: int) -> dict[str, Any]:
    """Whole paths of some samples of a class, as one line broken by NaN."""
    some = index[: max(1, round(_TRAILS * len(index) / total))] if len(index) else index
    gap = np.full((1, len(some), 2), np.nan, dtype=np.float32)
    lines = np.concatenate([shown[:, some], gap]).transpose(1, 0, 2).reshape(-1, 2)
    return {
        "x": lines[:, 0],
        "y": lines[:, 1],
        "mode": "lines",
        "line": {"color": translucent(color, 0.16), "width": 1},
        "hoverinfo": "skip",
        "showlegend": False,
    }
