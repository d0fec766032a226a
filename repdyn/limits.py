"""Limits on decompressed sizes, so that a decompression bomb is refused before it fills the memory."""

from __future__ import annotations

import gzip
import io
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

from repdyn.errors import RepdynError

__all__ = ["MOST_PIXELS", "check_archive", "check_pixels", "check_unpacked", "open_gzip", "read_parquet"]

MOST_PIXELS = 2**27
"""Maximum pixels of one picture: 134 megapixels take 400 MB as RGB."""
MOST_BYTES = 2**28
"""Decompressed bytes that are always allowed; above, at most :data:`MOST_TIMES` the file's size."""
MOST_TIMES = 100
"""Maximum compression ratio. Real data reach 10, rarely 30; deflate reaches 1000 on zeros."""


def check_pixels(width: int, height: int) -> None:
    """Raise if a picture has too many pixels, before it is decoded."""
    if width * height > MOST_PIXELS:
        raise ValueError(
            f"it has {width} x {height} pixels, more than {MOST_PIXELS / 1e6:.0f} million; make it smaller"
        )


def check_archive(path: Path, file: BinaryIO, names: list[str]) -> None:
    """Raise if arrays of an npz archive exceed the limit on decompressed size.

    Parameters
    ----------
    path
        Path of the archive, for the error message.
    file
        The open archive; its position is restored.
    names
        Names of the arrays that will be read.
    """
    position = file.tell()
    with zipfile.ZipFile(file) as archive:
        for name in names:
            try:
                member = archive.getinfo(f"{name}.npy")
            except KeyError:
                continue  # the reader reports the missing array
            check_unpacked(f"{path}: {name!r}", member.file_size, member.compress_size)
    file.seek(position)


def check_unpacked(what: str, unpacked: int, packed: int) -> None:
    """Raise if ``packed`` bytes on disk take more memory than the limit; ``what`` names them in the error."""
    if unpacked > _most(packed):
        raise _bomb(what, unpacked, packed)


def open_gzip(path: Path, mode: str, **options: Any) -> io.TextIOWrapper:
    """Open a gzip file as text; reading raises beyond the limit on decompressed size."""
    return io.TextIOWrapper(io.BufferedReader(_Bounded(path)), **options)


def read_parquet(path: Path, columns: list[str]) -> list[list[Any]]:
    """Columns of a Parquet file as lists; raises beyond the limit on decompressed size.

    Parameters
    ----------
    path
        The file.
    columns
        Names of columns of the file.
    """
    from pyarrow import parquet

    packed = path.stat().st_size
    values: list[list[Any]] = [[] for _ in columns]
    unpacked = 0
    # Dictionary-encoded values are counted before they are repeated row by row.
    with parquet.ParquetFile(path, read_dictionary=columns) as file:
        groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
        unpacked = sum(
            group.column(place).total_uncompressed_size
            for group in groups
            for place in range(group.num_columns)
            if group.column(place).path_in_schema.partition(".")[0] in columns
        )
        check_unpacked(str(path), unpacked, packed)
        for batch in file.iter_batches(columns=columns):
            unpacked += sum(_size(batch.column(column)) for column in columns)
            check_unpacked(str(path), unpacked, packed)
            for column_values, column in zip(values, columns, strict=True):
                column_values.extend(batch.column(column).to_pylist())
    return values


def _size(array: Any) -> int:
    """Bytes of an Arrow array after dictionary decoding, plus eight bytes of pointer per value."""
    import pyarrow
    from pyarrow import compute

    if not isinstance(array, pyarrow.DictionaryArray):
        return int(array.nbytes) + 8 * len(array)
    lengths = compute.binary_length(array.dictionary).cast("int64")
    total = compute.sum(lengths.take(array.indices)).as_py() or 0
    return int(total) + 8 * len(array)


class _Bounded(io.RawIOBase):
    """A decompressing stream that raises once it has given more bytes than the limit."""

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
    """Maximum decompressed bytes of a file of ``packed`` bytes."""
    return max(MOST_BYTES, MOST_TIMES * packed)


def _bomb(what: str, unpacked: int, packed: int) -> RepdynError:
    return RepdynError(
        f"{what}: {packed / 2**20:.1f} MiB unpack to more than {min(unpacked, 2**60) / 2**20:.0f} MiB; if "
        "this is intended, decompress the file first"
    )
