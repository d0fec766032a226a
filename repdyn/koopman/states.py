"""Lifted representations as a fit takes them: held on the device, or read from the paths batch by batch."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from repdyn.devices import widest
from repdyn.errors import RepdynError
from repdyn.koopman import losses
from repdyn.koopman.frames import FRAME_ROWS, PointFrames
from repdyn.koopman.reading import checked_point
from repdyn.paths import RepresentationPaths, nearby
from repdyn.paths.sampling import STRETCH, block_shuffle
from repdyn.progress import track
from repdyn.repeats_streamed import groups_in_blocks

__all__ = ["Held", "Spread", "States", "Streamed", "lifted_bytes", "some_rows", "survey"]

_ROWS = 2048  # samples of all points that are lifted at a time
_FETCHED = 2**30  # bytes of a remote store that are held to find the frames by
_FEW = 1000  # samples that enter a fingerprint by their values


class States(ABC):
    """Lifted representations of N samples at every point, each ``(width,)``.

    Attributes
    ----------
    points, samples, width
        How many there are, and entries of a state.
    device
        Where batches are.
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
            Whether states one step before the later ones are wanted.

        Yields
        ------
        tuple
            ``(2 n, width)``, first points and then later ones; ``(n, width)`` before them, or ``None``.
        """

    @abstractmethod
    def blocks(self, rows: Tensor) -> Iterator[Tensor]:
        """All points of these samples, in parts ``(points, m, width)``."""

    @abstractmethod
    def shuffled(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """These samples in a random order that they can be read in."""

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
        self.variance = torch.stack([losses.total_variance(x) for x in states])

    def at(self, rows: Tensor, depths: Tensor) -> Tensor:
        """Single states, see :meth:`States.at`."""
        return self._flat[(rows + depths * self.samples).to(self.device)]

    def batches(self, order: Tensor, depths: Tensor, before: bool) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Batches by indexing, see :meth:`States.batches`."""
        for rows in order:
            both = self._flat[torch.cat([rows, rows + depths * self.samples])]
            yield both, self._flat[rows + (depths - 1) * self.samples] if before else None

    def blocks(self, rows: Tensor) -> Iterator[Tensor]:
        """One part, kept for the next time."""
        if self._part is None or self._part[0] is not rows:
            self._part = rows, self._states[:, rows]
        yield self._part[1]

    def all(self, rows: Tensor) -> Tensor:
        """All points of these samples, ``(points, n, width)``."""
        return self._states[:, rows]

    def shuffled(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """A uniform permutation."""
        return rows[torch.randperm(len(rows), generator=generator).to(self.device)]

    def fingerprint(self) -> str:
        """By some samples' values and the sums of all."""
        few = self._states[:, :: max(1, self.samples // _FEW)].cpu().contiguous()
        sums = self._states.sum(dim=1, dtype=widest(self.device)).cpu().double()
        return hashlib.blake2b(few.numpy().tobytes() + sums.numpy().tobytes(), digest_size=16).hexdigest()


class Streamed(States):
    """States that are read from the paths and lifted when they are asked for.

    Parameters
    ----------
    paths
        Already surveyed: every value is finite.
    frames
        Fitted, on the device.
    """

    def __init__(self, paths: RepresentationPaths, frames: PointFrames) -> None:
        self._paths, self._frames = paths, frames
        self._remote = isinstance(paths.path, str)
        self.points, self.samples, self.width = len(paths.points), len(paths), frames.width
        self.device = frames.scale.device
        # A frame divides by the root of the total variance, and loses none of it but where a point is cut.
        self.variance = frames.explained.float()

    def at(self, rows: Tensor, depths: Tensor) -> Tensor:
        """Single states, some thousand at a time, read in the order of the disk."""
        own, where = rows.cpu().numpy(), depths.cpu().numpy()
        found = torch.empty(len(own), self.width, device=self.device)
        order = np.argsort(own, kind="stable")
        for start in range(0, len(own), STRETCH):
            part = order[start : start + STRETCH]
            found[torch.from_numpy(part).to(self.device)] = self._read(own[part], where[part])
        return found

    def batches(self, order: Tensor, depths: Tensor, before: bool) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Batches, several read together."""
        count, later = order.shape[1], depths.cpu()
        for part in torch.split(order.cpu(), max(1, STRETCH // order.shape[1])):
            kinds = [torch.zeros_like(later), later, *([later - 1] if before else [])]
            rows = part.flatten().repeat(len(kinds)).numpy()
            where = torch.cat([kind.repeat(len(part)) for kind in kinds]).numpy()
            found = self._read(rows, where).view(len(kinds), len(part), count, -1)
            for number in range(len(part)):
                yield found[:2, number].flatten(0, 1), found[2, number] if before else None

    def _read(self, rows: NDArray[np.int64], depths: NDArray[np.int64]) -> Tensor:
        found = torch.empty(len(rows), self.width, device=self.device)
        block: dict[str, NDArray[Any]] | None = None
        if self._remote:  # whole rows come from there, and each of them once
            once, rows = np.unique(rows, return_inverse=True)
            block = self._block(once)
        for depth in np.unique(depths).tolist():
            at = np.flatnonzero(depths == depth)
            point = self._paths.points[depth]
            x = np.asarray(self._paths[point][rows[at]]) if block is None else block[point][rows[at]]
            found[torch.from_numpy(at).to(self.device)] = self._lift(x, depth)
        return found

    def blocks(self, rows: Tensor) -> Iterator[Tensor]:
        """All points of samples, some thousand at a time."""
        for own in torch.split(rows.cpu(), _ROWS):
            block = self._block(own.numpy())
            yield torch.stack([self._lift(block[p], n) for n, p in enumerate(self._paths.points)])

    def shuffled(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """A permutation; of a remote store, one that reads neighbours together."""
        if not self._remote:
            return rows[torch.randperm(len(rows), generator=generator).to(rows.device)]
        seed = int(torch.randint(2**62, (1,), generator=generator))
        return rows[torch.from_numpy(block_shuffle(len(rows), seed)).to(rows.device)]

    def fingerprint(self) -> str:
        """By some samples' values and the frames, which all samples gave."""
        few = torch.arange(0, self.samples, max(1, self.samples // _FEW))
        digest = hashlib.blake2b(digest_size=16)
        for block in self.blocks(few):
            digest.update(block.cpu().contiguous().numpy().tobytes())
        for name, value in self._frames.named_buffers():
            if not name.startswith("basis"):
                digest.update(value.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def _block(self, rows: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        (block,) = self._paths.subset(rows).iterate(size=len(rows))
        return block

    @torch.no_grad()
    def _lift(self, x: NDArray[Any], depth: int) -> Tensor:
        wide = x if x.dtype == np.float64 else x.astype(np.float32, copy=False)
        return self._frames.lift(torch.from_numpy(np.ascontiguousarray(wide)).to(self.device), depth)


def lifted_bytes(paths: RepresentationPaths, width: int) -> int:
    """What the lifted representations of paths take in float32."""
    return 4 * len(paths.points) * len(paths) * width


@dataclass(frozen=True, eq=False)
class Spread:
    """What one pass over paths tells of them.

    Attributes
    ----------
    moments
        Variance and mean of every coordinate, float64, for each point.
    groups
        Group of samples equal at the first point that each belongs to, ``(N,)``.
    """

    moments: list[tuple[Tensor, Tensor]]
    groups: NDArray[np.int64]


def survey(paths: RepresentationPaths) -> Spread:
    """Check that every value of paths is finite; their moments, and equal samples, without holding them."""
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
    return Spread([own.result() for own in sums], groups)


def _single(x: NDArray[Any]) -> NDArray[Any]:
    return x if x.dtype == np.float64 else x.astype(np.float32, copy=False)


class _Moments:
    """Mean and variance of rows that pass by in blocks (Chan, Golub and LeVeque 1983)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Any = 0.0
        self.square: Any = 0.0

    def add(self, x: NDArray[Any]) -> None:
        x = np.asarray(x, dtype=np.float64)
        own = x.mean(axis=0)
        apart, count = own - self.mean, self.count + len(x)
        x = x - own
        self.square = self.square + np.einsum("nd,nd->d", x, x) + apart**2 * (self.count * len(x) / count)
        self.mean = self.mean + apart * (len(x) / count)
        self.count = count

    def result(self) -> tuple[Tensor, Tensor]:
        if not self.count:
            raise RepdynError("the paths hold no sample")
        return torch.from_numpy(self.square / self.count), torch.from_numpy(self.mean)


def some_rows(paths: RepresentationPaths) -> Callable[[int], Tensor]:
    """Gives rows of a point by its depth: of some ten thousand samples at even distances."""
    every = max(1, len(paths) // FRAME_ROWS)
    chosen = np.arange(0, len(paths), every)

    def rows(number: int) -> Tensor:
        return torch.from_numpy(_single(np.asarray(some[paths.points[number]])))

    some: Any = paths.subset(chosen)
    if isinstance(paths.path, str):  # every point is read with all others: once
        some = nearby(some, _FETCHED)
    return rows
