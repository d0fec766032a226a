"""Models whose modules give other things than tensors, are called often or never, or fail: told or read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

import repdyn
from repdyn.errors import RepdynError

X = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0))


@dataclass
class Output:
    flag: bool
    value: torch.Tensor


class Block(nn.Module):
    def __init__(self, wrap, unwrap):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.wrap, self.unwrap = wrap, unwrap

    def forward(self, x):
        return self.wrap(self.linear(self.unwrap(x)))


class Model(nn.Module):
    def __init__(self, wrap, unwrap):
        super().__init__()
        self.blocks = nn.ModuleList(Block(wrap, unwrap) for _ in range(2))
        self.idle = nn.Linear(4, 4)
        self.unwrap = unwrap

    def forward(self, x):
        x = self.blocks[0].wrap(x)
        for block in self.blocks:
            x = block(x)
        return self.unwrap(x)


def packed(x):
    return nn.utils.rnn.pack_padded_sequence(x, torch.full((len(x),), x.shape[1]), batch_first=True)


def unpacked(x):
    return nn.utils.rnn.pad_packed_sequence(x, batch_first=True)[0]


READ = {
    "tuple": (lambda x: (x, None), lambda x: x[0]),
    "list": (lambda x: [None, x], lambda x: x[1]),
    "dict": (lambda x: {"other": 1, "states": x}, lambda x: x["states"]),
    "dataclass": (lambda x: Output(True, x), lambda x: x.value),
    "nested tuple": (lambda x: ((x, x + 1), None), lambda x: x[0][0]),
}


@pytest.mark.parametrize("kind", READ)
def test_read(kind):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Model(*READ[kind])
    paths = repdyn.trace(model, X, points=["blocks.*"], pool="mean")
    with torch.inference_mode():
        first = model.blocks[0].linear(X)
        expected = [first.mean(1), model.blocks[1].linear(first).mean(1)]
    for name, value in zip(("blocks.0", "blocks.1"), expected, strict=True):
        np.testing.assert_allclose(np.asarray(paths[name]), value, rtol=1e-6, atol=1e-6)


def refused(kind):
    wrap, unwrap = {
        "packed sequence": (packed, unpacked),
        "nested tensor": (
            lambda x: torch.nested.as_nested_tensor(list(x)) if not x.is_nested else x,
            lambda x: torch.nested.to_padded_tensor(x, 0.0) if x.is_nested else x,
        ),
    }[kind]
    return Model(wrap, unwrap)


def state_of(module):
    return [
        (part.training, len(part._forward_hooks), len(part._forward_pre_hooks), sorted(part.__dict__))
        for part in module.modules()
    ] + [(weight.requires_grad, weight.grad) for weight in module.parameters()]


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("kind", ["packed sequence", "nested tensor"])
def test_refused_by_name_and_the_model_left_as_it_was(kind):
    model = refused(kind)
    model.train()
    model.blocks[0].eval()
    model.idle.weight.requires_grad_(False)
    before, dice = state_of(model), torch.get_rng_state()
    with pytest.raises(RepdynError, match=f"blocks.0.*returns a {kind}"):
        repdyn.trace(model, X, points=["blocks.*"])
    assert state_of(model) == before
    assert torch.equal(torch.get_rng_state(), dice)


def test_a_module_that_fails_leaves_no_hooks():
    model = Model(*READ["tuple"])
    model.train()
    before = state_of(model)
    with pytest.raises((RepdynError, RuntimeError)):
        repdyn.trace(model, torch.zeros(2, 3, 7), points=["blocks.*"])
    assert state_of(model) == before


def test_a_module_that_is_never_called():
    with pytest.raises(RepdynError, match="'idle': the module is never called"):
        repdyn.trace(Model(*READ["tuple"]), X, points=["idle"])


def test_a_module_called_several_times_has_a_point_for_each():
    layer = nn.Linear(4, 4)
    model = nn.Sequential(layer, nn.Tanh(), layer, layer)
    paths = repdyn.trace(model, X[:, 0], points=["0"])
    assert paths.points == ("0#0", "0#1", "0#2")
    assert repdyn.trace(model, X[:, 0], points=["0#1"]).points == ("0#1",)
    with torch.inference_mode():
        expected = layer(torch.tanh(layer(X[:, 0])))
    np.testing.assert_allclose(np.asarray(paths["0#1"]), expected, rtol=1e-6, atol=1e-6)
    with pytest.raises(RepdynError, match="called 3 times"):
        repdyn.trace(model, X[:, 0], points=["0#3"])
