"""``repdyn translate``: fit or apply a linear map between two models' latents, with or without pairs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from repdyn.cli.console import say, say_of_translation, write_json
from repdyn.cli.context import refuse_existing
from repdyn.cli.options import Force, Json, Seed

if TYPE_CHECKING:
    from repdyn.paths import RepresentationPaths

__all__ = ["translate"]


def translate(
    source: Annotated[
        Path,
        typer.Argument(
            help="Model A's store or file of vectors (.npy, .npz, .safetensors, FILE.parquet#COLUMN); with "
            "--apply, a .npy or .parquet file of A's embeddings.",
            show_default=False,
        ),
    ],
    target: Annotated[
        Path | None,
        typer.Argument(
            help="Model B's store or file of vectors; its samples may differ from A's.", show_default=False
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The folder to write, say ab.translation; with --apply, the file.")
    ] = None,
    paired: Annotated[bool, typer.Option(help="Fit on pairs; samples of equal id form a pair.")] = False,
    held_out: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="A B",
            help="Two stores or files of the same samples in the same order, one by each model, for the "
            "evaluation only.",
        ),
    ] = None,
    apply: Annotated[
        Path | None, typer.Option(help="Apply this saved translation to a file of embeddings.")
    ] = None,
    column: Annotated[str | None, typer.Option(help="With --apply: the vectors' column in Parquet.")] = None,
    force: Force = False,
    seed: Seed = 0,
    json: Json = None,
) -> None:
    """Fit a translation from A's last point to B's, with a verdict, or apply one to stored embeddings.

    Example: repdyn translate a.paths b.paths --out ab.translation

    Example: repdyn translate old.npy new.parquet#vector --out ab.translation

    Example: repdyn translate stored.parquet --apply ab.translation --out searchable.parquet
    """
    from repdyn.errors import RepdynError

    if out is None:
        raise RepdynError("translate: --out is missing; give the folder or file to write")
    refuse_existing(out, force)
    if apply is not None:
        if target is not None or paired or held_out is not None:
            raise RepdynError(
                "translate: --apply takes one file of embeddings; omit B's store, --paired and --held-out"
            )
        write_json(json, _applied(apply, source, out, column))
        return
    if target is None:
        raise RepdynError("translate: the second store is missing; give A's and B's")

    import repdyn
    from repdyn.paths import open_paths
    from repdyn.translation import evaluate_translation

    a, b = open_paths(source), open_paths(target)
    translation = repdyn.translate(a, b, pairs=_pairs(a, b) if paired else None, seed=seed)
    translation.save(out)
    say(repr(translation))
    figures: dict[str, Any] = {"translation": translation.to_dict()}
    if held_out is not None:
        read_by_a, read_by_b = (open_paths(store) for store in held_out)
        evaluation = evaluate_translation(translation, read_by_a, read_by_b, seed=seed)
        evaluation.save(out / "evaluation")
        say(repr(evaluation))
        figures["evaluation"] = evaluation.to_dict()
    write_json(json, figures)


def _applied(translation: Path, source: Path, out: Path, column: str | None) -> dict[str, Any]:
    """Translate a file of embeddings, and print a warning if the verdict is not ``"found"``."""
    from repdyn.cli.embeddings import translate_file
    from repdyn.translation import LinearTranslation

    t = LinearTranslation.load(translation)
    count = translate_file(t, source, out, column)
    say(f"{out}: {count} vectors, translated from width {t.matrix.shape[0]} to {t.matrix.shape[1]}")
    say_of_translation(t.verdict, t.reason)
    return {"vectors": count, "verdict": t.verdict}


def _pairs(a: RepresentationPaths, b: RepresentationPaths) -> Any:
    """Indices ``(P, 2)`` of the samples of equal id in A and B."""
    import numpy as np

    from repdyn.errors import RepdynError

    for which, paths in (("the first", a), ("the second", b)):
        ids, counts = np.unique(paths.ids, return_counts=True)
        if len(ids) < len(paths):
            raise RepdynError(
                f"--paired: {which} has {len(paths) - len(ids)} ids that are there already, such as "
                f"{str(ids[counts.argmax()])!r}, {counts.max()} times; give every sample an id of its own"
            )
    shared, of_a, of_b = np.intersect1d(a.ids, b.ids, return_indices=True)
    if len(shared) == 0:
        raise RepdynError("--paired: the two stores have no id in common")
    return np.stack([of_a, of_b], axis=1)
