"""Where paths to score come from: a store, a Parquet file, DATA, lines on stdin, a folder that is watched."""

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
    from repdyn.tracing.model import TracedModel

__all__ = ["Broken", "Part", "Tracer", "data", "lines", "parquet", "parquet_texts", "store", "watched"]

CHUNK = 2048
"""Paths that are scored at once where they need no tracing."""
POLL = 0.5
"""Seconds between looks at a watched folder."""
SETTLED = 1.0
"""Seconds since a file last changed after which it is taken to be written to the end."""


@dataclass(frozen=True)
class Broken:
    """Samples whose representation is not finite: a detector cannot read them, and all are flagged."""

    ids: list[str]


Part = tuple["RepresentationPaths | Broken | None", list[str]]
"""Some paths, in the order they came, and a line about each input that could not be read or is not finite."""


class Tracer:
    """A model and what is read of it, by one reader for the life of the stream.

    The points and the pooling are those that a detector was fitted on.
    """

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
        """Paths of a few inputs."""
        found = self._trace(inputs, ids)
        self.traced += len(inputs)
        return found


def store(path: str) -> Iterator[Part]:
    """Paths of a store, a chunk at a time."""
    import numpy as np

    from repdyn.paths import open_paths

    paths = open_paths(path)
    for start in range(0, len(paths), CHUNK):
        yield paths.subset(np.arange(start, min(start + CHUNK, len(paths)))), []


def parquet(path: Path) -> Iterator[Part]:
    """Paths that were exported to Parquet: a row for each sample, a column of vectors for each point."""
    import json

    import numpy as np

    from repdyn.paths import RepresentationPaths

    file = _parquet_file(path)
    try:
        meta = json.loads((file.schema_arrow.metadata or {}).get(b"repdyn", b"{}"))
    except ValueError:
        raise RepdynError(f"{path}: its metadata 'repdyn' are not JSON; export the paths again") from None
    vectors = [f.name for f in file.schema_arrow if str(f.type).startswith("fixed_size_list")]
    if not vectors:
        raise RepdynError(
            f"{path}: has no column of vectors; expected what `repdyn paths export` writes, or name a column "
            f"of texts as {path.name}#COLUMN"
        )
    done = 0
    for batch in file.iter_batches(CHUNK):
        arrays = {}
        for name in vectors:
            column = batch.column(name)
            if column.null_count:
                row = done + int(np.argmax(np.asarray(column.is_null())))
                raise RepdynError(f"{path}: row {row} has no vector at {name!r}; drop that row")
            arrays[name] = column.flatten().to_numpy(zero_copy_only=False).reshape(len(batch), -1)
        ids = batch.column("id").to_pylist() if "id" in batch.schema.names else range(done, done + len(batch))
        done += len(batch)
        sound = np.all([np.isfinite(rows).all(axis=1) for rows in arrays.values()], axis=0)
        names = np.array([str(i) for i in ids], dtype=object)
        kept = {name: rows[sound] for name, rows in arrays.items()}
        logits = kept.pop("logits", None)
        if sound.any():
            own = names[sound].tolist()
            yield RepresentationPaths.from_arrays(kept, ids=own, logits=logits, meta=meta), []
        if not sound.all():
            messages = [f"{path}: sample {name!r} is not finite; flagged" for name in names[~sound]]
            yield Broken(names[~sound].tolist()), messages


def parquet_texts(path: Path, column: str, tracer: Tracer, size: int) -> Iterator[Part]:
    """Texts in a column of a Parquet file, traced as they are read."""
    file = _parquet_file(path)
    names = file.schema_arrow.names
    if column not in names:
        raise RepdynError(f"{path}: has no column {column!r}; {nearest_names(column, names)}")
    done = 0
    for batch in file.iter_batches(size, columns=[column]):
        texts = batch.column(column).to_pylist()
        rows = [(f"row {done + k}", text) for k, text in enumerate(texts)]
        yield from _traced(tracer, rows, f"{path}: ", _text)
        done += len(texts)


def lines(stream: BinaryIO, tracer: Tracer, size: int) -> Iterator[Part]:
    """Lines of a stream: each the name of a picture's file that exists, or else a text."""
    waiting: list[tuple[str, Any]] = []
    for number, line in enumerate(stream, start=1):
        waiting.append((f"line {number}", line))
        # A reader on a terminal or a slow pipe sees an answer as soon as nothing more is waiting to be read.
        if len(waiting) >= size or not _more(stream):
            yield from _traced(tracer, waiting, "", _line)
            waiting = []
    if waiting:
        yield from _traced(tracer, waiting, "", _line)


