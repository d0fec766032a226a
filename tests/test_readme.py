"""The README's Python runs as written, its verbs exist, and its files are there."""

from __future__ import annotations

import re
import sysconfig
from pathlib import Path

import pytest

from repdyn import datasets

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


@pytest.mark.slow
def test_the_quick_start_runs_as_written(capsys, monkeypatch):
    # The standard library's documentation: read in three seconds, where an environment's takes twenty.
    read, library = datasets.documentation_corpus, Path(sysconfig.get_paths()["stdlib"])
    monkeypatch.setattr(datasets, "documentation_corpus", lambda: read(library))
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
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
