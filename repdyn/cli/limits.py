"""How much a small file may unpack to: what was made to fill the memory is refused before it does."""

from __future__ import annotations

import gzip
import io
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

from repdyn.errors import RepdynError

__all__ = ["MOST_PIXELS", "check_archive", "check_pixels", "open_gzip", "read_parquet"]

MOST_PIXELS = 2**27
"""Of one picture: 134 megapixels take 400 MB as RGB."""
MOST_BYTES = 2**28
"""What a file may unpack to at any rate; above this, no more than :data:`MOST_TIMES` its own size."""
MOST_TIMES = 100
"""Real data are compressed ten times, rarely thirty; deflate can reach a thousand with nothing but zeros."""


def check_pixels(width: int, height: int) -> None:
    """Refuse a picture of too many pixels, before it is decoded."""
    if width * height > MOST_PIXELS:
        raise ValueError(
            f"it has {width} x {height} pixels, more than {MOST_PIXELS / 1e6:.0f} million; make it smaller"
        )


def check_archive(path: Path, file: BinaryIO, names: list[str]) -> None:
    """Refuse an npz archive whose arrays would unpack to far more than they take.

    Parameters
    ----------
    path
        How the archive is called.
    file
        The archive, opened; its position is as before afterwards.
    names
        Of the arrays that will be read.
    """
    position = file.tell()
    with zipfile.ZipFile(file) as archive:
        for name in names:
            try:
                member = archive.getinfo(f"{name}.npy")
            except KeyError:
                continue  # the reader says which array is missing
            if member.file_size > _most(member.compress_size):
                raise _bomb(f"{path}: {name!r}", member.file_size, member.compress_size)
    file.seek(position)


def open_gzip(path: Path, mode: str, **options: Any) -> io.TextIOWrapper:
    """A gzip file as text, which refuses to unpack to far more than it takes."""
    return io.TextIOWrapper(io.BufferedReader(_Bounded(path)), **options)


def read_parquet(path: Path, columns: list[str]) -> list[list[Any]]:
    """Columns of a Parquet file as lists, which refuses to unpack to far more than it takes.

    Parameters
    ----------
    path
        The file.
    columns
        Their names, which it has.
    """
    from pyarrow import parquet

    packed = path.stat().st_size
    found: list[list[Any]] = [[] for _ in columns]
    unpacked = 0
    # What repeats is kept once in the file: it is counted before it is written out row by row.
    with parquet.ParquetFile(path, read_dictionary=columns) as file:
        groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
        unpacked = sum(
            group.column(place).total_uncompressed_size
            for group in groups
            for place in range(group.num_columns)
            if group.column(place).path_in_schema.partition(".")[0] in columns
        )
        if unpacked > _most(packed):
            raise _bomb(str(path), unpacked, packed)
        for batch in file.iter_batches(columns=columns):
            unpacked += sum(_size(batch.column(column)) for column in columns)
            if unpacked > _most(packed):
                raise _bomb(str(path), unpacked, packed)
            for values, column in zip(found, columns, strict=True):
                values.extend(batch.column(column).to_pylist())
    return found


def _size(array: Any) -> int:
    """Bytes of an array of Arrow once each of its values stands for itself, with a pointer to each."""
    import pyarrow
    from pyarrow import compute

    if not isinstance(array, pyarrow.DictionaryArray):
        return int(array.nbytes) + 8 * len(array)
    lengths = compute.binary_length(array.dictionary).cast("int64")
    total = compute.sum(lengths.take(array.indices)).as_py() or 0
    return int(total) + 8 * len(array)


class _Bounded(io.RawIOBase):
    def __init__(self, path: Path) -> None:
        self._path, self._packed, self._read = path, path.stat().st_size, 0
        self._file = gzip.GzipFile(path)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        count = self._file.readinto(buffer)
        self._read += count
        if self._read > _most(self._packed):
            raise _bomb(str(self._path), self._read, self._packed)
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def _most(packed: int) -> int:
    return max(MOST_BYTES, MOST_TIMES * packed)


def _bomb(what: str, unpacked: int, packed: int) -> RepdynError:
    return RepdynError(
        f"{what}: {packed / 2**20:.1f} MiB unpack to more than {min(unpacked, 2**60) / 2**20:.0f} MiB; if "
        "the data are meant to be so, unpack them first"
    )
