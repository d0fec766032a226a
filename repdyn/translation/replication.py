"""The search on disjoint halves of either data set, what both end at, and how it fares beside rivals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from repdyn.intervals import Estimate, bootstrap_mean
from repdyn.progress import track
from repdyn.translation.coordinates import Cloud, unit_rows
from repdyn.translation.refine import nearest_orthogonal, recovered_rows, retrieval
from repdyn.translation.search import PROBED, Search
from repdyn.translation.verdict import judge, settled_part

__all__ = ["Replicated", "disjoint_halves", "replicate"]

Rows = NDArray[np.float32]
Index = NDArray[np.int64]

FOUND = 0.5
"""Retrieval between the maps of two halves from which on they are one with errors, and are averaged."""

PROBES = 1000
"""Points of A whose translations by two maps are compared."""

FEWEST_LEAVES = 3
"""Peaks of either density below which there are no trees to match."""

FOLLOWED = 4
"""Candidates of either search that are among the rivals of the map."""

MOST_HOPS = 4
"""Times that a map is exchanged for a rival that fits better."""

MOST_LEAD = 20.0
"""Larger leads, and those over no different map at all, are told as this."""

ALIKE = 0.5
"""Retrieval between the halves' best candidates after which no more are tried; chance is one in 500."""


@dataclass(frozen=True, eq=False)
class Replicated:
    """Maps at all depths in principal coordinates, and what two independent fits say of them.

    Attributes
    ----------
    maps
        One ``(D_a, D_b)`` per depth; none where nothing could be fitted.
    confidence
        Retrieval to expect at each depth, as a share of what a fit with all pairs reaches.
    verdict, reason, evidence
        As in :class:`repdyn.translation.LinearTranslation`.
    """

    maps: list[Rows]
    confidence: list[Estimate]
    verdict: str
    reason: str
    evidence: Mapping[str, float] = field(default_factory=dict)


