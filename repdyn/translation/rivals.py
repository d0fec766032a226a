"""Other maps that may fit as well: the second test of a translation, beside replication."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from repdyn.translation.coordinates import unit_rows
from repdyn.translation.nodes import centroids_of
from repdyn.translation.proposals import padded, partial_procrustes
from repdyn.translation.refine import (
    fit_without_pairs,
    joint_similarity,
    nearest_orthogonal,
    refine,
    retrieval,
    settle,
)

__all__ = ["Rival", "RivalSettings", "excess_distance", "rivals"]

Rows = NDArray[np.float32]
Index = NDArray[np.int64]


MINOR = "minor axes"
"""Start of the rivals that tell whether the axes that hold little variance are settled."""

CLUSTERED = 1500
"""Points of either side that are clustered."""


@dataclass(frozen=True)
class RivalSettings:
    """How other maps are sought and compared.

    Attributes
    ----------
    clusters
        Numbers of clusters whose matchings are permuted.
    matchings
        Permutations tried for each number of clusters, those whose centroids fit best first.
    axes
        Leading principal axes that are reflected, and exchanged with their neighbor.
    random
        Random rotations.
    major
        Shares of B's variance: the leading axes that hold so much are kept, all others turned at random.
        Clusters may settle the former and nothing the latter.
    turns
        Random turns for each.
    screening_steps, screening_batch
        How every start is refined shortly.
    polished, polishing_steps, batch
        Those that fit best and are different are refined with so many steps on so many points of either side.
    minor
        Those of turned minor axes that fit best are refined too, different or not.
    scored
        Points of either side on which a fit is measured.
    different
        Retrieval between two maps below which they are different.
    neighborhoods
        Clusters of B by which two maps are compared.
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


DEFAULT = RivalSettings()


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
        What the map was varied by.
    """

    maps: list[Rows]
    excess: float
    agreement: float
    same_cluster: float
    start: str


def excess_distance(a: Rows, b: Rows, m: Rows, count: int) -> tuple[float, float]:
    r"""How much farther translated points lie from real ones than real ones lie from each other.

    .. math:: \rho_{AB} = \frac{\mathrm{mean}_i \min_j\, 1 - \cos(x_i Q, y_j)}
                               {\mathrm{mean}_i \min_j\, 1 - \cos(y'_i, y_j)}

    with equally many points in both means, and :math:`\rho_{BA}` the same from the other side. It is 1 where
    translated points have the distribution of real ones, and grows where they lie beside it.

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
    settings: RivalSettings = DEFAULT,
    others: Sequence[Sequence[Rows]] = (),
    fixed: tuple[Index, Index] | None = None,
) -> tuple[Rival, list[Rival]]:
    """The map itself, polished like its rivals, and other maps that fit, best first.

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
        Maps found elsewhere, which are starts as well.
    fixed
        Rows of a and of b that are pairs.

    Returns
    -------
    Rival
        The map itself.
    list of Rival
        Some may be the same map again: ``agreement`` tells.
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
    centroids = unit_rows(centroids_of(unit_rows(b[-1][:CLUSTERED]), settings.neighborhoods, generator)[0])
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
    seed = int(generator.integers(2**31))
    settled = settle(a, b, maps, 2, batch=2 * settings.batch, seed=seed, fixed=fixed)
    excess = excess_distance(a[-1], b[-1], settled[-1], settings.scored)
    moved = unit_rows(a[-1][: len(best)] @ settled[-1])
    same = float(((moved @ centroids.T).argmax(1) == (best @ centroids.T).argmax(1)).mean())
    return Rival(settled, float(np.sqrt(excess[0] * excess[1])), retrieval(moved, best), same, name)


def _starts(
    a: Sequence[Rows],
    b: Sequence[Rows],
    maps: Sequence[Rows],
    generator: np.random.Generator,
    settings: RivalSettings,
) -> list[tuple[str, list[Rows]]]:
    """Maps that differ from the given one by an exchange of clusters, a reflection, or a turn of axes."""
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
    """A start at the last depth; the others follow from its matches."""
    return [*(np.zeros_like(m) for m in maps[:-1]), np.asarray(last, dtype=np.float32)]


def _rematched(
    a: Sequence[Rows],
    b: Sequence[Rows],
    maps: Sequence[Rows],
    count: int,
    generator: np.random.Generator,
    settings: RivalSettings,
) -> list[list[Rows]]:
    """Clusters of A and the clusters of B that they are translated to, matched in other ways."""
    points, others = unit_rows(a[-1][:CLUSTERED] @ maps[-1]), unit_rows(b[-1][:CLUSTERED])
    centroids, labels = centroids_of(points, count, generator)
    nearest = (others @ unit_rows(centroids).T).argmax(1)
    kept = [k for k in range(count) if (labels == k).sum() > 5 and (nearest == k).sum() > 5]
    if len(kept) < 2:
        return []
    of_a = np.stack([a[-1][:CLUSTERED][labels == k].mean(0) for k in kept])
    of_b = np.stack([b[-1][:CLUSTERED][nearest == k].mean(0) for k in kept])
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
