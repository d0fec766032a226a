"""Saved results of every kind, mutated: one line of RepdynError, or the result as it was, nothing else.

A sample of what ``benchmarks/mutations.py`` does.
"""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

FILE = Path(__file__).parents[1] / "benchmarks" / "mutations.py"
OUTCOMES = {"refused", "same", "differs"}


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("repdyn_mutations", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["repdyn_mutations"] = module
    spec.loader.exec_module(module)
    return module


mutations = _load()
KINDS = mutations.kinds()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("made")
    return {kind: mutations.make(kind, recipe, root) for kind, (recipe, _) in KINDS.items()}


def _outcomes(made: dict[str, Path], kind: str, each: int, sealed: bool) -> tuple[Counter[str], list[str]]:
    others = [made["tree"] / "config.json", made["tree"] / "model.safetensors"]
    count: Counter[str] = Counter()
    wrong = []
    for what, told, error in mutations.trial(kind, KINDS[kind][1], made[kind], others, each, 1, sealed):
        count[told] += 1
        if told not in OUTCOMES or (sealed and told == "differs"):
            wrong.append(f"{told}: {what}: {error}")
    return count, wrong


@pytest.mark.parametrize("kind", KINDS)
def test_readers_refuse_or_read_a_mutated_result_in_one_line(made, kind):
    count, wrong = _outcomes(made, kind, 4, sealed=False)
    assert wrong == []
    assert count["refused"] > 3


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "store"])
def test_no_changed_value_is_used_without_a_word(made, kind):
    count, wrong = _outcomes(made, kind, 2, sealed=True)
    assert wrong == []
    assert count["refused"] > 3


def test_the_trial_tells_values_that_differ_and_errors_of_ours(made):
    # The harness itself: without digests a changed figure is used, and a crash in use is counted.
    count, _ = _outcomes(made, "stitching", 40, sealed=False)
    assert count["differs"] > 3
    assert mutations.try_one(lambda path: 1 / 0, Path(), None)[0] == "crash"
