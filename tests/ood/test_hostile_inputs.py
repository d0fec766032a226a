"""Inputs of a layer that died or exploded, far from zero, or that occur several times, in every detector."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from repdyn.ood import (
    AttractorDetector,
    DriftMonitor,
    EnergyDetector,
    EnergyTrajectoryDetector,
    GuidedEnergyDetector,
    KNNDetector,
    MahalanobisDetector,
    MixtureDetector,
    PathDetector,
    ReconstructionDetector,
    RelativeMahalanobisDetector,
    RelativePathDetector,
    ResidualDetector,
    TrajectoryDetector,
    UnionDetector,
    conformal_p_values,
    load_detector,
)
from repdyn.ood.calibration import smooth_log_p_values
from repdyn.ood.gaussian import lengths, unit
from repdyn.ood.path_chunks import Chunk
from repdyn.ood.trajectories import FieldDetector
from repdyn.paths import RepresentationPaths

RP = RepresentationPaths.from_arrays
WIDTH = 6


def data(count: int, seed: int, **changes: float) -> RepresentationPaths:
    """Classes of a few points, with logits."""
    g = np.random.default_rng(seed)
    labels = g.integers(3, size=count)
    means = 3 * np.random.default_rng(99).normal(size=(3, WIDTH))
    x = g.normal(size=(count, WIDTH)) + means[labels]
    return RP({"a": x, "b": np.tanh(x) + 0.1}, labels=labels, logits=x[:, :3])


def maps() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(WIDTH, 2), nn.Tanh()), nn.Linear(2, WIDTH)


DETECTORS = {
    "path": PathDetector,
    "relative path": RelativePathDetector,
    "Mahalanobis": MahalanobisDetector,
    "relative": RelativeMahalanobisDetector,
    "kNN": KNNDetector,
    "mixture": MixtureDetector,
    "energy trajectory": EnergyTrajectoryDetector,
    "guided": GuidedEnergyDetector,
    "energy": EnergyDetector,
    "union": UnionDetector,
    "trajectory": lambda: TrajectoryDetector(*maps()),
    "attractor": lambda: AttractorDetector(*maps()),
    "reconstruction": lambda: ReconstructionDetector(*maps()),
    "residual": lambda: ResidualDetector(*maps()),
}


def broken() -> dict[str, np.ndarray]:
    g = np.random.default_rng(5)
    return {
        "zero": np.zeros((1, WIDTH)),
        "exploded": 1e20 * g.normal(size=(4, WIDTH)),
        "exploded far": 1e200 * g.normal(size=(4, WIDTH)),
        "nearly dead": 1e-15 * g.normal(size=(4, WIDTH)),
    }


@pytest.mark.parametrize("name", DETECTORS)
def test_dead_and_exploded_rows_are_always_flagged(name, tmp_path):
    detector = DETECTORS[name]().fit(data(300, 0))
    for kind, x in broken().items():
        paths = RP({"a": x, "b": x}, logits=np.clip(x[:, :3], -1e30, 1e30))  # logits are float32
        assert (detector.predict(paths) == -1).all(), kind
        assert np.isfinite(detector.score_samples(paths)).all()
        np.testing.assert_allclose(detector.p_values(paths), 1 / (len(detector.calibration_scores_) + 1))
    detector.save(tmp_path / "d")
    again = load_detector(tmp_path / "d")
    if isinstance(again, FieldDetector):
        again.bind(*maps())
    zero = RP({"a": np.zeros((1, WIDTH)), "b": np.zeros((1, WIDTH))}, logits=np.zeros((1, 3)))
    assert again.predict(zero).tolist() == [-1]
    assert again.lengths_ == detector.lengths_


@pytest.mark.parametrize("name", ["path", "relative path", "kNN", "guided", "energy", "union", "trajectory"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 0.0, 1e25])
def test_modules_flag_what_detectors_flag(name, value):
    detector = DETECTORS[name]().fit(data(300, 0))
    module = detector.as_module()
    x = torch.full((2, WIDTH), value)
    normal = data(2, 1)
    scores = module({"a": x, "b": x, "logits": x[:, :3]})
    assert (scores < module.threshold).all()
    assert scores.isfinite().all()
    if value != value:  # one bad entry is enough, and only its row is concerned
        mixed = {p: torch.tensor(np.asarray(normal[p]), dtype=torch.float32) for p in ("a", "b")}
        mixed["logits"] = torch.tensor(np.asarray(normal.logits), dtype=torch.float32)
        plain = module(mixed)
        for key in mixed:
            mixed[key] = mixed[key].clone()
            mixed[key][0, 0] = value
        both = module(mixed)
        assert both[0] < module.threshold
        torch.testing.assert_close(both[1:], plain[1:])


def test_rows_that_are_not_finite_are_flagged_where_a_store_lets_them_through():
    detector = PathDetector().fit(data(300, 0))
    x = np.asarray(data(3, 1)["a"]).copy()
    x[1, 0] = np.nan
    chunk = Chunk({"a": x, "b": np.tanh(np.nan_to_num(x))})
    profile = detector.profile_chunk(chunk)
    assert np.isinf(profile[1, 0])
    assert np.isfinite(profile[[0, 2]]).all()


@pytest.mark.parametrize("score", [float("nan"), float("inf"), -float("inf")])
def test_a_score_that_is_not_finite_has_the_least_p_value(score):
    assert conformal_p_values(range(99), [score]).tolist() == [0.01]
    assert smooth_log_p_values(range(99), [score])[0] == -np.inf


def test_unit_vectors_of_any_magnitude():
    g = np.random.default_rng(0)
    for kind, scales in {np.float32: (1e-30, 1e-20, 1, 1e20, 1e30), np.float64: (1e-300, 1, 1e300)}.items():
        base = g.normal(size=(5, 8))
        expected = base / np.linalg.norm(base, axis=1, keepdims=True)
        for scale in scales:
            np.testing.assert_allclose(unit((base * scale).astype(kind), kind), expected, rtol=1e-5)
            np.testing.assert_allclose(
                lengths((base * scale).astype(kind)), np.linalg.norm(base, axis=1) * scale, rtol=1e-6
            )


def test_drift_of_a_layer_that_died_is_found():
    detector = PathDetector().fit(data(300, 0))
    monitor = DriftMonitor(detector, window=50)
    dead = data(50, 1)
    assert monitor.update(RP({"a": np.zeros((50, WIDTH)), "b": np.asarray(dead["b"])})).flagged.all()
    report = monitor.report()
    assert report.verdict == "drift found"
    assert report.moved == ("a",)


def kth(x, bank, k):
    """In float64, by differences of unit vectors."""
    x, bank = (np.asarray(v, dtype=np.float64) for v in (x, bank))
    x, bank = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, bank))
    return np.sort(np.linalg.norm(x[:, None] - bank, axis=2), axis=1)[:, k - 1]


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("far", [1e2, 1e4, 1e7])
def test_nearest_neighbors_far_from_zero(kind, far):
    if kind == np.float32 and far > 1e4:
        pytest.skip("float32 does not hold such data")
    g = np.random.default_rng(0)
    x = (g.normal(size=(600, 16)) + far).astype(kind)
    y = (g.normal(size=(600, 16)) + far).astype(kind)
    detector = KNNDetector().fit(RP({"x": x}))
    scores = detector.score_samples(RP({"x": y}))
    np.testing.assert_allclose(-scores, kth(y, x, 10), rtol=5e-3 if kind == np.float32 else 1e-6)
    assert len(np.unique(scores)) == 600
    module = detector.as_module()
    if far < 1e4:
        own = module({"x": torch.tensor(y, dtype=torch.float32)}).numpy()
        np.testing.assert_allclose(own, scores, rtol=2e-2)


def test_nearest_neighbors_of_two_tight_opposite_clusters():
    g = np.random.default_rng(1)
    side = np.sign(g.normal(size=(500, 1)))
    x, y = (side * 1e4 + g.normal(size=(500, 16)) for _ in range(2))
    scores = KNNDetector().fit(RP({"x": x})).score_samples(RP({"x": y}))
    np.testing.assert_allclose(-scores, kth(y, x, 10), rtol=1e-6)


@pytest.mark.parametrize("far", [1e3, 1e6])
def test_path_distances_far_from_zero(far):
    g = np.random.default_rng(2)
    x, y = (g.normal(size=(400, 5)) + far for _ in range(2))
    detector = MahalanobisDetector().fit(RP({"x": x}))
    assert (detector.predict(RP({"x": y})) == -1).mean() < 0.12
    # Along the mean nothing moves a direction; across it, five spreads are far.
    across = np.linalg.qr(np.column_stack([np.ones(5), g.normal(size=(5, 1))]))[0][:, 1]
    assert (detector.predict(RP({"x": y + 8 * across})) == -1).all()
    own = unit(y)
    density = detector.densities_["x"]
    plain = np.sqrt((((own - density.center) @ density.whitener) ** 2).sum(axis=1))
    found = detector.profile(RP({"x": y}))[:, 0] * detector.spread_["x"] + detector.location_["x"]
    np.testing.assert_allclose(found, plain, rtol=1e-3)


@pytest.mark.parametrize("name", ["path", "kNN", "Mahalanobis", "union"])
@pytest.mark.parametrize(("times", "noise"), [(2, 0.0), (5, 0.0), (3, 1e-6)])
def test_repeated_rows_leave_the_false_positive_rate_as_it_is(name, times, noise):
    rates = []
    for seed in range(4):
        g = np.random.default_rng(seed)
        x = np.repeat(g.normal(size=(150, 40)), times, axis=0)
        detector = DETECTORS[name]().fit(RP({"x": x + noise * g.normal(size=x.shape)}))
        assert len(detector.calibration_scores_) == 150
        rates.append((detector.predict(RP({"x": g.normal(size=(1000, 40))})) == -1).mean())
    assert np.mean(rates) < 0.09


def test_repeated_rows_give_what_the_same_rows_give_once():
    g = np.random.default_rng(0)
    x = g.normal(size=(200, 10)) + 1
    once, often = KNNDetector().fit(RP({"x": x})), KNNDetector().fit(RP({"x": np.repeat(x, 3, axis=0)}))
    np.testing.assert_allclose(often.calibration_scores_, once.calibration_scores_)
    assert often.threshold_ == once.threshold_
    held = RP({"x": np.repeat(g.normal(size=(60, 10)) + 1, 4, axis=0)})
    assert len(often.calibrate(held).calibration_scores_) == 60


def test_few_different_samples_are_refused_by_their_number():
    x = np.repeat(np.random.default_rng(0).normal(size=(12, 10)), 10, axis=0)
    with pytest.raises(Exception, match="only 12 of 120 samples differ"):
        PathDetector().fit(RP({"x": x}))
    with pytest.raises(Exception, match="one less than the 5 different"):
        KNNDetector().fit(RP({"x": x[:50]}))


def test_calibrating_on_broken_samples_is_refused():
    detector = KNNDetector().fit(data(300, 0))
    with pytest.raises(Exception, match="40 of 40 are not finite or of a norm far"):
        detector.calibrate(RP({"a": np.zeros((40, WIDTH)), "b": np.zeros((40, WIDTH))}))
