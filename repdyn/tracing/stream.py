"""The streaming loop: batches are planned, prepared in the background, run, and returned in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repdyn.errors import NotFiniteError, RepdynError
from repdyn.progress import track
from repdyn.tracing.model import TracedModel
from repdyn.tracing.passes import HostBatch, Passes
from repdyn.tracing.samples import Samples, as_samples, batches, copied

__all__ = [
    "PREPARED_AHEAD",
    "SORTED_TOGETHER",
    "FirstBatch",
    "first_batch",
    "read_chunks",
    "unfit",
    "unprepared",
]

SORTED_TOGETHER = 2048
"""Samples among which texts are sorted by length, enough for batches of similar lengths."""

PREPARED_AHEAD = 2
"""Batches prepared while the model runs: one that is ready and one in preparation."""

MOST_TRIED = 64
"""Samples that are tried one by one until the model accepts one; an invalid argument fails for all."""


@dataclass(frozen=True, eq=False)
class FirstBatch:
    """The first samples of a trace.

    Attributes
    ----------
    index
        Numbers of the samples.
    taken
        The samples.
    check
        Two samples for the check of the head; with lengths, the longest and the shortest of the first chunk.
    """

    index: NDArray[np.int64]
    taken: list[Any]
    check: list[Any]


def first_batch(
    samples: Samples, batch_size: int, model: TracedModel, alone: bool, *, several: bool = False
) -> FirstBatch:
    """The first batch of a trace; only its first sample with ``alone``, at least two with ``several``."""
    one = np.arange(1)
    if alone:
        taken = samples.take(one)
        return FirstBatch(one, taken, taken)
    try:
        rows = range(min(SORTED_TOGETHER, len(samples)))
        plan = batches(samples, rows, batch_size, model.lengths, model.padded)
        if several and len(plan[0]) == 1:
            plan[0] = np.arange(min(2, len(samples)))
        taken = samples.take(plan[0])
        far = model.lengths is not None and model.padded and len(plan) > 1
        last = samples.take(plan[-1][-1:])[0] if far else taken[-1]
        check = [taken[0], *([last] if len(samples) > 1 else [])]
    except Exception:  # a sample that cannot be read is identified when its batch is read
        taken = samples.take(one)
        return FirstBatch(one, taken, taken)
    return FirstBatch(plan[0], taken, check)


def read_chunks(
    passes: Passes,
    samples: Samples,
    chunks: list[range],
    batch_size: int,
    hashed: bool = False,
    start: FirstBatch | None = None,
) -> Iterator[tuple[range, HostBatch, str | None]]:
    """Yield whole chunks, each in the order of its samples.

    With ``hashed``, a chunk comes with the digest of its samples. The result of the first batch, ``start``,
    is taken from ``passes`` and not computed again.
    """
    missing = sum(map(len, chunks))
    gathered: list[tuple[NDArray[np.int64], HostBatch]] = []
    digests: dict[int, str] = {}
    count = 0
    for step in track(
        _by_sample(_ahead(_steps(passes, samples, chunks, batch_size, hashed, start))),
        f"tracing {passes.model.name}",
        len(samples),
        len(samples) - missing,
    ):
        if step is None:
            continue
        rows, index, inputs, digests_of_step = step
        digests.update(digests_of_step)
        try:
            if inputs is None and passes.learned is not None:
                batch, passes.learned = passes.learned, None
            else:
                batch = passes.run(inputs, len(index))
        except Exception as error:  # a model may raise anything for an unsupported sample
            taken = samples.take(index)
            raise _blamed(
                lambda sample: passes.run(passes.prepare([sample]), 1), samples, index, taken, error
            ) from error
        _check_finite(passes, samples, index, batch)
        gathered.append((index, batch))
        count += len(index)
        if count == len(rows):
            content = samples.chunk_digest(digests) if hashed else None
            yield rows, _in_order(passes, gathered), content
            gathered, digests, count = [], {}, 0


Step = tuple[range, NDArray[np.int64], Any, dict[int, str]]
"""A chunk, numbers and prepared inputs of one of its batches, and digests of the samples."""


def _steps(
    passes: Passes,
    samples: Samples,
    chunks: list[range],
    batch_size: int,
    hashed: bool,
    start: FirstBatch | None,
) -> Iterator[Step]:
    """All batches in turn, planned chunk by chunk, read and prepared."""
    model = passes.model
    home = str(getattr(model.prepare, "__module__", None) or "").partition(".")[0]
    # The user's function may fill the same buffer for every batch, and is called ahead of the model.
    owned = copied if home not in ("repdyn", "repdyn_adapters") else lambda prepared: prepared
    plan = (
        (rows, index)
        for rows in chunks
        for index in batches(samples, rows, batch_size, model.lengths, model.padded)
    )
    for rows, index, taken in _read(samples, plan, start):
        pairs = zip(index.tolist(), taken, strict=True) if hashed else ()
        digests = {number: samples.sample_digest(number, sample) for number, sample in pairs}
        inputs = None
        if not _is_learned(passes, index, start):
            try:
                inputs = owned(passes.prepare(taken))
            except Exception as error:  # prepare may raise anything for an unsupported sample
                raise _blamed(
                    lambda sample: passes.prepare([sample]), samples, index, taken, error
                ) from error
        yield rows, index, inputs, digests


def _read(
    samples: Samples, plan: Iterator[tuple[range, NDArray[np.int64]]], start: FirstBatch | None
) -> Iterator[tuple[range, NDArray[np.int64], list[Any]]]:
    """The samples of each batch in the plan; those of the first batch were read already."""
    first = next(plan, None)
    if first is None:
        return
    if start is not None and np.array_equal(first[1], start.index):
        yield *first, start.taken
    else:
        plan = chain([first], plan)
    yield from samples.read(plan)


def _is_learned(passes: Passes, index: NDArray[np.int64], start: FirstBatch | None) -> bool:
    """Whether the result of a batch is known from the start of the passes."""
    return passes.learned is not None and start is not None and np.array_equal(index, start.index)


def unprepared(model: TracedModel, inputs: Any, batch_size: int = 32) -> dict[int, str]:
    """Numbers of the samples that cannot be read or prepared, with the reason."""
    bad: dict[int, str] = {}
    for start in range(0, len(inputs), batch_size):
        rows = range(start, min(start + batch_size, len(inputs)))
        try:
            model.prepare([inputs[number] for number in rows])
            continue
        except Exception:  # the samples are then tried one by one
            pass
        for number in rows:
            try:
                model.prepare([inputs[number]])
            except Exception as error:
                bad[number] = _message(error)
    return bad


def unfit(model: TracedModel, inputs: Any, batch_size: int, how: Mapping[str, Any]) -> dict[int, str]:
    """Numbers of the samples for which a model fails or returns values that are not finite, with the reason.

    Batches are run as in a trace. The samples of a failing batch are run one by one.

    Parameters
    ----------
    model
        The model.
    inputs
        Samples that can be read and prepared.
    batch_size
        Samples per forward pass.
    how
        Further arguments of :class:`repdyn.tracing.passes.Passes`.
    """
    samples = as_samples(inputs)
    bad: dict[int, str] = {}

    def run(index: NDArray[np.int64]) -> None:
        batch = passes.run(passes.prepare(samples.take(index)), len(index))
        _check_finite(passes, samples, index, batch)

    with ExitStack() as stack:
        passes = _entered(stack, model, samples, how)
        for start in track(
            range(0, len(samples), SORTED_TOGETHER), "checking samples", -(-len(samples) // SORTED_TOGETHER)
        ):
            rows = range(start, min(start + SORTED_TOGETHER, len(samples)))
            for index in batches(samples, rows, batch_size, model.lengths, model.padded):
                try:
                    run(index)
                    continue
                except Exception:  # the samples are then tried one by one
                    pass
                for number in index:
                    try:
                        run(np.array([number]))
                    except Exception as error:
                        bad[int(number)] = _message(error).partition("; leave the sample out")[0]
    return dict(sorted(bad.items()))


def _entered(stack: ExitStack, model: TracedModel, samples: Samples, how: Mapping[str, Any]) -> Passes:
    """Passes that were opened with the first sample that the model accepts."""
    failed: Exception | None = None
    for number in range(min(len(samples), MOST_TRIED)):
        try:
            first = samples.take(np.array([number]))
            return stack.enter_context(Passes(model, first=first, **how))
        except Exception as error:
            failed = failed or error
    assert failed is not None
    raise failed


def _blamed(
    attempt: Callable[[Any], object],
    samples: Samples,
    index: NDArray[np.int64],
    taken: list[Any],
    error: Exception,
) -> RepdynError:
    """The error of a batch, attributed to the first of its samples that fails alone."""
    for number, sample in sorted(zip(index.tolist(), taken, strict=True), key=lambda pair: pair[0]):
        try:
            attempt(sample)
        except Exception as own:  # usually the same error
            return RepdynError(
                f"sample {number} (id {str(samples.ids[number])!r}): {_message(own)}; "
                "correct it or leave it out"
            )
    first, last = int(index.min()), int(index.max())
    return RepdynError(
        f"samples {first} to {last}: {_message(error)}; each of them passes alone, so they do not fit "
        "into one batch; pad them in prepare=, or use batch_size=1"
    )


def _message(error: Exception) -> str:
    """Message of an exception in one line, with its type unless it is a RepdynError."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, RepdynError) else f"{type(error).__name__}: {text}"


