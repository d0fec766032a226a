"""Pictures of the shared folder that are stored as JPEG files, all files' bytes in one array."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["jpegs", "rows"]


def jpegs(path: Path, split: str = "", count: int | None = None) -> list[Image.Image]:
    """Pictures in RGB.

    Parameters
    ----------
    path
        An ``.npz`` file with the arrays ``jpeg{split}`` and ``offset{split}``.
    split
        ``"_train"`` or ``"_test"`` where there are two.
    count
        As many, drawn always alike (:func:`rows`); all in their order unless told.
    """
    with np.load(path) as file:
        offset, data = file[f"offset{split}"], file[f"jpeg{split}"]
    return [
        Image.open(io.BytesIO(data[offset[i] : offset[i + 1]].tobytes())).convert("RGB")
        for i in rows(len(offset) - 1, count)
    ]


def rows(size: int, count: int | None) -> NDArray[Any]:
    """Which of ``size`` stored pictures :func:`jpegs` gives."""
    return np.arange(size) if count is None else np.random.default_rng(0).permutation(size)[:count]
