"""Persistent homology of one set of points or of a grid, from arrays to arrays.

Vietoris-Rips complexes of landmarks (:func:`vietoris_rips`), alpha complexes in few dimensions, sparse Rips
filtrations of all points, cubical complexes of grids; null models and distances of diagrams.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repdyn.arguments import whole
from repdyn.errors import RepdynError
from repdyn.reading import as_array
from repdyn.topology.neighbors import as_points
from repdyn.topology.settings import PERSISTENCE

__all__ = [
    "alpha_persistence", "betti_curve", "bottleneck_distance", "covering_radius", "cubical_persistence",
    "farthest_points", "gaussian_null", "longest_is_noise", "of_landmarks", "shuffled_null",
    "sparse_persistence", "vietoris_rips",
]  # fmt: skip

Array = NDArray[np.float64]


def vietoris_rips(
    x: ArrayLike, max_dim: int = 1, landmarks: int = 200, start: int = 0
) -> tuple[tuple[Array, ...], float, float]:
    r"""Persistent homology of growing balls around points, in units of the largest distance.

    Parameters
    ----------
    x
        Points, shape ``(N, D)``.
    max_dim
        Highest homology dimension.
    landmarks
        Number of points above which farthest-point landmarks replace them.
    start
        First landmark.

    Returns
    -------
    diagrams
        For each dimension, births and deaths ``(n, 2)`` divided by the scale. The one component that
        never dies is left out (reduced homology), so all values are finite.
    radius
        Covering radius of the landmarks divided by the scale; 0 if every point is a landmark. The diagrams
        of all points are within twice this radius in bottleneck distance.
    scale
        Largest distance between landmarks.

    References
    ----------
    Bauer, U. (2021). Ripser: efficient computation of Vietoris-Rips persistence barcodes. Journal of
    Applied and Computational Topology 5.
    Chazal, F., de Silva, V. and Oudot, S. (2014). Persistence stability for geometric complexes.
    Geometriae Dedicata 173, theorem 5.2.
    """
    diagrams, _, radius, scale = of_landmarks(x, max_dim, landmarks, start)
    return diagrams, radius / scale if scale else 0.0, scale


def of_landmarks(
    x: ArrayLike, max_dim: int, landmarks: int, start: int = 0
) -> tuple[tuple[Array, ...], NDArray[np.int64], float, float]:
    """Diagrams as from :func:`vietoris_rips`, indices of the landmarks, radius in the units of the data,
    scale."""
    from ripser import ripser  # slow to import
    from scipy.spatial.distance import pdist, squareform

    points = as_points(x, "persistence")
    max_dim, landmarks = whole("persistence: max_dim", max_dim), whole("persistence: landmarks", landmarks)
    if max_dim < 0 or landmarks < 1:
        raise RepdynError(
            f"persistence: max_dim={max_dim}, landmarks={landmarks}; expected max_dim ≥ 0, landmarks ≥ 1"
        )
    chosen, radius = farthest_points(points, landmarks, start)
    distances = squareform(pdist(points[chosen]))
    scale = float(distances.max(initial=0.0))
    if scale == 0:  # all landmarks are equal: there are no features
        return tuple(np.empty((0, 2)) for _ in range(max_dim + 1)), chosen, radius, 0.0
    computed = ripser(distances / scale, maxdim=max_dim, distance_matrix=True)["dgms"]
    diagrams = tuple(np.asarray(d[np.isfinite(d[:, 1])], dtype=np.float64).reshape(-1, 2) for d in computed)
    return diagrams, chosen, radius, scale


def betti_curve(diagram: Array, grid: Array) -> NDArray[np.int64]:
    """Number of features alive at each value of a grid ``(G,)``: birth at or below it, death above it."""
    born = np.searchsorted(np.sort(diagram[:, 0]), grid, side="right")
    dead = np.searchsorted(np.sort(diagram[:, 1]), grid, side="right")
    return (born - dead).astype(np.int64)


def bottleneck_distance(one: Array, other: Array) -> float:
    """Bottleneck distance of two diagrams ``(n, 2)``; features can be matched to the diagonal."""
    from gudhi import bottleneck_distance as compute  # slow to import

    return float(compute(one, other))


def longest_is_noise(diagram: Array, radius: float) -> bool:
    r"""Whether the longest bar of a diagram ``(n, 2)`` of loops or voids may be noise of the landmarks.

    It is not noise if it is longer than ``2 * radius``: then the complex of all points has a bar, too,
    because the complexes of landmarks and of points are interleaved, with a shift of twice the covering
    radius. It is not noise either if its ratio :math:`\pi` of death to birth is an outlier. Of points that
    are drawn from any distribution, :math:`\ell = \log\log\pi + B` of noise has the distribution function
    :math:`1 - \exp(-e^\ell)`, with *B* from the mean over the other bars.

    References
    ----------
    Bobrowski, O. and Skraba, P. (2023). A universal null-distribution for topological data analysis.
    Scientific Reports 13.
    """
    if len(diagram) == 0:
        return True
    longest = int((diagram[:, 1] - diagram[:, 0]).argmax())
    if diagram[longest, 1] - diagram[longest, 0] > 2 * radius:
        return False
    if len(diagram) <= PERSISTENCE.noise_bars:
        return True
    with np.errstate(divide="ignore"):  # a bar that is rounded to nothing
        position = np.log(np.log(diagram[:, 1] / diagram[:, 0]))
    others = np.delete(position, longest)
    above = position[longest] - others[np.isfinite(others)].mean() - np.euler_gamma
    return bool(len(diagram) * np.exp(-np.exp(above)) > 1 - PERSISTENCE.level)


def shuffled_null(points: Array, generator: np.random.Generator) -> Array:
    """Points ``(N, D)`` with independently shuffled columns: equal marginals, no dependence between
    columns."""
    return generator.permuted(points, axis=0)


def gaussian_null(points: Array, generator: np.random.Generator) -> Array:
    """Gaussian points ``(N, D)`` with equal mean and covariance."""
    centered = points - points.mean(axis=0)
    _, singular, axes = np.linalg.svd(centered, full_matrices=False)
    drawn = generator.normal(size=(len(points), len(singular)))
    return np.asarray(points.mean(axis=0) + drawn * (singular / np.sqrt(len(points))) @ axes)


def farthest_points(x: ArrayLike, count: int, start: int = 0) -> tuple[NDArray[np.int64], float]:
    r"""Choose landmarks greedily: the next one is the point farthest from all earlier ones.

    .. math:: l_{m+1} = \arg\max_i \min_{j \le m} \lVert x_i - x_{l_j} \rVert

    The covering radius is at most twice the smallest possible one with as many landmarks.

    Parameters
    ----------
    x
        Points, shape ``(N, D)``.
    count
        Number of landmarks. Fewer are returned if there are fewer different points.
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
    count, start = whole("farthest_points: count", count), whole("farthest_points: start", start)
    if count < 1 or not 0 <= start < len(points):
        raise RepdynError(
            f"farthest_points: count={count}, start={start}; "
            f"expected count of 1 or more and start below {len(points)}"
        )
    squares = None
    if points.shape[1] > PERSISTENCE.product_dimensions:
        points = points - points.mean(axis=0)  # products of close points cancel less
        squares = np.einsum("nd,nd->n", points, points)
    chosen = [start]
    nearest = np.full(len(points), np.inf)
    _update_nearest(nearest, points, start, squares)
    while len(chosen) < count:
        farthest = int(nearest.argmax())
        if nearest[farthest] == 0:
            break
        chosen.append(farthest)
        _update_nearest(nearest, points, farthest, squares)
    return np.array(chosen, dtype=np.int64), float(nearest.max())


