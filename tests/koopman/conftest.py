"""Small paths with known dynamics."""

from __future__ import annotations

import numpy as np
import pytest

from repdyn.paths import RepresentationPaths


def linear_paths(
    samples: int = 400, width: int = 6, points: int = 4, noise: float = 0.0, seed: int = 0
) -> RepresentationPaths:
    """Paths of one linear system, seen through nothing: ``x_(l+1) = x_l K + offset_l``."""
    generator = np.random.default_rng(seed)
    # A rotation with decay has complex eigenvalues, so that a generator has something to find.
    system = np.linalg.qr(np.random.default_rng(99).standard_normal((width, width)))[0]
    step = 0.4 * system + 0.5 * np.eye(width)
    x = generator.standard_normal((samples, width)) * np.linspace(1, 2, width)
    labels = (x[:, 0] > 0).astype(int) + 2 * (x[:, 1] > 0).astype(int)
    arrays = {}
    for number in range(points):
        arrays[f"layer{number}"] = (x + number).astype(np.float32)
        x = x @ step + noise * generator.standard_normal(x.shape)
    return RepresentationPaths.from_arrays(arrays, labels=labels)


@pytest.fixture(scope="session")
def train() -> RepresentationPaths:
    return linear_paths(seed=0)


@pytest.fixture(scope="session")
def test() -> RepresentationPaths:
    return linear_paths(samples=150, seed=1)
