"""Equal rows: found before any split, fold, neighbor search or rank, because they are not independent."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repdyn.errors import RepdynError
from repdyn.reading import as_array

__all__ = ["folds_by_group", "groups_of_equal_rows", "parted_by_group", "renumbered", "sums_by_group"]

Close = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.bool_]]

BLOCK = 4_000_000  # numbers held in float64 at a time
SCALE_ROWS = 4_000  # rows that suffice for a coordinate's median spread
DIRECTIONS = 4  # random projections that nominate pairs before whole rows are compared
REACH = 5.0  # a projected difference is larger than so many of its standard deviations in 6 of 10⁷ pairs


def groups_of_equal_rows(x: NDArray[Any], tolerance: float = 1e-4) -> NDArray[np.int64]:
    """Number of the group of equal, or nearly equal, rows that each row belongs to.

    Rows a and b are nearly equal if the root mean square over coordinates j of (a_j − b_j) / s_j is at most
    ``tolerance``, where s_j is the typical deviation of coordinate j from its median. Units of a coordinate,
    a common shift and a few outliers therefore change nothing. Differences at the rounding error of the
    data's own type count as equal.

    Parameters
    ----------
    x
        Shape ``(N, …)``, floating point or integer. Rows are flattened. Non-finite rows are equal only to
        rows of the same bytes.
    tolerance
        Relative, as above. 0 groups rows of the same values alone.

    Returns
    -------
    numpy.ndarray
        int64 ``(N,)``: groups are numbered from 0 in order of first appearance. Each row of a group is
        within ``tolerance`` of the group's first row.

    Raises
    ------
    RepdynError
        If ``x`` has no row axis.

    Notes
    -----
    Memory beyond ``x`` is a few numbers for each row and one block. Nearly equal rows are nominated by four
    random projections (fixed seed), so that time grows about as N log N; a pair is overlooked with a
    probability of about 10⁻⁶.

    Examples
    --------
    >>> import numpy as np
    >>> groups_of_equal_rows(np.array([[0.0, 1.0], [5.0, 2.0], [0.0, 1.0]])).tolist()
    [0, 1, 0]
    """
    x = as_array(x)
    if x.ndim == 0:
        raise RepdynError("groups_of_equal_rows: x must have shape (N, …), got a single number")
    x = x.reshape(len(x), math.prod(x.shape[1:]))
    same, first = _identical(x)
    if tolerance <= 0 or len(first) < 2 or x.shape[1] == 0:
        return same
    return renumbered(_nearly_identical(x, first, tolerance)[same])


def folds_by_group(
    groups: NDArray[np.int64], folds: int, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Random folds of about equal size that keep every group together.

    Parameters
    ----------
    groups
        Group number of each row, ``(N,)``, as of :func:`groups_of_equal_rows`.
    folds
        How many; 2 gives halves.
    generator
        Draws the assignment. Without repeats it is ``generator.permutation(N) % folds``.

    Returns
    -------
    numpy.ndarray
        int64 ``(N,)``, fold numbers from 0. Folds are empty where there are fewer groups than folds.
    """
    count = len(groups)
    sizes = np.bincount(groups) if count else np.zeros(0, dtype=np.int64)
    order = generator.permutation(len(sizes))
    if len(sizes) == count:
        return np.asarray((order % folds)[groups], dtype=np.int64)
    order = order[np.argsort(-sizes[order], kind="stable")]  # largest first, each to the emptiest fold
    fold = np.empty(len(sizes), dtype=np.int64)
    filled = [(0, k) for k in range(folds)]
    for group in order.tolist():
        size, k = heapq.heappop(filled)
        fold[group] = k
        heapq.heappush(filled, (size + int(sizes[group]), k))
    return fold[groups]


