"""Detectors beside the model: the module says what the detector says, exported too."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from repdyn.ood import (
    EnergyTrajectoryDetector,
    KNNDetector,
    MahalanobisDetector,
    MixtureDetector,
    PathDetector,
    RelativeMahalanobisDetector,
    UnionDetector,
)
from repdyn.paths import RepresentationPaths

ALL = [
    PathDetector,
    MahalanobisDetector,
    KNNDetector,
    MixtureDetector,
    EnergyTrajectoryDetector,
    UnionDetector,
]


def tensors(paths):
    return {point: torch.as_tensor(np.asarray(paths[point]), dtype=torch.float32) for point in paths.points}


@pytest.mark.parametrize("kind", ALL)
def test_module_says_what_the_detector_says(kind, planted):
    detector, test = kind().fit(planted(200)), planted(60, 2.0, seed=1)
    module = detector.as_module()
    scores = module(tensors(test)).numpy()
    # A p-value is a step of 1 / 201, so float32 may move a score by one step.
    np.testing.assert_allclose(
        scores, detector.score_samples(test), atol=2e-2 if kind is UnionDetector else 2e-3
    )
    assert float(module.threshold) == pytest.approx(detector.threshold_, rel=1e-6)
    assert not list(module.parameters())


@pytest.mark.parametrize("kind", [PathDetector, MahalanobisDetector, RelativeMahalanobisDetector])
def test_class_means_in_the_module(kind):
    generator = np.random.default_rng(0)
    labels = np.arange(300) % 3
    x = generator.normal(size=(300, 6)) + 8 * np.eye(6)[labels]
    paths = RepresentationPaths.from_arrays({"x": x}, labels=labels)
    detector = kind().fit(paths)
    assert detector.class_means_ == {"x": 3}
    foreign = RepresentationPaths.from_arrays({"x": generator.normal(size=(50, 6))})
    for own in (paths, foreign):
        scores = detector.as_module()(tensors(own)).numpy()
        np.testing.assert_allclose(scores, detector.score_samples(own), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ALL)
def test_export_with_any_batch_size(kind, planted):
    detector, test = kind().fit(planted(100)), tensors(planted(40, 2.0, seed=1))
    module = detector.as_module()
    dynamic = {"features": {point: {0: torch.export.Dim("count")} for point in test}}
    program = torch.export.export(module, (test,), dynamic_shapes=dynamic)
    for size in (40, 7):
        few = {point: x[:size] for point, x in test.items()}
        torch.testing.assert_close(program.module()(few), module(few))


@pytest.mark.parametrize("kind", ALL)
def test_gradients_are_finite_even_on_a_fitted_sample(kind, planted):
    fit = planted(100)
    module = kind().fit(fit).as_module()
    features = {point: x.requires_grad_() for point, x in tensors(fit).items()}
    module(features).sum().backward()
    gradients = [x.grad for x in features.values() if x.grad is not None]
    assert gradients
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_a_model_and_its_detector_are_exported_as_one(planted):
    class Watched(torch.nn.Module):
        """A network whose hidden layers the detector reads, in one graph."""

        def __init__(self, detector):
            super().__init__()
            self.layers = torch.nn.ModuleList([torch.nn.Linear(12, 12) for _ in range(2)])
            self.detector = detector

        def forward(self, x):
            seen = {"layer0": x}
            for depth, layer in enumerate(self.layers, start=1):
                x = torch.tanh(layer(x))
                seen[f"layer{depth}"] = x
            return x, self.detector(seen) < self.detector.threshold

    network = Watched(PathDetector().fit(planted(100)).as_module()).eval()
    x = torch.randn(6, 12, generator=torch.Generator().manual_seed(0))
    program = torch.export.export(network, (x,), dynamic_shapes=({0: torch.export.Dim("count")},))
    for own in (x, x[:3]):
        output, flags = program.module()(own)
        torch.testing.assert_close(output, network(own)[0])
        assert flags.tolist() == network(own)[1].tolist()


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("mean", [1e4, 1e6])
def test_a_module_far_from_zero_says_what_the_detector_says(kind, mean):
    generator = np.random.default_rng(0)
    mixing = generator.normal(size=(8, 16))

    def draw(count, size=1.0):
        x = size * generator.normal(size=(count, 8)) @ mixing + mean
        return RepresentationPaths.from_arrays({"x": x.astype(np.float32)})

    detector, test = kind().fit(draw(300)), draw(200, 2.0)
    own, found = detector.score_samples(test), detector.as_module()(tensors(test)).double().numpy()
    np.testing.assert_allclose(found, own, atol=2e-2 * own.std())
    assert ((found < detector.threshold_) != (own < detector.threshold_)).sum() <= 1
    assert len(np.unique(found)) > 150


def test_gradients_of_a_module_at_a_kept_sample_are_finite():
    x = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    module = KNNDetector(k=1).fit(RepresentationPaths.from_arrays({"x": x})).as_module()
    rows = torch.tensor(x[:5], requires_grad=True)
    module({"x": rows}).sum().backward()
    assert rows.grad.isfinite().all()
