"""Log-densities of points, whose superlevel sets a tree describes, and intrinsic dimension."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import digamma, gammaln, polygamma

from repdyn.arguments import whole
from repdyn.errors import RepdynError
from repdyn.reading import as_array
from repdyn.repeats import folds_by_group, groups_of_equal_rows
from repdyn.topology.neighbors import as_points, nearest_neighbors

__all__ = ["intrinsic_dimension", "knn_density", "mixture_density"]

Array = NDArray[np.float64]
Index = NDArray[np.int64]


def knn_density(x: ArrayLike, neighbors: int = 15, dimension: float | None = None) -> Array:
    r"""Log-density at every point, estimated from the distance to its k-th neighbor.

    .. math:: \log f(x_i) = \psi(k) - \log(N - 1) - \log V_d - d \log r_k(x_i)

    with :math:`V_d` the volume of the unit ball. The estimate adapts to the density (the ball is larger where
    points are few) and to the intrinsic dimension *d* of the data. Representations fill far fewer dimensions
    than their width; with the width in place of *d*, differences of density would be exaggerated. With the
    correct *d* the standard error is :math:`\sqrt{\psi'(k)} \approx 1/\sqrt{k}` in any dimension.

    Parameters
    ----------
    x
        Points, shape ``(N, D)``.
    neighbors
        k, below N.
    dimension
        *d*; default: estimated by :func:`intrinsic_dimension`.

    Returns
    -------
    (N,) array
        Natural logarithm. Equal points are one point with a multiplicity: neighbors are counted among
        different points, and the geometric mean of the multiplicities around a point is a factor.

    Raises
    ------
    RepdynError
        On a wrong shape, a value that is not finite, or too few points.

    Examples
    --------
    >>> density = knn_density([[0.0], [0.1], [0.2], [5.0]], neighbors=2)
    >>> int(density.argmin())
    3

    References
    ----------
    Kozachenko, L. F. and Leonenko, N. N. (1987). Sample estimate of the entropy of a random vector.
    Problems of Information Transmission 23.
    """
    points = as_points(x, "knn_density")
    neighbors = whole("knn_density: neighbors", neighbors)
    if not 0 < neighbors < len(points):
        raise RepdynError(
            f"knn_density: neighbors={neighbors} with {len(points)} points; expected 0 < neighbors < points"
        )
    groups = groups_of_equal_rows(points)
    _, first, count = np.unique(groups, return_index=True, return_counts=True)
    if len(first) == 1:
        return np.zeros(len(points))  # all points are equal
    distances, indices = nearest_neighbors(points[first], min(neighbors, len(first) - 1))
    return density_from_distances(distances, dimension, crowding(count, indices))[groups]


def crowding(count: Index, indices: Index) -> Array:
    """Mean logarithm of the multiplicity of each point and its neighbors ``(N,)``.

    Distances are taken among different points, and multiplicities enter here. Copies of all points then
    change nothing, values rounded to a grid keep their density, and a single frequent point makes no peak of
    its surroundings.
    """
    often = np.log(count)
    return np.asarray((often + often[indices].sum(axis=1)) / (1 + indices.shape[1]))


def density_from_distances(
    distances: Array, dimension: float | None = None, crowded: Array | None = None
) -> Array:
    """The formula of :func:`knn_density` for given distances ``(N, k)``, ascending in each row."""
    count, neighbors = distances.shape
    d = intrinsic_dimension(distances) if dimension is None else dimension
    if not d > 0:
        raise RepdynError(f"knn_density: dimension={d}; expected a positive number")
    radius = distances[:, -1]
    positive = radius[radius > 0]
    if len(positive) == 0:
        return np.zeros(count)  # all points are equal
    # Copies of a point lie at distance zero, where the density would be infinite.
    radius = np.maximum(radius, positive.min())
    volume = d / 2 * np.log(np.pi) - gammaln(d / 2 + 1)
    density = digamma(neighbors) - np.log(max(count - 1, 1)) - volume - d * np.log(radius)
    return np.asarray(density if crowded is None else density + crowded)


def intrinsic_dimension(distances: ArrayLike) -> float:
    r"""Intrinsic dimension of points, by maximum likelihood from distances to neighbors.

    .. math:: 1/\hat d = \frac{1}{N (k - 1)} \sum_i \sum_{j<k} \log \frac{r_k(x_i)}{r_j(x_i)}

    (the average over points is that of the inverse, after MacKay and Ghahramani).

    Parameters
    ----------
    distances
        Of each point to its neighbors, ascending, shape ``(N, k)`` with k of 2 or more.

    Returns
    -------
    float
        The dimension; 1.0 if all distances are 0.

    Examples
    --------
    >>> import numpy as np
    >>> line = np.sort(np.random.default_rng(0).random((500, 8)), axis=1)
    >>> 0.9 < intrinsic_dimension(line) < 1.1
    True

    References
    ----------
    Levina, E. and Bickel, P. (2004). Maximum likelihood estimation of intrinsic dimension. NIPS 17, eq. 9.
    """
    return dimension_of(inverse_dimension(as_array(distances, dtype=np.float64)))


def inverse_dimension(distances: Array) -> Array:
    """Estimate of 1/d at each point ``(N,)``. Single values are noisy, means over many points are precise.

    NaN if a point has only duplicates, or one neighbor.
    """
    if distances.ndim != 2 or distances.shape[0] == 0:
        raise RepdynError(
            f"intrinsic_dimension: distances have shape {distances.shape}; expected (points, neighbors)"
        )
    if not (distances[:, :1] >= 0).all() or not (np.diff(distances, axis=1) >= 0).all():
        raise RepdynError(
            "intrinsic_dimension: the rows must be distances to neighbors, 0 or more and ascending, without "
            "NaN; nearest_neighbors(x, k)[0] gives those of points x"
        )
    outer, inner = np.broadcast_to(distances[:, -1:], distances[:, :-1].shape), distances[:, :-1]
    apart = inner > 0
    ratios = np.zeros(inner.shape)
    ratios[apart] = np.log(outer[apart] / inner[apart])
    counted = apart.sum(axis=1)
    return np.where(counted > 0, ratios.sum(axis=1) / np.maximum(counted, 1), np.nan)


def dimension_of(inverse: Array) -> float:
    """The dimension of a set of points from :func:`inverse_dimension` of each; 1.0 without any estimate."""
    known = inverse[np.isfinite(inverse)]
    mean = float(known.mean()) if len(known) else 0.0
    return 1 / mean if mean > 0 else 1.0


def mixture_density(
    x: ArrayLike,
    components: tuple[int, ...] = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32),
    covariance: str = "full",
    seed: int = 0,
) -> Callable[[ArrayLike], Array]:
    r"""Gaussian mixture whose number of components has the largest held-out likelihood.

    .. math:: \log f(x) = \log \sum_c \pi_c \, \mathcal{N}(x; \mu_c, \Sigma_c)

    Numbers are tried in ascending order until two in succession do not improve the likelihood of the held-out
    fifth.

    Parameters
    ----------
    x
        Points, shape ``(N, D)``.
    components
        Numbers of components to try.
    covariance
        ``"full"``, ``"tied"``, ``"diag"`` or ``"spherical"``, as in scikit-learn.
    seed
        Same seed, same mixture.

    Returns
    -------
    callable
        Maps points ``(n, D)`` to log-densities ``(n,)``; give it as ``density`` to
        :meth:`LevelSetTree.fit`.

    Raises
    ------
    RepdynError
        On a wrong shape, a value that is not finite, or fewer than 5 points.
    """
    from sklearn.mixture import GaussianMixture  # imported here: heavy, and only mixtures need it

    points = as_points(x, "mixture_density")
    if len(points) < 5:
        raise RepdynError(f"mixture_density: {len(points)} points; at least 5 are needed to hold some out")
    # In units of the scale of the data, so that the result does not depend on units.
    center = points.mean(axis=0)
    size = float(np.abs(points - center).max()) or 1.0
    size *= float(np.sqrt(np.mean(((points - center) / size) ** 2))) or 1.0
    shift = points.shape[1] * np.log(size)
    points = (points - center) / size
    groups = groups_of_equal_rows(points)
    if int(groups.max()) + 1 < len(points):  # equal points stay on one side
        out = folds_by_group(groups, 5, np.random.default_rng(seed)) == 0
        held_out, used = np.flatnonzero(out), np.flatnonzero(~out)
        if not (len(held_out) and len(used)):
            held_out = used = np.arange(len(points))  # all points are equal
    else:
        shuffled = np.random.default_rng(seed).permutation(len(points))
        held_out, used = np.split(shuffled, [len(points) // 5])
    ridge = 1e-4

    def fitted(count: int, sample: Array) -> Any:
        """A mixture of this number of components."""
        return GaussianMixture(count, covariance_type=covariance, reg_covar=ridge, random_state=seed).fit(
            sample
        )

    import warnings

    best, best_score, worse = 1, -np.inf, 0
    with warnings.catch_warnings():
        # A mixture with too many components may not converge. Its held-out likelihood decides.
        warnings.simplefilter("ignore")
        for count in components:
            if count > len(np.unique(groups[used])) // 2:
                break
            score = float(fitted(count, points[used]).score(points[held_out]))
            if score > best_score:
                best, best_score, worse = count, score, 0
            else:
                worse += 1
            if worse == 2:
                break
        model = fitted(best, points)

    def log_density(points: ArrayLike) -> Array:
        """Log-density of points ``(n, D)``, shape ``(n,)``."""
        standard = (as_points(points, "mixture_density") - center) / size
        return np.asarray(model.score_samples(standard) - shift, dtype=np.float64)

    return log_density


def noise_persistence(points: int, neighbors: int) -> float:
    """Persistence of the highest spurious peak that noise alone gives a kNN log-density."""
    return float(np.sqrt(2 * np.log(points) * polygamma(1, neighbors))) if neighbors else 0.0


def values_of(
    density: str | Callable[[Array], ArrayLike] | ArrayLike,
    points: Array,
    graph: tuple[Array, Index, Index],
    groups: Index,
    seed: int,
) -> Array:
    """Log-density at every point ``(N,)``, from a name, a function or values.

    ``graph`` holds distances and indices of the neighbors ``(U, k)`` among different points, and their
    multiplicities ``(U,)``. ``groups`` holds the different point of each point ``(N,)``.
    """
    if isinstance(density, str):
        if density == "knn":
            distances, indices, count = graph
            if not distances.shape[1]:
                return np.zeros(len(points))
            return density_from_distances(distances, crowded=crowding(count, indices))[groups]
        if density == "mixture":
            return mixture_density(points, seed=seed)(points)
        raise RepdynError(
            f"LevelSetTree.fit: density={density!r}; expected 'knn', 'mixture', a function or an array"
        )
    given: Any = density(points) if callable(density) else density
    values = as_array(given, dtype=np.float64)
    if values.shape != (len(points),):
        raise RepdynError(
            f"LevelSetTree.fit: density has shape {values.shape}; "
            f"expected one log-density per point, ({len(points)},)"
        )
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values))[0])
        raise RepdynError(
            f"LevelSetTree.fit: density is not finite at point {row}; expected finite log-densities"
        )
    return values
