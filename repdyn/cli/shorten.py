"""``repdyn shorten``: replace a run of a model's blocks by a fitted map, and say what will be lost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from repdyn.cli.console import say, write_json
from repdyn.cli.context import refuse_existing
from repdyn.cli.options import Device, Force, Json, Seed

__all__ = ["shorten"]


def shorten(
    model: Annotated[str, typer.Argument(help="The MODEL to shorten.", show_default=False)],
    data: Annotated[str, typer.Argument(help="DATA that it reads; labels are not used.", show_default=False)],
    remove: Annotated[int, typer.Option(min=1, help="Number of blocks to replace.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(help="Save the map in this folder, to shorten the model again.")
    ] = None,
    force: Force = False,
    seed: Seed = 0,
    device: Device = None,
    json: Json = None,
) -> None:
    """Replace a run of blocks by a map of single tokens, and state the expected loss on new samples.

    The verdict compares the map with leaving out the blocks.

    Example: repdyn shorten hf:NAME csv:q.csv#text --remove 2 --out short
    """
    import repdyn
    from repdyn.cli.data import read_data

    refuse_existing(out, force)
    held = read_data(data)
    short = repdyn.shorten(repdyn.load(model, device=device), held.inputs, remove, seed=seed)
    say(repr(short))
    if out is not None:
        short.save_pretrained(out)
        say(f"{out}: the map; repdyn.load_result opens it as a shortened model")
    write_json(json, {"shorten": short.shortening.to_dict()})
