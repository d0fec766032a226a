"""Columns of vectors in Arrow tables: files of Parquet, Arrow and Feather, Lance datasets (the tables of
LanceDB), and tables of other libraries.

pyarrow and pylance are optional; only what reads or writes such data imports them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repdyn.errors import RepdynError, nearest_names
from repdyn.limits import check_unpacked

__all__ = [
    "LANCE",
    "TABLES",
    "Table",
    "arrow",
    "check_memory",
    "check_once",
    "checked_columns",
    "holds_tokens",
    "lance_dataset",
    "matrix_of",
    "open_table",
    "strings_of",
    "tokens_of",
    "vector_columns",
]

LANCE = ".lance"
"""Ending of the folder of a Lance dataset, which is a table of LanceDB."""
TABLES = (".parquet", ".arrow", ".feather", LANCE)
"""Endings of files that hold a table."""
ROWS = 16_384
"""Rows of a batch: 25 MB of vectors of width 384."""


@dataclass(frozen=True)
class Table:
    """An open table that is read batch by batch.

    Attributes
    ----------
    name
        File, for error messages.
    schema
        The Arrow schema.
    size
        Number of rows.
    packed
        Bytes on disk, which limit the bytes in memory; ``None`` for a table in memory.
    handle
        What pyarrow or pylance opened.
    """

    name: str
    schema: Any
    size: int
    packed: int | None
    handle: Any

    def batches(self, columns: Sequence[str], rows: int = ROWS) -> Iterator[Any]:
        """Record batches of some columns, in order, of at most ``rows`` rows."""
        names = list(columns)
        check_once(names, self.schema.names, self.name)
        pa = arrow(self.name)
        try:
            if hasattr(self.handle, "iter_batches"):  # of Parquet
                yield from self.handle.iter_batches(batch_size=rows, columns=names)
                return
            if hasattr(self.handle, "to_batches"):  # of Lance, which reads a version that no writer changes
                # Few at a time: sixteen batches are read ahead by default, 400 MB of width 384.
                yield from self.handle.to_batches(batch_size=rows, columns=names, batch_readahead=2)
                return
            for number in range(self.handle.num_record_batches):
                batch = self.handle.get_batch(number).select(names)
                for start in range(0, batch.num_rows, rows):
                    yield batch.slice(start, rows)
        except (pa.ArrowException, OSError) as error:
            raise RepdynError(f"{self.name}: cannot be read to the end ({_one_line(error)})") from None


def check_once(names: Sequence[str], known: Sequence[str], where: str) -> None:
    """Raise if several columns of a table have one of the names: which is meant cannot be known."""
    for name in names:
        if list(known).count(name) > 1:
            raise RepdynError(f"{where}: has several columns {name!r}; rename them")


def arrow(purpose: str) -> Any:
    """The module pyarrow; ``purpose`` begins the error where it is not installed."""
    try:
        import pyarrow as pa
    except ImportError:
        raise RepdynError(f"{purpose}: needs pyarrow; pip install pyarrow") from None
    return pa


def lance_dataset(path: Path) -> Any:
    """The newest version of a Lance dataset.

    Raises
    ------
    RepdynError
        If pylance or the dataset is missing, or the dataset is damaged.
    """
    try:
        import lance
    except ImportError:
        raise RepdynError(f"{path}: needs pylance; pip install 'repdyn[lance]'") from None
    if not path.is_dir():
        raise RepdynError(f"{path}: there is no such folder of a Lance dataset")
    try:
        return lance.dataset(str(path))
    except (OSError, ValueError, RuntimeError) as error:
        raise RepdynError(f"{path}: is not a readable Lance dataset ({_one_line(error)})") from None


@contextmanager
def open_table(path: Path) -> Iterator[Table]:
    """Open a Parquet, Arrow or Feather file, or the folder of a Lance dataset.

    Raises
    ------
    RepdynError
        If pyarrow, pylance or the file is missing, or the file is damaged.
    """
    pa = arrow(str(path))
    import pyarrow.ipc
    import pyarrow.parquet as pq

    if path.suffix.lower() == LANCE:
        dataset = lance_dataset(path)
        stored = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        yield Table(str(path), dataset.schema, dataset.count_rows(), stored, dataset)
        return
    if not path.is_file():
        raise RepdynError(f"{path}: there is no such file")
    packed = path.stat().st_size
    try:
        if path.suffix.lower() == ".parquet":
            # Without pre_buffer, which reads all row groups ahead: the file may be larger than memory.
            handle = pq.ParquetFile(path, memory_map=True, pre_buffer=False)
            size = handle.metadata.num_rows
            schema, closing = handle.schema_arrow, handle
        else:
            closing = pa.memory_map(str(path))
            try:
                handle = pyarrow.ipc.open_file(closing)
            except pa.ArrowInvalid:  # a stream: what `datasets` writes
                closing.seek(0)
                handle = _Stream(pyarrow.ipc.open_stream(closing).read_all())
            schema = handle.schema
            size = sum(handle.get_batch(k).num_rows for k in range(handle.num_record_batches))
    except (pa.ArrowException, OSError) as error:
        kind = path.suffix[1:].capitalize()
        raise RepdynError(f"{path}: is not a readable {kind} file ({_one_line(error)})") from None
    try:
        yield Table(str(path), schema, size, packed, handle)
    finally:
        closing.close()


class _Stream:
    """The batches of a table in memory, with the interface of pyarrow's file reader."""

    def __init__(self, table: Any) -> None:
        self.schema = table.schema
        self._batches = table.to_batches()
        self.num_record_batches = len(self._batches)

    def get_batch(self, number: int) -> Any:
        return self._batches[number]


