"""Paths of a remote store that are read several times: fetched once, where they fit into memory."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from repdyn.paths.columns import Rows
from repdyn.paths.paths import LOGITS, RepresentationPaths

__all__ = ["nearby"]

_MOST_BYTES = 2**28


def nearby(paths: RepresentationPaths, most: int = _MOST_BYTES) -> RepresentationPaths:
    """The same paths in memory, if their store is remote and not too large; otherwise the paths themselves.

    Parameters
    ----------
    paths
        Of any kind.
    most
        Bytes that they may take.
    """
    if not isinstance(paths.path, str) or paths.tokens:
        return paths
    row = sum(paths.widths.values()) * paths.dtype.itemsize + 4 * (paths.logits_width or 0)
    if len(paths) * row > most:
        return paths
    names = [*paths.points, *([LOGITS] if paths.logits_width and LOGITS not in paths.points else [])]
    (block,) = paths.iterate(names, len(paths))
    columns = {point: Rows.of(np.ascontiguousarray(x)) for point, x in block.items()}
    logits = columns.pop(LOGITS, None) if LOGITS not in paths.points else paths.logits_column
    return RepresentationPaths(
        columns,
        logits=logits,
        read_labels=partial(_labels, paths),
        read_ids=partial(_ids, paths),
        meta=paths.meta,
    )


def _labels(paths: RepresentationPaths) -> Any:
    return paths.labels


def _ids(paths: RepresentationPaths) -> Any:
    return paths.ids
