"""Some samples instead of all, where a method needs points and all of them would not fit."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["drawn_rows"]


def drawn_rows(size: int, most: int, seed: int) -> NDArray[np.int64] | None:
    """Sorted numbers of ``most`` of ``size`` samples, drawn at random; ``None`` where all may stay.

    Examples
    --------
    >>> drawn_rows(10, 10, seed=0) is None
    True
    >>> len(drawn_rows(10, 4, seed=0))
    4
    """
    if size <= most:
        return None
    return np.sort(np.random.default_rng(seed).choice(size, most, replace=False)).astype(np.int64)
