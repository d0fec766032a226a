"""``repdyn field``: attractors of the iterated encode-decode map of a Koopman autoencoder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from repdyn.cli.console import say, write_json
from repdyn.cli.context import refuse_existing
from repdyn.cli.options import Device, Force, Json, PathsStore, Seed

__all__ = ["field"]


def field(
    kae: Annotated[Path, typer.Argument(help="A Koopman autoencoder that `repdyn koopman fit` wrote.")],
    paths: PathsStore,
    point: Annotated[str | None, typer.Option(help="The point to iterate at; default: the last one.")] = None,
    starts: Annotated[
        int, typer.Option(min=1, help="Maximum number of initial conditions, drawn from the paths.")
    ] = 1000,
    max_steps: Annotated[int, typer.Option(min=1)] = 3000,
    out: Annotated[Path | None, typer.Option(help="Save the attractors in this folder.")] = None,
    force: Force = False,
    seed: Seed = 0,
    device: Device = None,
    json: Json = None,
) -> None:
    """Find the attractors of a Koopman autoencoder's encode-decode map, with initial conditions from data.

    Example: repdyn field a.kae a.paths --out a.attractors
    """
    import numpy as np

    from repdyn.koopman import KoopmanAutoencoder
    from repdyn.paths import open_paths

    refuse_existing(out, force)
    model = KoopmanAutoencoder.from_pretrained(kae, device=device)
    stored = open_paths(paths)
    model.check_paths(stored)
    where = point if point is not None else stored.points[-1]
    if len(stored) > starts:
        stored = stored.subset(
            np.sort(np.random.default_rng(seed).choice(len(stored), starts, replace=False))
        )
    codes = model.encode(np.asarray(stored[where]), where)
    attractors = model.field(where).attractors(codes, max_steps=max_steps, seed=seed)
    say(repr(attractors))
    if out is not None:
        attractors.save(out)
    write_json(json, {"field": attractors.to_dict()})
