"""Splits keep shares, orders are permutations, seeds decide."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repdyn.errors import RepdynError
from repdyn.paths.sampling import (
    BLOCK_ROWS,
    BLOCKS_TOGETHER,
    batch_indices,
    block_shuffle,
    sample_indices,
    split_indices,
)


@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    shares=st.sampled_from([(0.8, 0.2), (0.5, 0.25, 0.25), (0.7, 0.1, 0.1, 0.1)]),
    seed=st.integers(0, 1000),
)
@settings(deadline=None, max_examples=100)
def test_a_stratified_split_gives_each_part_its_share(
    counts: list[int], shares: tuple[float, ...], seed: int
) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    if len(labels) < 20:
        return
    parts = split_indices(len(labels), shares, labels, seed)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))
    for part, share in zip(parts, shares):
        assert (np.diff(part) > 0).all()
        assert abs(len(part) - share * len(labels)) <= 1
        for label, count in enumerate(counts):
            assert abs((labels[part] == label).sum() - share * count) <= 2


def test_rare_labels_do_not_starve_the_small_part() -> None:
    # Rounding label by label would give every one of these pairs to the large part.
    labels = np.repeat([f"class {i}" for i in range(50)], 2)
    large, small = split_indices(100, (0.8, 0.2), labels, 0)
    assert (len(large), len(small)) == (80, 20)


def test_the_seed_decides_the_split() -> None:
    labels = np.arange(200) % 5
    first, again, other = (split_indices(200, (0.5, 0.5), labels, seed)[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_split_is_random_within_and_without_labels() -> None:
    for labels in (None, np.zeros(20, int)):
        often = np.zeros(20)
        for seed in range(400):
            often[split_indices(20, (0.75, 0.25), labels, seed)[1]] += 1
        # Each sample is drawn with probability 1/4: 100 of 400, standard deviation under 9.
        assert (abs(often - 100) < 45).all()


@pytest.mark.parametrize("shares", [(), (0.5, 0.4), (1.2, -0.2), (0.8, 0.2, 0.0), (float("nan"), 1.0)])
def test_refuses_shares_that_are_none(shares: tuple[float, ...]) -> None:
    with pytest.raises(RepdynError, match="fractions"):
        split_indices(100, shares, None, 0)


def test_refuses_an_empty_part() -> None:
    with pytest.raises(RepdynError, match=r"0\.1 of 3 samples"):
        split_indices(3, (0.9, 0.1), None, 0)


@given(size=st.integers(0, 3 * BLOCK_ROWS * BLOCKS_TOGETHER), seed=st.integers(0, 9))
@settings(deadline=None, max_examples=20)
def test_block_shuffle_is_a_permutation(size: int, seed: int) -> None:
    order = block_shuffle(size, seed)
    np.testing.assert_array_equal(np.sort(order), np.arange(size))
    np.testing.assert_array_equal(order, block_shuffle(size, seed))


def test_block_shuffle_mixes_eight_blocks_and_no_more() -> None:
    size = 5 * BLOCK_ROWS * BLOCKS_TOGETHER
    order = block_shuffle(size, 0)
    group = order[: BLOCK_ROWS * BLOCKS_TOGETHER] // BLOCK_ROWS
    assert len(np.unique(group)) == BLOCKS_TOGETHER
    # Neighbours in the order come from different blocks as often as chance has it.
    assert 0.8 < (np.diff(group) != 0).mean() < 0.95


@pytest.mark.parametrize("shuffle", [True, "blocks"])
def test_the_seed_decides_the_order(shuffle: Any) -> None:
    def order(seed: int) -> list[int]:
        return np.concatenate(list(batch_indices(1000, 64, shuffle, seed))).tolist()  # type: ignore[no-any-return]

    assert order(0) == order(0)
    assert order(0) != order(1)
    assert order(0) != list(range(1000))


def test_batches_have_the_size_asked_for() -> None:
    assert [len(batch) for batch in batch_indices(10, 4, True, 0)] == [4, 4, 2]
    for wrong in (0, -1):
        with pytest.raises(RepdynError, match="batch_size"):
            list(batch_indices(10, wrong, True, 0))
    with pytest.raises(RepdynError, match="shuffle: 'all'"):
        list(batch_indices(10, 4, "all", 0))


def test_samples_for_a_picture() -> None:
    np.testing.assert_array_equal(sample_indices(7, 0), np.arange(7))
    some = sample_indices(100_000, 0)
    assert len(np.unique(some)) == len(some) < 2000
    assert some.max() > 90_000
