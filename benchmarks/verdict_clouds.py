"""Clouds of kinds that the search was not made for: heavy tails, counts, manifolds, hierarchies, outliers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["CLOUDS"]

Floats = NDArray[np.float64]
Draw = Callable[[np.random.Generator, np.random.Generator, int], Floats]

WIDTH = 20


def _classes(
    model: np.random.Generator, draw: np.random.Generator, count: int, low: int, high: int
) -> Floats:
    """Classes low to high − 1 of fifteen."""
    centers = model.normal(size=(15, WIDTH))
    return centers[draw.integers(low, high, size=count)] + 0.25 * draw.normal(size=(count, WIDTH))


def _heavy(model: np.random.Generator, draw: np.random.Generator, count: int) -> Floats:
    """Fifteen clusters with tails of Student's t with two degrees of freedom."""
    centers = model.normal(size=(15, WIDTH))
    return centers[draw.integers(15, size=count)] + 0.2 * draw.standard_t(2, size=(count, WIDTH))


def _rectified(model: np.random.Generator, draw: np.random.Generator, count: int) -> Floats:
    """Sparse rectified features of six factors, without clusters."""
    return np.maximum(draw.gamma(1.5, size=(count, 6)) @ model.normal(size=(6, WIDTH)), 0)


def _counts(model: np.random.Generator, draw: np.random.Generator, count: int) -> Floats:
    """Poisson counts of eight topics."""
    rates = np.exp(model.normal(size=(8, WIDTH)))
    return draw.poisson(rates[draw.integers(8, size=count)]).astype(np.float64)


def _ring(model: np.random.Generator, draw: np.random.Generator, count: int, uneven: float) -> Floats:
    """A circle with noise; where it is uneven, only rotations are excluded."""
    del model
    turn = 2 * np.pi * draw.beta(1 + uneven, 1 + 2 * uneven, size=count)
    return np.column_stack([np.cos(turn), np.sin(turn), 0.05 * draw.normal(size=(count, 6))])


def _roll(model: np.random.Generator, draw: np.random.Generator, count: int) -> Floats:
    """A Swiss roll of uneven height."""
    del model
    turn, height = 1.5 * np.pi * (1 + 2 * draw.random(count)), 10 * draw.random(count) ** 2
    noise = 0.3 * draw.normal(size=(count, 5))
    return np.column_stack([turn * np.cos(turn), height, turn * np.sin(turn), noise])


def _hierarchy(model: np.random.Generator, draw: np.random.Generator, count: int, perturbed: float) -> Floats:
    """Three groups of three clusters each, nearly exchangeable."""
    axes = np.eye(12)
    centers = np.concatenate([2 * axes[group] + axes[3 + 3 * group : 6 + 3 * group] for group in range(3)])
    centers = centers + perturbed * model.normal(size=centers.shape)
    return centers[draw.integers(9, size=count)] + 0.1 * draw.normal(size=(count, 12))


def _gammas(model: np.random.Generator, draw: np.random.Generator, count: int, last: float) -> Floats:
    """Independent skewed coordinates, exchangeable where all are of one size."""
    del model
    return (draw.gamma(1.0, size=(count, 8)) - 1) * np.geomspace(1, last, 8)


def _wide(model: np.random.Generator, draw: np.random.Generator, count: int) -> Floats:
    """One coordinate a thousand times as wide as the others."""
    return _classes(model, draw, count, 0, 15) * np.array([1e3, *[1.0] * (WIDTH - 1)])


def _far(model: np.random.Generator, draw: np.random.Generator, count: int) -> Floats:
    """One row of fifty ten thousand times as long."""
    rows = _classes(model, draw, count, 0, 15)
    return np.where(draw.random((count, 1)) < 0.02, 1e4 * rows, rows)


def _rounded(model: np.random.Generator, draw: np.random.Generator, count: int) -> Floats:
    """Values of one decimal."""
    return np.round(_heavy(model, draw, count), 1)


def _part(low: int, high: int) -> Draw:
    return lambda model, draw, count: _classes(model, draw, count, low, high)


def _other_heavy(model: np.random.Generator, draw: np.random.Generator, count: int) -> Floats:
    """The same with centers of its own."""
    return _heavy(np.random.default_rng(model.integers(2**31)), draw, count)


def _gaussian(model: np.random.Generator, draw: np.random.Generator, count: int) -> Floats:
    """The covariance of the scaled gammas, and nothing else of them."""
    del model
    return draw.normal(size=(count, 8)) * np.geomspace(1, 0.3, 8)


def _with(function: Callable[..., Floats], value: float) -> Draw:
    return lambda model, draw, count: function(model, draw, count, value)


CLOUDS: dict[str, tuple[str, Draw, Draw]] = {
    "heavy tails": ("true", _heavy, _heavy),
    "heavy tails, other centers": ("unrelated", _heavy, _other_heavy),
    "rectified": ("true", _rectified, _rectified),
    "counts": ("true", _counts, _counts),
    "ring": ("symmetric", _with(_ring, 0.0), _with(_ring, 0.0)),
    "ring, uneven": ("symmetric", _with(_ring, 2.0), _with(_ring, 2.0)),
    "Swiss roll": ("true", _roll, _roll),
    "hierarchy": ("symmetric", _with(_hierarchy, 0.0), _with(_hierarchy, 0.0)),
    "hierarchy, perturbed 0.03": ("symmetric", _with(_hierarchy, 0.03), _with(_hierarchy, 0.03)),
    "hierarchy, perturbed 0.3": ("true", _with(_hierarchy, 0.3), _with(_hierarchy, 0.3)),
    "gammas, equal": ("symmetric", _with(_gammas, 1.0), _with(_gammas, 1.0)),
    "gammas, scaled": ("true", _with(_gammas, 0.3), _with(_gammas, 0.3)),
    "gammas against a Gaussian": ("unrelated", _with(_gammas, 0.3), _gaussian),
    "wide coordinate": ("true", _wide, _wide),
    "far rows": ("true", _far, _far),
    "rounded": ("true", _rounded, _rounded),
    "classes 0-7 against 7-14": ("disjoint", _part(0, 8), _part(7, 15)),
    "classes 0-9 against 5-14": ("shift", _part(0, 10), _part(5, 15)),
}
"""Kind, what A draws and what B draws, by name. Both draw with a generator of the model, equal on both sides,
and one of the sample."""
