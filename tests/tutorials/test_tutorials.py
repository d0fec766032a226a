"""The tutorials: what every one of them has, that each runs, and that its page is of the present script."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "tutorials").glob("[0-9]_*.py"))
IDS = [script.stem for script in SCRIPTS]
QUICK = ("1_",)  # the others take a minute or more: with --run-tutorials


def _render():
    spec = importlib.util.spec_from_file_location("tutorial_render", ROOT / "tutorials" / "render.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


render = _render()


def test_there_are_six():
    titles = [render.cells(script)[0].source.splitlines()[0] for script in SCRIPTS]
    assert titles == [
        "# Your first path",
        "# Is depth linear?",
        "# Making a model forget",
        "# Attractors and memorization",
        "# Is this input unlike my data?",
        "# Two models, no pairs",
    ]


@pytest.mark.parametrize("script", SCRIPTS, ids=IDS)
def test_each_begins_with_a_question_has_a_control_and_ends_with_what_was_not_found(script):
    words = [cell.source for cell in render.cells(script) if cell.kind == "markdown"]
    assert "**Question.**" in words[0]
    assert "**What you need.**" in words[0]
    assert any(re.search(r"\*\*The (?:\w+ )?controls?", text) for text in words)
    assert words[-1].startswith("## What was not found")
    code = "\n".join(cell.source for cell in render.cells(script) if cell.kind == "code")
    assert re.search(r"packaged:|REPDYN_DATA", code), "a real pretrained model"


@pytest.mark.parametrize("script", SCRIPTS, ids=IDS)
def test_the_page_is_of_the_present_script(script):
    page = (ROOT / "docs" / "tutorials" / f"{script.stem}.md").read_text()
    for cell in render.cells(script):
        assert cell.source in page, f"run: python tutorials/render.py tutorials/{script.name}"
    for image in re.findall(r"\]\(\.\./(images/[^)]+)\)", page):
        assert (ROOT / "docs" / image).is_file()


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=IDS)
def test_each_runs_from_top_to_bottom(script, request, tmp_path, monkeypatch, shared_data):
    if not script.stem.startswith(QUICK) and not request.config.getoption("--run-tutorials"):
        pytest.skip("takes a minute or more: pytest --run-tutorials")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REPDYN_DATA", str(shared_data))
    printed = [text for cell, text, _ in render.run(script) if cell.kind == "code"]
    assert any(text.strip() for text in printed)
    assert not re.search(r"\bnan\b", "".join(printed))
