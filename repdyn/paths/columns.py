"""Columns of representations: arrays in memory or in chunk files, with one interface for reading.

A column never copies the data that it is made of. A subset of it is the same column with an index.
:func:`gather` reads the same samples of several columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import NDArray

from repdyn.errors import RepdynError
from repdyn.repeats import groups_of_equal_rows
from repdyn.repeats_streamed import groups_in_blocks

__all__ = [
    "Fetching",
    "Index",
    "RowBlocks",
    "TokenColumn",
    "VectorColumn",
    "compose",
    "distinguishing_rows",
    "equal_rows",
    "gather",
    "take_rows",
]

Index = NDArray[np.int64]

_TOKEN_SAMPLES = 500  # read at a time
_HELD_BYTES = 2**28  # of a column (float64), held while its rows are compared; larger ones are read in blocks
_COMPARED_ROWS = 8192  # in such a block


class RowBlocks(Protocol):
    """Consecutive blocks of rows: a list of arrays, or chunk files that are opened on access."""

    def __getitem__(self, number: int, /) -> NDArray[Any]: ...
    def __len__(self) -> int: ...


@runtime_checkable
class Fetching(RowBlocks, Protocol):
    """Blocks with partial reads, for remote data, where reading a whole block is expensive."""

    def fetch(self, spans: Sequence[tuple[int, int, int]]) -> list[NDArray[Any]]:
        """Rows ``start`` to ``stop`` of blocks, one array for each ``(block, start, stop)``."""


class Column(NDArrayOperatorsMixin):
    """Arithmetic on columns reads them: ``paths["a"] - paths["b"]`` is an array."""

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        arrays = [np.asarray(given) if isinstance(given, Column) else given for given in inputs]
        return getattr(ufunc, method)(*arrays, **options)


@dataclass(frozen=True, eq=False)
class VectorColumn(Column):
    """One vector per sample, ``(N, D)``: entries ``low`` to ``high`` of packed rows.

    Attributes
    ----------
    blocks
        Arrays ``(block_rows, row width)``; the last may be shorter or padded.
    block_rows
        Rows in every block but the last; where blocks differ, the number of the first row of each, ``(B,)``.
    size
        Total number of rows.
    low, high
        First entry of this column in a packed row, and the one after its last.
    dtype
        Type of the entries.
    index
        Row numbers of this column, ``(N,)``; ``None`` for all in order.
    """

    blocks: RowBlocks
    block_rows: int | Index
    size: int
    low: int
    high: int
    dtype: np.dtype[Any]
    index: Index | None = None

    @classmethod
    def of(cls, array: NDArray[Any]) -> VectorColumn:
        """One array ``(N, D)`` in memory, as a column."""
        return cls([array], max(len(array), 1), len(array), 0, array.shape[1], array.dtype)

    @property
    def width(self) -> int:
        """Entries of one vector, D."""
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

    def subset(self, index: Index) -> VectorColumn:
        """The column of these rows."""
        return replace(self, index=compose(self.index, index))

    def __getitem__(self, key: Any) -> NDArray[Any]:
        return _getitem(self, key)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        # Arrays in memory are returned without a copy. Files are read into new memory: memory maps are
        # read-only, and PyTorch warns of read-only arrays.
        if (
            isinstance(self.blocks, list)
            and len(self.blocks) == 1
            and self.index is None
            and copy is not True
        ):
            values: NDArray[Any] = self.blocks[0][: self.size, self.low : self.high]
            if dtype is None or values.dtype == dtype:
                return values
        _refuse_no_copy(copy)
        values = self.take(np.arange(len(self)))
        return values if dtype is None else values.astype(dtype, copy=False)

    def take(self, index: Index) -> NDArray[Any]:
        """Read rows by number, ``(n,)``, as an array ``(n, D)``."""
        return take_rows(self, compose(self.index, index))

    def __repr__(self) -> str:
        return f"<{self.shape[0]} x {self.width} {self.dtype}, read when indexed>"


@dataclass(frozen=True, eq=False)
class TokenColumn(Column):
    """Several vectors per sample: stored without padding, padded to ``(N, T, D)`` when read.

    Attributes
    ----------
    blocks
        Flat token arrays ``(tokens of the block's samples, D)``.
    block_rows
        Samples in every block but the last.
    lengths
        Number of tokens of each sample, before ``index``.
    width
        Entries of one token, D.
    dtype
        Type of the entries.
    index
        Sample numbers of this column, ``(N,)``; ``None`` for all in order.
    """

    blocks: RowBlocks
    block_rows: int
    lengths: Index
    width: int
    dtype: np.dtype[Any]
    index: Index | None = None

    @classmethod
    def of(cls, array: NDArray[Any], mask: NDArray[np.bool_]) -> TokenColumn:
        """An array ``(N, T, D)`` and its mask ``(N, T)`` in memory, as a column."""
        lengths = mask.sum(axis=1).astype(np.int64)
        return cls([array[mask]], max(len(array), 1), lengths, array.shape[2], array.dtype)

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(N, T, D)`` with T the largest number of tokens of a sample."""
        return len(self), self._longest(), self.width

    @property
    def ndim(self) -> int:
        """3."""
        return 3

    def __len__(self) -> int:
        return len(self.lengths) if self.index is None else len(self.index)

    def subset(self, index: Index) -> TokenColumn:
        """The column of these samples."""
        return replace(self, index=compose(self.index, index))

    def shown_lengths(self) -> Index:
        """Number of tokens of each sample, ``(N,)``."""
        return self.lengths if self.index is None else self.lengths[self.index]

    def __getitem__(self, key: Any) -> NDArray[Any]:
        return _getitem(self, key)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        _refuse_no_copy(copy)
        values = self.take(np.arange(len(self)))
        return values if dtype is None else values.astype(dtype, copy=False)

    def take(self, index: Index, longest: int | None = None) -> NDArray[Any]:
        """Read samples by number, padded with zeros to ``(n, T, D)``."""
        padded = np.zeros(
            (len(index), self._longest() if longest is None else longest, self.width), self.dtype
        )
        for position, tokens in enumerate(self.ragged(index)):
            padded[position, : len(tokens)] = tokens
        return padded

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

    def flat(self) -> VectorColumn:
        """The real tokens of all samples in order, ``(tokens, D)``, without reading them."""
        ends = np.cumsum(self.lengths)
        starts = np.concatenate([[0], ends[self.block_rows - 1 : -1 : self.block_rows]])
        size = int(ends[-1]) if len(ends) else 0
        index = None
        if self.index is not None:
            own = self.lengths[self.index]
            first = ends[self.index] - own
            index = np.arange(own.sum()) + np.repeat(first - np.cumsum(own) + own, own)
        return VectorColumn(self.blocks, starts, size, 0, self.width, self.dtype, index)

    def _longest(self) -> int:
        lengths = self.shown_lengths()
        return int(lengths.max()) if len(lengths) else 0

    def __repr__(self) -> str:
        rows, tokens, width = self.shape
        return f"<{rows} x up to {tokens} tokens x {width} {self.dtype}, read when indexed>"


def distinguishing_rows(column: VectorColumn | TokenColumn) -> NDArray[Any]:
    """Rows ``(N, d)`` that differ for different samples: the vectors, or number and mean of the tokens."""
    if isinstance(column, VectorColumn):
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
    """Row numbers ``(n,)`` of the whole, for row numbers of a subset."""
    return index if outer is None else outer[index]


def _refuse_no_copy(copy: bool | None) -> None:
    """Raise for ``copy=False`` where values must be read or cast, as NumPy's protocol asks."""
    if copy is False:
        raise RepdynError(
            "copy: False is refused, because these values are read from blocks or cast to another type; "
            "leave it out, or use numpy.asarray"
        )


def _getitem(column: VectorColumn | TokenColumn, key: Any) -> NDArray[Any]:
    """NumPy indexing: the first axis selects the rows to read, the other axes index the result."""
    first, rest = (key[0], key[1:]) if isinstance(key, tuple) and key else (key, ())
    if first is Ellipsis or first is None:
        return np.asarray(np.asarray(column)[key])
    rows = np.arange(len(column))[first]
    if isinstance(rows, np.ndarray):
        values = column.take(rows.reshape(-1))
        values = values.reshape(rows.shape + values.shape[1:])
        return np.asarray(values[(slice(None), *rest)]) if rest else values
    values = column.take(np.array([rows]))[0]
    return np.asarray(values[rest]) if rest else values


def gather(columns: Mapping[str, VectorColumn | TokenColumn], index: Index) -> dict[str, NDArray[Any]]:
    """Read the same samples of several columns; neighboring columns of a packed row with one read.

    Parameters
    ----------
    columns
        Columns of the same samples.
    index
        Row numbers of the samples, ``(n,)``.

    Returns
    -------
    dict
        Arrays ``(n, D)``, or ``(n, T, D)`` with T the largest number of tokens of these samples.
    """
    groups: dict[int, list[str]] = {}
    arrays: dict[str, NDArray[Any]] = {}
    for name, column in columns.items():
        if isinstance(column, VectorColumn):
            groups.setdefault(id(column.blocks), []).append(name)
        else:
            lengths = column.shown_lengths()[index]
            arrays[name] = column.take(index, int(lengths.max()) if len(lengths) else 0)
    for names in groups.values():
        rows = {name: column for name in names if isinstance(column := columns[name], VectorColumn)}
        arrays.update(_take_packed(rows, index))
    return {name: arrays[name] for name in columns}


def take_rows(rows: VectorColumn, index: Index) -> NDArray[Any]:
    """Read rows of a column by number (ignoring its ``index``) into new memory, ``(n, D)``."""
    if isinstance(rows.blocks, Fetching):
        fetched = fetch_rows(rows.blocks, rows.block_rows, index)[:, rows.low : rows.high]
        return fetched.astype(rows.dtype, copy=False)
    if is_run(index):
        # Slices are faster than index arrays.
        values = np.empty((len(index), rows.width), rows.dtype)
        for number, part, target in _visits(rows, index):
            first = int(part[0])
            values[target] = rows.blocks[number][first : first + len(part), rows.low : rows.high]
        return values
    if len(rows.blocks) == 1:
        return _take_block(rows.blocks[0], index, rows.low, rows.high).astype(rows.dtype, copy=False)
    order = np.argsort(index, kind="stable")
    values = np.empty((len(index), rows.width), rows.dtype)
    values[order] = _take_sorted(rows, index[order])
    return values


def is_run(index: Index) -> bool:
    """Whether row numbers are consecutive, so that a slice reads them."""
    if len(index) == 0 or int(index[-1]) - int(index[0]) != len(index) - 1:
        return False
    return bool((np.diff(index) == 1).all())


def _take_packed(columns: Mapping[str, VectorColumn], index: Index) -> dict[str, NDArray[Any]]:
    """Read the same rows of columns that share their blocks."""
    first = next(iter(columns.values()))
    low, high = min(c.low for c in columns.values()), max(c.high for c in columns.values())
    span = replace(first, low=low, high=high)
    whole = compose(first.index, index)
    if isinstance(first.blocks, Fetching):
        packed = fetch_rows(first.blocks, first.block_rows, whole).astype(first.dtype, copy=False)
        return {name: packed[:, column.low : column.high] for name, column in columns.items()}
    # One read of the whole span is faster, unless most of it is unused or slices are possible.
    apart = len(columns) == 1 or 2 * sum(c.width for c in columns.values()) < high - low
    if apart or is_run(whole) or len(first.blocks) == 1:
        return {name: take_rows(column, whole) for name, column in columns.items()}
    order = np.argsort(whole, kind="stable")
    packed = _take_sorted(span, whole[order])
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    return {name: packed[back, c.low - low : c.high - low] for name, c in columns.items()}


def _take_sorted(rows: VectorColumn, index: Index) -> NDArray[Any]:
    """Read rows with ascending numbers: each block once, in the order of the disk."""
    values = np.empty((len(index), rows.width), rows.dtype)
    for number, part, target in _visits(rows, index):
        block = rows.blocks[number]
        if _whole(block, rows.low, rows.high) and block.dtype == values.dtype:
            # mode="clip" writes to the result without a buffer; all row numbers are in range.
            np.take(block, part, axis=0, out=values[target], mode="clip")
        else:
            values[target] = _take_block(block, part, rows.low, rows.high)
    return values


def _visits(rows: VectorColumn, index: Index) -> Iterator[tuple[int, Index, slice]]:
    """For ascending row numbers: each block's number, its rows to read, and their slice of the result."""
    numbers = _block_numbers(index, rows.block_rows)
    cuts = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(index)]
    for low, high in pairwise(cuts):
        if high > low:
            number = int(numbers[low])
            yield number, index[low:high] - _first_row(number, rows.block_rows), slice(low, high)


