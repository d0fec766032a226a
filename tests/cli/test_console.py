"""Exit statuses, --quiet, --json and progress, with and without a terminal."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import typer

from repdyn.cli import console, progress
from repdyn.cli.console import run, say, table, write_json
from repdyn.cli.options import Json
from repdyn.cli.verb import verb
from repdyn.errors import RepdynError
from repdyn.progress import listening, track


@pytest.fixture
def program(monkeypatch, capsys):
    """A program of one verb: its exit status, stdout and stderr."""

    def call(work, *arguments: object) -> tuple[int, str, str]:
        app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
        app.command()(verb(work))
        monkeypatch.setattr(sys, "argv", ["one", *map(str, arguments)])
        status = run(app)
        return (status, *capsys.readouterr())

    return call


def verdicts(*given: str):
    def judge(json: Json = None) -> None:
        say("a figure")
        write_json(json, {"a": {"verdict": given[0], "x": 1}, "sets": {"verdict": dict(enumerate(given))}})

    return judge


@pytest.mark.parametrize(
    ("given", "options", "status"),
    [
        (("found", "found"), ("--strict",), 0),
        (("not found", "found"), (), 0),
        (("found", "inconclusive"), ("--strict",), 1),
        (("not found",), ("--strict",), 1),
    ],
)
def test_strict_turns_a_verdict_that_is_not_found_into_status_one(program, given, options, status):
    assert program(verdicts(*given), *options)[0] == status


def test_strict_forgets_the_verdicts_of_the_command_before(program):
    assert program(verdicts("not found"), "--strict")[0] == 1
    assert program(verdicts("found"), "--strict")[0] == 0


def test_strict_says_why(program):
    _, out, err = program(verdicts("not found", "inconclusive"), "--strict", "--quiet")
    assert out == ""
    assert err == "repdyn: --strict: not found, inconclusive\n"


def fails(error: BaseException):
    def work() -> None:
        for _ in track(range(2), "working"):
            pass
        raise error

    return work


FULL = "repdyn: error: the disk is full (No space left); free some space\n"


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (RepdynError("x: must be\n  positive"), 2, "repdyn: error: x: must be positive\n"),
        (FileNotFoundError(2, "No such file", "a.csv"), 2, "repdyn: error: a.csv: No such file\n"),
        (
            OSError(28, "No space left"),
            2,
            FULL,
        ),
        (KeyboardInterrupt(), 130, "repdyn: interrupted; run the same command again to continue\n"),
    ],
)
def test_failures_are_one_line_and_a_status(program, error, status, says):
    assert program(fails(error)) == (status, "", says)
    assert program(fails(error), "--quiet") == (status, "", says)


@pytest.mark.parametrize("error", [ZeroDivisionError("by\nzero"), RecursionError("deep"), TypeError("odd")])
def test_an_error_of_ours_has_its_own_status_and_one_line(program, error):
    status, out, err = program(fails(error))
    assert (status, out) == (70, "")
    assert err.startswith(f"repdyn: internal error: {type(error).__name__}: ")
    assert err.count("\n") == 1
    assert "--debug" in err


def test_an_error_of_ours_shows_its_traceback_when_asked(program):
    status, _, err = program(fails(ZeroDivisionError("by zero")), "--debug")
    assert status == 70
    assert "Traceback" in err


def test_what_cannot_be_encoded_is_spelled_out_on_stderr(program):
    status, _, err = program(fails(RepdynError("photo \udcff.png: is odd")))
    assert (status, err) == (2, "repdyn: error: photo \\udcff.png: is odd\n")


def test_too_many_open_files_are_not_called_damage(program):
    status, _, err = program(fails(OSError(24, "Too many open files", "a.paths/paths/c/0/0")))
    assert status == 2
    assert "ulimit -n" in err


def test_a_wrong_option_is_status_two(program):
    status, out, err = program(verdicts("found"), "--colour")
    assert (status, out) == (2, "")
    assert "--colour" in err


def test_json_on_stdout_is_json_alone(program):
    status, out, err = program(verdicts("found"), "--json", "-")
    assert status == 0
    assert json.loads(out)["a"] == {"verdict": "found", "x": 1}
    assert err == "a figure\n"


def test_json_holds_plain_numbers(tmp_path: Path):
    figures = {
        "x": np.float32(1.5),
        "y": np.array([1, np.nan]),
        "z": 1 + 2j,
        "t": (np.int64(3), "s"),
        "n": np.inf,
    }
    write_json(tmp_path / "sub" / "f.json", figures)
    assert json.loads((tmp_path / "sub" / "f.json").read_text()) == {
        "x": 1.5, "y": [1.0, None], "z": {"re": 1.0, "im": 2.0}, "t": [3, "s"], "n": None,
    }  # fmt: skip


def test_tables_align_and_take_markup_as_it_is(capsys):
    table(["a", "bb"], [["[red]x", "1"], ["y", "22"]])
    assert capsys.readouterr().out.splitlines() == ["  a       bb", "  [red]x  1", "  y       22"]


def test_without_a_terminal_progress_is_plain_lines_with_rate_and_time_left():
    now = {"t": 0.0}
    out = io.StringIO()
    with listening(progress.lines(out, clock=lambda: now["t"])):
        for _ in track(range(100), "tracing"):
            now["t"] += 1.0
    said = out.getvalue().splitlines()
    assert said[0] == "  tracing: 5 of 100, 1.0/s, 1 min 35 s left"
    assert len(said) == 20
    assert all("\r" not in line and "\x1b" not in line for line in said)


def test_a_resumed_loop_counts_its_rate_from_where_it_went_on():
    now = {"t": 0.0}
    out = io.StringIO()
    with listening(progress.lines(out, clock=lambda: now["t"])):
        for _ in track(range(10), "tracing", start=90):
            now["t"] += 4.0
    assert out.getvalue().splitlines()[0] == "  tracing: 92 of 100, 4.0 s each, 32 s left"


def test_what_changes_in_a_loop_does_not_begin_it_anew():
    now, left = {"t": 0.0}, iter(range(9, -1, -1))
    out = io.StringIO()
    with listening(progress.lines(out, clock=lambda: now["t"])):
        for _ in track(range(10), "fitting", detail=lambda: f"loss {next(left)}"):
            now["t"] += 5.0
    assert out.getvalue().splitlines()[1] == "  fitting | loss 8: 2 of 10, 5.0 s each, 40 s left"


@pytest.mark.parametrize("width", [40, 100])
def test_on_a_terminal_the_bar_has_one_line_and_leaves_none(width):
    from rich.console import Console

    out = io.StringIO()
    shown = Console(file=out, force_terminal=True, width=width, legacy_windows=False)
    with listening(progress.bars(shown)):
        for _ in track(
            range(3), "reading the packages' documentation [red]of all", detail=lambda: "x 1, " * 9
        ):
            pass
    drawn = out.getvalue()
    assert "reading the packages" in drawn
    assert "[red]" in drawn or width == 40
    assert "\n\x1b[1A" not in drawn  # a bar that wraps moves up by more than its own line


def test_quiet_has_no_progress(monkeypatch, program, capsys):
    monkeypatch.setattr(progress, "PLAIN_PROGRESS_SECONDS", 0.0)
    loud, quiet = (program(fails(RepdynError("x")), *option)[2] for option in ((), ("--quiet",)))
    assert "working: 1 of 2" in loud
    assert quiet == "repdyn: error: x\n"
    assert console.__all__
