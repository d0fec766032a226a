"""Clips with known factors: dSprites in motion, which are drawn here, and Sprites from their layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from repdyn.datasets.labeled import Labeled
from repdyn.disentangle.swaps import pictures
from repdyn.errors import RepdynError

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["LabeledClips", "dsprites", "moving_dsprites", "sprites"]


@dataclass(frozen=True, eq=False, repr=False)
class LabeledClips(Labeled):
    """Clips and the factors that they were made from; a map-style data set for ``torch``.

    Attributes
    ----------
    clips
        Shape ``(N, T, 3, height, width)``, uint8.
    static, dynamic
        ``{factor: (N,)}``, whole numbers from 0.
    """

    clips: NDArray[np.uint8]
    static: Mapping[str, NDArray[np.int64]]
    dynamic: Mapping[str, NDArray[np.int64]]

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, row: int) -> tuple[NDArray[np.float32], dict[str, int]]:
        """A clip in [0, 1] and its labels."""
        return self.clips[row].astype(np.float32) / 255, {k: int(v[row]) for k, v in self.labels.items()}

    def take(self, rows: Any) -> LabeledClips:
        """The selected clips."""
        own, other = self._rows(self.static, rows), self._rows(self.dynamic, rows)
        return LabeledClips(self.clips[rows], own, other)

    def plot(self, rows: int = 2, columns: int = 6) -> go.Figure:
        """The first clips, played together."""
        from repdyn.views.swaps import swaps

        count = min(rows * columns, len(self))
        rows, columns = -(-count // columns), min(columns, count)
        shown = np.full((rows * columns, *self.clips.shape[1:]), np.nan, dtype=np.float32)
        shown[:count] = self.clips[:count] / np.float32(255)
        grid = pictures(shown).reshape(rows, columns, *shown.shape[1:2], *shown.shape[3:], 3)
        names = [str(row * columns) for row in range(rows)], [str(column) for column in range(columns)]
        caption = f"The first {count} of {len(self)} clips, numbered by row and column."
        return swaps(grid, *names, caption, title="Clips")

    def __repr__(self) -> str:
        return (
            f"LabeledClips: {len(self)} of shape {self.clips.shape[1:]}, static {list(self.static)}, "
            f"dynamic {list(self.dynamic)}"
        )


_COLORS = np.array([(102, 205, 170), (255, 165, 0), (0, 255, 0), (0, 0, 255), (30, 144, 255), (255, 20, 147)])
_SHAPES = ("square", "ellipse", "heart")
_GRID = 32  # positions in each direction
_FRAMES = 8
# One course of a position for each class: 0 to 31, as published for Moving dSprites.
_COURSES = np.array(
    [
        [31, 0, 31, 0, 31, 0, 31, 0],
        [19, 17, 15, 13, 11, 9, 7, 5],
        [0, 3, 6, 9, 12, 15, 18, 21],
        [2, 6, 10, 14, 18, 22, 26, 30],
        [27, 27, 19, 19, 11, 11, 3, 3],
        [30, 20, 20, 10, 10, 20, 20, 30],
        [1, 1, 2, 3, 5, 8, 13, 21],
        [31, 29, 23, 19, 17, 13, 11, 7],
    ]
)


def dsprites(count: int | None = None, *, size: int = 64, seed: int = 0) -> LabeledClips:
    """Colored dSprites that stay in place and change size: 6 × 3 × 8 × 8 static, 10 courses of scale.

    Shapes are drawn to a geometry fitted to the original pictures (intersection over union .97 square, .97
    ellipse, .92 heart): close, not identical. Courses of scale are drawn from ``seed`` in the published way
    (a triangle wave of the six scales, with a changing speed), not the published draws.

    Parameters
    ----------
    count
        Number of clips, drawn at random from all 11 520; default: all.
    size
        Height and width in pixels; 64 as published.
    seed
        Of the courses of scale, and of the draw.

    References
    ----------
    Matthey, L. et al. (2017), dSprites. Hason (2024), the clips.
    """
    courses = _scale_courses(seed)
    index = _drawn((6, 3, 8, 8, 10), count, seed)
    positions = index[:, 2:4] * 4 + 2
    rows = np.repeat(positions[:, :, None], _FRAMES, axis=2)
    clips = _draw(index[:, 0], index[:, 1], courses[index[:, 4]], rows[:, 0], rows[:, 1], size)
    names = ("colour", "shape", "position_x", "position_y")
    return LabeledClips(clips, dict(zip(names, index.T[:4])), {"scale": index[:, 4]})


def moving_dsprites(count: int | None = None, *, size: int = 64, seed: int = 0) -> LabeledClips:
    """Colored dSprites that move and change size: 6 × 3 static; 10 courses of scale, 8 × 8 of position.

    Parameters
    ----------
    count, size, seed
        As in :func:`dsprites`. Courses of position are the published ones.

    Examples
    --------
    >>> moving_dsprites(4, size=32).clips.shape
    (4, 8, 3, 32, 32)
    """
    courses = _scale_courses(seed)
    index = _drawn((6, 3, 10, 8, 8), count, seed)
    clips = _draw(
        index[:, 0], index[:, 1], courses[index[:, 2]], _COURSES[index[:, 3]], _COURSES[index[:, 4]], size
    )
    dynamic = dict(zip(("scale", "position_x", "position_y"), index.T[2:]))
    return LabeledClips(clips, {"colour": index[:, 0], "shape": index[:, 1]}, dynamic)


_LAYERS = ("body", "bottomwear", "topwear", "hair")
_ITEMS = 6  # of each layer, as in the paper
_ORDER = 423  # the published shuffle of the 1296 characters
_TRAINING = 1000


def sprites(
    layers: Mapping[str, NDArray[np.uint8]],
    *,
    items: int | Sequence[int] = _ITEMS,
    size: int = 64,
    characters: int | None = None,
) -> tuple[LabeledClips, LabeledClips]:
    """Training and test clips of Li and Mandt's Sprites, composed of their layers.

    The layers are those of the Liberated Pixel Cup characters: ``https://github.com/YingzhenLi/Sprites`` (CC
    BY-SA 3.0 or GPL 3.0, credit to the LPC artists). Shoes of item 1 are worn by all. With all six items the
    split is the published one, 1000 and 296 characters. With fewer, about a quarter is the test part.

    Parameters
    ----------
    layers
        ``{"body", "bottomwear", "topwear", "hair", "shoes"}``, each ``(items, 3 actions, 3 directions, 8
        frames, 64, 64, RGBA)``, uint8.
    items
        Number of items of each layer, or their indices. n items give n⁴ characters with nine clips each.
    size
        Height and width in pixels: 64, or a divisor of it, by averaging.
    characters
        Number of training characters, the first in the order of the split; default: all. The test characters
        stay the same.

    Returns
    -------
    tuple of LabeledClips
        Training and test clips, of different characters.
    """
    missing = {*_LAYERS, "shoes"} - set(layers)
    if missing:
        raise RepdynError(f"sprites: layers {sorted(missing)} are missing; there are {sorted(layers)}")
    worn = tuple(range(items)) if isinstance(items, int) else tuple(items)
    held = min(len(layers[name]) for name in _LAYERS)
    if not 2 <= len(set(worn)) == len(worn) <= _ITEMS or not 0 <= min(worn) <= max(worn) < held or 64 % size:
        raise RepdynError(
            f"sprites: items must be 2 to 6 of the {held} in every layer, and size divide 64; "
            f"got {items} and {size}"
        )
    # The legacy generator, because the published split was drawn by it.
    order = np.random.RandomState(_ORDER).permutation(len(worn) ** 4)
    aside = _TRAINING if len(worn) == _ITEMS else round(len(worn) ** 4 * 0.75)
    most = aside if characters is None else characters
    if not 1 <= most <= aside:
        raise RepdynError(f"characters: expected 1 to {aside}, the training characters, got {characters}")
    training, test = order[:most], order[aside:]
    return _characters(layers, training, worn, size), _characters(layers, test, worn, size)


def _characters(
    layers: Mapping[str, NDArray[np.uint8]], numbers: NDArray[np.int64], items: Sequence[int], size: int
) -> LabeledClips:
    """Nine clips of each of the numbered characters."""
    wears = np.stack(np.unravel_index(numbers, (len(items),) * 4), axis=1)
    clips = np.empty((len(numbers), 9, _FRAMES, 3, size, size), dtype=np.uint8)
    # What a layer adds to a picture, and what it leaves of it: computed once, not for each character.
    worn = {name: [_blending(layers[name][item]) for item in items] for name in _LAYERS}
    shoes, fold = _blending(layers["shoes"][1]), 64 // size
    for row, chosen in enumerate(wears):
        picture = worn[_LAYERS[0]][chosen[0]][0].copy()
        for added, left in (*(worn[name][item] for name, item in zip(_LAYERS[1:], chosen[1:])), shoes):
            picture *= left
            picture += added
        lines = picture.reshape(9, _FRAMES, size, fold, 64 * 3).sum(axis=3)
        small = lines.reshape(9, _FRAMES, size, size, fold, 3).sum(axis=4) / np.float32(fold**2)
        clips[row] = small.round().transpose(0, 1, 4, 2, 3)
    static = {name: wears[:, column].repeat(9) for column, name in enumerate(_LAYERS)}
    return LabeledClips(
        clips.reshape(-1, *clips.shape[2:]), static, {"action": np.tile(np.arange(9), len(numbers))}
    )


def _blending(layer: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Colors times opacity ``(3, 3, 8, 64, 64, 3)``, and the transparency ``(3, 3, 8, 64, 64, 1)``."""
    opacity = layer[..., 3:].astype(np.float32) / np.float32(255)
    return layer[..., :3] * opacity, np.float32(1) - opacity


