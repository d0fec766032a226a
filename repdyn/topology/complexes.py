"""Persistent homology of other complexes than Vietoris-Rips, where they are the better engine."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repdyn.errors import RepdynError
from repdyn.reading import as_array
from repdyn.topology.neighbors import as_points

__all__ = ["alpha_persistence", "cubical_persistence", "sparse_persistence"]

Array = NDArray[np.float64]

# Delaunay triangulations grow with the power of half the dimension.
ALPHA_DIMENSIONS = 5


def alpha_persistence(x: ArrayLike, max_dim: int = 1) -> tuple[Array, ...]:
    r"""Persistent homology of the union of balls around points, exactly, by its alpha complex.

    The complex has the homology of :math:`\bigcup_i B(x_i, r)` at every radius *r*, and as many simplices as
    the Delaunay triangulation: thousands of points in two or three dimensions take less than a second, and
    no landmarks stand in for them. In more dimensions the triangulation does not fit.

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
    _check(max_dim, "alpha_persistence")
    if points.shape[1] > ALPHA_DIMENSIONS:
        raise RepdynError(
            f"alpha_persistence: x has {points.shape[1]} dimensions; expected at most {ALPHA_DIMENSIONS}; "
            "use persistence or sparse_persistence"
        )
    from gudhi import AlphaComplex  # imported here: compiled, and only this needs it

    # Filtered by squared radii.
    return tuple(np.sqrt(d) for d in _diagrams(AlphaComplex(points=points).create_simplex_tree(), max_dim))


def cubical_persistence(values: ArrayLike, max_dim: int = 1) -> tuple[Array, ...]:
    r"""Persistent homology of a function on a grid, by its superlevel sets.

    .. math:: \{ v : f(v) \ge \lambda \}, \quad \lambda \text{ from } \infty \text{ to } -\infty

    For a density that is known on a grid, or an image: neither points nor a neighbour graph come between.
    In dimension 0 the bars are the branches of the level-set tree.

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
        which dies at the lowest value.

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
    _check(max_dim, "cubical_persistence")
    if grid.ndim == 0 or grid.size == 0 or not np.isfinite(grid).all():
        raise RepdynError(
            f"cubical_persistence: values have shape {grid.shape}; expected a grid of finite numbers, "
            "not empty"
        )
    from gudhi import CubicalComplex  # imported here: compiled, and only this needs it

    complex_ = CubicalComplex(top_dimensional_cells=-grid)
    complex_.compute_persistence()
    found = []
    for dimension in range(max_dim + 1):
        diagram = -np.asarray(complex_.persistence_intervals_in_dimension(dimension)).reshape(-1, 2)
        found.append(np.maximum(diagram, grid.min()))
    return tuple(found)


def sparse_persistence(x: ArrayLike, max_dim: int = 1, error: float = 0.3) -> tuple[Array, ...]:
    r"""Persistent homology of all points by a sparse Rips filtration, within a factor.

    .. math:: \log d_B(\text{sparse}, \text{Rips}) \le \log \frac{1}{1 - \varepsilon}

    in the bottleneck distance of logarithms: every bar of the Vietoris-Rips complex that outlives its birth
    by more than that factor squared is there. The number of simplices grows linearly with the points, where
    the constant depends on their intrinsic dimension; of dimension below 3 or so, and where landmarks
    would lose what is small, this is the better engine.

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
    _check(max_dim, "sparse_persistence")
    if not 0 < error < 1:
        raise RepdynError(f"sparse_persistence: error={error}; expected a number between 0 and 1")
    from gudhi import RipsComplex  # imported here: compiled, and only this needs it

    tree = RipsComplex(points=points, sparse=error).create_simplex_tree(max_dimension=max_dim + 1)
    return _diagrams(tree, max_dim)


def _diagrams(tree: Any, max_dim: int) -> tuple[Array, ...]:
    """Finite bars of a simplex tree, by dimension."""
    tree.compute_persistence(homology_coeff_field=2)
    found = []
    for dimension in range(max_dim + 1):
        diagram = np.asarray(tree.persistence_intervals_in_dimension(dimension), dtype=np.float64)
        diagram = diagram.reshape(-1, 2)
        found.append(diagram[np.isfinite(diagram[:, 1])])
    return tuple(found)


def _check(max_dim: int, where: str) -> None:
    if max_dim < 0:
        raise RepdynError(f"{where}: max_dim={max_dim}; expected 0 or more")
