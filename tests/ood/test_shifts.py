"""Corrupted inputs are told from inputs of other classes."""

from __future__ import annotations

import numpy as np
import pytest

from repdyn.errors import RepdynError
from repdyn.ood import PathDetector, kinds_of_shift
from repdyn.paths import RepresentationPaths

CORRUPTION = np.array([0, 0, 0, 0, 0, 3.0])


def drawn(count: int, seed: int, known: bool = True) -> RepresentationPaths:
    """Classes lie along the first five axes; a corruption moves any of them along the last one."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 4 if known else np.full(count, 4)
    centers = 4 * np.eye(6)[:5]
    x = centers[labels] + 0.3 * generator.normal(size=(count, 6)) + [2, 2, 2, 2, 2, 2]
    return RepresentationPaths.from_arrays({"a": x, "b": np.tanh(x / 4)}, labels=labels)


def moved(paths: RepresentationPaths, seed: int) -> RepresentationPaths:
    amount = np.random.default_rng(seed).uniform(0.8, 1.2, size=(len(paths), 1))
    x = np.asarray(paths["a"]) + amount * CORRUPTION
    return RepresentationPaths.from_arrays({"a": x, "b": np.tanh(x / 4)}, labels=paths.labels)


def both(paths: RepresentationPaths, seed: int) -> RepresentationPaths:
    other = moved(paths, seed)
    arrays = {point: np.concatenate([paths[point], other[point]]) for point in paths.points}
    labels = np.concatenate([np.asarray(paths.labels)] * 2)
    return RepresentationPaths.from_arrays(arrays, labels=labels)


@pytest.fixture(scope="module")
def detectors() -> tuple[PathDetector, PathDetector]:
    detector = PathDetector().fit(drawn(600, 0)).calibrate(drawn(400, 1))
    return detector, PathDetector().fit(both(drawn(600, 0), 2)).calibrate(both(drawn(400, 1), 3))


def test_each_kind_is_told(detectors: tuple[PathDetector, PathDetector]) -> None:
    usual = kinds_of_shift(*detectors, drawn(300, 4))
    assert np.mean(usual == "in-distribution") > 0.9
    corrupted = kinds_of_shift(*detectors, moved(drawn(300, 5), 6))
    assert np.mean(corrupted == "covariate shift") > 0.9
    for foreign in (drawn(300, 7, known=False), moved(drawn(300, 8, known=False), 9)):
        assert np.mean(kinds_of_shift(*detectors, foreign) == "out-of-distribution") > 0.9


def test_it_agrees_with_the_two_detectors(detectors: tuple[PathDetector, PathDetector]) -> None:
    paths = both(drawn(200, 10), 11)
    first, second = (one.predict(paths) for one in detectors)
    names = {(1, 1): "in-distribution", (1, -1): "in-distribution", (-1, 1): "covariate shift"}
    expected = [names.get((int(a), int(b)), "out-of-distribution") for a, b in zip(first, second)]
    assert kinds_of_shift(*detectors, paths).tolist() == expected


def test_bad_detectors_are_refused(detectors: tuple[PathDetector, PathDetector]) -> None:
    with pytest.raises(RepdynError, match="is the same detector"):
        kinds_of_shift(detectors[0], detectors[0], drawn(30, 0))
    with pytest.raises(RepdynError, match="fit"):
        kinds_of_shift(detectors[0], PathDetector(), drawn(30, 0))
    with pytest.raises(RepdynError, match="b"):
        kinds_of_shift(*detectors, {"a": np.ones((3, 6))})
