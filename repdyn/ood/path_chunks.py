"""Reading paths in chunks: values are checked, and quantities that several detectors need are computed once.

A :class:`Chunk` holds some rows of several points. :func:`read_chunks` reads stored paths once;
:class:`MultiPassReader` reads them as often as a fit needs. :func:`select_points` takes what a reader of a
model gives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from repdyn.errors import RepdynError, nearest_names
from repdyn.ood.gaussian import ShrunkGaussian, lengths, unit_and_lengths
from repdyn.progress import track
from repdyn.reading import as_array
from repdyn.repeats import groups_of_equal_rows
from repdyn.repeats_streamed import groups_in_blocks

if TYPE_CHECKING:
    from repdyn.paths import RepresentationPaths

__all__ = [
    "HELD",
    "LOGITS",
    "LOWEST",
    "Chunk",
    "MultiPassReader",
    "as_arrays",
    "as_requested",
    "check_rows",
    "read_chunks",
    "read_point",
    "select_points",
]

RowMap = Callable[[NDArray[Any]], NDArray[Any]]

ROWS: int | None = None  # rows read at once; None: as RepresentationPaths.iterate decides
HELD = 2**28  # bytes of paths that a fit keeps in memory; larger paths are read in parts in every pass
LOWEST = -1e30  # the lowest score: finite, because scores are ranked, averaged and written
LOGITS = "logits"  # read like a point, from the logits that were traced with the paths


class Chunk(dict[str, NDArray[Any]]):
    """Some rows of paths as ``{point: (n, D)}``, with cached unit vectors, norms and distances.

    Members of a union read the same points and share densities; each quantity is computed once per chunk.
    """

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        super().__init__(arrays)
        self._finite: dict[str, NDArray[np.bool_]] = {}
        self._lengths: dict[str, NDArray[np.float64]] = {}
        for point, x in arrays.items():
            finite = np.isfinite(x).all(axis=1)
            self._finite[point] = finite
            if not finite.all():  # computed as zero vectors, and always reported as invalid
                self[point] = np.where(finite[:, None], x, np.zeros((), dtype=x.dtype))
        self._units: dict[tuple[str, DTypeLike], NDArray[Any]] = {}
        self._squared: dict[tuple[str, int], tuple[ShrunkGaussian, NDArray[Any]]] = {}

    def unit(self, point: str, dtype: DTypeLike = np.float64) -> NDArray[Any]:
        """Unit vectors ``(n, D)``, in float64 by default: a center close to them may be subtracted later.

        Those of another type are these, rounded.
        """
        if (point, dtype) not in self._units:
            self._units[point, dtype], self._lengths[point] = unit_and_lengths(self[point], dtype)
        return self._units[point, dtype]

    def valid(self, point: str, limits: tuple[float, float]) -> NDArray[np.bool_]:
        """Whether each vector is finite and its norm lies within ``limits``, ``(n,)``."""
        if point not in self._lengths:
            self._lengths[point] = lengths(self[point])
        length = self._lengths[point]
        return self._finite[point] & (length >= limits[0]) & (length <= limits[1])

    def squared(self, point: str, density: ShrunkGaussian) -> NDArray[Any]:
        """Squared distance of the unit vectors to a density's nearest mean, ``(n,)``."""
        key = (point, id(density))  # the density is stored as well, so that its id is not reused
        if key not in self._squared:
            # float32 takes half the time where its precision suffices
            x = self.unit(point, np.float32 if density.float32_suffices else np.float64)
            self._squared[key] = (density, density.nearest_squared(x))
        return self._squared[key][1]


def read_chunks(
    paths: RepresentationPaths, points: tuple[str, ...], description: str, *, allow_nonfinite: bool = False
) -> Iterator[Chunk]:
    """Chunks of paths in order, checked.

    Parameters
    ----------
    paths, points
        What is read; ``"logits"`` is a point too.
    description
        Label of the progress bar.
    allow_nonfinite
        Whether rows that are not finite are returned instead of refused.
    """
    for _, arrays in _read_blocks(paths, points, description, allow_nonfinite):
        yield Chunk(arrays)


def _read_blocks(
    paths: RepresentationPaths, points: tuple[str, ...], description: str, allow_nonfinite: bool
) -> Iterator[tuple[int, dict[str, NDArray[Any]]]]:
    """Blocks ``{point: (n, D)}``, each with the number of its first sample."""
    for block in track(paths.iterate(points, ROWS), description):
        start = block.rows.start
        yield start, {p: check_rows(x, p, start, allow_nonfinite=allow_nonfinite) for p, x in block.items()}


def read_point(paths: RepresentationPaths, point: str, *, allow_nonfinite: bool = False) -> NDArray[Any]:
    """One point as an ``(N, D)`` array, checked as :func:`check_rows` does."""
    x = np.asarray(paths[point] if point in paths.points else paths.logits)
    return check_rows(x, point, 0, allow_nonfinite=allow_nonfinite)


