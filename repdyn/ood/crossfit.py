"""Densities scored on samples they did not see, with class means where those help."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from repdyn.ood.gaussian import ARRAYS, FLOOR, Moments, ShrunkGaussian, Squared
from repdyn.repeats import folds_by_group

__all__ = [
    "CONSTANT",
    "CONSTANT_DOUBLE",
    "FOLDS",
    "CrossFit",
    "CrossFitting",
    "Density",
    "HeldOut",
    "RelativeDensity",
    "TwofoldDensity",
    "cross_fit",
    "folds",
    "share",
]

Array = NDArray[np.float64]

FOLDS = 5  # held-out scores come from models that saw four fifths: close to the final one, five fits only
# Total variance of unit vectors below which a point is constant but for rounding, (1e-7)² and some room.
CONSTANT = 1e-12
CONSTANT_DOUBLE = 1e-28  # the same of samples that came in float64


@dataclass(frozen=True, eq=False)
class RelativeDensity:
    """How much less a sample is like any class than like the data as a whole.

    d(x) = min_c ‖Σ_w^{-1/2} (x − μ_c)‖² − ‖Σ^{-1/2} (x − μ)‖²

    Twice a log-likelihood ratio of the background against the nearest class.

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
        return self.distance_by(lambda own: own.nearest_squared(x))

    def distance_by(self, squared: Squared) -> Array:
        """The same, from squared distances that may be at hand."""
        return np.asarray(squared(self.conditional) - squared(self.background), dtype=np.float64)


@dataclass(frozen=True, eq=False)
class TwofoldDensity:
    """Being unlike all data, and being unlike every class, each in units of its own spread, added.

    d(x) = d_all(x) / s_all + d_rel(x) / s_rel

    A class distance is the sum of both in units that let the first, whose spread grows with the
    dimension, drown the second. The relative distance keeps the second and is nearly blind along
    directions in which classes do not differ. Here both are heard.

    Attributes
    ----------
    relative
        The second, :class:`RelativeDensity`; its background gives the first.
    spread
        (s_all, s_rel), standard deviations over held-out in-distribution samples.
    """

    relative: RelativeDensity
    spread: tuple[float, float]

    def distance(self, x: NDArray[np.floating]) -> Array:
        """The sum, ``(N,)``."""
        return self.distance_by(lambda own: own.nearest_squared(x))

    def distance_by(self, squared: Squared) -> Array:
        """The same, from squared distances that may be at hand."""
        whole = self.relative.background.distance_by(squared)
        return whole / self.spread[0] + self.relative.distance_by(squared) / self.spread[1]


Density = ShrunkGaussian | RelativeDensity | TwofoldDensity


@dataclass(frozen=True, eq=False)
class HeldOut:
    """A density fitted to all samples, and each sample's distance under one that did not see it.

    Attributes
    ----------
    density
        Fitted to all samples.
    distances
        Shape ``(N,)``.
    """

    density: Density
    distances: Array


@dataclass(frozen=True, eq=False)
class CrossFit:
    """The distances that one set of samples gives.

    Attributes
    ----------
    plain
        Mahalanobis distance to the nearest mean: class means where they help.
    relative, twofold
        Where class means help, else ``None``.
    groups
        Group of equal samples that each belongs to, ``(N,)``, if it was noted.
    lengths
        The least and the largest Euclidean norm, if they were noted.
    """

    plain: HeldOut
    relative: HeldOut | None
    twofold: HeldOut | None
    groups: NDArray[np.int64] | None = None
    lengths: tuple[float, float] | None = None


def folds(groups: NDArray[np.int64], seed: int) -> NDArray[np.intp]:
    """Fold of each sample; equal samples share one, or a held-out sample would have been seen after all."""
    generator = np.random.default_rng(seed)
    if int(groups.max(initial=-1)) + 1 < len(groups):
        return folds_by_group(groups, FOLDS, generator).astype(np.intp)
    fold = np.arange(len(groups)) % FOLDS
    generator.shuffle(fold)
    return fold


def cross_fit(
    x: Array,
    labels: NDArray[np.intp] | None,
    fold: NDArray[np.intp],
    floor: float = FLOOR,
    constant: float = CONSTANT,
) -> CrossFit | None:
    """Fit a Gaussian, and around class means too if they describe *held-out* samples better.

    Whether classes help is decided by description length: how many nats a held-out in-distribution sample
    saves when it is told relative to its nearest class mean, against the log C nats that naming the class
    costs (each covariance in its best scale). Out-of-distribution data has no say. So labels that say
    nothing at a point (an early layer), or that are as many as the samples, do no harm.

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
        Total variance below which the samples do not vary but for rounding.

    Returns
    -------
    CrossFit
        Or ``None`` where the samples do not vary.
    """
    fitting = CrossFitting(labels, fold, floor, constant)
    fitting.see(0, x)
    if not fitting.settle():
        return None
    fitting.score(0, x)
    return fitting.result()


