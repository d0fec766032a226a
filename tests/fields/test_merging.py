"""Merging by distance."""

from __future__ import annotations

import numpy as np
import pytest

from repdyn.fields.verification import count_sweep, merge_points


@pytest.mark.parametrize("d", [1, 2, 12, 64])
def test_clusters_are_found_in_any_dimension(d: int) -> None:
    generator = np.random.default_rng(d)
    centres = generator.standard_normal((30, d)) * 10
    label = generator.integers(30, size=500)
    points = centres[label] + 1e-5 * generator.standard_normal((500, d))
    leaders, member = merge_points(points, 1e-2)
    assert len(leaders) == len(np.unique(label))
    for group in range(len(leaders)):
        assert len(np.unique(label[member == group])) == 1


def test_a_trail_does_not_join_its_ends() -> None:
    _, member = merge_points(np.linspace(0, 1, 101)[:, None], 0.1)
    assert member[0] != member[-1]


def test_leaders_come_in_the_order_given() -> None:
    leaders, _ = merge_points(np.array([[0.0], [0.05], [9.0]]), 0.1, np.array([2, 1, 0]))
    assert leaders.tolist() == [2, 1]


def test_no_point_is_no_group() -> None:
    assert count_sweep(np.zeros((0, 3)), 1.0)[1e-3] == 0


def test_sweep_sees_the_distance() -> None:
    counts = count_sweep(np.array([[0.0], [0.005]]), 1.0)
    assert (counts[1e-2], counts[1e-3]) == (1, 2)
