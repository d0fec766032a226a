"""Models by name: the scheme finds the adapter."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint

import pytest
import torch
from torch import nn

import repdyn
from repdyn.errors import RepdynError
from repdyn.tracing import registry


def test_unknown_scheme_lists_those_there_are():
    with pytest.raises(RepdynError, match="hf, module, packaged, timm"):
        repdyn.load("nowhere:model")
    with pytest.raises(RepdynError, match="expected SCHEME:NAME"):
        repdyn.load("resnet18")
    with pytest.raises(RepdynError, match="expected SCHEME:NAME"):
        repdyn.load("timm:")
    with pytest.raises(RepdynError, match="expected SCHEME:NAME"):
        repdyn.load(3)


def test_not_a_model():
    with pytest.raises(RepdynError, match="got int"):
        repdyn.trace(3, [[1.0]])


class Third:
    scheme = "third"

    def load(self, name):
        return repdyn.wrap(nn.Sequential(nn.Linear(2, int(name))))


def test_third_parties_bring_their_own(monkeypatch):
    entry = EntryPoint("third", f"{__name__}:Third", registry.GROUP)
    monkeypatch.setitem(sys.modules, __name__, sys.modules[Third.__module__])
    found = [*registry.entry_points(group=registry.GROUP), entry]
    monkeypatch.setattr(registry, "entry_points", lambda group: found)
    assert repdyn.load("third:7").module[0].out_features == 7
    assert repdyn.trace("third:7", torch.zeros(3, 2)).widths == {"0": 7}


def test_a_model_is_put_on_a_device_and_stays_there():
    head = nn.Linear(3, 2)
    model = repdyn.wrap(nn.Sequential(nn.Linear(2, 3)), head=head)
    assert [type(part) for part in model.parts] == [nn.Sequential, nn.Linear]
    assert model.to("cpu") is model
    with pytest.raises(RepdynError, match="device 'nowhere'"):
        model.to("nowhere")
    with pytest.raises(RepdynError, match="device 'cuda:99'"):
        repdyn.load("packaged:all-MiniLM-L6-v2", device="cuda:99")
