"""Opening a store of paths: its files are checked, and representations are read on access."""

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
from repdyn.paths.columns import Index, TokenColumn, VectorColumn
from repdyn.paths.importing import file_of_vectors, import_paths
from repdyn.paths.layout import Layout, decode_strings, layout_of, read_json
from repdyn.paths.paths import RepresentationPaths
from repdyn.paths.storage import Folder, Remote, Storage, refuse_exhaustion, storage_at

__all__ = ["RemoteChunks", "open_paths"]

# A process may keep some thousand files open, and reopening a memory map takes microseconds.
_FILES_OPEN = 256
# Reading over a gap of this size takes no longer than another request (some ms at some 50 MB/s).
_GAP_BYTES = 2**18
# Longer ranges are split into concurrent requests.
_STRETCH_BYTES = 2**23


def open_paths(path: str | os.PathLike[str]) -> RepresentationPaths:
    """Open a store of paths: check that it is complete, and read representations when they are indexed.

    Parameters
    ----------
    path
        A store that a trace or :meth:`RepresentationPaths.save` wrote: a folder, read through memory maps,
        or a URL of an fsspec file system (``"s3://bucket/a.paths"``), read by ranges. The chunk files of a
        folder are checked for completeness; objects are complete or absent and not checked. Or a file of
        vectors, ``FILE`` or ``FILE#COLUMN``, as :func:`import_paths` reads it.

    Returns
    -------
    RepresentationPaths

    Raises
    ------
    RepdynError
        If the store is missing, of another kind, unfinished, truncated, or written by a newer repdyn.
    """
    if file_of_vectors(path) is not None:
        return import_paths(path)
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
    columns: dict[str, VectorColumn | TokenColumn] = {}
    dtype, shown = np.dtype(layout.dtype), layout.shown_dtype
    whole = [layout.chunk_rows] * layout.chunks
    packed = _chunks(storage, "paths/c/{}/0", whole, layout.row_width, dtype)
    offsets = layout.offsets
    for point in layout.points:
        width = layout.widths[point]
        if point in offsets:
            low = offsets[point]
            columns[point] = VectorColumn(packed, layout.chunk_rows, layout.size, low, low + width, shown)
        else:
            number = layout.tokens.index(point)
            own = np.ascontiguousarray(lengths[:, number])
            counts = [int(own[r.start : r.stop].sum()) for r in map(layout.rows, range(layout.chunks))]
            files = _chunks(storage, f"tokens/{number}/{{}}/c/0/0", counts, width, dtype)
            columns[point] = TokenColumn(files, layout.chunk_rows, own, width, shown)
    logits = None
    if layout.logits_width is not None:
        wide, kind = layout.logits_width, np.dtype(np.float32)
        outputs = _chunks(storage, "logits/c/{}/0", whole, wide, kind)
        logits = VectorColumn(outputs, layout.chunk_rows, layout.size, 0, wide, kind)
    return RepresentationPaths(
        columns,
        logits=logits,
        read_labels=partial(_read_labels, storage, layout, labels),
        read_ids=partial(_read_strings, storage, layout, "ids"),
        meta=layout.meta,
        path=storage.path if isinstance(storage, Folder) else str(storage),
    )


class ChunkFiles:
    """Chunk files of one array, memory-mapped on access; the most recent ones stay open."""

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
        mapped = self._open.get(number)
        if mapped is None:
            mapped = self._map(number)
            self._open[number] = mapped
            if len(self._open) > _FILES_OPEN:
                self._open.popitem(last=False)
        else:
            self._open.move_to_end(number)
        return mapped

    def __getstate__(self) -> dict[str, Any]:
        # Another process maps the files itself, so maps are not pickled.
        return {**self.__dict__, "_open": OrderedDict()}

    def _map(self, number: int) -> NDArray[Any]:
        """Memory map of one chunk, ``(rows, width)``."""
        shape = (self._rows[number], self._width)
        if 0 in shape:  # an empty file cannot be mapped, and is not written
            return np.zeros(shape, self._dtype)
        file = self._folder / self._pattern.format(number)
        try:
            # A plain array, because indexing the memmap subclass is slower.
            return np.asarray(np.memmap(file, self._dtype, "r", shape=shape))
        except (OSError, ValueError) as error:
            refuse_exhaustion(error)
            raise RepdynError(f"{file}: is missing or truncated since the store was opened") from None