def _block_numbers(index: Index, block_rows: int | Index) -> Index:
    """Number of the block that holds each row."""
    if isinstance(block_rows, int):
        return index // block_rows
    return np.searchsorted(block_rows, index, side="right").astype(np.int64) - 1


def _first_row(number: int, block_rows: int | Index) -> int:
    """Number of the first row of a block."""
    return number * block_rows if isinstance(block_rows, int) else int(block_rows[number])


def _take_block(block: NDArray[Any], index: Index, low: int, high: int) -> NDArray[Any]:
    """Rows and entries of one block, ``(n, high - low)``."""
    # np.take is faster, but copies an array that is not contiguous as a whole first.
    if _whole(block, low, high):
        return np.asarray(np.take(block, index, axis=0))
    return np.asarray(block[index, low:high])


def _whole(block: NDArray[Any], low: int, high: int) -> bool:
    """Whether the entries are whole rows of a contiguous block."""
    return high - low == block.shape[1] and block.flags.c_contiguous


def fetch_rows(chunks: Fetching, chunk_rows: int | Index, index: Index) -> NDArray[Any]:
    """Fetch rows by number, in any order, as ``(n, row width)``; consecutive rows with one request."""
    if len(index) == 0:
        return chunks.fetch([(0, 0, 0)])[0]
    numbers, back = np.unique(index, return_inverse=True)
    homes = _block_numbers(numbers, chunk_rows)
    breaks = (np.diff(numbers) != 1) | (np.diff(homes) != 0)
    cuts = [0, *(np.flatnonzero(breaks) + 1).tolist(), len(numbers)]
    spans = []
    for low, high in pairwise(cuts):
        chunk = int(homes[low])
        start = int(numbers[low]) - _first_row(chunk, chunk_rows)
        spans.append((chunk, start, start + high - low))
    return np.asarray(np.concatenate(chunks.fetch(spans))[back])


def equal_rows(column: VectorColumn | TokenColumn) -> NDArray[np.int64]:
    """Group of each sample, ``(N,)``; equal samples share a group.

    Samples with tokens are compared by number and mean of their tokens.
    """
    size = len(column)
    if size * column.width * 8 <= _HELD_BYTES:
        return groups_of_equal_rows(distinguishing_rows(column))

    def blocks() -> Iterator[dict[str, NDArray[Any]]]:
        for start in range(0, size, _COMPARED_ROWS):
            yield {
                "": distinguishing_rows(column.subset(np.arange(start, min(start + _COMPARED_ROWS, size))))
            }

    def rows(_: str, index: Index) -> NDArray[Any]:
        return distinguishing_rows(column.subset(index))

    return groups_in_blocks(blocks, rows, size)[""]
