"""What is kept is kept as it was at the point, whatever the model does with its tensors afterwards."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import repdyn
from repdyn.errors import RepdynError

RNG = np.random.default_rng(0)


class Scaling(nn.Module):
    """Changes every block's output in place, after it was given."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
            x.mul_(100.0)
        return x


@pytest.mark.parametrize("pool", ["cls", "mean", "last", "gap", "flatten", "none", lambda t: t.values[:, 1]])
@pytest.mark.parametrize("tokens", [1, 3])
def test_in_place_changes_after_a_point_are_not_kept(pool, tokens):
    module = Scaling()
    x = RNG.normal(size=(5, tokens, 4)).astype(np.float32)
    if tokens == 1 and callable(pool):
        pool = lambda t: t.values.squeeze(1)  # noqa: E731 - the module's own memory, under another shape
    model = repdyn.wrap(module, points={f"blocks.{number}": "NLC" for number in range(3)})
    paths = repdyn.trace(model, x, pool=pool, batch_size=2)
    with torch.no_grad():
        value = torch.from_numpy(x)
        for number, block in enumerate(module.blocks):
            value = block(value)
            expected = {
                "mean": value.mean(1),
                "gap": value.mean(1),
                "last": value[:, -1],
                "flatten": value.flatten(1),
                "none": value,
                "cls": value[:, 0],
            }.get(pool if isinstance(pool, str) else "", value[:, min(1, tokens - 1)])
            np.testing.assert_allclose(np.asarray(paths[f"blocks.{number}"]), expected, rtol=1e-4, atol=1e-4)
            value = value * 100


def test_in_place_activations_of_a_convolution_net():
    """As torchvision's vgg and alexnet: every activation overwrites the convolution before it."""
    layers = [nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3), nn.ReLU(inplace=True)]
    module = nn.Sequential(*layers)
    x = torch.from_numpy(RNG.normal(size=(4, 3, 8, 8)).astype(np.float32))
    for pool in ("none", "flatten"):
        paths = repdyn.trace(repdyn.wrap(module, points={"0": "NCHW", "2": "NCHW"}), x, pool=pool)
        with torch.no_grad():
            own = layers[0](x)
        own = own.flatten(2).transpose(1, 2)
        np.testing.assert_allclose(
            np.asarray(paths["0"]), own if pool == "none" else own.flatten(1), rtol=1e-5, atol=1e-6
        )
        assert np.asarray(paths["0"]).min() < 0


def test_a_mask_is_read_before_the_model_changes_it():
    class Clearing(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x, mask):
            mask.fill_(True)
            return self.layer(x)

    def prepare(rows):
        mask = torch.zeros(len(rows), 3, dtype=torch.bool)
        mask[:, :2] = True
        return {"x": torch.from_numpy(np.stack(rows)), "mask": mask}

    model = repdyn.wrap(Clearing(), prepare, points=["layer"])
    points = {
        name: repdyn.tracing.Point(point.module, "NLC", mask="mask") for name, point in model.points.items()
    }
    model = repdyn.tracing.TracedModel(
        model.name, model.module, points, model.default_points, model.prepare, final=model.final
    )
    x = RNG.normal(size=(3, 3, 2)).astype(np.float32)
    found = np.asarray(repdyn.trace(model, x)["layer"])
    with torch.no_grad():
        np.testing.assert_allclose(found, model.module.layer(torch.from_numpy(x))[:, :2].mean(1), rtol=1e-5)


class Caching(nn.Module):
    """Keeps a tensor of its forward pass, as rotary embeddings do."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.cached = None
        self.calls = 0
        self.register_buffer("table", torch.ones(1), persistent=False)

    def forward(self, x):
        if self.cached is None:
            self.cached = torch.ones(4) * 2
        self.calls += 1
        self.table = torch.ones(4)
        self.fresh = x.sum()
        return self.layer(x) * self.cached * self.table


def test_a_model_that_caches_can_be_trained_afterwards_and_is_as_it_was():
    module = Caching()
    repdyn.trace(module, RNG.normal(size=(5, 4)).astype(np.float32))
    assert module.cached is None
    assert module.calls == 0
    assert module.table.shape == (1,)
    assert not hasattr(module, "fresh")
    module(torch.randn(2, 4)).sum().backward()
    assert module.layer.weight.grad is not None


def test_tensors_kept_outside_of_the_module_can_be_used_for_training():
    """A cache that is no attribute of a module cannot be reset, but is an ordinary tensor."""
    cache = {}

    class Outside(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            return self.layer(x) * cache.setdefault("scale", torch.ones(4))

    module = Outside()
    repdyn.trace(module, RNG.normal(size=(5, 4)).astype(np.float32))
    assert not cache["scale"].is_inference()
    module(torch.randn(2, 4)).sum().backward()


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_a_lazy_module_is_refused_until_it_knows_its_shapes():
    module = nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 2))
    x = RNG.normal(size=(5, 4)).astype(np.float32)
    with pytest.raises(RepdynError, match="lazy weights"):
        repdyn.trace(module, x)
    module(torch.from_numpy(x))
    assert repdyn.trace(module, x).points == ("0", "1")


@pytest.mark.filterwarnings("ignore:Complex modules")
def test_complex_values_keep_their_imaginary_parts():
    module = nn.Sequential(nn.Linear(4, 3).to(torch.complex64), nn.Linear(3, 2).to(torch.complex64))
    x = (RNG.normal(size=(5, 4)) + 1j * RNG.normal(size=(5, 4))).astype(np.complex64)
    paths = repdyn.trace(module, x)
    with torch.no_grad():
        own = module(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(np.asarray(paths["1"]), np.hstack([own.real, own.imag]), rtol=1e-5)
