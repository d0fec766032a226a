"""A translation between two models' latents from no, few or all pairs: one door, one verdict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repdyn.errors import RepdynError, nearest_names
from repdyn.translation.coordinates import Cloud, unit_rows
from repdyn.translation.linear import LinearTranslation, fit_affine
from repdyn.translation.refine import nearest_orthogonal
from repdyn.translation.search import Search

if TYPE_CHECKING:
    from repdyn.paths import RepresentationPaths

__all__ = ["translate"]

Floats = NDArray[np.float64]
Rows = NDArray[np.float32]
Index = NDArray[np.int64]

FOUND = 0.25
"""Retrieval between two independent maps from which on they are one with errors. Seen: .68 where the map
was right, .08 where one half was wrong, .003 and .004 on unrelated data; chance is one in the probes."""

NOT_FOUND = 0.02
"""Below it the two maps have nothing in common that could be used."""

SAME_MAP = 0.5
"""Mean cosine of translations that two fits on disjoint pairs must reach."""

FEWEST = 200
"""Points of each model below which two halves cannot be matched without pairs."""

DEPTHS = 4
"""Depths matched together, evenly spread; more cost time and say little that these do not."""

PROBES = 1000
"""Points of A whose translations by two maps are compared."""


def translate(
    paths_a: RepresentationPaths,
    paths_b: RepresentationPaths,
    pairs: ArrayLike | None = None,
    points: tuple[str, str] | None = None,
    candidates: int = 12,
    seed: int = 0,
) -> LinearTranslation:
    r"""Find the linear map from A's latents to B's; the two may have read entirely different inputs.

    Without pairs: density-tree nodes of both models are matched by quadratic assignment at random
    granularities, all depths of the two paths together; the candidate under which translated points fall
    best among real ones, pooled with those that agree, is refined by mutual neighbours. All of this runs
    twice, on disjoint halves of either data set, and the verdict is how often one map's translation of a
    probe is, among all probes, the nearest to the other map's,

    .. math:: \mathrm{confidence} = \frac1n \sum_i
              \big[\, i = \arg\max_j \cos\big(t_1(x_i) - \mu_B,\; t_2(x_j) - \mu_B\big) \,\big].

    Two wrong maps may share a few leading directions, which a mean cosine rewards; they do not retrieve.

    Parameters
    ----------
    paths_a, paths_b
        Representation paths of the two models. Depths of A and B correspond by their fraction of the way
        to the translated point; paths of one point work, several make the match far more certain.
    pairs
        ``(M, 2)`` rows of A and of B that are the same input. ``None`` or empty: no pairs. Fewer than
        twice the width: they steer the search. More: the map is fitted on them alone.
    points
        The point of A to translate from and that of B to translate to; the last ones where not given.
    candidates
        Matchings explored in each half; time grows in proportion.
    seed
        Same seed, same map.

    Returns
    -------
    LinearTranslation
        Never without a verdict: ``"found"`` needs agreement of two independent fits.

    Raises
    ------
    RepdynError
        On unknown points, points that keep tokens, values that are not finite, or pairs out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from repdyn.paths import RepresentationPaths
    >>> x = np.random.default_rng(0).normal(size=(300, 4))
    >>> a, b = (RepresentationPaths.from_arrays({"last": y}) for y in (x, 2 * x[:, ::-1]))
    >>> translate(a, b, pairs=np.column_stack([np.arange(300)] * 2)).verdict
    'found'
    """
    if candidates < 1:
        raise RepdynError(f"translate: candidates={candidates}; expected 1 or more")
    names_a, names_b = _depths(paths_a, paths_b, points)
    known = _known_pairs(pairs, len(paths_a), len(paths_b))
    raw_a = [_read(paths_a, name, "paths_a") for name in names_a]
    raw_b = [_read(paths_b, name, "paths_b") for name in names_b]
    if len(known) >= 2 * max(raw_a[-1].shape[1], raw_b[-1].shape[1]) or len(known) == min(
        len(paths_a), len(paths_b)
    ):
        return _from_pairs(raw_a[-1][known[:, 0]], raw_b[-1][known[:, 1]], seed)
    clouds_a = [Cloud.of(x, f"paths_a[{name!r}]") for x, name in zip(raw_a, names_a)]
    clouds_b = [Cloud.of(x, f"paths_b[{name!r}]") for x, name in zip(raw_b, names_b)]
    if min(len(paths_a), len(paths_b)) < FEWEST and len(known) < 2:
        return _unknown(
            clouds_a[-1],
            clouds_b[-1],
            "inconclusive",
            f"{len(paths_a)} and {len(paths_b)} points are too few to be matched twice without pairs; "
            f"give at least {FEWEST} of each",
        )
    return _search(clouds_a, clouds_b, known, candidates, seed)


def _search(
    a: Sequence[Cloud], b: Sequence[Cloud], known: Index, candidates: int, seed: int
) -> LinearTranslation:
    generator = np.random.default_rng(seed)
    # Shuffled, not sorted: the search takes leading rows where all would be too many.
    halves_a, halves_b = _halves(len(a[0].points), generator), _halves(len(b[0].points), generator)
    fits = []
    for part in range(2):
        rows_a, rows_b = halves_a[part], halves_b[part]
        search = Search(
            [cloud.take(rows_a) for cloud in a],
            [cloud.take(rows_b) for cloud in b],
            _within(known, rows_a, rows_b),
            seed=int(generator.integers(2**31)),
        )
        if search.leaves < 3:
            return _unknown(
                a[-1],
                b[-1],
                "inconclusive",
                f"the density of one model has {search.leaves} peak(s): no structure to match without pairs",
            )
        fits.append(search.run(candidates))
    probes = a[-1].points[generator.permutation(len(a[-1].points))[:PROBES]]
    first, second = (unit_rows(probes @ fit.maps[-1]) for fit in fits)
    agreement = float((first * second).sum(1).mean())
    recovered = float(((first @ second.T).argmax(1) == np.arange(len(first))).mean())
    evidence = {
        "agreement of two halves": agreement,
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
        f"of {len(probes)} probes (found from {FOUND:.0%} on, chance {1 / len(probes):.1%})"
    )
    best = max(fits, key=lambda fit: fit.fit).maps
    if verdict != "not found":
        both = Search(a, b, known, seed=int(generator.integers(2**31)))
        # Where the two agree their mean is better than either, and all points refine it.
        start = [nearest_orthogonal(one + other) for one, other in zip(fits[0].maps, fits[1].maps)]
        best = both.finish(start if verdict == "found" else best)
    return _translation(a[-1], b[-1], best[-1], recovered, verdict, reason, evidence)


def _translation(
    a: Cloud, b: Cloud, q: Rows, confidence: float, verdict: str, reason: str, evidence: dict[str, float]
) -> LinearTranslation:
    """Back from principal coordinates to the models' own, with one scale from the clouds' sizes."""
    reached = float(np.sqrt(((a.points @ q).astype(np.float64) ** 2).sum(1).mean()))
    scale = b.length / (a.length * max(reached, 1e-12))
    matrix = scale * (a.basis @ q.astype(np.float64) @ b.basis.T)
    return LinearTranslation(matrix, a.offset, b.offset, confidence, verdict, reason, evidence)


def _unknown(a: Cloud, b: Cloud, verdict: str, reason: str) -> LinearTranslation:
    """The map that says least: every point goes to B's mean."""
    matrix = np.zeros((len(a.offset), len(b.offset)))
    return LinearTranslation(matrix, a.offset, b.offset, float("nan"), verdict, reason)


