"""Columns of representations: arrays that may be in memory or in chunk files, read the same way.

A column never copies what it was made from; a subset of it is the same column with an index.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import NDArray

__all__ = ["Blocks", "Fetching", "Index", "Rows", "Tokens", "compose", "told_apart_by"]

Index = NDArray[np.int64]

_TOKEN_SAMPLES = 500  # read at a time


class Blocks(Protocol):
    """Consecutive blocks of rows: a list of arrays, or chunk files that open when asked for."""

    def __getitem__(self, number: int, /) -> NDArray[Any]: ...
    def __len__(self) -> int: ...


@runtime_checkable
class Fetching(Blocks, Protocol):
    """Blocks of which parts are fetched, because to have a whole one is expensive."""

    def fetch(self, spans: Sequence[tuple[int, int, int]]) -> list[NDArray[Any]]: ...


class Column(NDArrayOperatorsMixin):
    """What calculates as the array that it reads: ``paths["a"] - paths["b"]`` is an array."""

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        arrays = [np.asarray(given) if isinstance(given, Column) else given for given in inputs]
        return getattr(ufunc, method)(*arrays, **options)


@dataclass(frozen=True, eq=False)
class Rows(Column):
    """One vector per sample, shape ``(N, D)``: columns ``low`` to ``high`` of packed blocks of rows.

    Attributes
    ----------
    blocks
        Arrays ``(block_rows, width)``; the last may be shorter or padded.
    block_rows
        Rows in every block but the last.
    size
        Rows in all.
    low, high
        This column's place in a packed row.
    dtype
        Of the entries.
    index
        The rows that this column shows, ``None`` for all in order.
    """

    blocks: Blocks
    block_rows: int
    size: int
    low: int
    high: int
    dtype: np.dtype[Any]
    index: Index | None = None

    @classmethod
    def of(cls, array: NDArray[Any]) -> Rows:
        """One array ``(N, D)`` in memory, as a column."""
        return cls([array], max(len(array), 1), len(array), 0, array.shape[1], array.dtype)

    @property
    def width(self) -> int:
        """Entries in one vector, D."""
        return self.high - self.low

    @property
    def shape(self) -> tuple[int, int]:
        """``(N, D)``."""
        return len(self), self.width

    @property
    def ndim(self) -> int:
        """2."""
        return 2

    def __len__(self) -> int:
        return self.size if self.index is None else len(self.index)

    def subset(self, index: Index) -> Rows:
        """The same column, showing these of its rows."""
        return replace(self, index=compose(self.index, index))

    def __getitem__(self, key: Any) -> NDArray[Any]:
        return _getitem(self, key)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        # Arrays in memory are handed out as they are. Files are read into new memory, because pages of a
        # file cannot be written to and PyTorch warns of such arrays.
        if isinstance(self.blocks, list) and self.index is None and copy is not True:
            found: NDArray[Any] = self.blocks[0]
        else:
            found = self.take(np.arange(len(self)))
        return found if dtype is None else found.astype(dtype, copy=False)

    def take(self, index: Index) -> NDArray[Any]:
        """Read rows by number, shape ``(n, D)``."""
        from repdyn.paths.gathering import take_rows  # which reads these columns, and so comes after them

        return take_rows(self, compose(self.index, index))

    def __repr__(self) -> str:
        return f"<{self.shape[0]} x {self.width} {self.dtype}, read when indexed>"


@dataclass(frozen=True, eq=False)
class Tokens(Column):
    """Several vectors per sample, padded when read to ``(N, T, D)``; kept without padding.

    Attributes
    ----------
    blocks
        Flat token arrays ``(tokens of the block's samples, D)``.
    block_rows
        Samples in every block but the last.
    lengths
        Tokens of each sample, ``(samples in all,)``.
    width
        Entries in one token, D.
    dtype
        Of the entries.
    index
        The samples that this column shows, ``None`` for all in order.
    """

    blocks: Blocks
    block_rows: int
    lengths: Index
    width: int
    dtype: np.dtype[Any]
    index: Index | None = None

    @classmethod
    def of(cls, array: NDArray[Any], mask: NDArray[np.bool_]) -> Tokens:
        """An array ``(N, T, D)`` and its mask ``(N, T)`` in memory, as a column."""
        lengths = mask.sum(axis=1).astype(np.int64)
        return cls([array[mask]], max(len(array), 1), lengths, array.shape[2], array.dtype)

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(N, T, D)`` with T the most tokens that a sample of this column has."""
        return len(self), self._longest(), self.width

    @property
    def ndim(self) -> int:
        """3."""
        return 3

    def __len__(self) -> int:
        return len(self.lengths) if self.index is None else len(self.index)

    def subset(self, index: Index) -> Tokens:
        """The same column, showing these of its samples."""
        return replace(self, index=compose(self.index, index))

    def shown_lengths(self) -> Index:
        """Tokens of each sample that this column shows, ``(N,)``."""
        return self.lengths if self.index is None else self.lengths[self.index]

    def __getitem__(self, key: Any) -> NDArray[Any]:
        return _getitem(self, key)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        found = self.take(np.arange(len(self)))
        return found if dtype is None else found.astype(dtype, copy=False)

    def take(self, index: Index, longest: int | None = None) -> NDArray[Any]:
        """Read samples by number, padded with zeros to ``(n, T, D)``."""
        found = np.zeros(
            (len(index), self._longest() if longest is None else longest, self.width), self.dtype
        )
        for position, tokens in enumerate(self.ragged(index)):
            found[position, : len(tokens)] = tokens
        return found

    def ragged(self, index: Index) -> list[NDArray[Any]]:
        """Read samples by number, each ``(its tokens, D)``."""
        samples = compose(self.index, index)
        spans = []
        starts: dict[int, Index] = {}
        for sample in samples.tolist():
            number, row = divmod(sample, self.block_rows)
            if number not in starts:
                own = self.lengths[number * self.block_rows : (number + 1) * self.block_rows]
                starts[number] = np.concatenate([[0], np.cumsum(own)])
            low, high = starts[number][row : row + 2].tolist()
            spans.append((number, low, high))
        if isinstance(self.blocks, Fetching):
            return self.blocks.fetch(spans)
        return [self.blocks[number][low:high] for number, low, high in spans]

    def _longest(self) -> int:
        lengths = self.shown_lengths()
        return int(lengths.max()) if len(lengths) else 0

    def __repr__(self) -> str:
        rows, tokens, width = self.shape
        return f"<{rows} x up to {tokens} tokens x {width} {self.dtype}, read when indexed>"


def told_apart_by(column: Rows | Tokens) -> NDArray[Any]:
    """One row for each sample that tells different samples apart: of tokens, their number and their mean."""
    if isinstance(column, Rows):
        return np.asarray(column)
    lengths = column.shown_lengths()
    rows = np.zeros((len(column), 1 + column.shape[2]))
    for start in range(0, len(column), _TOKEN_SAMPLES):
        index = np.arange(start, min(start + _TOKEN_SAMPLES, len(column)))
        for number, tokens in zip(index, column.ragged(index)):
            rows[number, 0] = lengths[number]
            if len(tokens):
                rows[number, 1:] = tokens.mean(axis=0, dtype=np.float64)
    return rows


def compose(outer: Index | None, index: Index) -> Index:
    """Numbers in the whole of the numbers in a subset."""
    return index if outer is None else outer[index]


def _getitem(column: Rows | Tokens, key: Any) -> NDArray[Any]:
    """Read as NumPy would: the first axis chooses what is read, the rest is applied to that."""
    first, rest = (key[0], key[1:]) if isinstance(key, tuple) and key else (key, ())
    if first is Ellipsis or first is None:
        return np.asarray(np.asarray(column)[key])
    rows = np.arange(len(column))[first]
    if isinstance(rows, np.ndarray):
        found = column.take(rows.reshape(-1))
        found = found.reshape(rows.shape + found.shape[1:])
        return np.asarray(found[(slice(None), *rest)]) if rest else found
    found = column.take(np.array([rows]))[0]
    return np.asarray(found[rest]) if rest else found
