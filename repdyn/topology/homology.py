"""Vietoris-Rips persistence of one set of points, and of what it is compared with: arrays in, arrays out."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repdyn.errors import RepdynError
from repdyn.topology.landmarks import farthest_points
from repdyn.topology.neighbors import as_points

__all__ = ["betti_curve", "bottleneck_distance", "gaussian_twin", "shuffled_twin", "vietoris_rips"]

Array = NDArray[np.float64]


def vietoris_rips(
    x: ArrayLike, max_dim: int = 1, landmarks: int = 200, start: int = 0
) -> tuple[tuple[Array, ...], float, float]:
    r"""Persistent homology of the balls around points as they grow, free of the data's scale.

    Parameters
    ----------
    x
        Points, shape ``(N, D)``.
    max_dim
        Highest homology dimension.
    landmarks
        Above this number of points, the farthest-point landmarks stand in for them.
    start
        First landmark.

    Returns
    -------
    diagrams
        For each dimension, births and deaths ``(n, 2)`` divided by the scale. The one component that
        never dies tells nothing and is left out (reduced homology), so all are finite.
    radius
        Covering radius of the landmarks divided by the scale; 0 where every point is one. The diagrams
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
    """What :func:`vietoris_rips` gives, with the landmarks' numbers, and the radius in the data's units."""
    from ripser import ripser  # imported here: compiled, and only persistence needs it
    from scipy.spatial.distance import pdist, squareform

    points = as_points(x, "persistence")
    if max_dim < 0 or landmarks < 1:
        raise RepdynError(
            f"persistence: max_dim={max_dim}, landmarks={landmarks}; expected max_dim ≥ 0, landmarks ≥ 1"
        )
    chosen, radius = farthest_points(points, landmarks, start)
    distances = squareform(pdist(points[chosen]))
    scale = float(distances.max(initial=0.0))
    if scale == 0:  # one place: nothing is born, nothing dies
        return tuple(np.empty((0, 2)) for _ in range(max_dim + 1)), chosen, radius, 0.0
    found = ripser(distances / scale, maxdim=max_dim, distance_matrix=True)["dgms"]
    diagrams = tuple(np.asarray(d[np.isfinite(d[:, 1])], dtype=np.float64).reshape(-1, 2) for d in found)
    return diagrams, chosen, radius, scale


def betti_curve(diagram: Array, grid: Array) -> NDArray[np.int64]:
    """Count the features alive at each value of a grid ``(G,)``: born at it or before, not yet dead."""
    born = np.searchsorted(np.sort(diagram[:, 0]), grid, side="right")
    dead = np.searchsorted(np.sort(diagram[:, 1]), grid, side="right")
    return (born - dead).astype(np.int64)


def bottleneck_distance(one: Array, other: Array) -> float:
    """Largest move in the best matching of two diagrams ``(n, 2)``, where features may go to the diagonal."""
    from gudhi import bottleneck_distance as compute  # imported here: compiled, and only comparisons need it

    return float(compute(one, other))


def shuffled_twin(points: Array, generator: np.random.Generator) -> Array:
    """Points with every column shuffled by itself: the same marginals, no shape between them."""
    return generator.permuted(points, axis=0)


def gaussian_twin(points: Array, generator: np.random.Generator) -> Array:
    """Gaussian points of the same number, mean and covariance."""
    centred = points - points.mean(axis=0)
    _, singular, axes = np.linalg.svd(centred, full_matrices=False)
    drawn = generator.normal(size=(len(points), len(singular)))
    return np.asarray(points.mean(axis=0) + drawn * (singular / np.sqrt(len(points))) @ axes)