def data(specification: str, tracer: Tracer, size: int) -> Iterator[Part]:
    """Samples of a DATA specification, traced as they are read; bad ones are reported and left out."""
    from repdyn.cli.data import read_data

    found = read_data(specification, skip_bad=True)
    messages = [f"{name}: {reason}; skipped" for name, reason in found.skipped.items()]
    names = found.ids if found.ids is not None else [str(k) for k in range(len(found.inputs))]
    for start in range(0, len(found.inputs), size):
        block = [(names[k], found.inputs[k]) for k in range(start, min(start + size, len(found.inputs)))]
        if messages:
            yield None, messages
            messages = []
        yield from _traced(tracer, block, "", lambda raw: raw)


def watched(
    folder: Path, tracer: Tracer, size: int, idle: float | None, clock: Callable[[], float] = time.monotonic
) -> Iterator[Part]:
    """Pictures and ``.txt`` files (a text each) of a folder and those below it, and those that appear there.

    A file is read once, when it has not changed for a second; with ``idle``, all ends after so many seconds
    without a new one. What is no file, and links to nothing, are reported once. Folders behind links are not
    entered.
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
            last = clock()
        if idle is not None and clock() - last >= idle:
            return
        time.sleep(POLL)


class _Watch:
    """What has been seen of a folder, and since when each file of it has not changed."""

    def __init__(self, folder: Path, clock: Callable[[], float]) -> None:
        self.folder, self.clock = folder, clock
        self.read: set[Path] = set()
        self.reported: set[Path] = set()
        self.since: dict[Path, tuple[tuple[int, int], float]] = {}

    def look(self) -> tuple[list[Path], list[str]]:
        """The files that can be read now, and a line about each thing that never can."""
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
                    # A file that was removed meanwhile is not reported; a link to nothing is.
                    reason = "is a link to nothing" if file.is_symlink() else None
                except OSError as error:
                    reason = f"cannot be read ({error.strerror})"
                else:
                    if not stat.S_ISREG(status.st_mode):
                        reason = "is no regular file"
                    elif self._settled(file, status):
                        fresh.append(file)
                if reason is not None and file not in self.reported:
                    self.reported.add(file)
                    complaints.append(f"{file}: {reason}; skipped")
        self.read.update(fresh)
        return sorted(fresh), complaints

    def _settled(self, file: Path, status: os.stat_result) -> bool:
        """Whether a file has not changed for a second, by its own time or, where that lies ahead, by ours."""
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
        # One input that the model cannot take does not end the stream; if it takes none, that is an error.
        if not tracer.traced and len(inputs) > 1:
            _first_taken(tracer, inputs, ids)
        yield from _one_by_one(tracer, inputs, ids, where, complaints)
    else:
        yield paths, complaints


def _first_taken(tracer: Tracer, inputs: list[Any], ids: list[str]) -> None:
    """Raise the model's reason where it takes none of the inputs: then it is not they that are wrong."""
    error: RepdynError | None = None
    for x, name in zip(inputs, ids):
        try:
            tracer([x], [name])
        except NotFiniteError:
            return  # the model took it
        except RepdynError as refusal:
            error = error or refusal
        else:
            return
    if error is not None:
        raise error


def _one_by_one(
    tracer: Tracer, inputs: list[Any], ids: list[str], where: str, complaints: list[str]
) -> Iterator[Part]:
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
    paths = tracer([inputs[k] for k in good], [ids[k] for k in good]) if good else None
    if paths is not None or complaints:
        yield paths, complaints
    if broken:
        yield Broken(broken), flagged


class _Unreadable(Exception):
    """What is wrong with one input; the stream goes on."""


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
        raise _Unreadable("is no regular file")  # a pipe would be waited for
    try:
        return Pictures([file])[0]
    except RepdynError as error:
        raise _Unreadable(str(error).removeprefix(f"{file}: ").partition("; mend it")[0]) from None


def _more(stream: BinaryIO) -> bool:
    """Whether a line is waiting to be read at once."""
    import select

    peek = getattr(stream, "peek", None)
    if peek is None or sys.platform == "win32":
        return True
    try:
        ready = select.select([stream], [], [], 0)[0]
    except (OSError, ValueError):
        return True  # not a pipe: a file or bytes in memory, which never wait
    return bool(ready) or bool(_buffered(stream))


def _buffered(stream: Any) -> bytes:
    # Peeking reads from the pipe only when the buffer is empty, and would then block.
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


def _parquet_file(path: Path) -> Any:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise RepdynError("Parquet needs pyarrow: pip install pyarrow") from None
    if not path.is_file():
        raise RepdynError(f"{path}: there is no such file")
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise RepdynError(
            f"{path}: is not a readable Parquet file ({' '.join(str(error).split())})"
        ) from None
