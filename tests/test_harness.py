"""A study goes on where it was, and never uses a row of other code."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repdyn.intervals import bootstrap_mean

FILE = Path(__file__).parents[1] / "benchmarks" / "harness.py"


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    spec = importlib.util.spec_from_file_location("repdyn_harness", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "repdyn_harness", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    return module


def test_a_cell_is_computed_once(harness: Any, tmp_path: Path) -> None:
    made = []

    def make() -> dict[str, int]:
        made.append(1)
        return {"found": len(made)}

    for _ in range(2):
        rows = harness.Rows(tmp_path / "out.jsonl", ("kind", "seed"))
        assert rows.once("a", 1, make=make) == {"kind": "a", "seed": 1, "found": 1}
    assert len(made) == 1
    rows.once("a", 2, make=make)
    assert [row["found"] for row in harness.Rows(tmp_path / "out.jsonl", ("kind", "seed"))] == [1, 2]


def test_rows_of_other_code_are_not_used(harness: Any, tmp_path: Path) -> None:
    source = tmp_path / "room" / "estimator.py"
    source.parent.mkdir()
    source.write_text("answer = 1\n")
    harness.Rows(tmp_path / "out.jsonl", ("kind",), ["room"]).once("a", make=lambda: {"x": 1})
    harness.code_of.cache_clear()
    assert harness.Rows(tmp_path / "out.jsonl", ("kind",), ["room"]).get("a")["x"] == 1
    source.write_text("answer = 2\n")
    harness.code_of.cache_clear()
    again = harness.Rows(tmp_path / "out.jsonl", ("kind",), ["room"])
    assert again.get("a") is None
    assert again.once("a", make=lambda: {"x": 2})["x"] == 2


def test_a_line_that_was_cut_short_is_computed_again(harness: Any, tmp_path: Path) -> None:
    file = tmp_path / "out.jsonl"
    file.write_text('{"kind": "a", "x": 1}\n{"kind": "b", "x')
    rows = harness.Rows(file, ("kind",))
    assert rows.get("a") == {"kind": "a", "x": 1}
    assert rows.get("b") is None


def test_what_was_interrupted_leaves_nothing_and_may_resume(harness: Any, tmp_path: Path) -> None:
    seen = []

    def make(scratch: Path) -> None:
        seen.append(scratch.exists())
        scratch.write_text("half")
        if len(seen) == 1:
            raise KeyboardInterrupt
        scratch.write_text("whole")

    with pytest.raises(KeyboardInterrupt):
        harness.made_once(tmp_path / "x.npz", make)
    assert not (tmp_path / "x.npz").exists()
    assert harness.made_once(tmp_path / "x.npz", make).read_text() == "whole"
    assert seen == [False, True]


def test_data_that_is_not_there_is_named(harness: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("REPDYN_DATA", str(tmp_path))
    with pytest.raises(SystemExit, match="set REPDYN_DATA"):
        harness.data("images", "mnist.npz")


def test_a_table_is_markdown(harness: Any) -> None:
    assert harness.table(["a", "b"], [["x", 0.12345]]) == "| a | b |\n| --- | --- |\n| x | 0.123 |"


def test_options_that_scripts_share(harness: Any, tmp_path: Path) -> None:
    given = harness.parser_of("About.", "cache", "json", seeds=7).parse_args(
        ["--cache", str(tmp_path / "new")]
    )
    assert (given.cache, given.json, given.seeds) == (tmp_path / "new", None, 7)
    assert (tmp_path / "new").is_dir()
    with pytest.raises(SystemExit):
        harness.parser_of("About.", "cache").parse_args([])


def test_figures_are_kept_where_a_file_is_named(harness: Any, tmp_path: Path) -> None:
    harness.keep(None, {"x": 1})
    assert not list(tmp_path.iterdir())
    harness.keep(tmp_path / "x.json", {"x": [1, 2]})
    assert json.loads((tmp_path / "x.json").read_text()) == {"x": [1, 2]}


def test_a_block_has_its_seconds(harness: Any) -> None:
    with harness.timed() as row:
        assert row == {}
    assert row.keys() == {"seconds", "processor seconds"}


def test_no_cell_is_begun_after_the_deadline(harness: Any, tmp_path: Path) -> None:
    rows = harness.Rows(tmp_path / "out.jsonl", ("kind", "seed"))
    rows.once("a", 2, make=lambda: {"found": "before"})
    cells = [("a", 1), ("a", 2), ("a", 3)]
    rows.complete(cells, lambda kind, seed: {"found": f"{kind}{seed}"}, minutes=-1)
    assert [row["seed"] for row in rows] == [2]
    rows.complete(cells, lambda kind, seed: {"found": f"{kind}{seed}"})
    assert [(row["seed"], row["found"]) for row in rows] == [(2, "before"), (1, "a1"), (3, "a3")]


def test_processor_seconds_stop_with_the_block(harness: Any) -> None:
    with harness.seconds() as spent:
        sum(range(10_000))
        assert spent() >= 0
    ended = spent()
    sum(range(1_000_000))
    assert spent() == ended > 0


def test_a_process_gives_its_last_line_or_an_error(harness: Any) -> None:
    assert harness.in_a_process("-c", "print('noise'); print('{\"x\": 1}')") == {"x": 1}
    assert harness.in_a_process("-c", "raise SystemExit('no data')") == {"error": "exit 1: no data"}
    assert "not done" in harness.in_a_process("-c", "import time; time.sleep(60)", limit=0.2)["error"]


def test_means_over_seeds(harness: Any) -> None:
    ends = [{"value": 1.0, "low": 0.0, "high": 3.0}, {"value": 2.0, "low": 1.0, "high": 4.0}]
    assert harness.mean_of(ends) == harness.Estimate(1.5, 0.5, 3.5)
    # Student's t of three values: 4.303 standard errors.
    found = harness.over_seeds([1.0, 2.0, 3.0])
    assert (found.value, round(found.low, 3), round(found.high, 3)) == (2.0, -0.484, 4.484)


def test_a_mean_over_parts_is_as_sure_as_one_of_all_their_samples(harness: Any) -> None:
    """The parts' samples in one array are the oracle: four parts halve the interval of one."""
    draw, held, widths = np.random.default_rng(0), [], []
    for seed in range(200):
        x = draw.exponential(size=(4, 250))
        parts = [bootstrap_mean(own, seed=seed).to_dict() for own in x]
        found, whole = harness.mean_of_parts(parts), bootstrap_mean(x.ravel(), seed=seed)
        assert found.value == pytest.approx(whole.value)
        held.append([own.low <= 1 <= own.high for own in (found, whole)])
        widths.append((found.high - found.low) / (whole.high - whole.low))
    ours, theirs = np.sum(held, axis=0)
    assert ours >= theirs - 4
    assert theirs >= 184
    assert np.mean(widths) == pytest.approx(1, abs=0.05)


def test_a_mean_over_parts_has_the_variance_of_a_mean_of_independent_figures(harness: Any) -> None:
    spreads = np.array([0.1, 0.4, 0.8])
    ends = [{"value": 1.0 + k, "low": 1.0 + k - s, "high": 1.0 + k + 2 * s} for k, s in enumerate(spreads)]
    found = harness.mean_of_parts(ends)
    # Variances add; a mean of three divides the root of their sum by three. Each side has its own.
    assert (found.value, found.low, found.high) == pytest.approx((2.0, 2.0 - 0.3, 2.0 + 0.6))
    once = harness.mean_of_parts(ends[:1])
    assert (once.value, once.low, once.high) == pytest.approx((1.0, 0.9, 1.2))
