"""Tracing: a model reads every sample, and its representation path is kept, in memory or on disk."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import torch
from numpy.typing import ArrayLike, DTypeLike, NDArray
from torch import nn

from repdyn.errors import RepdynError
from repdyn.progress import track
from repdyn.tracing.engines import Engine, Job, find_engine
from repdyn.tracing.identity import NOT_HASHED, settings_digest, told_fingerprint
from repdyn.tracing.model import TracedModel, stands_for_many
from repdyn.tracing.passes import Batch, Passes
from repdyn.tracing.pooling import Pooling
from repdyn.tracing.registry import traced
from repdyn.tracing.samples import Samples, as_samples
from repdyn.tracing.stream import SORTED_TOGETHER, FirstBatch, first_batch, read_chunks

if TYPE_CHECKING:
    from repdyn.paths import PathsWriter, RepresentationPaths

__all__ = ["OpenTrace", "computed_in", "is_begun", "kept_as", "trace", "write_chunks"]

STORED_TYPES = tuple(np.dtype(kind) for kind in ("float32", "float16", ml_dtypes.bfloat16, "float64"))


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
    compute_dtype: str | torch.dtype | None = None,
    meta: Mapping[str, Any] | None = None,
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
        (``"blocks.*.attn"``), or a list of them. Of ``"all"`` and of patterns, modules that are never called
        and those whose output cannot be read are left out; ``paths.meta["left_out"]`` names them. A module
        that runs several times in one pass gives a point per call, ``name#0``, ``name#1``, ….
    pool
        ``"cls"``, ``"mean"`` (of real tokens), ``"last"`` (real token), ``"gap"`` (mean over places),
        ``"flatten"``, ``"none"`` (keep tokens), a function from :class:`repdyn.tracing.Tokens` to
        ``(N, D)``, or ``"auto"``: what the model's own head uses.
    labels, ids
        One per sample; ids default to the numbers of the samples.
    out
        A path for a store on disk; None keeps all in memory.
    batch_size
        Samples in one forward pass; of texts shorter than 64 tokens, as many more as make up for it.
    dtype
        What values are kept in: ``"float32"``, ``"float16"``, ``"float64"`` or ``"bfloat16"``, which NumPy
        has no type for: values are rounded to it and kept as float32.
    device
        Where the model runs; default where it is.
    resume
        Go on with a store that an interrupted trace left at ``out``.
    engine
        Where the chunks of the store ``out`` are traced: None for here, ``"ray"`` (or an engine such as
        :class:`repdyn_adapters.ray.RayEngine`, which knows the cluster's address) for the workers of a Ray
        cluster. The numbers are the same, bit for bit, where PyTorch uses as many threads.
    compute_dtype
        What the model multiplies in, ``"bfloat16"`` or ``"float16"``, by :class:`torch.autocast`: weights
        stay as they are, norms and softmax in float32. Default: the type of the weights; a model
        loaded in bfloat16 runs in it.
    meta
        What else to keep in ``paths.meta``.

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
    kept, compute = kept_as(dtype), computed_in(compute_dtype)
    subject = traced(model)
    samples = as_samples(inputs, labels, ids)
    elsewhere = find_engine(engine, out)
    alone = elsewhere is not None or (out is not None and resume and is_begun(out))
    # Which of many points can be read shows with two samples: a table of positions looks like one sample's.
    several = any(stands_for_many(name) for name in ([points] if isinstance(points, str) else points or ()))
    start = first_batch(samples, batch_size, subject, alone and not several, several=several)
    how: dict[str, Any] = {
        "points": points,
        "pool": pool,
        "first": start.taken,
        "dtype": kept,
        "device": device,
        "compute": compute,
        "check": start.check if subject.own_logits is not None else (),
    }
    # Before anything runs: there are no hooks but the user's own, and functions that count have not counted.
    before = (
        {} if out is None else {"prepare": told_fingerprint(subject.prepare), "settings": _settings(subject)}
    )
    with ExitStack() as stack:
        with Passes(subject, **how) as passes:
            told = {**(meta or {}), **_describe(passes, samples)}
            if out is None:
                return _to_memory(passes, samples, batch_size, told, start)
            from repdyn.paths.writer import writing_alone

            begun = stack.enter_context(writing_alone(out))
            told["identity"] = {**_identity(passes, samples), **before}
            writer = _start(passes, samples, told, out, resume)
            begun()
            _check_content(samples, writer, batch_size)
            if elsewhere is None:
                chunks = list(writer.missing)
                write_chunks(passes, samples, batch_size, writer, chunks, not samples.in_memory, start)
        if elsewhere is not None:
            # Out of the passes, whose hooks cannot be sent: the workers put their own.
            named = model if isinstance(model, str) else subject
            elsewhere.run(Job(named, told["digest"], samples, batch_size, writer, how))
        return writer.finish()


class OpenTrace:
    """A trace without an end: each call gives paths of further samples, read by one reader for its life.

    The reader opens with the first samples that the model takes. Until the context ends the model has hooks,
    is in evaluation mode and on its device.

    Parameters
    ----------
    model, points, pool, device
        As :func:`trace` takes them.

    Examples
    --------
    >>> from torch import nn
    >>> with OpenTrace(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4))) as more:
    ...     parts = [more(np.ones((n, 3), dtype="float32")) for n in (2, 5)]
    >>> [len(paths) for paths in parts]
    [2, 5]
    """

    def __init__(
        self,
        model: TracedModel | nn.Module | str,
        points: str | Sequence[str] | None = None,
        pool: str | Pooling = "auto",
        device: torch.device | str | None = None,
    ) -> None:
        self.model = traced(model)
        self._how: dict[str, Any] = {
            "points": points,
            "pool": pool,
            "device": device,
            "dtype": np.dtype(np.float32),
        }
        self._passes: Passes | None = None
        self._told: dict[str, Any] = {}
        self._stack = ExitStack()

    def __enter__(self) -> OpenTrace:
        return self

    def __exit__(self, *exception: object) -> None:
        self._passes = None
        self._stack.close()

    def __call__(self, inputs: Any, ids: ArrayLike | None = None) -> RepresentationPaths:
        """Paths of some samples, in one forward pass where their lengths allow it.

        Raises
        ------
        RepdynError
            As :func:`trace` does; later calls are none the worse for it.
        """
        samples = as_samples(inputs, ids=ids)
        size, start = len(samples), None
        if self._passes is None:
            start = first_batch(samples, size, self.model, alone=False)
            check = start.check if self.model.own_logits is not None else ()
            passes = Passes(self.model, first=start.taken, check=check, **self._how)
            self._passes = self._stack.enter_context(passes)
            self._told = _describe(passes, samples)
        try:
            told = {**self._told, "data": samples.digest()}
            return _to_memory(self._passes, samples, size, told, start or _NOTHING)
        finally:
            self._passes.learned = None  # of these samples and no others


_NOTHING = FirstBatch(np.arange(0), [], [])


def write_chunks(
    passes: Passes,
    samples: Samples,
    batch_size: int,
    writer: PathsWriter,
    chunks: list[range],
    hashed: bool,
    start: FirstBatch | None = None,
) -> None:
    """Trace whole chunks and write each when it is done; which others there are makes no difference to it."""

    def write(rows: range, part: Batch, content: str | None) -> None:
        labels = None if samples.labels is None else samples.labels[rows.start : rows.stop]
        ids = [str(samples.ids[number]) for number in rows]
        writer.write_chunk(
            rows.start, part.values, ids=ids, labels=labels, logits=part.logits, content=content
        )

    # The disk is written to while the model reads on. One chunk at most waits for it, whatever the size of
    # the data; where reading fails, the chunk before it is still written.
    with ThreadPoolExecutor(1, thread_name_prefix="repdyn-write") as pool:
        writing: Future[None] | None = None
        for rows, part, content in read_chunks(passes, samples, chunks, batch_size, hashed, start):
            if writing is not None:
                writing.result()
            writing = pool.submit(write, rows, part, content)
        if writing is not None:
            writing.result()


def _to_memory(
    passes: Passes, samples: Samples, batch_size: int, meta: dict[str, Any], start: FirstBatch
) -> RepresentationPaths:
    from repdyn.paths import RepresentationPaths

    starts = range(0, len(samples), SORTED_TOGETHER)
    chunks = [range(start, min(start + SORTED_TOGETHER, len(samples))) for start in starts]
    parts = [part for _, part, _ in read_chunks(passes, samples, chunks, batch_size, start=start)]
    arrays: dict[str, NDArray[Any]] = {}
    masks = {}
    for name in passes.points:
        pieces = [part.values[name] for part in parts]
        if isinstance(pieces[0], list):
            arrays[name], masks[name] = _padded([row for piece in pieces for row in piece])
        else:
            arrays[name] = np.concatenate(pieces)
        if passes.dtype == ml_dtypes.bfloat16:
            arrays[name] = arrays[name].astype(np.float32)
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


def is_begun(out: str | os.PathLike[str]) -> bool:
    """Whether a store is there that a trace would continue."""
    from repdyn.paths.layout import is_store
    from repdyn.paths.storage import storage_at

    return is_store(storage_at(out))


def _settings(model: TracedModel) -> str:
    parts = {id(part): part for part in (model.weights or model.module, model.module)}.values()
    found = [settings_digest(part) for part in parts]
    return next((told for told in found if told.startswith(NOT_HASHED)), None) or told_fingerprint(found)


def _identity(passes: Passes, samples: Samples) -> dict[str, str | None]:
    """Digests of what a trace that continues this one must agree in, besides the weights and the data."""
    model, head = passes.model, passes.model.head
    used = [model.points[name.partition("#")[0]] for name in passes.points]
    return {
        "labels": None if samples.labels is None else told_fingerprint(samples.labels),
        "pool": told_fingerprint(passes.pool),
        "points": told_fingerprint(used),
        "head": None if head is None or _of_adapter(head) else told_fingerprint(head),
    }


def _of_adapter(function: Any) -> bool:
    """Whether it is one of repdyn's own, which holds nothing but the model that is hashed already."""
    return str(getattr(function, "__module__", "")).partition(".")[0] == "repdyn_adapters"


