"""Other ways to translate between two models, each a function from clouds of points to a linear map.

Unpaired: Gromov-Wasserstein of POT, plain and fused, and an aligner after mini-vec2vec (k-means centroids
assigned by their similarities, then mutual neighbours), written here from its description. Paired, for the
ceiling and for few anchors: Procrustes, ridge, canonical correlation, relative representations.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from repdyn.translation import LinearTranslation, fit_orthogonal
from repdyn.translation.assignment import quadratic_assignment

__all__ = ["gromov_wasserstein", "kmeans_aligner"]

Floats = NDArray[np.float64]

MATCHED = 1000
"""Points of each side in the plain coupling, which takes their square in memory and their cube in time."""

FEATURES = 16
"""Sorted similarities to nearest points, what the fused variant knows of a point without a basis."""

CLUSTERS, ROUNDS, NEIGHBORS = 20, 10, 50
"""Of the aligner: k-means clusters, repetitions that are averaged, and neighbours in the refinement."""


def gromov_wasserstein(x: Floats, y: Floats, fused: bool, seed: int) -> LinearTranslation:
    """Couple subsamples by their similarities, then Procrustes on the barycentric projection."""
    import ot

    generator = np.random.default_rng(seed)
    a, b = (v[generator.permutation(len(v))[:MATCHED]] for v in (x, y))
    u, v = (_unit(side - side.mean(0)) for side in (a, b))
    one, other = 1 - u @ u.T, 1 - v @ v.T
    weights = np.full(len(a), 1 / len(a)), np.full(len(b), 1 / len(b))
    if fused:
        features = [np.sort(d, axis=1)[:, 1 : FEATURES + 1] for d in (one, other)]
        cost = ot.dist(*features)
        plan = ot.gromov.fused_gromov_wasserstein(cost / cost.mean(), one, other, *weights, alpha=0.5)
    else:
        plan = ot.gromov.gromov_wasserstein(one, other, *weights)
    plan = np.asarray(plan)
    return fit_orthogonal(a, (plan @ b) / np.maximum(plan.sum(1, keepdims=True), 1e-12))


def kmeans_aligner(x: Floats, y: Floats, seed: int) -> LinearTranslation:
    """Assign centroids by their similarities in several clusterings, average, refine by neighbours.

    References
    ----------
    Dar, G. (2025). mini-vec2vec: scaling universal geometry alignment with linear transformations.
    arXiv 2510.02348.
    """
    generator = np.random.default_rng(seed)
    mean_x, mean_y = x.mean(0), y.mean(0)
    u, v = _unit(x - mean_x), _unit(y - mean_y)
    described: list[list[Floats]] = [[], []]
    for _ in range(ROUNDS):
        draw = int(generator.integers(2**31))
        centres = [
            KMeans(CLUSTERS, n_init=1, random_state=draw).fit(side[:5000]).cluster_centers_ for side in (u, v)
        ]
        grams = [_unit(c) @ _unit(c).T for c in centres]
        found, _ = quadratic_assignment(*grams, starts=30, polished=1, seed=draw)
        for kept, points, c in zip(described, (u, v), (centres[0], centres[1][found[0]])):
            kept.append(points @ _unit(c).T)
    # Each point is known by its similarities with the matched centroids of all rounds.
    here, there = (_unit(np.concatenate(kept, axis=1)) for kept in described)
    m = _procrustes(u, _mean_of_nearest(here, there, v))
    for _ in range(3):
        m = _procrustes(u, _mean_of_nearest(u @ m, v, v))
    length = np.sqrt(((y - mean_y) ** 2).sum(1).mean() / ((x - mean_x) ** 2).sum(1).mean())
    return LinearTranslation(float(length) * m, mean_x, mean_y)


def _mean_of_nearest(points: Floats, among: Floats, values: Floats) -> Floats:
    """For each point the mean value of its nearest, in blocks."""
    made = np.empty((len(points), values.shape[1]))
    for start in range(0, len(points), 2000):
        similarity = points[start : start + 2000] @ among.T
        nearest = np.argpartition(-similarity, NEIGHBORS, axis=1)[:, :NEIGHBORS]
        made[start : start + 2000] = values[nearest].mean(1)
    return made


def _procrustes(x: Floats, y: Floats) -> Floats:
    left, _, right = np.linalg.svd(x.T @ y, full_matrices=False)
    return np.asarray(left @ right)


def _unit(x: Any) -> Floats:
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12))
