"""A stitched model as a torch module: what it holds, where it computes, and what is saved of it."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import repdyn
from repdyn.errors import RepdynError
from repdyn.translation import LinearTranslation, stitch

X = torch.randn(9, 3, generator=torch.Generator().manual_seed(0))


def body(seed: int, width: int) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, width))


def parts(dropout: float = 0.0):
    with torch.random.fork_rng():
        torch.manual_seed(9)
        head = nn.Sequential(nn.Dropout(dropout), nn.Linear(5, 4))
    rng = np.random.default_rng(0)
    t = LinearTranslation(rng.normal(size=(6, 5)), rng.normal(size=6), rng.normal(size=5), verdict="found")
    return repdyn.wrap(body(0, 6)), t, repdyn.wrap(body(1, 5), head=head)


def by_hand(a, t, b, x):
    read = a.module(x).detach().double().numpy()
    moved = (read - t.offset_a) @ t.matrix + t.offset_b
    return b.head[1](torch.as_tensor(moved, dtype=torch.float32))


def test_both_models_and_the_head_are_parts():
    a, t, b = parts()
    a.module[0].weight.requires_grad_(False)
    stitched = stitch(a, t, b)
    held = {id(weight) for weight in stitched.parameters()}
    own = [*a.module.parameters(), *b.module.parameters(), *b.head.parameters()]
    assert held == {id(weight) for weight in own}
    assert not a.module[0].weight.requires_grad  # left as it was
    stitched.eval()
    assert not any(part.training for part in (a.module, b.module, b.head))
    names = set(stitched.state_dict())
    assert {"matrix", "offset_a", "offset_b", "model_a.0.weight", "model_b.0.weight"} <= names
    assert "head_b.1.bias" in names
    stitched.to(torch.float64)
    assert a.module[0].weight.dtype == b.head[1].weight.dtype == stitched.matrix.dtype == torch.float64


def test_one_model_on_both_sides_is_held_once():
    module = body(0, 6)
    a = repdyn.wrap(module, head=nn.Linear(6, 2))
    stitched = stitch(a, LinearTranslation(np.eye(6), np.zeros(6), np.zeros(6)), a)
    assert stitched.model_a is stitched.model_b
    assert len(list(stitched.parameters())) == len(list(module.parameters())) + 2
    torch.testing.assert_close(stitched.predict(X), a.head(module(X)).detach())


def test_a_state_saved_before_the_models_were_parts_loads():
    a, t, b = parts()
    old = {
        name: torch.ones_like(getattr(stitch(a, t, b), name)) for name in ("matrix", "offset_a", "offset_b")
    }
    stitched = stitch(a, t, b)
    before = copy.deepcopy(a.module.state_dict())
    stitched.load_state_dict(old)
    assert torch.equal(stitched.matrix, torch.ones(6, 5))
    for name, value in before.items():
        assert torch.equal(a.module.state_dict()[name], value)
    nn.ModuleDict({"inside": stitched}).load_state_dict({f"inside.{name}": x for name, x in old.items()})
    with pytest.raises(RuntimeError, match="model_b"):  # a newer one that lacks a model is damaged
        stitched.load_state_dict({**old, **{f"model_a.{k}": v for k, v in before.items()}})
    other = stitch(*parts())
    other.load_state_dict(stitched.state_dict())
    assert torch.equal(other.matrix, stitched.matrix)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_answer_is_in_the_type_of_what_was_read(dtype):
    a, t, b = parts()
    stitched = stitch(a, t, b)
    read = a.module(X).detach().to(dtype)
    assert stitched(read).dtype == stitched.translate(read).dtype == t.as_module()(read).dtype == dtype
    expected = t(read.double().numpy())
    tolerance = 0.05 if dtype == torch.bfloat16 else 1e-5
    np.testing.assert_allclose(t.as_module()(read).double().numpy(), expected, rtol=tolerance, atol=tolerance)
    # What lies between is rounded once, at the end.
    logits = b.head[1](torch.as_tensor(expected, dtype=torch.float32)).to(dtype)
    torch.testing.assert_close(
        stitched(read), logits.detach(), rtol=1e-2 if tolerance > 1e-3 else 1e-4, atol=1e-4
    )


def test_the_module_of_a_translation_is_its_buffers():
    _, t, _ = parts()
    module = t.as_module()
    assert not list(module.parameters())
    assert set(module.state_dict()) == {"matrix", "offset_a", "offset_b"}
    x = torch.zeros(2, 4, 6, requires_grad=True)
    module(x).sum().backward()
    np.testing.assert_allclose(x.grad[0, 0].numpy(), t.matrix.sum(1), rtol=1e-5)
    np.testing.assert_allclose(
        module(torch.ones(2, 6, dtype=torch.long)).numpy(), t(np.ones((2, 6))), rtol=1e-5
    )
    with pytest.raises(RepdynError, match="width 6"):
        module(torch.zeros(2, 5))


def test_predictions_come_in_the_order_of_any_inputs_and_in_evaluation_mode():
    a, t, b = parts(dropout=0.9)
    stitched = stitch(a, t, b).train()
    expected = by_hand(a, t, b, X)
    for given in (X, list(X.numpy()), TensorDataset(X, torch.arange(9))):
        torch.testing.assert_close(stitched.predict(given), expected, rtol=1e-4, atol=1e-4)
    assert b.head.training
    with pytest.raises(RepdynError, match="there are no samples"):
        stitched.predict([])


def test_a_point_that_is_passed_twice_is_refused():
    layer = nn.Linear(3, 3)
    a = repdyn.wrap(nn.Sequential(layer, nn.Tanh(), layer), points=["0"])
    t = LinearTranslation(np.eye(3), np.zeros(3), np.zeros(3))
    b = repdyn.wrap(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2)))
    with pytest.raises(RepdynError, match="passed 2 times"):
        stitch(a, t, b, points=("0", "0")).predict(X)
