"""Translation of stored vectors, block by block: flat memory, resumable, and never over the old vectors."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repdyn.errors import NotFiniteError, RepdynError, nearest_names
from repdyn.paths.arrow import LANCE, TABLES, Table, arrow, matrix_of, open_table, vector_columns
from repdyn.paths.importing import FileOfVectors, file_of_vectors, load_npy
from repdyn.progress import track
from repdyn.writing import hold, whole_file

__all__ = ["ROWS", "Blocks", "Map", "migrate_column", "one_column"]

ROWS = 16_384
"""Vectors of a block: 25 MB of width 384 in float32."""
_DONE = "block-{:06d}.npy"

Map = Callable[[NDArray[Any]], NDArray[np.float32]]


def migrate_column(
    apply: Map, source: str | os.PathLike[str], out: Path, into: str | None = None, force: bool = False
) -> int:
    """Write a file with translated vectors; see :meth:`repdyn.migration.Migration.apply`.

    Finished blocks are kept in the folder ``.OUT.migrating`` beside the output until all are done. The next
    run with the same map and source continues there.
    """
    file = file_of_vectors(source)
    endings = [".npy", *(ending for ending in TABLES if ending != LANCE)]
    if file is None or file.ending not in endings:
        raise RepdynError(f"{os.fspath(source)}: expected a file of vectors, {', '.join(endings)}")
    if not file.path.is_file():
        raise RepdynError(f"{file.path}: there is no such file")
    if out.suffix.lower() != file.ending:
        raise RepdynError(f"{out}: must end in {file.ending}, as {file.path} does")
    # Not even force replaces the source: a wrong map could not be undone.
    if out.exists() and (not force or out.samefile(file.path)):
        raise RepdynError(f"{out}: exists; migrated vectors never replace others, give another path")
    if file.ending == ".npy":
        return _of_matrix(apply, file, out, into)
    return _of_table(apply, file, out, into)


def _of_matrix(apply: Map, file: FileOfVectors, out: Path, into: str | None) -> int:
    if file.columns or into is not None:
        raise RepdynError(f"{file.path}: a .npy file has no columns; leave {file.columns or into!r} out")
    vectors = load_npy(file.path)
    if vectors.ndim != 2 or vectors.dtype.kind != "f" or 0 in vectors.shape:
        raise RepdynError(
            f"{file.path}: expected floats (N, D), got {vectors.dtype} of shape {vectors.shape}"
        )
    starts = range(0, len(vectors), ROWS)

    def blocks() -> Iterator[Callable[[], NDArray[Any]]]:
        for start in starts:
            yield partial(_rows, vectors, start)

    with Blocks(apply, file, out, into, vectors) as done:
        done.run(blocks(), len(starts), len(vectors))
        with whole_file(out) as scratch:
            made: Any = None
            for start, block in zip(starts, done.read()):
                if made is None:  # the first block tells the width of the translated vectors
                    shape = (len(vectors), block.shape[1])
                    made = np.lib.format.open_memmap(scratch, mode="w+", dtype=vectors.dtype, shape=shape)
                made[start : start + ROWS] = block
            made.flush()
            del made
    return len(vectors)


def _rows(vectors: NDArray[Any], start: int) -> NDArray[Any]:
    return np.asarray(vectors[start : start + ROWS])


def _of_table(apply: Map, file: FileOfVectors, out: Path, into: str | None) -> int:
    pa = arrow(str(file.path))
    with open_table(file.path) as table:
        column = one_column(table, file)
        name = into or f"{column}_migrated"
        if name in table.schema.names:
            raise RepdynError(f"{file.path}: has a column {name!r} already, which is kept; give another name")
        if table.size == 0:
            raise RepdynError(f"{file.path}: has no rows")
        kind = table.schema.field(column).type.value_type

        def blocks() -> Iterator[Callable[[], NDArray[Any]]]:
            start = 0
            for batch in table.batches([column], ROWS):
                yield partial(matrix_of, batch.column(0), column, str(file.path), start)
                start += batch.num_rows

        first = matrix_of(next(table.batches([column], 1)).column(0), column, str(file.path))
        with Blocks(apply, file, out, name, first) as done:
            done.run(blocks(), -(-table.size // ROWS), table.size)
            with whole_file(out) as scratch:
                writer: Any = None
                try:
                    for batch, block in zip(table.batches(table.schema.names, ROWS), done.read()):
                        if len(block) != batch.num_rows:
                            raise RepdynError(
                                f"{file.path}: changed while it was migrated; run the command again"
                            )
                        values = pa.array(block.ravel()).cast(kind)
                        vectors = pa.FixedSizeListArray.from_arrays(values, block.shape[1])
                        field = pa.field(name, vectors.type)
                        full = pa.Table.from_batches([batch]).append_column(field, vectors)
                        # The width, and so the schema, is known from the first block.
                        writer = writer or _writer(scratch, out, full.schema, (column, name))
                        writer.write_table(full)
                finally:
                    if writer is not None:
                        writer.close()
        return table.size


def one_column(table: Table, file: FileOfVectors) -> str:
    """Name of the column of vectors: the given one, or the only one."""
    known = vector_columns(table.schema)
    chosen = file.chosen(table.schema.names) or known
    if len(chosen) != 1:
        raise RepdynError(
            f"{file.path}: expected one column of vectors, found {known or 'none'}; name one as "
            f"{file.path.name}#COLUMN"
        )
    if chosen[0] not in known:
        raise RepdynError(f"{file.path}: {chosen[0]!r} holds no vectors; {nearest_names(chosen[0], known)}")
    return chosen[0]


def _writer(scratch: Path, out: Path, schema: Any, vectors: tuple[str, str]) -> Any:
    """A writer of the format that the name of the output says."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if out.suffix.lower() == ".parquet":
        # Vectors hold no repeated values: a dictionary of them takes time and saves nothing.
        others = [name for name in schema.names if name not in vectors]
        return pq.ParquetWriter(scratch, schema, use_dictionary=others or False)
    return pa.ipc.new_file(str(scratch), schema)


