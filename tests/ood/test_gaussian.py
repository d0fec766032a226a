"""Shrinkage against scikit-learn, and distances against their definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.covariance import ledoit_wolf as reference

from repdyn.ood.gaussian import Moments, fit_gaussian, ledoit_wolf, unit, unit_and_lengths


@pytest.mark.parametrize(("count", "width"), [(200, 10), (20, 50)])
def test_ledoit_wolf_is_scikit_learns(count, width):
    x = np.random.default_rng(0).normal(size=(count, width)) * np.linspace(0.1, 3, width)
    c = x - x.mean(axis=0)
    covariance, intensity = ledoit_wolf(c.T @ c, float(((c * c).sum(axis=1) ** 2).sum()), count)
    expected, expected_intensity = reference(x)
    np.testing.assert_allclose(covariance, expected, atol=1e-12)
    assert intensity == pytest.approx(expected_intensity)


def test_distance_to_the_nearest_class():
    generator = np.random.default_rng(1)
    labels = np.repeat([0, 1, 2], [30, 60, 90])
    x = generator.normal(size=(180, 4)) + 4 * np.eye(4)[labels]
    gaussian = fit_gaussian(x, labels)
    residual = x - np.stack([x[labels == k].mean(axis=0) for k in range(3)])[labels]
    within = residual.T @ residual / 180
    intensity = reference(x)[1]
    covariance = (1 - intensity) * within + intensity * np.trace(within) / 4 * np.eye(4)
    means = [x[labels == k].mean(axis=0) for k in range(3)]
    inverse = np.linalg.inv(covariance)
    new = generator.normal(size=(20, 4))
    squared = np.stack([np.einsum("nd,de,ne->n", new - m, inverse, new - m) for m in means], axis=1)
    np.testing.assert_allclose(gaussian.distance(new), np.sqrt(squared.min(axis=1)), rtol=1e-6)
    assert gaussian.log_determinant == pytest.approx(np.linalg.slogdet(covariance)[1])


def test_unit_keeps_a_zero_row():
    np.testing.assert_array_equal(unit(np.array([[3.0, 4.0], [0.0, 0.0]])), [[0.6, 0.8], [0, 0]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_directions_and_lengths_are_those_of_exact_sums(dtype: type) -> None:
    """Rows of any size, in blocks with and without extreme ones, against exact sums of squares."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(300, 40)) * 10.0 ** generator.integers(-3, 4, size=(300, 40))
    x[:, 0] += 1e4
    x[200] *= 1e-200  # squares underflow
    x[210] *= 1e200  # and overflow
    x[220] = 0
    directions, norms = unit_and_lengths(x, dtype)
    for row, direction, norm in zip(x, directions, norms):
        scale = float(np.abs(row).max()) or 1.0
        exact = scale * math.sqrt(math.fsum((float(v) / scale) ** 2 for v in row))
        assert norm == pytest.approx(exact, rel=1e-14)
        expected = row / exact if exact else row
        np.testing.assert_allclose(direction, expected, rtol=0, atol=4 * float(np.finfo(dtype).eps))
    assert directions.dtype == dtype
    np.testing.assert_array_equal(unit_and_lengths(x)[0].astype(dtype), directions)
    np.testing.assert_allclose(unit_and_lengths(x)[0], unit(x), rtol=1e-15)


@pytest.mark.parametrize(("count", "width"), [(40, 6), (60, 100)])
def test_class_covariance_never_exceeds_that_of_all(count, width):
    generator = np.random.default_rng(4)
    x = generator.normal(size=(count, width))
    labels = np.arange(count) % 8
    around_classes, around_all = fit_gaussian(x, labels), fit_gaussian(x, None)
    directions = generator.normal(size=(100, width))
    steep = ((directions @ around_classes.whitener) ** 2).sum(axis=1)
    assert (steep >= ((directions @ around_all.whitener) ** 2).sum(axis=1)).all()


@pytest.mark.parametrize("labelled", [True, False])
def test_sums_of_folds_give_what_a_fit_without_the_fold_gives(labelled) -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(120, 7)) + 30
    labels = generator.integers(4, size=120) if labelled else None
    fold = np.arange(120) % 5
    moments = Moments(x, labels, fold)
    for k in range(5):
        kept = fold != k
        direct = fit_gaussian(x[kept], None if labels is None else labels[kept])
        again = moments.gaussian(without=k)
        np.testing.assert_allclose(again.distance(x), direct.distance(x), rtol=1e-8)
        assert again.intensity == pytest.approx(direct.intensity)
        assert again.log_determinant == pytest.approx(direct.log_determinant)


@pytest.mark.parametrize(("dtype", "close"), [(np.float64, 1e-10), (np.float32, 1e-3)])
@pytest.mark.parametrize("labelled", [True, False])
def test_squared_distance_by_a_triangular_product_is_that_of_the_formula(labelled, dtype, close):
    generator = np.random.default_rng(5)
    labels = np.arange(300) % 7 if labelled else None
    x = unit(generator.normal(size=(300, 33)) + 2)
    density = fit_gaussian(x, labels)
    new = unit(generator.normal(size=(40, 33)) + 2).astype(dtype)
    kept = new.copy()
    z = (new.astype(np.float64) - density.center) @ density.whitener
    expected = ((z[:, None] - density.means) ** 2).sum(axis=2).min(axis=1)
    found = density.nearest_squared(new)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected, rtol=close)
    np.testing.assert_array_equal(new, kept)  # a product in place takes a copy
    np.testing.assert_allclose(density.nearest_squared(new[::2]), found[::2], rtol=close)
    np.testing.assert_allclose(density.nearest_squared(np.asfortranarray(new)), found, rtol=close)
