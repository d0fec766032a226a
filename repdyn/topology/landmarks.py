"""A few points that lie near all others, with the error that standing in for them costs."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repdyn.errors import RepdynError
from repdyn.topology.neighbors import as_points

__all__ = ["covering_radius", "farthest_points"]

_CACHED = 2**16  # numbers whose differences a processor's nearest caches hold


def farthest_points(x: ArrayLike, count: int, start: int = 0) -> tuple[NDArray[np.int64], float]:
    r"""Choose landmarks greedily: each next one is the point farthest from those before it.

    .. math:: l_{m+1} = \arg\max_i \min_{j \le m} \lVert x_i - x_{l_j} \rVert

    No set of as many landmarks has a covering radius below half of this one's.

    Parameters
    ----------
    x
        Points, shape ``(N, D)``.
    count
        Landmarks; fewer are returned where the points have fewer different places.
    start
        The first landmark.

    Returns
    -------
    indices : (m,) array
    radius : float
        Covering radius: no point is farther than this from a landmark.

    Raises
    ------
    RepdynError
        On a wrong shape, values that are not finite, or a count below 1.

    Examples
    --------
    >>> indices, radius = farthest_points([[0.0], [1.0], [9.0], [10.0]], 2)
    >>> indices.tolist(), radius
    ([0, 3], 1.0)

    References
    ----------
    Gonzalez, T. (1985). Clustering to minimize the maximum intercluster distance. Theoretical Computer
    Science 38.
    """
    points = as_points(x, "farthest_points")
    if count < 1 or not 0 <= start < len(points):
        raise RepdynError(
            f"farthest_points: count={count}, start={start}; "
            f"expected count of 1 or more and start below {len(points)}"
        )
    chosen = [start]
    nearest = np.full(len(points), np.inf)
    _draw_near(nearest, points, start)
    while len(chosen) < count:
        farthest = int(nearest.argmax())
        if nearest[farthest] == 0:
            break
        chosen.append(farthest)
        _draw_near(nearest, points, farthest)
    return np.array(chosen, dtype=np.int64), float(nearest.max())


def _draw_near(nearest: NDArray[np.float64], points: NDArray[np.float64], landmark: int) -> None:
    """Distances to the nearest landmark, with one more; a part at a time, so that a cache holds it."""
    rows = max(1, _CACHED // points.shape[1])
    for first in range(0, len(points), rows):
        part = slice(first, first + rows)
        own = np.linalg.norm(points[part] - points[landmark], axis=1)
        np.minimum(nearest[part], own, out=nearest[part])


def covering_radius(x: ArrayLike, landmarks: NDArray[np.float64]) -> float:
    """The largest distance of a point ``(N, D)`` from its nearest landmark ``(m, D)``."""
    centre = landmarks.mean(axis=0)  # products of what is near cancel less
    near, points = landmarks - centre, as_points(x, "covering_radius") - centre
    squared = (near * near).sum(axis=1) - 2 * points @ near.T
    farthest = squared.min(axis=1) + np.einsum("nd,nd->n", points, points)
    return float(np.sqrt(max(float(farthest.max()), 0.0)))
