"""Groups of equal rows in data read block by block: :mod:`repdyn.repeats` without holding the rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repdyn.repeats import (
    DIRECTIONS,
    SCALE_ROWS,
    digests,
    directions,
    location_and_scale,
    median_of_positive,
    near,
    renumbered,
)

__all__ = ["groups_in_blocks"]

Index = NDArray[np.int64]
Blocks = Callable[[], Iterable[Mapping[str, NDArray[Any]]]]
Rows = Callable[[str, Index], NDArray[Any]]


def groups_in_blocks(
    blocks: Blocks, rows: Rows, size: int, tolerance: float = 1e-4
) -> dict[str, NDArray[np.int64]]:
    """Number of the group of equal, or nearly equal, rows that each row belongs to, of several arrays.

    What :func:`repdyn.repeats.groups_of_equal_rows` finds, where the scale of a coordinate is estimated on
    some thousand rows at even distances.

    Parameters
    ----------
    blocks
        Called for each pass over the data, two in all (three where a coordinate is constant on the rows that
        its scale is estimated on, but not on all): gives consecutive blocks ``{name: (n, D)}``, the same
        names in each.
    rows
        Gives rows of one array by number ``(m, D)``: those that may be equal are looked at again.
    size
        Rows in all.
    tolerance
        As in :func:`repdyn.repeats.groups_of_equal_rows`.

    Returns
    -------
    dict
        ``{name: int64 (size,)}``, numbered from 0 in order of first appearance.

    Notes
    -----
    Some 80 bytes are kept for each row of each array, and 8000 rows at most.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([[0.0, 1.0], [5.0, 2.0], [0.0, 1.0]])
    >>> found = groups_in_blocks(lambda: [{"x": x[:2]}, {"x": x[2:]}], lambda name, chosen: x[chosen], 3)
    >>> found["x"].tolist()
    [0, 1, 0]
    """
    searches: dict[str, _Search] = {}
    start = 0
    for block in blocks():
        for name, x in block.items():
            searches.setdefault(name, _Search(size, tolerance)).see(start, x)
        start += len(next(iter(block.values())))
    for search in searches.values():
        search.settle_equal()
    hidden = {name: search for name, search in searches.items() if len(search.hidden)}
    if hidden:
        for block in blocks():
            for name, search in hidden.items():
                search.see_hidden(block[name])
        for search in hidden.values():
            search.settle_hidden()
    start = 0
    for block in blocks():
        for name, x in block.items():
            searches[name].project(start, x)
        start += len(next(iter(block.values())))
    return {name: search.groups(partial(rows, name)) for name, search in searches.items()}


class _Search:
    """The search in one array: the state kept of the rows read so far."""

    def __init__(self, size: int, tolerance: float) -> None:
        self.tolerance = tolerance
        self.digests = np.empty((size, 2), dtype=np.uint64)
        self.finite = np.empty(size, dtype=bool)
        self.projected = np.empty((size, DIRECTIONS))
        self.every = max(1, size // SCALE_ROWS)
        self.some: list[NDArray[Any]] = []
        self.low = self.high = np.empty(0)
        self.deviations: list[list[NDArray[np.float64]]] = []

    def see(self, start: int, x: NDArray[Any]) -> None:
        """First pass: digests of rows, and a sample of rows for the scale."""
        stop = start + len(x)
        self.digests[start:stop] = np.frombuffer(b"".join(digests(x)), np.uint64).reshape(-1, 2)
        finite = self.finite[start:stop] = np.isfinite(x).all(axis=1)
        self.some.append(x[-start % self.every :: self.every].copy())
        whole = x if finite.all() else x[finite]
        if len(whole):
            low, high = whole.min(axis=0), whole.max(axis=0)
            known = len(self.low) > 0
            self.low = np.minimum(self.low, low) if known else low
            self.high = np.maximum(self.high, high) if known else high

    def settle_equal(self) -> None:
        """Groups of rows of the same values, and the scale of every coordinate."""
        order = np.lexsort(self.digests.T)  # stable: the first of a run is the first that appeared
        changed = (np.diff(self.digests[order], axis=0) != 0).any(axis=1)
        run = np.cumsum(np.r_[0, changed])[: len(order)]
        same = np.empty(len(order), dtype=np.int64)
        same[order] = run
        self.same = renumbered(same)
        self.first = np.unique(self.same, return_index=True)[1]
        some = np.concatenate(self.some)
        chosen = np.isin(np.arange(0, len(order), self.every), self.first)
        self.center, self.scale = location_and_scale(some, np.flatnonzero(chosen), self.tolerance)
        self.some.clear()
        varying = self.high > self.low if len(self.low) else np.zeros(some.shape[1], dtype=bool)
        self.hidden = np.flatnonzero((self.scale == 0) & varying)
        self.deviations = [[] for _ in self.hidden]
        del self.digests

    def see_hidden(self, x: NDArray[Any]) -> None:
        """Keep the deviations of coordinates that were constant in the sample for the scale."""
        values = np.abs(np.asarray(x[:, self.hidden], dtype=np.float64) - self.center[self.hidden])
        for own, column in zip(self.deviations, values.T):
            own.append(column[np.isfinite(column) & (column > 0)])

    def settle_hidden(self) -> None:
        """Typical deviation of these coordinates."""
        for column, own in zip(self.hidden, self.deviations):
            self.scale[column] = median_of_positive(np.concatenate(own)[:, None])[0]
        self.deviations.clear()

    def project(self, start: int, x: NDArray[Any]) -> None:
        """Last pass: projections of every row on a few directions."""
        used = np.flatnonzero(self.scale > 0)
        with np.errstate(all="ignore"):
            self.projected[start : start + len(x)] = self._standard(x) @ directions(len(used))

    def groups(self, rows: Callable[[Index], NDArray[Any]]) -> NDArray[np.int64]:
        """The groups, after the last pass."""
        width = int((self.scale > 0).sum())
        if len(self.first) < 2 or width == 0:
            return self.same
        found = near(
            self.projected[self.first],
            self.finite[self.first],
            lambda which: self._standard(rows(self.first[which])),
            width,
            self.tolerance,
        )
        return renumbered(found[self.same])

    def _standard(self, x: NDArray[Any]) -> NDArray[np.float64]:
        used = np.flatnonzero(self.scale > 0)
        return (np.asarray(x[:, used], dtype=np.float64) - self.center[used]) / self.scale[used]
