"""Paths, some at a time: read, checked, and what several detectors ask of them computed once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from repdyn.errors import RepdynError
from repdyn.ood.gaussian import ShrunkGaussian, unit
from repdyn.progress import track

if TYPE_CHECKING:
    from repdyn.paths import RepresentationPaths

__all__ = ["Chunk", "read", "values"]

ROWS = 2048  # read at once: 2048 paths of 13 points by 768 in float32 are 80 MB


class Chunk(dict[str, NDArray[Any]]):
    """Some paths as ``{point: (n, D)}``, and what has been computed of them.

    The members of a union ask the same of the same points; each question is answered once.
    """

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        super().__init__(arrays)
        self._units: dict[str, NDArray[Any]] = {}
        self._squared: dict[tuple[str, int], tuple[ShrunkGaussian, NDArray[Any]]] = {}

    def unit(self, point: str) -> NDArray[Any]:
        """Unit vectors in float32: what was fitted in float64 needs no more to be asked, at half the time."""
        if point not in self._units:
            self._units[point] = unit(self[point], np.float32)
        return self._units[point]

    def squared(self, point: str, density: ShrunkGaussian) -> NDArray[Any]:
        """Squared distance of the unit vectors to a density's nearest mean, ``(n,)``."""
        key = (point, id(density))  # the density is kept too, so that no other takes its id
        if key not in self._squared:
            self._squared[key] = (density, density.nearest_squared(self.unit(point)))
        return self._squared[key][1]


def read(paths: RepresentationPaths, points: tuple[str, ...], description: str) -> Iterator[Chunk]:
    """Chunks of paths, in order, checked."""
    starts = range(0, len(paths), ROWS)
    for start in track(starts, description):
        chunk = paths.subset(np.arange(start, min(start + ROWS, len(paths))))
        yield Chunk({point: values(chunk, point, start) for point in points})


def values(paths: RepresentationPaths, point: str, start: int = 0) -> NDArray[Any]:
    """One point as an ``(N, D)`` array of finite numbers, or an error that says where it is not."""
    x = np.asarray(paths[point] if point in paths.points else paths.logits)
    if x.ndim != 2:
        raise RepdynError(
            f"paths: {point!r} has shape {x.shape}, expected (N, D); trace with a pooling, or pool the tokens"
        )
    finite = np.isfinite(x).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        raise RepdynError(
            f"paths: non-finite activation at {point!r}, sample {start + row}; drop that sample"
        )
    return x if x.dtype == np.float64 else x.astype(np.float32, copy=False)
