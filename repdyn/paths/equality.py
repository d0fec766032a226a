"""Samples that are equal at a point, also of paths that do not fit into memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from repdyn.paths.columns import Index, Rows, Tokens, told_apart_by
from repdyn.repeats import groups_of_equal_rows
from repdyn.repeats_streamed import groups_in_blocks

if TYPE_CHECKING:
    from repdyn.paths.paths import RepresentationPaths

__all__ = ["equal_rows", "equal_samples"]

# Bytes of a column, in float64, that are held to compare its rows; of more, some are read at a time.
HELD = 2**28
_ROWS = 8192


def equal_samples(paths: RepresentationPaths) -> NDArray[np.int64]:
    """Group of equal samples that each belongs to, ``(N,)``, told by the last point.

    A dead layer has equal rows though the samples differ: where two are equal, the first point is read too.
    """
    found: NDArray[np.int64] | None = None
    for point in dict.fromkeys((paths.points[-1], paths.points[0])):
        own = equal_rows(paths.column(point))
        found = own if found is None else groups_of_equal_rows(np.stack([found, own], axis=1), 0)
        if int(found.max()) + 1 == len(paths):
            break
    assert found is not None
    return found


def equal_rows(column: Rows | Tokens) -> NDArray[np.int64]:
    """Group of equal samples that each belongs to, ``(N,)``, as :func:`repdyn.repeats.groups_of_equal_rows`.

    Tokens are told by their number and their mean.
    """
    size = len(column)
    if size * column.width * 8 <= HELD:
        return groups_of_equal_rows(told_apart_by(column))

    def blocks() -> Iterator[dict[str, NDArray[Any]]]:
        for start in range(0, size, _ROWS):
            yield {"": told_apart_by(column.subset(np.arange(start, min(start + _ROWS, size))))}

    def rows(_: str, index: Index) -> NDArray[Any]:
        return told_apart_by(column.subset(index))

    return groups_in_blocks(blocks, rows, size)[""]
