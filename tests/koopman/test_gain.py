"""Gains of a perturbation: exact for linear networks, equal to finite differences, compared over depths."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import repdyn
from repdyn.errors import RepdynError
from repdyn.koopman import Gain, gain
from repdyn_adapters.transformers import TransformersAdapter
from tests.tiny_models import tiny_bert, tiny_llama


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def linear(scales: tuple[float, ...], width: int = 5) -> nn.Sequential:
    layers = [nn.Linear(width, width) for _ in scales]
    with torch.no_grad():
        for number, (layer, scale) in enumerate(zip(layers, scales)):
            layer.weight.copy_(scale * drawn(width, width, seed=number) / width**0.5)
            layer.bias.copy_(drawn(width, seed=10 + number))
    return nn.Sequential(*layers)


def test_a_linear_network_has_the_gains_of_its_matrices(tmp_path: Path) -> None:
    module = linear((1.0, 2.0, 0.5, 1.5))
    model = repdyn.wrap(module)
    paths = repdyn.trace(model, drawn(300, 5))
    found = gain(model, paths, drawn(20, 5, seed=3))
    chain, expected = torch.eye(5), []
    for layer in reversed(module[1:]):
        chain = layer.weight.T.detach() @ chain
        expected.insert(0, (float(chain.norm()) / 5**0.5, float(torch.linalg.matrix_norm(chain, 2))))
    for number, (mean, most) in enumerate(expected):
        assert found.fitted[number] == pytest.approx(mean, rel=1e-3)
        assert found.strongest_gain[number] == pytest.approx(most, rel=1e-3)
        # Random directions of the output estimate the mean; a linear network has one Jacobian.
        assert found.true is not None
        assert found.true[number].value == pytest.approx(mean, rel=0.15)
    assert found.unexplained.max() < 1e-6
    push = torch.from_numpy(found.strongest[0]).float()
    with torch.no_grad():
        moved = module[1:](push[None]) - module[1:](torch.zeros(1, 5))
    assert float(moved.norm()) == pytest.approx(found.strongest_gain[0], rel=1e-3)
    found.save(tmp_path / "gain")
    assert repr(Gain.load(tmp_path / "gain")) == repr(found)
    figure = found.plot()
    drawn_lines = {line.name: line.y for line in figure.data if line.name in ("fitted", "true")}
    np.testing.assert_allclose(drawn_lines["fitted"], found.fitted)
    np.testing.assert_allclose(drawn_lines["true"], [own.value for own in found.true])
    assert "Unexplained variance" not in figure.layout.meta["caption"]  # a gain is no share of variance


def test_the_gain_on_one_output_is_that_of_its_row() -> None:
    module = linear((1.0, 2.0, 0.5))
    model = repdyn.wrap(module)
    paths = repdyn.trace(model, drawn(300, 5))
    row = np.array([1.0, 0, 0, 0, 2.0])
    found = gain(model, paths, drawn(8, 5, seed=3), readout=row)
    expected = module[2].weight.T.double().detach() @ torch.from_numpy(row)
    assert found.fitted[1] == pytest.approx(float(expected.norm()) / 5**0.5, rel=1e-3)
    assert found.true is not None
    assert found.true[1].value == pytest.approx(float(expected.norm()) / 5**0.5, rel=1e-4)
    with pytest.raises(RepdynError, match=r"readout must have shape \(5,\)"):
        gain(model, paths, readout=np.ones(4))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_strongest_direction_of_an_output_raises_it_with_the_least_energy(sign: float) -> None:
    module = linear((1.0, 2.0, 0.5))
    model = repdyn.wrap(module)
    paths = repdyn.trace(model, drawn(300, 5))
    row = sign * np.array([1.0, 0, 0.5, 0, 2.0])
    found = gain(model, paths, readout=row)
    x, readout = drawn(8, 5, seed=3), torch.from_numpy(row).float()
    for number, point in enumerate(found.points):
        pushed = torch.from_numpy(found.strongest[number]).float()
        with torch.no_grad():
            raised = (model.patched({point: lambda own, by=pushed: own + by})(x) - module(x)) @ readout
        # What a unit push in any direction v does is v · slope, so that the slope's own direction is best.
        slope = torch.autograd.functional.jacobian(
            lambda v, at=point: (model.patched({at: lambda own: own + v})(x[:1]) @ readout)[0], torch.zeros(5)
        )
        assert raised.numpy() == pytest.approx(float(slope.norm()), rel=1e-2)
        assert raised.numpy() == pytest.approx(found.strongest_gain[number], rel=1e-2)


def bert(pool: str) -> Any:
    return replace(TransformersAdapter().wrap(tiny_bert(4)), pooling=pool)


@pytest.mark.parametrize("pool", ["mean", "cls", "last"])
def test_jacobians_are_those_of_finite_differences_also_with_padding(pool: str) -> None:
    model = bert(pool)
    draw = np.random.default_rng(0)
    texts = [draw.integers(1, 40, size=n) for n in (3, 9, 6, 5, 8)]
    paths = repdyn.trace(model, [draw.integers(1, 40, size=12) for _ in range(40)], pool="none")
    row = draw.standard_normal(16)
    point = paths.points[1]
    found = gain(model, paths, texts, readout=row)
    assert found.true is not None
    layer = model.module.get_submodule(point)
    squares = []
    for text in texts:  # one text at a time has no padding
        ids = torch.as_tensor(text)[None]
        place = {"mean": slice(None), "cls": slice(0, 1), "last": slice(-1, None)}[pool]

        def output(push: torch.Tensor, ids: torch.Tensor = ids, place: slice = place) -> float:
            def hook(_: Any, __: Any, y: Any) -> Any:
                y = y.clone()
                y[:, place] += push
                return y

            handle = layer.register_forward_hook(hook)
            with torch.no_grad():
                states = model.module.double()(input_ids=ids).last_hidden_state[0]
            handle.remove()
            pooled = {"mean": states.mean(dim=0), "cls": states[0], "last": states[-1]}[pool]
            return float(pooled @ torch.from_numpy(row))

        steps = 1e-4 * torch.eye(16, dtype=torch.float64)
        slopes = [(output(step) - output(-step)) / 2e-4 for step in steps]
        squares.append(np.square(slopes).mean())
        model.module.float()
    assert found.true[1].value == pytest.approx(float(np.mean(squares)) ** 0.5, rel=1e-3)


def test_a_model_whose_first_batch_takes_several_passes() -> None:
    model = TransformersAdapter().wrap(tiny_llama(3))
    draw = np.random.default_rng(0)
    texts = [draw.integers(1, 40, size=10) for _ in range(40)]
    paths = repdyn.trace(model, texts, pool="none")
    found = gain(model, paths, texts[:12])
    assert found.target == "last_hidden_state"
    assert found.true is not None
    assert found.samples == 12
    assert all(own.value > 0 for own in found.true)


def test_depths_are_ordered_by_their_gains_and_disorder_is_told() -> None:
    layers: list[nn.Module] = []
    for number, scale in enumerate((0.3, 2.5, 0.4, 0.5, 0.6, 0.7)):
        layers.append(nn.Sequential(linear((scale,), 6), nn.Tanh()))
        with torch.no_grad():
            layers[-1][0][0].weight.copy_(scale * torch.linalg.qr(drawn(6, 6, seed=number))[0])
    model = repdyn.wrap(nn.Sequential(*layers))
    paths = repdyn.trace(model, drawn(400, 6))
    found = gain(model, paths, drawn(60, 6, seed=1))
    assert found.rank_correlation is not None
    assert found.rank_correlation.value > 0.9
    assert found.verdict == "found"
    assert gain(model, paths).verdict == "inconclusive"
    assert "give inputs" in repr(gain(model, paths))


def test_bad_input_is_named() -> None:
    model = bert("mean")
    draw = np.random.default_rng(0)
    texts = [draw.integers(1, 40, size=12) for _ in range(30)]
    with pytest.raises(RepdynError, match='trace with pool="none"'):
        gain(model, repdyn.trace(model, texts))
    with pytest.raises(RepdynError, match="12 tokens are too few"):
        gain(model, repdyn.trace(model, texts[:1], pool="none"))
    plain = repdyn.wrap(linear((1.0, 1.0)))
    with pytest.raises(RepdynError, match="one point"):
        gain(plain, repdyn.trace(plain, drawn(30, 5), points=["0"]))
