"""Which ends are one point: merging by distance, without an N by N matrix."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["SWEEP", "count_sweep", "merge_points"]

SWEEP = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
"""Merge tolerances, relative to the data's scale, over which counts are shown."""

SKETCH = 8
"""Dimensions of the projection that candidates are looked up in: trees lose their edge in more."""


def merge_points(
    points: NDArray[np.floating], radius: float, order: NDArray[np.integer] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Group points: each leader takes every free point within ``radius``, leaders in the order given.

    Leaders do not chain, so a trail of slow points does not join two attractors. Candidates come from a
    tree over an orthonormal projection (which never lengthens a distance) and are checked in full.

    Parameters
    ----------
    points
        Shape ``(N, d)``.
    radius
        In the units of the points.
    order
        Which lead first, best first; default: in their order.

    Returns
    -------
    leaders, member
        Index of each group's leader, shape ``(A,)``; each point's group, shape ``(N,)``.

    Examples
    --------
    >>> import numpy as np
    >>> merge_points(np.array([[0.0], [0.1], [5.0]]), 0.5)[1].tolist()
    [0, 0, 1]
    """
    # scipy is half a second to import: here, not with the room.
    from scipy.spatial import cKDTree

    points = np.asarray(points, dtype=np.float64)
    n, d = points.shape
    member = np.full(n, -1, dtype=np.int64)
    leaders: list[int] = []
    if n == 0:
        return np.zeros(0, dtype=np.int64), member
    sketch = points
    if d > SKETCH:
        directions = np.linalg.qr(np.random.default_rng(0).standard_normal((d, SKETCH)))[0]
        sketch = points @ directions
    tree = cKDTree(sketch)
    slack = radius + 1e-9 * float(np.abs(sketch).max())
    for i in np.arange(n) if order is None else order:
        if member[i] >= 0:
            continue
        near = np.asarray(tree.query_ball_point(sketch[i], slack), dtype=np.int64)
        near = near[member[near] < 0]
        near = near[np.linalg.norm(points[near] - points[i], axis=1) <= radius]
        member[near] = len(leaders)
        member[i] = len(leaders)
        leaders.append(int(i))
    return np.asarray(leaders, dtype=np.int64), member


def count_sweep(
    points: NDArray[np.floating], scale: float, tolerances: Sequence[float] = SWEEP
) -> dict[float, int]:
    """How many groups there are at each merge tolerance.

    Parameters
    ----------
    points
        Shape ``(N, d)``.
    scale
        The data's; tolerances are relative to it.
    tolerances
        A count that hangs on the tolerance is no finding.
    """
    return {t: len(merge_points(points, t * scale)[0]) for t in tolerances}
