"""Members of a union are weighed on in-distribution data: who hears is loud, who tells nothing is not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from repdyn.errors import RepdynError
from repdyn.ood import (
    EnergyDetector,
    PathDetector,
    RelativePathDetector,
    UnionDetector,
    energy,
    load_detector,
)
from repdyn.ood.comparison import IN_DISTRIBUTION, separation
from repdyn.ood.pseudo_ood import find_groups, split_pseudo_ood
from repdyn.ood.union import HEAD_MEMBERS, ensemble_weights
from repdyn.paths import RepresentationPaths


def classes(count: int, seed: int, number: int = 8, moved: float = 0.0, logits: bool = False):
    """Two depths; the second has classes. ``moved`` moves all alike, along a direction of no class."""
    generator = np.random.default_rng(seed)
    label = generator.integers(number, size=count)
    means = 4 * np.linalg.qr(np.random.default_rng(0).normal(size=(20, 20)))[0][:number]
    x, y = generator.normal(size=(2, count, 20))
    y += means[label]
    x[:, 0] += 20
    y[:, 0] += moved
    given = 5 * np.eye(number)[label] if logits else None
    return RepresentationPaths.from_arrays({"first": x, "second": y}, labels=label, logits=given)


def test_equal_members_keep_equal_weights_and_a_deaf_one_loses_its_own() -> None:
    generator = np.random.default_rng(0)
    inside, foreign = generator.exponential(size=(2, 2000, 3))
    foreign[:, :2] += 2
    weights = ensemble_weights(inside, {"near": foreign})
    assert weights[0] == pytest.approx(weights[1], rel=0.1)
    assert weights[2] < 0.5 * weights[0]
    same = ensemble_weights(inside, {"nothing foreign": generator.exponential(size=(2000, 3))})
    np.testing.assert_allclose(same, 1, atol=0.1)


def test_a_set_that_all_hear_leaves_the_choice_to_the_one_that_few_hear() -> None:
    generator = np.random.default_rng(1)
    inside, near, far = generator.exponential(size=(3, 2000, 2))
    near[:, 0] += 2
    far += 50
    first, second = ensemble_weights(inside, {"near": near, "far": far})
    assert first > 1.5 * second


def test_a_rehearsal_holds_groups_out_and_keeps_marginals() -> None:
    paths = classes(600, 0)
    group, kind = find_groups(paths, 0)
    trial = split_pseudo_ood(paths, group, np.random.default_rng(0))
    held = set(np.unique(trial.sets["held-out groups"].labels))
    assert kind == "labels"
    assert held
    assert not held & set(np.unique(trial.fit.labels))
    assert not held & set(np.unique(trial.sets[IN_DISTRIBUTION].labels))
    assert len(trial.fit) + len(trial.sets[IN_DISTRIBUTION]) + len(trial.sets["held-out groups"]) == 600
    known, shuffled = trial.sets[IN_DISTRIBUTION], trial.sets["shuffled coordinates"]
    np.testing.assert_array_equal(
        np.sort(np.asarray(shuffled["second"]), axis=0), np.sort(np.asarray(known["second"]), axis=0)
    )
    bare = RepresentationPaths.from_arrays({"x": np.asarray(paths["second"])})
    assert find_groups(bare, 0)[1] == "clusters"


def test_the_relative_path_hears_a_new_class_and_not_what_moves_all_alike() -> None:
    known, detector = classes(800, 0, 6), RelativePathDetector()
    detector.fit(known)
    assert detector.points_ == ("second",)  # at the first depth there are no classes
    test = classes(400, 1, 6)
    both = classes(800, 2, 8)
    new = both.subset(np.flatnonzero(np.asarray(both.labels) >= 6))
    inside = detector.score_samples(test)
    assert separation(inside, detector.score_samples(new)).auroc[0] > 0.9
    features = {point: torch.from_numpy(np.asarray(test[point])) for point in test.points}
    np.testing.assert_allclose(detector.as_module()(features), inside, rtol=1e-3, atol=1e-3)


def test_the_relative_path_needs_classes() -> None:
    paths = classes(200, 0)
    bare = RepresentationPaths.from_arrays({point: np.asarray(paths[point]) for point in paths.points})
    with pytest.raises(RepdynError, match="class means improve the density at no point"):
        RelativePathDetector().fit(bare)


def test_a_mean_that_float32_cannot_resolve_is_said_and_float64_is_read() -> None:
    paths = classes(200, 0)
    far = {point: np.asarray(paths[point], dtype=np.float64) + 1e8 for point in paths.points}
    near = RepresentationPaths.from_arrays(
        {point: x.astype(np.float32) for point, x in far.items()}, labels=paths.labels
    )
    for detector in (RelativePathDetector(), PathDetector()):
        with pytest.raises(RepdynError, match="beyond the rounding of its number format"):
            detector.fit(near)
    exact = RelativePathDetector().fit(RepresentationPaths.from_arrays(far, labels=paths.labels))
    assert exact.points_ == ("second",)


def test_near_and_far_sets_are_both_heard() -> None:
    union = UnionDetector().fit(classes(600, 0, logits=True))
    assert {"path", "relative path", "nearest neighbors"} <= union.controls_.keys()
    # The near set is heard by classes alone, the far one by the whole path too: neither silences the other.
    assert min(union.weights_[name] for name in ("path", "relative path")) > 0.1


def test_the_head_is_not_rehearsed_and_shares_one_weight(tmp_path) -> None:
    fit = classes(600, 0, logits=True)
    arrays = {point: np.asarray(fit[point]) for point in fit.points}
    union = UnionDetector().fit(RepresentationPaths.from_arrays(arrays, logits=fit.logits))
    assert [union.weights_[name] for name in HEAD_MEMBERS] == [0.5, 0.5]
    union.save(tmp_path / "union")
    again, test = load_detector(tmp_path / "union"), classes(50, 1, logits=True)
    assert again.weights_ == union.weights_
    assert again.controls_.keys() == union.controls_.keys()
    np.testing.assert_allclose(again.score_samples(test), union.score_samples(test), rtol=1e-12)


def test_few_paths_are_not_rehearsed() -> None:
    union = UnionDetector().fit(classes(150, 0))
    assert set(union.weights_.values()) == {1.0}


def test_energy_alone_is_log_sum_exp() -> None:
    paths = classes(60, 0, logits=True)
    detector = EnergyDetector().fit(paths)
    np.testing.assert_allclose(detector.score_samples(paths), energy(paths.logits), rtol=1e-6)
    module = detector.as_module()
    np.testing.assert_allclose(
        module({"logits": torch.tensor(paths.logits)}), energy(paths.logits), rtol=1e-5
    )
