"""Opening a store of paths: what is there is checked, nothing is read before it is asked for."""

from __future__ import annotations

import os
from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repdyn.errors import RepdynError
from repdyn.paths.chunks import chunk_is_whole, label_dtype, read_chunk_lengths
from repdyn.paths.columns import Index, Rows, Tokens
from repdyn.paths.layout import Layout, read_layout
from repdyn.paths.paths import RepresentationPaths
from repdyn.paths.zarr_format import decode_strings, read_json

__all__ = ["open_paths"]

# A memory map keeps a file descriptor and a process has some thousand; reopening one costs microseconds.
_FILES_OPEN = 256


def open_paths(path: str | os.PathLike[str]) -> RepresentationPaths:
    """Open a store of paths; it is checked to be whole, and read only where it is indexed.

    Parameters
    ----------
    path
        The store, a folder that a trace or :meth:`RepresentationPaths.save` wrote.

    Returns
    -------
    RepresentationPaths

    Raises
    ------
    RepdynError
        If there is none, it is something else, unfinished, truncated, or written by a newer repdyn.
    """
    folder = Path(path)
    layout = read_layout(folder)
    if not layout.complete:
        there = sum(len(layout.rows(k)) for k in range(layout.chunks) if chunk_is_whole(folder, layout, k))
        raise RepdynError(
            f"{folder}: is unfinished, {there} of {layout.size} samples are there; "
            "run the same trace again to continue where it stopped"
        )
    labels = label_dtype(folder)
    _check_arrays(folder, layout, labels)
    for chunk in range(layout.chunks):
        if not chunk_is_whole(folder, layout, chunk, labels):
            rows = layout.rows(chunk)
            raise RepdynError(
                f"{folder}: chunk {chunk} (samples {rows.start} to {rows.stop - 1}) is missing or truncated; "
                "run the same trace again to restore it"
            )
    lengths = _read_lengths(folder, layout)
    columns: dict[str, Rows | Tokens] = {}
    dtype = np.dtype(layout.dtype)
    whole = [layout.chunk_rows] * layout.chunks
    packed = ChunkFiles(folder, "paths/c/{}/0", whole, layout.row_width, dtype)
    offsets = layout.offsets
    for point in layout.points:
        width = layout.widths[point]
        if point in offsets:
            low = offsets[point]
            columns[point] = Rows(packed, layout.chunk_rows, layout.size, low, low + width, dtype)
        else:
            number = layout.tokens.index(point)
            own = np.ascontiguousarray(lengths[:, number])
            counts = [int(own[r.start : r.stop].sum()) for r in map(layout.rows, range(layout.chunks))]
            files = ChunkFiles(folder, f"tokens/{number}/{{}}/c/0/0", counts, width, dtype)
            columns[point] = Tokens(files, layout.chunk_rows, own, width, dtype)
    logits = None
    if layout.logits_width is not None:
        wide, kind = layout.logits_width, np.dtype(np.float32)
        files = ChunkFiles(folder, "logits/c/{}/0", whole, wide, kind)
        logits = Rows(files, layout.chunk_rows, layout.size, 0, wide, kind)
    return RepresentationPaths(
        columns,
        logits=logits,
        read_labels=partial(_read_labels, folder, layout, labels),
        read_ids=partial(_read_strings, folder, layout, "ids"),
        meta=layout.meta,
        path=folder,
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
        except (OSError, ValueError):
            raise RepdynError(f"{file}: is missing or truncated since the store was opened") from None


def _check_arrays(folder: Path, layout: Layout, labels: str | None) -> None:
    """Refuse arrays that are not laid out as the attributes say (rechunked, compressed, replaced)."""
    for name, expected in layout.arrays(labels).items():
        found = read_json(folder / name / "zarr.json")
        if found is None:
            raise RepdynError(f"{folder / name}: has no readable zarr.json; trace or save the paths again")
        for key in ("shape", "data_type", "chunk_grid", "codecs"):
            if found.get(key) != expected[key]:
                raise RepdynError(
                    f"{folder / name}: its {key} is {found.get(key)}, expected {expected[key]}; "
                    "the store was rewritten by another program, trace or save the paths again"
                )


def _read_lengths(folder: Path, layout: Layout) -> Index:
    if not layout.tokens:
        return np.zeros((layout.size, 0), np.int64)
    return np.concatenate([read_chunk_lengths(folder, layout, chunk) for chunk in range(layout.chunks)])


def _read_strings(folder: Path, layout: Layout, name: str) -> NDArray[np.str_]:
    found: list[str] = []
    for chunk in range(layout.chunks):
        file = folder / f"{name}/c/{chunk}"
        try:
            part = decode_strings(file.read_bytes(), file)
        except OSError:
            raise RepdynError(f"{file}: is missing since the store was opened") from None
        rows = layout.rows(chunk)
        if len(part) != layout.chunk_rows:
            raise RepdynError(
                f"{file}: holds {len(part)} entries, expected {layout.chunk_rows}; it is damaged"
            )
        found += part[: len(rows)]
    return np.array(found, dtype=np.str_)


def _read_labels(folder: Path, layout: Layout, dtype: str | None) -> NDArray[Any] | None:
    if dtype is None:
        return None
    if dtype == "string":
        return _read_strings(folder, layout, "labels")
    parts = [
        np.fromfile(folder / f"labels/c/{k}", "<i8")[: len(layout.rows(k))] for k in range(layout.chunks)
    ]
    return np.concatenate(parts)
