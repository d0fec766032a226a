"""Cross-fitted densities: each sample's distance comes from a density that was fitted without it.

:class:`PathStatistics` computes them at the points of paths, once for all detectors that are fitted on those
paths; :func:`cross_fit` does it for one array, and :class:`CrossFitting` for an array that is read in parts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from repdyn.arguments import whole
from repdyn.errors import RepdynError
from repdyn.ood.gaussian import ARRAYS, Moments, ShrunkGaussian, Squared, unit, unit_and_lengths
from repdyn.ood.path_chunks import HELD, MultiPassReader
from repdyn.ood.settings import FIT
from repdyn.paths import drawn_rows, nearby
from repdyn.repeats import folds_by_group

if TYPE_CHECKING:
    from repdyn.paths import RepresentationPaths

__all__ = [
    "CrossFit",
    "CrossFitting",
    "Density",
    "DistanceName",
    "HeldOut",
    "PathStatistics",
    "RelativeDensity",
    "TwofoldDensity",
    "bank_rows",
    "cross_fit",
    "directions",
    "draw_folds",
    "share_equal",
]

Array = NDArray[np.float64]
DistanceName = Literal["plain", "relative", "twofold"]

SUMS = 2**30  # bytes of sums and densities held together; points that need more are fitted in turn


@dataclass(frozen=True, eq=False)
class RelativeDensity:
    """Relative Mahalanobis distance: to the nearest class mean, minus that to the common mean.

    d(x) = min_c ‖Σ_w^{-1/2} (x − μ_c)‖² − ‖Σ^{-1/2} (x − μ)‖²

    Up to a constant, twice the log-likelihood ratio of the background against the nearest class.

    Attributes
    ----------
    conditional, background
        Densities around the class means and around the common mean.

    References
    ----------
    Ren, J. et al. (2021). A simple fix to Mahalanobis distance for improving near-OOD detection.
    arXiv 2106.09022.
    """

    conditional: ShrunkGaussian
    background: ShrunkGaussian

    def distance(self, x: NDArray[np.floating]) -> Array:
        """The relative distance, ``(N,)``; negative for a sample near its class."""
        return self.distance_by(lambda density: density.nearest_squared(x))

    def distance_by(self, squared: Squared) -> Array:
        """:meth:`distance` from squared distances that may be cached, ``(N,)``."""
        return np.asarray(squared(self.conditional) - squared(self.background), dtype=np.float64)


@dataclass(frozen=True, eq=False)
class TwofoldDensity:
    """Sum of the Mahalanobis distance and the relative distance, each in units of its standard deviation.

    d(x) = d_all(x) / s_all + d_rel(x) / s_rel

    The distance to the nearest class is also a sum of both terms, but the variance of the first grows with
    the dimension and dominates there. The relative distance alone is nearly constant along directions in
    which classes do not differ. Dividing each term by its own standard deviation keeps both.

    Attributes
    ----------
    relative
        The second term, :class:`RelativeDensity`; its background gives the first.
    spread
        (s_all, s_rel), standard deviations over held-out in-distribution samples.
    """

    relative: RelativeDensity
    spread: tuple[float, float]

    def distance(self, x: NDArray[np.floating]) -> Array:
        """The sum, ``(N,)``."""
        return self.distance_by(lambda density: density.nearest_squared(x))

    def distance_by(self, squared: Squared) -> Array:
        """:meth:`distance` from squared distances that may be cached, ``(N,)``."""
        whole = self.relative.background.distance_by(squared)
        return whole / self.spread[0] + self.relative.distance_by(squared) / self.spread[1]


Density = ShrunkGaussian | RelativeDensity | TwofoldDensity


@dataclass(frozen=True, eq=False)
class HeldOut:
    """A density fitted to all samples, and each sample's distance under a density fitted without it.

    Attributes
    ----------
    density
        Fitted to all samples.
    distances
        Shape ``(N,)``, float64.
    """

    density: Density
    distances: Array


@dataclass(frozen=True, eq=False)
class CrossFit:
    """Cross-fitted distances of one set of samples.

    Attributes
    ----------
    plain
        Mahalanobis distance to the nearest mean: class means where they help.
    relative, twofold
        Where class means help, else ``None``.
    groups
        Group of equal samples that each sample belongs to, ``(N,)``, if known.
    lengths
        The smallest and the largest Euclidean norm, if known.
    """

    plain: HeldOut
    relative: HeldOut | None
    twofold: HeldOut | None
    groups: NDArray[np.int64] | None = None
    lengths: tuple[float, float] | None = None

    def first_of(self, preference: Iterable[DistanceName]) -> HeldOut | None:
        """The first distance, in order of preference, that exists here."""
        for name in preference:
            found: HeldOut | None = getattr(self, name)
            if found is not None:
                return found
        return None


class PathStatistics:
    """Cross-fitted densities at the points of paths, computed once and shared by several detectors.

    Parameters
    ----------
    paths
        In-distribution paths; labels, if they have some, may give class means.
    seed
        Draws the folds.

    Attributes
    ----------
    paths
        The paths, in memory if they were remote and fit there.
    seed
        As given.
    """

    def __init__(self, paths: RepresentationPaths, seed: int) -> None:
        self.paths = nearby(paths, HELD)
        self.seed = seed
        self._fits: dict[str, CrossFit | None] = {}

    @property
    def computed(self) -> bool:
        """Whether any point was computed already."""
        return bool(self._fits)

    def known(self, point: str) -> CrossFit | None:
        """What is known at a point without computing anything."""
        return self._fits.get(point)

    def at(self, points: Iterable[str]) -> dict[str, CrossFit | None]:
        """Cross-fitted distances at points; ``None`` where too few samples are distinct."""
        points = tuple(points)
        missing = tuple(point for point in points if point not in self._fits)
        if missing:
            labels = None
            if self.paths.labels is not None:
                labels = np.unique(np.asarray(self.paths.labels), return_inverse=True)[1].astype(np.intp)
            self._fits.update(cross_fit_points(self.paths, missing, labels, self.seed))
        return {point: self._fits[point] for point in points}

    def class_means_help(self) -> bool:
        """Whether class means describe held-out samples better at any point computed so far."""
        return any(fit is not None and fit.relative is not None for fit in self._fits.values())


def cross_fit_points(
    paths: RepresentationPaths, points: tuple[str, ...], labels: NDArray[np.intp] | None, seed: int
) -> dict[str, CrossFit | None]:
    """Cross-fit the unit vectors at each point, with equal samples in one fold.

    Parameters
    ----------
    paths, points
        Read twice to find equal samples, once for the sums, once for the held-out distances.
    labels
        Class numbers ``(N,)``, or ``None``.
    seed
        Draws the folds.

    Returns
    -------
    dict
        By point; ``None`` where too few samples are distinct.
    """
    reader = MultiPassReader(paths, points)
    groups = reader.equal(directions)
    constant = FIT.constant_variance_float64 if paths.dtype == np.float64 else FIT.constant_variance
    result: dict[str, CrossFit | None] = dict.fromkeys(points)
    ends = dict.fromkeys(points, (np.inf, 0.0))
    varying = [point for point in points if int(groups[point].max()) + 1 >= FIT.min_distinct]
    classes = 0 if labels is None else int(labels.max(initial=0)) + 1
    for part in _in_parts(varying, {p: _size(_width(paths, p), classes) for p in varying}):
        fits = {p: CrossFitting(labels, draw_folds(groups[p], seed), constant=constant) for p in part}
        for start, arrays in reader.read("fitting densities", part):
            for point, x in arrays.items():
                directed, norms = unit_and_lengths(x)
                low, high = ends[point]
                ends[point] = min(low, float(norms.min())), max(high, float(norms.max()))
                fits[point].add(start, directed)
        fits = {point: fit for point, fit in fits.items() if fit.fit_densities()}
        if not fits:
            continue
        for start, arrays in reader.read("scoring held-out samples", tuple(fits)):
            for point, x in arrays.items():
                fits[point].score(start, unit_and_lengths(x)[0])
        for point, fit in fits.items():
            result[point] = replace(fit.result(), groups=groups[point], lengths=ends[point])
    return result


def directions(x: NDArray[Any]) -> NDArray[Any]:
    """Unit vectors ``(n, D)`` in the type of the samples: equality is tested on these."""
    return unit(x).astype(x.dtype, copy=False)


def _width(paths: RepresentationPaths, point: str) -> int:
    return paths.widths.get(point, paths.logits_width or 0)


def _size(width: int, classes: int) -> int:
    """Bytes of a cross-fit at one point: scatters of the folds, then a pair of densities for each fold."""
    return 8 * width * (2 * (FIT.folds + 1) * width + FIT.folds * classes)


def _in_parts(points: list[str], size: dict[str, int]) -> Iterator[tuple[str, ...]]:
    """Points in their order, as many at a time as :data:`SUMS` bytes hold."""
    part: list[str] = []
    for point in points:
        if part and sum(size[p] for p in (*part, point)) > SUMS:
            yield tuple(part)
            part = []
        part.append(point)
    if part:
        yield tuple(part)


def draw_folds(groups: NDArray[np.int64], seed: int) -> NDArray[np.intp]:
    """Fold of each sample, ``(N,)``. Equal samples share one, or a held-out copy would be fitted on."""
    generator = np.random.default_rng(seed)
    if int(groups.max(initial=-1)) + 1 < len(groups):
        return folds_by_group(groups, FIT.folds, generator).astype(np.intp)
    fold = np.arange(len(groups)) % FIT.folds
    generator.shuffle(fold)
    return fold


def cross_fit(
    x: Array,
    labels: NDArray[np.intp] | None,
    fold: NDArray[np.intp],
    floor: float = FIT.covariance_floor,
    constant: float = FIT.constant_variance,
) -> CrossFit | None:
    """Fit a Gaussian, and one around class means if it describes *held-out* samples better.

    Whether class means help is decided by description length: the nats that coding a held-out
    in-distribution sample relative to its nearest class mean saves, minus the log C nats that coding the
    class costs (each covariance in its best scale). No out-of-distribution data is used. Labels that are
    uninformative at a point (an early layer), or as many as the samples, therefore do no harm.

    Parameters
    ----------
    x
        Unit vectors ``(N, D)``, or features of comparable scale.
    labels
        Class numbers ``(N,)`` or ``None``.
    fold
        Fold of each sample ``(N,)``, numbers from 0.
    floor
        As in :func:`repdyn.ood.gaussian.fit_gaussian`.
    constant
        Total variance below which the samples are constant up to rounding.

    Returns
    -------
    CrossFit
        Or ``None`` where the samples are constant.
    """
    fitting = CrossFitting(labels, fold, floor, constant)
    fitting.add(0, x)
    if not fitting.fit_densities():
        return None
    fitting.score(0, x)
    return fitting.result()


class CrossFitting:
    """:func:`cross_fit` for samples that are read in parts, in two passes.

    First :meth:`add` all parts, then :meth:`fit_densities`, then :meth:`score` all parts, then take the
    :meth:`result`. No sample is stored.

    Parameters
    ----------
    labels, fold, floor, constant
        As in :func:`cross_fit`.
    """

    def __init__(
        self,
        labels: NDArray[np.intp] | None,
        fold: NDArray[np.intp],
        floor: float = FIT.covariance_floor,
        constant: float = FIT.constant_variance,
    ) -> None:
        self._fold, self._floor, self._constant = fold, floor, constant
        self._folds = int(fold.max()) + 1
        use = labels if labels is not None and _enough_per_class(labels, fold) else None
        self._labels = None if use is None else np.unique(use, return_inverse=True)[1].astype(np.intp)
        self._classes = 0 if self._labels is None else int(self._labels.max()) + 1
        self._moments: Moments | None = None
        self._held_out: list[list[ShrunkGaussian]] = []
        self._all: list[ShrunkGaussian] = []
        # Distances to the common mean and to the nearest class mean, and the relative distance. Without
        # labels the last two stay zero.
        self._one, self._several, self._ratio = np.zeros((3, len(fold)))
        self._volume, self._width = 0.0, 0

    def add(self, start: int, x: Array) -> None:
        """First pass: the samples ``(n, D)`` from number ``start`` on."""
        part = slice(start, start + len(x))
        labels = None if self._labels is None else self._labels[part]
        if self._moments is None:
            self._moments = Moments(x, labels, self._fold[part], folds=self._folds, classes=self._classes)
        else:
            self._moments.add(x, labels, self._fold[part])

    def fit_densities(self) -> bool:
        """Fit the densities with and without each fold; false where the samples are constant."""
        moments = self._moments
        if moments is None or moments.variance < self._constant:
            return False
        for k in range(self._folds):
            pair = [moments.gaussian(self._floor, classes=False, without=k)]
            if self._labels is not None:
                pair.append(moments.gaussian(self._floor, without=k))
                change = pair[0].log_determinant - pair[1].log_determinant
                self._volume += change * float((self._fold == k).mean())
            self._held_out.append(pair)
        self._all = [moments.gaussian(self._floor, classes=False)]
        if self._labels is not None:
            self._all.append(moments.gaussian(self._floor))
        self._width, self._moments = len(self._all[0].center), None
        return True

    def score(self, start: int, x: Array) -> None:
        """Second pass: distances of the samples under the densities that were fitted without them."""
        fold = self._fold[start : start + len(x)]
        for k in np.unique(fold):
            rows = np.flatnonzero(fold == k)
            out, at = x[rows], start + rows
            whole = self._held_out[k][0].nearest_squared(out)
            self._one[at] = np.sqrt(whole)
            if self._labels is not None:
                near = self._held_out[k][1].nearest_squared(out)
                self._several[at], self._ratio[at] = np.sqrt(near), near - whole

    def result(self) -> CrossFit:
        """The held-out distances, and the densities of all samples."""
        self._held_out = []
        one, several, ratio, use = self._one, self._several, self._ratio, self._labels
        background = self._all[0]
        spread = float(one.std()), float(ratio.std())
        if use is None or min(spread) == 0 or _gain(one, several, self._volume, self._width, use) <= 0:
            return CrossFit(HeldOut(background, one), None, None)
        conditional = self._all[1]
        relative = RelativeDensity(conditional, background)
        return CrossFit(
            HeldOut(conditional, several),
            HeldOut(relative, ratio),
            HeldOut(TwofoldDensity(relative, spread), one / spread[0] + ratio / spread[1]),
        )


def share_equal(densities: Iterable[Mapping[str, Density]]) -> list[dict[str, Density]]:
    """The same densities by point, with equal Gaussians as one object, so that a chunk computes each once."""
    known: list[ShrunkGaussian] = []

    def same(density: ShrunkGaussian) -> ShrunkGaussian:
        for other in known:
            if all(np.array_equal(getattr(density, name), getattr(other, name)) for name in ARRAYS):
                return other
        known.append(density)
        return density

    def shared(density: Density) -> Density:
        if isinstance(density, ShrunkGaussian):
            return same(density)
        pair = density.relative if isinstance(density, TwofoldDensity) else density
        pair = RelativeDensity(same(pair.conditional), same(pair.background))
        return replace(density, relative=pair) if isinstance(density, TwofoldDensity) else pair

    return [{point: shared(density) for point, density in by_point.items()} for by_point in densities]


def _gain(one: Array, several: Array, volume: float, width: int, labels: NDArray[np.intp]) -> float:
    """Nats that class means save per held-out sample, minus those that code the class.

    Parameters
    ----------
    one, several
        Held-out distances to the common mean and to the nearest class mean, ``(N,)``.
    volume
        Mean difference of the log determinants.
    width
        Dimension D.
    labels
        Class numbers ``(N,)``.
    """
    shrunk = width * float(np.log(np.sum(one**2) / np.sum(several**2)))
    return 0.5 * (volume + shrunk) - float(np.log(len(np.unique(labels))))


def _enough_per_class(labels: NDArray[np.intp], fold: NDArray[np.intp]) -> bool:
    """Whether without any fold there are at least two classes, and two samples per class on average."""
    kept = [labels[fold != k] for k in range(int(fold.max()) + 1)]
    return all(2 <= len(np.unique(own)) <= len(own) // 2 for own in kept)


def bank_rows(groups: NDArray[np.int64], bank: int, seed: int, what: str) -> tuple[NDArray[np.int64], int]:
    """Rows of a bank of different samples, drawn at random, and the number of different samples.

    Parameters
    ----------
    groups
        Group of equal samples that each belongs to, shape ``(N,)``.
    bank
        Largest number of rows.
    seed
        Of the draw.
    what
        What is fitted, for the error.

    Raises
    ------
    RepdynError
        On fewer than 20 different samples, or a smaller bank.
    """
    first = np.sort(np.unique(groups, return_index=True)[1])
    if len(first) < FIT.min_samples:
        raise RepdynError(
            f"fit: {what} needs at least {FIT.min_samples} different samples, got {len(groups)} samples of "
            f"which {len(first)} differ"
        )
    if whole("bank", bank) < FIT.min_samples:
        raise RepdynError(f"bank: must be at least {FIT.min_samples}, got {bank}")
    drawn = drawn_rows(len(first), whole("bank", bank), seed)
    return first if drawn is None else first[drawn], len(first)
