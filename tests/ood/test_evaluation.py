"""The evaluation: verdicts on planted cases, controls, intervals, disk."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from repdyn.errors import RepdynError
from repdyn.ood import KNNDetector, MahalanobisDetector, OODEvaluation, PathDetector, energy, evaluate
from repdyn.ood.comparison import separation
from repdyn.paths import RepresentationPaths


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
