"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from repdyn.cli.context import command

__all__ = ["Device", "Force", "Json", "PathsStore", "Seed"]


def _to_stdout(path: Path | None) -> Path | None:
    if path is not None and str(path) == "-":
        command().flags.add("json on stdout")
    return path


def _known_device(name: str | None) -> str | None:
    if name is None:
        return None
    from repdyn.devices import check_device  # imported here, because `repdyn --help` does not need torch

    check_device(name, "--device")
    return name


Seed = Annotated[
    int, typer.Option(min=0, max=2**32 - 1, help="Random seed; the same seed gives the same numbers.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace what is at --out.")]
Device = Annotated[
    str | None,
    typer.Option(help="cpu, cuda, cuda:1, mps …; default: the CPU.", callback=_known_device),
]
Json = Annotated[
    Path | None,
    typer.Option(
        "--json",
        metavar="FILE",
        callback=_to_stdout,
        help="Write the figures as JSON to this file; - for stdout, then other output goes to stderr.",
    ),
]
PathsStore = Annotated[
    Path,
    typer.Argument(
        help="A store that `repdyn trace` wrote, or a file of vectors: .npy, .npz, .safetensors, .parquet, "
        ".arrow, or columns of it, FILE#COLUMN,COLUMN.",
        show_default=False,
    ),
]
