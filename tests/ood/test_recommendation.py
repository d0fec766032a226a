"""Recommending a detector from in-distribution data alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from repdyn.errors import RepdynError
from repdyn.ood import (
    EnergyTrajectoryDetector,
    KNNDetector,
    MahalanobisDetector,
    PathDetector,
    Recommendation,
    UnionDetector,
    load_detector,
    recommend,
)
from repdyn.ood.detector import Detector
from repdyn.paths import RepresentationPaths


def classes(count: int, seed: int = 0, labelled: bool = True) -> RepresentationPaths:
    """Ten classes that are well apart at the first point, and lost in noise at the second."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 10
    means = np.random.default_rng(99).normal(size=(10, 16))
    first = means[labels] + 0.05 * generator.normal(size=(count, 16))
    second = generator.normal(size=(count, 16))
    arrays = {"first": first, "second": second}
    return RepresentationPaths.from_arrays(arrays, labels=labels if labelled else None)


def test_the_detector_that_sees_the_held_out_classes_is_recommended():
    candidates: dict[str, Detector] = {
        "sees": KNNDetector(point="first"),
        "blind": KNNDetector(point="second"),
    }
    found = recommend(classes(600), candidates)
    assert (found.best, found.verdict, found.groups) == ("sees", "found", "labels")
    assert found.detector is candidates["sees"]
    assert found.table["sees"]["held-out groups"].value > 0.95
    assert 0.35 < found.table["blind"]["held-out groups"].value < 0.65
    assert found.to_dict()["best"] == "sees"
    assert "sees" in repr(found)


def test_two_alike_are_inconclusive():
    found = recommend(
        classes(400), {"one": MahalanobisDetector("first"), "same": MahalanobisDetector("first")}
    )
    assert found.verdict == "inconclusive"


def test_without_labels_clusters_are_held_out_and_the_union_supplies_the_candidates():
    found = recommend(classes(300, labelled=False))
    assert found.groups == "clusters"
    assert {"path", "union", "nearest neighbors", "Mahalanobis"} <= set(found.table)
    assert not hasattr(found.detector, "threshold_")
    assert found.plot().data


def test_same_seed_same_recommendation():
    candidates = {"kNN": KNNDetector(), "path": PathDetector()}
    one, two = (recommend(classes(300), candidates, seed=3).to_dict() for _ in range(2))
    assert one == two


def test_too_few_paths_or_groups():
    with pytest.raises(RepdynError, match="at least 200 paths"):
        recommend(classes(100))


def headed(labelled: bool) -> RepresentationPaths:
    generator = np.random.default_rng(0)
    labels = np.arange(300) % 6
    x = generator.normal(size=(300, 8)) + 3 * generator.normal(size=(6, 8))[labels]
    return RepresentationPaths.from_arrays(
        {"x": x}, labels=labels if labelled else None, logits=5 * np.eye(6)[labels]
    )


def test_with_a_head_the_union_stands_back_only_for_what_clearly_beats_it():
    found = recommend(headed(labelled=False))
    others = [row["mean of sets"].value for name, row in found.table.items() if name != "union"]
    assert "guided energy" in found.table
    assert found.best == "union" or found.table["union"]["mean of sets"].high < max(others)


def test_of_nearly_equal_ones_the_union_is_recommended():
    sees, blind = KNNDetector(point="first"), KNNDetector(point="second")
    found = recommend(classes(600), {"sees": sees, "union": UnionDetector({"sees": sees, "blind": blind})})
    assert found.table["sees"]["mean of sets"].value > found.table["union"]["mean of sets"].value
    assert found.best == "union"


def test_what_clearly_beats_the_union_is_recommended():
    sees, blind = KNNDetector(point="first"), KNNDetector(point="second")
    found = recommend(classes(600), {"sees": sees, "union": UnionDetector({"blind": blind})})
    assert (found.best, found.verdict) == ("sees", "found")
    assert found.detector is sees