class RemoteChunks:
    """Chunk objects of one array in remote storage, read by ranges of rows.

    Parameters
    ----------
    storage
        The storage.
    pattern
        Object name of a chunk, with ``{}`` for its number.
    rows
        Number of rows of each chunk.
    width, dtype
        Entries of a row and their type.
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
        """Rows ``start`` to ``stop`` of chunks, one array ``(rows, D)`` for each ``(chunk, start, stop)``.

        Nearby spans of a chunk share one request.
        """
        row_bytes = self._width * self._dtype.itemsize
        gap, longest = _GAP_BYTES // row_bytes, max(_STRETCH_BYTES // row_bytes, 1)
        order = sorted((k for k in range(len(spans)) if spans[k][2] > spans[k][1]), key=spans.__getitem__)
        ranges_: list[tuple[int, int, int]] = []
        range_of: dict[int, int] = {}
        for k in order:
            number, start, stop = spans[k]
            last = ranges_[-1] if ranges_ else (-1, 0, 0)
            if last[0] == number and start <= last[2] + gap and stop - last[1] <= longest:
                ranges_[-1] = (number, last[1], max(last[2], stop))
            else:
                ranges_.append((number, start, stop))
            range_of[k] = len(ranges_) - 1
        read = self._read(ranges_, row_bytes) if ranges_ else []
        arrays = []
        for k, (_, start, stop) in enumerate(spans):
            if k in range_of:
                first = ranges_[range_of[k]][1]
                arrays.append(read[range_of[k]][start - first : stop - first])
            else:
                arrays.append(np.zeros((0, self._width), self._dtype))
        return arrays

    def _read(self, ranges_: list[tuple[int, int, int]], row_bytes: int) -> list[NDArray[Any]]:
        names = [self._pattern.format(number) for number, _, _ in ranges_]
        ranges = [(n, start * row_bytes, stop * row_bytes) for n, (_, start, stop) in zip(names, ranges_)]
        try:
            parts = self._storage.fetch(ranges)
        except FileNotFoundError as error:
            raise RepdynError(f"{error}: is missing since the store was finished") from None
        for name, (_, start, stop), part in zip(names, ranges_, parts):
            if len(part) != (stop - start) * row_bytes:
                raise RepdynError(f"{self._storage}/{name}: is truncated since the store was finished")
        return [np.frombuffer(part, self._dtype).reshape(-1, self._width) for part in parts]


def _chunks(
    storage: Folder | Remote, pattern: str, rows: list[int], width: int, dtype: np.dtype[Any]
) -> ChunkFiles | RemoteChunks:
    """The chunks of one array in local or remote storage."""
    if isinstance(storage, Folder):
        return ChunkFiles(storage.path, pattern, rows, width, dtype)
    return RemoteChunks(storage, pattern, rows, width, dtype)


def _unfinished(storage: Storage, layout: Layout) -> RepdynError:
    """The error for an unfinished store, with the number of samples written."""
    sizes = storage.sizes()
    whole = (k for k in range(layout.chunks) if chunk_is_whole(storage, layout, k, sizes))
    there = sum(len(layout.rows(k)) for k in whole)
    return RepdynError(
        f"{storage}: is unfinished, {there} of {layout.size} samples are written; "
        "run the same trace again to continue where it stopped"
    )


def _metadata(storage: Storage, document: dict[str, Any]) -> Callable[[str], dict[str, Any] | None]:
    """A function from an array's name to its metadata: its own file, or consolidated if remote."""
    consolidated = document.get("consolidated_metadata")
    inline = consolidated.get("metadata") if isinstance(consolidated, dict) else None
    if isinstance(storage, Remote) and isinstance(inline, dict):
        known = {name: entry for name, entry in inline.items() if isinstance(entry, dict)}
        return known.get
    return lambda name: read_json(storage, f"{name}/zarr.json")


