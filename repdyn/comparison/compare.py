"""Comparison of two models, two checkpoints or two depths, each figure beside its value by chance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from repdyn.comparison.similarity import (
    Permuted,
    jackknife_alignment,
    mutual_neighbors,
    neighbor_table,
    permuted,
    procrustes_distance,
    unbiased_gram,
)
from repdyn.errors import RepdynError, nearest_names
from repdyn.intervals import Estimate, bootstrap_mean
from repdyn.paths import PathsLike, RepresentationPaths, as_paths, drawn_rows
from repdyn.repeats import groups_of_equal_rows
from repdyn.results import Result
from repdyn.topology import LevelSetTree
from repdyn.topology.distance import merge_tree_distance
from repdyn.translation import LinearTranslation, translate
from repdyn.translation.coordinates import outlier_shrink

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = ["COMPARISON", "Comparison", "Depths", "Measure", "compare"]

Floats = NDArray[np.float64]
Index = NDArray[np.int64]


@dataclass(frozen=True)
class ComparisonSettings:
    """Settings of :func:`compare`.

    Attributes
    ----------
    most
        Samples compared; of more, so many are drawn.
    least
        Distinct samples below which nothing is concluded.
    neighbors
        Neighbors of each sample, as in the Platonic representation hypothesis.
    permutations
        Of the null; the smallest p-value is one over so many and one.
    rotations
        Permutations of the Procrustes distance, which takes a decomposition for each.
    groups
        Parts of the samples of which one at a time is left out for the interval of the Procrustes distance.
    level
        Of the tests.
    halves
        Random halvings of the samples whose density trees are compared.
    tree_width
        Principal coordinates in which densities are estimated, because log-densities of spaces of different
        dimension are not comparable.
    """

    most: int = 1000
    least: int = 50
    neighbors: int = 10
    permutations: int = 200
    rotations: int = 40
    groups: int = 20
    level: float = 0.05
    halves: int = 8
    tree_width: int = 8


COMPARISON = ComparisonSettings()


@dataclass(frozen=True)
class Measure:
    """One figure between the last points of A and of B.

    Attributes
    ----------
    value
        With its 95 % interval over samples.
    chance
        What samples in random order reach in one of twenty cases: a similarity above it, or a distance below
        it, is not chance.
    p
        Of the permutation test.
    calibrated
        The share of the way from chance to identity, between 0 and 1.
    """

    value: Estimate
    chance: float
    p: float
    calibrated: float


@dataclass(frozen=True, eq=False)
class Depths:
    """One similarity of all pairs of depths.

    Attributes
    ----------
    values
        ``(L_a, L_b)``.
    best
        Points of A and of B that are most alike.
    chance
        What the most alike of all pairs of depths reaches in random order in one of twenty cases.
    p
        Of that maximum: the more depths are compared, the larger it is by chance.
    """

    values: Floats
    best: tuple[str, str]
    chance: float
    p: float


@dataclass(frozen=True, eq=False)
class Comparison(Result, kind="comparison"):
    """What two models, checkpoints or depths have in common.

    Attributes
    ----------
    points_a, points_b
        Points compared, in order of depth.
    samples
        Distinct samples that both read, 0 where there are none in common.
    measures
        ``"CKA"``, ``"mutual neighbors"`` (similarities) and ``"Procrustes distance"`` of the last points;
        empty where no sample is in common.
    depths
        ``"CKA"`` and ``"mutual neighbors"`` of all pairs of depths.
    trees
        Distance of the density trees of the last points, on disjoint halves of the samples: ``"A to B"``, and
        the controls ``"halves of A"`` and ``"halves of B"``, the same model on other samples. Means over
        random halvings, with their range.
    translation
        The map from A to B, where it was asked for.
    verdict
        ``"found"``: more alike than by chance in geometry and in neighbors. ``"neighborhoods"``: only in
        neighbors.
        ``"not found"``, or ``"inconclusive"``.
    reason
        One sentence that explains the verdict.
    """

    points_a: tuple[str, ...]
    points_b: tuple[str, ...]
    samples: int
    measures: Mapping[str, Measure]
    depths: Mapping[str, Depths]
    trees: Mapping[str, Estimate]
    verdict: str
    reason: str
    translation: LinearTranslation | None = None
    neighbors: int = field(default=COMPARISON.neighbors)

    def __repr__(self) -> str:
        lines = [f"Comparison on {self.samples} samples, verdict {self.verdict!r}", f"  {self.reason}"]
        if self.measures:
            lines.append(f"  {'at the last points':20s} {'':22s} by chance  calibrated  p")
        for name, one in self.measures.items():
            lines.append(
                f"  {name:20s} {one.value!r:22s} {one.chance:9.3f}  {one.calibrated:10.3f}  {one.p:.3g}"
            )
        for name, all_depths in self.depths.items():
            if all_depths.values.size > 1:
                a, b = all_depths.best
                lines.append(
                    f"  {name}, of all depths: {all_depths.values.max():.3f} at {a} and {b} "
                    f"(by chance {all_depths.chance:.3f}, p {all_depths.p:.3g})"
                )
        trees = "; ".join(f"{name} {value.value:.2f}" for name, value in self.trees.items())
        lines.append(f"  distance of trees: {trees or 'not measured'}")
        if self.translation is not None:
            lines.append(f"  translation: {self.translation.verdict} ({self.translation.reason})")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain values; the verdict of the translation is within ``translation``."""
        return super().to_dict() | {
            "translation": None if self.translation is None else self.translation.to_dict()
        }

    def plot(self) -> Figure:
        """Similarity of all pairs of depths; of one pair, the figures with their values by chance."""
        from repdyn.views.comparison import comparison  # loads plotly

        return comparison(
            self.points_a,
            self.points_b,
            {name: (one.values, one.chance) for name, one in self.depths.items()},
            {name: (one.value.to_dict(), one.chance) for name, one in self.measures.items()},
            self.verdict,
            {name: value.to_dict() for name, value in self.trees.items()},
        )


