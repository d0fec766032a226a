"""``repdyn paths``: inspect, verify, merge, import and export stores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from repdyn.cli.console import say, write_json
from repdyn.cli.context import refuse_existing
from repdyn.cli.options import Force, Json
from repdyn.errors import RepdynError

__all__ = ["export", "import_vectors", "info", "merge", "verify"]

Store = Annotated[str, typer.Argument(help="A store that `repdyn trace` wrote: a folder, or s3://, gs://, …")]


def info(store: Store, json: Json = None) -> None:
    """Print the contents and the provenance of a store, or of a file of vectors.

    Only the metadata of a store are read.

    Example: repdyn paths info a.paths
    """
    from repdyn.paths import file_of_vectors, inspect_paths, open_paths

    contents = inspect_paths(store) if file_of_vectors(store) is None else open_paths(store)
    say(repr(contents))
    write_json(json, {"paths": contents.to_dict()})


def verify(store: Store, json: Json = None) -> None:
    """Recompute the checksums of all files; the exit status is 1 if one differs.

    Example: repdyn paths verify a.paths
    """
    from repdyn.paths import verify_paths

    check = verify_paths(store)
    say(repr(check))
    write_json(json, {"verify": check.to_dict()})
    if not check.sound:
        raise typer.Exit(1)


def merge(
    stores: Annotated[list[str], typer.Argument(help="Stores of one model at the same points.")],
    out: Annotated[str, typer.Option(help="The store to write; an unfinished one is continued.")],
    json: Json = None,
) -> None:
    """Merge stores of the same model and points into one; every sample is kept once.

    Example: repdyn paths merge monday.paths tuesday.paths --out both.paths
    """
    from repdyn.paths import merge_paths

    paths = merge_paths(stores, out)
    say(repr(paths))
    write_json(json, {"merge": paths.to_dict()})


def import_vectors(
    source: Annotated[
        str,
        typer.Argument(
            help="A file of vectors, .npy, .npz, .safetensors, .parquet, .arrow, .feather or .lance, or "
            "columns of it, FILE#COLUMN,COLUMN; every column is a point.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="The store to write, say a.paths.")],
    ids: Annotated[
        str | None, typer.Option(help="Column of the ids, or FILE#COLUMN of another file; default: id.")
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="Column of the labels, or FILE#COLUMN of another; default: label.")
    ] = None,
    force: Force = False,
    json: Json = None,
) -> None:
    """Import vectors that another program computed as a store of paths.

    Example: repdyn paths import a.parquet#embedding --ids key --labels topic --out a.paths
    """
    from repdyn.paths import import_paths, open_paths

    refuse_existing(out, force)
    import_paths(source, ids, labels).save(out)
    paths = open_paths(out)
    say(repr(paths))
    write_json(json, {"import": paths.to_dict()})


def export(
    store: Store,
    out: Annotated[Path, typer.Argument(help="FILE.parquet or FILE.safetensors.")],
    force: Force = False,
    json: Json = None,
) -> None:
    """Export a store to Parquet (one row per sample) or safetensors (one tensor per point).

    Example: repdyn paths export a.paths a.parquet
    """
    from repdyn.paths import export_paths, open_paths

    if out.exists() and not force:
        raise RepdynError(f"{out}: exists; give another path, or --force to replace it")
    paths = open_paths(store)
    export_paths(paths, out)
    size = out.stat().st_size
    say(f"{out}: {len(paths)} samples at {len(paths.points)} points, {size / 2**20:.1f} MiB")
    write_json(json, {"export": {"path": str(out), "size": len(paths), "bytes": size}})