def replicate(a: Sequence[Cloud], b: Sequence[Cloud], known: Index, candidates: int, seed: int) -> Replicated:
    """Search on either half, refine on all points, and compare with rivals.

    Parameters
    ----------
    a, b
        Clouds per depth.
    known
        Rows known to be pairs, ``(M, 2)``, possibly none.
    candidates
        Matchings explored in each half at most.
    seed
        Of everything drawn.
    """
    generator = np.random.default_rng(seed)
    # One half of the pairs to either half, first in it: the search takes leading rows where all are too many.
    order = generator.permutation(len(known))
    parts = [known[order[: len(known) // 2]], known[order[len(known) // 2 :]]]
    halves_a, halves_b = (
        _halves_with(len(side[0].points), [part[:, end] for part in parts], generator)
        for end, side in enumerate((a, b))
    )
    searches = [
        Search(
            [cloud.take(rows_a) for cloud in a],
            [cloud.take(rows_b) for cloud in b],
            _within(known, rows_a, rows_b),
            seed=int(generator.integers(2**31)),
        )
        for rows_a, rows_b in zip(halves_a, halves_b)
    ]
    if min(search.leaves for search in searches) < FEWEST_LEAVES and not len(known):
        # No trees to match: principal axes are aligned, and rivals tell whether that is the only way.
        starts = [[_aligned(*m) for m in zip(search.points_a, search.points_b)] for search in searches]
    else:
        starts = _explored(searches, a[-1].points[:PROBED], candidates)
    fits = [search.polish(maps).maps for search, maps in zip(searches, starts)]
    rows = generator.permutation(len(a[-1].points))[:PROBES]
    probes = [c.points[rows] for c in a]
    moved = [[unit_rows(x @ m) for x, m in zip(probes, maps)] for maps in fits]
    confidence = [bootstrap_mean(recovered_rows(x, y), seed=seed) for x, y in zip(*moved)]
    recovered = confidence[-1].value
    both = Search(a, b, known, seed=int(generator.integers(2**31)))
    if recovered >= FOUND:
        # Where the two agree their mean is better than either, and all points refine it.
        maps, others = [nearest_orthogonal(one + other) for one, other in zip(*fits)], []
    else:
        better = int(np.argmax([both.fit(maps) for maps in fits]))
        maps, others = fits[better], [fits[1 - better]]
    # What either search has found besides has had as many chances as the map itself.
    others += [candidate.maps for search in searches for candidate in search.found[:FOLLOWED]]
    maps = both.settle(maps)
    maps, own, rivals, composition = both.compared(maps, others, MOST_HOPS, shared=recovered >= FOUND)
    judgment = judge(recovered, own, rivals, composition)
    evidence = {
        "retrieval between halves": recovered,
        "excess distance": judgment.figures.excess,
        "margin of the best different map": judgment.figures.margin,
        "margin of the best map of other clusters": judgment.figures.cluster_margin,
        "agreement with rivals": judgment.figures.expected,
        "stability across compositions": composition.stability,
        "lead in standard errors": min(composition.lead, MOST_LEAD),
    }
    if judgment.verdict == "ambiguous":
        part, directions = settled_part(maps[-1], judgment.tied)
        evidence |= {"different maps that fit as well": len(judgment.tied), "settled directions": directions}
        if directions:
            maps = [*maps[:-1], part]
    # Every depth is as credible as the last, less what its own maps of two halves agree less.
    scale = [min(1.0, c.value / recovered) if recovered > 0 else 1.0 for c in confidence]
    told = [
        Estimate(
            *(k * v for v in (judgment.confidence.value, judgment.confidence.low, judgment.confidence.high))
        )
        for k in (*scale[:-1], 1.0)
    ]
    return Replicated(maps, told, judgment.verdict, judgment.reason, evidence)


def _explored(searches: Sequence[Search], probes: Rows, candidates: int) -> list[list[Rows]]:
    """Explore in both halves until the best candidate of one retrieves the translations of the other's best.

    Agreement of any other candidates proves nothing: where classes are few, both halves know the same wrong
    maps, and the right one fits better than these.
    """
    for number in track(range(candidates), "matching trees"):
        for search in searches:
            search.explore(number)
        if _alike(searches, probes):
            break
    return [search.best.maps for search in searches]


def _aligned(a: Rows, b: Rows) -> Rows:
    """Principal axes of one onto those of the other, in order."""
    return np.eye(a.shape[1], b.shape[1], dtype=np.float32)


def _alike(searches: Sequence[Search], probes: Rows) -> bool:
    """Whether the best candidates of the two halves agree."""
    one, other = (unit_rows(probes @ search.best.maps[-1]) for search in searches)
    return retrieval(one, other) >= ALIKE


def disjoint_halves(count: int, generator: np.random.Generator) -> tuple[Index, Index]:
    """Row numbers of two random halves."""
    order = generator.permutation(count)
    return order[: count // 2], order[count // 2 :]


def _halves_with(count: int, first: Sequence[Index], generator: np.random.Generator) -> tuple[Index, Index]:
    """Halves that begin with the given rows; a row given to both stays in the first."""
    one = np.unique(first[0])
    other = np.setdiff1d(first[1], one)
    rest = generator.permutation(np.setdiff1d(np.arange(count), np.concatenate([one, other])))
    cut = max(0, count // 2 - len(one))
    return np.concatenate([one, rest[:cut]]), np.concatenate([other, rest[cut:]])


def _within(known: Index, rows_a: Index, rows_b: Index) -> Index:
    """Pairs of which both ends lie in a half, renumbered; all ends are few, so a dictionary does."""
    of_a = {int(row): k for k, row in enumerate(rows_a)}
    of_b = {int(row): k for k, row in enumerate(rows_b)}
    kept = [(of_a[int(i)], of_b[int(j)]) for i, j in known if int(i) in of_a and int(j) in of_b]
    return np.array(kept, dtype=np.int64).reshape(-1, 2)
