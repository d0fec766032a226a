"""``repdyn migrate``: translate the stored vectors of an index to a new embedding model, or say why not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from repdyn.cli.console import say, write_json
from repdyn.cli.options import Force, Json, Seed

if TYPE_CHECKING:
    from repdyn.migration import Migration

__all__ = ["migrate"]


def migrate(
    old: Annotated[
        str,
        typer.Argument(
            help="The stored vectors: FILE.npy, FILE#COLUMN of .parquet, .arrow or .feather, "
            "FOLDER/TABLE.lance#COLUMN of LanceDB, or postgresql://USER@HOST/DB#TABLE.COLUMN of pgvector.",
            metavar="OLD",
        ),
    ],
    new: Annotated[
        str,
        typer.Argument(
            help="The new model's embeddings of other texts, or of some stored documents.", metavar="NEW"
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            help="The file to write, with the ending of OLD; of a database: a name for the decision."
        ),
    ],
    pairs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of pairs: documents that are in OLD and in NEW, by id, key or row; default: none.",
        ),
    ] = None,
    column: Annotated[
        str | None, typer.Option(help="Name of the new column; default: the old name with _migrated.")
    ] = None,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Write the vectors even if the decision is against it.")
    ] = False,
    force: Force = False,
    seed: Seed = 0,
    json: Json = None,
) -> None:
    """Decide whether stored vectors can be translated to a new model; if so, write them to a new column.

    The decision is saved in OUT.migration. A run that was interrupted continues. In a database the column is
    added to the table. Exit status 1: nothing was written, because the decision is to embed again or to keep
    the vectors.

    Example: repdyn migrate stored.parquet#vector sample.npy --out migrated.parquet

    Example: repdyn migrate old.npy new.npy --pairs 500 --out migrated.npy

    Example: repdyn migrate postgresql://me@localhost/library#documents.embedding new.parquet --pairs 500
    --column embedding_new --out library
    """
    from repdyn.errors import RepdynError
    from repdyn.migration.database import database_column
    from repdyn.migration.lance import lance_column

    stored = database_column(old)
    in_place = stored is not None or lance_column(old) is not None
    if not in_place and out.exists() and not force:
        raise RepdynError(f"--out {out}: exists; give another path, or --force to replace it")
    plan = _planned(old, new, out, pairs, seed)
    say(repr(plan))
    figures = plan.to_dict() | {"vectors": 0}
    agreed = plan.decision == "migrate" or anyway
    if agreed and in_place:
        filled = plan.apply_to_database(old, column)
        say(repr(filled))
        figures |= {"vectors": filled.translated, "database": filled.to_dict()}
    elif agreed:
        figures["vectors"] = plan.apply(old, out, column, force)
        say(f"{out}: {figures['vectors']} vectors")
    write_json(json, {"migrate": figures})
    if not agreed:
        unwritten = old if in_place else out
        say(f"{unwritten if stored is None else stored.shown}: not written; --anyway writes it")
        raise typer.Exit(1)


def _planned(old: str, new: str, out: Path, pairs: int | None, seed: int) -> Migration:
    """The decision that an interrupted run saved for the same files, or a new one."""
    import json

    from repdyn.errors import RepdynError
    from repdyn.migration import Migration
    from repdyn.migration import migrate as decide
    from repdyn.writing import whole_file

    folder = out.with_name(f"{out.name}.migration")
    given = json.dumps([[_identity(address) for address in (old, new)], pairs, seed])
    note = folder / "inputs.json"
    if note.is_file() and note.read_text(encoding="utf-8") == given:
        try:
            return Migration.load(folder)
        except RepdynError:  # of another version
            pass
    plan = decide(old, new, pairs=pairs, seed=seed)
    plan.save(folder)
    with whole_file(note) as scratch:
        scratch.write_text(given, encoding="utf-8")
    return plan


def _identity(address: str) -> list[Any]:
    """What changes if a file does; of a database its address without a password."""
    from repdyn.migration.database import database_column
    from repdyn.migration.lance import lance_column
    from repdyn.paths import file_of_vectors

    stored = database_column(address)
    if stored is not None:
        return [stored.shown, None, None]
    file = file_of_vectors(address)
    path = Path(address) if file is None else file.path
    if lance_column(address) is not None:  # a folder does not change when a file in a folder of it does
        path /= "_versions"
    status = path.stat() if path.exists() else None
    return [address, status and status.st_size, status and status.st_mtime_ns]
