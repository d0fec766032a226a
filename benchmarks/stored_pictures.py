"""Pictures of the shared folder, made ones, and the one JPEG coder that all of a benchmark go through."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from harness import data
from numpy.typing import NDArray
from PIL import Image

__all__ = [
    "digit_pictures",
    "jpegs",
    "labeled_digits",
    "labeled_jpegs",
    "rows",
    "shuffled",
    "smooth_noise",
    "square",
    "through_jpeg",
]

JPEG_QUALITY = 85
Array = NDArray[Any]


def jpegs(path: Path, split: str = "", count: int | None = None, evenly: bool = False) -> list[Image.Image]:
    """Pictures in RGB.

    Parameters
    ----------
    path
        An ``.npz`` file with the arrays ``jpeg{split}`` and ``offset{split}``.
    split
        ``"_train"`` or ``"_test"`` where there are two.
    count, evenly
        Which of them: see :func:`rows`.
    """
    with np.load(path) as file:
        offset, data = file[f"offset{split}"], file[f"jpeg{split}"]
    return [
        Image.open(io.BytesIO(data[offset[i] : offset[i + 1]].tobytes())).convert("RGB")
        for i in rows(len(offset) - 1, count, evenly)
    ]


def labeled_jpegs(name: str, split: str = "") -> tuple[list[Image.Image], NDArray[np.int64]]:
    """All pictures of a file of the shared folder, in RGB, and their labels."""
    path = data("images", f"{name}.npz")
    with np.load(path) as file:
        labels = file[f"label{split}"].astype(np.int64)
    return jpegs(path, split), labels


def rows(size: int, count: int | None, evenly: bool = False) -> NDArray[Any]:
    """Numbers of ``count`` of ``size`` pictures, at random but always the same, or evenly spaced."""
    if evenly and count is not None:
        return np.linspace(0, size - 1, count).astype(int)
    return np.arange(size) if count is None else np.random.default_rng(0).permutation(size)[:count]


def labeled_digits(name: str, split: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pictures ``(N, 28, 28)`` and labels of ``mnist``, ``fashion_mnist`` or ``kmnist_test``."""
    with np.load(data("images", f"{name}.npz")) as file:
        return file[f"x_{split}"], file[f"y_{split}"].astype(np.int64)


def digit_pictures(name: str, count: int) -> list[Image.Image]:
    """The first test pictures in RGB."""
    return [Image.fromarray(x).convert("RGB") for x in labeled_digits(name, "test")[0][:count]]


def smooth_noise(count: int, side: int) -> list[Image.Image]:
    """Eight by eight random colors, enlarged."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, size=(count, 8, 8, 3), dtype=np.uint8)
    return [Image.fromarray(x).resize((side, side), Image.Resampling.BICUBIC) for x in coarse]


def shuffled(pictures: list[Image.Image], side: int, patches: int = 4) -> list[Image.Image]:
    """Pictures whose patches changed places."""
    generator, found, step = np.random.default_rng(0), [], side // patches
    for picture in pictures:
        x = np.asarray(square(picture, side))
        grid = x.reshape(patches, step, patches, step, 3).swapaxes(1, 2).reshape(-1, step, step, 3)
        grid = grid[generator.permutation(len(grid))].reshape(patches, patches, step, step, 3)
        found.append(Image.fromarray(grid.swapaxes(1, 2).reshape(side, side, 3)))
    return found


def square(picture: Image.Image, side: int) -> Image.Image:
    """The middle, in ``side`` by ``side`` pixels."""
    short = min(picture.size)
    left, top = ((length - short) // 2 for length in picture.size)
    crop = picture.crop((left, top, left + short, top + short))
    return crop.resize((side, side), Image.Resampling.BICUBIC)


def through_jpeg(picture: Image.Image, side: int) -> tuple[Image.Image, list[float]]:
    """The picture after the one coder that all go through, and statistics of its file."""
    stream = io.BytesIO()
    square(picture, side).save(stream, "JPEG", quality=JPEG_QUALITY)
    again = Image.open(io.BytesIO(stream.getvalue())).convert("RGB")
    x = np.asarray(again, dtype=float)
    edges = np.abs(np.diff(x, axis=0)).mean() + np.abs(np.diff(x, axis=1)).mean()
    return again, [len(stream.getvalue()), x.mean(), x.std(), edges, x.std(axis=2).mean()]
