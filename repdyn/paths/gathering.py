"""Reading the same samples of several columns: packed neighbours together, in the order of the disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repdyn.paths.columns import Fetching, Index, Rows, Tokens, compose
from repdyn.paths.remote import fetch_rows

__all__ = ["gather", "take_rows"]


def gather(columns: Mapping[str, Rows | Tokens], index: Index) -> dict[str, NDArray[Any]]:
    """Read the same samples of several columns, packed neighbours with one read.

    Parameters
    ----------
    columns
        Columns of one set of samples.
    index
        Numbers of the samples, ``(n,)``.

    Returns
    -------
    dict
        Arrays ``(n, D)``, or ``(n, T, D)`` with T the longest of these samples.
    """
    groups: dict[int, list[str]] = {}
    found: dict[str, NDArray[Any]] = {}
    for name, column in columns.items():
        if isinstance(column, Rows):
            groups.setdefault(id(column.blocks), []).append(name)
        else:
            lengths = column.shown_lengths()[index]
            found[name] = column.take(index, int(lengths.max()) if len(lengths) else 0)
    for names in groups.values():
        rows = {name: column for name in names if isinstance(column := columns[name], Rows)}
        found.update(_take_packed(rows, index))
    return {name: found[name] for name in columns}


def take_rows(rows: Rows, index: Index) -> NDArray[Any]:
    """Read rows of the whole by number, into new memory."""
    if isinstance(rows.blocks, Fetching):
        fetched = fetch_rows(rows.blocks, rows.block_rows, index)[:, rows.low : rows.high]
        return fetched.astype(rows.dtype, copy=False)
    if is_run(index):
        # Slices, no index arrays.
        found = np.empty((len(index), rows.width), rows.dtype)
        for number, part, place in _visits(rows, index):
            first = int(part[0])
            found[place] = rows.blocks[number][first : first + len(part), rows.low : rows.high]
        return found
    if len(rows.blocks) == 1:
        return _take_block(rows.blocks[0], index, rows.low, rows.high).astype(rows.dtype, copy=False)
    order = np.argsort(index, kind="stable")
    found = np.empty((len(index), rows.width), rows.dtype)
    found[order] = _take_sorted(rows, index[order])
    return found


def is_run(index: Index) -> bool:
    """Whether numbers follow each other, so that a slice reads them."""
    if len(index) == 0 or int(index[-1]) - int(index[0]) != len(index) - 1:
        return False
    return bool((np.diff(index) == 1).all())


def _take_packed(columns: Mapping[str, Rows], index: Index) -> dict[str, NDArray[Any]]:
    """Read the same rows of columns that lie beside each other in the same blocks."""
    first = next(iter(columns.values()))
    low, high = min(c.low for c in columns.values()), max(c.high for c in columns.values())
    span = replace(first, low=low, high=high)
    whole = compose(first.index, index)
    if isinstance(first.blocks, Fetching):
        packed = fetch_rows(first.blocks, first.block_rows, whole).astype(first.dtype, copy=False)
        return {name: packed[:, column.low : column.high] for name, column in columns.items()}
    # Reading the whole span at once is the faster way unless most of it would be thrown away, or slices do.
    apart = len(columns) == 1 or 2 * sum(c.width for c in columns.values()) < high - low
    if apart or is_run(whole) or len(first.blocks) == 1:
        return {name: take_rows(column, whole) for name, column in columns.items()}
    order = np.argsort(whole, kind="stable")
    packed = _take_sorted(span, whole[order])
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    return {name: packed[back, c.low - low : c.high - low] for name, c in columns.items()}


def _take_sorted(rows: Rows, index: Index) -> NDArray[Any]:
    """Read rows whose numbers ascend: each block is visited once, in the order of the disk."""
    found = np.empty((len(index), rows.width), rows.dtype)
    for number, part, place in _visits(rows, index):
        block = rows.blocks[number]
        if _whole(block, rows.low, rows.high) and block.dtype == found.dtype:
            # Straight to where they go; "clip" because "raise" would buffer, and all numbers are in range.
            np.take(block, part, axis=0, out=found[place], mode="clip")
        else:
            found[place] = _take_block(block, part, rows.low, rows.high)
    return found


def _visits(rows: Rows, index: Index) -> Iterator[tuple[int, Index, slice]]:
    """For ascending numbers: each block, the rows to read of it, and where they go."""
    numbers = index // rows.block_rows
    cuts = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(index)]
    for low, high in pairwise(cuts):
        if high > low:
            number = int(numbers[low])
            yield number, index[low:high] - number * rows.block_rows, slice(low, high)


def _take_block(block: NDArray[Any], index: Index, low: int, high: int) -> NDArray[Any]:
    # np.take is the faster of the two, but copies what is not contiguous as a whole first.
    if _whole(block, low, high):
        return np.asarray(np.take(block, index, axis=0))
    return np.asarray(block[index, low:high])


def _whole(block: NDArray[Any], low: int, high: int) -> bool:
    return high - low == block.shape[1] and block.flags.c_contiguous
