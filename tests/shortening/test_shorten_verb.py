"""``repdyn shorten``: says what will be lost, saves a map that shortens the model again."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import repdyn
from repdyn.cli import main


def run(monkeypatch: Any, capsys: Any, *arguments: object) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["repdyn", *map(str, arguments)])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    with pytest.raises(SystemExit) as stopped:
        main()
    told = capsys.readouterr()
    return int(stopped.value.code or 0), told.out, told.err


MODULE = """
import torch
from torch import nn
torch.manual_seed(0)
net = nn.Sequential(*(nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(5)))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: Any) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "shortened_example.py").write_text(MODULE)
    np.savez("data.npz", x=np.random.default_rng(0).standard_normal((120, 6)).astype("float32"))
    return tmp_path


def test_the_verb_states_the_loss_and_saves_the_map(folder: Path, monkeypatch: Any, capsys: Any) -> None:
    words = ("shorten", "module:shortened_example.net", "npz:data.npz#x", "--remove", "2")
    status, out, err = run(monkeypatch, capsys, *words, "--out", "short", "--json", "figures.json")
    assert status == 0, err
    assert "expected unexplained variance of the output" in out
    figures = json.loads((folder / "figures.json").read_text())["shorten"]
    assert figures["expected"]["low"] <= figures["expected"]["value"] <= figures["expected"]["high"]
    again = repdyn.load_result("short")
    assert again.shortening.to_dict() == figures
    x = torch.zeros(3, 6)
    assert again.module(x).shape == (3, 6)
    status, _, err = run(monkeypatch, capsys, *words[:-1], "9")
    assert (status, "remove must be from 1 to 4" in err) == (2, True)
