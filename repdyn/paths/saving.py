"""Saving paths: a store that appears whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repdyn.errors import RepdynError
from repdyn.paths.chunks import seal, write_chunk
from repdyn.paths.columns import Rows, Tokens
from repdyn.paths.layout import Layout
from repdyn.paths.places import Folder, Place, Remote, place_of
from repdyn.paths.start import check_place, create_store, fill_store, plan_layout

__all__ = ["save_columns"]


def save_columns(
    out: str | os.PathLike[str],
    columns: Mapping[str, Rows | Tokens],
    ids: NDArray[np.str_],
    labels: NDArray[Any] | None,
    logits: Rows | None,
    meta: Mapping[str, Any],
    source: Path | str | None,
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
    target = place_of(out)
    if _same(target, source):
        raise RepdynError(f"{target}: is the store that these paths are read from; choose another path")
    check_place(target)
    widths = {point: column.width for point, column in columns.items()}
    tokens = [point for point, column in columns.items() if isinstance(column, Tokens)]
    dtype = next(iter(columns.values())).dtype.name
    outputs = None if logits is None else logits.width
    layout = plan_layout(list(columns), widths, len(ids), meta, dtype, outputs, tokens)
    if not isinstance(target, Folder):
        # Where nothing can be renamed, a store counts as unfinished until its last chunk is there.
        create_store(target, layout)
        _write(target, layout, columns, ids, labels, logits)
        return
    scratch = target.scratch()
    try:
        fill_store(scratch, layout)
        _write(scratch, layout, columns, ids, labels, logits)
        target.take_over(scratch)
    finally:
        scratch.remove_below("")


def _write(
    place: Place,
    layout: Layout,
    columns: Mapping[str, Rows | Tokens],
    ids: NDArray[np.str_],
    labels: NDArray[Any] | None,
    logits: Rows | None,
) -> None:
    for rows in map(layout.rows, range(layout.chunks)):
        here = np.arange(rows.start, rows.stop)
        write_chunk(
            place,
            layout,
            rows.start,
            {p: c.take(here) if isinstance(c, Rows) else c.ragged(here) for p, c in columns.items()},
            ids[here],
            None if labels is None else labels[here],
            None if logits is None else logits.take(here),
        )
    seal(place, layout)


def _same(target: Folder | Remote, source: Path | str | None) -> bool:
    if isinstance(target, Remote):
        return str(target) == str(source)
    return isinstance(source, Path) and target.path.exists() and target.path.samefile(source)