def compare(
    a: PathsLike,
    b: PathsLike,
    points: tuple[str, str] | None = None,
    translation: bool = False,
    seed: int = 0,
) -> Comparison:
    """Compare two models, two checkpoints or two depths by the geometry of their representations.

    Samples of equal id are the same sample; arrays have row numbers for ids. Where none is in common, only
    the density trees are compared, and the translation if asked for. Every similarity is compared with that
    of the same samples in random order: without it, wide layers of few samples seem alike, and so does the
    best of many pairs of depths (which is compared with the best of as many pairs in random order).

    Parameters
    ----------
    a, b
        Paths, stores, files of vectors or points ``(N, D)``, see :func:`~repdyn.paths.as_paths`.
    points
        One point of A and one of B, for two depths of one model too. Default: all; the last ones are compared
        in full.
    translation
        Whether to search the linear map from A to B without pairs as well, see
        :func:`~repdyn.translation.translate`.
    seed
        Of drawn samples, permutations and halvings.

    Returns
    -------
    Comparison

    Raises
    ------
    RepdynError
        On unknown points, points that keep tokens, ids that are there twice, or values that are not finite.

    Notes
    -----
    Where few axes hold nearly all of the variance (outlier coordinates of language models), they are brought
    to the variance of the others before anything is measured. Equal samples are one.

    References
    ----------
    Gröger, F., Wen, S. and Brbić, M. (2026). Revisiting the Platonic representation hypothesis: an
    Aristotelian view. ICML, arXiv 2602.14486 (calibration for width and depth). Kornblith, S. et al. (2019).
    Similarity of neural network representations revisited. ICML.

    Examples
    --------
    >>> x, noise = np.random.default_rng(0).normal(size=(2, 100, 3))
    >>> compare(x, x[:, ::-1] + 0.1 * noise).verdict
    'found'
    >>> compare(x, noise).verdict
    'not found'
    """
    paths_a, paths_b = as_paths(a, "a"), as_paths(b, "b")
    names_a, names_b = _points(paths_a, points, 0), _points(paths_b, points, 1)
    rows = _in_common(paths_a, paths_b)
    found = (
        None if not translation else translate(paths_a, paths_b, points=(names_a[-1], names_b[-1]), seed=seed)
    )
    if rows is None:
        reason = "the two have no sample in common, by id, so that similarities cannot be measured"
        x, y = (_read(p, n[-1:], None, seed)[0] for p, n in ((paths_a, names_a), (paths_b, names_b)))
        trees = _trees(x, y, None, seed)
        return Comparison(names_a, names_b, 0, {}, {}, trees, "inconclusive", reason, found)
    of_a = _read(paths_a, names_a, rows[0], seed)
    of_b = _read(paths_b, names_b, rows[1], seed)
    # Copies of a sample are neighbors in any representation.
    both = groups_of_equal_rows(np.concatenate([_typical(of_a[-1]), _typical(of_b[-1])], axis=1))
    distinct = np.sort(np.unique(both, return_index=True)[1])
    of_a, of_b = ([x[distinct] for x in each] for each in (of_a, of_b))
    count = len(distinct)
    if count < COMPARISON.least:
        reason = (
            f"{count} distinct samples in common are too few to tell similarity from chance; give "
            f"{COMPARISON.least} or more"
        )
        return Comparison(names_a, names_b, count, {}, {}, {}, "inconclusive", reason, found)
    of_a, of_b = ([_shrunk(x) for x in each] for each in (of_a, of_b))
    null = Permuted(of_a, of_b, COMPARISON.neighbors, COMPARISON.permutations, seed)
    depths = {
        "CKA": _of_depths(null.alignment, null.chance_alignment, names_a, names_b),
        "mutual neighbors": _of_depths(null.neighbors, null.chance_neighbors, names_a, names_b),
    }
    measures = {
        "CKA": _cka(of_a[-1], of_b[-1], null),
        "mutual neighbors": _mutual(of_a[-1], of_b[-1], null, seed),
        "Procrustes distance": _procrustes(of_a[-1], of_b[-1], seed),
    }
    verdict, reason = _verdict(depths)
    trees = _trees(of_a[-1], of_b[-1], np.arange(count), seed)
    return Comparison(names_a, names_b, count, measures, depths, trees, verdict, reason, found)


