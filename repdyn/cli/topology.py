"""``repdyn topology``: level-set tree of one point, and persistent homology of every point."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from repdyn.cli.console import say, write_json
from repdyn.cli.context import refuse_existing
from repdyn.cli.options import Force, Json, PathsStore, Seed

__all__ = ["topology"]


def topology(
    paths: PathsStore,
    point: Annotated[
        str | None, typer.Option(help="Point of the level-set tree; default: the last point.")
    ] = None,
    max_dim: Annotated[int, typer.Option(min=0, max=2, help="Highest homology dimension.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Save tree and persistence in this folder.")] = None,
    force: Force = False,
    seed: Seed = 0,
    json: Json = None,
) -> None:
    """Build the level-set tree at one point and compute persistent homology at every point.

    Example: repdyn topology a.paths --out a.topology
    """
    import repdyn

    refuse_existing(out, force)
    stored = repdyn.open_paths(paths)
    where = point if point is not None else stored.points[-1]
    tree = repdyn.LevelSetTree.fit(stored[where], seed=seed)
    say(repr(tree))
    if out is not None:
        tree.save(out / "tree")
    through_depth = repdyn.persistence(stored, max_dim=max_dim, seed=seed)
    say(repr(through_depth))
    if out is not None:
        through_depth.save(out / "persistence")
    write_json(json, {"topology": {"tree": tree.to_dict(), "persistence": through_depth.to_dict()}})