def vector_columns(schema: Any) -> list[str]:
    """Names of the columns that hold lists of floating-point numbers, or lists of such lists."""
    pa = arrow("vectors")
    found = []
    for field in schema:
        inner = field.type
        while _is_list(pa, inner):
            inner = inner.value_type
        if inner is not field.type and pa.types.is_floating(inner):
            found.append(field.name)
    return found


def matrix_of(column: Any, name: str, where: str, start: int = 0) -> NDArray[Any]:
    """An Arrow array of N vectors as ``(N, D)``, without a copy where possible.

    Parameters
    ----------
    column
        A list, large list or list of fixed size, of numbers.
    name, where
        Name of the column, and file, for error messages.
    start
        Row of the file of the first vector.

    Raises
    ------
    RepdynError
        If a vector is missing, the widths differ, or the column holds something else.
    """
    pa = arrow(where)
    if isinstance(column, pa.ExtensionArray):  # of `datasets` and of tensors
        column = column.storage
    inner = column.type.value_type if _is_list(pa, column.type) else None
    if inner is None or not (pa.types.is_floating(inner) or pa.types.is_integer(inner)):
        raise RepdynError(f"{where}: {name!r} holds {column.type}; expected lists of numbers of one width")
    if column.null_count:
        row = start + int(np.flatnonzero(np.asarray(column.is_null()))[0])
        raise RepdynError(
            f"{where}: row {row} has no vector at {name!r} ({column.null_count} of {len(column)} rows); drop "
            "those rows"
        )
    fixed = pa.types.is_fixed_size_list(column.type)
    lengths = np.full(len(column), column.type.list_size) if fixed else np.asarray(column.value_lengths())
    if len(lengths) and (lengths != lengths[0]).any():
        row = int(np.flatnonzero(lengths != lengths[0])[0])
        raise RepdynError(
            f"{where}: the widths of {name!r} differ: row {start + row} has {lengths[row]}, row {start} has "
            f"{lengths[0]}; give vectors of one width"
        )
    values = column.flatten().to_numpy(zero_copy_only=False)
    matrix: NDArray[Any] = values.reshape(len(column), int(lengths[0]) if len(lengths) else 0)
    return matrix


def tokens_of(column: Any, name: str, where: str, start: int = 0) -> list[NDArray[Any]]:
    """An Arrow array of N lists of vectors as N arrays ``(T, D)``."""
    if column.null_count:
        row = start + int(np.flatnonzero(np.asarray(column.is_null()))[0])
        raise RepdynError(f"{where}: row {row} has no vectors at {name!r}; drop that row")
    flat = matrix_of(column.flatten(), name, where, start)
    ends = np.cumsum(np.asarray(column.value_lengths()))
    return np.split(flat, ends[:-1]) if len(ends) else []


def holds_tokens(schema: Any, name: str) -> bool:
    """Whether a column holds a list of vectors for each row."""
    pa = arrow(name)
    kind = schema.field(name).type
    return bool(_is_list(pa, kind) and _is_list(pa, kind.value_type))


def strings_of(batches: Sequence[Any], name: str, where: str) -> list[Any]:
    """Entries of one column as Python values; raises at a missing one."""
    values = [value for batch in batches for value in batch.column(name).to_pylist()]
    for row, value in enumerate(values):
        if value is None:
            raise RepdynError(f"{where}: row {row} of {name!r} is missing; fill it, or drop the row")
    return values


def checked_columns(schema: Any, names: Sequence[str], where: str) -> list[str]:
    """The names, if the schema has them all."""
    for name in names:
        if name not in schema.names:
            raise RepdynError(f"{where}: has no column {name!r}; {nearest_names(name, schema.names)}")
    return list(names)


def check_memory(table: Table, width: int, itemsize: int) -> None:
    """Raise if the vectors take far more memory than the file's size suggests."""
    if table.packed is not None:
        check_unpacked(table.name, table.size * width * itemsize, table.packed)


def _is_list(pa: Any, kind: Any) -> bool:
    types = pa.types
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