def _update_nearest(nearest: Array, points: Array, landmark: int, squares: Array | None) -> None:
    """Update the distances ``(N,)`` to the nearest landmark, in place, with one more.

    With the squared norms ``(N,)`` a distance is a matrix product, except where that would lose its digits.
    """
    if squares is None:
        own = _lengths(points, points[landmark])
    else:
        with np.errstate(over="ignore", invalid="ignore"):  # squares that overflow are measured again
            terms = squares + squares[landmark]
            squared = terms - 2 * (points @ points[landmark])
            again = np.flatnonzero(~(squared > PERSISTENCE.cancels * terms))
        squared[again] = 0.0
        own = np.sqrt(squared)
        own[again] = _lengths(points[again], points[landmark])
    np.minimum(nearest, own, out=nearest)


def _lengths(points: Array, origin: Array) -> Array:
    """Distances ``(N,)`` from one point, in parts that fit a cache."""
    rows = max(1, PERSISTENCE.cached_numbers // points.shape[1])
    own = np.empty(len(points))
    for first in range(0, len(points), rows):
        part = slice(first, first + rows)
        own[part] = np.linalg.norm(points[part] - origin, axis=1)
    return own


def covering_radius(x: ArrayLike, landmarks: NDArray[np.float64]) -> float:
    """Largest distance of a point ``(N, D)`` from its nearest landmark ``(m, D)``."""
    center = landmarks.mean(axis=0)  # products of close points cancel less
    near, points = landmarks - center, as_points(x, "covering_radius") - center
    squared = (near * near).sum(axis=1) - 2 * points @ near.T
    farthest = squared.min(axis=1) + np.einsum("nd,nd->n", points, points)
    # Differences of squares can be slightly negative.
    return float(np.sqrt(max(float(farthest.max()), 0.0)))


def alpha_persistence(x: ArrayLike, max_dim: int = 1) -> tuple[Array, ...]:
    r"""Exact persistent homology of the union of balls around points, by the alpha complex.

    The complex has the homology of :math:`\bigcup_i B(x_i, r)` at every radius *r*, and as many simplices as
    the Delaunay triangulation: thousands of points in two or three dimensions take less than a second,
    without landmarks. In more dimensions the triangulation is too large.

    Parameters
    ----------
    x
        Points, shape ``(N, D)``, D up to 5.
    max_dim
        Highest homology dimension, below D.

    Returns
    -------
    tuple of (n, 2) arrays
        For each dimension births and deaths, as radii; the component that never dies is left out.

    Raises
    ------
    RepdynError
        On a wrong shape, values that are not finite, or too many dimensions.

    Examples
    --------
    >>> square = alpha_persistence([[0, 0], [2, 0], [0, 2], [2, 2]])
    >>> square[1].round(3).tolist()
    [[1.0, 1.414]]

    References
    ----------
    Edelsbrunner, H. and Mücke, E. (1994). Three-dimensional alpha shapes. ACM Transactions on Graphics 13(1).
    """
    points = as_points(x, "alpha_persistence")
    max_dim = _checked(max_dim, "alpha_persistence")
    if points.shape[1] > PERSISTENCE.alpha_dimensions:
        raise RepdynError(
            f"alpha_persistence: x has {points.shape[1]} dimensions; expected at most "
            f"{PERSISTENCE.alpha_dimensions}; use persistence or sparse_persistence"
        )
    from gudhi import AlphaComplex  # slow to import

    # Filtered by squared radii.
    return tuple(np.sqrt(d) for d in _diagrams(AlphaComplex(points=points).create_simplex_tree(), max_dim))


def cubical_persistence(values: ArrayLike, max_dim: int = 1) -> tuple[Array, ...]:
    r"""Persistent homology of a function on a grid, by its superlevel sets.

    .. math:: \{ v : f(v) \ge \lambda \}, \quad \lambda \text{ from } \infty \text{ to } -\infty

    For a density on a grid, or an image, without points and neighbor graph. In dimension 0 the bars are the
    branches of the level-set tree.

    Parameters
    ----------
    values
        The function at the cells of a grid of any dimension.
    max_dim
        Highest homology dimension.

    Returns
    -------
    tuple of (n, 2) arrays
        For each dimension births and deaths, births above deaths; in dimension 0 with the highest peak,
        whose death is the lowest value.

    Raises
    ------
    RepdynError
        On an empty array or values that are not finite.

    Examples
    --------
    >>> cubical_persistence([0.0, 5.0, 1.0, 4.0, 0.0])[0].tolist()
    [[4.0, 1.0], [5.0, 0.0]]

    References
    ----------
    Wagner, H., Chen, C. and Vuçini, E. (2012). Efficient computation of persistent homology for cubical
    data. Topological Methods in Data Analysis and Visualization II.
    """
    grid = as_array(values, dtype=np.float64)
    max_dim = _checked(max_dim, "cubical_persistence")
    if grid.ndim == 0 or grid.size == 0 or not np.isfinite(grid).all():
        raise RepdynError(
            f"cubical_persistence: values have shape {grid.shape}; expected a grid of finite numbers, "
            "not empty"
        )
    from gudhi import CubicalComplex  # slow to import

    complex_ = CubicalComplex(top_dimensional_cells=-grid)
    complex_.compute_persistence()
    diagrams = []
    for dimension in range(max_dim + 1):
        diagram = -np.asarray(complex_.persistence_intervals_in_dimension(dimension)).reshape(-1, 2)
        diagrams.append(np.maximum(diagram, grid.min()))
    return tuple(diagrams)


def sparse_persistence(x: ArrayLike, max_dim: int = 1, error: float = 0.3) -> tuple[Array, ...]:
    r"""Persistent homology of all points by a sparse Rips filtration, up to a factor.

    .. math:: \log d_B(\text{sparse}, \text{Rips}) \le \log \frac{1}{1 - \varepsilon}

    in the bottleneck distance of logarithms: every bar of the Vietoris-Rips complex whose ratio of death to
    birth exceeds that factor squared is present. The number of simplices is linear in the points, with a
    constant that depends on their intrinsic dimension. This is the better choice below dimension 3 or so, if
    landmarks would miss small features.

    Parameters
    ----------
    x
        Points, shape ``(N, D)``.
    max_dim
        Highest homology dimension.
    error
        :math:`\varepsilon`, above 0 and below 1.

    Returns
    -------
    tuple of (n, 2) arrays
        For each dimension births and deaths, as distances; the component that never dies is left out.

    Raises
    ------
    RepdynError
        On a wrong shape, values that are not finite, or an error outside (0, 1).

    References
    ----------
    Cavanna, N., Jahanseir, M. and Sheehy, D. (2015). A geometric perspective on sparse filtrations. CCCG.
    """
    points = as_points(x, "sparse_persistence")
    max_dim = _checked(max_dim, "sparse_persistence")
    if not 0 < error < 1:
        raise RepdynError(f"sparse_persistence: error={error}; expected a number between 0 and 1")
    from gudhi import RipsComplex  # slow to import

    tree = RipsComplex(points=points, sparse=error).create_simplex_tree(max_dimension=max_dim + 1)
    return _diagrams(tree, max_dim)


def _diagrams(tree: Any, max_dim: int) -> tuple[Array, ...]:
    """Finite bars ``(n, 2)`` of a simplex tree, by dimension."""
    tree.compute_persistence(homology_coeff_field=2)
    diagrams = []
    for dimension in range(max_dim + 1):
        diagram = np.asarray(tree.persistence_intervals_in_dimension(dimension), dtype=np.float64)
        diagram = diagram.reshape(-1, 2)
        diagrams.append(diagram[np.isfinite(diagram[:, 1])])
    return tuple(diagrams)


def _checked(max_dim: int, where: str) -> int:
    """The dimension, a whole number; raise an error for a negative one."""
    dimension = whole(f"{where}: max_dim", max_dim)
    if dimension < 0:
        raise RepdynError(f"{where}: max_dim={max_dim}; expected 0 or more")
    return dimension
