"""The union: sees what any member sees, keeps its false-positive rate, and comes back from disk."""

from __future__ import annotations

import numpy as np
import pytest

from repdyn.errors import RepdynError
from repdyn.ood import (
    KNNDetector,
    MahalanobisDetector,
    UnionDetector,
    conformal_p_values,
    evaluate,
    load_detector,
)
from repdyn.ood.calibration import smooth_log_p_values
from repdyn.ood.comparison import separation
from repdyn.paths import RepresentationPaths


def moved(paths, point, shift):
    arrays = {p: np.asarray(paths[p]).copy() for p in paths.points}
    arrays[point][:, 1] += shift
    return RepresentationPaths.from_arrays(arrays, meta=paths.meta)


def test_sees_what_either_member_sees(planted):
    members = {f"at {p}": MahalanobisDetector(point=p) for p in ("layer0", "layer2")}
    union = UnionDetector(members).fit(planted(800))
    inside = planted(400, seed=1)
    for point, blind in (("layer0", "at layer2"), ("layer2", "at layer0")):
        foreign = moved(planted(400, seed=2), point, 6.0)
        whole = separation(union.score_samples(inside), union.score_samples(foreign)).auroc[0]
        member = union.members_[blind]
        assert (
            abs(separation(member.score_samples(inside), member.score_samples(foreign)).auroc[0] - 0.5) < 0.06
        )
        assert whole > 0.95


def test_one_member_ranks_as_that_member(planted):
    union = UnionDetector({"alone": MahalanobisDetector()}).fit(planted(200))
    test = planted(100, 1.0, seed=1)
    order = np.argsort(union.members_["alone"].score_samples(test), kind="stable")
    assert (np.diff(union.score_samples(test)[order]) >= 0).all()


@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_held_out_calibration_keeps_the_rate_on_average(rate, planted):
    union, fresh = UnionDetector().fit(planted(100)), planted(1000, seed=77)
    flagged = []
    for seed in range(20):
        union.calibrate(planted(119, seed=seed + 1), false_positive_rate=rate)
        flagged.append(np.mean(union.predict(fresh) == -1))
    assert np.mean(flagged) == pytest.approx(rate, abs=3 * np.sqrt(rate * (1 - rate) / (20 * 60)))


def test_cross_fitted_threshold_is_near_its_rate_on_fresh_paths(planted):
    union = UnionDetector().fit(planted(1000))
    assert np.mean(union.predict(planted(2000, seed=3)) == -1) == pytest.approx(0.05, abs=0.025)


def test_smooth_p_values_agree_inside_and_go_on_outside():
    reference = np.random.default_rng(0).exponential(size=2000) * -1.0
    inside = np.linspace(np.quantile(reference, 0.06), 0, 50)
    np.testing.assert_allclose(
        np.exp(smooth_log_p_values(reference, inside)), conformal_p_values(reference, inside)
    )
    # For exponential scores the tail is exactly p(s) = exp(s): ten units out, log p is about -10.
    assert smooth_log_p_values(reference, [-10.0])[0] == pytest.approx(-10, rel=0.2)
    steps = smooth_log_p_values(reference, np.linspace(-30, 0, 500))
    assert (np.diff(steps) >= 0).all()
    assert steps.max() <= 0
    assert np.isfinite(smooth_log_p_values(np.zeros(10), [-1.0, 0.0, 1.0])).all()
    with pytest.raises(RepdynError, match="at least 5"):
        smooth_log_p_values(np.zeros(4), [0.0])


def test_a_calibration_sample_that_is_refused_leaves_the_tail_as_it_is():
    """Its score, −10³⁰, was the mean excess of the tail: all scores below the edge had one p-value."""
    reference = np.random.default_rng(0).exponential(size=260) * -1.0
    low = np.linspace(-20, -4, 9)
    known, found = (
        smooth_log_p_values(kept, low) for kept in (reference, np.append(reference, [-1e30, -1e30]))
    )
    np.testing.assert_allclose(found, known, atol=0.2)
    assert (np.diff(found) > 1).all()
    refused = np.append(np.full(8, -1e30), np.arange(4.0))
    with pytest.raises(RepdynError, match=r"4 are too few .* 8 more are of samples that .* refuses"):
        smooth_log_p_values(refused, [0.0])


