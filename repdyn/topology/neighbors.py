"""Nearest neighbours of every point, exact, in memory that does not grow with the square of their number."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repdyn.errors import RepdynError
from repdyn.progress import track

__all__ = ["component_bridges", "nearest_neighbors"]

# Space-partitioning trees beat a matrix product in few dimensions and lose to it in many.
KD_TREE_DIMENSIONS = 10
# Entries of one block of distances: 64 MB in single precision.
BLOCK_ENTRIES = 1 << 24
# The k nearest lie in the k groups of smallest minima, so selection runs over groups of so many columns.
GROUP = 16
# Beyond, the graph is dust, and distances between all components would not fit.
MOST_COMPONENTS = 5000


def nearest_neighbors(x: ArrayLike, neighbors: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Find the nearest other points of every point.

    Parameters
    ----------
    x
        Points, shape ``(N, D)``.
    neighbors
        How many, ``0 < k < N``.

    Returns
    -------
    distances : (N, k) array
        Euclidean, ascending.
    indices : (N, k) array
        Rows of ``x``; a point is never its own neighbour, a duplicate of it can be.

    Raises
    ------
    RepdynError
        On a wrong shape, a value that is not finite, or too few points.

    Examples
    --------
    >>> nearest_neighbors([[0.0], [1.0], [3.0]], 1)[1].ravel().tolist()
    [1, 0, 1]
    """
    points = as_points(x, "nearest_neighbors")
    if not 0 < neighbors < len(points):
        raise RepdynError(
            f"nearest_neighbors: neighbors={neighbors} with {len(points)} points; "
            "expected 0 < neighbors < points"
        )
    if points.shape[1] <= KD_TREE_DIMENSIONS:
        return _by_tree(points, neighbors)
    return _by_blocks(points, neighbors)


