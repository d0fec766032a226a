"""Energy guided by neighbors: the formula, its calibration, and where there are no logits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from repdyn.errors import RepdynError
from repdyn.ood import GuidedEnergyDetector, UnionDetector, load_detector
from repdyn.paths import RepresentationPaths


def classified(count: int, seed: int, confidence: float = 6.0, shift: float = 0.0) -> RepresentationPaths:
    generator = np.random.default_rng(seed)
    label = generator.integers(3, size=count)
    x = generator.normal(size=(count, 6)) + 4 * np.eye(6)[label] + shift
    logits = confidence * np.eye(3)[label] + generator.normal(size=(count, 3))
    return RepresentationPaths.from_arrays({"last": x}, labels=label, logits=logits)


def test_scores_are_energy_times_weighted_similarity() -> None:
    fit, new = classified(40, 0), classified(7, 1)
    scores = GuidedEnergyDetector(k=3).fit(fit).score_samples(new)

    def parts(paths: RepresentationPaths) -> tuple[np.ndarray, np.ndarray]:
        x = np.asarray(paths["last"], dtype=float)
        assert paths.logits is not None
        logits = np.asarray(paths.logits, dtype=float)
        return x / np.linalg.norm(x, axis=1, keepdims=True), np.log(np.exp(logits).sum(axis=1))

    (bank, weight), (x, own) = parts(fit), parts(new)
    guidance = np.sort((x @ bank.T) * weight, axis=1)[:, -3:].mean(axis=1)
    np.testing.assert_allclose(scores, own * guidance, rtol=1e-4)


def test_calibration_leaves_each_sample_out_of_its_own_neighbours() -> None:
    fit = classified(60, 0)
    detector = GuidedEnergyDetector(k=2).fit(fit)
    own = detector.score_samples(fit) - detector.calibration_scores_
    assert (own > -1e-4).all()
    assert (own > 0.1).any()
    rest = GuidedEnergyDetector(k=2).fit(fit.subset(np.arange(1, 60)))
    np.testing.assert_allclose(
        rest.score_samples(fit.subset(np.array([0]))), detector.calibration_scores_[:1], rtol=1e-5
    )
    assert (detector.predict(classified(300, 2)) == 1).mean() > 0.8


def without_labels(paths: RepresentationPaths) -> RepresentationPaths:
    return RepresentationPaths.from_arrays({"last": np.asarray(paths["last"])}, logits=paths.logits)


def test_the_union_has_distances_to_classes_in_the_place_of_the_head() -> None:
    with_labels, without = classified(200, 0), without_labels(classified(200, 0))
    assert "relative path" in UnionDetector().fit(with_labels).controls_
    assert "guided energy" not in UnionDetector().fit(with_labels).controls_
    assert {"guided energy", "energy of the head"} <= UnionDetector().fit(without).members_.keys()


def test_the_union_of_few_samples_is_path_and_mahalanobis() -> None:
    generator = np.random.default_rng(0)
    arrays = {name: generator.normal(size=(199, 5)) + 3 for name in ("a", "b")}
    labels, logits = np.arange(199), generator.normal(size=(199, 300))  # one sample of each class
    few = RepresentationPaths.from_arrays(arrays, labels=labels, logits=logits)
    assert UnionDetector().fit(few).weights_ == {"path": 1.0, "Mahalanobis": 1.0}
    more = {name: np.concatenate([x, x[:1] + 0.1]) for name, x in arrays.items()}
    more_logits = np.concatenate([logits, logits[:1]])
    members = UnionDetector().fit(RepresentationPaths.from_arrays(more, logits=more_logits)).controls_
    assert {"nearest neighbors", "guided energy"} <= members.keys()


def test_the_union_listens_to_the_head_where_there_are_logits_and_no_labels(tmp_path) -> None:
    fit = without_labels(classified(200, 0))
    union = UnionDetector().fit(fit)
    assert "guided energy" in union.members_
    unsure, sure = classified(100, 1, confidence=0.0), classified(100, 2)
    assert union.score_samples(unsure).mean() < union.score_samples(sure).mean() - 1
    union.save(tmp_path / "union")
    again = load_detector(tmp_path / "union")
    np.testing.assert_array_equal(again.score_samples(sure), union.score_samples(sure))
    features = {"last": torch.from_numpy(np.asarray(sure["last"])), "logits": torch.tensor(sure.logits)}
    np.testing.assert_allclose(union.as_module()(features), union.score_samples(sure), rtol=1e-3, atol=1e-3)


def test_without_logits_it_says_so_and_the_union_does_without() -> None:
    paths = RepresentationPaths.from_arrays({"last": np.random.default_rng(0).normal(size=(50, 4)) + 3})
    with pytest.raises(RepdynError, match="'logits'"):
        GuidedEnergyDetector().fit(paths)
    assert "guided energy" not in UnionDetector().fit(paths).members_
    fitted = GuidedEnergyDetector().fit(classified(50, 0))
    bare = RepresentationPaths.from_arrays({"last": np.ones((3, 6))})
    with pytest.raises(RepdynError, match="lack the point 'logits'"):
        fitted.score_samples(bare)
