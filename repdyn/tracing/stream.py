"""The streaming loop: batches planned, made ready ahead, run through the model, put back in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repdyn.errors import NotFiniteError, RepdynError
from repdyn.progress import track
from repdyn.tracing.passes import Batch, Passes
from repdyn.tracing.samples import Samples, batches

__all__ = ["PREPARED_AHEAD", "read_chunks"]

PREPARED_AHEAD = 2
"""Batches made while the model runs: one that is ready, one in the making."""


def read_chunks(
    passes: Passes, samples: Samples, chunks: list[range], batch_size: int, hashed: bool = False
) -> Iterator[tuple[range, Batch, str | None]]:
    """Whole chunks, one after the other, each in the order of its samples.

    With ``hashed``, each comes with the digest of its samples' content.
    """
    missing = sum(map(len, chunks))
    gathered: list[tuple[NDArray[np.int64], Batch]] = []
    digests: dict[int, str] = {}
    count = 0
    for step in track(
        _by_sample(_ahead(_steps(passes, samples, chunks, batch_size, hashed))),
        f"tracing {passes.model.name}",
        len(samples),
        len(samples) - missing,
    ):
        if step is None:
            continue
        rows, index, inputs, found = step
        digests.update(found)
        try:
            batch = passes.run(inputs, len(index))
        except Exception as error:  # whatever a model says of a sample that is not for it
            taken = samples.take(index)
            raise _blamed(
                lambda sample: passes.run(passes.prepare([sample]), 1), samples, index, taken, error
            ) from error
        _check_finite(passes, samples, index, batch)
        gathered.append((index, batch))
        count += len(index)
        if count == len(rows):
            content = samples.chunk_digest(digests) if hashed else None
            yield rows, _in_order(passes, rows, gathered), content
            gathered, digests, count = [], {}, 0


Step = tuple[range, NDArray[np.int64], Any, dict[int, str]]
"""A chunk, the samples of one batch in it, what the model is called with for them, and their digests."""


def _steps(
    passes: Passes, samples: Samples, chunks: list[range], batch_size: int, hashed: bool
) -> Iterator[Step]:
    """All batches in turn, planned chunk by chunk, decoded and tokenised."""
    plan = (
        (rows, index) for rows in chunks for index in batches(samples, rows, batch_size, passes.model.lengths)
    )
    for rows, index, taken in samples.read(plan):
        pairs = zip(index.tolist(), taken, strict=True) if hashed else ()
        digests = {number: samples.sample_digest(number, sample) for number, sample in pairs}
        try:
            inputs = passes.prepare(taken)
        except Exception as error:  # whatever a preparation says of a sample that is not for it
            raise _blamed(lambda sample: passes.prepare([sample]), samples, index, taken, error) from error
        yield rows, index, inputs, digests


def _blamed(
    attempt: Callable[[Any], object],
    samples: Samples,
    index: NDArray[np.int64],
    taken: list[Any],
    error: Exception,
) -> RepdynError:
    """The error of a batch as that of the first sample in it that fails alone."""
    for number, sample in sorted(zip(index.tolist(), taken, strict=True), key=lambda pair: pair[0]):
        try:
            attempt(sample)
        except Exception as own:  # the same error, as a rule
            return RepdynError(
                f"sample {number} (id {str(samples.ids[number])!r}): {_told(own)}; mend it or leave it out"
            )
    first, last = int(index.min()), int(index.max())
    return RepdynError(
        f"samples {first} to {last}: {_told(error)}; each of them alone passes, so that they do not fit "
        "into one batch; pad them in prepare=, or take batch_size=1"
    )


def _told(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, RepdynError) else f"{type(error).__name__}: {text}"


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
    return NotFiniteError(
        f"point {name!r} of {passes.model.name}: not finite for sample {number} "
        f"(id {str(samples.ids[number])!r}); {advice}"
    )
