"""Representations of a path as tensors, checked: finite, pooled, of the expected widths."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from repdyn.errors import RepdynError, nearest_names
from repdyn.paths import RepresentationPaths

__all__ = ["point_number", "read_points"]


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
    for point in paths.points:
        x = np.asarray(paths[point])
        x = x if x.dtype == np.float64 else x.astype(np.float32)
        if x.ndim != 2:
            raise RepdynError(
                f"point {point!r} has shape {x.shape}, expected (samples, width); trace with pooling"
            )
        if len(x) == 0:
            raise RepdynError("the paths hold no sample")
        finite = np.isfinite(x).all(axis=1)
        if not finite.all():
            row = int(np.flatnonzero(~finite)[0])
            name = "" if paths.ids is None else f" (id {paths.ids[row]!r})"
            raise RepdynError(
                f"point {point!r}, sample {row}{name}: a value is not finite "
                f"({int((~finite).sum())} samples in all); leave such samples out with subset"
            )
        states.append(torch.from_numpy(np.ascontiguousarray(x)))
    return states


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
