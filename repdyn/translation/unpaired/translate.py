"""Translation between two models' latent spaces from no, few or all pairs, with a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import ttest_1samp, wilcoxon

from repdyn.arguments import whole
from repdyn.errors import RepdynError, nearest_names
from repdyn.intervals import Estimate, bootstrap_mean
from repdyn.paths import PathsLike, as_paths, drawn_rows
from repdyn.repeats import groups_of_equal_rows
from repdyn.translation.coordinates import Cloud, unit_rows
from repdyn.translation.linear.depths import PathTranslation
from repdyn.translation.linear.maps import LinearTranslation, fit_affine
from repdyn.translation.unpaired.map_search import Nodes
from repdyn.translation.unpaired.replication import Replicated, disjoint_halves, replicate
from repdyn.translation.unpaired.settings import PAIRED, SAMPLES

if TYPE_CHECKING:
    from repdyn.paths import RepresentationPaths

__all__ = ["translate", "translate_path"]

Floats = NDArray[np.float64]
Rows = NDArray[np.float32]
Index = NDArray[np.int64]

HELD_BYTES = (
    250_000_000  # of the depths matched in float64, for either model; a search holds a dozen times it
)


def translate(
    paths_a: PathsLike,
    paths_b: PathsLike,
    pairs: ArrayLike | None = None,
    points: tuple[str, str] | None = None,
    candidates: int = 12,
    seed: int = 0,
    nodes: Nodes = "leaves",
) -> LinearTranslation:
    r"""Find the linear map from A's latents to B's; the two data sets may be entirely different.

    Without pairs: density-tree nodes of both models are matched by quadratic assignment at random
    granularities, all depths of the two paths together; the candidate under which translated points fall
    best among real ones is refined by mutual neighbors. This runs twice, on disjoint halves of either data
    set. The result is compared with rivals: maps that exchange clusters, reflect or exchange principal axes,
    or are random, refined in the same way. A rival that fits better replaces the map.

    The verdict rests on four tests: whether maps of disjoint halves agree; whether translated points lie
    among the real ones (:func:`~repdyn.translation.unpaired.rivals.excess_distance`); whether every map that
    translates differently fits worse; and whether that holds where clusters are left out or drawn again
    (:func:`~repdyn.translation.unpaired.rivals.across_compositions`). Agreement alone shows that an answer is
    stable, not that it is right: five clusters can be matched in 120 ways, of which one always fits best.

    Parameters
    ----------
    paths_a, paths_b
        Representation paths of the two models. Depths of A and B correspond by their fraction of the way
        to the translated point; paths of one point work, several make the match far more certain. Points
        ``(N, D)`` or the address of a store or of a file of vectors do as well, see
        :func:`~repdyn.paths.as_paths`.
    pairs
        ``(M, 2)`` rows of A and of B that are the same input. ``None`` or empty: no pairs. Fewer than
        twice the width: they guide the search. More: the map is fitted on them alone.
    points
        The point of A to translate from and that of B to translate to. Default: the last ones.
    candidates
        Most matchings explored in each half; the search ends earlier where the halves agree.
    seed
        Of everything drawn: the same seed gives the same map.
    nodes
        What is matched beside clusters of k-means: ``"leaves"`` of density trees, or ``"modes"`` of the
        density under noise (:func:`repdyn.fields.mode_tree`). Modes take longer, for about the same maps
        (docs/studies/fields.md).

    Returns
    -------
    LinearTranslation
        With a verdict; ``"found"`` requires that no different map fits nearly as well. Where the verdict is
        ``"ambiguous"``, the map holds the directions on which all maps that fit agree, if any.

    Raises
    ------
    RepdynError
        On unknown points, points that keep tokens, values that are not finite, or pairs out of range.

    Notes
    -----
    At most 100 000 samples of a model, and 250 MB of them in float64 over the depths, are used; of more, a
    random sample is drawn. The same holds for pairs where the map is fitted on them. ``reason`` and
    ``evidence`` then give the numbers.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(300, 4))
    >>> translate(x, 2 * x[:, ::-1], pairs=np.column_stack([np.arange(300)] * 2)).verdict
    'found'
    """
    path = translate_path(paths_a, paths_b, pairs, points, candidates, seed, nodes)
    return path.translations[-1]


def translate_path(
    paths_a: PathsLike,
    paths_b: PathsLike,
    pairs: ArrayLike | None = None,
    points: tuple[str, str] | None = None,
    candidates: int = 12,
    seed: int = 0,
    nodes: Nodes = "leaves",
) -> PathTranslation:
    """Find one translation per depth, all from one match, as :func:`translate` does for one depth.

    Parameters
    ----------
    paths_a, paths_b, pairs, points, candidates, seed, nodes
        As in :func:`translate`.

    Returns
    -------
    PathTranslation
        At most four depths, evenly spread. All have the verdict of the last depth, and each its own
        confidence.

    Raises
    ------
    RepdynError
        As in :func:`translate`.
    """
    candidates = whole("translate: candidates", candidates)
    if candidates < 1:
        raise RepdynError(f"translate: candidates={candidates}; expected 1 or more")
    if nodes not in get_args(Nodes):
        raise RepdynError(f"translate: nodes={nodes!r}; expected one of {', '.join(get_args(Nodes))}")
    paths_a, paths_b = as_paths(paths_a, "paths_a"), as_paths(paths_b, "paths_b")
    names_a, names_b = _depths(paths_a, paths_b, points)
    known = _known_pairs(pairs, len(paths_a), len(paths_b))
    names = tuple(zip(names_a, names_b))
    widest = max(paths.widths[name] for pair in names for paths, name in zip((paths_a, paths_b), pair))
    from_pairs = len(known) >= 2 * widest or len(known) == min(len(paths_a), len(paths_b))
    before = len(paths_a), len(paths_b), len(known)
    paths_a, paths_b, known = _drawn(paths_a, paths_b, names, known, from_pairs, seed)
    raw_a = _read(paths_a, names_a, "paths_a")
    raw_b = _read(paths_b, names_b, "paths_b")
    drawn = _sampling_evidence(before, (len(paths_a), len(paths_b), len(known)), from_pairs, seed)
    if from_pairs:
        fitted = tuple(_from_pairs(x[known[:, 0]], y[known[:, 1]], seed) for x, y in zip(raw_a, raw_b))
        return PathTranslation.of(names, [_with_sampling(t, drawn) for t in fitted], raw_a, raw_b, seed)
    raw_a, raw_b, known = _distinct(raw_a, raw_b, known)
    a = [Cloud.of(x, f"paths_a[{name!r}]") for x, name in zip(raw_a, names_a)]
    b = [Cloud.of(x, f"paths_b[{name!r}]") for x, name in zip(raw_b, names_b)]
    counts = len(raw_a[0]), len(raw_b[0])
    if min(counts) < SAMPLES.min_points and len(known) < 2:
        reason = (
            f"{counts[0]} and {counts[1]} distinct points are too few to be matched twice without pairs; "
            f"give at least {SAMPLES.min_points} of each"
        )
        unknown = tuple(_unknown(x, y, "inconclusive", reason) for x, y in zip(a, b))
        return PathTranslation.of(names, unknown, raw_a, raw_b, seed)
    found = replicate(a, b, known, candidates, seed, nodes)
    if not found.maps:
        unknown = tuple(_unknown(x, y, found.verdict, found.reason) for x, y in zip(a, b))
        return PathTranslation.of(names, [_with_sampling(t, drawn) for t in unknown], raw_a, raw_b, seed)
    translations = tuple(
        _translation(x, y, q, confidence, found)
        for x, y, q, confidence in zip(a, b, found.maps, found.confidence)
    )
    return PathTranslation.of(names, [_with_sampling(t, drawn) for t in translations], raw_a, raw_b, seed)


def _drawn(
    paths_a: RepresentationPaths,
    paths_b: RepresentationPaths,
    names: Sequence[tuple[str, str]],
    known: Index,
    from_pairs: bool,
    seed: int,
) -> tuple[RepresentationPaths, RepresentationPaths, Index]:
    """Paths with as many samples as can be matched, those of known pairs included, and renumbered pairs.

    Where the map is fitted on pairs, as many pairs and their samples.
    """
    most = [
        max(
            SAMPLES.min_points,
            min(SAMPLES.max_samples, HELD_BYTES // (8 * sum(paths.widths[pair[side]] for pair in names))),
        )
        for side, paths in enumerate((paths_a, paths_b))
    ]
    if from_pairs:
        widest = max(paths.widths[pair[k]] for pair in names for k, paths in enumerate((paths_a, paths_b)))
        if (chosen := drawn_rows(len(known), max(min(most), 2 * widest), seed)) is None:
            return paths_a, paths_b, known
        known = known[chosen]
    found = []
    columns = []
    for side, paths in enumerate((paths_a, paths_b)):
        paired = np.unique(known[:, side])
        if from_pairs:
            rows = paired
        elif len(paths) <= most[side]:
            rows = np.arange(len(paths))
        else:
            others = np.setdiff1d(np.arange(len(paths)), paired)
            kept = drawn_rows(len(others), max(most[side] - len(paired), 0), seed + side)
            rows = np.union1d(paired, others if kept is None else others[kept])
        columns.append(np.searchsorted(rows, known[:, side]))
        found.append(paths if len(rows) == len(paths) else paths.subset(rows))
    return found[0], found[1], np.stack(columns, axis=1).astype(np.int64)


def _sampling_evidence(
    before: tuple[int, int, int], after: tuple[int, int, int], from_pairs: bool, seed: int
) -> dict[str, float]:
    """Numbers of drawn and given samples or pairs, for the evidence; empty where all were used."""
    if from_pairs:
        return {"pairs drawn": after[2], "pairs": before[2]} if after[2] < before[2] else {}
    drawn: dict[str, float] = {}
    for model, held, kept in zip("AB", before, after):
        if kept < held:
            drawn |= {f"samples of {model} drawn": kept, f"samples of {model}": held}
    return drawn


def _with_sampling(found: LinearTranslation, drawn: Mapping[str, float]) -> LinearTranslation:
    """The translation with the numbers of drawn samples in its evidence and reason."""
    if not drawn:
        return found
    counts = list(drawn.items())
    numbers = [
        f"{kept:.0f} of {held:.0f} {name}" for (_, kept), (name, held) in zip(counts[::2], counts[1::2])
    ]
    reason = f"{found.reason}; drawn at random: {' and '.join(numbers)}"
    return replace(found, reason=reason, evidence={**found.evidence, **drawn})


def _distinct(
    raw_a: list[Floats], raw_b: list[Floats], known: Index
) -> tuple[list[Floats], list[Floats], Index]:
    """One row of each group of equal rows: with copies in both halves, a wrong map would replicate."""
    sides, numbers = [], []
    for raw in (raw_a, raw_b):
        groups = groups_of_equal_rows(raw[-1])
        _, first = np.unique(groups, return_index=True)
        if len(first) < 2:  # Cloud.of raises the error
            first = groups = np.arange(len(groups))
        sides.append([x[first] for x in raw])
        numbers.append(groups)
    pairs = np.stack([numbers[0][known[:, 0]], numbers[1][known[:, 1]]], axis=1)
    return sides[0], sides[1], np.unique(pairs, axis=0).reshape(-1, 2)


def _translation(a: Cloud, b: Cloud, q: Rows, confidence: Estimate, found: Replicated) -> LinearTranslation:
    """A map of principal coordinates as a map of the models' own, with one scale from the clouds' sizes."""
    reached = float(np.sqrt(((a.points @ q).astype(np.float64) ** 2).sum(1).mean()))
    scale = b.length / (a.length * max(reached, 1e-12))
    matrix = scale * (a.into @ q.astype(np.float64) @ b.back)
    return LinearTranslation(
        matrix,
        a.offset,
        b.offset,
        confidence.value,
        found.verdict,
        found.reason,
        dict(found.evidence),
        (confidence.low, confidence.high),
    )


def _unknown(a: Cloud, b: Cloud, verdict: str, reason: str) -> LinearTranslation:
    """The constant map to B's mean, with a verdict."""
    matrix = np.zeros((len(a.offset), len(b.offset)))
    return LinearTranslation(matrix, a.offset, b.offset, float("nan"), verdict, reason)


