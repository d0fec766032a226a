"""Nodes of a level-set tree as geometry: centroids, masses, and inner products that need no basis."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

__all__ = ["Nodes", "centroids_of", "flattened_gram"]

Floats = NDArray[np.float64]
Index = NDArray[np.int64]

TREE_COMPONENTS = 32
"""Principal components the density lives in: neighbours in all of them are dominated by noise."""


@dataclass(frozen=True, eq=False)
class Nodes:
    """Leaves of a tree at some granularity, seen at every depth.

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
    def from_labels(cls, points: Sequence[NDArray[np.floating]], labels: Index) -> Nodes:
        """Centroids and masses of labelled points; labels 0 to n − 1, none empty."""
        counts = np.bincount(labels)
        indicator = np.zeros((len(counts), len(labels)), dtype=np.float32)
        indicator[labels, np.arange(len(labels))] = 1
        centroids = tuple(np.asarray(indicator @ x, dtype=np.float64) / counts[:, None] for x in points)
        return cls(counts / len(labels), centroids)

    def __len__(self) -> int:
        return len(self.mass)


def flattened_gram(mass: Floats, centroids: Floats, power: float, size: int) -> Floats:
    r"""Mass-weighted inner products of centroids, spectrum flattened, padded with zeros.

    .. math:: U \Sigma^{2p} U^\top / \lVert \Sigma^{2p} \rVert_F, \qquad
              U \Sigma V^\top = \mathrm{diag}(\sqrt m)\,(C - m^\top C)

    A power below 1 keeps the few leading directions from deciding the match alone.

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


def centroids_of(
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
        # Points on a line have two directions: fewer clusters than asked for will do.
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = KMeans(min(count, len(x)), n_init=1, max_iter=20, random_state=seed).fit(x)
    kept, labels = np.unique(found.labels_, return_inverse=True)
    return np.asarray(found.cluster_centers_[kept], dtype=np.float32), np.asarray(labels, dtype=np.int64)
