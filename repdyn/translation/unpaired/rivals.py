"""Rivals of a map: maps from other starts that may fit as well, and comparisons on other compositions.

:func:`rivals` refines maps from other starts. :func:`across_compositions` compares a map with them on samples
that lack clusters. Both are tests of a translation in addition to replication.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from repdyn.translation.coordinates import unit_rows
from repdyn.translation.unpaired.nodes import kmeans_centroids
from repdyn.translation.unpaired.proposals import padded, partial_procrustes
from repdyn.translation.unpaired.refine import (
    final_refinement,
    fit_without_pairs,
    joint_similarity,
    nearest_orthogonal,
    refine,
    retrieval,
)

__all__ = [
    "Composition",
    "CompositionSettings",
    "Rival",
    "RivalSettings",
    "across_compositions",
    "excess_distance",
    "rivals",
]

Floats = NDArray[np.float64]
Rows = NDArray[np.float32]
Index = NDArray[np.int64]


MINOR = "minor axes"  # start of rivals with random rotations of the axes of small variance


@dataclass(frozen=True)
class RivalSettings:
    """How rivals are started and compared (benchmarks/verdicts.py).

    Attributes
    ----------
    clusters
        Numbers of clusters whose matchings are permuted.
    matchings
        Permutations tried for each number of clusters, those whose centroids fit best first.
    axes
        Leading principal axes that are reflected, and exchanged with the next one.
    random
        Random rotations.
    major
        Shares of B's variance: the leading axes with this share are kept, all others are rotated at random.
        Clusters may determine the former and not the latter.
    turns
        Random rotations for each share.
    screening_steps, screening_batch
        Steps and points of either side of the short refinement of every start.
    polished, polishing_steps, batch
        Number of best-fitting different maps that are refined further, with steps and points of either side.
    minor
        Number of best-fitting maps with rotated minor axes that are refined further, different or not.
    scored
        Points of either side on which a fit is measured.
    different
        Retrieval between two maps below which they are different.
    neighborhoods
        Clusters of B by which two maps are compared.
    clustered
        Points of either side that are clustered.
    """

    clusters: tuple[int, ...] = (4, 7, 10)
    matchings: int = 8
    axes: int = 10
    random: int = 4
    major: tuple[float, ...] = (0.5, 0.75, 0.9)
    turns: int = 2
    screening_steps: int = 6
    screening_batch: int = 500
    polished: int = 6
    minor: int = 2
    polishing_steps: int = 10
    batch: int = 1000
    scored: int = 1000
    different: float = 0.5
    neighborhoods: int = 12
    clustered: int = 1500


RIVALS = RivalSettings()


@dataclass(frozen=True, eq=False)
class Rival:
    """A map found from another start.

    Attributes
    ----------
    maps
        One ``(D_a, D_b)`` per depth.
    excess
        Its :func:`excess_distance` at the last depth.
    agreement
        Retrieval between its translations and those of the map that it is compared with.
    same_cluster
        Share of points that both send to the same cluster of B.
    start
        How the start differs from the map.
    """

    maps: list[Rows]
    excess: float
    agreement: float
    same_cluster: float
    start: str


def excess_distance(a: Rows, b: Rows, m: Rows, count: int) -> tuple[float, float]:
    r"""Distance of translated points from real ones, relative to distances among real ones.

    .. math:: \rho_{AB} = \frac{\mathrm{mean}_i \min_j\, 1 - \cos(x_i Q, y_j)}
                               {\mathrm{mean}_i \min_j\, 1 - \cos(y'_i, y_j)}

    with equally many points in both means, and :math:`\rho_{BA}` the same from the other side. It is 1 where
    translated points have the distribution of real ones, and larger where the distributions differ.

    Parameters
    ----------
    a, b
        Points in principal coordinates, ``(N_a, D_a)`` and ``(N_b, D_b)``, in random order.
    m
        The map, ``(D_a, D_b)``.
    count
        Points of either side at most.

    Returns
    -------
    float, float
        From A to B, from B to A.
    """
    n = min(count, len(a) // 2, len(b) // 2)
    across = unit_rows(a[:n] @ m) @ unit_rows(b[:n]).T
    own_a = unit_rows(a[n : 2 * n]) @ unit_rows(a[:n]).T
    own_b = unit_rows(b[n : 2 * n]) @ unit_rows(b[:n]).T
    tiny = 1e-12
    forward = (1 - across.max(1).mean() + tiny) / (1 - own_b.max(1).mean() + tiny)
    backward = (1 - across.max(0).mean() + tiny) / (1 - own_a.max(1).mean() + tiny)
    return float(forward), float(backward)


def rivals(
    a: Sequence[Rows],
    b: Sequence[Rows],
    maps: Sequence[Rows],
    seed: int,
    settings: RivalSettings = RIVALS,
    others: Sequence[Sequence[Rows]] = (),
    fixed: tuple[Index, Index] | None = None,
) -> tuple[Rival, list[Rival]]:
    """The map itself, refined like its rivals, and other maps that fit, best first.

    Parameters
    ----------
    a, b
        Points in principal coordinates per depth, ``(N_a, D_a)`` and ``(N_b, D_b)``, in random order.
    maps
        One ``(D_a, D_b)`` per depth.
    seed
        Of everything drawn.
    settings
        See :class:`RivalSettings`.
    others
        Other maps that are used as starts too.
    fixed
        Rows of a and of b that are pairs.

    Returns
    -------
    Rival
        The map itself.
    list of Rival
        Some may be the same map again, with an ``agreement`` near 1.
    """
    generator = np.random.default_rng(seed)
    starts = [("search", list(other)) for other in others] + _starts(a, b, maps, generator, settings)
    rank = min(64, max(x.shape[1] for x in (*a, *b)))
    screened = []
    for name, start in starts:
        steps = [min(32, rank)] * settings.screening_steps
        got = refine(a, b, start, steps, settings.screening_batch, int(generator.integers(2**31)), fixed)
        left, right = ([x[: settings.screening_batch] for x in side] for side in (a, b))
        screened.append((fit_without_pairs(joint_similarity(left, right, got)), name, got))
    probes = a[-1][:500]
    best = unit_rows(probes @ maps[-1])
    centroids = unit_rows(
        kmeans_centroids(unit_rows(b[-1][: settings.clustered]), settings.neighborhoods, generator)[0]
    )
    screened.sort(key=lambda held: -held[0])
    own = _rival(a, b, maps, best, "itself", generator, settings, fixed, centroids)
    found: list[Rival] = []
    seen: list[Rows] = []
    minor = 0
    for _, name, got in screened:
        moved = unit_rows(probes @ got[-1])
        same = max(retrieval(moved, other) for other in (best, *seen))
        if same < settings.different and len(found) - minor < settings.polished:
            seen.append(moved)
        elif name == MINOR and minor < settings.minor:
            minor += 1
        else:
            continue
        polished = refine(
            a,
            b,
            got,
            [rank] * settings.polishing_steps,
            settings.batch,
            int(generator.integers(2**31)),
            fixed,
        )
        found.append(_rival(a, b, polished, best, name, generator, settings, fixed, centroids))
    return own, sorted(found, key=lambda rival: rival.excess)


def _rival(
    a: Sequence[Rows],
    b: Sequence[Rows],
    maps: Sequence[Rows],
    best: Rows,
    name: str,
    generator: np.random.Generator,
    settings: RivalSettings,
    fixed: tuple[Index, Index] | None,
    centroids: Rows,
) -> Rival:
    """Refine maps and compare them with the best map, by its unit translations ``(n, D_b)`` of probes."""
    seed = int(generator.integers(2**31))
    refined = final_refinement(a, b, maps, 2, batch=2 * settings.batch, seed=seed, fixed=fixed)
    excess = excess_distance(a[-1], b[-1], refined[-1], settings.scored)
    moved = unit_rows(a[-1][: len(best)] @ refined[-1])
    same = float(((moved @ centroids.T).argmax(1) == (best @ centroids.T).argmax(1)).mean())
    return Rival(refined, float(np.sqrt(excess[0] * excess[1])), retrieval(moved, best), same, name)


def _starts(
    a: Sequence[Rows],
    b: Sequence[Rows],
    maps: Sequence[Rows],
    generator: np.random.Generator,
    settings: RivalSettings,
) -> list[tuple[str, list[Rows]]]:
    """Maps that differ from the given one by an exchange of clusters, a reflection, or a rotation of axes."""
    made: list[tuple[str, list[Rows]]] = []
    for count in settings.clusters:
        rematched = _rematched(a, b, maps, count, generator, settings)
        made += [(f"{count} clusters", permuted) for permuted in rematched]
    narrow = min(a[-1].shape[1], b[-1].shape[1])
    for axis in range(min(settings.axes, narrow)):
        signs = np.ones(b[-1].shape[1], dtype=np.float32)
        signs[axis] = -1
        made.append(("reflection", _at_last(maps, maps[-1] * signs)))
        if axis + 1 < narrow:
            order = np.arange(b[-1].shape[1])
            order[[axis, axis + 1]] = axis + 1, axis
            made.append(("exchange", _at_last(maps, maps[-1][:, order])))
    held = np.cumsum((b[-1] ** 2).sum(0))
    for share in settings.major:
        kept = int(np.searchsorted(held, share * held[-1])) + 1
        for _ in range(settings.turns if narrow - kept > 1 else 0):
            part = np.eye(b[-1].shape[1], dtype=np.float32)
            part[kept:, kept:] = nearest_orthogonal(generator.normal(size=(len(part) - kept,) * 2))
            made.append((MINOR, _at_last(maps, maps[-1] @ part)))
    for _ in range(settings.random):
        turn = nearest_orthogonal(generator.normal(size=(b[-1].shape[1],) * 2))
        made.append(("random", _at_last(maps, maps[-1] @ turn)))
    return made


def _at_last(maps: Sequence[Rows], last: Rows) -> list[Rows]:
    """A start with a map at the last depth only; other depths are fitted to its matches."""
    return [*(np.zeros_like(m) for m in maps[:-1]), np.asarray(last, dtype=np.float32)]


def _rematched(
    a: Sequence[Rows],
    b: Sequence[Rows],
    maps: Sequence[Rows],
    count: int,
    generator: np.random.Generator,
    settings: RivalSettings,
) -> list[list[Rows]]:
    """Maps that match clusters of A to other clusters of B than the given map does."""
    points, others = unit_rows(a[-1][: settings.clustered] @ maps[-1]), unit_rows(b[-1][: settings.clustered])
    centroids, labels = kmeans_centroids(points, count, generator)
    nearest = (others @ unit_rows(centroids).T).argmax(1)
    kept = [k for k in range(count) if (labels == k).sum() > 5 and (nearest == k).sum() > 5]
    if len(kept) < 2:
        return []
    of_a = np.stack([a[-1][: settings.clustered][labels == k].mean(0) for k in kept])
    of_b = np.stack([b[-1][: settings.clustered][nearest == k].mean(0) for k in kept])
    mass = np.array([np.sqrt((labels == k).mean() * (nearest == k).mean()) for k in kept])
    gram_a, gram_b = of_a @ of_a.T, of_b @ of_b.T
    size = len(kept)
    if size <= 5:
        orders = [np.array(order) for order in permutations(range(size))][1:]
    else:
        orders = [generator.permutation(size) for _ in range(300)]
        for i in range(size):
            for j in range(i):
                order = np.arange(size)
                order[[i, j]] = j, i
                orders.append(order)
    value = [float((gram_a * gram_b[np.ix_(o, o)] * np.outer(mass, mass)).sum()) for o in orders]
    best = np.argsort(value)[::-1][: settings.matchings]
    made = []
    for k in best:
        moment = (of_a * mass[:, None]).T @ of_b[orders[k]]
        small = partial_procrustes(moment, size)
        made.append(_at_last(maps, padded(small, *maps[-1].shape)))
    return made


@dataclass(frozen=True)
class CompositionSettings:
    """How samples of other cluster compositions are drawn (benchmarks/verdicts.py).

    Attributes
    ----------
    clusters
        Clusters of k-means on either side, at the last depth.
    kept
        Share of the clusters that a sample keeps; either side is drawn independently.
    refits
        Samples on which the map is refined again, starting from itself.
    steps, batch
        Steps and points of either side of every such refinement.
    bootstraps
        Bootstrap samples of clusters in which the map is compared with its rivals.
    scored
        Points of either side on which the distances are measured.
    """

    clusters: int = 16
    kept: float = 0.7
    refits: int = 4
    steps: int = 8
    batch: int = 1000
    bootstraps: int = 400
    scored: int = 1500


COMPOSITION = CompositionSettings()


@dataclass(frozen=True)
class Composition:
    """Stability and lead of a map on samples of other cluster compositions.

    Attributes
    ----------
    stability
        Retrieval between the translations of the map and of its fits on samples of other compositions,
        mean over these.
    lead
        Margin of the best different map over its standard error, by a bootstrap of clusters on both sides;
        infinite where no map is different.
    """

    stability: float
    lead: float


def across_compositions(
    a: Sequence[Rows],
    b: Sequence[Rows],
    own: Rival,
    different: Sequence[Rival],
    seed: int,
    fixed: tuple[Index, Index] | None = None,
    settings: CompositionSettings = COMPOSITION,
) -> Composition:
    """Refine on samples that lack clusters, and compare with rivals under a bootstrap of clusters.

    Parameters
    ----------
    a, b
        Points in principal coordinates per depth, ``(N_a, D_a)`` and ``(N_b, D_b)``, in random order.
    own
        The map.
    different
        Rivals that translate items or clusters differently.
    seed
        Of everything drawn.
    fixed
        Rows of a and of b that are pairs; they are kept in every sample.
    settings
        See :class:`CompositionSettings`.
    """
    generator = np.random.default_rng(seed)
    labels = [kmeans_centroids(unit_rows(side[-1]), settings.clusters, generator)[1] for side in (a, b)]
    probes = a[-1][:500]
    moved = unit_rows(probes @ own.maps[-1])
    rank = min(64, max(x.shape[1] for x in (*a, *b)))
    agreements = []
    for _ in range(settings.refits):
        rows = [
            _kept_rows(of, settings.kept, None if fixed is None else fixed[end], generator)
            for end, of in enumerate(labels)
        ]
        pairs = None
        if fixed is not None:
            pairs = (np.searchsorted(rows[0], fixed[0]), np.searchsorted(rows[1], fixed[1]))
        again = refine(
            [x[rows[0]] for x in a],
            [y[rows[1]] for y in b],
            own.maps,
            [rank] * settings.steps,
            settings.batch,
            int(generator.integers(2**31)),
            pairs,
        )
        agreements.append(retrieval(unit_rows(probes @ again[-1]), moved))
    lead = _lead(a, b, labels, own, different, generator, settings)
    return Composition(float(np.mean(agreements)), lead)


def _lead(
    a: Sequence[Rows],
    b: Sequence[Rows],
    labels: Sequence[Index],
    own: Rival,
    different: Sequence[Rival],
    generator: np.random.Generator,
    settings: CompositionSettings,
) -> float:
    r"""Least of the rivals' mean over standard error of :math:`\log\rho_k - \log\rho`.

    The denominator of the excess distance does not depend on the map, and cancels.
    """
    n = min(settings.scored, len(a[-1]), len(b[-1]))
    weights = [
        np.stack([_cluster_weights(of[:n], generator) for _ in range(settings.bootstraps)]) for of in labels
    ]
    logs = [_log_distances(a[-1][:n], b[-1][:n], rival.maps[-1], weights) for rival in (own, *different)]
    leads = [float((log - logs[0]).mean() / max(float((log - logs[0]).std()), 1e-12)) for log in logs[1:]]
    return min(leads, default=float("inf"))


def _log_distances(a: Rows, b: Rows, m: Rows, weights: Sequence[Floats]) -> Floats:
    """Logarithm of the mean distance to the nearest, both ways, one per bootstrap sample."""
    across = unit_rows(a @ m) @ unit_rows(b).T
    nearest = [1 - across.max(1) + 1e-12, 1 - across.max(0) + 1e-12]
    return np.asarray(sum(np.log(w @ d / w.sum(1)) for w, d in zip(weights, nearest)) / 2)


def _cluster_weights(labels: Index, generator: np.random.Generator) -> Floats:
    """How often each row is drawn where clusters are drawn with replacement."""
    count = int(labels.max()) + 1
    return np.bincount(generator.integers(count, size=count), minlength=count)[labels].astype(np.float64)


def _kept_rows(labels: Index, share: float, always: Index | None, generator: np.random.Generator) -> Index:
    """Rows of a random share of the clusters, sorted; some rows always."""
    count = int(labels.max()) + 1
    kept = generator.permutation(count)[: max(1, round(share * count))]
    rows = np.flatnonzero(np.isin(labels, kept))
    return rows if always is None else np.union1d(rows, always)
