"""The benchmark of intervals tells cells in which no interval can be near 95 %."""

from __future__ import annotations

import importlib.util
import sys
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(FOLDER)
    spec = importlib.util.spec_from_file_location("repdyn_coverage", FOLDER / "coverage.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "repdyn_coverage", module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("truth", [0.5, 0.9, 0.95, 0.99, 0.999])
def test_the_nearest_range_of_outcomes_is_that_of_all_ranges(study: Any, truth: float) -> None:
    outcomes = np.arange(21)
    chance = stats.binom.pmf(outcomes, 20, truth)
    ranges = [
        chance[a : b + 1].sum()
        for a, b in combinations_with_replacement(range(21), 2)
        if a <= 20 * truth + 1e-9 and b >= 20 * truth - 1e-9
    ]
    expected = min(ranges, key=lambda p: abs(p - 0.95))
    assert study.nearest(outcomes / 20, chance, truth) == pytest.approx(expected)
    # Drawn outcomes, in any order and with repeats, say the same up to their number.
    drawn = np.random.default_rng(0).binomial(20, truth, size=20_000) / 20
    found = study.nearest(drawn, np.full(len(drawn), 1 / len(drawn)), truth)
    assert found == pytest.approx(expected, abs=0.01)


def test_marks_of_exact_shares(study: Any) -> None:
    found = {truth: study.marks(study.exact_share(20, truth)) for truth in (0.5, 0.9, 0.99)}
    assert found == {0.5: " ", 0.9: "b", 0.99: "d"}
    assert study.exact_share(20, 0.9)["above"] == 0  # at the border an interval misses on one side only
    many = np.random.default_rng(1).normal(size=2000)
    assert study.nearest(many, np.full(2000, 1 / 2000), 0.0) == pytest.approx(0.95)
