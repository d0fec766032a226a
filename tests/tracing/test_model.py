"""Points by name and pattern; digests that see every weight."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import repdyn
from repdyn.errors import RepdynError
from repdyn.tracing.spec import digest


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn = nn.Linear(4, 4)
        self.mlp = nn.Sequential(nn.Linear(4, 4), nn.ReLU())

    def forward(self, x):
        return x + self.mlp(self.attn(x))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(4, 4)
        self.blocks = nn.ModuleList(Block() for _ in range(11))

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return x


@pytest.fixture
def model():
    return repdyn.wrap(Model())


def test_points(model):
    blocks = tuple(f"blocks.{number}" for number in range(11))
    assert model.find_points() == model.find_points("blocks") == blocks
    assert model.find_points("blocks.*") == blocks
    assert model.find_points("blocks.*.attn") == tuple(f"{name}.attn" for name in blocks)
    assert model.find_points(["blocks.10", "stem", "blocks.2"]) == ("stem", "blocks.2", "blocks.10")
    assert model.find_points("blocks.1?") == ("blocks.10",)
    assert len(model.find_points("blocks.3.**")) == 4
    assert len(model.find_points("all")) == len(dict(model.module.named_modules()))


def test_wrong_point_lists_the_nearest(model):
    with pytest.raises(RepdynError, match=r"'blocks\.3\.attn'"):
        model.find_points("blocks.3.atn")
    with pytest.raises(RepdynError, match="expected names"):
        model.find_points([3])


def test_wrap_checks_its_points():
    with pytest.raises(RepdynError, match="'stem'"):
        repdyn.wrap(Model(), points=["stemm"])
    with pytest.raises(RepdynError, match="layout 'NWC'"):
        repdyn.wrap(Model(), points={"stem": "NWC"})
    with pytest.raises(RepdynError, match=r"write \['stem'\]"):
        repdyn.wrap(Model(), points="stem")
    with pytest.raises(RepdynError, match=r"expected a torch.nn.Module"):
        repdyn.wrap(lambda x: x)


def test_digest_sees_every_weight_and_nothing_else():
    module = Model()
    before = digest(module)
    assert before == digest(module.eval())
    module.blocks[10].mlp[0].bias.data[3] += 1e-6
    assert digest(module) != before
    assert digest(nn.Linear(2, 2).to(torch.bfloat16)) != digest(nn.Linear(2, 2))
    buffered = nn.BatchNorm1d(3)
    before = digest(buffered)
    buffered.running_mean[0] = 1
    assert digest(buffered) != before


def test_repr_fits_one_line(model):
    assert "\n" not in repr(model)
    assert "blocks.10" in repr(model)
