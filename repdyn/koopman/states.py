"""Representations of a path as a fit reads them: checked, lifted into the shared state space, and batched.

:class:`Held` keeps all lifted states on the device, :class:`Streamed` reads them batch by batch.
:func:`survey` makes one pass over paths that are not held, :func:`read_points` reads all of them.
"""

from __future__ import annotations

import hashlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from repdyn.devices import CPU, to, widest
from repdyn.errors import RepdynError, nearest_names
from repdyn.koopman.frames import PointFrames
from repdyn.koopman.optimization import total_variance
from repdyn.koopman.settings import FrameSettings
from repdyn.paths import RepresentationPaths, nearby
from repdyn.paths.sampling import STRETCH, block_shuffle
from repdyn.progress import track
from repdyn.reading import as_array
from repdyn.repeats_streamed import groups_in_blocks

__all__ = [
    "Held",
    "States",
    "Streamed",
    "Survey",
    "checked_point",
    "frame_rows",
    "lifted_bytes",
    "point_number",
    "read_points",
    "survey",
]

_ROWS = 2048  # samples that are lifted at a time, at all points
_FETCHED = 2**30  # bytes of a remote store that are held while frames are fitted
_DIGESTED = 1000  # samples whose values enter the digest of the data


class States(ABC):
    """Lifted representations of N samples at every point, each ``(width,)``.

    Attributes
    ----------
    points, samples, width
        Number of points, of samples, and of entries of a state.
    device
        Device of the batches.
    variance
        Total variance at every point, ``(points,)``.
    """

    points: int
    samples: int
    width: int
    device: torch.device
    variance: Tensor

    @abstractmethod
    def at(self, rows: Tensor, depths: Tensor) -> Tensor:
        """Single states ``(n, width)``: sample ``rows[i]`` at point ``depths[i]``."""

    @abstractmethod
    def batches(self, order: Tensor, depths: Tensor, before: bool) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Batches of training states in the given order.

        Parameters
        ----------
        order
            Samples of each batch, ``(batches, n)``.
        depths
            The later point of each sample of a batch, ``(n,)``.
        before
            Whether to return the states one step before the later ones.

        Yields
        ------
        tuple
            ``(2 n, width)``, the first points followed by the later ones; and the states one step before the
            later ones, ``(n, width)``, or ``None``.
        """

    @abstractmethod
    def blocks(self, rows: Tensor) -> Iterator[Tensor]:
        """All points of these samples, in blocks ``(points, m, width)``."""

    @abstractmethod
    def shuffled(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """These samples in a random order that is cheap to read."""

    @abstractmethod
    def fingerprint(self) -> str:
        """A digest of the data."""


class Held(States):
    """All states in one tensor ``(points, N, width)`` on the device."""

    def __init__(self, states: Tensor) -> None:
        self._states = states
        self._flat = states.flatten(0, 1)
        self._part: tuple[Tensor, Tensor] | None = None
        self.points, self.samples, self.width = states.shape
        self.device = states.device
        self.variance = torch.stack([total_variance(x) for x in states])

    def at(self, rows: Tensor, depths: Tensor) -> Tensor:
        """Single states, see :meth:`States.at`."""
        return self._flat[to(rows + depths * self.samples, self.device)]

    def batches(self, order: Tensor, depths: Tensor, before: bool) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Batches by indexing, see :meth:`States.batches`."""
        for rows in order:
            both = self._flat[torch.cat([rows, rows + depths * self.samples])]
            yield both, self._flat[rows + (depths - 1) * self.samples] if before else None

    def blocks(self, rows: Tensor) -> Iterator[Tensor]:
        """One block, cached for the next call."""
        if self._part is None or self._part[0] is not rows:
            self._part = rows, self._states[:, rows]
        yield self._part[1]

    def all(self, rows: Tensor) -> Tensor:
        """All points of these samples, ``(points, n, width)``."""
        return self._states[:, rows]

    def shuffled(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """A uniform permutation."""
        return rows[to(torch.randperm(len(rows), generator=generator), self.device)]

    def fingerprint(self) -> str:
        """Digest of some samples' values and of the sums over all."""
        # Hashing all values would copy them to the CPU; the sums depend on all of them.
        few = self._states[:, :: max(1, self.samples // _DIGESTED)]
        sums = to(self._states.sum(dim=1, dtype=widest(self.device)), CPU, torch.float64)
        return hashlib.blake2b(as_array(few).tobytes() + as_array(sums).tobytes(), digest_size=16).hexdigest()


class Streamed(States):
    """States that are read from the paths and lifted batch by batch.

    Parameters
    ----------
    paths
        Paths whose values are finite (:func:`survey` checks them).
    frames
        Fitted frames, on the device.
    """

    def __init__(self, paths: RepresentationPaths, frames: PointFrames) -> None:
        self._paths, self._frames = paths, frames
        self._remote = isinstance(paths.path, str)
        self.points, self.samples, self.width = len(paths.points), len(paths), frames.width
        self.device = frames.scale.device
        self.variance = frames.variance.float()

    def at(self, rows: Tensor, depths: Tensor) -> Tensor:
        """Single states, see :meth:`States.at`; some thousand at a time, in the order of the disk."""
        samples, points = as_array(rows), as_array(depths)
        states = torch.empty(len(samples), self.width, device=self.device)
        order = np.argsort(samples, kind="stable")
        for start in range(0, len(samples), STRETCH):
            part = order[start : start + STRETCH]
            states[to(torch.from_numpy(part), self.device)] = self._read(samples[part], points[part])
        return states

    def batches(self, order: Tensor, depths: Tensor, before: bool) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Batches, several in one read, see :meth:`States.batches`."""
        count, later = order.shape[1], to(depths, CPU)
        for part in torch.split(to(order, CPU), max(1, STRETCH // order.shape[1])):
            kinds = [torch.zeros_like(later), later, *([later - 1] if before else [])]
            rows = as_array(part.flatten().repeat(len(kinds)))
            points = as_array(torch.cat([kind.repeat(len(part)) for kind in kinds]))
            states = self._read(rows, points).view(len(kinds), len(part), count, -1)
            for number in range(len(part)):
                yield states[:2, number].flatten(0, 1), states[2, number] if before else None

    def _read(self, rows: NDArray[np.int64], depths: NDArray[np.int64]) -> Tensor:
        """Lifted states ``(n, width)`` of samples ``rows[i]`` at points ``depths[i]``."""
        states = torch.empty(len(rows), self.width, device=self.device)
        block: dict[str, NDArray[Any]] | None = None
        if self._remote:  # a remote store transfers all points of a sample; each sample is requested once
            once, rows = np.unique(rows, return_inverse=True)
            block = self._block(once)
        for depth in np.unique(depths).tolist():
            at = np.flatnonzero(depths == depth)
            point = self._paths.points[depth]
            x = np.asarray(self._paths[point][rows[at]]) if block is None else block[point][rows[at]]
            states[to(torch.from_numpy(at), self.device)] = self._lift(x, depth)
        return states

    def blocks(self, rows: Tensor) -> Iterator[Tensor]:
        """All points of samples in blocks, see :meth:`States.blocks`."""
        for own in torch.split(to(rows, CPU), _ROWS):
            block = self._block(as_array(own))
            yield torch.stack([self._lift(block[p], n) for n, p in enumerate(self._paths.points)])

    def shuffled(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """A permutation; of a remote store, one that reads neighboring samples together."""
        if not self._remote:
            return rows[to(torch.randperm(len(rows), generator=generator), rows.device)]
        seed = int(torch.randint(2**62, (1,), generator=generator))
        return rows[to(torch.from_numpy(block_shuffle(len(rows), seed)), rows.device)]

    def fingerprint(self) -> str:
        """Digest of some samples' values and of the frames, which depend on all samples."""
        few = torch.arange(0, self.samples, max(1, self.samples // _DIGESTED))
        digest = hashlib.blake2b(digest_size=16)
        for block in self.blocks(few):
            digest.update(as_array(block).tobytes())
        for name, value in self._frames.named_buffers():
            if not name.startswith("basis"):
                digest.update(as_array(value).tobytes())
        return digest.hexdigest()

    def _block(self, rows: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """Representations of samples at every point, each ``(n, width)``."""
        (block,) = self._paths.subset(rows).iterate(size=len(rows))
        return block

    @torch.no_grad()
    def _lift(self, x: NDArray[Any], depth: int) -> Tensor:
        """Representations ``(n, D)`` at a point as states ``(n, width)`` on the device."""
        wide = x if x.dtype == np.float64 else x.astype(np.float32, copy=False)
        return self._frames.lift(to(torch.from_numpy(np.ascontiguousarray(wide)), self.device), depth)


def lifted_bytes(paths: RepresentationPaths, width: int) -> int:
    """Size in bytes of the lifted representations of paths, float32."""
    return 4 * len(paths.points) * len(paths) * width


@dataclass(frozen=True, eq=False)
class Survey:
    """Result of one pass over paths.

    Attributes
    ----------
    moments
        Variance and mean of every coordinate, float64, for each point.
    groups
        Group of each sample, ``(N,)``: samples that are equal at the first point share a group.
    """

    moments: list[tuple[Tensor, Tensor]]
    groups: NDArray[np.int64]


def survey(paths: RepresentationPaths) -> Survey:
    """Check that all values are finite; compute moments and groups of equal samples, in one pass."""
    sums = [_Moments() for _ in paths.points]
    first = paths.points[0]
    passes = 0

    def blocks() -> Iterator[dict[str, NDArray[Any]]]:
        nonlocal passes
        passes += 1
        names = paths.points if passes == 1 else (first,)
        for block in track(paths.iterate(names), "reading paths"):
            if passes == 1:
                for point, own in zip(paths.points, sums):
                    own.add(checked_point(paths, point, block[point], block.rows.start))
            yield {first: _single(block[first])}

    def rows(_: str, index: NDArray[np.int64]) -> NDArray[Any]:
        return _single(np.asarray(paths[first][index]))

    groups = groups_in_blocks(blocks, rows, len(paths))[first]
    return Survey([own.result() for own in sums], groups)


def _single(x: NDArray[Any]) -> NDArray[Any]:
    """Float64 arrays as they are, others as float32."""
    return x if x.dtype == np.float64 else x.astype(np.float32, copy=False)


class _Moments:
    """Mean and variance of rows that arrive in blocks (Chan, Golub and LeVeque 1983)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Any = 0.0
        self.square: Any = 0.0

    def add(self, x: NDArray[Any]) -> None:
        """Include rows ``(n, D)``."""
        x = np.asarray(x, dtype=np.float64)
        own = x.mean(axis=0)
        apart, count = own - self.mean, self.count + len(x)
        x = x - own
        # A difference of squared means would cancel far from the origin.
        self.square = self.square + np.einsum("nd,nd->d", x, x) + apart**2 * (self.count * len(x) / count)
        self.mean = self.mean + apart * (len(x) / count)
        self.count = count

    def result(self) -> tuple[Tensor, Tensor]:
        """Variance and mean ``(D,)``."""
        if not self.count:
            raise RepdynError("the paths hold no sample")
        return torch.from_numpy(self.square / self.count), torch.from_numpy(self.mean)


def frame_rows(paths: RepresentationPaths) -> Callable[[int], Tensor]:
    """A function from a point's number to evenly spaced rows ``(n, D)``, on which its frame is fitted."""
    every = max(1, len(paths) // FrameSettings().fit_rows)
    chosen = np.arange(0, len(paths), every)

    def rows(number: int) -> Tensor:
        return torch.from_numpy(_single(np.asarray(some[paths.points[number]])))

    some: Any = paths.subset(chosen)
    if isinstance(paths.path, str):  # a remote store transfers all points together: fetched once
        some = nearby(some, _FETCHED)
    return rows


def read_points(paths: RepresentationPaths, points: Sequence[str] | None = None) -> list[Tensor]:
    """All representations, one tensor ``(N, D)`` for each point; float64 if the paths are, else float32.

    Parameters
    ----------
    paths
        Pooled paths.
    points
        Points to read; default: all.

    Raises
    ------
    RepdynError
        If a point keeps its tokens, or a value is not finite; the message names point and sample.
    """
    states = []
    if isinstance(paths, RepresentationPaths):  # a remote store is fetched with one read
        paths = nearby(paths, sys.maxsize)
    for point in paths.points if points is None else points:
        x = checked_point(paths, point, np.asarray(paths[point]))
        states.append(torch.from_numpy(np.ascontiguousarray(x)))
    return states


def checked_point(paths: RepresentationPaths, point: str, x: NDArray[Any], start: int = 0) -> NDArray[Any]:
    """Check rows ``(n, D)`` of one point as :func:`read_points` does; the first row is sample ``start``."""
    x = x if x.dtype == np.float64 else x.astype(np.float32)
    if x.ndim != 2:
        raise RepdynError(
            f"point {point!r} has shape {x.shape}, expected (samples, width); trace with pooling, or "
            "take paths.tokens_as_samples()"
        )
    if len(x) == 0:
        raise RepdynError("the paths hold no sample")
    finite = np.isfinite(x).all(axis=1)
    if not finite.all():
        row = start + int(np.flatnonzero(~finite)[0])
        name = "" if paths.ids is None else f" (id {paths.ids[row]!r})"
        raise RepdynError(
            f"point {point!r}, sample {row}{name}: a value is not finite "
            f"({int((~finite).sum())} samples in all); exclude such samples with subset"
        )
    return x


def point_number(point: str, points: tuple[str, ...]) -> int:
    """Number of a point by its name.

    Raises
    ------
    RepdynError
        If the path has no such point; the message lists similar names.
    """
    if point not in points:
        raise RepdynError(f"there is no point {point!r}; {nearest_names(point, points)}")
    return points.index(point)
