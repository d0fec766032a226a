"""Saving paths: a store that appears whole or not at all."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from repdyn.errors import RepdynError
from repdyn.paths.columns import Index, Rows
from repdyn.paths.start import check_place, move_into_place, scratch_folder
from repdyn.paths.writer import PathsWriter

if TYPE_CHECKING:
    from repdyn.paths.paths import RepresentationPaths

__all__ = ["write_paths"]


def write_paths(paths: RepresentationPaths, out: str | os.PathLike[str]) -> None:
    """Write paths to a store that appears whole or not at all; an earlier store there is replaced.

    Raises
    ------
    RepdynError
        If something that is not a store is in the way, it is the store being read, or the disk is full.
    """
    target = Path(out)
    if paths.path is not None and target.exists() and target.samefile(paths.path):
        raise RepdynError(f"{target}: is the store that these paths are read from; choose another path")
    check_place(target)
    scratch = scratch_folder(target)
    try:
        logits, labels = paths.logits, paths.labels
        writer = PathsWriter.open(
            scratch,
            points=paths.points,
            widths=paths.widths,
            size=len(paths),
            meta=paths.meta,
            dtype=paths.dtype.name,
            logits_width=None if logits is None else logits.shape[1],
            tokens=paths.tokens,
        )
        for rows in writer.missing:
            here = np.arange(rows.start, rows.stop)
            arrays = {name: _part(paths, name, here) for name in paths.points}
            writer.write_chunk(
                rows.start,
                arrays,
                paths.ids[here].tolist(),
                None if labels is None else labels[here],
                None if logits is None else logits[here],
            )
        writer.finish()
        move_into_place(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _part(paths: RepresentationPaths, point: str, here: Index) -> Any:
    column = paths.column(point)
    return column.take(here) if isinstance(column, Rows) else column.ragged(here)