def test_saved_and_loaded(planted, tmp_path):
    union, test = UnionDetector().fit(planted(100)), planted(30, 1.0, seed=1)
    union.save(tmp_path / "u")
    again = load_detector(tmp_path / "u")
    np.testing.assert_array_equal(again.score_samples(test), union.score_samples(test))
    np.testing.assert_array_equal(again.p_values(test), union.p_values(test))


def test_evaluated_beside_its_members(planted):
    union = UnionDetector().fit(planted(100))
    result = evaluate(union, planted(50, seed=1), {"set": planted(50, 3.0, seed=2)})
    members = ["path", "Mahalanobis", "later half", "mixture"]
    assert list(result.table) == ["UnionDetector", *members, "nearest neighbors"]


def test_a_small_bank_still_gives_every_sample_a_calibration_score(planted):
    union = UnionDetector({"few": KNNDetector(bank=60), "all": MahalanobisDetector()}).fit(planted(200))
    assert len(union.calibration_scores_) == 200
    assert np.mean(union.predict(planted(1000, seed=4)) == -1) == pytest.approx(0.05, abs=0.04)


def test_no_member(planted):
    with pytest.raises(RepdynError, match="members: there is none"):
        UnionDetector({}).fit(planted(30))


def test_of_few_samples_later_points_count_more() -> None:
    generator = np.random.default_rng(0)
    arrays = {f"p{k}": generator.normal(size=(150, 6)) + 3 for k in range(7)}
    union = UnionDetector().fit(RepresentationPaths.from_arrays(arrays, labels=np.arange(150) // 2))
    read = {name: member.points_ for name, member in union.members_.items()}
    points = tuple(arrays)
    assert read == {
        "path": points,
        "Mahalanobis": points[-1:],
        "later half": points[3:],
        "last third": points[5:],
    }
    assert set(union.weights_.values()) == {1.0}
    # A change at the last points is detected better than the same one at the first points.
    fresh = {f"p{k}": generator.normal(size=(400, 6)) + 3 for k in range(7)}
    usual = union.score_samples(RepresentationPaths.from_arrays(fresh))
    lower = []
    for moved in (points[:2], points[5:]):
        other = {p: x * np.where(np.arange(6) < 3, 1.4, 0.6) if p in moved else x for p, x in fresh.items()}
        scores = union.score_samples(RepresentationPaths.from_arrays(other))
        lower.append(float((scores[:, None] < usual).mean()))
    assert lower[1] > lower[0] + 0.03


@pytest.mark.parametrize(
    ("count", "names"), [(1, set()), (2, set()), (3, {"later half"}), (4, {"later half"})]
)
def test_of_few_points_no_two_members_of_a_union_are_the_same_path(count: int, names: set[str]) -> None:
    arrays = {f"p{k}": np.random.default_rng(k).normal(size=(60, 6)) for k in range(count)}
    union = UnionDetector().fit(RepresentationPaths.from_arrays(arrays))
    assert set(union.members_) == {"path", "Mahalanobis", "mixture"} | names


def test_of_few_samples_the_mahalanobis_distance_takes_the_place_of_neighbors() -> None:
    # A sample or two of each class: class means do not help, and weights of members cannot be validated.
    x = np.random.default_rng(0).normal(size=(400, 8)) + 3
    few = RepresentationPaths.from_arrays({"x": x[:150]}, labels=np.arange(150) // 2)
    assert set(UnionDetector().fit(few).members_) == {"path", "Mahalanobis"}
    unlabeled = RepresentationPaths.from_arrays({"x": x[:150]})
    assert set(UnionDetector().fit(unlabeled).members_) == {"path", "Mahalanobis", "mixture"}
    many = RepresentationPaths.from_arrays({"x": x}, labels=np.arange(400) // 2)
    assert "Mahalanobis" not in UnionDetector().fit(many).members_
