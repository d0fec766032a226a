"""What is asked of a chunk twice is computed once, and is what the plain formula gives."""

from __future__ import annotations

import numpy as np
import pytest

from repdyn.ood import PathDetector, UnionDetector
from repdyn.ood.calibration import smooth_log_p_values
from repdyn.ood.crossfit import TwofoldDensity
from repdyn.ood.detectors import RelativePathDetector
from repdyn.ood.gaussian import ShrunkGaussian
from repdyn.ood.path_chunks import Chunk, read_chunks
from repdyn.paths import RepresentationPaths

CLASSES = 6


@pytest.fixture
def classes():
    def make(count, seed):
        generator, means = np.random.default_rng(seed), np.random.default_rng(9).normal(size=(3, CLASSES, 20))
        labels = generator.integers(CLASSES, size=count)
        arrays = {f"layer{k}": generator.normal(size=(count, 20)) + 3 * means[k][labels] for k in range(3)}
        return RepresentationPaths.from_arrays(arrays, labels=labels)

    return make


def plain_squared(density, x):
    """To every mean, in float64, as the formula is written."""
    z = (x - density.center) @ density.whitener
    return ((z[:, None] - density.means) ** 2).sum(axis=2).min(axis=1)


def plain_scores(union, paths):
    """The union's score from its parts, one after the other."""
    total = 0.0
    for name, member in union.members_.items():
        if name == "nearest neighbors":
            x = np.asarray(paths[member.points_[0]])
            x = x / np.linalg.norm(x, axis=1, keepdims=True)
            apart = np.linalg.norm(x[:, None] - member.neighbors_, axis=2)
            scores = -np.sort(apart, axis=1)[:, member.k - 1]
        else:
            profile = []
            for point, density in member.densities_.items():
                x = np.asarray(paths[point])
                x = x / np.linalg.norm(x, axis=1, keepdims=True)
                pair = getattr(density, "relative", density)
                near, whole = plain_squared(pair.conditional, x), plain_squared(pair.background, x)
                distance = near - whole
                if hasattr(density, "spread"):
                    distance = np.sqrt(whole) / density.spread[0] + distance / density.spread[1]
                profile.append((distance - member.location_[point]) / member.spread_[point])
            scores = -np.mean(profile, axis=0)
        total = total + union.weights_[name] * smooth_log_p_values(union.references_[name], scores)
    return total


def test_a_union_scores_as_the_plain_formula(classes):
    union, test = UnionDetector().fit(classes(400, 0)), classes(150, 1)
    assert {"path", "relative path", "nearest neighbors"} <= set(union.members_)
    scores, plain = union.score_samples(test), plain_scores(union, test)
    # A p-value is a step: a score that rounding moves over a calibration score moves it by one rank.
    assert np.quantile(np.abs(scores - plain), 0.9) < 1e-4
    np.testing.assert_allclose(scores, plain, atol=0.05)


def test_members_that_ask_the_same_are_answered_once(classes, tmp_path, monkeypatch):
    asked = []
    plain = ShrunkGaussian.nearest_squared
    monkeypatch.setattr(
        ShrunkGaussian, "nearest_squared", lambda self, x: (asked.append(id(self)), plain(self, x))[1]
    )
    union, test = UnionDetector().fit(classes(400, 0)), classes(50, 1)
    read_by_path = sum(2 for d in union.members_["path"].densities_.values() if hasattr(d, "relative"))
    assert read_by_path == 6
    asked.clear()
    scores = union.score_samples(test)
    assert len(asked) == len(set(asked)) == read_by_path
    union.save(tmp_path / "union")
    again = UnionDetector.load(tmp_path / "union")
    asked.clear()
    np.testing.assert_array_equal(again.score_samples(test), scores)
    assert len(asked) == read_by_path


def test_other_densities_of_a_chunk_are_not_mixed_up(classes):
    paths = classes(200, 0)
    path, relative = PathDetector().fit(paths), RelativePathDetector().fit(paths)  # nothing in common
    (chunk,) = read_chunks(paths, path.points_, "reading")
    first, second = path.score_chunk(chunk), relative.score_chunk(chunk)
    np.testing.assert_array_equal(relative.score_chunk(Chunk(chunk)), second)
    np.testing.assert_array_equal(path.score_chunk(chunk), first)
    assert np.abs(first - second).max() > 0.1


@pytest.mark.parametrize("kind", ["plain", "one wide coordinate", "far from zero", "float16"])
def test_scores_are_those_of_distances_in_float64(kind: str) -> None:
    """What a chunk computes, in float32 where that suffices, against explicit covariances in float64."""
    generator = np.random.default_rng(0)
    labels = np.arange(900) % 5
    x = generator.normal(size=(900, 30)) + 2 * np.random.default_rng(1).normal(size=(5, 30))[labels]
    if kind == "one wide coordinate":
        x[:, 3] *= 1e4
    if kind == "far from zero":
        x += 1e4
    x = x.astype(np.float16 if kind == "float16" else np.float32)
    fit, new = x[:700], x[700:]
    detector = PathDetector().fit(RepresentationPaths.from_arrays({"x": fit}, labels=labels[:700]))
    density = detector.densities_["x"]
    u = new.astype(np.float64)
    u /= np.linalg.norm(u, axis=1, keepdims=True)

    def squared(gaussian) -> np.ndarray:
        precision = gaussian.whitener @ gaussian.whitener.T
        means = gaussian.center + np.linalg.solve(gaussian.whitener.T, gaussian.means.T).T
        apart = u[:, None] - means
        return np.einsum("ncd,de,nce->nc", apart, precision, apart).min(axis=1)

    if isinstance(density, TwofoldDensity):
        near, whole = squared(density.relative.conditional), squared(density.relative.background)
        distance = np.sqrt(whole) / density.spread[0] + (near - whole) / density.spread[1]
    else:
        distance = np.sqrt(squared(density))
    expected = -(distance - detector.location_["x"]) / detector.spread_["x"]
    found = detector.score_samples(RepresentationPaths.from_arrays({"x": new}))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * expected.std())
