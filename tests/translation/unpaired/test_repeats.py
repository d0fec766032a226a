"""Equal rows, wide coordinates and tiny units: what a translation makes of data that are not tame."""

import numpy as np
import pytest
import torch

from repdyn.paths import RepresentationPaths
from repdyn.translation import LinearTranslation, evaluate_translation, fit_ridge, translate


def translated(x: np.ndarray, y: np.ndarray) -> LinearTranslation:
    pairs = np.column_stack([np.arange(len(x))] * 2)
    a, b = (RepresentationPaths.from_arrays({"x": v}) for v in (x, y))
    return translate(a, b, pairs=pairs)


@pytest.mark.parametrize("seed", range(3))
def test_unrelated_rows_that_occur_four_times_are_not_found(seed: int) -> None:
    generator = np.random.default_rng(seed)
    x, y = (np.repeat(generator.normal(size=(100, 64)), 4, 0) for _ in "ab")
    assert translated(x, y).verdict == "not found"


def test_related_rows_that_occur_four_times_are_found_from_the_distinct_ones() -> None:
    generator = np.random.default_rng(0)
    x = np.repeat(generator.normal(size=(100, 8)), 4, 0)
    turn = np.linalg.qr(generator.normal(size=(8, 8)))[0]
    t = translated(x, x @ turn)
    assert t.verdict == "found"
    assert "100 of them distinct" in t.reason
    assert np.allclose(t(x), x @ turn, atol=1e-6)


@pytest.mark.parametrize("kind", ["one dimension", "one wide coordinate", "rounded"])
def test_unrelated_pairs_are_not_found(kind: str) -> None:
    found = 0
    for seed in range(60):
        generator = np.random.default_rng(seed)
        count, width = int(generator.integers(20, 200)), int(generator.integers(1, 8))
        x, y = generator.normal(size=(2, count, width))
        if kind == "one dimension":
            x, y = (v[:, :1] @ generator.normal(size=(1, width)) for v in (x, y))
        elif kind == "one wide coordinate":
            x[:, 0] *= 1e4
            y[:, 0] *= 1e4
        else:
            x, y = x.round(), y.round()
        found += translated(x, y).verdict == "found"
    assert found == 0


def test_ridge_explains_an_exact_relation_beside_a_wide_coordinate() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(400, 8))
    y = x @ generator.normal(size=(8, 8))
    x[:, 0] *= 1e4
    centred = np.column_stack([x, np.ones(400)])
    oracle = centred @ np.linalg.lstsq(centred, y, rcond=None)[0]
    assert np.allclose(fit_ridge(x, y)(x), oracle, atol=1e-4)


@pytest.mark.parametrize("unit", [1e-20, 1e-10, 1e8])
def test_units_do_not_matter(unit: float) -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(200, 5))
    y = x @ np.linalg.qr(generator.normal(size=(5, 5)))[0]
    t = translated(unit * x, unit * y)
    assert t.verdict == "found"
    assert np.allclose(t(unit * x) / unit, y, atol=1e-6)


def test_items_that_are_there_three_times_are_one_item() -> None:
    x = np.random.default_rng(0).normal(size=(60, 8))
    identity = LinearTranslation(np.eye(8), np.zeros(8), np.zeros(8))
    once, thrice = (evaluate_translation(identity, v, v) for v in (x, np.repeat(x, 3, 0)))
    assert thrice.top1["identity"].value == once.top1["identity"].value == 1.0
    assert thrice.items == 60


def test_class_agreement_does_not_count_an_items_own_copy() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(60, 8))
    labels = generator.integers(2, size=60)
    identity = LinearTranslation(np.eye(8), np.zeros(8), np.zeros(8))
    found = evaluate_translation(identity, np.repeat(x, 2, 0), np.repeat(x, 2, 0), np.repeat(labels, 2))
    assert found.class_agreement["translation"].value < 0.8


def test_integer_tensors_are_translated_with_the_whole_matrix() -> None:
    t = LinearTranslation(0.5 * np.eye(2), np.zeros(2), np.array([0.25, 0.0]))
    moved = t(torch.tensor([[1, 3]]))
    assert torch.allclose(moved, torch.tensor([[0.75, 1.5]]))