class CrossFitting:
    """What :func:`cross_fit` does, of samples that pass by in parts, twice.

    First :meth:`see` all parts, then :meth:`settle`, then :meth:`score` all parts; then there is a
    :meth:`result`. No sample is kept.

    Parameters
    ----------
    labels, fold, floor, constant
        As in :func:`cross_fit`.
    """

    def __init__(
        self,
        labels: NDArray[np.intp] | None,
        fold: NDArray[np.intp],
        floor: float = FLOOR,
        constant: float = CONSTANT,
    ) -> None:
        self._fold, self._floor, self._constant = fold, floor, constant
        self._folds = int(fold.max()) + 1
        use = labels if labels is not None and _enough(labels, fold) else None
        self._labels = None if use is None else np.unique(use, return_inverse=True)[1].astype(np.intp)
        self._classes = 0 if self._labels is None else int(self._labels.max()) + 1
        self._moments: Moments | None = None
        self._held: list[list[ShrunkGaussian]] = []
        self._all: list[ShrunkGaussian] = []
        # Without labels the last two stay zero.
        self._one, self._several, self._ratio = np.zeros((3, len(fold)))
        self._volume, self._width = 0.0, 0

    def see(self, start: int, x: Array) -> None:
        """First pass: the samples from number ``start`` on, ``(n, D)``."""
        part = slice(start, start + len(x))
        labels = None if self._labels is None else self._labels[part]
        if self._moments is None:
            self._moments = Moments(x, labels, self._fold[part], folds=self._folds, classes=self._classes)
        else:
            self._moments.add(x, labels, self._fold[part])

    def settle(self) -> bool:
        """Fit the densities with and without each fold; False where the samples do not vary."""
        moments = self._moments
        if moments is None or moments.variance < self._constant:
            return False
        for k in range(self._folds):
            own = [moments.gaussian(self._floor, classes=False, without=k)]
            if self._labels is not None:
                own.append(moments.gaussian(self._floor, without=k))
                change = own[0].log_determinant - own[1].log_determinant
                self._volume += change * float((self._fold == k).mean())
            self._held.append(own)
        self._all = [moments.gaussian(self._floor, classes=False)]
        if self._labels is not None:
            self._all.append(moments.gaussian(self._floor))
        self._width, self._moments = len(self._all[0].centre), None
        return True

    def score(self, start: int, x: Array) -> None:
        """Second pass: distances of the samples under the densities that were fitted without them."""
        fold = self._fold[start : start + len(x)]
        for k in np.unique(fold):
            rows = np.flatnonzero(fold == k)
            out, at = x[rows], start + rows
            whole = self._held[k][0].nearest_squared(out)
            self._one[at] = np.sqrt(whole)
            if self._labels is not None:
                near = self._held[k][1].nearest_squared(out)
                self._several[at], self._ratio[at] = np.sqrt(near), near - whole

    def result(self) -> CrossFit:
        """The distances, and the densities of all samples."""
        self._held = []
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


def share(densities: Iterable[dict[str, Density]]) -> None:
    """Make the equal Gaussians among densities by point one object, so that it is asked once."""
    known: list[ShrunkGaussian] = []

    def same(own: ShrunkGaussian) -> ShrunkGaussian:
        for other in known:
            if all(np.array_equal(getattr(own, name), getattr(other, name)) for name in ARRAYS):
                return other
        known.append(own)
        return own

    for by_point in densities:
        for point, density in by_point.items():
            if isinstance(density, ShrunkGaussian):
                by_point[point] = same(density)
                continue
            pair = density.relative if isinstance(density, TwofoldDensity) else density
            pair = RelativeDensity(same(pair.conditional), same(pair.background))
            by_point[point] = replace(density, relative=pair) if isinstance(density, TwofoldDensity) else pair


def _gain(one: Array, several: Array, volume: float, width: int, labels: NDArray[np.intp]) -> float:
    """Nats that class means save per held-out sample, less those that name the class."""
    shrunk = width * float(np.log(np.sum(one**2) / np.sum(several**2)))
    return 0.5 * (volume + shrunk) - float(np.log(len(np.unique(labels))))


def _enough(labels: NDArray[np.intp], fold: NDArray[np.intp]) -> bool:
    """Whether in every fold class means leave at least as many degrees of freedom as they take."""
    kept = [labels[fold != k] for k in range(int(fold.max()) + 1)]
    return all(2 <= len(np.unique(own)) <= len(own) // 2 for own in kept)