def _check_optional(storage: Folder, layout: Layout, declared: dict[str, Any] | None) -> None:
    """Raise if files of labels or logits exist without their metadata, which was lost."""
    sizes, files = storage.sizes(), layout.files(0)
    if declared is None and sizes(files["labels"]) is not None:
        raise RepdynError(f"{storage}/labels: has no readable zarr.json; trace or save the paths again")
    if layout.logits_width is None and sizes(files["logits"]) is not None:
        raise RepdynError(
            f"{storage}: has logits that its attributes do not mention; trace or save the paths again"
        )


def _check_arrays(
    storage: Storage, layout: Layout, known: Callable[[str], dict[str, Any] | None], labels: str | None
) -> None:
    """Raise if an array differs from the layout (rechunked, compressed, replaced)."""
    for name, expected in layout.arrays(labels).items():
        if name == "checksums":  # earlier stores have none, and reading does not need them
            continue
        metadata = known(name)
        if metadata is None:
            raise RepdynError(f"{storage}/{name}: has no readable zarr.json; trace or save the paths again")
        for key in ("shape", "data_type", "chunk_grid", "codecs"):
            if metadata.get(key) != expected[key]:
                raise RepdynError(
                    f"{storage}/{name}: its {key} is {metadata.get(key)}, expected {expected[key]}; "
                    "the store was rewritten by another program, trace or save the paths again"
                )


def _check_chunks(storage: Storage, layout: Layout, labels: str | None) -> None:
    """Raise for the first chunk that is missing or truncated."""
    sizes = storage.sizes()
    for chunk in range(layout.chunks):
        if not chunk_is_whole(storage, layout, chunk, sizes, labels):
            rows = layout.rows(chunk)
            raise RepdynError(
                f"{storage}: chunk {chunk} (samples {rows.start} to {rows.stop - 1}) is missing or "
                "truncated; run the same trace again to restore it"
            )


def _read_lengths(storage: Storage, layout: Layout) -> Index:
    """Number of tokens of each sample at the P points with tokens, ``(N, P)``."""
    if not layout.tokens:
        return np.zeros((layout.size, 0), np.int64)
    return np.concatenate([read_chunk_lengths(storage, layout, chunk) for chunk in range(layout.chunks)])


def _read_all(storage: Storage, layout: Layout, array: str) -> list[tuple[str, bytes]]:
    """Name and contents of the chunk files of one array."""
    names = [layout.files(chunk)[array] for chunk in range(layout.chunks)]
    try:
        return list(zip(names, storage.read_many(names)))
    except FileNotFoundError as error:
        raise RepdynError(f"{error.filename or error}: is missing since the store was opened") from None


def _read_strings(storage: Storage, layout: Layout, array: str) -> NDArray[np.str_]:
    """An array of strings, ``(N,)``."""
    strings: list[str] = []
    for chunk, (name, data) in enumerate(_read_all(storage, layout, array)):
        part = decode_strings(data, f"{storage}/{name}")
        if len(part) != layout.chunk_rows:
            raise RepdynError(
                f"{storage}/{name}: holds {len(part)} entries, expected {layout.chunk_rows}; it is damaged"
            )
        strings += part[: len(layout.rows(chunk))]
    return np.array(strings, dtype=np.str_)


def _read_labels(storage: Storage, layout: Layout, dtype: str | None) -> NDArray[Any] | None:
    """Labels ``(N,)``, or ``None``."""
    if dtype is None:
        return None
    if dtype == "string":
        return _read_strings(storage, layout, "labels")
    parts = [np.frombuffer(data, "<i8") for _, data in _read_all(storage, layout, "labels")]
    return np.concatenate(parts)[: layout.size]
