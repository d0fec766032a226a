"""Any torch module, by import path or wrapped; blocks by the rule."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import repdyn
from repdyn.errors import RepdynError
from repdyn_adapters.blocks import find_blocks


class Residual(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width))
        self.conv2 = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width))

    def forward(self, x):
        return x + self.conv2(self.conv1(x))


class Stages(nn.Module):
    """Blocks two deep, as in a ResNet, with a classifier heavier than all of them."""

    def __init__(self):
        super().__init__()
        self.layer1 = nn.Sequential(Residual(), Residual())
        self.layer2 = nn.Sequential(Residual(), Residual(), Residual())
        self.fc = nn.Linear(4, 5000)

    def forward(self, x):
        return self.fc(self.layer2(self.layer1(x)).mean((2, 3)))


class Mixture(nn.Module):
    """More experts than blocks."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    "attn": nn.Linear(4, 4),
                    "experts": nn.ModuleList(nn.Sequential(nn.Linear(4, 4)) for _ in range(8)),
                }
            )
            for _ in range(3)
        )


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (Stages(), ("layer1.0", "layer1.1", "layer2.0", "layer2.1", "layer2.2")),
        (Mixture(), ("layers.0", "layers.1", "layers.2")),
        (nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)), ("0", "2")),
        (nn.ModuleDict({"encoder": nn.Linear(2, 2), "decoder": nn.Linear(2, 2)}), ("encoder", "decoder")),
        (
            nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), 4, enable_nested_tensor=False),
            tuple(f"layers.{number}" for number in range(4)),
        ),
        (nn.Linear(2, 2), ()),
    ],
)
def test_blocks(module, expected):
    assert find_blocks(module) == expected


def test_a_module_without_parts_is_its_own_point():
    paths = repdyn.trace(nn.Linear(2, 3), np.ones((4, 2)))
    assert paths.widths == {"output": 3}


def test_convolutions_are_pooled_over_places():
    module = Stages().eval()
    pictures = np.random.default_rng(0).normal(size=(2, 4, 6, 6)).astype(np.float32)
    paths = repdyn.trace(module, pictures)
    with torch.inference_mode():
        expected = module.layer1[0](torch.from_numpy(pictures)).mean((2, 3)).numpy()
    np.testing.assert_allclose(np.asarray(paths["layer1.0"]), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("batch_first", [True, False])
def test_tokens_first_or_samples_first(batch_first):
    """torch's own transformer layers put the tokens first unless told otherwise."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=batch_first).eval()
    model = nn.Sequential(layer)
    x = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))

    def prepare(rows):
        return torch.stack(rows) if batch_first else torch.stack(rows, dim=1)

    paths = repdyn.trace(repdyn.wrap(model, prepare), x, pool="mean")
    with torch.inference_mode():
        given = x if batch_first else x.transpose(0, 1)
        expected = layer(given).mean(1 if batch_first else 0)
    np.testing.assert_allclose(np.asarray(paths["0"]), expected.numpy(), rtol=1e-5, atol=1e-6)


def test_by_import_path(monkeypatch):
    home = SimpleNamespace(made=nn.Linear(2, 3), make=lambda: nn.Linear(2, 4), number=3, __name__="home")
    monkeypatch.setitem(sys.modules, "repdyn_test_home", home)
    assert repdyn.load("module:repdyn_test_home.made").module.out_features == 3
    assert repdyn.load("module:repdyn_test_home:make").module.out_features == 4
    assert repdyn.load("module:repdyn_test_home.make").name == "module:repdyn_test_home.make"
    for spec, message in [
        ("module:repdyn_test_home.maed", "'made'"),
        ("module:repdyn_test_home.number", "is a int"),
        ("module:repdyn_no_such.thing", "cannot import"),
        ("module:thing", "module:PACKAGE.ATTRIBUTE"),
    ]:
        with pytest.raises(RepdynError, match=message):
            repdyn.load(spec)


def test_samples_that_are_no_tensors():
    with pytest.raises(RepdynError, match="prepare="):
        repdyn.trace(nn.Linear(2, 3), ["a text", "another"])