def _from_pairs(x: Floats, y: Floats, seed: int) -> LinearTranslation:
    """Fit on pairs alone, with a test of replication on two halves and of prediction between them."""
    given = len(x)
    # A duplicate pair could be in both halves.
    _, distinct = np.unique(groups_of_equal_rows(np.concatenate([x, y], axis=1)), return_index=True)
    x, y = x[distinct], y[distinct]
    if len(x) < 4:
        raise RepdynError(
            f"translate: {given} pairs, {len(x)} of them distinct, are all the data; expected at least 4"
        )
    halves = disjoint_halves(len(x), np.random.default_rng(seed))
    first, second = (fit_affine(x[rows], y[rows]) for rows in halves)
    full = fit_affine(x, y)
    one, other = (unit_rows(t(x) - full.offset_b) for t in (first, second))
    cosines = bootstrap_mean((one * other).sum(1), seed=seed)
    agreement = cosines.value
    # Each half must predict the other's pairs: two uninformative maps could agree as well.
    crossed = [(first, halves[1]), (second, halves[0])]
    before = np.concatenate([((y[rows] - t.offset_b) ** 2).sum(1) for t, rows in crossed])
    after = np.concatenate([((t(x[rows]) - y[rows]) ** 2).sum(1) for t, rows in crossed])
    explained = 1 - float(after.sum() / before.sum()) if before.sum() > 0 else 0.0
    p_value = _explains_by_chance(before, after)
    evidence = {
        "agreement of two halves": agreement,
        "explained on the other half": explained,
        "p-value of the explained share": p_value,
    }
    pairs = f"{given} pairs" if given == len(x) else f"{given} pairs, {len(x)} of them distinct"
    if agreement >= PAIRED.same_map and p_value <= PAIRED.explained_p and explained > 0:
        verdict, reason = (
            "found",
            f"fitted on {pairs}; each half predicts {explained:.0%} of the other's variance",
        )
    else:
        verdict, reason = "not found", f"fitted on {pairs}, but one half does not predict the other"
    return replace(
        full,
        confidence=agreement,
        verdict=verdict,
        reason=reason,
        evidence=evidence,
        interval=(cosines.low, cosines.high),
    )


