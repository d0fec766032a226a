"""Linear fits beside scipy's and scikit-learn's, on data of several kinds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.linalg import orthogonal_procrustes
from sklearn.linear_model import LinearRegression, Ridge

from repdyn.errors import RepdynError
from repdyn.linalg import polar, procrustes, ridge, ridge_by_leave_one_out, ridge_path


def centred(n: int, p: int, seed: int, wide: float = 1.0) -> Any:
    x = np.random.default_rng(seed).normal(size=(n, p))
    x[:, 0] *= wide
    return x - x.mean(axis=0)


@pytest.mark.parametrize("wide", [1.0, 1e4])
def test_procrustes_is_scipys_and_its_scale_is_the_least_squares_one(wide: float) -> None:
    x, y = centred(50, 6, 0, wide), centred(50, 6, 1)
    rotation, scale = procrustes(x, y)
    np.testing.assert_allclose(rotation, orthogonal_procrustes(x, y)[0], atol=1e-9)
    slope = LinearRegression(fit_intercept=False).fit((x @ rotation).reshape(-1, 1), y.ravel()).coef_[0]
    np.testing.assert_allclose(scale, slope, rtol=1e-9)


def test_weights_are_repeats_of_rows() -> None:
    x, y = centred(20, 4, 2), centred(20, 3, 3)
    counts = np.random.default_rng(4).integers(1, 4, size=20)
    by_weight = procrustes(x, y, counts / counts.sum())
    by_repeats = procrustes(np.repeat(x, counts, axis=0), np.repeat(y, counts, axis=0))
    np.testing.assert_allclose(by_weight[0], by_repeats[0], atol=1e-10)
    np.testing.assert_allclose(by_weight[1], by_repeats[1])


@pytest.mark.parametrize("shape", [(5, 5), (3, 7), (7, 3)])
def test_the_polar_factor_is_the_nearest_orthonormal_matrix(shape: tuple[int, int]) -> None:
    m = np.random.default_rng(5).normal(size=shape)
    q = polar(m)
    small = q @ q.T if shape[0] <= shape[1] else q.T @ q
    np.testing.assert_allclose(small, np.eye(min(shape)), atol=1e-12)
    for seed in range(50):
        other = np.linalg.qr(np.random.default_rng(seed).normal(size=(max(shape), min(shape))))[0]
        other = other.T if shape[0] < shape[1] else other
        assert np.linalg.norm(m - q) <= np.linalg.norm(m - other)
    answer = polar(torch.tensor(m, dtype=torch.float32))
    assert answer.dtype == torch.float32
    np.testing.assert_allclose(answer.numpy(), q, atol=1e-5)


@pytest.mark.parametrize("size", [(40, 6), (6, 40)])
@pytest.mark.parametrize("penalty", [1e-6, 1.0, 1e3])
def test_ridge_is_scikit_learns(size: tuple[int, int], penalty: float) -> None:
    x, y = np.random.default_rng(6).normal(size=size), np.random.default_rng(7).normal(size=(size[0], 3))
    expected = Ridge(alpha=penalty, fit_intercept=False, solver="svd").fit(x, y).coef_.T
    np.testing.assert_allclose(ridge(torch.tensor(x), torch.tensor(y), penalty).numpy(), expected, atol=1e-7)
    mean = (x**2).sum() / x.shape[1]
    np.testing.assert_allclose(ridge_path(x, y, np.array([penalty / mean]))[0], expected, atol=1e-7)


def test_a_penalty_that_is_not_positive_is_refused() -> None:
    with pytest.raises(RepdynError, match="penalty must be positive, got 0"):
        ridge(torch.eye(2), torch.eye(2), 0)


def test_the_penalty_by_leave_one_out_is_that_of_refitting_without_each_row() -> None:
    x, y = np.random.default_rng(8).normal(size=(15, 8)), np.random.default_rng(9).normal(size=(15, 2))
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    y[:, 0] += x[:, 0]
    penalties, mean = np.array([1e-3, 0.1, 1.0, 30.0]), (x**2).sum() / 8
    errors = []
    for penalty in penalties:
        left_out = [
            y[i]
            - Ridge(alpha=penalty * mean).fit(np.delete(x, i, 0), np.delete(y, i, 0)).predict(x[i : i + 1])
            for i in range(15)
        ]
        errors.append(np.mean(np.square(left_out)))
    best = penalties[int(np.argmin(errors))] * mean
    expected = Ridge(alpha=best, fit_intercept=False).fit(x, y).coef_.T
    np.testing.assert_allclose(ridge_by_leave_one_out(x, y, penalties), expected, atol=1e-9)


@pytest.mark.parametrize("columns", [10, 39, 40, 41, 44, 60, 300])
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("scales", [0.0, 2.0])
def test_no_penalty_is_chosen_because_few_rows_can_be_fitted_exactly(columns, times, scales) -> None:
    """With no more rows than columns the residuals and 1 - h both vanish with the penalty; it chose 1e-14."""
    generator = np.random.default_rng(11)
    x = generator.normal(size=(41, columns)) * np.exp(scales * generator.normal(size=columns))
    y = x @ generator.normal(size=(columns, 3)) + 0.5 * np.sqrt(columns) * generator.normal(size=(41, 3))
    x, y = np.repeat(x, times, axis=0), np.repeat(y, times, axis=0)
    y = y + 0.1 * generator.normal(size=y.shape)  # copies of a row have several answers
    groups = np.repeat(np.arange(41), times)
    penalties = np.array([1e-14, 1e-12, 1e-10, 1e-8, 1e-6, 1e-4, 1e-2, 0.1, 1.0, 10.0])
    centered = x - x.mean(axis=0)
    mean = (centered**2).sum() / columns
    errors = []
    for penalty in penalties * mean:
        left_out = []
        for group in range(41):
            rest = groups != group
            a, b = x[rest] - x[rest].mean(axis=0), y[rest] - y[rest].mean(axis=0)
            matrix = ridge(torch.tensor(a), torch.tensor(b), penalty).numpy()
            left_out.append(y[~rest] - y[rest].mean(axis=0) - (x[~rest] - x[rest].mean(axis=0)) @ matrix)
        errors.append(np.square(left_out).mean())
    best = penalties[int(np.argmin(errors))] * mean
    expected = ridge(torch.tensor(centered), torch.tensor(y - y.mean(axis=0)), best).numpy()
    found = ridge_by_leave_one_out(centered, y - y.mean(axis=0), penalties, groups)
    np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(expected).max())


def test_constant_inputs_give_the_zero_map() -> None:
    zero, y = np.zeros((5, 3)), centred(5, 2, 10)
    assert not ridge_path(zero, y, np.array([1.0]))[0].any()
    assert not ridge_by_leave_one_out(zero, y, np.array([1.0])).any()
    assert procrustes(zero, y)[1] == 1.0
