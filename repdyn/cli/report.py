"""``repdyn report``: write results as one self-contained HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from repdyn.cli.console import say

__all__ = ["report"]


def report(
    results: Annotated[list[Path], typer.Argument(help="Stores and folders that other verbs wrote.")],
    out: Annotated[Path, typer.Option(help="The HTML file to write.")] = Path("report.html"),
    force: Annotated[bool, typer.Option(help="Replace an existing report.")] = False,
) -> None:
    """Write one HTML file with a picture for each result; the file needs no network.

    Example: repdyn report a.paths a.kae a.attractors ab.translation --out report.html
    """
    from repdyn.reporting import open_result, write_page

    entries = [entry for path in results for entry in open_result(path)]
    say(f"report: {write_page(entries, out, force=force)}")
