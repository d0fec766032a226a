"""Options that every verb takes, said once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["Device", "Json", "PathsStore", "Seed"]

Seed = Annotated[int, typer.Option(help="Same seed, same numbers.")]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1, mps …; where the model is, unless told.")
]
Json = Annotated[
    Path | None, typer.Option("--json", help="Write the figures to this file, machine-readable.")
]
PathsStore = Annotated[Path, typer.Argument(help="A store that `repdyn trace` wrote.", show_default=False)]
