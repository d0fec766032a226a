"""Shortening: planted blocks are replaced, the loss is as expected, the result runs and loads again."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import repdyn
from repdyn.errors import RepdynError
from repdyn.shortening import PointwiseMap, ShortenedModel, Shortening, shorten
from repdyn.shortening.blocks import blocks_of, replaceable
from repdyn.shortening.outputs import outputs_of
from repdyn_adapters.transformers import TransformersAdapter
from tests.tiny_models import tiny_bert, tiny_llama


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Residual(nn.Module):
    """``x + tanh(x W) V``, or an affine block; channels at the given axis."""

    def __init__(self, width: int, seed: int, affine: bool = False, axis: int = -1) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.6 * drawn(width, width, seed=seed) / width**0.5)
        self.other = nn.Parameter(drawn(width, width, seed=seed + 100) / width**0.5)
        self.bias = nn.Parameter(0.1 * drawn(width, seed=seed + 200))
        self.affine, self.axis = affine, axis

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x.movedim(self.axis, -1)
        inner = y @ self.weight
        y = y + (inner if self.affine else torch.tanh(3 * inner)) @ self.other + self.bias
        return y.movedim(-1, self.axis)


def network(affine: set[int], count: int = 6, width: int = 8, **options: Any) -> nn.Module:
    blocks = [Residual(width, number, number in affine, **options) for number in range(count)]
    return nn.ModuleDict({"blocks": nn.Sequential(*blocks)})["blocks"]


def test_the_affine_blocks_are_found_and_replaced_without_loss() -> None:
    model = repdyn.wrap(network({2, 3}))
    x = drawn(300, 8)
    before = model.module(x)
    short = shorten(model, x, remove=2)
    found = short.shortening
    assert found.removed == ("2", "3")
    assert found.expected.high < 1e-6
    assert found.verdict == "found"
    assert min(found.runs, key=lambda name: found.runs[name]) == "2 to 3"
    new = drawn(50, 8, seed=9)
    assert torch.allclose(short.module(new), model.module(new), atol=1e-3)
    assert torch.equal(model.module(x), before)  # the model itself is as it was
    shared = {id(p) for p in model.module.parameters()}
    assert all(id(p) in shared for p in short.module[5].parameters())
    assert sum(p.numel() for p in short.module[3].parameters()) == 0


def test_the_loss_on_new_samples_lies_in_the_expected_interval() -> None:
    held = 0
    for seed in range(40):
        model = repdyn.wrap(network(set(), width=6))
        short = shorten(model, drawn(300, 6, seed=seed), remove=2, seed=seed)
        new = drawn(20_000, 6, seed=1000 + seed)
        with torch.no_grad():
            own, other = model.module(new).double(), short.module(new).double()
        lost = float((own - other).square().sum() / (own - own.mean(dim=0)).square().sum())
        held += short.shortening.expected.low <= lost <= short.shortening.expected.high
        assert short.shortening.expected.value < 0.5 * short.shortening.dropped.value
    assert held >= 38  # 19 of 20


def test_a_head_gives_a_divergence_and_decisions() -> None:
    head = nn.Linear(8, 3)
    model = repdyn.wrap(network({1, 2}), head=head)
    short = shorten(model, drawn(200, 8), remove=2)
    assert short.shortening.loss == "divergence of the output"
    assert short.shortening.agreement is not None
    assert short.shortening.agreement.value == 1
    assert short.shortening.expected.value < 1e-5
    assert "decisions that stay the same" in repr(short)


@pytest.mark.parametrize(("axis", "shape", "layout"), [(1, (5, 7), "NCHW"), (-1, (9,), "NLC")])
def test_places_and_tokens_are_mapped_one_by_one(axis: int, shape: tuple, layout: str) -> None:
    module = network({1, 2}, count=4, axis=axis)
    model = repdyn.wrap(module, points={str(number): layout for number in range(4)})
    x = drawn(60, 8, *shape) if axis == 1 else drawn(60, *shape, 8)
    short = shorten(model, x, remove=2)
    assert short.shortening.removed == ("1", "2")
    assert short.shortening.tokens == 48 * int(np.prod(shape))
    assert torch.allclose(short.module(x), module(x), atol=1e-3)


def test_it_is_a_model_that_can_be_traced_saved_and_loaded(tmp_path: Path) -> None:
    model = repdyn.wrap(network(set()), head=nn.Linear(8, 3))
    x = drawn(200, 8)
    short = shorten(model, x, remove=3)
    paths = repdyn.trace(short.model, x[:20])
    assert torch.allclose(torch.tensor(np.asarray(paths[paths.points[-1]])), short.module(x[:20]), atol=1e-6)
    short.save_pretrained(tmp_path / "short")
    again = ShortenedModel.from_pretrained(tmp_path / "short", model=model)
    assert torch.equal(again.module(x), short.module(x))
    assert repr(again) == repr(short)
    assert again.shortening.to_dict() == short.shortening.to_dict()
    short.shortening.save(tmp_path / "figures")
    assert repr(Shortening.load(tmp_path / "figures")) == repr(short)
    (bars,) = short.shortening.plot().data
    assert list(bars.x) == [short.shortening.expected.value, short.shortening.dropped.value]
    assert len(set(bars.marker.color)) == 2  # the control is gray
    other = repdyn.wrap(network(set()), head=model.head)
    with torch.no_grad():
        other.module[5].bias.add_(1)
    with pytest.raises(RepdynError, match="give the model that was shortened"):
        ShortenedModel.from_pretrained(tmp_path / "short", model=other)
    (tmp_path / "short" / "model.safetensors").write_bytes(b"")
    with pytest.raises(RepdynError):
        ShortenedModel.from_pretrained(tmp_path / "short", model=model)


def test_equal_samples_are_in_one_part() -> None:
    model = repdyn.wrap(network(set()))
    few = drawn(8, 8)
    with pytest.raises(RepdynError, match=r"4 tokens|5 tokens|different samples are too few"):
        shorten(model, few.repeat(10, 1), remove=2)


def test_runs_end_where_the_shape_changes() -> None:
    widths = (4, 4, 4, 6, 6)
    net = nn.Sequential(*(nn.Sequential(nn.Linear(a, b), nn.Tanh()) for a, b in pairwise(widths)))
    model = repdyn.wrap(net)
    blocks = blocks_of(model, list(drawn(2, 4)))
    assert [block.fits for block in blocks] == [True, True, False, True]
    assert replaceable(blocks, 2) == [0]
    with pytest.raises(RepdynError, match="at most 2 can be replaced: 0 to 1"):
        shorten(model, drawn(100, 4), remove=3)


class Branching(nn.Module):
    """The second block does not read what the first one gives."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Residual(4, number) for number in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.blocks[0](x)
        y = self.blocks[1](y + x)
        return self.blocks[2](y)