def _points(paths: RepresentationPaths, points: tuple[str, str] | None, side: int) -> tuple[str, ...]:
    """The points to compare of one side; raises for unknown ones and for tokens."""
    names = paths.points if points is None else (points[side],)
    for name in names:
        if name not in paths.points:
            raise RepdynError(f"compare: points: there is no {name!r}; {nearest_names(name, paths.points)}")
        if name in paths.tokens:
            raise RepdynError(f"compare: {name!r} keeps tokens; trace it pooled, (N, D)")
    return tuple(names)


def _in_common(a: RepresentationPaths, b: RepresentationPaths) -> tuple[Index, Index] | None:
    """Rows of A and of B of the same samples, or None if there are none."""
    numbered = [(paths.ids == np.arange(len(paths)).astype(np.str_)).all() for paths in (a, b)]
    if all(numbered) and len(a) != len(b):
        return None  # row numbers of different data are no ids
    for name, paths in (("a", a), ("b", b)):
        ids, counts = np.unique(paths.ids, return_counts=True)
        if len(ids) < len(paths):
            raise RepdynError(
                f"compare: {name}: id {str(ids[counts.argmax()])!r} is there {counts.max()} times; give "
                "every sample an id of its own"
            )
    shared, of_a, of_b = np.intersect1d(a.ids, b.ids, return_indices=True)
    if len(shared) == 0:
        return None
    if all(numbered):  # in the order of the rows, and not of their numbers as text
        return np.arange(len(a)), np.arange(len(b))
    return of_a.astype(np.int64), of_b.astype(np.int64)


def _read(paths: RepresentationPaths, names: tuple[str, ...], rows: Index | None, seed: int) -> list[Floats]:
    """Points of some samples in float64, of at most as many as are compared."""
    known = np.arange(len(paths)) if rows is None else rows
    drawn = drawn_rows(len(known), COMPARISON.most, seed)
    part = paths.subset(known if drawn is None else known[drawn])
    (block,) = part.iterate(names, len(part))
    return [block[name].astype(np.float64) for name in names]


def _typical(x: Floats) -> Floats:
    spread = float(x.std())
    return x / spread if spread > 0 else x


def _shrunk(x: Floats) -> Floats:
    """Centered points, without outlier axes."""
    x = x - x.mean(0)
    shrink = outlier_shrink(x)
    return x if shrink is None else x @ shrink


def _of_depths(values: Floats, chance: Floats, a: tuple[str, ...], b: tuple[str, ...]) -> Depths:
    best = np.unravel_index(int(values.argmax()), values.shape)
    quantile, p = permuted(values.max(), chance.max(axis=(1, 2)))
    return Depths(values, (a[best[0]], b[best[1]]), quantile, p)


def _cka(x: Floats, y: Floats, null: Permuted) -> Measure:
    value = float(null.alignment[-1, -1])
    error = 1.96 * jackknife_alignment(unbiased_gram(x), unbiased_gram(y))
    chance, p = permuted(value, null.chance_alignment[:, -1, -1])
    estimate = Estimate(value, max(value - error, -1.0), min(value + error, 1.0))
    return Measure(estimate, chance, p, _calibrated(value, chance, 1.0))