def _from_pairs(x: Floats, y: Floats, seed: int) -> LinearTranslation:
    """All from pairs: replication on two halves of them."""
    halves = _halves(len(x), np.random.default_rng(seed))
    if len(x) < 4:
        raise RepdynError(f"translate: {len(x)} pairs are all the data; expected at least 4")
    first, second = (fit_affine(x[rows], y[rows]) for rows in halves)
    full = fit_affine(x, y)
    one, other = (unit_rows(t(x) - full.offset_b) for t in (first, second))
    agreement = float((one * other).sum(1).mean())
    # Each half predicts the other's pairs: agreement alone could be of two maps that say nothing.
    crossed = [(first, halves[1]), (second, halves[0])]
    unexplained = float(
        sum(((t(x[rows]) - y[rows]) ** 2).sum() for t, rows in crossed)
        / max(sum(((y[rows] - t.offset_b) ** 2).sum() for t, rows in crossed), 1e-300)
    )
    evidence = {"agreement of two halves": agreement, "explained on the other half": 1 - unexplained}
    if agreement >= SAME_MAP and unexplained < 1:
        verdict, reason = "found", f"fitted on {len(x)} pairs; each half predicts the other's"
    else:
        verdict, reason = "not found", f"fitted on {len(x)} pairs, but one half does not predict the other"
    return LinearTranslation(full.matrix, full.offset_a, full.offset_b, agreement, verdict, reason, evidence)


