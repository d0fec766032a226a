"""Tracing: the representation paths of all samples, in memory or in a store."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import ml_dtypes
import numpy as np
import torch
from numpy.typing import ArrayLike, DTypeLike, NDArray
from torch import nn

from repdyn.errors import RepdynError
from repdyn.paths import PathsWriter, RepresentationPaths
from repdyn.paths.layout import is_store
from repdyn.paths.storage import storage_at
from repdyn.paths.writer import writing_alone
from repdyn.progress import track
from repdyn.tracing.engines import Engine, Job, find_engine
from repdyn.tracing.identity import NOT_HASHED, fingerprint_or_reason, settings_digest
from repdyn.tracing.model import TracedModel
from repdyn.tracing.passes import HostBatch, Passes
from repdyn.tracing.pooling import Pooling
from repdyn.tracing.registry import traced
from repdyn.tracing.samples import Samples, as_samples
from repdyn.tracing.spec import stands_for_many
from repdyn.tracing.stream import SORTED_TOGETHER, FirstBatch, first_batch, read_chunks

__all__ = ["OpenTrace", "checked_compute_dtype", "checked_dtype", "is_begun", "trace", "write_chunks"]

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

    Forward hooks pool each representation inside the forward pass. Memory thus does not grow with the length
    of the inputs nor, with ``out``, with their number. The pass ends after the last point. The state of the
    model is restored: mode, random state, device and hooks.

    Parameters
    ----------
    model
        A model of :func:`repdyn.load` or :func:`repdyn.wrap`, or their argument: a name or a module.
    inputs
        The samples: strings, pictures, an array with samples first, a torch data set, any iterable. Texts of
        a generator or a streamed data set need no memory: beyond 64 MiB they lie in a temporary file.
    points
        Points to read: None or ``"blocks"`` for the output of every block and the pooled last one,
        ``"stages"``, ``"attention"``, ``"mlp"`` if the model has them, ``"all"``, a name, a pattern
        (``"blocks.*.attn"``), or a list of these. Of ``"all"`` and of patterns, modules that are never called
        and those whose output cannot be read are left out; ``paths.meta["left_out"]`` names them. A module
        that runs several times in one pass has one point per call, ``name#0``, ``name#1``, ….
    pool
        ``"cls"``, ``"mean"`` (of real tokens), ``"last"`` (real token), ``"gap"`` (mean over positions),
        ``"flatten"``, ``"none"`` (keep tokens), a function from :class:`repdyn.tracing.Tokens` to
        ``(N, D)``, or ``"auto"``: the pooling of the model's own head.
    labels, ids
        One per sample; default ids: the row numbers.
    out
        Path of a store; None: in memory.
    batch_size
        Samples per forward pass; raised for short texts (below 64 tokens).
    dtype
        Storage type: ``"float32"``, ``"float16"``, ``"float64"`` or ``"bfloat16"``. NumPy has no bfloat16:
        values in memory are rounded to it and held as float32.
    device
        Device of the model during the trace; default: the model's current device.
    resume
        Continue the store of an interrupted trace at ``out``. Samples, labels, ``prepare``, pooling, weights
        and settings must be the same. What ``prepare`` itself reads from files or the network is not
        compared: give file names with their folder as samples.
    engine
        Where the chunks of the store ``out`` are traced. None: in this process. ``"ray"``, or an engine such
        as :class:`repdyn_adapters.ray.RayEngine` with the cluster's address: on the workers of a Ray cluster.
        With the same number of PyTorch threads, the numbers are equal bit for bit.
    compute_dtype
        Precision of the forward pass, ``"bfloat16"`` or ``"float16"``, by :class:`torch.autocast`: weights
        are not converted, norms and softmax use float32. Default: the type of the weights.
    meta
        Further entries of ``paths.meta``.

    Returns
    -------
    RepresentationPaths
        ``(N, D)`` per point, with logits if the model has a head and its last point is read.

    Raises
    ------
    RepdynError
        If an argument is invalid (before any sample is read), or a representation is not finite (the message
        names point and sample).

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
    storage, compute = checked_dtype(dtype), checked_compute_dtype(compute_dtype)
    subject = traced(model)
    samples = as_samples(inputs, labels, ids)
    elsewhere = find_engine(engine, out)
    alone = elsewhere is not None or (out is not None and resume and is_begun(out))
    # Whether a point of many can be read needs two samples: a position table looks like one sample.
    several = any(stands_for_many(name) for name in ([points] if isinstance(points, str) else points or ()))
    start = first_batch(samples, batch_size, subject, alone and not several, several=several)
    how: dict[str, Any] = {
        "points": points,
        "pool": pool,
        "first": start.taken,
        "dtype": storage,
        "device": device,
        "compute": compute,
        "check": start.check if subject.own_logits is not None else (),
    }
    # Hashed before anything runs: only the user's hooks are attached, and no stateful function was called.
    before = (
        {}
        if out is None
        else {"prepare": fingerprint_or_reason(subject.prepare), "settings": _settings(subject)}
    )
    with ExitStack() as stack:
        with Passes(subject, **how) as passes:
            known = {**(meta or {}), **_describe(passes, samples)}
            if out is None:
                return _to_memory(passes, samples, batch_size, known, start)
            begun = stack.enter_context(writing_alone(out))
            known["identity"] = {**_identity(passes, samples), **before}
            writer = _start(passes, samples, known, out, resume)
            begun()
            _check_content(samples, writer, batch_size)
            if elsewhere is None:
                chunks = list(writer.missing)
                write_chunks(passes, samples, batch_size, writer, chunks, not samples.in_memory, start)
        if elsewhere is not None:
            # After the context of the passes, because hooks cannot be pickled; the workers attach their own.
            named = model if isinstance(model, str) else subject
            elsewhere.run(Job(named, known["digest"], samples, batch_size, writer, how))
        return writer.finish()


class OpenTrace:
    """An open-ended trace: each call returns paths of further samples, with one reader for all calls.

    The reader opens with the first samples that the model accepts. Within the context the model has hooks and
    is in evaluation mode on its device.

    Parameters
    ----------
    model, points, pool, device
        As in :func:`trace`.

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
        self._meta: dict[str, Any] = {}
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
            As :func:`trace` does. Later calls are not affected.
        """
        samples = as_samples(inputs, ids=ids)
        size, start = len(samples), None
        if self._passes is None:
            start = first_batch(samples, size, self.model, alone=False)
            check = start.check if self.model.own_logits is not None else ()
            passes = Passes(self.model, first=start.taken, check=check, **self._how)
            self._passes = self._stack.enter_context(passes)
            self._meta = _describe(passes, samples)
        try:
            known = {**self._meta, "data": samples.digest()}
            return _to_memory(self._passes, samples, size, known, start or _NOTHING)
        finally:
            self._passes.learned = None  # it belongs to the samples of this call


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
    """Trace whole chunks and write each one when it is complete; chunks do not depend on each other."""

    def write(rows: range, part: HostBatch, content: str | None) -> None:
        labels = None if samples.labels is None else samples.labels[rows.start : rows.stop]
        ids = [str(samples.ids[number]) for number in rows]
        writer.write_chunk(
            rows.start, part.values, ids=ids, labels=labels, logits=part.logits, content=content
        )

    # Chunks are written while the model reads the next one. At most one chunk waits, so memory is bounded. If
    # reading fails, the previous chunk is still written.
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
    """Trace all samples to paths in memory."""
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
    """Create or continue the store of a trace."""
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
    """Whether ``out`` holds a store that a trace would continue."""
    return is_store(storage_at(out))


def _settings(model: TracedModel) -> str:
    """Digest of what a model's values depend on besides its weights, or why there is none."""
    parts = {id(part): part for part in (model.weights or model.module, model.module)}.values()
    digests = [settings_digest(part) for part in parts]
    return next((one for one in digests if one.startswith(NOT_HASHED)), None) or fingerprint_or_reason(
        digests
    )