def check_rows(x: NDArray[Any], point: str, start: int, *, allow_nonfinite: bool = False) -> NDArray[Any]:
    """Rows of one point in float32, or in float64 if they are stored so.

    Parameters
    ----------
    x
        Shape ``(n, D)``.
    point, start
        Named in errors: the point, and the number of the first sample.
    allow_nonfinite
        Whether rows that are not finite are returned instead of refused.

    Raises
    ------
    RepdynError
        If the array is not two-dimensional, or a row is not finite.
    """
    if x.ndim != 2:
        raise _unpooled(point, x.shape)
    x = x if x.dtype == np.float64 else x.astype(np.float32, copy=False)  # float16 is slow to look at
    if not allow_nonfinite:
        finite = np.isfinite(x).all(axis=1)
        if not finite.all():
            row = int(np.argmin(finite))
            raise RepdynError(
                f"paths: non-finite activation at {point!r}, sample {start + row}; drop that sample"
            )
    return x


def _unpooled(point: str, shape: tuple[int, ...]) -> RepdynError:
    return RepdynError(
        f"paths: {point!r} has shape {shape}, expected (N, D); trace with a pooling, or take "
        "paths.tokens_as_samples()"
    )


class MultiPassReader:
    """Reads paths several times: from memory if they fit there, otherwise from the store in each pass.

    Parameters
    ----------
    paths, points, allow_nonfinite
        As in :func:`read_chunks`.
    """

    def __init__(
        self, paths: RepresentationPaths, points: tuple[str, ...], *, allow_nonfinite: bool = False
    ) -> None:
        self._paths, self._points, self._allow_nonfinite = paths, points, allow_nonfinite
        for point in points:
            if point in paths.tokens:  # refused before anything is read
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
            yield from _read_blocks(self._paths, points, description, self._allow_nonfinite)
            return
        if self._held is None:
            (block,) = self._paths.iterate(self._points, len(self._paths))
            self._held = {
                p: check_rows(x, p, 0, allow_nonfinite=self._allow_nonfinite) for p, x in block.items()
            }
        yield 0, {point: self._held[point] for point in points}

    def equal(self, transform: RowMap = lambda x: x) -> dict[str, NDArray[np.int64]]:
        """Group of equal samples that each sample belongs to, at every point.

        Parameters
        ----------
        transform
            Maps an array ``(n, D)`` to the rows that are compared. Default: the array itself.

        Returns
        -------
        dict
            ``{point: (N,)}``, group numbers from 0.
        """
        if self._fits:
            _, arrays = next(self.read("comparing samples"))
            return {point: groups_of_equal_rows(transform(x)) for point, x in arrays.items()}

        def blocks() -> Iterator[dict[str, NDArray[Any]]]:
            for _, arrays in self.read("comparing samples"):
                yield {point: transform(x) for point, x in arrays.items()}

        def some(point: str, index: NDArray[np.int64]) -> NDArray[Any]:
            (block,) = self._paths.subset(index).iterate((point,), len(index))
            return transform(check_rows(block[point], point, 0, allow_nonfinite=True))

        return groups_in_blocks(blocks, some, len(self._paths))


def select_points(
    given: Mapping[str, Any], points: tuple[str, ...], widths: Mapping[str, int]
) -> dict[str, Any]:
    """The points that a detector reads, of the widths that it was fitted on.

    Parameters
    ----------
    given
        By point, tensors or arrays ``(n, D)``. Logits are an entry of their own, or the attribute
        ``logits`` of what a reader gives.
    points, widths
        Of the detector.

    Raises
    ------
    RepdynError
        If a point is missing, or of another shape.
    """
    chosen: dict[str, Any] = {}
    for point in points:
        value = given.get(point, getattr(given, LOGITS, None) if point == LOGITS else None)
        if value is None:
            raise RepdynError(
                f"mapping: lacks the point {point!r} the detector was fitted on; "
                f"{nearest_names(point, given)}; read the model at detector.points_, and at its final point "
                "where these hold 'logits'"
            )
        if value.ndim != 2 or value.shape[1] != widths[point]:
            raise RepdynError(
                f"mapping: {point!r} has shape {tuple(value.shape)}, the detector was fitted on "
                f"(n, {widths[point]}); read it with the same model and pooling"
            )
        chosen[point] = value
    sizes = [value.shape[0] for value in chosen.values()]  # len() would fix the number in an exported graph
    if any(size != sizes[0] for size in sizes):
        raise RepdynError(
            f"mapping: its points hold {sorted(set(sizes))} samples; they must be of the same ones"
        )
    return chosen


def as_arrays(chosen: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Tensors or arrays by point as arrays of float32, or of float64 where they are."""
    arrays = {point: as_array(value) for point, value in chosen.items()}
    return {
        point: x if x.dtype == np.float64 else x.astype(np.float32, copy=False) for point, x in arrays.items()
    }


def as_requested(answer: NDArray[Any], chosen: Mapping[str, Any]) -> Any:
    """An answer as a float64 tensor on the device of the inputs, or as it is where the inputs are arrays."""
    first = next(iter(chosen.values()))
    if not hasattr(first, "new_tensor"):
        return answer
    import torch  # the inputs are tensors, so torch is loaded already

    from repdyn import devices  # loads torch

    return devices.to(torch.as_tensor(answer), first.device, torch.float64)
