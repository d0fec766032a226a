"""Detectors, and a model with one, run by ONNX Runtime: the scores are those of the detector."""

from __future__ import annotations

import warnings

import nnsight  # noqa: F401 - gives every object a method save, so that ``program.save`` no longer works
import numpy as np
import pytest
import torch
from torch import nn

import repdyn
from repdyn.ood import (
    EnergyDetector,
    EnergyTrajectoryDetector,
    GuidedEnergyDetector,
    KNNDetector,
    MahalanobisDetector,
    MixtureDetector,
    MonitoredModel,
    PathDetector,
    ReconstructionDetector,
    RelativeMahalanobisDetector,
    RelativePathDetector,
    UnionDetector,
)
from repdyn.paths import RepresentationPaths

onnx = pytest.importorskip("onnx", reason="needs the extra onnx: onnx is not installed")
runtime = pytest.importorskip("onnxruntime", reason="needs the extra onnx: onnxruntime is not installed")
pytest.importorskip("onnxscript", reason="needs the extra onnx: onnxscript is not installed")

KINDS = [
    PathDetector,
    RelativePathDetector,
    MahalanobisDetector,
    RelativeMahalanobisDetector,
    KNNDetector,
    MixtureDetector,
    EnergyTrajectoryDetector,
    EnergyDetector,
    GuidedEnergyDetector,
    UnionDetector,
]
COUNT = torch.export.Dim("count")


def classes(count, seed, shift=0.0):
    """Paths of four classes with logits, moved aside by ``shift``."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 4
    arrays = {}
    for depth in range(3):
        x = generator.normal(size=(count, 12))
        x[:, 0] += 30
        x[:, 1] += shift
        x[np.arange(count), 2 + labels] += 6
        arrays[f"layer{depth}"] = x.astype(np.float32)
    logits = generator.normal(size=(count, 4)) + 8 * np.eye(4)[labels]
    return RepresentationPaths.from_arrays(arrays, labels=labels, logits=logits)


def session(module, folder, names=None, **export):
    """An ONNX Runtime session of an exported module, from a file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own code
        program = torch.onnx.export(module, dynamo=True, verbose=False, output_names=names, **export)
        onnx.save(program.model_proto, folder / "graph.onnx")
    return runtime.InferenceSession(folder / "graph.onnx", providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("kind", KINDS)
def test_the_graph_gives_the_scores_of_the_detector(kind, tmp_path):
    detector, test = kind().fit(classes(200, 0)), classes(60, 1, shift=2.0)
    given = {point: np.asarray(test[point]) for point in detector.points_ if point != "logits"}
    if "logits" in detector.points_:
        given["logits"] = np.asarray(test.logits, dtype=np.float32)
    broken = {point: x.copy() for point, x in given.items()}
    broken[detector.points_[0]][3, 0] = np.nan
    broken[detector.points_[0]][4] *= 1e6
    features = {point: torch.as_tensor(x) for point, x in given.items()}
    dynamic = {"features": {point: {0: COUNT} for point in features}}
    run = session(detector.as_module(), tmp_path, kwargs={"features": features}, dynamic_shapes=dynamic)
    names = [f"features_{point}" for point in features]
    assert [put.name for put in run.get_inputs()] == names
    for size in (60, 7):
        (scores,) = run.run(None, {f"features_{point}": x[:size] for point, x in given.items()})
        # A p-value is a step of 1 / 201, so float32 may move the union's score by one step.
        tolerance = 2e-2 if kind is UnionDetector else 1e-4
        np.testing.assert_allclose(scores, detector.score_samples(test)[:size], rtol=1e-4, atol=tolerance)
        module = detector.as_module()({point: x[:size] for point, x in features.items()})
        np.testing.assert_allclose(scores, module.numpy(), rtol=1e-4, atol=1e-4)
    (scores,) = run.run(None, {f"features_{point}": x for point, x in broken.items()})
    np.testing.assert_allclose(scores[3:5], -1e30, rtol=1e-6)


def pictures():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        module = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.Flatten(2))
        return repdyn.wrap(module, head=nn.Linear(6, 4), points=["0", "2"])


def test_a_model_and_its_detector_are_one_graph(tmp_path):
    x = np.random.default_rng(0).normal(size=(300, 3, 8, 8)).astype(np.float32)
    model = pictures()
    monitored = MonitoredModel(model, PathDetector().fit(repdyn.trace(model, x)))
    new = torch.as_tensor(np.concatenate([x[:20], 6 + x[20:40]]))
    expected = monitored.prepared(new)
    run = session(
        monitored.as_module(),
        tmp_path,
        ["output", "scores", "flagged"],
        args=(new,),
        input_names=["pictures"],
        dynamic_shapes={"inputs": {0: COUNT}},
    )
    for size in (40, 3):
        found = run.run(["output", "scores", "flagged"], {"pictures": new[:size].numpy()})
        np.testing.assert_allclose(found[0], expected.output[:size], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found[1], expected.scores[:size], rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(found[2], expected.flagged[:size])
    assert expected.flagged[20:].all()
    hooks = [len(part._forward_hooks) for part in model.module.modules()]
    assert sum(hooks) == 0


def test_padded_texts_are_one_graph(tmp_path):
    """The mask is an input: a text scores the same whether or not it is padded."""
    model = repdyn.load("packaged:paraphrase-MiniLM-L3-v2")
    texts = [f"word {k} and more words of number {k * k}" for k in range(60)]
    points = model.default_points[:-1]
    monitored = MonitoredModel(model, PathDetector().fit(repdyn.trace(model, texts, points=points)))
    expected = monitored(["a text", "another text that is longer than the first one"])
    inputs = model.prepare(["a text", "another text that is longer than the first one"])
    given = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    length = torch.export.Dim("length", max=128)
    run = session(
        monitored.as_module(),
        tmp_path,
        kwargs={"inputs": given},
        dynamic_shapes={"inputs": {key: {0: COUNT, 1: length} for key in given}},
    )
    names = [put.name for put in run.get_inputs()]
    both = run.run(None, {name: given[key].numpy() for name, key in zip(names, given)})
    # A model without a head has several outputs; score and flag are the last two of all.
    np.testing.assert_allclose(both[-2], expected.scores, rtol=1e-4, atol=1e-4)
    alone = model.prepare(["a text"])
    one = run.run(None, {name: alone[key].numpy() for name, key in zip(names, given)})
    np.testing.assert_allclose(one[-2], both[-2][:1], rtol=1e-4, atol=1e-4)


def test_a_detector_without_a_module_is_refused():
    model = pictures()
    x = np.random.default_rng(0).normal(size=(100, 3, 8, 8)).astype(np.float32)
    detector = ReconstructionDetector(lambda x: x[:, :2], lambda z: torch.cat([z, z, z], 1)).fit(
        repdyn.trace(model, x)
    )
    with pytest.raises(repdyn.RepdynError, match="cannot run as a module"):
        MonitoredModel(model, detector).as_module()
