"""The search on disjoint halves of either data set, the agreement of both, and the comparison with rivals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from repdyn.intervals import Estimate, bootstrap_mean
from repdyn.progress import track
from repdyn.translation.coordinates import Cloud, unit_rows
from repdyn.translation.unpaired.map_search import Nodes, Search
from repdyn.translation.unpaired.refine import nearest_orthogonal, recovered_rows, retrieval
from repdyn.translation.unpaired.settings import GROWTH, REPLICATION, SEARCH
from repdyn.translation.unpaired.verdict import VerdictResult, agreed_directions, far_and_unshared, judge

__all__ = ["Replicated", "disjoint_halves", "replicate"]

Rows = NDArray[np.float32]
Index = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Replicated:
    """Maps at all depths in principal coordinates, with the verdict from two independent searches.

    Attributes
    ----------
    maps
        One ``(D_a, D_b)`` per depth; none where nothing could be fitted.
    confidence
        Expected retrieval at each depth, as a share of that of a fit with all pairs.
    verdict, reason, evidence
        As in :class:`repdyn.translation.LinearTranslation`.
    """

    maps: list[Rows]
    confidence: list[Estimate]
    verdict: str
    reason: str
    evidence: Mapping[str, float] = field(default_factory=dict)


def replicate(
    a: Sequence[Cloud],
    b: Sequence[Cloud],
    known: Index,
    candidates: int,
    seed: int,
    nodes: Nodes = "leaves",
) -> Replicated:
    """Search on both halves, refine on all points, and compare with rivals.

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
    nodes
        As in :class:`Search`.
    """
    generator = np.random.default_rng(seed)
    # Either half gets half of the pairs as its first rows: the search uses leading rows where there are many.
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
            nodes=nodes,
        )
        for rows_a, rows_b in zip(halves_a, halves_b)
    ]
    if min(search.leaves for search in searches) < REPLICATION.min_leaves and not len(known):
        # No trees to match: principal axes are aligned, and rivals test whether that map is unique.
        starts, near = [[_aligned(*m) for m in zip(s.points_a, s.points_b)] for s in searches], False
    else:
        compared = a[-1].points[: SEARCH.probed]
        starts = _explored(searches, compared, candidates)
        replication, excess = _agreement(searches, compared), [search.excess for search in searches]
        if replication < REPLICATION.agree and min(excess) >= _far_after(candidates) and not len(known):
            nearest = starts[int(np.argmin(excess))]
            return _far(nearest, far_and_unshared(replication, min(excess)))
        near = min(excess) < SEARCH.far
    fits = [search.polish(maps).maps for search, maps in zip(searches, starts)]
    rows = generator.permutation(len(a[-1].points))[: REPLICATION.probes]
    probes = [c.points[rows] for c in a]
    moved = [[unit_rows(x @ m) for x, m in zip(probes, maps)] for maps in fits]
    confidence = [bootstrap_mean(recovered_rows(x, y), seed=seed) for x, y in zip(*moved)]
    recovered = confidence[-1].value
    both = Search(a, b, known, seed=int(generator.integers(2**31)), nodes=nodes)
    if recovered >= REPLICATION.averaged:
        # Where both agree, their mean is better than either; it is refined on all points.
        maps, others = [nearest_orthogonal(one + other) for one, other in zip(*fits)], []
    else:
        better = int(np.argmax([both.fit(maps) for maps in fits]))
        maps, others = fits[better], [fits[1 - better]]
    # Other candidates of both searches are starts of rivals, refined like the map itself.
    others += [
        candidate.maps for search in searches for candidate in search.found[: REPLICATION.candidates_compared]
    ]
    maps, judged = _judged(both, both.final_refinement(maps), others, recovered)
    unsettled = judged.verdict in ("ambiguous", "neighborhoods", "inconclusive")
    large = both.width >= GROWTH.least_width and both.samples >= GROWTH.least_samples
    if unsettled and near and large and not len(known):
        # All points together determine more than a half does.
        worse, grown = sorted((both.grow(), both.alternate()), key=lambda candidate: candidate.fit)
        if grown.fit > (1 + GROWTH.gain) * both.fit(maps):
            others.append(worse.maps)
            refined = grown.maps
            for _ in range(GROWTH.final):
                refined = both.final_refinement(refined)
            maps, judged = _judged(both, refined, [maps, *others], recovered)
    evidence = {
        "retrieval between halves": recovered,
        "excess distance": judged.figures.excess,
        "margin of the best different map": judged.figures.margin,
        "margin of the best map of other clusters": judged.figures.cluster_margin,
        "agreement with rivals": judged.figures.expected,
        "stability across compositions": judged.figures.stability,
        "lead in standard errors": min(judged.figures.lead, REPLICATION.max_reported_lead),
    }
    if judged.verdict == "ambiguous":
        part, directions = agreed_directions(maps[-1], judged.tied)
        evidence |= {"different maps that fit as well": len(judged.tied), "agreed directions": directions}
        if directions:
            maps = [*maps[:-1], part]
    # The confidence of a depth is that of the last, reduced where its own halves agree less.
    scale = [min(1.0, c.value / recovered) if recovered > 0 else 1.0 for c in confidence]
    by_depth = [
        Estimate(*(k * v for v in (judged.confidence.value, judged.confidence.low, judged.confidence.high)))
        for k in (*scale[:-1], 1.0)
    ]
    return Replicated(maps, by_depth, judged.verdict, judged.reason, evidence)


def _judged(
    both: Search, maps: list[Rows], others: Sequence[Sequence[Rows]], recovered: float
) -> tuple[list[Rows], VerdictResult]:
    """The map after rivals that fit better have replaced it, and its verdict."""
    maps, own, rivals, composition = both.compared(
        maps, others, REPLICATION.max_exchanges, shared=recovered >= REPLICATION.averaged
    )
    return maps, judge(recovered, own, rivals, composition)


def _explored(searches: Sequence[Search], probes: Rows, candidates: int) -> list[list[Rows]]:
    """Explore in both halves until their best candidates agree; the best maps of both.

    Agreement of other candidates is no evidence: with few classes both halves contain the same wrong maps,
    and the correct one fits better than these. The search ends early where no candidate lies near the data.
    """
    for number in track(range(candidates), "matching trees"):
        for search in searches:
            search.explore(number)
        if _agreement(searches, probes) >= REPLICATION.agree:
            break
        ends = number + 1 in dict(REPLICATION.far) and not any(len(search.known) for search in searches)
        if ends and min(search.excess for search in searches) >= _far_after(number + 1):
            break
    return [search.best.maps for search in searches]


def _far_after(candidates: int) -> float:
    """The excess distance from which on a search whose halves disagree ends after so many candidates."""
    passed = [excess for count, excess in REPLICATION.far if candidates >= count]
    return passed[-1] if passed else REPLICATION.far[0][1]


def _aligned(a: Rows, b: Rows) -> Rows:
    """The map ``(D_a, D_b)`` of principal axes onto principal axes, in order."""
    return np.eye(a.shape[1], b.shape[1], dtype=np.float32)


def _agreement(searches: Sequence[Search], probes: Rows) -> float:
    """Retrieval between the best candidates of the two halves."""
    one, other = (unit_rows(probes @ search.best.maps[-1]) for search in searches)
    return retrieval(one, other)


def _far(maps: list[Rows], judged: VerdictResult) -> Replicated:
    """The result where halves disagree and translated points lie far from real ones."""
    evidence = {
        "retrieval between halves": judged.figures.replication,
        "excess distance": judged.figures.excess,
    }
    return Replicated(maps, [judged.confidence] * len(maps), judged.verdict, judged.reason, evidence)


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
    """Pairs with both ends in a half, as row numbers within the half, ``(M', 2)``."""
    of_a = {int(row): k for k, row in enumerate(rows_a)}
    of_b = {int(row): k for k, row in enumerate(rows_b)}
    kept = [(of_a[int(i)], of_b[int(j)]) for i, j in known if int(i) in of_a and int(j) in of_b]
    return np.array(kept, dtype=np.int64).reshape(-1, 2)
