"""The spectrum of a Koopman operator: decay, rotation and certification of its modes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike, NDArray

from repdyn.errors import RepdynError
from repdyn.views.arguments import finite
from repdyn.views.complex_plane import add_eigenvalues, add_unit_circle
from repdyn.views.theme import CATEGORIES, OTHER, SEQUENTIAL, describe, new_figure, panels, veil

__all__ = ["pseudospectrum", "spectrum"]

_MOST = 256  # eigenvalues drawn: the largest moduli
_MANY = 64  # eigenvalues: more are marked smaller
_INTERVALS = 24  # drawn where there are many
_CURVE = 49  # places along depth at which a curve is drawn
_CERTIFIED, _NOT = CATEGORIES[0], OTHER


def spectrum(
    eigenvalues: ArrayLike,
    residual: ArrayLike,
    threshold: float,
    low: ArrayLike | None = None,
    high: ArrayLike | None = None,
    depths: ArrayLike | int = 12,
    relative: bool = False,
) -> go.Figure:
    r"""Eigenvalues in the complex plane, and the amplitude :math:`|\lambda|^t` of each mode at depth t.

    Clicking an eigenvalue in the report highlights its curve.

    Parameters
    ----------
    eigenvalues
        Shape ``(K,)``, complex.
    residual
        Shape ``(K,)``: the residual certificate of each, small where the eigenpair is one of the data and
        not of the dictionary.
    threshold
        Residuals up to it are certified.
    low, high
        Shape ``(K,)``: ends of the interval of each modulus, or ``None``.
    depths
        The depths t of the path, ``(L,)``, or the last of them.
    relative
        Whether eigenvalues are relative to frames that differ between points: then none is certified.

    Returns
    -------
    plotly.graph_objects.Figure

    References
    ----------
    Colbrook, M. J., Ayton, L. J., Szőke, M. (2023). Residual dynamic mode decomposition. J. Fluid Mech. 955,
    eq. (3.5): the residual.
    """
    values = np.asarray(eigenvalues, dtype=np.complex128)
    finite("spectrum: the eigenvalues' moduli", np.abs(values), shape=(None,))
    certificate = finite("spectrum: residual", residual, shape=values.shape)
    interval = _interval(low, high, len(values))
    order = np.argsort(-np.abs(values), kind="stable")[:_MOST]
    count = len(values)
    values, certificate = values[order], certificate[order]
    interval = None if interval is None else interval[:, order]
    certified = (certificate <= threshold) & (not relative)
    last = float(np.max(np.asarray(depths, dtype=np.float64)))
    if not np.isfinite(last) or last <= 0:
        raise RepdynError(f"spectrum: depths must end above 0, got {last}")
    t = np.linspace(0, last, _CURVE)
    # A growing mode is cut at the edge of the picture, before it overflows.
    curves = np.exp(np.clip(np.outer(np.log(np.maximum(np.abs(values), 1e-12)), t), -30, 30))

    figure = panels(
        ["eigenvalues λ", "remaining amplitude of each mode, |λ|ᵗ"],
        columns=2,
        height=500,
        column_widths=[0.5, 0.5],
        horizontal_spacing=0.1,
    )
    _plane(figure, values, certificate, certified, interval)
    _curves(figure, t, curves, certified)
    _link(figure, values, t, curves, certified)
    frames = " They are relative to the frames of the points, and no property of depth." if relative else ""
    drawn = f"{frames} The {_MOST} largest of {count} are drawn." if count > _MOST else frames
    return describe(
        figure,
        "Koopman spectrum",
        f"{int(certified.sum())} of {len(values)} eigenvalues are certified (residual up to {threshold:.3g}, "
        "filled blue); hollow gray ones may be artifacts of the dictionary. A mode persists on the circle, "
        f"decays inside it, and rotates off the real axis. Click an eigenvalue to see its curve.{drawn}",
        alt=f"{len(values)} eigenvalues in the complex plane, {int(certified.sum())} of them certified, "
        f"largest modulus {np.abs(values).max():.3f}; on the right, the decay of each through depth.",
    )


def pseudospectrum(
    real: ArrayLike,
    imaginary: ArrayLike,
    residual: ArrayLike,
    eigenvalues: ArrayLike,
    certified: ArrayLike,
) -> go.Figure:
    """Smallest residual of any observable, at every place of the complex plane, with the eigenvalues in it.

    Parameters
    ----------
    real, imaginary
        Axes, shapes ``(R,)`` and ``(I,)``.
    residual
        Shape ``(I, R)``.
    eigenvalues
        Shape ``(K,)``, complex.
    certified
        Shape ``(K,)``, boolean.

    Returns
    -------
    plotly.graph_objects.Figure
    """
    across = finite("pseudospectrum: real", real, shape=(None,))
    up = finite("pseudospectrum: imaginary", imaginary, shape=(None,))
    grid = finite("pseudospectrum: residual", residual, shape=(len(up), len(across)))
    values = np.asarray(eigenvalues, dtype=np.complex128)
    true = np.asarray(certified, dtype=bool)
    # Residuals below are rounding errors and would use up the color scale.
    levels = np.log10(np.maximum(grid, 1e-4))
    figure = new_figure(
        "Pseudospectrum",
        "Color is the smallest relative residual of any observable; strong blue is a small residual. Strong "
        "blue far from every eigenvalue means that the operator is not normal, so that single eigenvalues "
        "are unreliable.",
        alt=f"Residual over the complex plane, from {grid.min():.2g} to {grid.max():.2g}, with "
        f"{len(values)} eigenvalues, {int(true.sum())} of them certified.",
        height=560,
    )
    low, high = float(levels.min()), float(levels.max())
    ticks = np.arange(np.ceil(low), np.floor(high) + 1)
    figure.add_heatmap(
        x=across,
        y=up,
        z=levels.astype(np.float32),
        colorscale=[[1 - at, color] for at, color in reversed(SEQUENTIAL)],
        colorbar={
            "title": {"text": "residual"},
            "tickvals": ticks,
            "ticktext": [f"{10.0**t:g}" for t in ticks],
            "len": 0.8,
        },
        customdata=grid.astype(np.float32),
        hovertemplate="λ = %{x:.3f} + %{y:.3f} i<br>residual %{customdata:.3g}<extra></extra>",
    )
    figure.add_contour(
        x=across,
        y=up,
        z=levels.astype(np.float32),
        contours={"coloring": "none"},
        line={"width": 0.8, "color": veil(0.8)},
        showscale=False,
        showlegend=False,
        hoverinfo="skip",
    )
    add_unit_circle(figure)
    add_eigenvalues(figure, values, true, None, CATEGORIES[1], 8, CATEGORIES[1])
    figure.update_xaxes(title_text="real part", constrain="domain", range=[across.min(), across.max()])
    figure.update_yaxes(
        title_text="imaginary part", scaleanchor="x", constrain="domain", range=[up.min(), up.max()]
    )
    return figure


def _interval(low: ArrayLike | None, high: ArrayLike | None, count: int) -> NDArray[np.float64] | None:
    if (low is None) != (high is None):
        raise RepdynError("spectrum: give both ends of the intervals, low and high, or neither")
    if low is None or high is None:
        return None
    ends = [np.asarray(end, dtype=np.float64) for end in (low, high)]
    if any(end.shape != (count,) for end in ends):
        raise RepdynError(f"spectrum: low and high must have shape ({count},), got {[e.shape for e in ends]}")
    return np.stack(ends)


def _plane(
    figure: go.Figure,
    values: NDArray[np.complex128],
    certificate: NDArray[np.float64],
    certified: NDArray[np.bool_],
    interval: NDArray[np.float64] | None,
) -> None:
    add_unit_circle(figure, row=1, col=1)
    if interval is not None:
        # The modulus's interval lies along the ray from the origin; hundreds of rays would be a thicket.
        first = slice(None) if len(values) <= _MANY else slice(_INTERVALS)
        direction = np.exp(1j * np.angle(values[first]))
        gap = np.full(len(direction), np.nan)
        joined = np.stack([direction * interval[0, first], direction * interval[1, first], gap]).T.ravel()
        figure.add_scatter(
            x=joined.real,
            y=np.where(np.isnan(joined.real), np.nan, joined.imag),
            mode="lines",
            line={"color": veil(0.9), "width": 1.2},
            hoverinfo="skip",
            name="interval of |λ|" + f", the {_INTERVALS} largest" * (len(values) > _MANY),
            row=1,
            col=1,
        )
    size = 9 if len(values) <= _MANY else 6
    add_eigenvalues(figure, values, certified, certificate, _CERTIFIED, size, row=1, col=1)
    reach = 1.12 * max(1.0, float(np.nanmax(np.abs(values))))
    figure.update_xaxes(
        range=[-reach, reach], constrain="domain", title_text="real part", nticks=6, row=1, col=1
    )
    figure.update_yaxes(
        range=[-reach, reach],
        scaleanchor="x",
        constrain="domain",
        title_text="imaginary part",
        nticks=6,
        row=1,
        col=1,
    )


def _curves(
    figure: go.Figure, t: NDArray[np.float64], curves: NDArray[np.float64], certified: NDArray[np.bool_]
) -> None:
    for mask, name, color, alpha in (
        (~certified, "not certified", _NOT, 0.5),
        (certified, "certified", _CERTIFIED, 0.7),
    ):
        some = curves[mask]
        joined = np.concatenate([some, np.full((len(some), 1), np.nan)], axis=1).ravel()
        figure.add_scatter(
            x=np.tile(np.append(t, np.nan), len(some)).astype(np.float32),
            y=joined.astype(np.float32),
            mode="lines",
            name=name,
            legendgroup=name,
            showlegend=False,
            opacity=alpha,
            line={"color": color, "width": 1.3},
            hoverinfo="skip",
            row=1,
            col=2,
        )
    top = max(1.1, min(2.0, 1.05 * float(np.nanmax(curves))))
    figure.update_yaxes(range=[0, top], row=1, col=2)
    figure.update_xaxes(title_text="depth t", row=1, col=2)


def _link(
    figure: go.Figure,
    values: NDArray[np.complex128],
    t: NDArray[np.float64],
    curves: NDArray[np.float64],
    certified: NDArray[np.bool_],
) -> None:
    """A ring and a bold curve for the chosen eigenvalue, and the data to move them on a click."""
    first = int(np.flatnonzero(certified)[0]) if certified.any() else 0
    color = CATEGORIES[5]
    ring = len(figure.data)
    figure.add_scatter(
        x=[values[first].real],
        y=[values[first].imag],
        mode="markers",
        marker={"size": 17, "symbol": "circle-open", "color": color, "line": {"width": 2.5}},
        hoverinfo="skip",
        name="chosen",
        row=1,
        col=1,
    )
    figure.add_scatter(
        x=t,
        y=curves[first],
        mode="lines",
        line={"color": color, "width": 3.2},
        name="chosen",
        showlegend=False,
        hovertemplate="depth %{x:.3g}: %{y:.3g}<extra></extra>",
        row=1,
        col=2,
    )
    sources: Sequence[int] = [k for k in range(ring) if figure.data[k].customdata is not None]
    figure.update_layout(
        meta={
            "links": {
                "sources": list(sources),
                "targets": [
                    {"trace": ring, "x": _rounded(values.real[:, None]), "y": _rounded(values.imag[:, None])},
                    {"trace": ring + 1, "y": _rounded(curves)},
                ],
            }
        }
    )


def _rounded(values: NDArray[np.float64]) -> list[list[float]]:
    # Four digits: finer than a pixel, and the page holds every curve as text.
    return [[float(f"{v:.4g}") for v in row] for row in values]
