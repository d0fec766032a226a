"""A package that repdyn has never heard of brings its models in by its entry point alone."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import repdyn
from repdyn.cli import main
from repdyn.errors import RepdynError

FOLDER = Path(__file__).with_name("third_party")


@pytest.fixture
def tinyhub(monkeypatch):
    """As if the package were installed: its folder, metadata and all, is on the path."""
    monkeypatch.syspath_prepend(str(FOLDER))
    importlib.invalidate_caches()
    yield importlib.import_module("tinyhub")
    for name in [name for name in sys.modules if name.partition(".")[0] == "tinyhub"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def pictures():
    return (load_digits().images[:40] / 16).astype(np.float32)


def test_it_is_found_by_its_scheme_and_traces_its_own_outputs(tinyhub, pictures):
    model = repdyn.load("tiny:three")
    assert tuple(model.default_points)[:4] == ("stem", "stages.0", "stages.1", "stages.2")
    paths = repdyn.trace(model, pictures)
    network = tinyhub.pretrained("three")
    with torch.no_grad():
        x = network.stem(torch.from_numpy(pictures)[:, None])
        for k, stage in enumerate(network.stages):
            x = stage(x)
            want = x.mean(dim=(2, 3)).numpy()
            np.testing.assert_allclose(paths[f"stages.{k}"], want, atol=1e-6)
        np.testing.assert_allclose(paths.logits, network.head(x.mean(dim=(2, 3))).numpy(), atol=1e-5)


def test_a_module_of_its_is_recognised_without_a_name(tinyhub, pictures):
    paths = repdyn.trace(tinyhub.pretrained("two"), pictures)
    assert "stages.1" in paths.points
    assert "stages.2" not in paths.points


def test_an_unknown_name_of_its_is_its_own_error(tinyhub):
    with pytest.raises(RepdynError, match="nearest: 'three'"):
        repdyn.load("tiny:thre")


def test_without_the_package_the_scheme_is_unknown():
    with pytest.raises(RepdynError, match="there is no scheme 'tiny'"):
        repdyn.load("tiny:two")


def test_the_command_line_and_the_doctor_know_it(tinyhub, monkeypatch, capsys, tmp_path):
    from repdyn.cli.doctor import _adapters

    assert _adapters()["tiny"] == "loads (from tinyhub-repdyn)"
    monkeypatch.setattr(sys, "argv", ["repdyn", "points", "tiny:two", "--json", str(tmp_path / "p.json")])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert not stopped.value.code
    assert "stages.1" in json.loads((tmp_path / "p.json").read_text())["default"]
    assert "* stem" in capsys.readouterr().out
