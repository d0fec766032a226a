"""Sets of points in three dimensions with known level-set tree and homology, to test estimators of both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["PLANTED", "PlantedSet"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PlantedSet:
    """A generator of points, with the tree and the homology of its density.

    Attributes
    ----------
    sample
        ``sample(n, seed)`` draws points ``(n, 3)``.
    tree
        The level-set tree as nested pairs: ``()`` a leaf, ``((), ())`` two leaves that join.
    loops
        Number of loops (rank of H1) of the noise-free set.
    """

    sample: Callable[[int, int], Array]
    tree: tuple[object, ...]
    loops: int


def _ring_pair(n: int, seed: int) -> Array:
    """Two bent, unlinked rings side by side, a third of the points on the second."""
    generator = np.random.default_rng(seed)
    x = _along(lambda t: np.column_stack([np.cos(t), np.sin(t), 0.4 * np.cos(2 * t)]), n, generator)
    second = np.arange(n) >= 2 * n // 3
    x[second] = x[second] @ _rotation(0.9) * 0.8 + [3.0, 0.0, 0.5]
    return np.asarray(x + 0.08 * generator.normal(size=x.shape))


def _trefoil(n: int, seed: int) -> Array:
    """A tube around the trefoil knot."""
    generator = np.random.default_rng(seed)

    def knot(t: Array) -> Array:
        return np.column_stack([np.sin(t) + 2 * np.sin(2 * t), np.cos(t) - 2 * np.cos(2 * t), -np.sin(3 * t)])

    x = _along(knot, n, generator)
    return np.asarray(x + 0.12 * generator.normal(size=x.shape))


def _three_nested(n: int, seed: int) -> Array:
    """Three clusters on a bent sheet, two of them close to each other."""
    generator = np.random.default_rng(seed)
    centers = np.array([[0.0, 0.0], [1.6, 0.0], [0.8, 3.2]])
    flat = centers[generator.integers(3, size=n)] + 0.35 * generator.normal(size=(n, 2))
    height = 0.5 * flat[:, 0] ** 2 - 0.3 * flat[:, 1] ** 2
    return np.column_stack([flat, height + 0.05 * generator.normal(size=n)])


def _swiss_roll(n: int, seed: int) -> Array:
    """A rolled sheet with two holes."""
    generator = np.random.default_rng(seed)
    sheets: list[Array] = []
    while sum(map(len, sheets)) < n:
        sheet = generator.uniform(size=(2 * n, 2)) * [8.0, 4.0]
        outside = np.all([np.hypot(*(sheet - c).T) > 1.1 for c in ([2.2, 2.0], [5.8, 2.0])], axis=0)
        sheets.append(sheet[outside])
    length, width = np.concatenate(sheets)[:n].T
    # Arc length of the spiral r = t: t²/2 to leading order.
    t = np.sqrt(2 * length + 9.0)
    x = np.column_stack([t * np.cos(t), width, t * np.sin(t)])
    return np.asarray(x + 0.08 * generator.normal(size=x.shape))


def _along(curve: Callable[[Array], Array], n: int, generator: np.random.Generator) -> Array:
    """Points ``(n, 3)`` on a closed curve with a single peak of density: 1 + 0.6 cos of the angle of the
    arc."""
    t = np.linspace(0, 2 * np.pi, 4001)
    points = curve(t)
    arc = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    angle = 2 * np.pi * arc / arc[-1]
    share = (angle + 0.6 * np.sin(angle)) / (2 * np.pi)
    return curve(np.interp(generator.uniform(size=n), share, t))


def _rotation(angle: float) -> Array:
    """Rotation matrix about the first axis."""
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.array([[1.0, 0.0, 0.0], [0.0, cosine, -sine], [0.0, sine, cosine]])


PLANTED: dict[str, PlantedSet] = {
    "ring pair": PlantedSet(_ring_pair, ((), ()), 2),
    "trefoil tube": PlantedSet(_trefoil, (), 1),
    "three nested clusters": PlantedSet(_three_nested, (((), ()), ()), 0),
    "swiss roll with holes": PlantedSet(_swiss_roll, (), 2),
}
