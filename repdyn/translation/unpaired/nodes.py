"""Nodes of a density tree or of k-means as geometry: centroids, masses, and inner products."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from repdyn.translation.coordinates import label_means

__all__ = ["GeometricNodes", "flattened_gram", "kmeans_centroids"]

Floats = NDArray[np.float64]
Index = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class GeometricNodes:
    """Nodes of one depth, with centroids at every depth.

    Attributes
    ----------
    mass
        Fraction of the points in each node, shape ``(n,)``.
    centroids
        Per depth, ``(n, D)``, in principal coordinates.
    """

    mass: Floats
    centroids: tuple[Floats, ...]

    @classmethod
    def from_labels(cls, points: Sequence[NDArray[np.floating]], labels: Index) -> GeometricNodes:
        """Centroids and masses of labelled points; labels 0 to n − 1, none empty."""
        return cls(np.bincount(labels) / len(labels), tuple(label_means(x, labels) for x in points))

    def __len__(self) -> int:
        return len(self.mass)


def flattened_gram(mass: Floats, centroids: Floats, power: float, size: int) -> Floats:
    r"""Mass-weighted inner products of centroids, spectrum flattened, padded with zeros.

    .. math:: U \Sigma^{2p} U^\top / \lVert \Sigma^{2p} \rVert_F, \qquad
              U \Sigma V^\top = \mathrm{diag}(\sqrt m)\,(C - m^\top C)

    With a power below 1, the few leading directions do not determine the match alone.

    Parameters
    ----------
    mass, centroids
        Shapes ``(n,)`` and ``(n, D)``.
    power
        p.
    size
        Rows and columns of the result, n or more.
    """
    left, values, _ = np.linalg.svd(
        np.sqrt(mass)[:, None] * (centroids - mass @ centroids), full_matrices=False
    )
    values = np.where(values > 1e-6 * max(values.max(), 1e-30), values, 0.0)
    flat = np.where(values > 0, values, 1.0) ** power * (values > 0)
    norm = float(np.sqrt((flat**4).sum()))
    half = np.zeros((size, len(flat)))
    half[: len(mass)] = left * flat / np.sqrt(max(norm, 1e-30))
    return np.asarray(half @ half.T)


def kmeans_centroids(
    x: NDArray[np.floating], count: int, generator: np.random.Generator
) -> tuple[NDArray[np.float32], Index]:
    """Centroids of a k-means clustering from one random start, and the cluster of each row, none empty.

    Parameters
    ----------
    x
        Points, ``(N, D)``.
    count
        Clusters; fewer where points or directions are fewer.
    generator
        Of the start.
    """
    seed = int(generator.integers(2**31))
    with warnings.catch_warnings():
        # Few distinct directions give fewer clusters than requested, which is accepted.
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = KMeans(min(count, len(x)), n_init=1, max_iter=20, random_state=seed).fit(x)
    kept, labels = np.unique(found.labels_, return_inverse=True)
    return np.asarray(found.cluster_centers_[kept], dtype=np.float32), np.asarray(labels, dtype=np.int64)