def _ahead(steps: Iterator[Step]) -> Iterator[Step]:
    """The same steps; the next ones are prepared in a thread while the model runs."""
    with ThreadPoolExecutor(1, thread_name_prefix="repdyn-prepare") as pool:
        waiting = deque(pool.submit(next, steps, None) for _ in range(PREPARED_AHEAD))
        while (step := waiting.popleft().result()) is not None:
            waiting.append(pool.submit(next, steps, None))
            yield step


def _by_sample(steps: Iterator[Step]) -> Iterator[Step | None]:
    """Each step, followed by None for every further sample of its batch, because progress counts samples."""
    for step in steps:
        yield step
        yield from repeat(None, len(step[1]) - 1)


def _in_order(passes: Passes, gathered: list[tuple[NDArray[np.int64], HostBatch]]) -> HostBatch:
    """The batches of a chunk as one, in the order of its samples."""
    order = np.concatenate([index for index, _ in gathered])
    back = np.argsort(order, kind="stable")
    values: dict[str, Any] = {}
    for name in passes.points:
        pieces = [batch.values[name] for _, batch in gathered]
        if isinstance(pieces[0], list):
            ragged = [row for piece in pieces for row in piece]
            values[name] = [ragged[number] for number in back]
        else:
            values[name] = np.concatenate(pieces)[back]
    logits = [batch.logits for _, batch in gathered if batch.logits is not None]
    return HostBatch(values, np.concatenate(logits)[back] if logits else None)


def _check_finite(passes: Passes, samples: Samples, index: NDArray[np.int64], batch: HostBatch) -> None:
    """Raise for the first value of a batch that is not finite."""
    arrays: dict[str, Any] = dict(batch.values)
    if batch.logits is not None:
        arrays["logits"] = batch.logits
    for name, value in arrays.items():
        for row, number in zip(value, index, strict=True) if isinstance(value, list) else ():
            if not np.isfinite(row).all():
                raise _not_finite(passes, samples, name, int(number))
        if not isinstance(value, list) and not np.isfinite(value).all():
            bad = ~np.isfinite(value).all(axis=1)
            raise _not_finite(passes, samples, name, int(index[bad].min()))


def _not_finite(passes: Passes, samples: Samples, name: str, number: int) -> RepdynError:
    """The error for a value of a sample that is not finite."""
    advice = (
        "leave the sample out, or store float32, because float16 may overflow"
        if passes.dtype == np.float16
        else "leave the sample out, or run the model in a wider type"
    )
    return NotFiniteError(
        f"point {name!r} of {passes.model.name}: not finite for sample {number} "
        f"(id {str(samples.ids[number])!r}); {advice}"
    )
