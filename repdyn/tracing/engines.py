"""Engines that trace the chunks of a store on workers (entry-point group ``repdyn.engines``).

The numbers of a chunk depend on its own samples alone: on their order, batches and padding. Chunks can
thus be traced on any machine, in any order and repeatedly, with the same numbers.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from repdyn.errors import RepdynError, nearest_names
from repdyn.paths import PathsWriter
from repdyn.tracing.model import TracedModel
from repdyn.tracing.samples import Samples

__all__ = ["Engine", "Job", "Shard", "engine_class", "find_engine"]

GROUP = "repdyn.engines"


@dataclass(frozen=True, eq=False)
class Job:
    """Description of a trace for workers.

    Attributes
    ----------
    model
        Name of the model, which every worker loads, or the model itself, which is sent.
    digest
        Digest of the weights. A worker that loads other weights must raise.
    samples
        All samples.
    batch_size
        Samples per forward pass.
    writer
        Writer of the existing store; can be sent.
    how
        Further arguments of :class:`repdyn.tracing.passes.Passes`, by name.
    """

    model: TracedModel | str
    digest: str
    samples: Samples
    batch_size: int
    writer: PathsWriter
    how: Mapping[str, Any]


class Engine(Protocol):
    """Has the missing chunks of a job's store written."""

    def run(self, job: Job) -> None:
        """Return when all chunks are written; raise :class:`repdyn.RepdynError` otherwise."""


class Shard:
    """Consecutive entries of a sequence, indexed by their numbers in the whole sequence.

    A worker is sent only the samples of its chunk.
    """

    def __init__(self, values: Any, rows: range, size: int) -> None:
        self._values = values
        self._start = rows.start
        self._size = size

    @staticmethod
    def cuts(values: Any) -> bool:
        """Whether a slice of the values can be taken without reading them."""
        return isinstance(values, list | tuple | np.ndarray | Tensor)

    @classmethod
    def of(cls, values: Any, rows: range) -> Any:
        """The values of some rows; all values if they cannot be sliced."""
        return cls(values[rows.start : rows.stop], rows, len(values)) if cls.cuts(values) else values

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            return self._values[key.start - self._start : key.stop - self._start]
        return self._values[int(key) - self._start]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._values)


def find_engine(engine: Engine | str | None, out: str | os.PathLike[str] | None) -> Engine | None:
    """The engine with a name; ``None`` for this process.

    Raises
    ------
    RepdynError
        If no installed package provides an engine of this name, or ``out`` is None.
    """
    if engine is None:
        return None
    if out is None:
        raise RepdynError("engine: workers write to a store; give its path as out=")
    if not isinstance(engine, str):
        return engine
    instance: Engine = engine_class(engine)()
    return instance


def engine_class(name: str) -> Any:
    """The engine class that an installed package provides under a name."""
    known = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name not in known:
        raise RepdynError(f"engine {name!r}: no such engine is installed; {nearest_names(name, known)}")
    return known[name].load()
