"""A model and its detector as one, beside plain hooks and the detector on traced paths."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

import repdyn
from repdyn.errors import RepdynError
from repdyn.ood import (
    DriftMonitor,
    EnergyDetector,
    EnergyTrajectoryDetector,
    KNNDetector,
    MixtureDetector,
    MonitoredModel,
    PathDetector,
    ReconstructionDetector,
    UnionDetector,
)
from repdyn.paths import RepresentationPaths
from repdyn.tracing.trace import OpenTrace


def network(head: bool, seed: int = 0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Dropout(0.5), nn.Linear(8, 5))
        last = nn.Linear(5, 3)
    return repdyn.wrap(module, head=last if head else None, points=["0", "2", "4"])


def pictures(head: bool):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        module = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.Flatten(2))
        last = nn.Linear(6, 4)
    return repdyn.wrap(module, head=last if head else None, points=["0", "2"])


def batch(shape, seed=0, shift=0.0):
    x = np.random.default_rng(seed).normal(size=shape) + shift
    return x.astype(np.float32)


CASES = [(network, (6,)), (pictures, (3, 8, 8))]


@pytest.mark.parametrize(
    "kind", [PathDetector, KNNDetector, MixtureDetector, EnergyTrajectoryDetector, UnionDetector]
)
@pytest.mark.parametrize("head", [True, False])
@pytest.mark.parametrize(("make", "shape"), CASES)
def test_it_says_in_one_pass_what_model_and_detector_say_apart(make, shape, head, kind):
    model = make(head)
    detector = kind().fit(repdyn.trace(model, batch((300, *shape))))
    new = np.concatenate([batch((20, *shape), 1), batch((20, *shape), 2, shift=6.0)])
    paths = repdyn.trace(model, new)
    counted = []
    model.module[0].register_forward_pre_hook(lambda *_: counted.append(1))
    monitored = MonitoredModel(model, detector)
    answers = [monitored(new), monitored.prepared(torch.as_tensor(new)), monitored(list(new))]
    assert len(counted) == 3
    with torch.no_grad():
        expected = model.module.eval()(torch.as_tensor(new))
        if head:  # reads the mean over places
            expected = model.head(expected if expected.ndim == 2 else expected.mean(2))
    step = 2e-2 if kind is UnionDetector else 2e-3  # a p-value is a step of the scores
    for output, scores, flagged in answers:
        torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(scores.numpy(), detector.score_samples(paths), atol=step, rtol=1e-3)
        np.testing.assert_array_equal(flagged.numpy(), detector.predict(paths) < 0)
        assert not scores.requires_grad
    assert kind is not PathDetector or flagged[20:].all()


def test_the_model_is_left_as_it_was_after_every_pass():
    model = network(True)
    detector = PathDetector().fit(repdyn.trace(model, batch((200, 6))))
    model.module.train()
    monitored, state = MonitoredModel(model, detector), torch.get_rng_state()
    hooks = [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.module.modules()]
    with pytest.raises(RuntimeError):
        monitored.prepared(torch.zeros(2, 7))
    monitored(batch((4, 6)))
    assert model.module.training
    assert model.module[3].training
    assert torch.equal(torch.get_rng_state(), state)
    assert hooks == [len(p._forward_hooks) + len(p._forward_pre_hooks) for p in model.module.modules()]
    assert all(weight.requires_grad for weight in monitored.model.parameters())


def test_its_parts_move_together_and_the_detector_keeps_its_precision():
    model = network(True)
    detector = PathDetector().fit(repdyn.trace(model, batch((200, 6))))
    monitored, x = MonitoredModel(model, detector), batch((16, 6), 3)
    before = monitored(x)
    assert {"model.0.weight", "head.weight", "detector.threshold"} <= set(monitored.state_dict())
    monitored.to(torch.bfloat16)
    assert model.module[0].weight.dtype == torch.bfloat16
    assert monitored.detector.threshold.dtype == torch.float32
    after = monitored(x)
    assert after.scores.dtype == torch.float32
    np.testing.assert_allclose(after.scores.numpy(), before.scores.numpy(), atol=0.3)
    monitored.to(torch.float64)
    assert monitored(x).output.dtype == torch.float64


def test_threads_take_turns_and_a_copy_is_independent():
    model = network(True)
    detector = PathDetector().fit(repdyn.trace(model, batch((200, 6))))
    monitored, given = MonitoredModel(model, detector), [batch((8, 6), seed) for seed in range(24)]
    expected = [monitored(x) for x in given]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(monitored, given))
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.output, other.output)
        assert torch.equal(one.scores, other.scores)
    other = copy.deepcopy(monitored)
    assert torch.equal(other(given[0]).scores, expected[0].scores)


def test_a_detector_of_the_logits_gets_them():
    model = network(True)
    paths = repdyn.trace(model, batch((200, 6)))
    detector, new = EnergyDetector().fit(paths), batch((30, 6), 4)
    found = MonitoredModel(model, detector)(new)
    np.testing.assert_allclose(found.scores, found.output.logsumexp(1), rtol=1e-5)
    np.testing.assert_allclose(found.scores, detector.score_samples(repdyn.trace(model, new)), rtol=1e-5)
    assert torch.equal(detector.predict(model.read(new)) < 0, found.flagged)


def test_a_detector_without_a_module_scores_on_the_host():
    model = network(False)
    paths = repdyn.trace(model, batch((200, 6)))
    detector = ReconstructionDetector(lambda x: x[:, :2], lambda z: torch.cat([z, 0 * z, z[:, :1]], 1)).fit(
        paths
    )
    new = batch((30, 6), 4)
    found = MonitoredModel(model, detector)(new)
    last = torch.as_tensor(np.asarray(repdyn.trace(model, new)["4"]))
    back = torch.cat([last[:, :2], 0 * last[:, :2], last[:, :1]], 1)
    np.testing.assert_allclose(found.scores, -(last - back).norm(dim=1), rtol=1e-5)


@pytest.mark.parametrize("kind", [PathDetector, KNNDetector, UnionDetector])
def test_a_mapping_of_tensors_scores_as_its_paths_do(kind, planted):
    detector, test = kind().fit(planted(200)), planted(60, 2.0, seed=1)
    given = {point: torch.as_tensor(np.asarray(test[point])) for point in test.points}
    for found, wrap in ((given, torch.Tensor), ({p: x.numpy() for p, x in given.items()}, np.ndarray)):
        scores = detector.score_samples(found)
        assert isinstance(scores, wrap)
        np.testing.assert_array_equal(np.asarray(scores), detector.score_samples(test))
        np.testing.assert_array_equal(np.asarray(detector.predict(found)), detector.predict(test))
        assert isinstance(detector.p_values(found), wrap)
        np.testing.assert_array_equal(np.asarray(detector.p_values(found)), detector.p_values(test))
        np.testing.assert_array_equal(
            np.asarray(detector.decision_function(found)), detector.decision_function(test)
        )
    broken = {point: x.clone() for point, x in given.items()}
    broken[test.points[-1]][3, 0] = torch.nan
    assert detector.score_samples(broken)[3] == -1e30


def test_what_does_not_fit_is_refused_in_one_line(planted):
    model, x = network(True), batch((200, 6))
    detector = PathDetector().fit(repdyn.trace(model, x))
    with pytest.raises(RepdynError, match="not fitted"):
        MonitoredModel(model, PathDetector())
    with pytest.raises(RepdynError, match="other weights"):
        MonitoredModel(network(True, seed=1), detector)
    with pytest.raises(RepdynError, match="no point 'layer0'"):
        MonitoredModel(model, PathDetector().fit(planted(100, meta={})))
    found = dict(model.read(x))
    with pytest.raises(RepdynError, match="lacks the point '2'"):
        detector.score_samples({"0": found["0"]})
    with pytest.raises(RepdynError, match="shape"):
        detector.score_samples({**found, "2": found["2"][:, :3]})
    with pytest.raises(RepdynError, match="same ones"):
        detector.score_samples({**found, "2": found["2"][:3]})
    no_head = network(False)
    logits = RepresentationPaths.from_arrays({"4": x[:, :5]}, logits=x[:, :3])
    with pytest.raises(RepdynError, match="has no head"):
        MonitoredModel(no_head, EnergyDetector().fit(logits))
    with pytest.raises(RepdynError, match="lacks the point 'logits'"):
        EnergyDetector().fit(logits).score_samples(no_head.read(x))


def test_a_stream_by_one_reader_is_the_trace(monkeypatch):
    model, x = network(True), batch((64, 6), 5)
    digests = []
    real = type(model).digest.fget
    monkeypatch.setattr(type(model), "digest", property(lambda self: digests.append(1) or real(self)))
    expected = repdyn.trace(model, x)
    digests.clear()
    counted = []
    model.module[0].register_forward_pre_hook(lambda *_: counted.append(1))
    monitor = DriftMonitor(PathDetector().fit(expected), window=20)
    with OpenTrace(model) as more:
        parts = []
        for start in range(0, 64, 16):
            ids = [f"s{k}" for k in range(start, start + 16)]
            parts.append(more(x[start : start + 16], ids))
            monitor.update(parts[-1])
        with pytest.raises(RepdynError, match="samples 0 to 1"):
            more([x[0], x[1, :3]])
        again = more(x[:16])
    assert len(counted) >= 5
    assert len(digests) == 1
    assert not model.module[0]._forward_hooks
    for point in expected.points:
        rows = np.concatenate([np.asarray(part[point]) for part in parts])
        np.testing.assert_allclose(rows, np.asarray(expected[point]), rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(np.asarray(again[point]), np.asarray(parts[0][point]))
    assert parts[2].ids[0] == "s32"
    assert parts[1].meta["digest"] == expected.meta["digest"]
    assert parts[1].meta["data"] != parts[2].meta["data"]


def test_a_model_whose_layer_norm_changed_is_another_model():
    def model(gain: float) -> nn.Module:
        torch.manual_seed(0)
        found = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 8), nn.ReLU()).eval()
        with torch.no_grad():
            found[1].weight.mul_(gain)
        return found

    detector = PathDetector().fit(repdyn.trace(model(1.0), batch((100, 6))))
    detector.score_samples(repdyn.trace(model(1.0), batch((10, 6))))
    with pytest.raises(RepdynError, match="digest is"):
        detector.score_samples(repdyn.trace(model(1.5), batch((10, 6))))
