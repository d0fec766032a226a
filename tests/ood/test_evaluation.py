"""The evaluation: verdicts on planted cases, controls, intervals, disk."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from repdyn.errors import RepdynError
from repdyn.ood import (
    KNNDetector,
    MahalanobisDetector,
    OODEvaluation,
    PathDetector,
    UnionDetector,
    energy,
    evaluate,
)
from repdyn.ood.comparison import separation
from repdyn.paths import RepresentationPaths, open_paths


@pytest.fixture
def moved_early(planted):
    """Foreign paths that differ at the first points and arrive where all others do."""
    paths = planted(300, seed=9)
    arrays = {p: np.asarray(paths[p]).copy() for p in paths.points}
    arrays["layer0"][:, 1] += 6
    arrays["layer1"][:, 1] += 6
    return RepresentationPaths.from_arrays(arrays, meta=paths.meta)


def test_verdict_found_where_only_the_path_sees_it(planted, moved_early):
    result = evaluate(PathDetector().fit(planted(600)), planted(300, seed=1), {"early": moved_early})
    assert result.verdict == {"early": "found"}
    assert result.difference["early"].low > 0.2
    assert list(result.table) == ["PathDetector", "nearest neighbors", "Mahalanobis"]
    profile = result.profile["early"].mean(axis=0)
    assert profile[0] > 2 > abs(profile[2])


def test_verdict_not_found_where_the_last_point_says_more(planted):
    foreign = planted(300, seed=9)
    arrays = {p: np.asarray(foreign[p]).copy() for p in foreign.points}
    arrays["layer2"][:, 1] += 3
    last = RepresentationPaths.from_arrays(arrays, meta=foreign.meta)
    result = evaluate(PathDetector().fit(planted(600)), planted(300, seed=1), {"late": last})
    assert result.verdict == {"late": "not found"}
    assert result.difference["late"].high < 0


def test_verdict_inconclusive_between_equals(planted):
    fit = planted(600)
    same = {"the same": MahalanobisDetector().fit(fit)}
    result = evaluate(
        MahalanobisDetector().fit(fit), planted(200, seed=1), {"set": planted(200, 2, seed=2)}, controls=same
    )
    assert result.verdict == {"set": "inconclusive"}
    assert result.difference["set"].value == 0


def test_figures_are_those_of_the_scores_and_lie_in_their_intervals(planted):
    sets = {"near": planted(200, 1.5, seed=2), "far": planted(150, 4.0, seed=3)}
    result = evaluate(PathDetector().fit(planted(400)), planted(300, seed=1), sets, positive="ood")
    for detector, row in result.table.items():
        for name in sets:
            own = result.scores[detector]
            expected = separation(own["in-distribution"], own[name], "ood")
            for metric, found in row[name].items():
                assert found.value == getattr(expected, metric)[0]
                assert found.low <= found.value <= found.high
        mean = np.mean([row[name]["auroc"].value for name in sets])
        assert row["mean of sets"]["auroc"].value == pytest.approx(mean)


def test_interval_width_is_that_of_hanley_mcneil(planted):
    result = evaluate(
        PathDetector().fit(planted(400)), planted(300, seed=1), {"near": planted(300, 1.5, seed=2)}
    )
    found = result.table["PathDetector"]["near"]["auroc"]
    a, n = found.value, 300
    q1, q2 = a / (2 - a), 2 * a * a / (1 + a)
    error = np.sqrt((a * (1 - a) + (n - 1) * (q1 + q2 - 2 * a * a)) / n**2)
    assert (found.high - found.low) == pytest.approx(2 * 1.96 * error, rel=0.2)


def test_low_level_statistics_are_a_control(planted, moved_early):
    generator = np.random.default_rng(0)
    inside = generator.normal(size=(300, 2)) * [1, 100]
    result = evaluate(
        PathDetector().fit(planted(600)),
        planted(300, seed=1),
        {"early": moved_early},
        statistics={"in-distribution": inside, "early": generator.normal(size=(300, 2)) * [1, 100] + [50, 0]},
    )
    assert result.best_control == {"early": "low-level statistics"}
    assert result.verdict["early"] != "found"
    with pytest.raises(RepdynError, match="lack the set 'early'"):
        evaluate(
            PathDetector().fit(planted(60)),
            planted(300, seed=1),
            {"early": moved_early},
            statistics={"in-distribution": inside},
        )


def test_energy_stands_beside_where_there_are_logits(planted):
    generator = np.random.default_rng(0)

    def with_logits(paths, scale):
        logits = scale * generator.normal(size=(len(paths), 5))
        return RepresentationPaths.from_arrays(
            {p: np.asarray(paths[p]) for p in paths.points}, logits=logits, meta=paths.meta
        )

    result = evaluate(
        PathDetector().fit(planted(100)),
        with_logits(planted(100, seed=1), 5),
        {"flat": with_logits(planted(100, seed=2), 1)},
    )
    assert result.table["energy"]["flat"]["auroc"].value > 0.9
    np.testing.assert_allclose(energy([[1000.0, 1000.0]]), 1000 + np.log(2))


def test_saved_and_loaded(planted, tmp_path):
    result = evaluate(PathDetector().fit(planted(60)), planted(50, seed=1), {"set": planted(40, 2, seed=2)})
    result.save(tmp_path / "e")
    again = OODEvaluation.load(tmp_path / "e")
    assert again.to_dict() == result.to_dict()
    assert repr(again) == repr(result)
    for detector, row in result.scores.items():
        for name, array in row.items():
            np.testing.assert_array_equal(again.scores[detector][name], array)
    for name, array in result.profile.items():
        np.testing.assert_array_equal(again.profile[name], array)


def test_an_evaluation_without_the_profile_of_a_set_is_refused(planted, tmp_path):
    result = evaluate(PathDetector().fit(planted(60)), planted(50, seed=1), {"set": planted(40, 2, seed=2)})
    kept = {name: rows for name, rows in result.profile.items() if name == "set"}
    replace(result, profile=kept).save(tmp_path / "e")
    with pytest.raises(RepdynError, match="profiles are of"):
        OODEvaluation.load(tmp_path / "e")


def test_picture_has_every_set_and_detector(planted):
    pytest.importorskip("plotly")
    result = evaluate(PathDetector().fit(planted(60)), planted(50, seed=1), {"afar": planted(40, 2, seed=2)})
    drawn = result.plot().to_json()
    for word in ("afar", "in-distribution", "PathDetector", "Mahalanobis"):
        assert word in drawn


def test_same_seed_same_intervals(planted):
    detector = PathDetector().fit(planted(60))
    args = detector, planted(50, seed=1), {"set": planted(40, 2, seed=2)}
    assert evaluate(*args, seed=3).to_dict() == evaluate(*args, seed=3).to_dict()
    assert evaluate(*args, seed=3).to_dict() != evaluate(*args, seed=4).to_dict()


def test_repr_fits_a_screen_and_names_everything(planted):
    result = evaluate(PathDetector().fit(planted(60)), planted(50, seed=1), {"set": planted(40, 2, seed=2)})
    assert len(repr(result).splitlines()) < 25
    for word in ("PathDetector", "nearest neighbors", "Mahalanobis", result.verdict["set"]):
        assert word in repr(result)


def test_faults(planted):
    detector = PathDetector().fit(planted(60))
    with pytest.raises(RepdynError, match="there is no set"):
        evaluate(detector, planted(20), {})
    with pytest.raises(RepdynError, match="is taken"):
        evaluate(detector, planted(20), {"in-distribution": planted(20)})
    with pytest.raises(RepdynError, match="controls: there is none"):
        evaluate(KNNDetector().fit(planted(60)), planted(20), {"set": planted(20)})


def test_scores_and_profiles_are_those_of_every_detector_alone(planted) -> None:
    fit, inside, foreign = planted(600), planted(120, seed=1), planted(100, 2, seed=2)
    logits = [np.random.default_rng(k).normal(size=(len(p), 4)) for k, p in enumerate((inside, foreign))]
    inside, foreign = (
        RepresentationPaths.from_arrays({p: paths[p] for p in paths.points}, logits=own, meta=paths.meta)
        for paths, own in zip((inside, foreign), logits)
    )
    detector, first = PathDetector().fit(fit), KNNDetector(point="layer0").fit(fit)

    class Own(MahalanobisDetector):
        def score_samples(self, paths):
            return np.asarray(paths["layer1"])[:, 0].astype(float)

    controls = {"first point": first, "its own way": Own().fit(fit)}
    result = evaluate(detector, inside, {"foreign": foreign}, controls=controls)
    assert list(result.scores) == ["PathDetector", "first point", "its own way", "energy"]
    for name, paths in (("in-distribution", inside), ("foreign", foreign)):
        for key, fitted in {"PathDetector": detector, **controls}.items():
            np.testing.assert_allclose(result.scores[key][name], fitted.score_samples(paths), rtol=1e-12)
        np.testing.assert_allclose(result.scores["energy"][name], energy(paths.logits))
        np.testing.assert_allclose(result.profile[name], detector.profile(paths), rtol=1e-12)


def test_a_point_may_be_named_as_the_logits_are(planted) -> None:
    fit, inside = planted(600), planted(120, seed=1)
    outputs = np.random.default_rng(0).normal(size=(120, 4))
    arrays = {"layer0": inside["layer0"], "logits": inside["layer1"]}
    paths = RepresentationPaths.from_arrays(arrays, logits=outputs, meta=inside.meta)
    result = evaluate(MahalanobisDetector(point="layer0").fit(fit), paths, {"same": paths}, controls={})
    np.testing.assert_allclose(result.scores["energy"]["same"], energy(outputs))


@pytest.mark.parametrize("held", [True, False])
def test_a_remote_set_is_fetched_once_for_all_detectors(held, planted, monkeypatch) -> None:
    fit, inside = planted(600), planted(400, seed=1)
    detector = UnionDetector().fit(fit)
    assert len(detector.controls_) >= 3
    expected = evaluate(detector, inside, {"same": inside})
    inside.save("memory://bucket/a.paths")
    fetched = []
    cat = MemoryFileSystem.cat_file

    def counted(self, path, start=None, end=None):
        data = cat(self, path, start=start, end=end)
        fetched.append(len(data) if "/paths/c/" in path else 0)
        return data

    monkeypatch.setattr(MemoryFileSystem, "cat_file", counted)
    if not held:  # too large to be kept
        monkeypatch.setattr("repdyn.ood.evaluation.HELD", 0)
        monkeypatch.setattr("repdyn.ood.path_chunks.HELD", 0)
    try:
        there = open_paths("memory://bucket/a.paths")
        found = evaluate(detector, there, {"same": there})
    finally:
        MemoryFileSystem.store.clear()
        MemoryFileSystem.pseudo_dirs[:] = [""]
    # One pass for the scores; where it is not held, two more for equal samples. The same set is given twice.
    store = sum(np.asarray(inside[p]).nbytes for p in inside.points)
    assert sum(fetched) <= 2 * store * (1 if held else 3) * 1.1
    for name, row in expected.scores.items():
        np.testing.assert_allclose(found.scores[name]["same"], row["same"], rtol=1e-9)
