"""Planted paths: in-distribution Gaussians around a mean far from 0, and the same moved aside."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from repdyn.paths import RepresentationPaths

META = {"model": "planted", "digest": "abc", "pooling": "mean"}


@pytest.fixture
def planted() -> Callable[..., RepresentationPaths]:
    def make(count: int, shift: float = 0.0, seed: int = 0, depths: int = 3, width: int = 12, meta=META):
        generator = np.random.default_rng(seed)
        arrays = {}
        for depth in range(depths):
            x = generator.normal(size=(count, width))
            x[:, 0] += 30  # so far out that unit vectors are the other coordinates, scaled
            x[:, 1] += shift
            arrays[f"layer{depth}"] = x
        return RepresentationPaths.from_arrays(arrays, meta=meta)

    return make
