"""Representations of a path as tensors, checked: finite, pooled, of the expected widths."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from repdyn.errors import RepdynError, nearest_names
from repdyn.paths import RepresentationPaths, nearby

__all__ = ["checked_point", "point_number", "read_points"]


def read_points(paths: RepresentationPaths) -> list[Tensor]:
    """Every point of every sample, in order of depth: float64 where the paths are, float32 otherwise.

    Parameters
    ----------
    paths
        Pooled paths: each point ``(N, D)``.

    Raises
    ------
    RepdynError
        If a point keeps its tokens, or holds a value that is not finite (named with its sample).
    """
    states = []
    if isinstance(paths, RepresentationPaths):  # of a remote store, all points with one read
        paths = nearby(paths, sys.maxsize)
    for point in paths.points:
        x = checked_point(paths, point, np.asarray(paths[point]))
        states.append(torch.from_numpy(np.ascontiguousarray(x)))
    return states


def checked_point(paths: RepresentationPaths, point: str, x: NDArray[Any], start: int = 0) -> NDArray[Any]:
    """Rows of one point, the first of which is sample ``start``, as :func:`read_points` gives them."""
    x = x if x.dtype == np.float64 else x.astype(np.float32)
    if x.ndim != 2:
        raise RepdynError(
            f"point {point!r} has shape {x.shape}, expected (samples, width); trace with pooling"
        )
    if len(x) == 0:
        raise RepdynError("the paths hold no sample")
    finite = np.isfinite(x).all(axis=1)
    if not finite.all():
        row = start + int(np.flatnonzero(~finite)[0])
        name = "" if paths.ids is None else f" (id {paths.ids[row]!r})"
        raise RepdynError(
            f"point {point!r}, sample {row}{name}: a value is not finite "
            f"({int((~finite).sum())} samples in all); leave such samples out with subset"
        )
    return x


def point_number(point: str, points: tuple[str, ...]) -> int:
    """Depth of a named point.

    Raises
    ------
    RepdynError
        If the path has no such point; says which names are nearest.
    """
    if point not in points:
        raise RepdynError(f"there is no point {point!r}; {nearest_names(point, points)}")
    return points.index(point)
