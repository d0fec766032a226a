"""A latent vector field: basins, velocity, attractors, trajectories."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike, NDArray

from repdyn.errors import RepdynError
from repdyn.views.arguments import finite, thin
from repdyn.views.theme import CATEGORIES, OTHER, describe, new_figure, plain, translucent, veil

__all__ = ["field"]

_DRAWN_STARTS = 1500
_DRAWN_TRAJECTORIES = 60
_DRAWN_ARROWS = 600
_DRAWN_LOST = 150
_GRID = 120  # cells of the basin map along each axis
_SYMBOLS = {"stable": "star", "unstable": "star-open", "unknown": "diamond-open"}


def field(
    starts2d: ArrayLike,
    ends2d: ArrayLike,
    attractors2d: ArrayLike,
    basin: ArrayLike,
    status: Sequence[str],
    stable: ArrayLike | None,
    explained: float,
    trajectories2d: ArrayLike | None,
    velocity: tuple[ArrayLike, ArrayLike, ArrayLike, ArrayLike] | None,
    planar: bool,
) -> go.Figure:
    r"""Endpoints of the iteration :math:`z \mapsto z + V(z)` from each start, in one plane.

    Parameters
    ----------
    starts2d, ends2d
        Shape ``(N, 2)``: initial and final points of the iterations.
    attractors2d
        Shape ``(A, 2)``; ``A`` may be 0.
    basin
        Shape ``(N,)``: index of the attractor that each start reached, or -1.
    status
        A statuses, such as ``"fixed point"`` or ``"cycle"``.
    stable
        Shape ``(A,)``, or ``None`` if stability is unknown.
    explained
        The plane's share of the variance of starts and ends.
    trajectories2d
        Shape ``(S, n, 2)``: S iterations of n steps each, or ``None``.
    velocity
        ``(x, y, u, v)``: arrows at places in the plane, or ``None``.
    planar
        Whether the dynamics happen *in* this plane. Where they do not, neither arrows nor filled basins
        are drawn, since a projection of them would show flow that does not exist.

    Returns
    -------
    plotly.graph_objects.Figure
    """
    starts = finite("field: starts2d", starts2d, shape=(None, 2))
    ends = finite("field: ends2d", ends2d, shape=(len(starts), 2))
    attractors = np.asarray(attractors2d, dtype=np.float64).reshape(-1, 2)
    reached = np.asarray(basin, dtype=np.int64)
    if reached.shape != (len(starts),) or (len(reached) and reached.max() >= len(attractors)):
        raise RepdynError(
            f"field: basin must hold {len(starts)} indices below {len(attractors)} (or -1), got shape "
            f"{reached.shape}" + (f" with {reached.max()}" if reached.size else "")
        )
    if len(status) != len(attractors):
        raise RepdynError(f"field: status has {len(status)} entries for {len(attractors)} attractors")
    sizes = np.bincount(reached[reached >= 0], minlength=len(attractors))
    ranked = np.argsort(-sizes, kind="stable")
    colors = np.full(len(attractors), OTHER, dtype=object)
    colors[ranked[: len(CATEGORIES)]] = CATEGORIES[: len(ranked)]

    figure = new_figure("", "", height=580)
    if planar:
        _basins(figure, starts, reached, colors)
        if velocity is not None:
            _arrows(figure, velocity)
    if trajectories2d is not None:
        _trajectories(figure, trajectories2d, planar=planar)
    drawn = thin(len(starts), _DRAWN_STARTS)
    _starts(figure, starts[drawn], reached[drawn], colors)
    if velocity is None:
        _lost(figure, starts[reached < 0], ends[reached < 0])
    if len(attractors):
        _attractors(figure, attractors, sizes, status, stable, colors)
    figure.update_xaxes(
        showticklabels=False, zeroline=False, title_text="first direction", constrain="domain"
    )
    figure.update_yaxes(showticklabels=False, zeroline=False, title_text="second direction", scaleanchor="x")
    lost = int((reached < 0).sum())
    shown = "" if len(drawn) == len(starts) else f" {len(drawn)} of {len(starts)} starts are drawn."
    how = (
        "Color is the basin." + (" Arrows are the velocity." if velocity is not None else "")
        if planar
        else "Color is the basin. The dynamics leave this plane, so only places are projected: no arrows of "
        "the velocity, no filled basins, and lines that cross need not meet."
    )
    if len(attractors) > len(CATEGORIES):
        how += f" Gray: all but the {len(CATEGORIES)} largest basins."
    if velocity is None and np.isfinite(ends[reached < 0]).all(axis=1).any():
        how += " Arrows point from starts that reached no attractor to their last states."
    summary = _found(status, stable)
    return describe(
        figure,
        "Latent vector field and its attractors",
        f"{summary}; {lost} of {len(starts)} starts reached none. The plane shows "
        f"{explained:.0%} of the variance. {how}{shown}",
        alt=f"Scatter plot of {len(drawn)} starts colored by basin; {summary}; "
        f"the largest basin holds {int(sizes.max()) if len(sizes) else 0} starts.",
    )


def _found(status: Sequence[str], stable: ArrayLike | None) -> str:
    """The numbers of attractors by status and of unstable fixed points, as text."""
    if not len(status):
        return "No attractor found"
    known = np.ones(len(status), dtype=bool) if stable is None else np.asarray(stable, dtype=bool)
    kept = [kind for kind, yes in zip(status, known) if yes]
    kinds = ", ".join(f"{kept.count(kind)} {plain(kind)}" for kind in dict.fromkeys(kept))
    text = f"{len(kept)} attractor{'s' * (len(kept) != 1)}" + (f" ({kinds})" if kept else "")
    text += ", stability unknown" if stable is None else ""
    return text + (f" and {(~known).sum()} unstable" if not known.all() else "")


def _basins(
    figure: go.Figure, starts: NDArray[np.float64], reached: NDArray[np.int64], colors: NDArray[Any]
) -> None:
    """Fill the plane by the basin of the nearest start, no further from it than starts usually are."""
    from scipy.spatial import (
        cKDTree,
    )  # imported here, because it is slow to load and only this picture needs it

    known = np.isfinite(starts).all(axis=1) & (reached >= 0)
    if known.sum() < 3:
        return
    places = starts[known]
    axes = [np.linspace(places[:, k].min(), places[:, k].max(), _GRID) for k in (0, 1)]
    tree = cKDTree(places)
    spacing = tree.query(places, k=2)[0][:, 1]
    grid = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2)
    distance, nearest = tree.query(grid)
    rank = {color: k for k, color in enumerate([*CATEGORIES, OTHER])}
    code = np.array([rank[c] for c in colors[reached[known]]], dtype=np.float32)[nearest]
    # Three times the 90 % spacing closes gaps inside the cloud and leaves the outside empty.
    code[distance > 3 * max(float(np.quantile(spacing, 0.9)), 1e-12)] = np.nan
    steps = len(rank)
    figure.add_heatmap(
        x=axes[0],
        y=axes[1],
        z=code.reshape(_GRID, _GRID),
        zmin=-0.5,
        zmax=steps - 0.5,
        colorscale=[
            [edge / steps, translucent(color, 0.2)] for k, color in enumerate(rank) for edge in (k, k + 1)
        ],
        showscale=False,
        hoverinfo="skip",
    )


def _arrows(figure: go.Figure, velocity: tuple[ArrayLike, ...]) -> None:
    x, y, u, v = (np.asarray(a, dtype=np.float64).ravel() for a in velocity)
    if not len(x) == len(y) == len(u) == len(v):
        raise RepdynError("field: velocity must be four arrays (x, y, u, v) of one length")
    known = np.flatnonzero(np.isfinite(np.stack([x, y, u, v])).all(axis=0))
    some = known[thin(len(known), _DRAWN_ARROWS)]
    if not len(some):
        return
    length = np.hypot(u, v)[some]
    # The longest arrow spans one cell of the arrows' own grid, so that arrows do not run into each other;
    # square root, because speeds fall to zero at every attractor and short arrows would be dots.
    cell = max(float(np.ptp(x[some])), float(np.ptp(y[some])), 1e-12) / max(1.0, np.sqrt(len(some)))
    longest = float(length.max()) or 1.0
    scale = cell * np.sqrt(length / longest) / np.where(length > 0, length, 1.0)
    figure.add_trace(
        go.Quiver(
            x=x[some],
            y=y[some],
            u=u[some] * scale,
            v=v[some] * scale,
            lengthmode="raw",
            lengthfactor=1.0,
            anchor="tail",
            marker={"color": veil(0.75)},
            customdata=length,
            hovertemplate="speed %{customdata:.3g}<extra></extra>",
            name="velocity",
        )
    )


def _trajectories(figure: go.Figure, trajectories2d: ArrayLike, *, planar: bool) -> None:
    lines = finite("field: trajectories2d", trajectories2d, shape=(None, None, 2))
    lines = lines[thin(len(lines), _DRAWN_TRAJECTORIES)]
    gap = np.full((len(lines), 1, 2), np.nan)
    joined = np.concatenate([lines, gap], axis=1).reshape(-1, 2).astype(np.float32)
    figure.add_scatter(
        x=joined[:, 0],
        y=joined[:, 1],
        mode="lines",
        line={"color": veil(0.6), "width": 1.2, "dash": "solid" if planar else "dot"},
        hoverinfo="skip",
        name="trajectories" if planar else "trajectories (projected)",
    )


def _starts(
    figure: go.Figure,
    starts: NDArray[np.float64],
    reached: NDArray[np.int64],
    colors: NDArray[Any],
) -> None:
    for color in dict.fromkeys(colors[reached[reached >= 0]]):
        # The appended entry is that of index -1, which is no attractor.
        inside = (reached >= 0) & (np.append(colors, "")[reached] == color)
        figure.add_scatter(
            x=starts[inside, 0],
            y=starts[inside, 1],
            mode="markers",
            marker={"size": 5, "color": color, "opacity": 0.6},
            customdata=reached[inside],
            hovertemplate="start in basin %{customdata}<extra></extra>",
            showlegend=False,
        )
    lost = reached < 0
    if lost.any():
        figure.add_scatter(
            x=starts[lost, 0],
            y=starts[lost, 1],
            mode="markers",
            # A cross, because gray dots are starts in the smaller basins.
            marker={"symbol": "x-thin", "size": 6, "line": {"width": 1.5, "color": OTHER}, "opacity": 0.9},
            hovertemplate="reached no attractor<extra></extra>",
            name="starts that reached no attractor",
        )


def _lost(figure: go.Figure, starts: NDArray[np.float64], ends: NDArray[np.float64]) -> None:
    """Arrows from starts that reached no attractor towards where they were at the last step.

    Ends of diverging trajectories may lie a thousand times farther out than the starts. Drawn in place they
    would be the whole picture, so that an arrow's length grows with the logarithm of the distance.
    """
    moved = ends - starts
    distance = np.hypot(*moved.T)
    known = np.flatnonzero(np.isfinite(distance) & (distance > 0))
    some = known[thin(len(known), _DRAWN_LOST)]
    if not len(some):
        return
    length = np.log1p(distance[some] / np.median(distance[known]))
    spread = max(float(np.ptp(starts[:, 0])), float(np.ptp(starts[:, 1])), 1e-12)
    scale = 0.12 * spread * length / length.max() / distance[some]
    figure.add_trace(
        go.Quiver(
            x=starts[some, 0],
            y=starts[some, 1],
            u=moved[some, 0] * scale,
            v=moved[some, 1] * scale,
            lengthmode="raw",
            lengthfactor=1.0,
            anchor="tail",
            marker={"color": OTHER},
            customdata=distance[some],
            hovertemplate="moved %{customdata:.3g} in this plane by the last step<extra></extra>",
            name="direction of the last state (length: logarithmic)",
        )
    )


def _attractors(
    figure: go.Figure,
    attractors: NDArray[np.float64],
    sizes: NDArray[np.int64],
    status: Sequence[str],
    stable: ArrayLike | None,
    colors: NDArray[Any],
) -> None:
    if stable is None:
        kind = np.full(len(attractors), "unknown", dtype=object)
    else:
        kind = np.where(np.asarray(stable, dtype=bool), "stable", "unstable").astype(object)
    for name, symbol in _SYMBOLS.items():
        of_kind = np.flatnonzero(kind == name)
        if not len(of_kind):
            continue
        figure.add_scatter(
            x=attractors[of_kind, 0],
            y=attractors[of_kind, 1],
            mode="markers",
            marker={
                "symbol": symbol,
                "size": 17,
                "color": list(colors[of_kind]),
                "line": {"width": 1.5, "color": "#ffffff" if name == "stable" else list(colors[of_kind])},
            },
            customdata=[[int(k), plain(status[int(k)]), int(sizes[k])] for k in of_kind],
            hovertemplate="attractor %{customdata[0]}: %{customdata[1]}<br>%{customdata[2]} starts"
            "<extra></extra>",
            name={"stable": "stable", "unstable": "unstable", "unknown": "stability not known"}[name],
        )
