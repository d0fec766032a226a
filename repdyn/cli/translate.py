"""``repdyn translate``: a linear map between two models' latents, with or without pairs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from repdyn.cli.options import Json, Seed

if TYPE_CHECKING:
    from repdyn.paths import RepresentationPaths

__all__ = ["translate"]


def translate(
    source: Annotated[Path, typer.Argument(help="Model A's store.", show_default=False)],
    target: Annotated[
        Path, typer.Argument(help="Model B's store; it may hold other samples.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="The folder to write, say ab.translation.")],
    paired: Annotated[bool, typer.Option(help="Samples of equal id are pairs; fit on them.")] = False,
    held_out: Annotated[
        tuple[Path, Path] | None,
        typer.Option(help="Two stores of the same samples, one by each model, for the evaluation only."),
    ] = None,
    seed: Seed = 0,
    json: Json = None,
) -> None:
    """Derive a translation from A's last point to B's, and its verdict.

    Example: repdyn translate a.paths b.paths --out ab.translation
    """
    import repdyn
    from repdyn.cli.console import say, write_json
    from repdyn.paths import open_paths
    from repdyn.translation import evaluate_translation

    a, b = open_paths(source), open_paths(target)
    translation = repdyn.translate(a, b, pairs=_pairs(a, b) if paired else None, seed=seed)
    translation.save(out)
    say(repr(translation))
    figures: dict[str, Any] = {"translation": translation.to_dict()}
    if held_out is not None:
        read_by_a, read_by_b = (open_paths(store) for store in held_out)
        found = evaluate_translation(translation, read_by_a, read_by_b, seed=seed)
        found.save(out / "evaluation")
        say(repr(found))
        figures["evaluation"] = found.to_dict()
    write_json(json, figures)


def _pairs(a: RepresentationPaths, b: RepresentationPaths) -> Any:
    import numpy as np

    from repdyn.errors import RepdynError

    shared, of_a, of_b = np.intersect1d(a.ids, b.ids, return_indices=True)
    if len(shared) == 0:
        raise RepdynError("--paired: the two stores have no id in common")
    return np.stack([of_a, of_b], axis=1)
