"""Hooks read what modules give, whatever they wrap it in, and are gone afterwards."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from repdyn.errors import RepdynError
from repdyn.tracing.hooks import Point, left_as_found, reading, unwrap

X = torch.arange(6.0).reshape(2, 3)


@dataclass
class Output:
    flag: bool
    value: torch.Tensor


def hooks_of(module):
    return sum(
        len(part._forward_hooks) + len(part._forward_pre_hooks) + len(part._forward_hooks_with_kwargs)
        for part in module.modules()
    )


@pytest.mark.parametrize(
    "value",
    [
        X,
        (X, None),
        [None, X],
        {"other": X + 1, "last_hidden_state": X},
        OrderedDict(value=X),
        Output(True, X),
        ((X, X + 1), None),
    ],
)
def test_unwrap(value):
    assert unwrap(value) is X


@pytest.mark.parametrize("value", [None, 3, (), {"a": None}])
def test_nothing_to_unwrap(value):
    with pytest.raises(RepdynError, match="without a tensor"):
        unwrap(value, "stem")


def test_packed_sequence_is_refused_by_name():
    packed = nn.utils.rnn.pack_sequence([X, X[:1]])
    with pytest.raises(RepdynError, match="lstm: returns a packed sequence"):
        unwrap(packed, "lstm")


def test_order_is_that_of_execution():
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    points = {"late": Point("1", "NC"), "early": Point("0", "NC"), "into": Point("1", "NC", reads="input")}
    with reading(module, points, lambda name, point, value: value) as reader:
        found = reader.run(lambda: module(X))
    assert list(found) == ["early", "into", "late"]
    assert found["into"] is found["early"]


def test_a_module_called_twice_gives_a_point_per_call():
    layer = nn.Linear(3, 3)
    module = nn.Sequential(layer, nn.ReLU(), layer)
    with reading(module, {"layer": Point("0", "NC")}, lambda name, point, value: value.clone()) as reader:
        found = reader.run(lambda: module(X))
    assert list(found) == ["layer#0", "layer#1"]
    torch.testing.assert_close(found["layer#1"], module(X))


def test_hooks_are_removed_when_an_exception_passes_through():
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(4, 4))

    def failing():
        with reading(module, {"0": Point("0", "NC")}, lambda name, point, value: value) as reader:
            assert hooks_of(module) == 1
            reader.run(lambda: module(X))

    with pytest.raises(RuntimeError):
        failing()
    assert hooks_of(module) == 0


def test_hooks_are_removed_when_a_point_is_unknown():
    module = nn.Sequential(nn.Linear(3, 3))
    points = {"0": Point("0", "NC"), "1": Point("1", "NC")}
    with pytest.raises(RepdynError, match="no module '1'"), reading(module, points, lambda *_: None):
        pass
    assert hooks_of(module) == 0


def test_left_as_found():
    module = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout()))
    module.train()
    module[1].eval()
    state = torch.get_rng_state()

    def failing():
        with left_as_found(module):
            assert not module.training
            assert not torch.is_grad_enabled()
            torch.rand(3)
            raise KeyError

    with pytest.raises(KeyError):
        failing()
    assert torch.equal(state, torch.get_rng_state())
    assert [part.training for part in module.modules()] == [True, True, False, False]
