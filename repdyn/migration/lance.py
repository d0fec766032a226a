"""Translated vectors in a new column of a Lance dataset; LanceDB keeps each of its tables as one.

All rows are translated to blocks on disk. Then the column is added in one commit, which writes the new
vectors and no old data. A killed run leaves the table as it was and keeps its blocks, with which the next run
continues. If another process changes the table meanwhile, the commit fails, and only the blocks that changed
are translated again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repdyn.errors import RepdynError
from repdyn.migration.columns import ROWS, Blocks, Map, one_column
from repdyn.migration.filling import MigratedColumn
from repdyn.paths import RepresentationPaths, file_of_vectors
from repdyn.paths.arrow import LANCE, Table, arrow, lance_dataset, matrix_of, open_table
from repdyn.paths.importing import VECTORS, FileOfVectors, special_columns

__all__ = ["add_column", "lance_column", "sampled_rows"]

_TRIES = 3
"""Commits that are tried while others write to the table."""
_MAP = b"repdyn migrate"
"""Key of the field's metadata under which the digest of the map stands."""


def lance_column(address: object) -> FileOfVectors | None:
    """The dataset and column that an address names, or ``None`` if it is none of a Lance dataset."""
    file = file_of_vectors(address) if isinstance(address, str | os.PathLike) else None
    return file if file is not None and file.ending == LANCE else None


def sampled_rows(
    file: FileOfVectors, most: int, seed: tuple[int, int], ids: Sequence[str] | None = None
) -> RepresentationPaths:
    """A random sample of the rows that have a vector, read in blocks.

    Parameters
    ----------
    file
        The dataset and its column.
    most
        Number of rows; of those with an id in ``ids``, so many besides.
    seed
        Of the sample.
    ids
        Rows with these ids are taken first.

    Returns
    -------
    RepresentationPaths
        With one point. The ids are those of the column ``id`` or ``ids``, else the numbers of the rows.
    """
    generator = np.random.default_rng(seed)
    with open_table(file.path) as table:
        column = one_column(table, file)
        key, _ = special_columns(table.schema.names, [column], None, None, file.path)
        if ids is not None and key is None:
            raise RepdynError(f"{file.path}: has no column 'id', by which documents are paired")
        read = [column, key] if key else [column]
        present, keys = [], []
        for batch in table.batches(read, ROWS):
            present.append(np.asarray(batch.column(0).is_valid()))
            keys += [str(one) for one in batch.column(1).to_pylist()] if key else []
        rows = np.flatnonzero(np.concatenate([np.zeros(0, bool), *present]))
        if len(rows) == 0:
            raise RepdynError(f"{file.path}: holds no vectors")
        names = np.array(keys) if key else np.arange(table.size).astype(np.str_)
        first = np.isin(names[rows], list(ids or ()))
        parts = [rows[first], rows[~first]]
        chosen = np.sort(
            np.concatenate([generator.choice(part, min(most, len(part)), replace=False) for part in parts])
        )
        taken, start = [], 0
        for batch in table.batches([column], ROWS):
            own = chosen[(chosen >= start) & (chosen < start + batch.num_rows)] - start
            if len(own):
                taken.append(matrix_of(batch.column(0).take(own), column, table.name, start))
            start += batch.num_rows
    matrix = np.concatenate(taken)
    return RepresentationPaths.from_arrays(
        {VECTORS: matrix}, ids=names[chosen].tolist(), meta={"data": f"{file.path.name}#{column}"}
    )


def add_column(apply: Map, width: int, digest: str, file: FileOfVectors, into: str | None) -> MigratedColumn:
    """Translate a column of a Lance dataset to a new column; see :meth:`Migration.apply_to_database`."""
    conflict = _conflict(file)
    for _ in range(_TRIES):
        with open_table(file.path) as table:
            try:
                return _added(apply, width, digest, file, table, into)
            except conflict:
                continue
    raise RepdynError(
        f"{file.path}: others wrote to the table while it was migrated, {_TRIES} times; nothing was added. "
        "Run the same command again when they are done; what was translated is kept"
    )