def _identity(passes: Passes, samples: Samples) -> dict[str, str | None]:
    """Digests that must agree for a continued trace, besides those of the weights and the data."""
    model, head = passes.model, passes.model.head
    # How a layout came to be known changes no value, and is not known alike in every trace of a model.
    used = [replace(model.points[name.partition("#")[0]], trust="declared") for name in passes.points]
    return {
        "labels": None if samples.labels is None else fingerprint_or_reason(samples.labels),
        "pool": fingerprint_or_reason(passes.pool),
        "points": fingerprint_or_reason(used),
        "head": None if head is None or _of_adapter(head) else fingerprint_or_reason(head),
    }


def _of_adapter(function: Any) -> bool:
    """Whether a function belongs to repdyn's adapters: it holds only the model, which is hashed already."""
    return str(getattr(function, "__module__", "")).partition(".")[0] == "repdyn_adapters"


def _check_content(samples: Samples, writer: PathsWriter, batch_size: int) -> None:
    """Raise if the chunks of a store are of other samples; the samples are read again to compare them."""
    if samples.in_memory:  # the digest of all of them is in the metadata
        return
    for rows in track(writer.present, "comparing samples", len(writer.present)):
        digest, known = samples.read_chunk_digest(rows, batch_size), writer.content(rows.start)
        if digest.startswith(NOT_HASHED):
            problem = f"cannot be compared with those given ({digest.removeprefix(NOT_HASHED)})"
        elif known is None or known.startswith(NOT_HASHED):
            reason = "the store has no digest" if known is None else known.removeprefix(NOT_HASHED)
            problem = f"cannot be compared with those given ({reason})"
        elif digest != known:
            problem = "differ from those given, although their ids agree"
        else:
            continue
        raise RepdynError(
            f"{writer.storage}: holds another trace, its samples {rows.start} to {rows.stop - 1} {problem}; "
            "choose another path, or start over with resume=False (--no-resume)"
        )


def _padded(rows: list[NDArray[Any]]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Rows ``(T, D)`` padded to one array ``(N, T, D)``, and the mask ``(N, T)``."""
    longest = max(len(row) for row in rows)
    array = np.zeros((len(rows), longest, rows[0].shape[1]), dtype=rows[0].dtype)
    for target, row in zip(array, rows, strict=True):
        target[: len(row)] = row
    lengths = np.array([len(row) for row in rows])
    return array, np.arange(longest) < lengths[:, None]


def checked_dtype(dtype: DTypeLike | torch.dtype) -> np.dtype[Any]:
    """The storage type of a ``dtype`` argument; raise for an unsupported one."""
    name = str(dtype).removeprefix("torch.") if isinstance(dtype, str | torch.dtype) else dtype
    try:
        kind = np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)
    except TypeError:
        kind = None
    if kind is None or kind not in STORED_TYPES:
        raise RepdynError(f"dtype: expected one of {', '.join(map(str, STORED_TYPES))}, got {dtype!r}")
    return kind


def checked_compute_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """Precision of a ``compute_dtype`` argument; None for the type of the weights."""
    kind = getattr(torch, dtype, dtype) if isinstance(dtype, str) else dtype
    if kind not in (None, torch.bfloat16, torch.float16):
        raise RepdynError(
            f"compute_dtype: expected 'bfloat16', 'float16' or None, the type of the weights, got {dtype!r}; "
            "load the model in another type for that"
        )
    return kind


def _describe(passes: Passes, samples: Samples) -> dict[str, Any]:
    """Metadata of a trace."""
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