def _mutual(x: Floats, y: Floats, null: Permuted, seed: int) -> Measure:
    tables = [neighbor_table(points, COMPARISON.neighbors) for points in (x, y)]
    estimate = bootstrap_mean(mutual_neighbors(*tables), seed=seed)
    chance, p = permuted(estimate.value, null.chance_neighbors[:, -1, -1])
    return Measure(estimate, chance, p, _calibrated(estimate.value, chance, 1.0))


def _procrustes(x: Floats, y: Floats, seed: int) -> Measure:
    value = procrustes_distance(x, y)
    generator = np.random.default_rng(seed)
    parts = np.array_split(generator.permutation(len(x)), COMPARISON.groups)
    left = np.array([procrustes_distance(np.delete(x, p, axis=0), np.delete(y, p, axis=0)) for p in parts])
    # The delete-a-group jackknife: leaving out single samples would take a decomposition for each.
    error = 1.96 * float(np.sqrt((len(parts) - 1) / len(parts) * ((left - left.mean()) ** 2).sum()))
    orders = [generator.permutation(len(x)) for _ in range(COMPARISON.rotations)]
    chance = -np.array([procrustes_distance(x[order], y) for order in orders])
    quantile, p = permuted(-value, chance)
    estimate = Estimate(value, max(value - error, 0.0), value + error)
    return Measure(estimate, -quantile, p, _calibrated(value, -quantile, 0.0))


def _calibrated(value: float, chance: float, same: float) -> float:
    """Share of the way from chance to what equal representations have."""
    if chance == same:
        return 0.0
    return float(np.clip((value - chance) / (same - chance), 0.0, 1.0))


def _verdict(depths: Mapping[str, Depths]) -> tuple[str, str]:
    cka, mutual = depths["CKA"], depths["mutual neighbors"]
    pairs = "at the best of the pairs of depths" if cka.values.size > 1 else "at the two points"
    figures = f"CKA p {cka.p:.3g}, mutual neighbors p {mutual.p:.3g} {pairs}"
    if mutual.p <= COMPARISON.level:
        if cka.p <= COMPARISON.level:
            return "found", f"geometry (CKA) and neighbors are more alike than by chance ({figures})"
        return (
            "neighborhoods",
            f"neighbors are more alike than by chance, the geometry (CKA) is not ({figures})",
        )
    if cka.p <= COMPARISON.level:
        return (
            "inconclusive",
            f"the geometry (CKA) is more alike than by chance, neighbors are not ({figures})",
        )
    return "not found", f"no more similar than samples in random order ({figures})"


def _trees(x: Floats, y: Floats, common: Index | None, seed: int) -> dict[str, Estimate]:
    """Distances of density trees between A and B, and between halves of either, on disjoint samples."""
    if min(len(x), len(y)) < COMPARISON.least:
        return {}
    width = min(COMPARISON.tree_width, x.shape[1], y.shape[1])
    x, y = _principal(x, width), _principal(y, width)
    distances: dict[str, list[float]] = {"A to B": [], "halves of A": [], "halves of B": []}
    half = min(len(x), len(y)) // 2
    for turn in range(COMPARISON.halves):
        generator = np.random.default_rng((seed, turn))
        of_a = generator.permutation(len(x))
        of_b = of_a if common is not None else generator.permutation(len(y))
        trees = [
            LevelSetTree.fit(points[order[part : part + half]], seed=seed)
            for points, order in ((x, of_a), (y, of_b))
            for part in (0, half)
        ]
        crossed = [merge_tree_distance(trees[0], trees[3]), merge_tree_distance(trees[1], trees[2])]
        distances["A to B"].append(float(np.mean(crossed)))
        distances["halves of A"].append(merge_tree_distance(trees[0], trees[1]))
        distances["halves of B"].append(merge_tree_distance(trees[2], trees[3]))
    return {
        name: Estimate(float(np.mean(found)), float(np.min(found)), float(np.max(found)))
        for name, found in distances.items()
    }


def _principal(x: Floats, width: int) -> Floats:
    """The first principal coordinates, with mean squared length 1 over all."""
    x = x - x.mean(0)
    coordinates = x @ np.linalg.svd(x, full_matrices=False)[2][:width].T
    return _typical(np.asarray(coordinates))
