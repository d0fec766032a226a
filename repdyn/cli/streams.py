"""Sources of paths to score: a store, a Parquet file, DATA, lines on stdin, or a watched folder."""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from repdyn.errors import NotFiniteError, RepdynError, nearest_names

if TYPE_CHECKING:
    from repdyn.paths import RepresentationPaths
    from repdyn.paths.importing import FileOfVectors
    from repdyn.tracing.model import TracedModel

__all__ = ["Broken", "Part", "Tracer", "data", "lines", "parquet_texts", "store", "vectors", "watched"]

CHUNK = 2048
"""Paths per part of a source that needs no tracing."""
POLL = 0.5
"""Seconds between two scans of a watched folder."""
SETTLED = 1.0
"""Seconds without a change after which a file counts as completely written."""


@dataclass(frozen=True)
class Broken:
    """Samples with a representation that is not finite; they have no score, and all are flagged."""

    ids: list[str]


Part = tuple["RepresentationPaths | Broken | None", list[str]]
"""Paths in the order of the source, and a message for each input that is unreadable or not finite."""


class Tracer:
    """Traces inputs at the points and with the pooling of a detector, with one open reader per stream."""

    def __init__(
        self, model: str | TracedModel, points: Iterable[str], pool: str, device: str | None
    ) -> None:
        from repdyn.ood.monitored import what_to_read
        from repdyn.tracing.registry import traced
        from repdyn.tracing.trace import OpenTrace

        subject = traced(model)
        self._trace = OpenTrace(subject, *what_to_read(subject, points, pool), device)
        self.traced = 0

    def __enter__(self) -> Tracer:
        return self

    def __exit__(self, *exception: object) -> None:
        self._trace.__exit__(*exception)

    def __call__(self, inputs: list[Any], ids: list[str]) -> RepresentationPaths:
        """Trace a batch of inputs."""
        paths = self._trace(inputs, ids)
        self.traced += len(inputs)
        return paths


def store(path: str) -> Iterator[Part]:
    """Paths of a store, :data:`CHUNK` at a time."""
    import numpy as np

    from repdyn.paths import open_paths

    paths = open_paths(path)
    for start in range(0, len(paths), CHUNK):
        yield paths.subset(np.arange(start, min(start + CHUNK, len(paths)))), []


def vectors(source: FileOfVectors) -> Iterator[Part]:
    """Paths of a file of vectors, :data:`CHUNK` at a time; samples that are not finite become `Broken`."""
    import numpy as np

    from repdyn.paths import RepresentationPaths
    from repdyn.paths.importing import file_meta, vector_blocks

    meta, exported = file_meta(source)
    for names, arrays in vector_blocks(source, CHUNK):
        sound = np.all([np.isfinite(rows).all(axis=1) for rows in arrays.values()], axis=0)
        kept = {name: rows[sound] for name, rows in arrays.items()}
        logits = kept.pop("logits", None) if exported else None
        if sound.any():
            own = names[sound].tolist()
            yield RepresentationPaths.from_arrays(kept, ids=own, logits=logits, meta=meta), []
        if not sound.all():
            messages = [
                f"{source.path}: sample {str(name)!r} is not finite; flagged" for name in names[~sound]
            ]
            yield Broken(names[~sound].tolist()), messages


def parquet_texts(path: Path, column: str, tracer: Tracer, size: int) -> Iterator[Part]:
    """Texts in a column of a Parquet file, traced as they are read."""
    from repdyn.paths.arrow import open_table

    done = 0
    with open_table(path) as table:
        names = table.schema.names
        if column not in names:
            raise RepdynError(f"{path}: has no column {column!r}; {nearest_names(column, names)}")
        for batch in table.batches([column], size):
            texts = batch.column(column).to_pylist()
            rows = [(f"row {done + k}", text) for k, text in enumerate(texts)]
            yield from _traced(tracer, rows, f"{path}: ", _text)
            done += len(texts)


def lines(stream: BinaryIO, tracer: Tracer, size: int) -> Iterator[Part]:
    """Lines of a stream; a line is the file name of a picture, or a text."""
    waiting: list[tuple[str, Any]] = []
    for number, line in enumerate(stream, start=1):
        waiting.append((f"line {number}", line))
        # A batch that is not full is scored if no more input is waiting, so that a slow pipe gets its scores.
        if len(waiting) >= size or not _more(stream):
            yield from _traced(tracer, waiting, "", _line)
            waiting = []
    if waiting:
        yield from _traced(tracer, waiting, "", _line)


