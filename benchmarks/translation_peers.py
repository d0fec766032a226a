"""Other ways to translate between two models, each a function from clouds of points to a linear map.

Unpaired: Gromov-Wasserstein of POT, plain and fused, and an aligner after mini-vec2vec (k-means centroids
assigned by their similarities, then neighbors), written here from its description, at its author's settings.
Paired, for the ceiling and for few anchors: Procrustes, ridge, canonical correlation, relative
representations.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from repdyn.translation import LinearTranslation, fit_orthogonal
from repdyn.translation.trees.assignment import quadratic_assignment

__all__ = ["gromov_wasserstein", "kmeans_aligner"]

Floats = NDArray[np.float64]

MATCHED = 1000
"""Points of each side in the coupling, which takes their square in memory and their cube in time: 1 500 take
up to a minute."""

FEATURES = 16
"""Sorted similarities to nearest points, what the fused variant knows of a point without a basis."""

ROUNDS, CLUSTERS, CLUSTERED, STARTS = 30, 20, 10_000, 30
"""Of the aligner's anchors, as its author runs it: repetitions, k-means clusters in each, points they are
grown on, and starts of the assignment."""

NEIGHBORS, STEPS, DRAWN = 50, 100, 1000
"""Of its refinement: neighbors whose mean is a point's counterpart, steps, and points drawn for each."""

FINE, STEP = 500, 0.5
"""Clusters of its last step, and the weight of a new map beside the old one in all steps."""


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
    """Assign centroids by their similarities in many clusterings, refine by neighbors, then by clusters.

    References
    ----------
    Dar, G. (2025). mini-vec2vec: scaling universal geometry alignment with linear transformations.
    arXiv 2510.02348. Algorithms 1 to 4; the numbers are those of its author's notebook.
    """
    generator = np.random.default_rng(seed)
    mean_x, mean_y = x.mean(0), y.mean(0)
    u, v = (np.asarray(_unit(z - z.mean(0)), dtype=np.float32) for z in (x, y))
    described: list[list[Any]] = [[], []]
    for _ in range(ROUNDS):
        draw = int(generator.integers(2**31))
        centers = [_centers(side[generator.permutation(len(side))[:CLUSTERED]], draw) for side in (u, v)]
        centered = [c - c.mean(0) for c in centers]
        found, _ = quadratic_assignment(*(c @ c.T for c in centered), starts=STARTS, polished=1, seed=draw)
        for kept, points, c in zip(described, (u, v), (centers[0], centers[1][found[0]])):
            kept.append(points @ _unit(c).T.astype(np.float32))
    # Each point is known by its similarities with the matched centroids of all rounds.
    here, there = (_unit(np.concatenate(kept, axis=1)).astype(np.float32) for kept in described)
    m = _procrustes(u, _mean_of_nearest(here, there, v))
    for _ in range(STEPS):
        some = u[generator.permutation(len(u))[:DRAWN]]
        m = (1 - STEP) * m + STEP * _procrustes(some, _mean_of_nearest(_unit(some @ m), v, v))
    fine = min(FINE, len(u), len(v))
    coarse = KMeans(fine, n_init=1, random_state=seed).fit(u).cluster_centers_
    moved = KMeans(fine, n_init=1, init=coarse @ m).fit(v).cluster_centers_
    m = (1 - STEP) * m + STEP * _procrustes(coarse, moved)
    length = np.sqrt(((y - mean_y) ** 2).sum(1).mean() / ((x - mean_x) ** 2).sum(1).mean())
    return LinearTranslation(float(length) * m, mean_x, mean_y)


def _centers(points: Any, seed: int) -> Any:
    return KMeans(CLUSTERS, n_init=1, random_state=seed).fit(points).cluster_centers_


def _mean_of_nearest(points: Any, among: Any, values: Any) -> Any:
    """For each point the mean value of its nearest, in blocks."""
    made = np.empty((len(points), values.shape[1]), dtype=np.float32)
    for start in range(0, len(points), 2000):
        similarity = points[start : start + 2000] @ among.T
        nearest = np.argpartition(-similarity, NEIGHBORS, axis=1)[:, :NEIGHBORS]
        made[start : start + 2000] = values[nearest].mean(1)
    return made


def _procrustes(x: Any, y: Any) -> Any:
    left, _, right = np.linalg.svd(x.T @ y, full_matrices=False)
    return left @ right


def _unit(x: Any) -> Floats:
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12))