def shell_and_plane(count: int) -> RepresentationPaths:
    """Points on a sphere, and points near a plane: halfway to the mean is unusual on the first alone."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(count, 12))
    x *= 5 / np.linalg.norm(x, axis=1, keepdims=True)
    plane = generator.normal(size=(count, 3)) @ np.random.default_rng(99).normal(size=(3, 16)) + 4
    arrays = {"sphere": x + 0.05 * generator.normal(size=x.shape)}
    return RepresentationPaths.from_arrays(
        {**arrays, "plane": plane + 0.1 * generator.normal(size=(count, 16))}
    )


def test_what_is_blind_to_inputs_that_are_too_likely_does_not_replace_a_union():
    distance, energies = MahalanobisDetector("plane"), EnergyTrajectoryDetector("sphere")
    found = recommend(shell_and_plane(400), {"distance": distance, "union": UnionDetector({"own": energies})})
    assert found.table["distance"]["mean of sets"].low > found.table["union"]["mean of sets"].high
    assert found.table["distance"]["contracted"].high < 0.1
    assert found.table["union"]["contracted"].low > 0.9
    assert found.best == "union"
    # No union: contracted samples are no part of the mean.
    plain = recommend(shell_and_plane(400), {"distance": distance, "energies": energies})
    assert (plain.best, plain.verdict) == ("distance", "found")


def test_a_union_with_few_paths_left_to_fit_supplies_the_usual_candidates():
    paths = RepresentationPaths.from_arrays(
        {f"p{k}": np.random.default_rng(k).normal(size=(240, 6)) for k in range(7)}
    )
    assert set(recommend(paths).table) == {
        "path",
        "Mahalanobis",
        "nearest neighbors",
        "mixture",
        "union",
    }


def test_a_recommendation_comes_back_from_disk_with_its_unfitted_detector(tmp_path):
    found = recommend(
        classes(300), {"kNN": KNNDetector(k=4, bank=50, seed=2), "path": PathDetector(("first",))}
    )
    found.save(tmp_path / "r")
    again = Recommendation.load(tmp_path / "r")
    assert again.to_dict() == found.to_dict()
    assert again.evaluation.to_dict() == found.evaluation.to_dict()
    assert repr(again) == repr(found)
    assert type(again.detector) is type(found.detector)
    assert vars(again.detector) == vars(found.detector)


def test_a_recommended_detector_that_is_no_plain_value_is_not_saved_in_part(tmp_path):
    union = {"union": UnionDetector({"a": KNNDetector(point="first")}), "blind": KNNDetector(point="second")}
    found = recommend(classes(300), union)
    with pytest.raises(RepdynError, match="its members cannot be saved"):
        found.save(tmp_path / "r")
    assert not (tmp_path / "r").exists()


PLANE = np.linalg.qr(np.random.default_rng(3).normal(size=(12, 3)))[0].astype(np.float32)


def encode(x):
    return torch.tanh(x @ torch.as_tensor(PLANE))


def decode(z):
    return z @ torch.as_tensor(PLANE).T


def on_a_plane(count: int, seed: int = 0, off: float = 0.0) -> RepresentationPaths:
    """A layer that says nothing, and outputs on the plane that the auto-encoder keeps."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 8
    codes = np.random.default_rng(9).normal(size=(8, 3))[labels] + 0.1 * generator.normal(size=(count, 3))
    normal = np.linalg.qr(np.concatenate([PLANE, np.eye(12)], axis=1))[0][:, 3]
    output = codes @ PLANE.T + 0.02 * generator.normal(size=(count, 12)) + off * normal
    arrays = {"layer": generator.normal(size=(count, 6)) + 5, "output": output}
    return RepresentationPaths.from_arrays(
        {k: x.astype(np.float32) for k, x in arrays.items()}, labels=labels
    )


def test_with_an_auto_encoder_its_trajectory_is_a_candidate_and_a_member_of_the_union(tmp_path):
    paths = on_a_plane(400)
    found = recommend(paths, autoencoder=(encode, decode))
    assert set(found.table) == {"path", "trajectory", "energy trajectory", "union"}
    fitted = UnionDetector.from_autoencoder(encode, decode, paths.points).fit(paths)
    assert fitted.members_["path"].points_ == ("layer",)
    assert fitted.members_["trajectory"].points_ == ("output",)
    inside, outside = on_a_plane(200, 1), on_a_plane(200, 2, off=1.0)
    wins = (fitted.score_samples(inside)[:, None] > fitted.score_samples(outside)[None]).mean()
    assert wins > 0.95
    # The path over the layer that says nothing does not see it.
    blind = fitted.members_["path"]
    assert (blind.score_samples(inside)[:, None] > blind.score_samples(outside)[None]).mean() < 0.6
    fitted.save(tmp_path / "a.detector")
    loaded = load_detector(tmp_path / "a.detector")
    assert isinstance(loaded, UnionDetector)
    with pytest.raises(RepdynError, match="has no auto-encoder"):
        loaded.score_samples(inside)
    with pytest.raises(RepdynError, match="not the one"):
        loaded.bind(lambda x: encode(-x) + 1, decode)
    scores = loaded.bind(encode, decode).score_samples(outside)
    np.testing.assert_allclose(scores, fitted.score_samples(outside), rtol=1e-5)


def test_candidates_that_are_given_are_compared_with_those_of_the_auto_encoder():
    found = recommend(on_a_plane(300), {"kNN": KNNDetector()}, autoencoder=(encode, decode), point="output")
    assert {"kNN", "trajectory", "union"} <= set(found.table)


def test_a_point_without_an_auto_encoder_and_a_union_without_one_are_refused():
    with pytest.raises(RepdynError, match="point 'output': is the one that an autoencoder encodes"):
        recommend(on_a_plane(300), point="output")
    with pytest.raises(RepdynError, match="no member of this union reads an auto-encoder"):
        UnionDetector().fit(on_a_plane(300)).bind(encode, decode)


def test_what_is_no_auto_encoder_is_refused():
    with pytest.raises(RepdynError, match=r"autoencoder: expected \(encode, decode\), got \(<function"):
        recommend(on_a_plane(300), autoencoder=(encode,))
    with pytest.raises(RepdynError, match="expected two functions of tensors, got function and str"):
        recommend(on_a_plane(300), autoencoder=(encode, "a.kae"))
    with pytest.raises(RepdynError, match="points: expected at least one"):
        UnionDetector.from_autoencoder(encode, decode, [])


def test_orbits_that_diverge_towards_the_largest_float_are_no_fault():
    generator = np.random.default_rng(0)
    arrays = {"a": generator.normal(size=(200, 6)) + 3, "b": generator.normal(size=(200, 12))}
    paths = RepresentationPaths.from_arrays({k: x.astype(np.float32) for k, x in arrays.items()})
    union = UnionDetector.from_autoencoder(
        lambda x: 1e6 * x[:, :4] ** 3, lambda z: torch.nn.functional.pad(z, (0, 8)), paths.points
    ).fit(paths)
    assert np.isfinite(union.score_samples(paths)).all()
