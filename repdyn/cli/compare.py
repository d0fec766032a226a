"""``repdyn compare``: how alike two models, two checkpoints or two depths are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from repdyn.cli.console import say, write_json
from repdyn.cli.context import refuse_existing
from repdyn.cli.options import Force, Json, PathsStore, Seed

__all__ = ["compare"]


def compare(
    a: PathsStore,
    b: Annotated[
        Path,
        typer.Argument(
            help="The other store or file; samples of equal id are the same sample.", show_default=False
        ),
    ],
    points: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="A B", help="One point of each; A and B may be one store. Default: all depths."),
    ] = None,
    translation: Annotated[
        bool, typer.Option("--translate", help="Also search for a linear map from A to B, without pairs.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Save the comparison in this folder.")] = None,
    force: Force = False,
    seed: Seed = 0,
    json: Json = None,
) -> None:
    """Compare two models by CKA, mutual neighbors, Procrustes distance and density trees, each with chance.

    Example: repdyn compare a.paths b.paths

    Example: repdyn compare old.npy new.parquet#vector --translate --out ab.comparison
    """
    import repdyn

    refuse_existing(out, force)
    found = repdyn.compare(
        repdyn.open_paths(a), repdyn.open_paths(b), points=points, translation=translation, seed=seed
    )
    if out is not None:
        found.save(out)
    say(repr(found))
    write_json(json, {"compare": found.to_dict()})
