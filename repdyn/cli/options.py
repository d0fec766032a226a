"""Options that every verb takes, said once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from repdyn.cli.manners import ask

__all__ = ["Device", "Json", "PathsStore", "Seed"]


def _to_stdout(path: Path | None) -> Path | None:
    if path is not None and str(path) == "-":
        ask("json on stdout")
    return path


Seed = Annotated[int, typer.Option(help="Same seed, same numbers.")]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1, mps …; where the model is, unless told.")
]
Json = Annotated[
    Path | None,
    typer.Option(
        "--json",
        metavar="FILE",
        callback=_to_stdout,
        help="Write the figures to this file, machine-readable; - for stdout, the rest to stderr.",
    ),
]
PathsStore = Annotated[Path, typer.Argument(help="A store that `repdyn trace` wrote.", show_default=False)]
