"""Paths, some at a time: read, checked, and what several detectors ask of them computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from repdyn.errors import RepdynError
from repdyn.ood.gaussian import ShrunkGaussian, lengths, unit
from repdyn.progress import track
from repdyn.repeats import groups_of_equal_rows
from repdyn.repeats_streamed import groups_in_blocks

if TYPE_CHECKING:
    from repdyn.paths import RepresentationPaths

__all__ = ["Chunk", "Repeated", "checked", "read", "values"]

Rows = Callable[[NDArray[Any]], NDArray[Any]]

ROWS: int | None = None  # read at once; None: as RepresentationPaths.iterate decides
HELD = 2**28  # bytes of paths that a fit holds; more is read in parts, as often as it is needed


class Chunk(dict[str, NDArray[Any]]):
    """Some paths as ``{point: (n, D)}``, and what has been computed of them.

    The members of a union ask the same of the same points; each question is answered once.
    """

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        super().__init__(arrays)
        self._finite: dict[str, NDArray[np.bool_]] = {}
        self._lengths: dict[str, NDArray[np.float64]] = {}
        for point, x in arrays.items():
            finite = np.isfinite(x).all(axis=1)
            self._finite[point] = finite
            if not finite.all():  # computed with as zero vectors, and never taken for sound
                self[point] = np.where(finite[:, None], x, np.zeros((), dtype=x.dtype))
        self._units: dict[str, NDArray[np.float64]] = {}
        self._squared: dict[tuple[str, int], tuple[ShrunkGaussian, NDArray[Any]]] = {}

    def unit(self, point: str) -> NDArray[np.float64]:
        """Unit vectors, in float64: what is subtracted from them may leave very little."""
        if point not in self._units:
            self._units[point] = unit(self[point])
        return self._units[point]

    def sound(self, point: str, limits: tuple[float, float]) -> NDArray[np.bool_]:
        """Whether each vector is finite and of a length within ``limits``, ``(n,)``."""
        if point not in self._lengths:
            self._lengths[point] = lengths(self[point])
        length = self._lengths[point]
        return self._finite[point] & (length >= limits[0]) & (length <= limits[1])

    def squared(self, point: str, density: ShrunkGaussian) -> NDArray[Any]:
        """Squared distance of the unit vectors to a density's nearest mean, ``(n,)``."""
        key = (point, id(density))  # the density is kept too, so that no other takes its id
        if key not in self._squared:
            x = self.unit(point)  # float32 takes half the time, where it suffices
            x = x.astype(np.float32) if density.wide else x
            self._squared[key] = (density, density.nearest_squared(x))
        return self._squared[key][1]


def read(
    paths: RepresentationPaths, points: tuple[str, ...], description: str, *, judging: bool = False
) -> Iterator[Chunk]:
    """Chunks of paths, in order, checked; where they are judged, rows that are not finite are let through."""
    for _, arrays in _blocks(paths, points, description, judging):
        yield Chunk(arrays)


def _blocks(
    paths: RepresentationPaths, points: tuple[str, ...], description: str, judging: bool
) -> Iterator[tuple[int, dict[str, NDArray[Any]]]]:
    for block in track(paths.iterate(points, ROWS), description):
        start = block.rows.start
        yield start, {p: checked(x, p, start, judging=judging) for p, x in block.items()}


def values(paths: RepresentationPaths, point: str, *, judging: bool = False) -> NDArray[Any]:
    """One point as an ``(N, D)`` array of finite numbers, or an error that says where it is not.

    With ``judging``, rows that are not finite are returned as they are.
    """
    x = np.asarray(paths[point] if point in paths.points else paths.logits)
    return checked(x, point, 0, judging=judging)


def checked(x: NDArray[Any], point: str, start: int, *, judging: bool = False) -> NDArray[Any]:
    """Rows of one point, the first of which is sample ``start``, as :func:`values` gives them."""
    if x.ndim != 2:
        raise _unpooled(point, x.shape)
    finite = np.isfinite(x).all(axis=1)
    if not (judging or finite.all()):
        row = int(np.argmin(finite))
        raise RepdynError(
            f"paths: non-finite activation at {point!r}, sample {start + row}; drop that sample"
        )
    return x if x.dtype == np.float64 else x.astype(np.float32, copy=False)


def _unpooled(point: str, shape: tuple[int, ...]) -> RepdynError:
    return RepdynError(
        f"paths: {point!r} has shape {shape}, expected (N, D); trace with a pooling, or pool the tokens"
    )


class Repeated:
    """Paths that a fit reads several times: held where they fit, else read again each time.

    Parameters
    ----------
    paths, points, judging
        As in :func:`read`.
    """

    def __init__(self, paths: RepresentationPaths, points: tuple[str, ...], *, judging: bool = False) -> None:
        self._paths, self._points, self._judging = paths, points, judging
        for point in points:
            if point in paths.tokens:  # said before any of them is read
                raise _unpooled(point, paths.column(point).shape)
        wide = sum(paths.widths.get(point, paths.logits_width or 0) for point in points)
        self._fits = len(paths) * wide * (8 if paths.dtype == np.float64 else 4) <= HELD
        self._held: dict[str, NDArray[Any]] | None = None

    def read(
        self, description: str, points: tuple[str, ...] | None = None
    ) -> Iterator[tuple[int, dict[str, NDArray[Any]]]]:
        """Blocks of all or some of the points, checked, each with the number of its first sample."""
        points = self._points if points is None else points
        if not self._fits:
            yield from _blocks(self._paths, points, description, self._judging)
            return
        if self._held is None:
            (block,) = self._paths.iterate(self._points, len(self._paths))
            self._held = {p: checked(x, p, 0, judging=self._judging) for p, x in block.items()}
        yield 0, {point: self._held[point] for point in points}

    def equal(self, rows: Rows = lambda x: x) -> dict[str, NDArray[np.int64]]:
        """Group of equal samples that each belongs to, at every point.

        Parameters
        ----------
        rows
            What is compared of an array ``(n, D)``: itself, unless told.
        """
        if self._fits:
            _, arrays = next(self.read("comparing samples"))
            return {point: groups_of_equal_rows(rows(x)) for point, x in arrays.items()}

        def blocks() -> Iterator[dict[str, NDArray[Any]]]:
            for _, arrays in self.read("comparing samples"):
                yield {point: rows(x) for point, x in arrays.items()}

        def some(point: str, index: NDArray[np.int64]) -> NDArray[Any]:
            (block,) = self._paths.subset(index).iterate((point,), len(index))
            return rows(checked(block[point], point, 0, judging=True))

        return groups_in_blocks(blocks, some, len(self._paths))
