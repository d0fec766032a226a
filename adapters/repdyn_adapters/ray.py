"""Tracing on a Ray cluster: workers that hold the model, each writing whole chunks to one store.

Actors are used and not Ray Data, because its pool restarts an actor from arguments in the object store, which
may be lost (ray-project/ray#53727). Here a chunk that was lost with its worker is given to a new worker. The
driver receives no data, so that there is no data set to stream.
"""

from __future__ import annotations

import logging
import os
import sys
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Any

import numpy as np

from repdyn.errors import RepdynError
from repdyn.progress import track
from repdyn.tracing.engines import Job, Shard
from repdyn.tracing.passes import Passes
from repdyn.tracing.registry import traced
from repdyn.tracing.samples import Samples
from repdyn.tracing.trace import write_chunks

__all__ = ["RayEngine"]

TRIES = 3
"""Maximum attempts per chunk. A chunk whose workers die this often most likely exceeds the memory."""


@dataclass(frozen=True)
class RayEngine:
    """Traces the chunks of a store on the workers of a Ray cluster.

    Every worker loads the model once, by its name where it was given by name, and writes the chunks it is
    handed to the store itself: a folder that all of them reach under the same path, or a URL. A chunk whose
    worker dies is given to another.

    Attributes
    ----------
    address
        Of the cluster (``"ray://head:10001"``, ``"auto"``). Default: one on this machine, for the time of
        the trace, or the one this program is connected to already.
    workers
        How many; default one for each GPU where the trace's device is ``"cuda"``, else one for each CPU.
    threads
        PyTorch's, in each worker. A trace without an engine gives the same bits with
        ``torch.set_num_threads(threads)``.

    Examples
    --------
    >>> import repdyn
    >>> engine = RayEngine(address="auto")
    >>> repdyn.trace("timm:vit_small_patch16_224", pictures, out="s3://bucket/a.paths",
    ...              engine=engine)  # doctest: +SKIP
    """

    address: str | None = None
    workers: int | None = None
    threads: int = 1

    def run(self, job: Job) -> None:
        """Write the missing chunks of the job's store."""
        chunks = list(job.writer.missing)
        if not chunks:
            return
        ray = _library()
        with _connected(ray, self.address):
            device = job.how.get("device")
            gpus = 1 if str(device).startswith("cuda") else 0
            count = min(self._count(ray.cluster_resources(), gpus), len(chunks))
            worker = ray.remote(_Worker).options(num_cpus=self.threads, num_gpus=gpus)
            # Stored once and referenced until the end, because a replaced worker needs it again.
            # Lazy samples arrive as lists; the store still keeps a hash of their content per chunk.
            hashed = not job.samples.in_memory
            outfit = ray.put(
                _Outfit(_without_samples(job), self.threads, os.getcwd(), tuple(sys.path), hashed)
            )
            total = len(job.samples)
            done = _write_all(ray, worker, outfit, job.samples, chunks, count)
            by_sample = (step for rows in done for step in repeat(None, len(rows)))
            for _ in track(by_sample, f"tracing on {count} workers", total, total - sum(map(len, chunks))):
                pass

    def _count(self, resources: dict[str, float], gpus: int) -> int:
        kind, there, each = ("GPU", "GPUs", 1) if gpus else ("CPU", "CPUs", self.threads)
        possible = int(resources.get(kind, 0) // each)
        if possible < 1 or (self.workers or 1) > possible:
            raise RepdynError(
                f"engine 'ray': {self.workers or 1} workers need {each} {there} each, but the "
                f"cluster has {resources.get(kind, 0):g} {there}; start more nodes, or lower workers"
            )
        return self.workers or possible


@dataclass(frozen=True, eq=False)
class _Outfit:
    """The arguments that all workers share."""

    job: Job
    threads: int
    folder: str
    searched: tuple[str, ...]
    hashed: bool


class _Worker:
    """A Ray actor that loads the model and writes chunks."""

    def __init__(self) -> None:
        self._passes: Any = None
        self._stack = ExitStack()

    def write(self, outfit: _Outfit, rows: range, items: Any, samples: Samples) -> None:
        """Trace the samples of one chunk and write it."""
        if self._passes is None:
            self._passes = self._open(outfit)
        job = outfit.job
        of_chunk = replace(samples, items=items)
        write_chunks(self._passes, of_chunk, job.batch_size, job.writer, [rows], outfit.hashed)

    def _open(self, outfit: _Outfit) -> Any:
        import torch

        torch.set_num_threads(outfit.threads)
        if os.path.isdir(outfit.folder):  # so that relative paths resolve as in the driver
            os.chdir(outfit.folder)
        # The driver's import path is added, so that the user's own modules can be imported.
        sys.path += [place for place in outfit.searched if place not in sys.path and os.path.isdir(place)]
        model = traced(outfit.job.model)
        if model.digest != outfit.job.digest:
            raise RepdynError(
                f"model {model.name}: a worker loaded other weights than were found here (digest "
                f"{model.digest[:12]}, not {outfit.job.digest[:12]}); use the same weights everywhere"
            )
        return self._stack.enter_context(Passes(model, **outfit.job.how))


def _write_all(
    ray: Any, worker: Any, outfit: Any, samples: Samples, chunks: list[range], count: int
) -> Iterator[range]:
    """Distribute the chunks to the workers; yield each chunk when it is written."""
    waiting = deque(chunks)
    idle = [worker.remote() for _ in range(count)]
    busy: dict[Any, tuple[Any, range]] = {}
    lost: Counter[int] = Counter()
    # Samples that cannot be sliced (a data set, lazily opened pictures) go to the object store once.
    shared = None if Shard.cuts(samples.items) else ray.put(samples.items)
    try:
        while waiting or busy:
            while idle and waiting:
                rows, actor = waiting.popleft(), idle.pop()
                items = Shard.of(samples.items, rows) if shared is None else shared
                busy[actor.write.remote(outfit, rows, items, _part(samples, rows))] = (actor, rows)
            (finished, *_), _ = ray.wait(list(busy), num_returns=1)
            actor, rows = busy.pop(finished)
            try:
                ray.get(finished)
            except ray.exceptions.RayActorError as error:
                lost[rows.start] += 1
                if lost[rows.start] >= TRIES:
                    raise RepdynError(
                        f"samples {rows.start} to {rows.stop - 1}: {TRIES} workers died on them, perhaps "
                        f"out of memory ({str(error).splitlines()[0]}); use a smaller batch size"
                    ) from None
                waiting.appendleft(rows)
                idle.append(worker.remote())
                continue
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, RepdynError):
                    raise error.cause from None
                raise
            idle.append(actor)
            yield rows
    finally:
        for actor in [*idle, *(actor for actor, _ in busy.values())]:
            ray.kill(actor)


def _part(samples: Samples, rows: range) -> Samples:
    """Ids and labels of the samples of one chunk; the items are sent separately."""
    ids = Shard.of(samples.ids, rows)
    labels = None if samples.labels is None else Shard.of(samples.labels, rows)
    return replace(samples, items=(), ids=ids, labels=labels, workers=0)


def _without_samples(job: Job) -> Job:
    """The job without its samples, which are sent chunk by chunk."""
    return replace(job, samples=Samples((), None, np.array([], dtype=np.str_)))


def _library() -> Any:
    try:
        import ray
    except ImportError:
        raise RepdynError("engine 'ray': needs Ray: pip install \"repdyn[ray]\"") from None
    return ray


@contextmanager
def _connected(ray: Any, address: str | None) -> Iterator[None]:
    """Connect to a cluster, unless this process is connected already; disconnect on exit."""
    if ray.is_initialized():
        yield
        return
    try:
        ray.init(
            address or "local",
            log_to_driver=False,
            logging_level=logging.ERROR,
            **({} if address else {"include_dashboard": False}),
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RepdynError(f"engine 'ray': no cluster at {address or 'this machine'} ({reason})") from None
    try:
        yield
    finally:
        ray.shutdown()
