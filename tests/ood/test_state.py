"""Names as keys, and state that detectors, evaluations and fits do not share."""

from __future__ import annotations

import copy
import json
import pickle
import threading

import numpy as np
import pytest
import torch
from torch import nn

from repdyn.disentangle import SKD
from repdyn.koopman import KoopmanAutoencoder
from repdyn.ood import (
    EnergyTrajectoryDetector,
    KNNDetector,
    MahalanobisDetector,
    MixtureDetector,
    OODEvaluation,
    PathDetector,
    TrajectoryDetector,
    UnionDetector,
    evaluate,
    recommend,
)
from repdyn.paths import RepresentationPaths
from repdyn.seeding import drawing


def _paths(count: int = 200, seed: int = 0, shift: float = 1.0, **more: object) -> RepresentationPaths:
    x = np.random.default_rng(seed).normal(size=(2, count, 8)) + shift
    return RepresentationPaths.from_arrays({"a": x[0], "b": x[1]}, **more)


@pytest.mark.parametrize(
    "kind",
    [
        PathDetector,
        UnionDetector,
        KNNDetector,
        MahalanobisDetector,
        MixtureDetector,
        EnergyTrajectoryDetector,
    ],
)
def test_a_detector_that_has_scored_can_be_pickled_and_copied(kind):
    fitted = kind().fit(_paths())
    fresh = _paths(50, 1)
    expected = fitted.score_samples(fresh)
    for again in (copy.deepcopy(fitted), copy.copy(fitted), pickle.loads(pickle.dumps(fitted))):  # noqa: S301
        np.testing.assert_array_equal(again.score_samples(fresh), expected)


def test_a_control_called_as_the_detector_is_a_control():
    training, inside, outside = _paths(), _paths(100, 1), _paths(100, 2, shift=-1.0)
    detector, other = PathDetector().fit(training), KNNDetector().fit(training)
    found = evaluate(detector, inside, {"far": outside}, controls={"PathDetector": other})
    assert found.detector != "PathDetector"
    np.testing.assert_array_equal(found.scores[found.detector]["far"], detector.score_samples(outside))
    np.testing.assert_array_equal(found.scores["PathDetector"]["far"], other.score_samples(outside))


@pytest.mark.parametrize("name", ["knn|10", "profile", "energy", "%7C", "a/b", "knn|", "depth %"])
def test_any_name_of_a_control_is_saved_and_read(tmp_path, name):
    logits = np.random.default_rng(3).normal(size=(200, 3))
    training = _paths(logits=logits)
    controls = {name: KNNDetector().fit(training), "plain": MahalanobisDetector().fit(training)}
    found = evaluate(PathDetector().fit(training), training, {"x|y": training}, controls=controls)
    expected = controls[name].score_samples(training)
    found.save(tmp_path / "x")
    read = OODEvaluation.load(tmp_path / "x")
    assert read.scores.keys() == found.scores.keys()
    np.testing.assert_array_equal(read.scores[name]["x|y"], expected)
    np.testing.assert_array_equal(read.profile["x|y"], found.profile["x|y"])


def test_a_union_fits_copies_and_leaves_the_callers_detectors_alone():
    mine = {"near": KNNDetector(), "fitted": MahalanobisDetector().fit(_paths(seed=5))}
    threshold = mine["fitted"].threshold_
    first = UnionDetector(mine).fit(_paths(seed=6))
    expected = first.score_samples(_paths(30, 7))
    UnionDetector(mine).fit(_paths(seed=8, shift=3.0))
    assert not hasattr(mine["near"], "threshold_")
    assert mine["fitted"].threshold_ == threshold
    np.testing.assert_array_equal(first.score_samples(_paths(30, 7)), expected)


def test_a_recommendation_hands_its_seed_on(monkeypatch):
    seeds = []
    start = UnionDetector.__init__

    def noted(self: UnionDetector, members: object = None, seed: int = 0) -> None:
        seeds.append(seed)
        start(self, members, seed)

    monkeypatch.setattr(UnionDetector, "__init__", noted)
    recommend(_paths(400, labels=np.arange(400) % 8), seed=11)
    assert seeds
    assert set(seeds) == {11}


def test_a_trajectory_module_has_the_gradient_of_its_score():
    with drawing(0):
        encode, decode = nn.Sequential(nn.Linear(8, 3), nn.Tanh()), nn.Linear(3, 8)
    fitted = TrajectoryDetector(encode, decode, steps=3).fit(_paths())
    module = fitted.as_module().double()
    x = torch.from_numpy(np.asarray(_paths(4, 1)["b"])).double().requires_grad_()
    (gradient,) = torch.autograd.grad(module({"b": x}).sum(), x)
    step = 1e-6 * torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        risen = module({"b": x + step}) - module({"b": x - step})
    assert gradient.abs().min() > 0
    torch.testing.assert_close((gradient * step).sum(1) * 2, risen, rtol=1e-3, atol=1e-9)


def test_layers_are_drawn_from_a_stream_of_their_own():
    torch.manual_seed(3)
    expected = nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Conv1d(2, 3, 2)), torch.randn(3)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    with drawing(3):
        made = nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Conv1d(2, 3, 2)), torch.randn(3)
    assert torch.equal(torch.get_rng_state(), before)
    for one, other in zip(expected[0].parameters(), made[0].parameters()):
        assert torch.equal(one, other)
    assert torch.equal(expected[1], made[1])


@pytest.mark.parametrize("kind", ["koopman", "skd"])
def test_a_fit_is_the_same_while_another_thread_draws(kind):
    def fitted() -> list[torch.Tensor]:
        if kind == "koopman":
            model = KoopmanAutoencoder(latent_dim=4).fit(_paths(60), epochs=2, seed=0)
        else:
            model = SKD(static_dim=1, latent_dim=4, hidden=8).fit(_paths(60), epochs=1, seed=0)
        return [value.clone() for value in model.state_dict().values()]

    expected, stop = fitted(), threading.Event()

    def draw() -> None:
        while not stop.is_set():
            torch.rand(10)

    other = threading.Thread(target=draw, daemon=True)
    other.start()
    try:
        for _ in range(3):
            for one, same in zip(expected, fitted()):
                assert torch.equal(one, same)
    finally:
        stop.set()
        other.join()


def test_config_of_a_detector_is_strict_json(tmp_path):
    PathDetector().fit(_paths()).save(tmp_path / "x")
    json.loads((tmp_path / "x" / "config.json").read_text(), parse_constant=pytest.fail)


def test_every_detector_that_is_recommended_or_asked_has_the_seed_given():
    fit = _paths()
    union = UnionDetector(seed=7).fit(fit)
    assert {d.seed for d in union.controls_.values() if hasattr(d, "seed")} == {7}
    assert {d.seed for d in PathDetector(seed=7).fit(fit).controls_.values()} == {7}
    big = RepresentationPaths.from_arrays({"a": np.random.default_rng(1).normal(size=(200, 6)) + 1})
    assert recommend(big, seed=7).detector.seed == 7


def test_a_bank_that_is_drawn_is_drawn_by_the_seed_that_was_given():
    # Two seeds keep other samples, so scores differ; the same seed gives the same.
    big = RepresentationPaths.from_arrays({"a": np.random.default_rng(1).normal(size=(300, 6)) + 1})
    one, same, other = (
        KNNDetector(k=3, bank=60, seed=seed).fit(big).score_samples(big) for seed in (7, 7, 8)
    )
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 1e-3
