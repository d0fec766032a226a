"""Columns read what NumPy would, however their blocks are cut and their indices composed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repdyn.paths import RepresentationPaths, open_paths
from repdyn.paths.columns import TokenColumn, VectorColumn, gather

SIZE, WIDTHS = 50, (2, 5, 1, 3)


def packed(block_rows: int) -> tuple[np.ndarray, list[VectorColumn]]:
    """An array cut into blocks, the last one padded, and the columns of its four points."""
    whole = np.random.default_rng(0).normal(size=(SIZE, sum(WIDTHS)))
    padded = np.concatenate([whole, np.full((-SIZE % block_rows, whole.shape[1]), np.nan)])
    blocks = np.split(padded, len(padded) // block_rows)
    ends = np.cumsum(WIDTHS).tolist()
    columns = [VectorColumn(blocks, block_rows, SIZE, e - w, e, whole.dtype) for e, w in zip(ends, WIDTHS)]
    return whole, columns


@given(
    block_rows=st.integers(1, SIZE + 5),
    index=st.lists(st.integers(0, SIZE - 1), max_size=80),
    chosen=st.sets(st.integers(0, 3), min_size=1),
)
@settings(deadline=None, max_examples=150)
def test_gathers_what_numpy_would(block_rows: int, index: list[int], chosen: set[int]) -> None:
    whole, columns = packed(block_rows)
    numbers = np.array(index, np.int64)
    found = gather({str(number): columns[number] for number in sorted(chosen)}, numbers)
    assert list(found) == [str(number) for number in sorted(chosen)]
    for number in chosen:
        column = columns[number]
        np.testing.assert_array_equal(found[str(number)], whole[numbers, column.low : column.high])
        assert not np.shares_memory(found[str(number)], column.blocks[0])


@given(block_rows=st.integers(1, SIZE + 5), first=st.integers(0, SIZE - 1), count=st.integers(1, SIZE))
@settings(deadline=None, max_examples=60)
def test_runs_are_read_as_slices(block_rows: int, first: int, count: int) -> None:
    whole, columns = packed(block_rows)
    run = np.arange(first, min(first + count, SIZE))
    for name, values in gather({str(n): c for n, c in enumerate(columns)}, run).items():
        column = columns[int(name)]
        np.testing.assert_array_equal(values, whole[run, column.low : column.high])
        assert values.flags.c_contiguous


@given(
    block_rows=st.integers(1, SIZE + 5),
    first=st.lists(st.integers(0, SIZE - 1), min_size=1, max_size=30),
    data=st.data(),
)
@settings(deadline=None, max_examples=60)
def test_a_subset_of_a_subset(block_rows: int, first: list[int], data: st.DataObject) -> None:
    second = data.draw(st.lists(st.integers(0, len(first) - 1), min_size=1, max_size=20))
    whole, columns = packed(block_rows)
    numbers = np.array(first)[second]
    for column in columns:
        part = column.subset(np.array(first)).subset(np.array(second))
        np.testing.assert_array_equal(np.asarray(part), whole[numbers, column.low : column.high])
        assert part.shape == (len(second), column.width)


@pytest.mark.parametrize("seed", range(5))
def test_tokens_move_to_the_front(seed: int) -> None:
    generator = np.random.default_rng(seed)
    values, mask = generator.normal(size=(SIZE, 4, 3)), generator.random((SIZE, 4)) < 0.5
    column = TokenColumn.of(values, mask)
    index = generator.integers(0, SIZE, 20)
    for sample, tokens in zip(index, column.ragged(index)):
        np.testing.assert_array_equal(tokens, values[sample][mask[sample]])
    part = column.subset(index)
    assert part.shape == (20, mask[index].sum(axis=1).max(), 3)
    np.testing.assert_array_equal(np.asarray(part), np.asarray(column)[index, : part.shape[1]])


def test_columns_on_disk_calculate_as_the_arrays_they_read(tmp_path) -> None:
    x, y = (np.random.default_rng(seed).normal(size=(40, 3)) for seed in (0, 1))
    RepresentationPaths.from_arrays({"a": x, "b": y}).save(tmp_path / "a.paths")
    paths = open_paths(tmp_path / "a.paths")
    np.testing.assert_array_equal(paths["a"] - paths["b"], x - y)
    np.testing.assert_array_equal(2 * paths["a"], 2 * x)
    np.testing.assert_array_equal(paths["a"] @ np.ones(3), x @ np.ones(3))
    assert isinstance(np.abs(paths["b"]), np.ndarray)


def test_without_a_copy_the_array_in_memory_or_an_error(tmp_path: Path) -> None:
    """``copy=False`` of NumPy's array protocol, with NumPy's own answer for an array as the rule."""
    whole, (_, column, *_) = packed(SIZE)
    found = np.array(column, copy=False)
    assert np.shares_memory(found, column.blocks[0])
    np.testing.assert_array_equal(found, whole[:, 2:7])
    for cast in (whole, column):
        with pytest.raises(ValueError, match="copy"):
            np.array(cast, dtype=np.float32, copy=False)
    _, cut = packed(7)
    mask = np.array([[True, True], [True, False], [True, True]])
    RepresentationPaths.from_arrays({"p": np.ones((3, 2, 4))}, masks={"p": mask}).save(tmp_path / "store")
    tokens = open_paths(tmp_path / "store")["p"]
    assert isinstance(tokens, TokenColumn)
    for read in (cut[0], column.subset(np.arange(3)), tokens):
        with pytest.raises(ValueError, match="copy: False is refused"):
            np.array(read, copy=False)
        assert np.asarray(read).shape == np.array(read).shape
