"""A grid of clips played together: swaps of static and dynamic factors between sequences."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike, NDArray

from repdyn.errors import RepdynError
from repdyn.views.animation import player
from repdyn.views.arguments import finite
from repdyn.views.theme import describe, new_figure, plain

__all__ = ["swaps"]

_MOST_ROWS, _MOST_COLUMNS, _MOST_FRAMES = 10, 8, 24
_PIXELS = 560  # maximum length of the longer side of the whole grid
_AT_ONCE = {"frame": {"duration": 120, "redraw": True}, "transition": {"duration": 0}}
_GUTTER = 2  # pixels between clips, left transparent so that the page shows through


def swaps(
    clips: ArrayLike,
    row_names: Sequence[str],
    column_names: Sequence[str],
    caption: str,
    title: str = "Swaps",
) -> go.Figure:
    """A grid of short clips, animated with one slider.

    Parameters
    ----------
    clips
        Shape ``(R, C, T, H, W)`` or ``(R, C, T, H, W, 3)``: R rows of C clips of T frames, values in [0, 1].
    row_names, column_names
        R and C names: which sequence a row takes its static part from, say, and a column its dynamic one.
    caption
        What to see.
    title
        What the picture is.

    Returns
    -------
    plotly.graph_objects.Figure
        At most 10 rows, 8 columns and 24 frames, evenly spaced in time; the caption lists what is left out.

    Raises
    ------
    RepdynError
        On another shape, on values outside of [0, 1], and where no value is finite.
    """
    given = np.asarray(clips)
    if given.ndim not in (5, 6) or (given.ndim == 6 and given.shape[-1] != 3):
        raise RepdynError(f"swaps: clips must have shape (R, C, T, H, W) or (…, 3), got {given.shape}")
    values = finite(
        "swaps: clips", given, shape=(len(row_names), len(column_names), *[None] * (given.ndim - 2))
    )
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if low < -1e-6 or high > 1 + 1e-6:
        raise RepdynError(f"swaps: clips must lie in [0, 1], got values from {low:.3g} to {high:.3g}")
    rows, columns, length = values.shape[:3]
    times = np.unique(np.linspace(0, length - 1, min(length, _MOST_FRAMES)).round().astype(int))
    shown = values[:_MOST_ROWS, :_MOST_COLUMNS, times]
    pictures = [_encoded(_mosaic(shown[:, :, k])) for k in range(len(times))]

    height, width = shown.shape[3] + _GUTTER, shown.shape[4] + _GUTTER
    tall, wide = height * shown.shape[0], width * shown.shape[1]
    figure = new_figure("", "", height=int(170 + _PIXELS * min(1.0, tall / wide)))
    figure.add_image(source=pictures[0], hoverinfo="skip")
    figure.frames = [
        go.Frame(name=str(k), data=[go.Image(source=source)], traces=[0]) for k, source in enumerate(pictures)
    ]
    figure.update_xaxes(
        tickvals=(np.arange(shown.shape[1]) * width + width / 2).tolist(),
        ticktext=[plain(name, 14) for name in column_names[:_MOST_COLUMNS]],
        side="top",
        showgrid=False,
        zeroline=False,
        constrain="domain",
    )
    figure.update_yaxes(
        tickvals=(np.arange(shown.shape[0]) * height + height / 2).tolist(),
        ticktext=[plain(name, 18) + " " for name in row_names[:_MOST_ROWS]],
        showgrid=False,
        zeroline=False,
        scaleanchor="x",
        constrain="domain",
    )
    figure.update_layout(**player([f"frame {t + 1} of {length}" for t in times], _AT_ONCE, below=18))
    left_out = [
        f"{min(count, most)} of {count} {what}"
        for count, most, what in (
            (rows, _MOST_ROWS, "rows"),
            (columns, _MOST_COLUMNS, "columns"),
            (length, _MOST_FRAMES, "frames"),
        )
        if count > most
    ]
    cut = f" {', '.join(left_out)} are drawn." if left_out else ""
    return describe(
        figure,
        title,
        f"{caption}{cut}",
        alt=f"Grid of {shown.shape[0]} by {shown.shape[1]} short clips of {len(times)} frames. {caption}",
    )


def _mosaic(frames: NDArray[np.float64]) -> NDArray[np.uint8]:
    """One picture ``(R·H, C·W, 4)`` of ``(R, C, H, W[, 3])`` clips at one time; unknown values are empty."""
    if frames.ndim == 4:
        frames = np.repeat(frames[..., None], 3, axis=-1)
    known = np.isfinite(frames).all(axis=-1, keepdims=True)
    color = np.where(known, np.clip(np.nan_to_num(frames), 0, 1), 0.0)
    tiles = np.concatenate([color, known], axis=-1)
    tiles = np.pad(tiles, [(0, 0), (0, 0), (0, _GUTTER), (0, _GUTTER), (0, 0)])
    rows, columns, height, width, _ = tiles.shape
    whole = tiles.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, 4)
    return np.asarray((255 * whole).round(), dtype=np.uint8)


def _encoded(picture: NDArray[np.uint8]) -> str:
    """A PNG as a data URI."""
    from PIL import Image  # loaded only where pictures are drawn

    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
