"""Models by name: the scheme finds the adapter."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint

import pytest
import torch
from torch import nn

import repdyn
from repdyn.errors import RepdynError
from repdyn.tracing import plugins


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
    entry = EntryPoint("third", f"{__name__}:Third", plugins.GROUP)
    monkeypatch.setitem(sys.modules, __name__, sys.modules[Third.__module__])
    found = [*plugins.entry_points(group=plugins.GROUP), entry]
    monkeypatch.setattr(plugins, "entry_points", lambda group: found)
    assert repdyn.load("third:7").module[0].out_features == 7
    assert repdyn.trace("third:7", torch.zeros(3, 2)).widths == {"0": 7}


class OldThird(Third):
    """An adapter with the method's old name."""

    def recognises(self, module):
        return isinstance(module, nn.Bilinear)

    def wrap(self, module):
        return repdyn.wrap(nn.Sequential(nn.Linear(2, 9)))


def test_an_adapter_with_the_old_name_of_recognizes_works_with_a_warning(monkeypatch):
    entry = EntryPoint("third", f"{__name__}:OldThird", plugins.GROUP)
    monkeypatch.setitem(sys.modules, __name__, sys.modules[OldThird.__module__])
    found = [entry, *plugins.entry_points(group=plugins.GROUP)]
    monkeypatch.setattr(plugins, "entry_points", lambda group: found)
    with pytest.warns(DeprecationWarning, match="recognises was renamed recognizes"):
        paths = repdyn.trace(nn.Bilinear(2, 2, 1), torch.zeros(3, 2))
    assert paths.widths == {"0": 9}


def test_a_model_is_put_on_a_device_and_stays_there():
    head = nn.Linear(3, 2)
    model = repdyn.wrap(nn.Sequential(nn.Linear(2, 3)), head=head)
    assert [type(part) for part in model.parts] == [nn.Sequential, nn.Linear]
    assert model.to("cpu") is model
    with pytest.raises(RepdynError, match="device 'nowhere'"):
        model.to("nowhere")
    with pytest.raises(RepdynError, match="device 'cuda:99'"):
        repdyn.load("packaged:all-MiniLM-L6-v2", device="cuda:99")
