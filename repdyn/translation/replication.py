"""The verdict: the same search on disjoint halves of either data set, and whether it ends at the same map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from repdyn.intervals import Estimate, bootstrap_mean
from repdyn.progress import track
from repdyn.translation.coordinates import Cloud, unit_rows
from repdyn.translation.refine import nearest_orthogonal
from repdyn.translation.search import PROBED, Search

__all__ = ["FOUND", "NOT_FOUND", "Replicated", "disjoint_halves", "replicate", "retrieval"]

Rows = NDArray[np.float32]
Index = NDArray[np.int64]

FOUND = 0.5
"""Retrieval between two independent maps from which on they are one with errors: more often than not each
finds the other's translation. Two classifiers of ten classes reached .32 by a map that was wrong."""

NOT_FOUND = 0.02
"""Below it the two maps have nothing in common that could be used."""

PROBES = 1000
"""Points of A whose translations by two maps are compared."""

SURPASSED = 0.02
"""By how much the best map of one half must fit the other half better than all that the other has found, for
the other to start again: it has missed something, for wrong maps do not fit other data better."""

AGAIN = 4
"""Times that it starts again at most, from nothing: what it has is wrong, and would lead on."""

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
        Retrieval between the two fits at each depth, with its interval over the probes.
    verdict, reason, evidence
        As in :class:`repdyn.translation.LinearTranslation`.
    """

    maps: list[Rows]
    confidence: list[Estimate]
    verdict: str
    reason: str
    evidence: Mapping[str, float] = field(default_factory=dict)


def replicate(a: Sequence[Cloud], b: Sequence[Cloud], known: Index, candidates: int, seed: int) -> Replicated:
    """Search on either half; where both end at one map, refine it on all points.

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
    leaves = min(search.leaves for search in searches)
    if leaves < 3:
        reason = f"the density of one model has {leaves} peak(s): no structure to match without pairs"
        return Replicated([], [], "inconclusive", reason)
    starts = _explored(searches, a[-1].points[:PROBED], candidates)
    fits = [search.polish(maps) for search, maps in zip(searches, starts)]
    rows = generator.permutation(len(a[-1].points))[:PROBES]
    moved = [[unit_rows(c.points[rows] @ m) for c, m in zip(a, fit.maps)] for fit in fits]
    confidence = [bootstrap_mean(_recovered(x, y), seed=seed) for x, y in zip(*moved)]
    recovered = confidence[-1].value
    evidence = {
        "agreement of two halves": float((moved[0][-1] * moved[1][-1]).sum(1).mean()),
        "retrieval between halves": recovered,
        "fit of the first half": fits[0].fit,
        "fit of the second half": fits[1].fit,
    }
    if recovered >= FOUND:
        verdict, told = "found", "agree"
    elif recovered >= NOT_FOUND:
        verdict, told = "inconclusive", "agree in part"
    else:
        verdict, told = "not found", "disagree"
    reason = (
        f"two maps from disjoint halves {told}: one retrieves the other's translation of {recovered:.1%} "
        f"of {len(rows)} probes (found from {FOUND:.0%} on, chance {1 / len(rows):.1%})"
    )
    maps = max(fits, key=lambda fit: fit.fit).maps
    if verdict != "not found":
        both = Search(a, b, known, seed=int(generator.integers(2**31)))
        if verdict == "found":
            # Where the two agree their mean is better than either, and all points refine it.
            maps = [nearest_orthogonal(one + other) for one, other in zip(fits[0].maps, fits[1].maps)]
        maps = both.settle(maps)
    return Replicated(maps, confidence, verdict, reason, evidence)


def _explored(searches: Sequence[Search], probes: Rows, candidates: int) -> list[list[Rows]]:
    """Explore in both halves until the best candidate of one retrieves the translations of the other's best.

    Where these two agree they are a right one found twice, with errors. Agreement of any others proves
    nothing: where classes are few, both halves know the same wrong maps, and the right one fits better than
    these. Where the best do not agree, but that of one half fits the other half better than all that the
    other has found, the other starts again, and is not told. Where none do then, each half goes on from what
    fits best.
    """
    for number in track(range(candidates), "matching trees"):
        for search in searches:
            search.explore(number)
        if _alike(searches, probes):
            break
    else:
        behind = _behind(searches)
        if behind is not None:
            return _explored_again(searches, behind, probes, candidates)
    return [search.best.maps for search in searches]


def _explored_again(
    searches: Sequence[Search], behind: int, probes: Rows, candidates: int
) -> list[list[Rows]]:
    """One half starts again until it agrees with the other; what it had is kept where it never does."""
    for _ in range(AGAIN):
        again = searches[behind].restarted()
        both = [again if k == behind else search for k, search in enumerate(searches)]
        for number in track(range(candidates), "matching trees again"):
            again.explore(number)
            if _alike(both, probes):
                return [search.best.maps for search in both]
    return [search.best.maps for search in searches]


def _alike(searches: Sequence[Search], probes: Rows) -> bool:
    """Whether the best candidates of the two halves agree."""
    one, other = (unit_rows(probes @ search.best.maps[-1]) for search in searches)
    return retrieval(one, other) >= ALIKE


def _behind(searches: Sequence[Search]) -> int | None:
    """Which half the other half's best map fits better than its own."""
    gains = [search.fit(other.best.maps) - search.best.fit for search, other in zip(searches, searches[::-1])]
    worst = int(np.argmax(gains))
    return worst if gains[worst] > SURPASSED else None


def retrieval(x: Rows, y: Rows) -> float:
    """How often a row of x is, among all rows of y, nearest to the one of its own number."""
    return float(_recovered(x, y).mean())


def _recovered(x: Rows, y: Rows) -> NDArray[np.bool_]:
    return np.asarray((x @ y.T).argmax(1) == np.arange(len(x)))


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