def _drawn(shape: tuple[int, ...], count: int | None, seed: int) -> NDArray[np.int64]:
    """Combinations of factors ``(count, factors)`` in random order, given the number of classes of each."""
    index = np.array(list(product(*map(range, shape))))
    if count is not None and not 1 <= count <= len(index):
        raise RepdynError(f"count: expected 1 to {len(index)}, got {count}")
    order = np.random.default_rng(seed).permutation(len(index))
    return index[order[:count]]


def _scale_courses(seed: int) -> NDArray[np.int64]:
    """Ten courses of the six scales, ``(10, 8)``: a triangle wave at a speed that changes at random."""
    generator = np.random.default_rng(seed)
    wave, speeds = np.array([0, 1, 2, 3, 4, 5, 4, 3, 2, 1]), np.array([2, 1, 0, -1, -2, -1, 0, 1])
    courses = np.empty((10, _FRAMES), dtype=np.int64)
    for course in courses:
        phase, pace = int(generator.integers(6)), int(generator.integers(5))
        for frame in range(_FRAMES):
            course[frame] = wave[-phase % len(wave)]
            phase += int(speeds[-pace % len(speeds)])
            pace += int(generator.choice([0, 0, 1, -1]))
    return courses


def _draw(
    color: NDArray[np.int64],
    shape: NDArray[np.int64],
    scale: NDArray[np.int64],
    x: NDArray[np.int64],
    y: NDArray[np.int64],
    size: int,
) -> NDArray[np.uint8]:
    """Clips ``(N, T, 3, size, size)`` of shapes at courses of scale and position, each ``(N, T)``."""
    if size < 8:
        raise RepdynError(f"size: expected at least 8 pixels, got {size}")
    clips = np.empty((len(color), _FRAMES, 3, size, size), dtype=np.uint8)
    grid = (np.arange(size) + 0.5) * 64 / size - 0.5
    for row in range(len(color)):
        masks = _masks(int(shape[row]), 0.5 + scale[row] / 10, x[row], y[row], grid)
        clips[row] = masks[:, None] * _COLORS[color[row]][:, None, None]
    return clips


