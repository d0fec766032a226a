"""``repdyn points``: where a model's path can be read."""

from __future__ import annotations

from typing import Annotated

import typer

from repdyn.cli.options import Json

__all__ = ["points"]


def points(
    model: Annotated[
        str, typer.Argument(help="timm:NAME[@CHECKPOINT], hf:NAME_OR_DIR, module:…, packaged:…")
    ],
    json: Json = None,
) -> None:
    """List the points of a model; those that are read by default are marked.

    Example: repdyn points timm:resnet18
    """
    import repdyn
    from repdyn.cli.console import say, write_json

    traced = repdyn.load(model)
    chosen = set(traced.default_points)
    for name in traced.points:
        say(f"{'*' if name in chosen else ' '} {name}")
    say(f"{len(traced.points)} points, * the {len(chosen)} read by default")
    write_json(json, {"points": list(traced.points), "default": list(traced.default_points)})
