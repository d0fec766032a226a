"""Planted sets: what is claimed of them holds, and their old place still works."""

from __future__ import annotations

from importlib import import_module

import numpy as np
import pytest

from repdyn.datasets import PLANTED
from repdyn.topology import alpha_persistence


@pytest.mark.parametrize("name", PLANTED)
def test_points_are_reproducible_and_of_three_dimensions(name: str) -> None:
    points = PLANTED[name].sample(50, 3)
    assert points.shape == (50, 3)
    np.testing.assert_array_equal(points, PLANTED[name].sample(50, 3))
    assert not np.array_equal(points, PLANTED[name].sample(50, 4))


def test_the_rings_have_two_loops() -> None:
    births, deaths = alpha_persistence(PLANTED["ring pair"].sample(2000, 0))[1].T
    bars = np.sort(deaths - births)[::-1]
    loops = PLANTED["ring pair"].loops
    assert bars[loops - 1] > 2 * bars[loops]


def test_the_old_place_works_with_a_warning() -> None:
    old = import_module("repdyn.topology.planted")
    with pytest.warns(DeprecationWarning, match=r"moved to repdyn\.datasets\.PLANTED"):
        assert old.PLANTED is PLANTED
    with pytest.raises(AttributeError, match="'planted'"):
        _ = old.planted
