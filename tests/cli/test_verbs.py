"""The chain from the command line, on a small model of the user's own, and what bad input gets."""

from __future__ import annotations

import json

import numpy as np
import pytest

from repdyn.paths import RepresentationPaths, open_paths

MODEL = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 64)

    def forward(self, x):
        return x + torch.tanh(self.linear(x)) / 2


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), *[Block() for _ in range(3)], nn.Linear(64, 10))
"""


@pytest.fixture
def network(tmp_path, monkeypatch):
    (tmp_path / "my_network.py").write_text(MODEL)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    return "module:my_network.network"


def test_the_whole_chain_on_a_users_own_model(command, network, tmp_path):
    status, out, err = command(
        "trace", network, "digits", "--out", "a.paths", "--limit", 240, "--json", "a.json"
    )
    assert status == 0, err
    assert "240 paths" in out
    traced = json.loads((tmp_path / "a.json").read_text())["trace"]
    assert len(open_paths("a.paths")) == 240
    assert traced["seconds"] > 0

    assert command("koopman", "fit", "a.paths", "--out", "a.kae", "--epochs", 2, "--json", "k.json")[0] == 0
    koopman = json.loads((tmp_path / "k.json").read_text())["koopman"]
    assert {"affine", "identity", "random features"} <= set(koopman["fvu"])
    signed = json.loads((tmp_path / "a.kae" / "command.json").read_text())
    assert signed["command"].startswith("repdyn koopman fit a.paths --out a.kae --epochs 2")
    assert signed["seed"] == 0

    status, out, _ = command(
        "field", "a.kae", "a.paths", "--starts", 20, "--max-steps", 60, "--out", "a.attractors"
    )
    assert status == 0
    assert "Attractors:" in out

    assert command("ood", "fit", "a.paths", "--out", "a.detector")[0] == 0
    status, out, _ = command("ood", "score", "a.detector", "a.paths", "--out", "s.csv", "--json", "s.json")
    assert status == 0
    assert len((tmp_path / "s.csv").read_text().splitlines()) == 241
    assert json.loads((tmp_path / "s.json").read_text())["ood"]["flagged"]["value"] <= 0.2

    foreign = open_paths("a.paths")
    moved = RepresentationPaths.from_arrays(
        {point: np.asarray(foreign[point])[:, ::-1].copy() for point in foreign.points},
        meta=dict(foreign.meta),
    )
    moved.save("moved.paths")
    status, out, _ = command(
        "ood", "evaluate", "a.detector", "a.paths", "--against", "moved=moved.paths", "--training", "a.paths",
        "--out", "a.ood",
    )  # fmt: skip
    assert status == 0
    assert "Mahalanobis" in out

    assert command("topology", "a.paths", "--out", "a.topology")[0] == 0

    results = ("a.paths", "a.kae", "a.attractors", "a.ood", "a.topology")
    status, out, _ = command("report", *results, "--out", "report.html")
    assert status == 0
    page = (tmp_path / "report.html").read_text()
    assert all(
        words in page for words in ("Is depth linear", "Shape through depth", "unlike the training data")
    )
    status, _, err = command("report", "a.paths", "--out", "report.html")
    assert status == 2
    assert "exists" in err


def test_a_resumed_store_of_another_model_is_refused_and_left_alone(command, network, tmp_path):
    assert command("trace", network, "digits", "--out", "a.paths", "--limit", 50)[0] == 0
    before = np.asarray(open_paths("a.paths")[open_paths("a.paths").points[0]])
    (tmp_path / "other_network.py").write_text(MODEL.replace("manual_seed(0)", "manual_seed(1)"))
    status, _, err = command(
        "trace", "module:other_network.network", "digits", "--out", "a.paths", "--limit", 50
    )
    assert status == 2
    assert len(err.strip().splitlines()) == 1
    np.testing.assert_array_equal(np.asarray(open_paths("a.paths")[open_paths("a.paths").points[0]]), before)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("trace", "tim:resnet18", "digits", "--out", "x"), "nearest: 'timm'"),
        (("trace", "module:my_network.netwrk", "digits", "--out", "x"), "network"),
        (("trace", "module:my_network.network", "digits", "--out", "x", "--point", "blok"), "nearest"),
        (("trace", "module:my_network.network", "digit", "--out", "x"), "nearest: 'digits'"),
        (("koopman", "fit", "nowhere.paths", "--out", "x"), "nowhere.paths"),
        (("ood", "score", "nowhere.detector", "nowhere.paths"), "no such file"),
        (("report", "nowhere"), "no such file"),
    ],
)
def test_bad_input_is_one_line_and_status_two(command, network, arguments, says):
    status, _, err = command(*arguments)
    assert status == 2
    assert len(err.strip().splitlines()) == 1
    assert err.startswith("repdyn: error: ")
    assert says in err


def test_debug_shows_the_traceback(command):
    status, _, err = command("report", "nowhere", "--debug")
    assert status == 2
    assert "Traceback" in err


def test_help_and_version(command):
    status, out, _ = command("--help")
    assert status == 0
    assert all(
        verb in out
        for verb in ("demo", "trace", "koopman", "field", "ood", "topology", "translate", "report")
    )
    assert command("--version")[1].strip()[0].isdigit()


def test_the_field_of_a_store_always_converges(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    centers = 6 * generator.normal(size=(4, 5))
    rows = centers[np.arange(80) % 4] + 0.3 * generator.normal(size=(80, 5))
    RepresentationPaths.from_arrays({"a": rows, "b": rows[:, ::-1].copy()}).save("bank.paths")

    status, out, err = command("field", "bank.paths", "bank.paths", "--json", "f.json", "--out", "found")
    assert status == 0, err
    assert "EnergyField: 80 latents" in out
    figures = json.loads((tmp_path / "f.json").read_text())["field"]
    assert (figures["attractors"], figures["status"]) == (4, {"fixed point": 80})
    assert figures["energy"]["sigma"] in figures["energy"]["scales"]["sigmas"]

    status, out, _ = command("field", "bank.paths", "bank.paths", "--point", "a", "--sigma", 100)
    assert status == 0
    assert "share one mode" in out
    status, _, err = command("field", "bank.paths", "bank.paths", "--point", "c")
    assert status != 0
    assert "there is no 'c'" in err
