"""Where a trace runs: here, or on workers that an engine of the entry-point group ``repdyn.engines`` reaches.

A store is traced chunk by chunk, and what a chunk holds depends on its own samples alone: how they are
sorted, put into batches and padded. So chunks may be traced anywhere, in any order and again, and give the
same numbers; an engine decides where.
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
    """What a worker must know to trace chunks of a store.

    Attributes
    ----------
    model
        Its name, by which every worker loads it itself, or the model, to be sent.
    digest
        Of its weights: a worker that loads others must refuse.
    samples
        All of them.
    batch_size
        Samples in one forward pass.
    writer
        Of the store, which is there already; can be sent.
    how
        The rest of what :class:`repdyn.tracing.passes.Passes` takes, by name.
    """

    model: TracedModel | str
    digest: str
    samples: Samples
    batch_size: int
    writer: PathsWriter
    how: Mapping[str, Any]


class Engine(Protocol):
    """What has the missing chunks of a job's store written."""

    def run(self, job: Job) -> None:
        """Return when all are; raise :class:`repdyn.RepdynError` where that cannot be."""


class Shard:
    """Some consecutive entries of a sequence, under the numbers they have in the whole.

    What is sent to a worker that traces these samples and no others.
    """

    def __init__(self, values: Any, rows: range, size: int) -> None:
        self._values = values
        self._start = rows.start
        self._size = size

    @staticmethod
    def cuts(values: Any) -> bool:
        """Whether a part of these can be taken without reading them."""
        return isinstance(values, list | tuple | np.ndarray | Tensor)

    @classmethod
    def of(cls, values: Any, rows: range) -> Any:
        """Some of the values; all, as they are, where they cannot be cut."""
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
    """The engine of that name; ``None`` for here.

    Raises
    ------
    RepdynError
        If no installed package brings one of that name, or there is no store for it to write.
    """
    if engine is None:
        return None
    if out is None:
        raise RepdynError("engine: workers write to a store; say where with out=")
    if not isinstance(engine, str):
        return engine
    found: Engine = engine_class(engine)()
    return found


def engine_class(name: str) -> Any:
    """The class of engine that an installed package brings under this name."""
    known = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name not in known:
        raise RepdynError(f"engine {name!r}: there is none of that name; {nearest_names(name, known)}")
    return known[name].load()
