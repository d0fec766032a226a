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
    """

    plain: HeldOut
    relative: HeldOut | None
    twofold: HeldOut | None
    groups: NDArray[np.int64] | None = None


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
    if float(x.var(axis=0).sum()) < constant:
        return None
    one, several, ratio = np.zeros((3, len(x)))  # without labels the last two stay zero
    use = labels if labels is not None and _enough(labels, fold) else None
    moments, volume = Moments(x, use, fold), 0.0
    for k in range(int(fold.max()) + 1):
        out = fold == k
        background = moments.gaussian(floor, classes=False, without=k)
        whole = background.nearest_squared(x[out])
        one[out] = np.sqrt(whole)
        if use is not None:
            conditional = moments.gaussian(floor, without=k)
            near = conditional.nearest_squared(x[out])
            several[out], ratio[out] = np.sqrt(near), near - whole
            volume += (background.log_determinant - conditional.log_determinant) * out.mean()
    background = moments.gaussian(floor, classes=False)
    spread = float(one.std()), float(ratio.std())
    if use is None or min(spread) == 0 or _gain(one, several, volume, x.shape[1], use) <= 0:
        return CrossFit(HeldOut(background, one), None, None)
    conditional = moments.gaussian(floor)
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