def component_bridges(points: NDArray[np.float64], indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pairs of points that connect the components of a neighbour graph, nearest components first.

    Components are joined along the minimum spanning tree of their centroids, each pair between the point
    of one that is nearest to the other's centroid and the point of the other nearest to that.

    Parameters
    ----------
    points
        Shape ``(N, D)``.
    indices
        Neighbours of each, ``(N, k)``; edges count in both directions.

    Returns
    -------
    (components - 1, 2) array
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components, minimum_spanning_tree
    from scipy.spatial.distance import pdist, squareform

    n = len(points)
    source = np.repeat(np.arange(n), indices.shape[1])
    graph = coo_matrix((np.ones(len(source), dtype=np.int8), (source, indices.ravel())), shape=(n, n))
    count, label = connected_components(graph, directed=False)
    if count == 1 or count > MOST_COMPONENTS:
        return np.empty((0, 2), dtype=np.int64)
    members = np.split(np.argsort(label, kind="stable"), np.cumsum(np.bincount(label))[:-1])
    centroids = np.stack([points[member].mean(axis=0) for member in members])
    # Equal centroids are no missing edges: distances start above 0.
    tree = minimum_spanning_tree(squareform(pdist(centroids) + np.finfo(float).tiny)).tocoo()

    def nearest(component: int, to: NDArray[np.float64]) -> int:
        member = members[component]
        return int(member[np.linalg.norm(points[member] - to, axis=1).argmin()])

    pairs = []
    for a, b in zip(tree.row.tolist(), tree.col.tolist()):
        end = nearest(a, centroids[b])
        pairs.append((end, nearest(b, points[end])))
    bridges = np.array(pairs, dtype=np.int64)
    lengths = np.linalg.norm(points[bridges[:, 0]] - points[bridges[:, 1]], axis=1)
    return bridges[np.argsort(lengths, kind="stable")]


def as_points(x: ArrayLike, where: str) -> NDArray[np.float64]:
    """Check that an array is a set of finite points ``(N, D)`` and return it in double precision."""
    points = np.asarray(x)
    if points.ndim != 2 or points.shape[0] == 0 or points.shape[1] == 0:
        raise RepdynError(
            f"{where}: x has shape {points.shape}; expected (points, dimensions), neither of them 0"
        )
    if points.dtype.kind not in "fiub":
        raise RepdynError(f"{where}: x holds {points.dtype}; expected real numbers")
    points = points.astype(np.float64, copy=False)
    finite = np.isfinite(points).all(axis=1)
    if not finite.all():
        row = int(np.flatnonzero(~finite)[0])
        raise RepdynError(
            f"{where}: x holds a value that is not finite in row {row} "
            f"({int((~finite).sum())} such rows); remove these rows"
        )
    return points


def _by_tree(points: NDArray[np.float64], neighbors: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    from scipy.spatial import cKDTree  # imported here: only low-dimensional data needs it

    # Without balancing, many duplicates would make the tree as deep as their number.
    distances, indices = cKDTree(points).query(points, k=neighbors + 1)
    own = indices == np.arange(len(points))[:, None]
    # Among more duplicates than neighbours the point itself may be missing: then the last one goes.
    own[~own.any(axis=1), -1] = True
    shape = (len(points), neighbors)
    return distances[~own].reshape(shape), indices[~own].reshape(shape).astype(np.int64)


def _by_blocks(points: NDArray[np.float64], neighbors: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    import torch  # imported here: as above

    n = len(points)
    # Centred and of unit scale, single precision suffices to select; distances are computed again below.
    centred = points - points.mean(axis=0)
    scale = float(np.sqrt(np.mean(centred**2))) or 1.0
    table = torch.from_numpy((centred / scale).astype(np.float32))
    squares = (table * table).sum(dim=1)
    padding = -n % GROUP
    groups = (n + padding) // GROUP
    rows = max(1, min(n, BLOCK_ENTRIES // (n + padding)))
    buffer = torch.empty(rows, n + padding)
    distances = np.empty((n, neighbors))
    indices = np.empty((n, neighbors), dtype=np.int64)
    for start in track(range(0, n, rows), "finding nearest neighbours"):
        stop = min(start + rows, n)
        block = buffer[: stop - start]
        block[:, n:] = torch.inf
        # |y|² − 2⟨x, y⟩ orders as the distance from x does.
        torch.addmm(squares, table[start:stop], table.T, alpha=-2.0, out=block[:, :n])
        block[torch.arange(stop - start), torch.arange(start, stop)] = torch.inf
        found = _smallest(block, neighbors, groups)
        # Twice as exact as the block: differences, not the expanded square, in double precision.
        chosen = found.numpy()
        exact = _distances(points, start, stop, chosen)
        order = np.argsort(exact, axis=1, kind="stable")
        distances[start:stop] = np.take_along_axis(exact, order, axis=1)
        indices[start:stop] = np.take_along_axis(chosen, order, axis=1)
    return distances, indices


def _smallest(block: Any, count: int, groups: int) -> Any:
    """Columns of the smallest entries of each row, exactly, through the minima of groups of columns."""
    import torch

    if groups <= 2 * count:
        return torch.topk(block, count, dim=1, largest=False, sorted=False).indices
    # Column c belongs to group c mod `groups`: then a minimum runs over contiguous rows.
    minima = block.view(len(block), GROUP, groups).amin(dim=1)
    group = torch.topk(minima, count, dim=1, largest=False, sorted=False).indices
    columns = (group[:, None, :] + torch.arange(GROUP)[None, :, None] * groups).reshape(len(block), -1)
    best = torch.topk(block.gather(1, columns), count, dim=1, largest=False, sorted=False).indices
    return columns.gather(1, best)


def _distances(
    points: NDArray[np.float64], start: int, stop: int, chosen: NDArray[np.int64]
) -> NDArray[np.float64]:
    result = np.empty(chosen.shape)
    for column in range(chosen.shape[1]):
        difference = points[chosen[:, column]] - points[start:stop]
        result[:, column] = np.sqrt(np.einsum("nd,nd->n", difference, difference))
    return result
