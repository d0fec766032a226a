"""Persistent homology: known shapes, stability, controls, faults."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repdyn.errors import RepdynError
from repdyn.paths import RepresentationPaths
from repdyn.topology import PathPersistence, Persistence, farthest_points, persistence
from repdyn.topology.homology import (
    betti_curve,
    bottleneck_distance,
    gaussian_null,
    longest_is_noise,
    vietoris_rips,
)


def circle(n=200, width=2, noise=0.0, seed=0):
    rng = np.random.default_rng(seed)
    angle = rng.uniform(0, 2 * np.pi, n)
    plane, _ = np.linalg.qr(rng.normal(size=(width, 2)))
    return np.column_stack([np.cos(angle), np.sin(angle)]) @ plane.T + noise * rng.normal(size=(n, width))


def test_square_by_hand():
    diagrams, radius, scale = vietoris_rips([[0, 0], [1, 0], [0, 1], [1, 1]])
    assert scale == pytest.approx(np.sqrt(2))
    assert radius == 0
    np.testing.assert_allclose(diagrams[0], [[0, 1 / np.sqrt(2)]] * 3, rtol=1e-6)
    np.testing.assert_allclose(diagrams[1], [[1 / np.sqrt(2), 1.0]], rtol=1e-6)


def test_circle_has_one_loop_and_a_gaussian_none():
    found = persistence(circle(width=10, noise=0.02), landmarks=60)
    assert found.verdicts[1] == "found"
    lengths = np.sort(np.diff(found.diagrams[1]).ravel())
    assert lengths[-1] > 5 * lengths[:-1].max(initial=0.0)
    blob = persistence(np.random.default_rng(0).normal(size=(200, 10)), landmarks=60)
    assert "found" not in blob.verdicts


def test_two_clusters_are_found_in_dimension_0():
    x = np.random.default_rng(0).normal(size=(200, 4))
    x[100:] += 10  # off the axes: along one, shuffling columns would keep the gap
    assert persistence(x, landmarks=60).verdicts == ("found", "not found")


def test_a_sphere_has_a_void():
    x = np.random.default_rng(0).normal(size=(120, 3))
    diagrams, _, _ = vietoris_rips(x / np.linalg.norm(x, axis=1, keepdims=True), max_dim=2, landmarks=60)
    assert np.diff(diagrams[2]).max() > 0.1


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 1000), st.floats(0.01, 100))
def test_scale_and_basis_change_nothing(seed, factor):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(30, 4))
    rotation, _ = np.linalg.qr(rng.normal(size=(4, 4)))
    for one, other in zip(vietoris_rips(x)[0], vietoris_rips(factor * x @ rotation + 3.0)[0]):
        np.testing.assert_allclose(np.sort(one, axis=0), np.sort(other, axis=0), atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_landmarks_keep_their_error_bound(seed):
    x = circle(150, noise=0.1, seed=seed)
    chosen, radius = farthest_points(x, 40)
    gaps = np.linalg.norm(x[:, None] - x[chosen][None], axis=2).min(axis=1)
    assert radius == pytest.approx(gaps.max())
    whole, _, scale = vietoris_rips(x, landmarks=1000)
    few, covering, scale_few = vietoris_rips(x, landmarks=40)
    for one, other in zip(whole, few):
        distance = bottleneck_distance(one * scale, other * scale_few)
        assert distance <= 2 * covering * scale_few + 1e-6


def test_betti_curve_counts_what_is_alive():
    diagram = np.array([[0.0, 0.5], [0.2, 0.3]])
    assert betti_curve(diagram, np.array([0.0, 0.2, 0.3, 0.6])).tolist() == [1, 2, 1, 0]


def test_gaussian_null_has_the_covariance():
    x = np.random.default_rng(0).normal(size=(4000, 3)) @ np.diag([1, 2, 3]) + 5
    twin = gaussian_null(x, np.random.default_rng(1))
    np.testing.assert_allclose(np.cov(twin.T), np.cov(x.T), atol=0.5)
    np.testing.assert_allclose(twin.mean(0), x.mean(0), atol=0.3)


def test_finds_the_depth_where_topology_changes(tmp_path):
    rng = np.random.default_rng(0)
    ring = circle(240, width=6, noise=0.02)
    blob = rng.normal(size=(240, 6))
    paths = RepresentationPaths.from_arrays({"a": ring, "b": 3 * ring + 1, "c": blob})
    found = persistence(paths, landmarks=60)
    assert [told[1] for told in found.verdicts.values()] == ["not found", "found"]
    assert found.betti_curves().shape == (3, 2, 101)
    found.save(tmp_path / "p")
    loaded = PathPersistence.load(tmp_path / "p")
    assert loaded.to_dict() == found.to_dict()
    assert "change from the previous point" in repr(loaded)
    with pytest.raises(RepdynError, match="through depth"):
        Persistence.load(tmp_path / "p")


def test_saves_and_loads_and_repeats(tmp_path):
    x = circle(80)
    one = persistence(x, landmarks=30, resamples=3, seed=4)
    assert one.to_dict() == persistence(x, landmarks=30, resamples=3, seed=4).to_dict()
    one.save(tmp_path / "p")
    assert Persistence.load(tmp_path / "p").to_dict() == one.to_dict()


def sphere(n, width, noise=0.0, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3))
    space, _ = np.linalg.qr(rng.normal(size=(width, 3)))
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    return x @ space.T + noise * rng.normal(size=(n, width))


@pytest.mark.parametrize(
    ("planted", "n", "found"),
    [(circle, 1200, ["not found", "found"]), (sphere, 400, ["not found", "inconclusive", "found"])],
)
def test_planted_shapes_in_many_dimensions(planted, n, found):
    x = planted(n, width=768, noise=0.002)
    told = persistence(x, max_dim=len(found) - 1, landmarks=60, resamples=4)
    assert list(told.verdicts) == found
    turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(768, 768)))
    again = persistence(30 * x @ turn - 5, max_dim=len(found) - 1, landmarks=60, resamples=4)
    for one, other in zip(told.diagrams, again.diagrams, strict=True):
        np.testing.assert_allclose(np.sort(one, axis=0), np.sort(other, axis=0), atol=1e-5)


def test_a_long_bar_is_no_loop_if_the_landmarks_make_such_bars():
    generator = np.random.default_rng(0)
    for noise in (sphere(400, 60, 0.005), generator.normal(size=(400, 10)), generator.normal(size=(400, 2))):
        diagrams, radius, _ = vietoris_rips(noise, landmarks=100)
        assert longest_is_noise(diagrams[1], radius)
    # At noise of .1 in 60 dimensions the landmarks are too coarse for their error bound to confirm the loop.
    for noise in (0.01, 0.1):
        diagrams, radius, _ = vietoris_rips(circle(400, 60, noise), landmarks=100)
        assert ((np.diff(diagrams[1]) > 2 * radius).any()) == (noise == 0.01)
        assert not longest_is_noise(diagrams[1], radius)
    assert longest_is_noise(np.empty((0, 2)), 0.1)
    few = np.array([[0.1, 0.9], [0.1, 0.12]])
    assert not longest_is_noise(few, 0.39)
    assert longest_is_noise(few, 0.41)
    rounded = np.array([[0.1, 0.1], *([[0.1, 0.105]] * 8), [0.1, 0.8]])
    assert not longest_is_noise(rounded, 1.0)


@pytest.mark.parametrize(
    "kind", ["plain", "far from the origin", "close pairs", "equal points", "massive", "large", "small"]
)
def test_wide_landmarks_are_the_farthest_points(kind):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(120, 50))
    if kind == "close pairs":
        x[60:] = x[:60] + 1e-7 * rng.normal(size=(60, 50))
    elif kind == "equal points":
        x[20:] = x[rng.integers(20, size=100)]
    elif kind == "massive":
        x[:, 4] *= 3e4
    x = {"large": 1e150, "small": 1e-150}.get(kind, 1.0) * x + 1e6 * (kind == "far from the origin")
    gaps = np.linalg.norm(x[:, None] - x[None], axis=2)
    expected = [0]
    while len(expected) < 80 and gaps[expected].min(axis=0).max() > 0:
        expected.append(int(gaps[expected].min(axis=0).argmax()))
    chosen, radius = farthest_points(x, 80)
    assert chosen.tolist() == expected
    np.testing.assert_allclose(radius, gaps[expected].min(axis=0).max(), rtol=1e-9)


def test_the_result_has_the_numbers_of_what_was_sampled(tmp_path):
    x = np.random.default_rng(0).normal(size=(4100, 3))
    x[4000:] = x[:100]  # equal points are one
    found = persistence(x, landmarks=30, resamples=3)
    assert (found.different, found.landmarks, found.sample_size) == (4000, 30, 2000)
    assert all(len(diagrams[0]) == 29 for diagrams in (found.diagrams, *found.samples))
    assert "30 landmarks of 4000 points, intervals from 3 samples of 2000" in repr(found)
    assert found.to_dict()["sample_size"] == 2000
    found.save(tmp_path / "p")
    assert repr(Persistence.load(tmp_path / "p")) == repr(found)
    few = persistence(x[:21], landmarks=30, resamples=3)
    assert (few.different, few.landmarks, few.sample_size) == (21, 21, 10)


def test_bad_input():
    with pytest.raises(RepdynError, match="row 1"):
        persistence([[0.0, 1.0], [np.nan, 1.0]])
    with pytest.raises(RepdynError, match="shape"):
        persistence(np.zeros((3, 4, 5)))
    with pytest.raises(RepdynError, match="max_dim"):
        persistence(np.zeros((3, 4)), max_dim=-1)
    with pytest.raises(RepdynError, match="resamples"):
        persistence(np.zeros((3, 4)), resamples=1)
    for x in (np.ones((30, 3)), np.zeros((1, 3)), np.random.default_rng(0).normal(size=(8, 50))):
        assert "found" not in persistence(x).verdicts


@pytest.mark.parametrize("kind", ["equal", "nearly equal"])
def test_equal_points_count_once(kind):
    generator = np.random.default_rng(3)
    x = generator.normal(size=(40, 6))
    again = np.repeat(x, 4, axis=0)
    if kind == "nearly equal":
        again[1:] += 1e-7 * generator.normal(size=(159, 6))
    one, many = (persistence(points, landmarks=50, resamples=4, seed=1) for points in (x, again[::4]))
    several = persistence(again, landmarks=50, resamples=4, seed=1)
    assert several.verdicts == one.verdicts == many.verdicts
    for mine, own in zip(several.longest, one.longest, strict=True):
        np.testing.assert_allclose([mine.low, mine.high], [own.low, own.high], rtol=1e-4)
