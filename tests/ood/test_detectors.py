"""Detectors: planted separations, invariances, disk, and faults."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm, ortho_group
from sklearn.neighbors import NearestNeighbors

from repdyn.errors import RepdynError
from repdyn.ood import (
    EnergyTrajectoryDetector,
    KNNDetector,
    MahalanobisDetector,
    MixtureDetector,
    PathDetector,
    RelativeMahalanobisDetector,
    RelativePathDetector,
    crossfit,
    load_detector,
)
from repdyn.ood.comparison import separation
from repdyn.ood.crossfit import PathStatistics
from repdyn.ood.detectors import DensityDetector
from repdyn.ood.gaussian import unit
from repdyn.paths import RepresentationPaths

ALL = [PathDetector, MahalanobisDetector, KNNDetector, MixtureDetector, EnergyTrajectoryDetector]


def test_one_dimension_has_the_folded_normal_auroc():
    # In two dimensions far from 0, the unit vector is an angle: a normal variable z, and the distance is |z|.
    generator = np.random.default_rng(0)

    def make(count, shift):
        z = generator.normal(shift, 1, count)
        return RepresentationPaths.from_arrays({"x": np.stack([np.full(count, 1000.0), z], axis=1)})

    detector = PathDetector().fit(make(4000, 0.0))
    found = separation(detector.score_samples(make(8000, 0.0)), detector.score_samples(make(8000, 2.0)))
    r = np.linspace(0, 8, 4001)
    inside = 2 * norm.pdf(r)
    outside_beyond = norm.sf(r - 2) + norm.cdf(-r - 2)
    assert found.auroc[0] == pytest.approx(np.trapezoid(inside * outside_beyond, r), abs=0.01)


def test_the_path_adds_up_evidence_that_no_depth_has(planted):
    detector = PathDetector().fit(planted(1500, depths=8))
    test, foreign = planted(1500, seed=1, depths=8), planted(1500, 2.0, seed=2, depths=8)
    whole = separation(detector.score_samples(test), detector.score_samples(foreign)).auroc[0]
    last = detector.controls_["Mahalanobis"]
    alone = separation(last.score_samples(test), last.score_samples(foreign)).auroc[0]
    assert whole > alone + 0.1


def test_profile_tells_which_depth_moved(planted):
    detector = PathDetector().fit(planted(800))
    arrays = {point: np.asarray(planted(200, seed=3)[point]).copy() for point in detector.points_}
    arrays["layer1"][:, 1] += 6
    profile = detector.profile(RepresentationPaths.from_arrays(arrays)).mean(axis=0)
    assert profile[1] > 3
    assert np.abs(profile[[0, 2]]).max() < 0.3


@pytest.mark.parametrize("kind", ALL)
def test_threshold_passes_95_percent_of_new_normal_paths(kind, planted):
    detector = kind().fit(planted(2000))
    assert np.mean(detector.predict(planted(4000, seed=5)) == 1) == pytest.approx(0.95, abs=0.02)
    assert np.mean(detector.p_values(planted(4000, seed=5)) <= 0.05) == pytest.approx(0.05, abs=0.02)


@pytest.mark.parametrize("kind", ALL)
def test_calibration_on_held_out_paths(kind, planted):
    held_out = planted(999, seed=6)
    detector = kind().fit(planted(300)).calibrate(held_out, false_positive_rate=0.1)
    assert np.mean(detector.predict(held_out) == -1) == pytest.approx(0.099, abs=0.002)
    assert detector.calibration_ == "held-out"
    np.testing.assert_array_equal(detector.decision_function(held_out) < 0, detector.predict(held_out) == -1)


@pytest.mark.parametrize("kind", ALL)
def test_scale_and_rotation_change_nothing(kind, planted):
    fit, test = planted(200), planted(50, 2.0, seed=1)
    turn = ortho_group.rvs(12, random_state=np.random.default_rng(0))

    def turned(paths):
        return RepresentationPaths.from_arrays({p: 7 * np.asarray(paths[p]) @ turn for p in paths.points})

    np.testing.assert_allclose(
        kind().fit(turned(fit)).score_samples(turned(test)), kind().fit(fit).score_samples(test), atol=2e-3
    )


@pytest.mark.parametrize("kind", ALL)
def test_chunks_and_order_change_nothing(kind, planted, monkeypatch):
    detector, test = kind().fit(planted(100)), planted(50, seed=1)
    whole = detector.score_samples(test)
    monkeypatch.setattr("repdyn.ood.path_chunks.ROWS", 7)
    np.testing.assert_allclose(detector.score_samples(test), whole, atol=1e-5)
    back = np.arange(50)[::-1]
    np.testing.assert_allclose(detector.score_samples(test.subset(back)), whole[back], atol=1e-5)


def test_scoring_reads_a_chunk_at_a_time(planted, monkeypatch):
    detector, test = PathDetector().fit(planted(100)), planted(50, seed=1)
    seen = []
    monkeypatch.setattr("repdyn.ood.path_chunks.ROWS", 8)
    monkeypatch.setattr(detector, "densities_", {p: Spy(g, seen) for p, g in detector.densities_.items()})
    detector.score_samples(test)
    assert max(seen) == 8
    assert sum(seen) == 50 * 3


class Spy:
    """Notes how many rows a density is asked for at once."""

    def __init__(self, gaussian, seen):
        self.gaussian, self.seen = gaussian, seen

    def distance_by(self, squared):
        distance = self.gaussian.distance_by(squared)
        self.seen.append(len(distance))
        return distance


@pytest.mark.parametrize("kind", ALL)
def test_saved_and_loaded_scores_the_same(kind, planted, tmp_path):
    detector, test = kind().fit(planted(100)), planted(50, seed=1)
    detector.save(tmp_path / "d")
    for again in (kind.load(tmp_path / "d"), load_detector(tmp_path / "d")):
        np.testing.assert_array_equal(again.score_samples(test), detector.score_samples(test))
        np.testing.assert_array_equal(again.p_values(test), detector.p_values(test))
        assert again.threshold_ == detector.threshold_
        assert type(again) is kind


def test_loaded_path_detector_keeps_its_controls(planted, tmp_path):
    detector, test = PathDetector().fit(planted(100)), planted(20, seed=1)
    detector.save(tmp_path / "d")
    again = PathDetector.load(tmp_path / "d")
    for name, control in detector.controls_.items():
        np.testing.assert_array_equal(again.controls_[name].score_samples(test), control.score_samples(test))


def test_same_seed_same_scores(planted):
    fit, test = planted(100), planted(20, seed=1)
    first, second = PathDetector(seed=4).fit(fit), PathDetector(seed=4).fit(fit)
    np.testing.assert_array_equal(first.score_samples(test), second.score_samples(test))
    assert first.threshold_ == second.threshold_


def test_neighbours_are_scikit_learns(planted):
    fit, test = planted(200), planted(30, seed=1)
    search = NearestNeighbors(n_neighbors=10).fit(unit(np.asarray(fit["layer2"])))
    expected = search.kneighbors(unit(np.asarray(test["layer2"])))[0][:, -1]
    detector = KNNDetector(k=10).fit(fit)
    np.testing.assert_allclose(detector.score_samples(test), -expected, atol=1e-5)
    own = search.kneighbors(n_neighbors=10)[0][:, -1]  # without the sample itself
    np.testing.assert_allclose(detector.calibration_scores_, -own, atol=1e-5)


def test_labels_give_class_means_and_scoring_needs_none(planted):
    generator = np.random.default_rng(0)
    labels = np.array(["a", "b", "c"])[np.arange(300) % 3]
    x = generator.normal(size=(300, 6)) + 8 * np.eye(6)[np.arange(300) % 3]
    detector = PathDetector().fit(RepresentationPaths.from_arrays({"x": x}, labels=labels))
    assert detector.class_means_ == {"x": 3}
    between = RepresentationPaths.from_arrays(
        {"x": generator.normal(size=(100, 6)) + 8 / 3 * np.r_[1, 1, 1, 0, 0, 0]}
    )
    assert np.mean(detector.predict(between) == -1) > 0.9


def classes(count, seed=0, width=10, mean=3.0):
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 4
    layers = {
        f"layer{depth}": generator.normal(size=(count, width)) + mean * depth * np.eye(width)[labels] + 4
        for depth in range(3)
    }
    return RepresentationPaths.from_arrays(layers, labels=labels)


def test_class_means_stay_where_they_help_and_survive_the_disk(tmp_path):
    detector, test = PathDetector().fit(classes(600)), classes(60, seed=1)
    assert detector.class_means_ == {"layer0": 1, "layer1": 4, "layer2": 4}
    assert RelativeMahalanobisDetector(point="layer0").fit(classes(600)).class_means_ == {"layer0": 1}
    assert "relative Mahalanobis" in detector.controls_
    last = PathDetector(points=("layer2",)).fit(classes(600))
    np.testing.assert_allclose(last.score_samples(test), -detector.profile(test)[:, 2], atol=1e-4)
    detector.save(tmp_path / "d")
    again = load_detector(tmp_path / "d")
    assert again.class_means_ == detector.class_means_
    np.testing.assert_array_equal(again.score_samples(test), detector.score_samples(test))


def test_fewer_samples_than_dimensions_works_and_says_so(planted, caplog):
    detector = PathDetector().fit(planted(40, width=200))
    assert "40 samples in 200 dimensions" in caplog.text
    found = separation(
        detector.score_samples(planted(200, seed=1, width=200)),
        detector.score_samples(planted(200, 25.0, seed=2, width=200)),
    )
    assert found.auroc[0] > 0.95


def test_a_constant_point_is_left_out(planted, caplog):
    fit = planted(100)
    arrays = {"start": np.ones((100, 4)), **{p: np.asarray(fit[p]) for p in fit.points}}
    detector = PathDetector().fit(RepresentationPaths.from_arrays(arrays))
    assert detector.points_ == fit.points
    assert "start" in caplog.text
    with pytest.raises(RepdynError, match="no point varies"):
        PathDetector().fit(RepresentationPaths.from_arrays({"start": np.ones((100, 4))}))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"meta": {"model": "planted", "digest": "other", "pooling": "mean"}}, "digest is 'other'"),
        ({"meta": {"model": "planted", "digest": "abc", "pooling": "cls"}}, "pooling is 'cls'"),
        ({"width": 13}, "13 wide"),
        ({"depths": 2}, "lack the point 'layer2'"),
    ],
)
def test_paths_of_another_model_are_refused(change, words, planted, tmp_path):
    PathDetector().fit(planted(50)).save(tmp_path / "d")
    with pytest.raises(RepdynError, match=words):
        PathDetector.load(tmp_path / "d").score_samples(planted(10, **change))


def test_faults(planted, tmp_path):
    with pytest.raises(RepdynError, match="19 samples are too few"):
        PathDetector().fit(planted(19))
    with pytest.raises(RepdynError, match="nearest: 'layer2'"):
        PathDetector(points=("layer22",)).fit(planted(50))
    with pytest.raises(RepdynError, match="not fitted"):
        PathDetector().score_samples(planted(5))
    with pytest.raises(RepdynError, match="not fitted"):
        KNNDetector().save(tmp_path / "none")
    with pytest.raises(RepdynError, match="k: must lie"):
        KNNDetector(k=50).fit(planted(50))
    with pytest.raises(RepdynError, match="trace with a pooling"):
        PathDetector().fit(
            RepresentationPaths.from_arrays({"x": np.random.default_rng(0).normal(size=(30, 4, 3))})
        )
    KNNDetector().fit(planted(50)).save(tmp_path / "knn")
    with pytest.raises(RepdynError, match="holds a KNNDetector"):
        PathDetector.load(tmp_path / "knn")
    with pytest.raises(RepdynError, match="no such file"):
        load_detector(tmp_path / "nowhere")
    (tmp_path / "knn" / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(RepdynError, match="truncated"):
        load_detector(tmp_path / "knn")


def test_no_detector_of_one_point_is_a_kind_of_path_detector():
    kinds = [PathDetector, RelativePathDetector, MahalanobisDetector, RelativeMahalanobisDetector]
    for kind in kinds:
        assert issubclass(kind, DensityDetector)
        assert not any(issubclass(kind, other) for other in kinds if other is not kind)


def test_a_density_and_a_reduction_are_chosen_apart():
    fit, test = classes(600), classes(60, seed=1)
    relative = RelativePathDetector(points=("layer2",)).fit(fit).score_samples(test)
    np.testing.assert_array_equal(
        relative, RelativeMahalanobisDetector(point="layer2").fit(fit).score_samples(test)
    )
    bare = RepresentationPaths.from_arrays({point: np.asarray(fit[point]) for point in fit.points})
    alone = [MahalanobisDetector(point=point).fit(bare).score_samples(test) for point in fit.points]
    whole = PathDetector().fit(bare).score_samples(test)
    np.testing.assert_allclose(np.mean(alone, axis=0), whole, rtol=1e-12)


@pytest.mark.parametrize("kind", [PathDetector, MahalanobisDetector, RelativePathDetector, KNNDetector])
def test_shared_statistics_give_the_scores_of_a_fit_alone(kind):
    fit, test = classes(300), classes(60, seed=1)
    statistics = PathStatistics(fit, seed=3)
    PathDetector(seed=3).fit_statistics(statistics)
    np.testing.assert_array_equal(
        kind(seed=3).fit_statistics(statistics).score_samples(test), kind(seed=3).fit(fit).score_samples(test)
    )


def test_statistics_are_computed_once_for_each_point(monkeypatch):
    computed = []
    plain = crossfit.cross_fit_points
    monkeypatch.setattr(
        crossfit,
        "cross_fit_points",
        lambda paths, points, *rest: computed.append(points) or plain(paths, points, *rest),
    )
    PathDetector(points=("layer0",)).fit(classes(100))
    assert computed == [("layer0",), ("layer2",)]


def test_the_old_name_of_a_control_warns(planted):
    detector = PathDetector().fit(planted(60))
    with pytest.warns(DeprecationWarning, match="'nearest neighbors'"):
        assert detector.controls_["nearest neighbours"] is detector.controls_["nearest neighbors"]
    with pytest.raises(KeyError):
        detector.controls_["nearest"]