def parted_by_group(
    groups: NDArray[np.int64], size: int, generator: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows at random in two parts that keep every group together; the first has ``size`` rows or a few more.

    Parameters
    ----------
    groups
        Group number of each row, ``(N,)``, as of :func:`groups_of_equal_rows`.
    size
        Rows wanted in the first part, from 1 to N - 1.
    generator
        Draws the order. Without repeats the parts are ``generator.permutation(N)``, cut at ``size``.

    Returns
    -------
    tuple of numpy.ndarray
        Row numbers in random order of their groups. Rows of one group alone are parted at random.

    Examples
    --------
    >>> import numpy as np
    >>> one, other = parted_by_group(np.array([0, 1, 0, 1]), 2, np.random.default_rng(0))
    >>> sorted([sorted(one.tolist()), sorted(other.tolist())])
    [[0, 2], [1, 3]]
    """
    sizes = np.bincount(groups)
    if len(sizes) < 2:
        order = generator.permutation(len(groups))
        return order[:size], order[size:]
    place = np.empty(len(sizes), dtype=np.int64)
    order = generator.permutation(len(sizes))
    place[order] = np.arange(len(sizes))
    rows = np.argsort(place[groups], kind="stable")
    filled = np.cumsum(sizes[order])
    cut = int(filled[min(int(np.searchsorted(filled, size)), len(sizes) - 2)])
    return rows[:cut], rows[cut:]


def sums_by_group(groups: NDArray[np.int64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum of the values ``(N,)`` of each group that occurs: what a bootstrap over groups resamples."""
    _, own = np.unique(groups, return_inverse=True)
    return np.asarray(np.bincount(own, weights=values), dtype=np.float64)


def _identical(x: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Group of every row by value, and the first row of each group."""
    seen: dict[bytes, int] = {}
    first: list[int] = []
    group = np.empty(len(x), dtype=np.int64)
    step = max(1, BLOCK // max(1, x.shape[1]))
    for start in range(0, len(x), step):
        for row, key in enumerate(digests(x[start : start + step]), start):
            group[row] = seen.setdefault(key, len(first))
            if group[row] == len(first):
                first.append(row)
    return group, np.asarray(first, dtype=np.int64)


def digests(block: NDArray[Any]) -> Iterator[bytes]:
    """Sixteen bytes for each row that rows of the same values share."""
    block = np.ascontiguousarray(block)
    if not np.issubdtype(block.dtype, np.integer) and block.dtype != np.bool_:
        block = block + np.zeros((), dtype=block.dtype)  # −0 and 0 are one value
    for values in block:
        yield blake2b(values.view(np.uint8), digest_size=16).digest()


def _nearly_identical(x: NDArray[Any], rows: NDArray[np.int64], tolerance: float) -> NDArray[np.int64]:
    """Number of the group of each of ``rows``, rows of distinct values."""
    center, scale = location_and_scale(x, rows, tolerance)
    used = np.flatnonzero(scale > 0)
    if len(used) == 0:
        return np.arange(len(rows))
    center, scale = center[used], scale[used]

    def standard(which: NDArray[np.int64]) -> NDArray[np.float64]:
        return (np.asarray(x[np.ix_(rows[which], used)], dtype=np.float64) - center) / scale

    width = len(used)
    step = max(1, BLOCK // width)
    along = directions(width)
    projected = np.empty((len(rows), DIRECTIONS))
    with np.errstate(all="ignore"):
        for start in range(0, len(rows), step):
            projected[start : start + step] = standard(np.arange(start, min(start + step, len(rows)))) @ along
    return near(projected, _finite(x, rows, step), standard, width, tolerance)


def directions(width: int) -> NDArray[np.float64]:
    """Random unit vectors, ``(width, DIRECTIONS)``, the same at every call."""
    drawn = np.random.default_rng(0).normal(size=(width, DIRECTIONS))
    return np.asarray(drawn / np.linalg.norm(drawn, axis=0))


def near(
    projected: NDArray[np.float64],
    finite: NDArray[np.bool_],
    standard: Callable[[NDArray[np.int64]], NDArray[np.float64]],
    width: int,
    tolerance: float,
) -> NDArray[np.int64]:
    """Number of the group of each row, of different rows of which only some are read again.

    Parameters
    ----------
    projected
        The rows in standard units on :func:`directions`, ``(n, DIRECTIONS)``.
    finite
        Whether each row is finite, ``(n,)``; others are groups of their own.
    standard
        Gives rows by number, in standard units, ``(m, width)``.
    width, tolerance
        Of a row; as in :func:`groups_of_equal_rows`.
    """
    step, group = max(1, BLOCK // width), np.arange(len(projected))
    usable = np.flatnonzero(np.isfinite(projected).all(axis=1) & finite)
    order = usable[np.argsort(projected[usable, 0], kind="stable")]
    count = len(projected)
    projected, cell = projected[order], np.zeros((count, DIRECTIONS), dtype=np.int64)
    cell[order] = np.floor(np.clip(projected / tolerance, -1e15, 1e15)).astype(np.int64)
    reach = tolerance * min(REACH, float(np.sqrt(width)))
    # A difference no larger than the reach, divided by a rounding error of the projection itself.
    reach += 8 * np.finfo(np.float64).eps * float(np.median(np.abs(projected))) if len(order) else 0.0

    def close(left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.bool_]:
        answer = np.empty(len(left), dtype=bool)
        for start in range(0, len(left), step):
            part = slice(start, start + step)
            gap = standard(left[part]) - standard(right[part])
            answer[part] = np.einsum("ij,ij->i", gap, gap) <= tolerance**2 * width
        return answer

    left = np.arange(len(order) - 1)
    for offset in range(1, len(order)):
        left = left[left + offset < len(order)]
        left = left[projected[left + offset, 0] - projected[left, 0] <= reach]
        if len(left) == 0:
            break
        both = (np.abs(projected[left + offset] - projected[left]) <= reach).all(axis=1)
        a, b = order[left[both]], order[left[both] + offset]
        apart = group[a] != group[b]
        a, b = a[apart], b[apart]
        joined = close(a, b)
        if joined.any():
            group = _united(group, a[joined], b[joined])
    return _bounded(group, cell, close)


def _united(group: NDArray[np.int64], a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.int64]:
    from scipy.sparse import coo_array  # the room of paths is imported without scipy
    from scipy.sparse.csgraph import connected_components

    count = len(group)
    links = coo_array((np.ones(len(a), dtype=np.int8), (group[a], group[b])), shape=(count, count))
    return np.asarray(connected_components(links, directed=False)[1], dtype=np.int64)[group]


def _bounded(group: NDArray[np.int64], cell: NDArray[np.int64], close: Close) -> NDArray[np.int64]:
    """Chains of close rows cut into groups within the tolerance of their first row."""
    group = renumbered(group)
    far = _far(group, np.arange(len(group)), close)
    if len(far):  # a chain is cut by a grid of the projections, which leaves little to peel off
        chained = np.flatnonzero(np.isin(group, group[far]))
        parts = np.unique(np.column_stack([group[chained], cell[chained]]), axis=0, return_inverse=True)[1]
        group[chained] = group.max() + 1 + parts.reshape(-1)
        far = _far(group, chained, close)
    while len(far):
        group[far] = group.max() + 1 + np.unique(group[far], return_inverse=True)[1]
        far = _far(group, far, close)
    return renumbered(group)


def _far(group: NDArray[np.int64], rows: NDArray[np.int64], close: Close) -> NDArray[np.int64]:
    """Those of ``rows``, whole groups, that are not close to the first of their group."""
    _, first, own = np.unique(group[rows], return_index=True, return_inverse=True)
    leader = rows[first[own]]
    rest = leader != rows
    near = close(rows[rest], leader[rest])
    return np.asarray(rows[rest][~near], dtype=np.int64)


def _finite(x: NDArray[Any], rows: NDArray[np.int64], step: int) -> NDArray[np.bool_]:
    found = np.empty(len(rows), dtype=bool)
    for start in range(0, len(rows), step):
        found[start : start + step] = np.isfinite(x[rows[start : start + step]]).all(axis=1)
    return found


def location_and_scale(
    x: NDArray[Any], rows: NDArray[np.int64], tolerance: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Median and typical nonzero deviation of every coordinate; deviation 0 where it is constant."""
    chosen = rows[:: max(1, len(rows) // SCALE_ROWS)]
    columns = max(1, BLOCK // len(chosen))
    center, scale = np.zeros(x.shape[1]), np.zeros(x.shape[1])
    rounding = float(np.finfo(np.float64 if x.dtype.itemsize > 4 else np.float32).eps)
    for start in range(0, x.shape[1], columns):
        part = slice(start, start + columns)
        values = np.asarray(x[chosen, part], dtype=np.float64)
        finite = np.isfinite(values).all(axis=1)
        values = values[finite] if finite.any() else np.zeros((1, values.shape[1]))
        center[part] = np.median(values, axis=0)
        deviation = np.abs(values - center[part])
        scale[part] = median_of_positive(deviation)
        # Twice the type's rounding error passes as equal, however narrow the coordinate is.
        floor = 2 * rounding * np.median(np.abs(values), axis=0) / tolerance
        scale[part] = np.where(scale[part] > 0, np.maximum(scale[part], floor), 0)
    for column in np.flatnonzero(scale == 0):  # constant on the chosen rows, perhaps not on all
        values = np.asarray(x[rows, column], dtype=np.float64)
        deviation = np.abs(values[np.isfinite(values)] - center[column])
        scale[column] = median_of_positive(deviation[:, None])[0]
    return center, scale


def median_of_positive(deviation: NDArray[np.float64]) -> NDArray[np.float64]:
    """Columnwise median of the positive entries, 0 where there is none."""
    middle = np.median(deviation, axis=0) if len(deviation) else np.zeros(deviation.shape[1])
    for column in np.flatnonzero(middle == 0):
        positive = deviation[deviation[:, column] > 0, column]
        middle[column] = np.median(positive) if len(positive) else 0.0
    return np.asarray(middle, dtype=np.float64)


def renumbered(group: NDArray[np.int64]) -> NDArray[np.int64]:
    """Groups numbered in order of first appearance."""
    _, first, own = np.unique(group, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return np.asarray(rank[own], dtype=np.int64)
