"""Reading paths from the first sample to the last: every packed row once, for all points together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repdyn.errors import RepdynError
from repdyn.paths.columns import Rows, Tokens
from repdyn.paths.gathering import gather

__all__ = ["Block", "Blocks", "default_rows"]

_ROWS = 2048  # in a block by default: of 13 points by 768 in float32 they take 80 MB …
_BYTES = 2**27  # … and of wider paths fewer, so that a block takes no more than this


class Block(dict[str, NDArray[Any]]):
    """Consecutive samples, ``{point: (n, D)}``, or ``(n, T, D)`` where tokens are kept.

    Attributes
    ----------
    rows
        Numbers of the samples in the paths that they were read from.
    masks
        For points kept with tokens, which are real: ``{point: (n, T) bool}``.
    """

    def __init__(
        self, arrays: Mapping[str, NDArray[Any]], rows: range, masks: Mapping[str, NDArray[np.bool_]]
    ) -> None:
        super().__init__(arrays)
        self.rows = rows
        self.masks = dict(masks)


class Blocks(Iterator[Block]):
    """Consecutive blocks of columns, in order; ``len`` is their number. See ``RepresentationPaths.iterate``.

    Parameters
    ----------
    columns
        What is read.
    size
        Samples in all.
    rows
        Samples in a block, or ``None`` for what takes some 100 MB.
    remote
        Whether reading is slow: then the next block is fetched while one is used.
    """

    def __init__(
        self, columns: Mapping[str, Rows | Tokens], size: int, rows: int | None, remote: bool
    ) -> None:
        rows = default_rows(columns) if rows is None else rows
        if rows < 1:
            raise RepdynError(f"size: {rows} is not a number of samples; expected 1 or more")
        self._ranges = [range(start, min(start + rows, size)) for start in range(0, size, rows)]
        self._found = (_ahead if remote else _in_turn)(columns, self._ranges)

    def __len__(self) -> int:
        return len(self._ranges)

    def __next__(self) -> Block:
        return next(self._found)


def default_rows(columns: Mapping[str, Rows | Tokens]) -> int:
    """Samples in a block of columns: 2048, fewer where these would take more than 128 MiB in float32."""
    width = 0
    for column in columns.values():
        tokens = 1 if isinstance(column, Rows) else max(1, column.shape[1])
        width += column.width * tokens
    return max(1, min(_ROWS, _BYTES // (4 * max(width, 1))))


def _in_turn(columns: Mapping[str, Rows | Tokens], ranges: Sequence[range]) -> Iterator[Block]:
    for rows in ranges:
        yield _block(columns, rows)


def _ahead(columns: Mapping[str, Rows | Tokens], ranges: Sequence[range]) -> Iterator[Block]:
    with ThreadPoolExecutor(1, thread_name_prefix="repdyn-fetch") as pool:
        ahead = pool.submit(_block, columns, ranges[0])
        for following in ranges[1:]:
            found = ahead.result()
            ahead = pool.submit(_block, columns, following)
            yield found
        yield ahead.result()


def _block(columns: Mapping[str, Rows | Tokens], rows: range) -> Block:
    index = np.arange(rows.start, rows.stop)
    masks = {}
    for name, column in columns.items():
        if isinstance(column, Tokens):
            lengths = column.shown_lengths()[index]
            masks[name] = np.arange(int(lengths.max(initial=0))) < lengths[:, None]
    return Block(gather(columns, index), rows, masks)
