"""The README's Python runs as written, its verbs exist, and its files are there."""

from __future__ import annotations

import re
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch

from repdyn import datasets
from tests import tiny_models

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
CODE = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def _module():
    torch.manual_seed(0)
    layers = [torch.nn.Linear(10, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3)]
    return torch.nn.Sequential(*layers).eval(), torch.randn(30, 10)


def _timm():
    import timm

    torch.manual_seed(0)
    return timm.create_model("resnet10t", num_classes=3).eval(), torch.randn(30, 3, 32, 32)


def _folder():
    """What ``save_pretrained`` of a model and its tokenizer wrote."""
    from transformers import BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"]
    Path("words.txt").write_text("\n".join(words))
    BertTokenizerFast("words.txt").save_pretrained("model")
    tiny_models.tiny_bert(3).save_pretrained("model")
    rng = np.random.default_rng(0)
    return "hf:model", [" ".join(rng.choice(list("abcdefgh"), 6)) for _ in range(30)]


def _transformers():
    from transformers import AutoModel

    _, texts = _folder()
    return AutoModel.from_pretrained("model"), texts


@pytest.mark.parametrize("own", [_module, _timm, _folder, _transformers])
def test_the_first_three_lines_work_on_a_readers_own_model(own, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, inputs = own()
    lines, _ = CODE
    given = {"model": model, "inputs": inputs, "labels": ["a", "b", "c"] * 10}
    exec(compile(lines, "README.md", "exec"), given)  # our own page
    assert len(given["paths"]) == 30
    assert len(given["paths"].points) >= 2
    assert "Plotly.newPlot" in Path("paths.html").read_text()


@pytest.mark.slow
def test_the_quick_start_runs_as_written(capsys, monkeypatch):
    # The standard library's documentation: read in three seconds, where an environment's takes twenty.
    read, library = datasets.documentation_corpus, Path(sysconfig.get_paths()["stdlib"])
    monkeypatch.setattr(datasets, "documentation_corpus", lambda: read(library))
    _, code = CODE
    exec(compile(code, "README.md", "exec"), {})  # our own page
    printed = capsys.readouterr().out
    assert "Fidelity on" in printed
    assert "Attractors:" in printed
    assert "of held-out text is flagged" in printed


def test_every_verb_of_the_table_exists():
    import typer.main

    from repdyn.cli.app import app

    known = set(typer.main.get_command(app).commands)
    named = set(re.findall(r"^\| `repdyn ([a-z]+)", README, re.MULTILINE))
    assert named == known


@pytest.mark.parametrize("target", re.findall(r"\]\((?!https?:)([^)#]+)\)", README))
def test_every_linked_file_is_there(target):
    assert (ROOT / target).exists()