def data(specification: str, tracer: Tracer, size: int) -> Iterator[Part]:
    """Samples of a DATA specification, traced as they are read; bad ones are reported and left out."""
    from repdyn.cli.data import read_data

    samples = read_data(specification, skip_bad=True)
    messages = [f"{name}: {reason}; skipped" for name, reason in samples.skipped.items()]
    names = samples.ids if samples.ids is not None else [str(k) for k in range(len(samples.inputs))]
    for start in range(0, len(samples.inputs), size):
        stop = min(start + size, len(samples.inputs))
        block = [(names[k], samples.inputs[k]) for k in range(start, stop)]
        if messages:
            yield None, messages
            messages = []
        yield from _traced(tracer, block, "", lambda raw: raw)


def watched(
    folder: Path, tracer: Tracer, size: int, idle: float | None, clock: Callable[[], float] = time.monotonic
) -> Iterator[Part]:
    """Pictures and ``.txt`` files (one text each) below a folder, including those that appear later.

    A file is read once, when it has not changed for a second. With ``idle``, the stream ends after this many
    seconds without a new file. Special files and broken links are reported once. Links to folders are not
    followed.
    """
    if not folder.is_dir():
        raise RepdynError(f"watch:{folder}: there is no such folder")
    watch = _Watch(folder, clock)
    last = clock()
    while True:
        fresh, complaints = watch.look()
        if complaints:
            yield None, complaints
        for start in range(0, len(fresh), size):
            block = [(file.relative_to(folder).as_posix(), file) for file in fresh[start : start + size]]
            yield from _traced(tracer, block, f"{folder}/", _file)
            last = clock()  # after each block: the time that the model takes is not idle
        if idle is not None and clock() - last >= idle:
            return
        time.sleep(POLL)


class _Watch:
    """The state of a watched folder: the files that were read or reported, and when each last changed."""

    def __init__(self, folder: Path, clock: Callable[[], float]) -> None:
        self.folder, self.clock = folder, clock
        self.read: set[Path] = set()
        self.reported: set[Path] = set()
        self.since: dict[Path, tuple[tuple[int, int], float]] = {}

    def look(self) -> tuple[list[Path], list[str]]:
        """New files that can be read now, and a message for each that cannot be read."""
        from repdyn.cli.data import PICTURE_SUFFIXES

        fresh, complaints = [], []
        wanted = {*PICTURE_SUFFIXES, ".txt"}
        for place, _, names in os.walk(self.folder):
            for file in (Path(place, name) for name in sorted(names)):
                if file.suffix.lower() not in wanted or file in self.read:
                    continue
                reason = None
                try:
                    status = file.stat()
                except FileNotFoundError:
                    # A file that was removed since the scan is not reported; a broken link is.
                    reason = "is a broken link" if file.is_symlink() else None
                except OSError as error:
                    reason = f"cannot be read ({error.strerror})"
                else:
                    if not stat.S_ISREG(status.st_mode):
                        reason = "is not a regular file"
                    elif self._settled(file, status):
                        fresh.append(file)
                if reason is not None and file not in self.reported:
                    self.reported.add(file)
                    complaints.append(f"{file}: {reason}; skipped")
        self.read.update(fresh)
        return sorted(fresh), complaints

    def _settled(self, file: Path, status: os.stat_result) -> bool:
        """Whether a file is unchanged for a second: by its mtime, or by our clock if that lies ahead."""
        if 0 <= time.time() - status.st_mtime < SETTLED:
            return False
        if status.st_mtime <= time.time():
            return True
        known, since = self.since.get(file, (None, 0.0))
        now = (status.st_mtime_ns, status.st_size)
        if known != now:
            self.since[file] = now, self.clock()
            return False
        return self.clock() - since >= SETTLED