def _conflict(file: FileOfVectors) -> type[Exception]:
    """The error of pylance when another process wrote to the dataset first."""
    try:
        from lance.commit import CommitConflictError
    except ImportError:
        raise RepdynError(f"{file.path}: needs pylance 14 or later; pip install 'repdyn[lance]'") from None
    return CommitConflictError


def _added(
    apply: Map, width: int, digest: str, file: FileOfVectors, table: Table, into: str | None
) -> MigratedColumn:
    column = one_column(table, file)
    name = f"{column}_migrated" if into is None else into
    _check_new(name, digest, file, table)
    if table.size == 0:
        raise RepdynError(f"{file.path}: has no rows")
    pa = arrow(table.name)
    field = table.schema.field(column)
    if not pa.types.is_fixed_size_list(field.type):
        raise RepdynError(f"{file.path}: {column!r} holds {field.type}; expected vectors of a fixed width")
    kind, like = (
        field.type.value_type,
        np.zeros((1, field.type.list_size), field.type.value_type.to_pandas_dtype()),
    )
    missing = 0

    def blocks() -> Iterator[Callable[[], NDArray[Any]]]:
        nonlocal missing
        start = 0
        for batch in table.batches([column], ROWS):
            missing += batch.column(0).null_count
            yield partial(_filled, batch.column(0), column, table.name, start)
            start += batch.num_rows

    schema = pa.schema([pa.field(name, pa.list_(kind, width), metadata={_MAP: digest.encode()})])
    with Blocks(apply, file, file.path, name, like) as done:
        done.run(blocks(), -(-table.size // ROWS), table.size)

        def made() -> Iterator[Any]:
            for old, block in zip(table.batches([column], ROWS), done.read()):
                values = pa.array(block.ravel()).cast(kind)
                empty = old.column(0).is_null()
                yield pa.record_batch([pa.FixedSizeListArray.from_arrays(values, width, mask=empty)], schema)

        # Another handle than the one that is read: a dataset cannot be read while it is changed.
        dataset = lance_dataset(file.path).checkout_version(table.handle.version)
        try:
            dataset.add_columns(pa.RecordBatchReader.from_batches(schema, made()))
        except _conflict(file):
            raise
        except (OSError, ValueError, RuntimeError) as error:
            said = " ".join(str(error).split())
            raise RepdynError(f"{file.path}: the column {name!r} cannot be added ({said})") from None
    index = f'table.create_index(metric="cosine", vector_column_name={name!r})'
    return MigratedColumn(f"{file.path}#{column}", name, table.size - missing, 0, missing, 0, index)


def _filled(vectors: Any, name: str, where: str, start: int) -> NDArray[Any]:
    """Vectors ``(N, D)``, with zeros for those that are missing."""
    if vectors.null_count == 0:
        return matrix_of(vectors, name, where, start)
    filled = np.zeros((len(vectors), vectors.type.list_size), vectors.type.value_type.to_pandas_dtype())
    if vectors.null_count < len(vectors):
        filled[np.asarray(vectors.is_valid())] = matrix_of(vectors.drop_null(), name, where, start)
    return filled


def _check_new(name: str, digest: str, file: FileOfVectors, table: Table) -> None:
    """Raise if the table has the new column, or cannot have it."""
    if not name or "." in name:
        raise RepdynError(
            f"column {name!r}: expected a name without dots, which Lance reads as nested columns"
        )
    if name not in table.schema.names:
        return
    made_by = (table.schema.field(name).metadata or {}).get(_MAP)
    if made_by is None:
        raise RepdynError(f"{file.path}: has a column {name!r} already, which is kept; give another name")
    which = "this map" if made_by == digest.encode() else "another map"
    raise RepdynError(
        f"{file.path}: the column {name!r} was translated already, by {which}. For rows that came after it: "
        f'table.drop_columns(["{name}"]), then run the command again'
    )
