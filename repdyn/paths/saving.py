"""Saving paths: a store that appears whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repdyn.errors import RepdynError
from repdyn.paths.chunks import missing_rows, seal, write_chunk
from repdyn.paths.columns import Rows, Tokens
from repdyn.paths.start import check_place, fill_store, move_into_place, plan_layout, scratch_folder

__all__ = ["save_columns"]


def save_columns(
    out: str | os.PathLike[str],
    columns: Mapping[str, Rows | Tokens],
    ids: NDArray[np.str_],
    labels: NDArray[Any] | None,
    logits: Rows | None,
    meta: Mapping[str, Any],
    source: Path | None,
) -> None:
    """Write columns to a store beside its place, then move it there; an earlier store is replaced.

    Parameters
    ----------
    out
        The store.
    columns, ids, labels, logits, meta
        What it will hold.
    source
        The store that the columns are read from, which therefore cannot be replaced.

    Raises
    ------
    RepdynError
        If something that is not a store is in the way, it is the source, or the disk is full.
    """
    target = Path(out)
    if source is not None and target.exists() and target.samefile(source):
        raise RepdynError(f"{target}: is the store that these paths are read from; choose another path")
    check_place(target)
    widths = {point: column.width for point, column in columns.items()}
    tokens = [point for point, column in columns.items() if isinstance(column, Tokens)]
    dtype = next(iter(columns.values())).dtype.name
    outputs = None if logits is None else logits.width
    layout = plan_layout(list(columns), widths, len(ids), meta, dtype, outputs, tokens)
    scratch = scratch_folder(target)
    try:
        fill_store(scratch, layout)
        for rows in missing_rows(scratch, layout):
            here = np.arange(rows.start, rows.stop)
            write_chunk(
                scratch,
                layout,
                rows.start,
                {p: c.take(here) if isinstance(c, Rows) else c.ragged(here) for p, c in columns.items()},
                ids[here],
                None if labels is None else labels[here],
                None if logits is None else logits.take(here),
            )
        seal(scratch, layout)
        move_into_place(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