def _masks(
    shape: int,
    scale: NDArray[np.float64],
    x: NDArray[np.int64],
    y: NDArray[np.int64],
    grid: NDArray[np.float64],
) -> NDArray[np.bool_]:
    """Masks ``(T, size, size)`` of the shape; lengths are in pixels of the 64 × 64 original."""
    center = [15.5 + 32 * position / (_GRID - 1) for position in (x, y)]
    across = grid[None, None, :] - center[0][:, None, None]
    down = grid[None, :, None] - center[1][:, None, None]
    scale = scale[:, None, None]
    if _SHAPES[shape] == "square":
        return (np.abs(across) <= 9.6 * scale) & (np.abs(down) <= 9.6 * scale)
    if _SHAPES[shape] == "ellipse":
        inside: NDArray[np.bool_] = (across / (7.2 * scale)) ** 2 + (down / (12.8 * scale)) ** 2 <= 1
        return inside
    # The heart curve x = 16 sin³t, y = 13 cos t − 5 cos 2t − 2 cos 3t − cos 4t, by its height over each x.
    return _heart(across / (0.631 * scale), -down / (0.631 * scale))


def _heart(across: NDArray[np.float64], up: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether points lie inside the heart curve, by its height over each x."""
    turn = np.linspace(0, np.pi, 721)
    outline_x = 16 * np.sin(turn) ** 3
    outline_y = 13 * np.cos(turn) - 5 * np.cos(2 * turn) - 2 * np.cos(3 * turn) - np.cos(4 * turn)
    tip = int(outline_x.argmax())  # before it the upper edge, after it the lower one
    distance = np.abs(across)
    above = np.interp(distance, outline_x[: tip + 1], outline_y[: tip + 1])
    below = np.interp(distance, outline_x[tip:][::-1], outline_y[tip:][::-1])
    inside: NDArray[np.bool_] = (distance <= 16) & (up <= above) & (up >= below)
    return inside