def _traced(
    tracer: Tracer, given: list[tuple[str, Any]], where: str, read: Callable[[Any], Any]
) -> Iterator[Part]:
    """Read and trace a batch; unreadable inputs become messages, and failing ones are isolated."""
    ids, inputs, complaints = [], [], []
    for name, raw in given:
        try:
            inputs.append(read(raw))
            ids.append(name)
        except _Unreadable as error:
            complaints.append(f"{where}{name}: {error}; skipped")
    if not inputs:
        yield None, complaints
        return
    try:
        paths = tracer(inputs, ids)
    except RepdynError:
        # One input that the model fails on does not end the stream. If it fails on all, that is an error.
        if not tracer.traced and len(inputs) > 1:
            _first_taken(tracer, inputs, ids)
        yield from _one_by_one(tracer, inputs, ids, where, complaints)
    else:
        yield paths, complaints


def _first_taken(tracer: Tracer, inputs: list[Any], ids: list[str]) -> None:
    """Raise the first error if the model fails on every input; then the model or its setup is at fault."""
    error: RepdynError | None = None
    for x, name in zip(inputs, ids):
        try:
            tracer([x], [name])
        except NotFiniteError:
            return  # the forward pass succeeded
        except RepdynError as refusal:
            error = error or refusal
        else:
            return
    if error is not None:
        raise error


def _one_by_one(
    tracer: Tracer, inputs: list[Any], ids: list[str], where: str, complaints: list[str]
) -> Iterator[Part]:
    """Trace inputs one at a time, to separate good ones, not finite ones and failing ones."""
    good, broken, flagged = [], [], []
    for k, (x, name) in enumerate(zip(inputs, ids)):
        try:
            tracer([x], [name])
            good.append(k)
        except NotFiniteError as error:
            broken.append(name)
            flagged.append(f"{where}{name}: {error}; flagged")
        except RepdynError as error:
            complaints.append(f"{where}{name}: {error}; skipped")
    # Traced again in one batch, because a part is one set of paths.
    paths = tracer([inputs[k] for k in good], [ids[k] for k in good]) if good else None
    if paths is not None or complaints:
        yield paths, complaints
    if broken:
        yield Broken(broken), flagged


class _Unreadable(Exception):
    """The reason why one input is skipped."""


def _text(raw: Any) -> str:
    if not isinstance(raw, str):
        raise _Unreadable("is missing" if raw is None else f"is {type(raw).__name__}, expected a text")
    if not raw.strip():
        raise _Unreadable("is empty")
    return raw


def _line(raw: bytes) -> Any:
    from repdyn.cli.data import PICTURE_SUFFIXES

    try:
        text = _text(raw.decode("utf-8").strip("\r\n"))
    except UnicodeDecodeError as error:
        raise _Unreadable(f"is not UTF-8 at byte {error.start}") from None
    name = Path(text.strip())
    if name.suffix.lower() in PICTURE_SUFFIXES:
        return _picture(name)
    return text


def _file(file: Path) -> Any:
    if file.suffix.lower() != ".txt":
        return _picture(file)
    try:
        return _text(file.read_text(encoding="utf-8").strip())
    except UnicodeDecodeError as error:
        raise _Unreadable(f"is not UTF-8 at byte {error.start}") from None
    except OSError as error:
        raise _Unreadable(f"cannot be read ({error.strerror})") from None


def _picture(file: Path) -> Any:
    from repdyn.cli.data import Pictures

    if file.exists() and not file.is_file():
        raise _Unreadable("is not a regular file")  # opening a pipe would block
    try:
        return Pictures([file])[0]
    except RepdynError as error:
        raise _Unreadable(str(error).removeprefix(f"{file}: ").partition("; fix it")[0]) from None


def _more(stream: BinaryIO) -> bool:
    """Whether a line can be read without blocking."""
    import select

    peek = getattr(stream, "peek", None)
    if peek is None or sys.platform == "win32":
        return True
    try:
        ready = select.select([stream], [], [], 0)[0]
    except (OSError, ValueError):
        return True  # a file or bytes in memory, which never block
    return bool(ready) or bool(_buffered(stream))


def _buffered(stream: Any) -> bytes:
    """Bytes that can be read without blocking."""
    # Peeking into an empty buffer reads from the pipe, which would block.
    import io
    import os

    if not isinstance(stream, io.BufferedReader):
        return b""
    descriptor = stream.fileno()
    blocking = os.get_blocking(descriptor)
    os.set_blocking(descriptor, False)
    try:
        return bytes(stream.peek(1))
    finally:
        os.set_blocking(descriptor, blocking)
