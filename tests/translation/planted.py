"""Two models whose relation is known: clusters in one space, rotated into another; disjoint samples."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from repdyn.paths import RepresentationPaths

Floats = NDArray[np.float64]


def rotation(width: int, seed: int) -> Floats:
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(width, width)))
    return np.asarray(q)


def clusters(
    count: int, seed: int, width: int = 24, classes: int = 14, noise: float = 0.12
) -> tuple[Floats, NDArray[np.int64]]:
    """Points around centres of unequal mass; the centres are the same for every seed, the points are not."""
    fixed = np.random.default_rng(1234)
    centres = fixed.normal(size=(classes, width)) * np.linspace(1.6, 0.5, width)
    mass = fixed.dirichlet(np.full(classes, 6.0))
    spread = noise * fixed.uniform(0.6, 1.6, size=(classes, width))
    generator = np.random.default_rng(seed)
    labels = generator.choice(classes, size=count, p=mass)
    return centres[labels] + spread[labels] * generator.normal(size=(count, width)) * 4, labels


def world(seed: int, groups: int, classes: int = 14, width: int = 24) -> tuple[Floats, Floats, Floats]:
    """Centres, masses and spreads of clusters, in so many groups of clusters or in none."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(classes, width))
    if groups:
        above = 1.5 * generator.normal(size=(groups, width))
        centres = above[generator.integers(groups, size=classes)] + 0.8 * centres
    mass = generator.dirichlet(np.full(classes, 6.0))
    return centres * np.linspace(1.6, 0.5, width), mass, 0.48 * generator.uniform(0.6, 1.6, (classes, width))


def sampled(of: tuple[Floats, Floats, Floats], count: int, seed: int) -> Floats:
    """Points of a world."""
    centres, mass, spread = of
    generator = np.random.default_rng(seed)
    labels = generator.choice(len(mass), size=count, p=mass)
    return centres[labels] + spread[labels] * generator.normal(size=(count, centres.shape[1]))


def read(points: Floats, seed: int, width: int) -> RepresentationPaths:
    """Two depths of a model of this width, which the seed turns; not narrower than the points."""
    return RepresentationPaths.from_arrays(
        {
            f"{seed}.{depth}": np.tanh(points * (0.4 + 0.3 * depth))
            @ rotation(width, seed + depth)[: points.shape[1]]
            for depth in range(2)
        }
    )


def two_models(count: int = 1500, width: int = 24, depths: int = 1) -> tuple[RepresentationPaths, ...]:
    """Model A, model B = A rotated and doubled, on disjoint samples, and both on held-out ones."""
    x, _ = clusters(count, seed=1, width=width)
    y, _ = clusters(count, seed=2, width=width)
    z, labels = clusters(300, seed=3, width=width)

    def at(points: Floats, seed: int, depth: int) -> Floats:
        return np.tanh(points * (0.4 + 0.3 * depth)) @ rotation(width, seed + depth)

    def paths(points: Floats, seed: int, scale: float, name: str) -> RepresentationPaths:
        return RepresentationPaths.from_arrays(
            {f"{name}{k}": scale * at(points, seed, k) + 3 for k in range(depths)},
            labels=labels if points is z else None,
        )

    return (
        paths(x, 10, 1.0, "a"),
        paths(y, 20, 2.0, "b"),
        paths(z, 10, 1.0, "a"),
        paths(z, 20, 2.0, "b"),
    )
