"""Help that teaches by example, fits the terminal, loads nothing heavy, and completes."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main

from repdyn.cli.app import app

HEAVY = (
    "torch",
    "numpy",
    "scipy",
    "sklearn",
    "plotly",
    "zarr",
    "timm",
    "transformers",
    "nnsight",
    "rich",
    "gudhi",
)
MODULES = """
import sys
sys.argv = ["repdyn", *{arguments!r}]
from repdyn.cli import main
try:
    main()
except SystemExit as stopped:
    assert not stopped.code, stopped.code
print("\\n#", len(sys.modules), *sorted({{name.partition(".")[0] for name in sys.modules}}))
"""


def verbs(group: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        path = (*above, name)
        yield path, command
        if hasattr(command, "commands"):
            yield from verbs(command, path)


PROGRAM = typer.main.get_command(app)
VERBS = [pytest.param(path, c, id=" ".join(path)) for path, c in verbs(PROGRAM)]
LEAVES = [p for p in VERBS if not hasattr(p.values[1], "commands")]


def helped(*arguments: str, columns: int = 80) -> str:
    environment = {**os.environ, "COLUMNS": str(columns)}
    code = "from repdyn.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments, "--help"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["trace", "--help"], ["koopman", "fit", "--help"]])
def test_help_loads_no_heavy_module(arguments):
    code = MODULES.format(arguments=arguments)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    count, *loaded = done.stdout.rpartition("#")[2].split()
    assert [name for name in HEAVY if name in loaded] == []
    # 255 with Python 3.11 and typer 0.29: numpy alone would add a hundred, torch two thousand.
    assert int(count) < 330


@pytest.mark.parametrize(("path", "command"), LEAVES)
def test_every_verb_teaches_by_an_example_that_parses(path, command):
    told = " ".join(command.help.split())
    examples = re.findall(r"Example: repdyn (.*?)(?= Example: |$)", told)
    assert examples, f"the help of {' '.join(path)} has no example"
    for example in examples:
        words = shlex.split(example)
        assert tuple(words[: len(path)]) == path
        context = command.make_context(path[-1], words[len(path) :])
        assert context.params


@pytest.mark.parametrize(("path", "command"), VERBS)
def test_every_verb_has_a_line_in_the_list_that_is_not_cut_off(path, command):
    line = command.get_short_help_str(limit=65)
    assert line
    assert not line.endswith("...")


def test_every_option_says_what_it_is_for():
    silent = [
        f"{' '.join(path)} {parameter.opts[0]}"
        for path, command in verbs(PROGRAM)
        for parameter in command.params
        if getattr(parameter, "help", None) in (None, "") and parameter.opts[0] not in SELF_EXPLAINING
    ]
    assert silent == []


SELF_EXPLAINING = {"--epochs", "--batch-size", "--max-steps"}


@pytest.mark.parametrize("arguments", [(), ("trace",), ("ood", "evaluate"), ("koopman",)])
def test_help_fits_a_terminal_of_forty_columns(arguments):
    wide = [line for line in helped(*arguments, columns=40).splitlines() if len(line) > 40]
    assert wide == []


def test_the_first_help_shows_the_chain_in_order_and_the_exit_statuses():
    told = helped()
    for words in ("repdyn demo", "repdyn trace", "--out a.paths", "--strict", "130"):
        assert words in told
    listed = re.findall(r"^  ([a-z]+)  +[A-Z]", told.partition("Commands:")[2], re.MULTILINE)
    assert listed[:4] == ["demo", "doctor", "points", "trace"]
    assert listed[-1] == "report"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("repdyn tra", {"trace", "translate"}),
        ("repdyn ood s", {"score"}),
        ("repdyn report --fo", {"--force"}),
    ],
)
def test_the_shell_completes_verbs_and_options(words, expected):
    environment = {
        **os.environ,
        "_REPDYN_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    code = "import sys; sys.argv = ['repdyn']; from repdyn.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert set(done.stdout.split()) >= expected, done.stderr
