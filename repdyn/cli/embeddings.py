"""Translate files of embeddings: ``.npy`` matrices and Parquet columns of vectors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repdyn.errors import RepdynError, nearest_names
from repdyn.paths.arrow import arrow, matrix_of, open_table, vector_columns
from repdyn.progress import track
from repdyn.writing import whole_file

__all__ = ["translate_file"]

ROWS = 65_536
"""Rows translated at a time, because files may be larger than memory."""


def translate_file(
    apply: Callable[[NDArray[Any]], NDArray[Any]], source: Path, target: Path, column: str | None = None
) -> int:
    """Write a copy of a file with translated vectors.

    Parameters
    ----------
    apply
        The translation, from ``(N, D_a)`` to ``(N, D_b)``.
    source
        ``.npy`` with a matrix, or ``.parquet`` with a column of vectors; other columns are kept.
    target
        File to write, with the same suffix as the source.
    column
        Name of the Parquet column of vectors. Default: the only column that holds vectors.

    Returns
    -------
    int
        Number of translated vectors.

    Raises
    ------
    RepdynError
        If the suffixes are unknown or differ, a file or column is missing, or vectors differ in width.
    """
    endings = source.suffix.lower(), target.suffix.lower()
    if endings[0] != endings[1] or endings[0] not in (".npy", ".parquet"):
        raise RepdynError(f"{source} -> {target}: expected two .npy or two .parquet files")
    if not source.is_file():
        raise RepdynError(f"{source}: there is no such file")
    if source.resolve() == target.resolve():
        raise RepdynError(f"{target}: is the source file; give another name")
    with whole_file(target) as scratch:
        return (_npy if endings[0] == ".npy" else _parquet)(apply, source, scratch, column)


def _npy(
    apply: Callable[[NDArray[Any]], NDArray[Any]], source: Path, target: Path, column: str | None
) -> int:
    if column is not None:
        raise RepdynError(f"{source}: a .npy file has no column {column!r}")
    try:
        vectors = np.load(source, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise RepdynError(f"{source}: is not a plain .npy matrix ({error})") from None
    if vectors.ndim != 2 or not np.issubdtype(vectors.dtype, np.floating):
        raise RepdynError(f"{source}: expected floats (N, D), got {vectors.dtype} of shape {vectors.shape}")
    made: NDArray[Any] | None = None
    for start in track(range(0, len(vectors), ROWS), "translating"):
        part = apply(_finite(np.asarray(vectors[start : start + ROWS]), source, start))
        if made is None:
            made = np.lib.format.open_memmap(
                target, mode="w+", dtype=vectors.dtype, shape=(len(vectors), part.shape[1])
            )
        made[start : start + ROWS] = part
    if made is None:
        raise RepdynError(f"{source}: holds no vectors")
    made.flush()  # type: ignore[attr-defined]
    return len(vectors)


def _parquet(
    apply: Callable[[NDArray[Any]], NDArray[Any]], source: Path, target: Path, column: str | None
) -> int:
    pa = arrow(str(source))
    import pyarrow.parquet as pq

    count = 0
    writer: Any = None
    try:
        with open_table(source) as table:
            schema = table.schema
            name = _vector_column(schema, column, source)
            place, kind = schema.get_field_index(name), schema.field(name).type.value_type
            for batch in track(
                table.batches(schema.names, ROWS), "translating", total=-(-table.size // ROWS)
            ):
                found = matrix_of(batch.column(place), name, str(source), count)
                moved = apply(_finite(found, source, count))
                values = pa.array(moved.ravel().astype(np.float64)).cast(kind)
                vectors = pa.FixedSizeListArray.from_arrays(values, moved.shape[1])
                made = pa.Table.from_batches([batch]).set_column(place, name, vectors)
                writer = writer or pq.ParquetWriter(target, made.schema)
                writer.write_table(made)
                count += len(moved)
    finally:
        if writer is not None:
            writer.close()
    if writer is None:
        raise RepdynError(f"{source}: holds no vectors")
    return count


def _vector_column(schema: Any, column: str | None, source: Path) -> str:
    """Name of the column of vectors: the given one, or the only one."""
    vectors = vector_columns(schema)
    if column is None:
        if len(vectors) != 1:
            raise RepdynError(
                f"{source}: expected one column of vectors, found {vectors or 'none'}; name one with --column"
            )
        return vectors[0]
    if column not in vectors:
        raise RepdynError(f"{source}: has no column of vectors {column!r}; {nearest_names(column, vectors)}")
    return column


def _finite(vectors: NDArray[Any], source: Path, start: int) -> NDArray[Any]:
    """The vectors ``(N, D)``; raises if one is not finite. ``start`` is the file's row of the first."""
    good = np.isfinite(vectors).all(1)
    if not good.all():
        row = start + int(np.flatnonzero(~good)[0])
        raise RepdynError(f"{source}: vector {row} is not finite; remove or replace it")
    return vectors