class Blocks:
    """Translated blocks on disk, kept until the output is there.

    Parameters
    ----------
    apply
        The map.
    file
        The stored vectors.
    out
        The output; the blocks lie beside it.
    into
        Name of the new column.
    like
        Vectors ``(N, D)`` of the width and the type of the stored ones.
    """

    def __init__(
        self, apply: Map, file: FileOfVectors, out: Path, into: str | None, like: NDArray[Any]
    ) -> None:
        self._apply, self._name = apply, str(file.path)
        self._folder = out.with_name(f".{out.name}.migrating")
        # Not of the vectors of the file: of zeros, all maps with one offset make the same.
        drawn = np.random.default_rng(0).normal(size=(4, *like.shape[1:])).astype(like.dtype)
        # What the map makes of random vectors: another map does not continue its blocks.
        probe = hashlib.sha256(np.ascontiguousarray(apply(drawn)).tobytes()).hexdigest()
        # The content of the file is compared block by block, when each is reached.
        same = [str(file.path.resolve()), file.columns, into, ROWS, probe]
        self._signature = hashlib.sha256(json.dumps(same).encode()).hexdigest()
        self._held: int | None = None
        self._count = 0

    def __enter__(self) -> Blocks:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._held = hold(self._folder, wait=False)
        probe = hold(self._folder.parent, wait=False) if self._held is None else None
        if probe is not None:  # the file system has locks, so that another process holds the folder
            os.close(probe)
            raise RepdynError(f"{self._folder}: another migration is writing here; wait until it ends")
        journal = self._folder / "migration.json"
        if not journal.is_file() or journal.read_text() != self._signature:
            for stale in self._folder.glob("block-*"):
                stale.unlink()
            with whole_file(journal) as scratch:
                scratch.write_text(self._signature)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._held is not None:
            os.close(self._held)
        if kind is None:  # after an error the blocks stay, and the next run continues with them
            shutil.rmtree(self._folder, ignore_errors=True)

    def run(self, blocks: Iterator[Callable[[], NDArray[Any]]], count: int, size: int) -> None:
        """Translate the blocks that are not there yet."""
        done = 0
        for number, read in enumerate(track(blocks, "translating", total=count)):
            self._count = number + 1
            target = self._folder / _DONE.format(number)
            vectors = read()
            source = hashlib.sha256(np.ascontiguousarray(vectors).tobytes()).hexdigest()
            digest = target.with_suffix(".sha256")
            if target.is_file() and digest.is_file() and digest.read_text() == source:
                done += len(vectors)
                continue
            good = np.isfinite(vectors).all(axis=1)
            if not good.all():
                row = done + int(np.flatnonzero(~good)[0])
                raise NotFiniteError(f"{self._name}: vector {row} is not finite; remove or replace it")
            target.unlink(missing_ok=True)  # before its digest is replaced
            with whole_file(digest) as scratch:
                scratch.write_text(source)
            with whole_file(target) as scratch, scratch.open("wb") as file:
                np.save(file, self._apply(vectors))
            done += len(vectors)
        if done != size:
            raise RepdynError(
                f"{self._name}: has {size} rows, {done} were read; it changed, run the command again"
            )

    def read(self) -> Iterator[NDArray[np.float32]]:
        """The translated blocks in order."""
        for number in range(self._count):
            yield np.load(self._folder / _DONE.format(number), mmap_mode="r", allow_pickle=False)
