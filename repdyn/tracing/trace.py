"""Tracing: a model reads every sample, and its representation path is kept, in memory or on disk."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from itertools import repeat
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, DTypeLike, NDArray
from torch import nn

from repdyn.errors import RepdynError
from repdyn.progress import track
from repdyn.tracing.engines import Engine, Job, find_engine
from repdyn.tracing.model import TracedModel
from repdyn.tracing.passes import Batch, Passes
from repdyn.tracing.pooling import Pooling
from repdyn.tracing.registry import traced
from repdyn.tracing.samples import Samples, as_samples, batches

if TYPE_CHECKING:
    from repdyn.paths import PathsWriter, RepresentationPaths

__all__ = ["trace", "write_chunks"]

SORTED_TOGETHER = 2048
"""Texts are sorted by length among so many, enough for batches of nearly equal length."""

PREPARED_AHEAD = 2
"""Batches made while the model runs: one that is ready, one in the making."""


def trace(
    model: TracedModel | nn.Module | str,
    inputs: Any,
    points: str | Sequence[str] | None = None,
    pool: str | Pooling = "auto",
    labels: ArrayLike | None = None,
    ids: ArrayLike | None = None,
    out: str | os.PathLike[str] | None = None,
    batch_size: int = 32,
    dtype: DTypeLike = "float32",
    device: torch.device | str | None = None,
    resume: bool = True,
    engine: Engine | str | None = None,
) -> RepresentationPaths:
    r"""Read a model's representation path :math:`x_0, …, x_L` for every input.

    Plain forward hooks pool each representation inside the forward pass, so that memory grows neither
    with the length of the inputs nor, with ``out``, with their number. The pass ends after the last point
    read. The model is left as it was found: mode, random state, device, and no hook in it.

    Parameters
    ----------
    model
        From :func:`repdyn.load` or :func:`repdyn.wrap`, or a module or name to pass to them.
    inputs
        The samples: strings, pictures, an array with samples first, a torch data set, any iterable.
    points
        What is read: None or ``"blocks"`` for the output of every block and the pooled last one,
        ``"stages"``, ``"attention"``, ``"mlp"`` where the model has them, ``"all"``, a name, a pattern
        (``"blocks.*.attn"``), or a list of them. A module that runs several times in one pass gives a
        point per call, ``name#0``, ``name#1``, ….
    pool
        ``"cls"``, ``"mean"`` (of real tokens), ``"last"`` (real token), ``"gap"`` (mean over places),
        ``"flatten"``, ``"none"`` (keep tokens), a function from :class:`repdyn.tracing.Tokens` to
        ``(N, D)``, or ``"auto"``: what the model's own head uses.
    labels, ids
        One per sample; ids default to the numbers of the samples.
    out
        A path for a store on disk; None keeps all in memory.
    batch_size
        Samples in one forward pass.
    dtype
        What values are kept in: ``"float32"``, ``"float16"``, ``"float64"``.
    device
        Where the model runs; default where it is.
    resume
        Go on with a store that an interrupted trace left at ``out``.
    engine
        Where the chunks of the store ``out`` are traced: None for here, ``"ray"`` (or an engine such as
        :class:`repdyn_adapters.ray.RayEngine`, which knows the cluster's address) for the workers of a Ray
        cluster. The numbers are the same, bit for bit, where PyTorch uses as many threads.

    Returns
    -------
    RepresentationPaths
        ``(N, D)`` per point; the logits too, where the model has a head and its last point is read.

    Raises
    ------
    RepdynError
        If an argument is wrong, before work starts; if a representation is not finite, naming point and
        sample.

    Examples
    --------
    >>> from torch import nn
    >>> mlp = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    >>> paths = trace(mlp, np.ones((5, 3), dtype="float32"))
    >>> paths.points, len(paths)
    (('0', '1', '2'), 5)
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise RepdynError(f"batch_size: expected a whole number from 1, got {batch_size!r}")
    kept_as = _kept_as(dtype)
    subject = traced(model)
    samples = as_samples(inputs, labels, ids)
    first = samples.take(np.arange(1))[0]
    how: dict[str, Any] = {
        "points": points,
        "pool": pool,
        "sample": first,
        "dtype": kept_as,
        "device": device,
    }
    elsewhere = find_engine(engine, out)
    with Passes(subject, **how) as passes:
        meta = _describe(passes, samples)
        if out is None:
            return _to_memory(passes, samples, batch_size, meta)
        writer = _start(passes, samples, meta, out, resume)
        if elsewhere is None:
            write_chunks(passes, samples, batch_size, writer, list(writer.missing))
    if elsewhere is not None:
        # Out of the passes, whose hooks cannot be sent: the workers put their own.
        named = model if isinstance(model, str) else subject
        elsewhere.run(Job(named, subject.digest, samples, batch_size, writer, how))
    return writer.finish()


def write_chunks(
    passes: Passes, samples: Samples, batch_size: int, writer: PathsWriter, chunks: list[range]
) -> None:
    """Trace whole chunks and write each when it is done; which others there are makes no difference to it."""

    def write(rows: range, part: Batch) -> None:
        labels = None if samples.labels is None else samples.labels[rows.start : rows.stop]
        ids = [str(samples.ids[number]) for number in rows]
        writer.write_chunk(rows.start, part.values, ids=ids, labels=labels, logits=part.logits)

    # The disk is written to while the model reads on. One chunk at most waits for it, whatever the size of
    # the data; where reading fails, the chunk before it is still written.
    with ThreadPoolExecutor(1, thread_name_prefix="repdyn-write") as pool:
        writing: Future[None] | None = None
        for rows, part in _read(passes, samples, chunks, batch_size):
            if writing is not None:
                writing.result()
            writing = pool.submit(write, rows, part)
        if writing is not None:
            writing.result()


def _to_memory(
    passes: Passes, samples: Samples, batch_size: int, meta: dict[str, Any]
) -> RepresentationPaths:
    from repdyn.paths import RepresentationPaths

    starts = range(0, len(samples), SORTED_TOGETHER)
    chunks = [range(start, min(start + SORTED_TOGETHER, len(samples))) for start in starts]
    parts = [part for _, part in _read(passes, samples, chunks, batch_size)]
    arrays: dict[str, NDArray[Any]] = {}
    masks = {}
    for name in passes.points:
        pieces = [part.values[name] for part in parts]
        if isinstance(pieces[0], list):
            arrays[name], masks[name] = _padded([row for piece in pieces for row in piece])
        else:
            arrays[name] = np.concatenate(pieces)
    logits = [part.logits for part in parts if part.logits is not None]
    return RepresentationPaths.from_arrays(
        arrays,
        labels=samples.labels,
        ids=samples.ids,
        logits=np.concatenate(logits) if logits else None,
        meta=meta,
        masks=masks or None,
    )


def _start(
    passes: Passes, samples: Samples, meta: dict[str, Any], out: str | os.PathLike[str], resume: bool
) -> PathsWriter:
    # The store brings zarr along: only who writes one waits for it.
    from repdyn.paths import PathsWriter

    return PathsWriter.open(
        out,
        points=passes.points,
        widths=passes.widths,
        size=len(samples),
        meta=meta,
        dtype=passes.dtype.name,
        logits_width=passes.logits_width,
        resume=resume,
        tokens=passes.token_points,
        labels=samples.labels,
    )


def _read(
    passes: Passes, samples: Samples, chunks: list[range], batch_size: int
) -> Iterator[tuple[range, Batch]]:
    """Whole chunks, one after the other, each in the order of its samples."""
    missing = sum(map(len, chunks))
    gathered: list[tuple[NDArray[np.int64], Batch]] = []
    count = 0
    for step in track(
        _by_sample(_ahead(_steps(passes, samples, chunks, batch_size))),
        f"tracing {passes.model.name}",
        len(samples),
        len(samples) - missing,
    ):
        if step is None:
            continue
        rows, index, inputs = step
        batch = passes.run(inputs, len(index))
        _check_finite(passes, samples, index, batch)
        gathered.append((index, batch))
        count += len(index)
        if count == len(rows):
            yield rows, _in_order(passes, rows, gathered)
            gathered, count = [], 0


Step = tuple[range, NDArray[np.int64], Any]
"""A chunk, the samples of one batch in it, and what the model is called with for them."""


def _steps(passes: Passes, samples: Samples, chunks: list[range], batch_size: int) -> Iterator[Step]:
    """All batches in turn, planned chunk by chunk, decoded and tokenised."""
    plan = (
        (rows, index) for rows in chunks for index in batches(samples, rows, batch_size, passes.model.lengths)
    )
    for rows, index, taken in samples.read(plan):
        yield rows, index, passes.prepare(taken)


def _ahead(steps: Iterator[Step]) -> Iterator[Step]:
    """The same, the next ones made in a thread while the model runs on this one."""
    with ThreadPoolExecutor(1, thread_name_prefix="repdyn-prepare") as pool:
        waiting = deque(pool.submit(next, steps, None) for _ in range(PREPARED_AHEAD))
        while (step := waiting.popleft().result()) is not None:
            waiting.append(pool.submit(next, steps, None))
            yield step


def _by_sample(steps: Iterator[Step]) -> Iterator[Step | None]:
    """Each batch, then nothing for every further sample in it: progress counts samples."""
    for step in steps:
        yield step
        yield from repeat(None, len(step[1]) - 1)


def _in_order(passes: Passes, rows: range, gathered: list[tuple[NDArray[np.int64], Batch]]) -> Batch:
    order = np.concatenate([index for index, _ in gathered])
    place = np.argsort(order, kind="stable")
    values: dict[str, Any] = {}
    for name in passes.points:
        pieces = [batch.values[name] for _, batch in gathered]
        if isinstance(pieces[0], list):
            ragged = [row for piece in pieces for row in piece]
            values[name] = [ragged[number] for number in place]
        else:
            values[name] = np.concatenate(pieces)[place]
    logits = [batch.logits for _, batch in gathered if batch.logits is not None]
    return Batch(values, np.concatenate(logits)[place] if logits else None)


def _check_finite(passes: Passes, samples: Samples, index: NDArray[np.int64], batch: Batch) -> None:
    found: dict[str, Any] = dict(batch.values)
    if batch.logits is not None:
        found["logits"] = batch.logits
    for name, value in found.items():
        for row, number in zip(value, index, strict=True) if isinstance(value, list) else ():
            if not np.isfinite(row).all():
                raise _not_finite(passes, samples, name, int(number))
        if not isinstance(value, list) and not np.isfinite(value).all():
            bad = ~np.isfinite(value).all(axis=1)
            raise _not_finite(passes, samples, name, int(index[bad].min()))


def _not_finite(passes: Passes, samples: Samples, name: str, number: int) -> RepdynError:
    advice = (
        "leave the sample out, or keep values as float32, where float16 may overflow"
        if passes.dtype == np.float16
        else "leave the sample out, or run the model in a wider type"
    )
    return RepdynError(
        f"point {name!r} of {passes.model.name}: not finite for sample {number} "
        f"(id {str(samples.ids[number])!r}); {advice}"
    )


def _padded(rows: list[NDArray[Any]]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    longest = max(len(row) for row in rows)
    array = np.zeros((len(rows), longest, rows[0].shape[1]), dtype=rows[0].dtype)
    for place, row in zip(array, rows, strict=True):
        place[: len(row)] = row
    lengths = np.array([len(row) for row in rows])
    return array, np.arange(longest) < lengths[:, None]


def _kept_as(dtype: DTypeLike) -> np.dtype[Any]:
    try:
        found = np.dtype(dtype)
    except TypeError:
        found = None
    if found not in (np.float16, np.float32, np.float64):
        raise RepdynError(f"dtype: expected 'float32', 'float16' or 'float64', got {dtype!r}")
    return found


def _describe(passes: Passes, samples: Samples) -> dict[str, Any]:
    model = passes.model
    layouts = {name: model.points[name.partition("#")[0]].layout for name in passes.points}
    pool = passes.pool
    versions = {}
    for package in ("repdyn", "torch", "timm", "transformers"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "model": model.name,
        "digest": model.digest,
        "pooling": pool if isinstance(pool, str) else getattr(pool, "__qualname__", type(pool).__name__),
        "layouts": layouts,
        "final": model.final,
        "preprocessing": model.preprocessing,
        "data": samples.digest(),
        "versions": versions,
    }
