"""Translations of data too large to be matched whole: of samples that are drawn, and said to be."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np
import pytest

from repdyn.paths import RepresentationPaths, open_paths
from repdyn.translation import LinearTranslation, translate


def models(size: int, tmp_path: Any) -> tuple[RepresentationPaths, RepresentationPaths, np.ndarray]:
    g = np.random.default_rng(0)
    x = g.normal(size=(size, 6)) * [5, 4, 3, 2, 1, 1] + 6 * g.integers(3, size=size)[:, None] * np.eye(6)[0]
    turn = np.linalg.qr(g.normal(size=(6, 6)))[0]
    found = []
    for name, y in (("a", x), ("b", x @ turn)):
        RepresentationPaths.from_arrays({"first": np.tanh(y), "last": y}).save(tmp_path / name)
        found.append(open_paths(tmp_path / name))
    return found[0], found[1], turn


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Any:
    module = import_module("repdyn.translation.unpaired.translate")

    def begin(samples: int) -> None:
        monkeypatch.setattr(module, "SAMPLES", replace(module.SAMPLES, max_samples=samples, min_points=50))

    return begin


def test_pairs_are_drawn_and_counted(tmp_path: Any, small: Any) -> None:
    a, b, turn = models(1000, tmp_path)
    pairs = np.column_stack([np.arange(1000)] * 2)
    whole = translate(a, b, pairs)
    assert "drawn" not in whole.reason
    small(200)
    found = translate(a, b, pairs, seed=1)
    assert found.verdict == "found"
    assert found.evidence["pairs drawn"] == 200
    assert found.evidence["pairs"] == 1000
    assert "drawn at random: 200 of 1000 pairs" in repr(found)
    np.testing.assert_allclose(found.matrix, turn, atol=0.02)
    np.testing.assert_array_equal(translate(a, b, pairs, seed=1).matrix, found.matrix)
    found.save(tmp_path / "t")
    assert LinearTranslation.load(tmp_path / "t").reason == found.reason
    # The pairs of shuffled samples are the same pairs.
    order = np.random.default_rng(2).permutation(1000)
    shuffled = translate(a, b.subset(order), np.column_stack([order, np.arange(1000)]), seed=1)
    np.testing.assert_allclose(shuffled.matrix, turn, atol=0.02)


def test_samples_are_drawn_with_the_known_pairs_among_them(tmp_path: Any, small: Any) -> None:
    module = import_module("repdyn.translation.unpaired.translate")
    a, b, _ = models(1000, tmp_path)
    known = np.column_stack([np.arange(5, 1000, 200), np.arange(5, 1000, 200)])
    small(100)
    names = (("first", "first"), ("last", "last"))
    few_a, few_b, moved = module._drawn(a, b, names, known, False, 0)
    assert (len(few_a), len(few_b)) == (100, 100)
    for (i, j), (k, m) in zip(known, moved):
        assert few_a.ids[k] == a.ids[i]
        assert few_b.ids[m] == b.ids[j]
    assert set(few_a.ids) != set(few_b.ids)
    found = translate(a, b, seed=0, candidates=2)
    assert found.evidence["samples of A drawn"] == 100
    assert found.evidence["samples of B"] == 1000
    assert "100 of 1000 samples of A and 100 of 1000 samples of B" in found.reason
