"""Other ways to translate between two models, each a function from clouds of points to a linear map.

Unpaired: Gromov-Wasserstein of POT, plain and fused; an aligner after mini-vec2vec (k-means centroids
assigned by their similarities, then neighbors); Wasserstein Procrustes with geometric initialization (k-means
centroids assigned by centered kernel alignment, then one-to-one matching and Procrustes in turn). The last
two are written here from their descriptions, at their authors' settings except where the text says otherwise.
Paired, for the ceiling and for few anchors: Procrustes, ridge, canonical correlation, relative
representations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans

from repdyn.translation import LinearTranslation, fit_orthogonal
from repdyn.translation.trees.assignment import quadratic_assignment

__all__ = [
    "by_mpopt",
    "by_relaxation",
    "center_kernels",
    "gromov_wasserstein",
    "kmeans_aligner",
    "wasserstein_procrustes",
]

Floats = NDArray[np.float64]
Index = NDArray[np.int64]

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

CENTERS, RESTARTS = 30, 30
"""Of the geometric initialization: centers of a clustering, and clusterings that are averaged."""

RELAXED, POLISHED = 400, 40
"""Starts of :func:`by_relaxation`, and how many of the best are polished."""

SOLVER_STEPS, SOLVER_GENERATIONS, SOLVER_LEAST, SOLVER_WINDOW, SOLVER_MOST = 100, 10, 0.1, 100, 1000
"""Of :func:`by_mpopt`: dual steps in a batch, greedy generations in a step, relative improvement over a
window of so many batches below which it ends, and most batches."""


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


def wasserstein_procrustes(
    x: Floats,
    y: Floats,
    seed: int,
    batch: int,
    rounds: int,
    pairs: Index | None = None,
    solve: Callable[[Floats, Floats, Floats, int], Index] | None = None,
) -> LinearTranslation:
    r"""Match points one to one and fit Procrustes, in turn, from matched centroids of k-means.

    .. math:: M = \frac1{SC} \sum_s A_s^\top P_s B_s, \qquad
              P_s = \arg\max_P \mathrm{CKA}(A_s, P B_s)

    is the start: the points are matched on :math:`x_i M y_j^\top`, after that on the map of the last round.

    Parameters
    ----------
    x, y
        Points ``(N, D_x)`` and ``(M, D_y)``.
    seed
        Of everything drawn.
    batch
        Points of either side in a clustering and in a round of matching, at most.
    rounds
        Rounds of matching and Procrustes after the first.
    pairs
        Rows ``(P, 2)`` of x and y that are the same input. They join the centers, as fixed ones, and every
        Procrustes fit, with the weight of all matched points.
    solve
        Quadratic assignment; default :func:`by_relaxation`.

    References
    ----------
    Schnaus, D. et al. (2026). Shared geometry as a Rosetta Stone. arXiv 2610.09411. Algorithms 1 and 2; its
    own settings are ``batch=10_000, rounds=100`` and :func:`by_mpopt`. Grave, E. et al. (2019). Unsupervised
    alignment of embeddings with Wasserstein Procrustes. AISTATS.
    """
    generator = np.random.default_rng(seed)
    mean_x, mean_y = x.mean(0), y.mean(0)
    u, v = (np.asarray(_unit(z - z.mean(0)), dtype=np.float32) for z in (x, y))
    known = np.zeros((0, 2), dtype=np.int64) if pairs is None else pairs
    known_u, known_v = u[known[:, 0]], v[known[:, 1]]
    moment = np.zeros((u.shape[1], v.shape[1]))
    for _ in range(RESTARTS):
        draws = generator.integers(2**31, size=3)
        centers = [
            KMeans(CENTERS, random_state=int(draw)).fit(_drawn(side, batch, generator)).cluster_centers_
            for side, draw in zip((u, v), draws)
        ]
        (one, one_known), (other, other_known) = (
            _centered_kernels(c, k) for c, k in zip(centers, (known_u, known_v))
        )
        linear = 2 * one_known @ other_known.T
        order = (solve or by_relaxation)(one, other, linear, int(draws[2]))
        moment += centers[0].T @ centers[1][order] / (RESTARTS * CENTERS)

    def fitted(left: Any, right: Any) -> Any:
        total = left.T @ right
        if len(known):
            total = total + len(left) / len(known) * known_u.T @ known_v
        return _procrustes_of(total)

    # The first matching covers all points, in random blocks; every further one is of a batch.
    shuffled_u, shuffled_v = (side[generator.permutation(len(side))] for side in (u, v))
    blocks = -(-max(len(u), len(v)) // batch)
    matched = [
        _matched(left, right, moment.astype(np.float32))
        for left, right in zip(np.array_split(shuffled_u, blocks), np.array_split(shuffled_v, blocks))
    ]
    m = fitted(*(np.concatenate(side) for side in zip(*matched)))
    for _ in range(rounds):
        m = fitted(*_matched(_drawn(u, batch, generator), _drawn(v, batch, generator), m))
    length = np.sqrt(((y - mean_y) ** 2).sum(1).mean() / ((x - mean_x) ** 2).sum(1).mean())
    return LinearTranslation(float(length) * m, mean_x, mean_y)


def by_relaxation(one: Floats, other: Floats, linear: Floats, seed: int) -> Index:
    """Quadratic assignment by :func:`quadratic_assignment`: node of the other kernel for each node of one."""
    found, _ = quadratic_assignment(one, other, linear, starts=RELAXED, polished=POLISHED, seed=seed)
    return found[0]


def by_mpopt(one: Floats, other: Floats, linear: Floats, seed: int) -> Index:
    """The same by MPOpt of ``pylibmgm``, which minimizes and wants negative costs of all pairs of matches.

    References
    ----------
    Hutschenreiter, L. et al. (2021). Fusion moves for graph matching. ICCV.
    """
    import ctypes

    import pylibmgm

    size = len(one)
    cost = -np.einsum("ik,jl->ijkl", one, other)
    cost -= cost.max() + 1
    unary = np.einsum("ijij->ij", cost) - linear - (float((-linear).max()) + 1)
    model = pylibmgm.GmModel(
        pylibmgm.Graph(0, size), pylibmgm.Graph(1, size), size**2, size**2 * (size**2 - 1) // 2
    )
    for i, j in np.ndindex(size, size):
        model.add_assignment(i, j, float(unary[i, j]))
    both = cost + cost.transpose(2, 3, 0, 1)
    for i, j, k, l in np.ndindex(both.shape):  # noqa: E741
        if i < k and j != l:
            model.add_edge(i, j, k, l, float(both[i, j, k, l]))
    # The solver draws with its own seed and with that of the C library.
    pylibmgm.QAPSolver.libmpopt_seed = seed
    ctypes.CDLL(None).srand(ctypes.c_uint(seed))
    solver = pylibmgm.QAPSolver(model)
    solver.run_settings.batch_size = SOLVER_STEPS
    solver.run_settings.greedy_generations = SOLVER_GENERATIONS
    solver.stopping_criteria.p = SOLVER_LEAST
    solver.stopping_criteria.k = SOLVER_WINDOW
    solver.stopping_criteria.max_batches = SOLVER_MOST
    return np.asarray(solver.run().labeling(), dtype=np.int64)


def center_kernels(x: Floats, y: Floats, seed: int) -> list[Floats]:
    """Centered kernels of the centers of one clustering of either side, what the solvers are given."""
    made = []
    for points in (x, y):
        centers = KMeans(CENTERS, random_state=seed).fit(_unit(points - points.mean(0))).cluster_centers_
        made.append(_centered_kernels(centers, centers[:0])[0])
    return made


def _centered_kernels(centers: Any, known: Any) -> tuple[Floats, Floats]:
    """Inner products of centers, and of centers with known points, about the mean of both."""
    mean = np.concatenate([centers, known]).mean(0)
    c = np.asarray(centers - mean, dtype=np.float64)
    return c @ c.T, c @ (known - mean).T


def _matched(left: Any, right: Any, m: Any) -> tuple[Any, Any]:
    """The points that are matched one to one by their inner products under a map."""
    rows, columns = linear_sum_assignment(left @ m @ right.T, maximize=True)
    return left[rows], right[columns]


def _drawn(points: Any, most: int, generator: np.random.Generator) -> Any:
    return points if len(points) <= most else points[generator.permutation(len(points))[:most]]


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
    return _procrustes_of(x.T @ y)


def _procrustes_of(moment: Any) -> Any:
    left, _, right = np.linalg.svd(moment, full_matrices=False)
    return left @ right


def _unit(x: Any) -> Floats:
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12))
