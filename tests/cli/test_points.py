"""``repdyn points``: the tree with shapes and what each choice would read; wrong models end in one line."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest
import timm
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from repdyn.cli import main


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["repdyn", *arguments])
    try:
        return main()
    except SystemExit as stopped:  # the parser's own, on --help and on options that there are none
        return stopped.code


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = timm.create_model("test_vit")
    file = tmp_path_factory.mktemp("weights") / "test_vit.safetensors"
    save_file(module.state_dict(), file)
    return file


def test_the_tree_with_shapes_and_choices(monkeypatch, capsys, tmp_path, checkpoint):
    out = tmp_path / "points.json"
    assert not run(monkeypatch, "points", f"timm:test_vit@{checkpoint}", "--json", str(out))
    lines = capsys.readouterr().out.splitlines()
    words = {line.replace("*", " ").split()[0]: line for line in lines}
    assert words["blocks.0"].startswith("*   blocks.0 ")
    assert "Block" in words["blocks.0"]
    assert words["blocks.0"].endswith("1 x 101 x 64")
    assert words["blocks.0.attn"].startswith("      blocks.0.attn")
    assert words["pooled"].endswith("1 x 64")
    assert "--point blocks: 7 (blocks.0, blocks.1, …, pooled)" in lines
    assert "--point attention: 6 (blocks.0.attn, blocks.1.attn, …, blocks.5.attn)" in lines
    assert "--point mlp: 6 (blocks.0.mlp, blocks.1.mlp, …, blocks.5.mlp)" in lines
    found = json.loads(out.read_text())
    assert found["shapes"]["blocks.3"] == [[1, 101, 64]]
    assert found["choices"]["attention"][0] == "blocks.0.attn"


def test_a_model_whose_input_shape_is_unknown(monkeypatch, capsys):
    layer = nn.Linear(2, 2)
    home = SimpleNamespace(made=nn.Sequential(layer, nn.ReLU(), layer), __name__="home")
    monkeypatch.setitem(sys.modules, "repdyn_test_points", home)
    assert not run(monkeypatch, "points", "module:repdyn_test_points.made")
    assert "shapes are unknown" in capsys.readouterr().out


SCHEMES = st.sampled_from(["timm:", "hf:", "module:", "packaged:", "", ":", "timm:test_vit@", "third:"])
NAMES = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\x00"), max_size=30)
NEAR = st.sampled_from(
    [
        "resnet-18",
        "test_vit@/",
        "os.path",
        "os.system",
        "repdyn",
        "sys.exit",
        "torch.nn.Linear",
        "..",
        "a.b.c",
        "~",
    ]
)


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(spec=st.builds(lambda scheme, name: scheme + name, SCHEMES, st.one_of(NAMES, NEAR)))
def test_any_wrong_model_specification_is_one_line_and_status_2(monkeypatch, capsys, spec):
    status = run(monkeypatch, "points", "--", spec)
    shown = capsys.readouterr()
    assert status == 2, (spec, shown)
    assert shown.err.count("\n") == 1, (spec, shown.err)
    assert shown.err.startswith("repdyn: error: ")
    assert "Traceback" not in shown.err