def _check_content(samples: Samples, writer: PathsWriter, batch_size: int) -> None:
    """Refuse to continue a store whose chunks were made from other samples, which are read again for it."""
    if samples.in_memory:  # the digest of all of them is in the metadata
        return
    for rows in track(writer.present, "comparing samples", len(writer.present)):
        found, known = samples.read_chunk_digest(rows, batch_size), writer.content(rows.start)
        if found.startswith(NOT_HASHED):
            told = f"cannot be compared with those given ({found.removeprefix(NOT_HASHED)})"
        elif known is None or known.startswith(NOT_HASHED):
            reason = "no digest was kept" if known is None else known.removeprefix(NOT_HASHED)
            told = f"cannot be compared with those given ({reason})"
        elif found != known:
            told = "are not those given here, though their ids agree"
        else:
            continue
        raise RepdynError(
            f"{writer.storage}: holds another trace, its samples {rows.start} to {rows.stop - 1} {told}; "
            "choose another path, or start over with resume=False (--no-resume)"
        )


def _padded(rows: list[NDArray[Any]]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    longest = max(len(row) for row in rows)
    array = np.zeros((len(rows), longest, rows[0].shape[1]), dtype=rows[0].dtype)
    for place, row in zip(array, rows, strict=True):
        place[: len(row)] = row
    lengths = np.array([len(row) for row in rows])
    return array, np.arange(longest) < lengths[:, None]


def kept_as(dtype: DTypeLike | torch.dtype) -> np.dtype[Any]:
    """What values are kept in."""
    name = str(dtype).removeprefix("torch.") if isinstance(dtype, str | torch.dtype) else dtype
    try:
        found = np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)
    except TypeError:
        found = None
    if found is None or found not in STORED_TYPES:
        raise RepdynError(f"dtype: expected one of {', '.join(map(str, STORED_TYPES))}, got {dtype!r}")
    return found


def computed_in(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """What a model multiplies in; None for the type of its weights."""
    found = getattr(torch, dtype, dtype) if isinstance(dtype, str) else dtype
    if found not in (None, torch.bfloat16, torch.float16):
        raise RepdynError(
            f"compute_dtype: expected 'bfloat16', 'float16' or None, the type of the weights, got {dtype!r}; "
            "load the model in another type for that"
        )
    return found


def _describe(passes: Passes, samples: Samples) -> dict[str, Any]:
    model = passes.model
    layouts = {name: model.points[name.partition("#")[0]].layout for name in passes.points}
    pool = passes.pool
    left_out = {
        name: "never called" if reason == "never called" else "cannot be read"
        for name, reason in passes.left_out.items()
    }
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
        **({"rounded_to": "bfloat16"} if passes.dtype == ml_dtypes.bfloat16 else {}),
        **({"left_out": left_out} if left_out else {}),
        **({} if passes.compute is None else {"compute_dtype": str(passes.compute).removeprefix("torch.")}),
    }