def test_a_run_does_not_span_what_happens_between_blocks() -> None:
    model = repdyn.wrap(Branching())
    blocks = blocks_of(model, list(drawn(2, 4)))
    assert replaceable(blocks, 2) == [1]


@pytest.mark.parametrize(
    ("count", "remove", "message"),
    [
        (1, 1, "has one block"),
        (4, 4, "remove must be from 1 to 3 of the 4 blocks"),
        (4, 0, "remove must be from 1 to 3"),
    ],
)
def test_bad_numbers_of_blocks_are_named(count: int, remove: int, message: str) -> None:
    with pytest.raises(RepdynError, match=message):
        shorten(repdyn.wrap(network(set(), count=count)), drawn(100, 8), remove=remove)


def test_too_few_samples_and_tokens_are_named() -> None:
    model = repdyn.wrap(network(set(), width=64))
    with pytest.raises(RepdynError, match="5 samples are too few"):
        shorten(model, drawn(5, 64), remove=2)
    with pytest.raises(RepdynError, match="tokens are too few for a map of 64 channels"):
        shorten(model, drawn(60, 64), remove=2)
    bad = drawn(200, 64)
    bad[3] = float("nan")
    with pytest.raises(RepdynError, match="not finite"):
        shorten(model, bad, remove=2)


def test_a_map_keeps_the_type_and_the_kind_of_result() -> None:
    map_ = PointwiseMap(4, units=8, packed=True)
    (y,) = map_(drawn(2, 3, 4).bfloat16(), attention_mask=torch.ones(2, 3))
    assert y.dtype == torch.bfloat16
    assert y.shape == (2, 3, 4)
    (y,) = map_(hidden_states=drawn(2, 3, 4))  # zero weights: the identity
    assert torch.equal(y, drawn(2, 3, 4))


def test_a_language_model_loses_log_perplexity_and_still_generates() -> None:
    module = tiny_llama(5)
    model = TransformersAdapter().wrap(module)
    draw = np.random.default_rng(0)
    texts = [draw.integers(1, 40, size=draw.integers(4, 12)) for _ in range(80)]
    short = shorten(model, texts, remove=2)
    assert short.shortening.loss == "increase of the log perplexity"
    assert "layers.0" not in short.shortening.removed
    # The figure that the outputs give is that of transformers' own loss.
    ids = torch.as_tensor(texts[0])[None]
    nll, count = outputs_of(model, texts[:1], 8).values[0]
    assert nll / count == pytest.approx(module(input_ids=ids, labels=ids).loss.item(), rel=1e-5)
    with torch.no_grad():
        cached = short.module.generate(ids, max_new_tokens=5, do_sample=False, use_cache=True)
        plain = short.module.generate(ids, max_new_tokens=5, do_sample=False, use_cache=False)
    assert torch.equal(cached, plain)


def test_padding_is_no_token() -> None:
    model = TransformersAdapter().wrap(tiny_bert(4))
    draw = np.random.default_rng(0)
    texts = [draw.integers(1, 40, size=draw.integers(2, 20)) for _ in range(60)]
    short = shorten(model, texts, remove=1)
    assert short.shortening.loss == "unexplained variance of the output"
    assert short.shortening.tokens < sum(map(len, texts))
    assert short.shortening.expected.value < short.shortening.dropped.value


def test_blocks_that_all_change_the_shape_are_named() -> None:
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    with pytest.raises(RepdynError, match=r"no 1 successive blocks .* no block keeps its shape"):
        shorten(repdyn.wrap(net), drawn(300, 4), remove=1)
