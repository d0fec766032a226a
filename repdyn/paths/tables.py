"""Paths as Arrow tables: batches for export and for other libraries, and what a table in memory holds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from repdyn.errors import RepdynError, nearest_names
from repdyn.paths.arrow import arrow, check_once, matrix_of, vector_columns
from repdyn.paths.columns import TokenColumn, VectorColumn

__all__ = ["batches_of", "parts_of_table", "schema_of", "stream_of"]

_BATCH_BYTES = 2**25


class HasColumns(Protocol):
    """What is read of paths."""

    points: tuple[str, ...]
    widths: dict[str, int]

    def __len__(self) -> int: ...
    def column(self, point: str) -> VectorColumn | TokenColumn: ...
    @property
    def tokens(self) -> tuple[str, ...]: ...
    @property
    def labels(self) -> NDArray[Any] | None: ...
    @property
    def ids(self) -> NDArray[np.str_]: ...
    @property
    def logits_column(self) -> VectorColumn | None: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def meta(self) -> Mapping[str, Any]: ...


def schema_of(paths: HasColumns) -> Any:
    """Columns ``id``, ``label``, one for each point, ``logits``; the provenance is in the metadata."""
    pa = arrow("Arrow tables")
    kind = pa.from_numpy_dtype(_arrow_dtype(paths.dtype))
    types = {point: pa.list_(kind, width) for point, width in paths.widths.items()}
    fields = [("id", pa.string())]
    if paths.labels is not None:
        fields.append(("label", pa.int64() if paths.labels.dtype.kind == "i" else pa.string()))
    fields += [(p, pa.list_(t) if p in paths.tokens else t) for p, t in types.items()]
    if paths.logits_column is not None:
        fields.append(("logits", pa.list_(pa.float32(), paths.logits_column.width)))
    return pa.schema(fields, metadata={"repdyn": json.dumps(dict(paths.meta))})


def batches_of(paths: HasColumns, groups: Iterable[NDArray[np.int64]], schema: Any) -> Iterator[Any]:
    """Record batches of the samples of each group, ``(n,)`` consecutive row numbers.

    The vectors of paths in memory are not copied.
    """
    pa = arrow("Arrow tables")

    def vectors(values: NDArray[Any]) -> Any:
        flat = np.ascontiguousarray(values).reshape(-1)
        return pa.FixedSizeListArray.from_arrays(pa.array(flat), values.shape[1])

    for index in groups:
        columns: list[Any] = [pa.array(paths.ids[index].tolist())]
        if paths.labels is not None:
            columns.append(pa.array(paths.labels[index].tolist()))
        for point in paths.points:
            column = paths.column(point)
            if isinstance(column, TokenColumn):
                ragged = column.ragged(index)
                ends = np.cumsum([0, *map(len, ragged)]).astype(np.int32)
                flat = vectors(_plain(np.concatenate(ragged)))
                columns.append(pa.ListArray.from_arrays(pa.array(ends), flat))
            else:
                columns.append(vectors(_plain(_rows(column, index))))
        if paths.logits_column is not None:
            columns.append(vectors(_rows(paths.logits_column, index)))
        yield pa.RecordBatch.from_arrays(columns, schema=schema)


def stream_of(paths: HasColumns, requested: object | None) -> object:
    """The PyCapsule of a stream of record batches; memory does not grow with the number of samples."""
    pa = arrow("the Arrow interface")
    schema = schema_of(paths)
    row = sum(paths.widths.values()) * paths.dtype.itemsize
    rows = max(_BATCH_BYTES // row, 1)
    groups = (np.arange(start, min(start + rows, len(paths))) for start in range(0, len(paths), rows))
    reader = pa.RecordBatchReader.from_batches(schema, batches_of(paths, groups, schema))
    return reader.__arrow_c_stream__(requested)


def parts_of_table(
    table: Any, points: Iterable[str] | None, ids: str | None, labels: str | None
) -> tuple[dict[str, NDArray[Any]], list[Any] | None, list[Any] | None, dict[str, Any]]:
    """Arrays, ids, labels and provenance of an object with the Arrow PyCapsule interface.

    Parameters
    ----------
    table
        A table or a stream of record batches: of pyarrow, polars, pandas, duckdb, LanceDB, ``datasets``.
    points
        Names of the columns of vectors; default: all that hold lists of floating-point numbers.
    ids, labels
        Names of columns; default: ``id`` or ``ids``, and ``label`` or ``labels``, where there are such.
    """
    pa = arrow("from_arrow")
    if not hasattr(table, "__arrow_c_stream__"):
        raise RepdynError(
            f"from_arrow: a {type(table).__name__} has no Arrow stream (__arrow_c_stream__); give a table of "
            "pyarrow, polars, pandas, duckdb or LanceDB, or points to from_arrays"
        )
    read = pa.RecordBatchReader.from_stream(table).read_all().combine_chunks()
    known = read.schema.names
    chosen = vector_columns(read.schema) if points is None else list(points)
    for name in [*chosen, *(name for name in (ids, labels) if name is not None)]:
        if name not in known:
            raise RepdynError(f"from_arrow: there is no column {name!r}; {nearest_names(name, known)}")
    if not chosen:
        kinds = ", ".join(f"{field.name} {field.type}" for field in list(read.schema)[:5])
        raise RepdynError(f"from_arrow: has no column of vectors, only {kinds or 'nothing'}")
    check_once(chosen, known, "from_arrow")
    usual: list[str | None] = [
        given or next((name for name in names if name in known and name not in chosen), None)
        for given, names in ((ids, ("id", "ids")), (labels, ("label", "labels")))
    ]
    arrays = {}
    for name in chosen:
        column = read.column(name)
        whole = column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)
        arrays[name] = matrix_of(whole, name, "from_arrow")
    values = [None if name is None else read.column(name).to_pylist() for name in usual]
    for given, found in zip((ids, labels), values):
        if given is not None and found is not None and None in found:
            raise RepdynError(
                f"from_arrow: row {found.index(None)} of {given!r} is missing; fill it, or drop it"
            )
    kept = [None if found is None or None in found else found for found in values]
    if labels is None and kept[1] is not None and not all(isinstance(one, int | str) for one in kept[1]):
        kept[1] = None
    text = (read.schema.metadata or {}).get(b"repdyn")
    try:
        meta = {} if text is None else dict(json.loads(text))
    except ValueError:
        meta = {}
    return arrays, kept[0], kept[1], meta


def _rows(column: VectorColumn, index: NDArray[np.int64]) -> NDArray[Any]:
    """Rows of a column; a view where it is one array in memory and the rows are consecutive."""
    if isinstance(column.blocks, list) and len(column.blocks) == 1 and column.index is None and len(index):
        block = column.blocks[0]
        if int(index[-1]) - int(index[0]) + 1 == len(index):
            view: NDArray[Any] = block[int(index[0]) : int(index[-1]) + 1, column.low : column.high]
            return view.astype(column.dtype, copy=False)
    return column.take(index)


def _arrow_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """bfloat16, which Arrow has no type for, is widened to float32."""
    return np.dtype(np.float32) if dtype.kind == "V" or dtype.name == "bfloat16" else dtype


def _plain(values: NDArray[Any]) -> NDArray[Any]:
    return values.astype(_arrow_dtype(values.dtype), copy=False)
