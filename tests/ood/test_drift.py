"""Drift: silent where nothing moved, told where something did, and at the right depth."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from repdyn.artifacts import save_artifact
from repdyn.errors import RepdynError
from repdyn.ood import DriftMonitor, DriftReport, MahalanobisDetector, PathDetector, UnionDetector
from repdyn.paths import RepresentationPaths


def moved_at(paths: RepresentationPaths, point: str, by: float) -> RepresentationPaths:
    arrays = {name: np.asarray(paths[name]).copy() for name in paths.points}
    arrays[point][:, 1] += by
    return RepresentationPaths.from_arrays(arrays, meta=paths.meta)


def test_data_like_the_trainings_has_not_drifted(planted):
    detector = PathDetector().fit(planted(600)).calibrate(planted(600, seed=1))
    verdicts = []
    for seed in range(10):
        monitor = DriftMonitor(detector, window=200)
        monitor.update(planted(400, seed=10 + seed))
        verdicts.append(monitor.report().verdict)
    assert "drift found" not in verdicts
    assert verdicts.count("no drift found") >= 7


def test_a_moved_depth_is_named_and_dated(planted):
    detector = PathDetector().fit(planted(600))
    monitor = DriftMonitor(detector, window=100)
    monitor.update(planted(200, seed=1))
    monitor.update(moved_at(planted(100, seed=2), "layer1", 5.0))
    report = monitor.report()
    assert report.verdict == "drift found"
    assert report.moved[0] == "layer1"
    assert report.start.tolist() == [0, 100, 200]
    assert report.flagged[1].high < report.flagged[2].low
    assert "layer1" in repr(report)
    assert report.plot().data


def test_parts_of_any_size_give_the_same_report(planted):
    detector, stream = PathDetector().fit(planted(300)), planted(230, 1.0, seed=1)
    whole, parts = (DriftMonitor(detector, window=50) for _ in range(2))
    whole.update(stream)
    for start in range(0, 230, 7):
        parts.update(stream.subset(np.arange(start, min(start + 7, 230))))
    one, other = whole.report(), parts.report()
    assert (one.flagged, one.moved, one.verdict) == (other.flagged, other.moved, other.verdict)
    np.testing.assert_allclose([s.value for s in one.shift], [s.value for s in other.shift], atol=1e-6)
    # 30 of the last window are enough for one of their own.
    assert whole.report().count.tolist() == [50, 50, 50, 50, 30]


def test_the_expected_share_is_the_rate_asked_for(planted):
    detector = PathDetector().fit(planted(300)).calibrate(planted(499, seed=1), 0.1)
    monitor = DriftMonitor(detector, window=100)
    monitor.update(planted(100, seed=2))
    expected = monitor.report().expected
    assert expected.value == pytest.approx(0.1)
    assert expected.low < 0.1 < expected.high


def test_unions_have_their_path_members_depths_and_single_points_have_one(planted):
    for detector, depths in ((UnionDetector(), 3), (MahalanobisDetector(), 1)):
        monitor = DriftMonitor(detector.fit(planted(200)), window=50)
        scored = monitor.update(planted(60, 2.0, seed=1))
        assert scored.profile is not None
        assert scored.profile.shape == (60, depths)
        assert len(monitor.report().shift) == depths


def test_saved_and_loaded(planted, tmp_path):
    monitor = DriftMonitor(PathDetector().fit(planted(200)), window=50)
    monitor.update(planted(120, seed=1))
    monitor.skipped = 2
    report = monitor.report()
    report.save(tmp_path / "a.drift")
    assert DriftReport.load(tmp_path / "a.drift").to_dict() == report.to_dict()


def test_nothing_scored_and_windows_too_small(planted):
    detector = PathDetector().fit(planted(100))
    with pytest.raises(RepdynError, match="nothing was scored"):
        DriftMonitor(detector).report()
    with pytest.raises(RepdynError, match="at least 20"):
        DriftMonitor(detector, window=5)


def test_samples_that_are_not_finite_count_as_flagged_and_move_every_depth():
    generator = np.random.default_rng(0)
    paths = RepresentationPaths.from_arrays(
        {"a": generator.normal(size=(300, 6)) + 3, "b": generator.normal(size=(300, 6)) + 3}
    )
    monitor = DriftMonitor(PathDetector().fit(paths), window=40)
    monitor.update(paths.subset(np.arange(20)))
    scored = monitor.note_broken(20)
    assert scored.flagged.all()
    assert (scored.scores < monitor.detector.threshold_).all()
    report = monitor.report()
    assert report.flagged[-1].value >= 0.5
    assert report.verdict == "drift found"
    assert set(report.moved) == {"a", "b"}


@pytest.mark.parametrize("kind", [PathDetector, UnionDetector, MahalanobisDetector])
def test_a_stream_that_repeats_its_samples_is_as_uncertain_as_of_each_once(kind):
    generator = np.random.default_rng(0)
    detector = kind().fit(RepresentationPaths.from_arrays({"a": generator.normal(size=(300, 6)) + 3}))
    x = generator.normal(size=(30, 6)) + 2
    reports = []
    for times in (1, 5):
        monitor = DriftMonitor(detector, window=200)
        monitor.update(RepresentationPaths.from_arrays({"a": np.repeat(x, times, axis=0)}))
        reports.append(monitor.report())
    once, often = reports
    assert often.count.sum() == 5 * once.count.sum()
    assert often.flagged[0] == once.flagged[0]
    assert (often.verdict, often.moved) == (once.verdict, once.moved)
    for one, other in zip(once.shift, often.shift):
        assert (other.low, other.high) == pytest.approx((one.low, one.high))


def test_a_stream_of_one_sample_over_and_over_is_reported():
    generator = np.random.default_rng(0)
    detector = PathDetector().fit(RepresentationPaths.from_arrays({"a": generator.normal(size=(300, 6)) + 3}))
    monitor = DriftMonitor(detector, window=30)
    monitor.update(RepresentationPaths.from_arrays({"a": np.full((30, 6), 3.0)}))
    assert monitor.report().flagged[0].high > 0.5  # one sample says next to nothing


@pytest.mark.parametrize(
    ("saved", "read"),
    [("found", "drift found"), ("not found", "no drift found"), ("inconclusive", "inconclusive")],
)
def test_a_report_of_version_01_is_read_in_the_present_words(planted, tmp_path, monkeypatch, saved, read):
    monitor = DriftMonitor(PathDetector().fit(planted(100)), window=50)
    monitor.update(planted(50, seed=1))
    report = monitor.report()
    config = {"drift": {**report.to_dict(), "verdict": saved}}
    with monkeypatch.context() as patch:
        patch.setattr("repdyn.artifacts.SCHEMA_VERSION", 1)
        save_artifact(tmp_path / "d", "drift", config, {"count": report.count})
    again = DriftReport.load(tmp_path / "d")
    assert again.verdict == read
    assert {**again.to_dict(), "verdict": ""} == {**report.to_dict(), "verdict": ""}


@pytest.mark.parametrize("count", [20, 999, 1000, 1049, 1050, 1100, 1149, 2375])
def test_windows_are_those_of_the_whole_stream_however_it_is_parted(planted, count):
    """The windows that are closed while a stream runs are those of all flags, cut at its end."""
    detector, stream = PathDetector().fit(planted(200)), planted(count, 1.0, seed=5)
    monitor, generator, begun = DriftMonitor(detector, window=100), np.random.default_rng(0), 0
    while begun < count:
        size = int(generator.integers(1, 260))
        monitor.update(stream.subset(np.arange(begun, min(begun + size, count))))
        begun += size
    report, flags = monitor.report(), detector.predict(stream) < 0
    start = [k for k in range(0, count, 100) if k == 0 or count - k >= 50]
    assert report.start.tolist() == start
    assert report.count.tolist() == np.diff([*start, count]).tolist()
    expected = [flags[k : k + n].mean() for k, n in zip(report.start, report.count)]
    np.testing.assert_allclose([share.value for share in report.flagged], expected)
    whole = DriftMonitor(detector, window=100)
    whole.update(stream)
    assert [repr(share) for share in whole.report().flagged] == [repr(share) for share in report.flagged]


def test_a_million_samples_take_no_more_memory_than_a_hundred_thousand():
    generator = np.random.default_rng(0)

    def stream():
        for _ in range(100):
            x = generator.normal(size=(10_000, 2)).astype(np.float32) + 5
            yield RepresentationPaths.from_arrays({"x": x})

    detector = MahalanobisDetector().fit(next(stream()))
    monitor, held = DriftMonitor(detector, window=5000), []
    tracemalloc.start()
    try:
        for paths in stream():
            monitor.update(paths)
            held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    report = monitor.report()
    assert report.count.sum() == 1_000_000
    assert abs(np.mean([share.value for share in report.flagged]) - 0.05) < 0.01
    assert max(held[50:]) - min(held[5:15]) < 300_000  # a flag for each sample alone would take 900 kB


def test_no_depth_moves_where_the_stream_is_like_the_fitted_paths() -> None:
    """Without held-out paths too, whose mean distance is known better than that of cross-fitted ones."""
    moved = 0
    for seed in range(40):
        g = np.random.default_rng([55, seed])

        def draw(count, g=g):
            return RepresentationPaths.from_arrays({k: g.normal(size=(count, 8)) for k in "abc"})

        monitor = DriftMonitor(PathDetector().fit(draw(300)), window=100)
        monitor.update(draw(100))
        moved += bool(monitor.report().moved)
    assert moved <= 6  # nominal .05: more in one of 300; it was .23
