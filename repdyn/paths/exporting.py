"""Export of paths: Parquet with a row for each sample, or safetensors with a tensor for each point."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from repdyn.errors import RepdynError
from repdyn.paths.arrow import arrow
from repdyn.paths.columns import TokenColumn, VectorColumn
from repdyn.paths.paths import RepresentationPaths
from repdyn.paths.storage import as_bytes, writing_failed
from repdyn.paths.tables import batches_of, schema_of
from repdyn.progress import track
from repdyn.writing import whole_file

__all__ = ["export_paths"]

# Bytes of representations that are in memory at a time.
_GROUP_BYTES = 2**25
_SAFETENSORS = {"float16": "F16", "float32": "F32", "float64": "F64", "int64": "I64", "uint8": "U8"}


def export_paths(paths: RepresentationPaths, out: str | os.PathLike[str]) -> None:
    """Write paths to one file in blocks; memory does not grow with the number of samples.

    ``.parquet`` (needs ``pyarrow``): columns ``id``, ``label``, one for each point, ``logits``; a vector is
    a list of fixed size, tokens are a list of vectors. ``.safetensors``: a tensor ``(N, D)`` for each point;
    with tokens, ``(all tokens, D)`` with ``POINT.lengths`` ``(N,)``; ``logits``; ``labels`` as
    integers (the names of string labels are in the metadata, ``classes``); ``ids`` as the bytes of a JSON
    list. The metadata of both formats holds the provenance of the paths, ``repdyn``.

    Parameters
    ----------
    paths
        Paths in memory or from a store.
    out
        A local file, whose extension selects the format. It is written atomically.

    Raises
    ------
    RepdynError
        If the extension is unknown, pyarrow is missing, or the disk is full.
    """
    target = Path(out)
    writers: dict[str, Callable[[RepresentationPaths, BinaryIO], None]] = {
        ".parquet": _write_parquet,
        ".safetensors": _write_safetensors,
    }
    write = writers.get(target.suffix)
    if write is None:
        raise RepdynError(f"{target}: its extension names no format; expected .parquet or .safetensors")
    try:
        with whole_file(target) as scratch, scratch.open("wb") as file:
            write(paths, file)
    except OSError as error:
        raise writing_failed(target, error) from error


def _write_parquet(paths: RepresentationPaths, file: BinaryIO) -> None:
    """Write one row group after the other."""
    pa = arrow("export to Parquet")
    import pyarrow.parquet as pq

    schema = schema_of(paths)
    with pq.ParquetWriter(file, schema) as writer:
        for batch in batches_of(paths, _groups(paths), schema):
            writer.write_table(pa.Table.from_batches([batch]), row_group_size=batch.num_rows)


def _write_safetensors(paths: RepresentationPaths, file: BinaryIO) -> None:
    """Write the header, then one tensor after the other.

    The safetensors library needs all tensors in memory, so the file is written here. The tests read it
    with the library.
    """
    ids = np.frombuffer(json.dumps(paths.ids.tolist()).encode(), np.uint8)
    metadata = {"repdyn": json.dumps(dict(paths.meta))}
    small: dict[str, NDArray[Any]] = {"ids": ids}
    if paths.labels is not None:
        codes = paths.labels
        if codes.dtype.kind != "i":
            classes, codes = np.unique(codes, return_inverse=True)
            metadata["classes"] = json.dumps(classes.tolist())
        small["labels"] = codes.astype(np.int64)
    columns: dict[str, VectorColumn | TokenColumn] = {point: paths.column(point) for point in paths.points}
    if paths.logits_column is not None:
        columns["logits"] = paths.logits_column
    shapes = {}
    for name, column in columns.items():
        rows = len(column)
        if isinstance(column, TokenColumn):
            small[f"{name}.lengths"] = column.shown_lengths()
            rows = int(column.shown_lengths().sum())
        shapes[name] = ((rows, column.width), column.dtype.name)
    clash = (set(small) | {"logits"}) & set(paths.points)
    if clash:
        raise RepdynError(f"point {min(clash)!r}: its name is reserved in the safetensors file; use .parquet")
    shapes |= {name: (array.shape, array.dtype.name) for name, array in small.items()}
    header: dict[str, Any] = {"__metadata__": metadata}
    position = 0
    # Tensors with wider entries come first, so that all are aligned.
    order = sorted(shapes, key=lambda name: -np.dtype(shapes[name][1]).itemsize)
    for name in order:
        shape, kind = shapes[name]
        size = int(np.prod(shape)) * np.dtype(kind).itemsize
        header[name] = {
            "dtype": _SAFETENSORS[kind],
            "shape": list(shape),
            "data_offsets": [position, position + size],
        }
        position += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for name in order:
        if name in small:
            file.write(as_bytes(_little(small[name])))
            continue
        for index in _groups(paths):
            column = columns[name]
            parts = column.ragged(index) if isinstance(column, TokenColumn) else [column.take(index)]
            for part in parts:
                file.write(as_bytes(_little(part)))


def _groups(paths: RepresentationPaths) -> Iterator[NDArray[np.int64]]:
    """Row numbers of consecutive blocks of about 32 MiB."""
    row = sum(paths.widths.values()) * paths.dtype.itemsize
    rows = max(_GROUP_BYTES // row, 1)
    starts = range(0, len(paths), rows)
    for start in track(starts, "exporting", len(starts)):
        yield np.arange(start, min(start + rows, len(paths)))


def _little(values: NDArray[Any]) -> NDArray[Any]:
    """The array in little-endian byte order, contiguous."""
    return np.ascontiguousarray(values.astype(values.dtype.newbyteorder("<"), copy=False))
