"""Chunks that are not on this machine: read by ranges of rows, neighbours together, many at once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repdyn.errors import RepdynError
from repdyn.paths.columns import Fetching, Index
from repdyn.paths.places import Remote

__all__ = ["RemoteChunks", "fetch_rows"]

# Reading on over this much that nobody asked for takes no longer than asking anew (some ms at some 50 MB/s).
_GAP_BYTES = 2**18
# Longer stretches are read as several, at the same time.
_STRETCH_BYTES = 2**23


class RemoteChunks:
    """The chunk objects of one array, of which rows are fetched.

    Parameters
    ----------
    place
        The store.
    pattern
        Name of a chunk's object, with ``{}`` for its number.
    rows
        Rows in each chunk.
    width, dtype
        Of a row.
    """

    def __init__(
        self, place: Remote, pattern: str, rows: Sequence[int], width: int, dtype: np.dtype[Any]
    ) -> None:
        self._place = place
        self._pattern = pattern
        self._rows = list(rows)
        self._width = width
        self._dtype = dtype.newbyteorder("<")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int, /) -> NDArray[Any]:
        return self.fetch([(number, 0, self._rows[number])])[0]

    def fetch(self, spans: Sequence[tuple[int, int, int]]) -> list[NDArray[Any]]:
        """Rows from start to stop of chunks, ``(chunk, start, stop)`` each, as arrays ``(rows, D)``."""
        row_bytes = self._width * self._dtype.itemsize
        gap, longest = _GAP_BYTES // row_bytes, max(_STRETCH_BYTES // row_bytes, 1)
        order = sorted((k for k in range(len(spans)) if spans[k][2] > spans[k][1]), key=spans.__getitem__)
        stretches: list[tuple[int, int, int]] = []
        home: dict[int, int] = {}
        for k in order:
            number, start, stop = spans[k]
            last = stretches[-1] if stretches else (-1, 0, 0)
            if last[0] == number and start <= last[2] + gap and stop - last[1] <= longest:
                stretches[-1] = (number, last[1], max(last[2], stop))
            else:
                stretches.append((number, start, stop))
            home[k] = len(stretches) - 1
        read = self._read(stretches, row_bytes) if stretches else []
        found = []
        for k, (_, start, stop) in enumerate(spans):
            if k in home:
                first = stretches[home[k]][1]
                found.append(read[home[k]][start - first : stop - first])
            else:
                found.append(np.zeros((0, self._width), self._dtype))
        return found

    def _read(self, stretches: list[tuple[int, int, int]], row_bytes: int) -> list[NDArray[Any]]:
        names = [self._pattern.format(number) for number, _, _ in stretches]
        ranges = [(n, start * row_bytes, stop * row_bytes) for n, (_, start, stop) in zip(names, stretches)]
        try:
            parts = self._place.fetch(ranges)
        except FileNotFoundError as error:
            raise RepdynError(f"{error}: is missing since the store was finished") from None
        for name, (_, start, stop), part in zip(names, stretches, parts):
            if len(part) != (stop - start) * row_bytes:
                raise RepdynError(f"{self._place}/{name}: is truncated since the store was finished")
        return [np.frombuffer(part, self._dtype).reshape(-1, self._width) for part in parts]


def fetch_rows(chunks: Fetching, chunk_rows: int, index: Index) -> NDArray[Any]:
    """Rows by number, ``(n, D)``, in any order."""
    if len(index) == 0:
        return chunks.fetch([(0, 0, 0)])[0]
    numbers, back = np.unique(index, return_inverse=True)
    breaks = (np.diff(numbers) != 1) | (np.diff(numbers // chunk_rows) != 0)
    cuts = [0, *(np.flatnonzero(breaks) + 1).tolist(), len(numbers)]
    spans = []
    for low, high in pairwise(cuts):
        chunk, start = divmod(int(numbers[low]), chunk_rows)
        spans.append((chunk, start, start + high - low))
    return np.asarray(np.concatenate(chunks.fetch(spans))[back])