def _explains_by_chance(before: Floats, after: Floats) -> float:
    """One-sided p-value of the mean decrease of errors ``(n,)``: the larger of a t-test and a rank test."""
    gain = before - after
    if not (gain != 0).any():
        return 1.0
    mean = float(ttest_1samp(gain, 0.0, alternative="greater").pvalue) if np.ptp(gain) > 0 else 0.0
    ranks = float(wilcoxon(gain, alternative="greater").pvalue)
    return max(mean, ranks)


def _depths(
    paths_a: RepresentationPaths, paths_b: RepresentationPaths, points: tuple[str, str] | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Points of A and of B that correspond by their fraction of the depth, up to the translated ones."""
    ends = points or (paths_a.points[-1], paths_b.points[-1])
    held = []
    for paths, end, name in ((paths_a, ends[0], "paths_a"), (paths_b, ends[1], "paths_b")):
        if end not in paths.points:
            raise RepdynError(f"translate: {name} has no point {end!r}; {nearest_names(end, paths.points)}")
        held.append(paths.points[: paths.points.index(end) + 1])
    count = min(SAMPLES.max_depths, *map(len, held))
    if count == 1:
        return (ends[0],), (ends[1],)
    spread = [np.rint(np.linspace(0, len(names) - 1, count)).astype(int) for names in held]
    return tuple(held[0][k] for k in spread[0]), tuple(held[1][k] for k in spread[1])


def _read(paths: RepresentationPaths, points: Sequence[str], name: str) -> list[Floats]:
    """Points as arrays ``(N, D)`` in float64."""
    for point in points:
        if point in paths.tokens:
            raise RepdynError(
                f"translate: {name}[{point!r}] keeps tokens, shape {paths.column(point).shape}; trace it "
                "pooled, (N, D)"
            )
    (block,) = paths.iterate(tuple(points), len(paths))
    return [block[point].astype(np.float64) for point in points]


def _known_pairs(pairs: ArrayLike | None, count_a: int, count_b: int) -> Index:
    """Pairs as checked row numbers, ``(M, 2)``."""
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