def _halves(count: int, generator: np.random.Generator) -> tuple[Index, Index]:
    order = generator.permutation(count)
    return order[: count // 2], order[count // 2 :]


def _within(known: Index, rows_a: Index, rows_b: Index) -> Index:
    """Pairs of which both ends lie in a half, renumbered; all ends are few, so a dictionary does."""
    of_a = {int(row): k for k, row in enumerate(rows_a)}
    of_b = {int(row): k for k, row in enumerate(rows_b)}
    kept = [(of_a[int(i)], of_b[int(j)]) for i, j in known if int(i) in of_a and int(j) in of_b]
    return np.array(kept, dtype=np.int64).reshape(-1, 2)


def _depths(
    paths_a: RepresentationPaths, paths_b: RepresentationPaths, points: tuple[str, str] | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Points that correspond by their fraction of the way, ending at the translated ones."""
    ends = points or (paths_a.points[-1], paths_b.points[-1])
    held = []
    for paths, end, name in ((paths_a, ends[0], "paths_a"), (paths_b, ends[1], "paths_b")):
        if end not in paths.points:
            raise RepdynError(f"translate: {name} has no point {end!r}; {nearest_names(end, paths.points)}")
        held.append(paths.points[: paths.points.index(end) + 1])
    count = min(DEPTHS, *map(len, held))
    if count == 1:
        return (ends[0],), (ends[1],)
    spread = [np.rint(np.linspace(0, len(names) - 1, count)).astype(int) for names in held]
    return tuple(held[0][k] for k in spread[0]), tuple(held[1][k] for k in spread[1])


def _read(paths: RepresentationPaths, point: str, name: str) -> Floats:
    x = np.asarray(paths[point], dtype=np.float64)
    if x.ndim != 2:
        raise RepdynError(
            f"translate: {name}[{point!r}] keeps tokens, shape {x.shape}; trace it pooled, (N, D)"
        )
    return x


def _known_pairs(pairs: ArrayLike | None, count_a: int, count_b: int) -> Index:
    if pairs is None or np.size(pairs) == 0:
        return np.empty((0, 2), dtype=np.int64)
    known = np.asarray(pairs)
    if known.ndim != 2 or known.shape[1] != 2 or not np.issubdtype(known.dtype, np.integer):
        raise RepdynError(
            f"translate: pairs must be (M, 2) row numbers, got {known.dtype} of shape {known.shape}"
        )
    if known.min() < 0 or (known >= [count_a, count_b]).any():
        raise RepdynError(
            f"translate: pairs name rows outside 0..{count_a - 1} of A or 0..{count_b - 1} of B"
        )
    return known.astype(np.int64)
