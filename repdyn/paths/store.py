"""Opening a store of paths: what is there is checked, nothing is read before it is asked for."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repdyn.errors import RepdynError
from repdyn.paths.chunks import chunk_is_whole, read_chunk_lengths
from repdyn.paths.columns import Index, Rows, Tokens
from repdyn.paths.layout import Layout, decode_strings, layout_of, read_json
from repdyn.paths.paths import RepresentationPaths
from repdyn.paths.storage import Folder, Remote, Storage, refuse_exhaustion, storage_at

__all__ = ["RemoteChunks", "open_paths"]

# A memory map keeps a file descriptor and a process has some thousand; reopening one costs microseconds.
_FILES_OPEN = 256
# Reading on over this much that nobody asked for takes no longer than asking anew (some ms at some 50 MB/s).
_GAP_BYTES = 2**18
# Longer stretches are read as several, at the same time.
_STRETCH_BYTES = 2**23


def open_paths(path: str | os.PathLike[str]) -> RepresentationPaths:
    """Open a store of paths; it is checked to be whole, and read only where it is indexed.

    Parameters
    ----------
    path
        The store that a trace or :meth:`RepresentationPaths.save` wrote: a folder, read through memory
        maps, or a URL that fsspec knows (``"s3://bucket/a.paths"``), read by ranges. Chunks of a folder
        are checked to be there in full; objects, which are put whole or not at all, are not asked after.

    Returns
    -------
    RepresentationPaths

    Raises
    ------
    RepdynError
        If there is none, it is something else, unfinished, truncated, or written by a newer repdyn.
    """
    storage = storage_at(path)
    document = read_json(storage, "zarr.json")
    layout = layout_of(storage, document)
    if not layout.complete:
        raise _unfinished(storage, layout)
    known = _metadata(storage, document or {})
    declared = known("labels")
    if isinstance(storage, Folder):
        _check_optional(storage, layout, declared)
    labels = None if declared is None else str(declared.get("data_type"))
    _check_arrays(storage, layout, known, labels)
    if isinstance(storage, Folder):
        _check_chunks(storage, layout, labels)
    lengths = _read_lengths(storage, layout)
    columns: dict[str, Rows | Tokens] = {}
    dtype, shown = np.dtype(layout.dtype), layout.shown_dtype
    whole = [layout.chunk_rows] * layout.chunks
    packed = _chunks(storage, "paths/c/{}/0", whole, layout.row_width, dtype)
    offsets = layout.offsets
    for point in layout.points:
        width = layout.widths[point]
        if point in offsets:
            low = offsets[point]
            columns[point] = Rows(packed, layout.chunk_rows, layout.size, low, low + width, shown)
        else:
            number = layout.tokens.index(point)
            own = np.ascontiguousarray(lengths[:, number])
            counts = [int(own[r.start : r.stop].sum()) for r in map(layout.rows, range(layout.chunks))]
            files = _chunks(storage, f"tokens/{number}/{{}}/c/0/0", counts, width, dtype)
            columns[point] = Tokens(files, layout.chunk_rows, own, width, shown)
    logits = None
    if layout.logits_width is not None:
        wide, kind = layout.logits_width, np.dtype(np.float32)
        outputs = _chunks(storage, "logits/c/{}/0", whole, wide, kind)
        logits = Rows(outputs, layout.chunk_rows, layout.size, 0, wide, kind)
    return RepresentationPaths(
        columns,
        logits=logits,
        read_labels=partial(_read_labels, storage, layout, labels),
        read_ids=partial(_read_strings, storage, layout, "ids"),
        meta=layout.meta,
        path=storage.path if isinstance(storage, Folder) else str(storage),
    )


class ChunkFiles:
    """The chunk files of one array, memory-mapped when asked for; the latest few stay open."""

    def __init__(self, folder: Path, pattern: str, rows: list[int], width: int, dtype: np.dtype[Any]) -> None:
        self._folder = folder
        self._pattern = pattern
        self._rows = rows
        self._width = width
        self._dtype = dtype.newbyteorder("<")
        self._open: OrderedDict[int, NDArray[Any]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int, /) -> NDArray[Any]:
        found = self._open.get(number)
        if found is None:
            found = self._map(number)
            self._open[number] = found
            if len(self._open) > _FILES_OPEN:
                self._open.popitem(last=False)
        else:
            self._open.move_to_end(number)
        return found

    def __getstate__(self) -> dict[str, Any]:
        # Another process maps the files itself: only where they are is sent to it.
        return {**self.__dict__, "_open": OrderedDict()}

    def _map(self, number: int) -> NDArray[Any]:
        shape = (self._rows[number], self._width)
        if 0 in shape:  # An empty file cannot be mapped, and there is none.
            return np.zeros(shape, self._dtype)
        file = self._folder / self._pattern.format(number)
        try:
            # As a plain array: the memmap subclass makes every indexing slower.
            return np.asarray(np.memmap(file, self._dtype, "r", shape=shape))
        except (OSError, ValueError) as error:
            refuse_exhaustion(error)
            raise RepdynError(f"{file}: is missing or truncated since the store was opened") from None


class RemoteChunks:
    """The chunk objects of one array, of which rows are fetched.

    Parameters
    ----------
    storage
        The store.
    pattern
        Name of a chunk's object, with ``{}`` for its number.
    rows
        Rows in each chunk.
    width, dtype
        Of a row.
    """

    def __init__(
        self, storage: Remote, pattern: str, rows: Sequence[int], width: int, dtype: np.dtype[Any]
    ) -> None:
        self._storage = storage
        self._pattern = pattern
        self._rows = list(rows)
        self._width = width
        self._dtype = dtype.newbyteorder("<")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int, /) -> NDArray[Any]:
        return self.fetch([(number, 0, self._rows[number])])[0]

    def fetch(self, spans: Sequence[tuple[int, int, int]]) -> list[NDArray[Any]]:
        """Rows from start to stop of chunks, ``(chunk, start, stop)`` each, as arrays ``(rows, D)``."""
        row_bytes = self._width * self._dtype.itemsize
        gap, longest = _GAP_BYTES // row_bytes, max(_STRETCH_BYTES // row_bytes, 1)
        order = sorted((k for k in range(len(spans)) if spans[k][2] > spans[k][1]), key=spans.__getitem__)
        stretches: list[tuple[int, int, int]] = []
        home: dict[int, int] = {}
        for k in order:
            number, start, stop = spans[k]
            last = stretches[-1] if stretches else (-1, 0, 0)
            if last[0] == number and start <= last[2] + gap and stop - last[1] <= longest:
                stretches[-1] = (number, last[1], max(last[2], stop))
            else:
                stretches.append((number, start, stop))
            home[k] = len(stretches) - 1
        read = self._read(stretches, row_bytes) if stretches else []
        found = []
        for k, (_, start, stop) in enumerate(spans):
            if k in home:
                first = stretches[home[k]][1]
                found.append(read[home[k]][start - first : stop - first])
            else:
                found.append(np.zeros((0, self._width), self._dtype))
        return found

    def _read(self, stretches: list[tuple[int, int, int]], row_bytes: int) -> list[NDArray[Any]]:
        names = [self._pattern.format(number) for number, _, _ in stretches]
        ranges = [(n, start * row_bytes, stop * row_bytes) for n, (_, start, stop) in zip(names, stretches)]
        try:
            parts = self._storage.fetch(ranges)
        except FileNotFoundError as error:
            raise RepdynError(f"{error}: is missing since the store was finished") from None
        for name, (_, start, stop), part in zip(names, stretches, parts):
            if len(part) != (stop - start) * row_bytes:
                raise RepdynError(f"{self._storage}/{name}: is truncated since the store was finished")
        return [np.frombuffer(part, self._dtype).reshape(-1, self._width) for part in parts]


def _chunks(
    storage: Folder | Remote, pattern: str, rows: list[int], width: int, dtype: np.dtype[Any]
) -> ChunkFiles | RemoteChunks:
    if isinstance(storage, Folder):
        return ChunkFiles(storage.path, pattern, rows, width, dtype)
    return RemoteChunks(storage, pattern, rows, width, dtype)


def _unfinished(storage: Storage, layout: Layout) -> RepdynError:
    sizes = storage.sizes()
    whole = (k for k in range(layout.chunks) if chunk_is_whole(storage, layout, k, sizes))
    there = sum(len(layout.rows(k)) for k in whole)
    return RepdynError(
        f"{storage}: is unfinished, {there} of {layout.size} samples are there; "
        "run the same trace again to continue where it stopped"
    )


def _metadata(storage: Storage, document: dict[str, Any]) -> Callable[[str], dict[str, Any] | None]:
    """What gives an array's metadata: its own file here, elsewhere what the group's has gathered."""
    consolidated = document.get("consolidated_metadata")
    gathered = consolidated.get("metadata") if isinstance(consolidated, dict) else None
    if isinstance(storage, Remote) and isinstance(gathered, dict):
        known = {name: found for name, found in gathered.items() if isinstance(found, dict)}
        return known.get
    return lambda name: read_json(storage, f"{name}/zarr.json")


def _check_optional(storage: Folder, layout: Layout, declared: dict[str, Any] | None) -> None:
    """Refuse labels and logits that are there though nothing tells of them: what told of them is lost."""
    sizes, files = storage.sizes(), layout.files(0)
    if declared is None and sizes(files["labels"]) is not None:
        raise RepdynError(f"{storage}/labels: has no readable zarr.json; trace or save the paths again")
    if layout.logits_width is None and sizes(files["logits"]) is not None:
        raise RepdynError(
            f"{storage}: has logits that its attributes do not tell of; trace or save the paths again"
        )


def _check_arrays(
    storage: Storage, layout: Layout, known: Callable[[str], dict[str, Any] | None], labels: str | None
) -> None:
    """Refuse arrays that are not laid out as the attributes say (rechunked, compressed, replaced)."""
    for name, expected in layout.arrays(labels).items():
        if name == "checksums":  # What earlier stores do without, and nobody needs in order to read.
            continue
        found = known(name)
        if found is None:
            raise RepdynError(f"{storage}/{name}: has no readable zarr.json; trace or save the paths again")
        for key in ("shape", "data_type", "chunk_grid", "codecs"):
            if found.get(key) != expected[key]:
                raise RepdynError(
                    f"{storage}/{name}: its {key} is {found.get(key)}, expected {expected[key]}; "
                    "the store was rewritten by another program, trace or save the paths again"
                )


def _check_chunks(storage: Storage, layout: Layout, labels: str | None) -> None:
    sizes = storage.sizes()
    for chunk in range(layout.chunks):
        if not chunk_is_whole(storage, layout, chunk, sizes, labels):
            rows = layout.rows(chunk)
            raise RepdynError(
                f"{storage}: chunk {chunk} (samples {rows.start} to {rows.stop - 1}) is missing or "
                "truncated; run the same trace again to restore it"
            )


def _read_lengths(storage: Storage, layout: Layout) -> Index:
    if not layout.tokens:
        return np.zeros((layout.size, 0), np.int64)
    return np.concatenate([read_chunk_lengths(storage, layout, chunk) for chunk in range(layout.chunks)])


def _read_all(storage: Storage, layout: Layout, array: str) -> list[tuple[str, bytes]]:
    names = [layout.files(chunk)[array] for chunk in range(layout.chunks)]
    try:
        return list(zip(names, storage.read_many(names)))
    except FileNotFoundError as error:
        raise RepdynError(f"{error.filename or error}: is missing since the store was opened") from None


def _read_strings(storage: Storage, layout: Layout, array: str) -> NDArray[np.str_]:
    found: list[str] = []
    for chunk, (name, data) in enumerate(_read_all(storage, layout, array)):
        part = decode_strings(data, f"{storage}/{name}")
        if len(part) != layout.chunk_rows:
            raise RepdynError(
                f"{storage}/{name}: holds {len(part)} entries, expected {layout.chunk_rows}; it is damaged"
            )
        found += part[: len(layout.rows(chunk))]
    return np.array(found, dtype=np.str_)


def _read_labels(storage: Storage, layout: Layout, dtype: str | None) -> NDArray[Any] | None:
    if dtype is None:
        return None
    if dtype == "string":
        return _read_strings(storage, layout, "labels")
    parts = [np.frombuffer(data, "<i8") for _, data in _read_all(storage, layout, "labels")]
    return np.concatenate(parts)[: layout.size]
