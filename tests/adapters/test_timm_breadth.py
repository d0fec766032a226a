"""Breadth over timm: one small member of every architecture family, with random weights.

The checks are those of ``benchmarks/breadth.py``, which writes docs/breadth.md from them.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
from timm.models._registry import _model_to_module

ROOT = Path(__file__).parents[2]


def load_breadth():
    """The benchmark as a module, with the lists of cases that it shares."""
    if "repdyn_breadth" not in sys.modules:
        spec = importlib.util.spec_from_file_location("repdyn_breadth", ROOT / "benchmarks" / "breadth.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules["repdyn_breadth"] = module
        spec.loader.exec_module(module)
    return sys.modules["repdyn_breadth"]


BREADTH = load_breadth()


def test_no_family_is_forgotten():
    assert set(_model_to_module.values()) - set(BREADTH.TIMM) == set()


def test_the_table_lists_the_families_of_the_run():
    page = (ROOT / "docs" / "breadth.md").read_text()
    found = {}
    for section in page.split("\n## ")[1:]:
        title, *lines = section.splitlines()
        rows = [line.split(" | ")[0].removeprefix("| ") for line in lines if line.startswith("| ")]
        found[title] = [name for name in rows if name not in ("family", "---")]
    assert found["timm"] == list(BREADTH.TIMM)
    for kind, cases in BREADTH.KINDS.items():
        towers = ("#text", "#vision") if kind == "two towers" else ("",)
        assert found[f"transformers: {kind}"] == [name + tower for name in cases for tower in towers]


@pytest.mark.slow
@pytest.mark.parametrize("family", BREADTH.TIMM)
def test_family(family):
    row = BREADTH.check_timm(family)
    assert row.points > 1
    assert row.interventions.startswith("exact")
