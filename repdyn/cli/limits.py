"""How much a small file may unpack to: what was made to fill the memory is refused before it does."""

from __future__ import annotations

import gzip
import io
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

from repdyn.errors import RepdynError

__all__ = ["MOST_PIXELS", "check_archive", "check_pixels", "open_gzip"]

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
