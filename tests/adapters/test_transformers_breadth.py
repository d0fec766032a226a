"""Breadth over transformers: families from small configurations, with random weights.

The checks are those of ``benchmarks/breadth.py``, which writes docs/breadth.md from them.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

import repdyn
from repdyn_adapters.transformers import TransformersAdapter


def load_breadth():
    """The benchmark as a module, with the lists of cases that it shares."""
    if "repdyn_breadth" not in sys.modules:
        file = Path(__file__).parents[2] / "benchmarks" / "breadth.py"
        spec = importlib.util.spec_from_file_location("repdyn_breadth", file)
        module = importlib.util.module_from_spec(spec)
        sys.modules["repdyn_breadth"] = module
        spec.loader.exec_module(module)
    return sys.modules["repdyn_breadth"]


BREADTH = load_breadth()


@pytest.mark.parametrize(
    ("family", "kind"), [(family, kind) for kind, cases in BREADTH.KINDS.items() for family in cases]
)
def test_family(family, kind):
    for row in BREADTH.check_transformers(family, kind):
        assert row.points > 1
        assert row.interventions.startswith("exact")


def test_a_tower_that_is_not_there():
    module = BREADTH.build(*BREADTH.KINDS["two towers"]["clip"])
    with pytest.raises(repdyn.RepdynError, match="vision, text"):
        TransformersAdapter().wrap(module, "#sound")
