"""Confidence intervals over samples: a figure never stands alone.

Shares get a binomial interval, AUROC a score interval, AUPR one from the influence of each sample, ratios
and means of unbounded values a studentized bootstrap; other statistics the percentile bootstrap.
``benchmarks/coverage.py`` measures how often each holds the truth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repdyn.errors import RepdynError
from repdyn.reading import as_array

__all__ = [
    "Estimate",
    "auroc_interval",
    "bootstrap",
    "bootstrap_mean",
    "bounded_interval",
    "difference_interval",
    "mean_of_groups",
    "passing_interval",
    "precision_interval",
    "ratio_interval",
    "share_interval",
]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A figure with its confidence interval.

    Attributes
    ----------
    value
        The statistic on all samples.
    low, high
        Ends of the interval.
    level
        Its nominal coverage, 0.95 unless told.
    """

    value: float
    low: float
    high: float
    level: float = 0.95

    def __repr__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def __float__(self) -> float:
        return self.value

    def to_dict(self) -> dict[str, float]:
        """Plain numbers for ``--json``."""
        return {"value": self.value, "low": self.low, "high": self.high, "level": self.level}


def bootstrap(
    statistic: Callable[..., float],
    *samples: NDArray[Any],
    seed: int = 0,
    resamples: int = 500,
    level: float = 0.95,
    paired: bool = True,
) -> Estimate:
    """Percentile bootstrap of any statistic over samples.

    Parameters
    ----------
    statistic
        Maps the arrays to one number.
    *samples
        Arrays whose first axis is the sample. With ``paired`` all have the same length and are resampled
        by one index (a prediction and its label); otherwise each is resampled by its own (the scores of
        two data sets).
    seed
        Same seed, same interval.
    resamples
        Bootstrap replicates; 500 give the 95 % ends to about 5 % of the interval's width.
    level
        Nominal coverage.
    paired
        Whether one index serves all arrays.

    Returns
    -------
    Estimate

    Raises
    ------
    RepdynError
        On no sample, or on paired arrays of different length.

    Examples
    --------
    >>> import numpy as np
    >>> bootstrap(lambda x: float(x.mean()), np.ones(10)).high
    1.0

    References
    ----------
    Efron, B. (1979). Bootstrap methods: another look at the jackknife. Annals of Statistics 7(1).
    """
    lengths = [len(sample) for sample in samples]
    if not lengths or min(lengths) == 0:
        raise RepdynError("bootstrap: there is no sample to resample; give arrays with at least one row")
    if paired and len(set(lengths)) != 1:
        raise RepdynError(f"bootstrap: paired arrays must have one length, got {lengths}")
    generator = np.random.default_rng(seed)
    replicates = np.empty(resamples)
    for k in range(resamples):
        if paired:
            index = generator.integers(lengths[0], size=lengths[0])
            drawn = [sample[index] for sample in samples]
        else:
            drawn = [sample[generator.integers(n, size=n)] for sample, n in zip(samples, lengths)]
        replicates[k] = statistic(*drawn)
    return _percentiles(float(statistic(*samples)), replicates, level)


def bootstrap_mean(
    values: NDArray[Any], *, seed: int = 0, resamples: int = 1000, level: float = 0.95
) -> Estimate:
    """Mean with its interval: :func:`share_interval` of values 0 and 1, else the studentized bootstrap.

    Parameters
    ----------
    values
        Shape ``(N,)``. Booleans, or numbers that are all 0 or 1, are taken for a share.
    seed, resamples, level
        As in :func:`bootstrap`; a share draws nothing.

    Returns
    -------
    Estimate
        Its ends lie between the least and the largest value.
    """
    values = as_array(values, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0:
        raise RepdynError(f"bootstrap_mean: values must have shape (N,) with N > 0, got {values.shape}")
    if np.isin(values, (0, 1)).all():
        return share_interval(values, level=level)
    low, high = _studentized(values, None, seed, resamples, level)
    return Estimate(
        float(values.mean()), max(low, float(values.min())), min(high, float(values.max())), level
    )


def mean_of_groups(
    values: NDArray[Any], groups: NDArray[np.int64], *, seed: int = 0, level: float = 0.95
) -> Estimate:
    """Mean of all samples, with the interval of as many samples as there are groups of equal ones.

    Parameters
    ----------
    values
        Shape ``(N,)``, as in :func:`bootstrap_mean`.
    groups
        Group of each sample, ``(N,)``, as of :func:`repdyn.repeats.groups_of_equal_rows`. Each group counts
        once in the interval, with its mean; in the figure itself each sample counts.
    seed, level
        As in :func:`bootstrap_mean`, which this is where no group has two samples.

    Examples
    --------
    >>> import numpy as np
    >>> mean_of_groups(np.ones(40), np.repeat(np.arange(20), 2))
    1.000 [0.832, 1.000]
    """
    values = as_array(values, dtype=np.float64)
    if values.shape != np.shape(groups):
        raise RepdynError(f"mean_of_groups: expected two arrays (N,), got {values.shape}, {np.shape(groups)}")
    own, size = np.unique(groups, return_inverse=True, return_counts=True)[1:]
    if len(size) == len(values):
        return bootstrap_mean(values, seed=seed, level=level)
    once = bootstrap_mean(np.bincount(own, weights=values) / size, seed=seed, level=level)
    value = float(values.mean())
    return Estimate(value, min(once.low, value), max(once.high, value), level)


def share_interval(flags: NDArray[Any], *, level: float = 0.95) -> Estimate:
    """Share of samples for which something holds.

    The ends are the means of those of Jeffreys' interval, with Brown, Cai and DasGupta's change at the
    border, and of those of Clopper and Pearson's exact one. The first alone covers .92 in
    places, the second .99.

    Parameters
    ----------
    flags
        Shape ``(N,)``: booleans, or 0 and 1.
    level
        Nominal coverage.

    Returns
    -------
    Estimate
        Never of width 0.

    Examples
    --------
    >>> import numpy as np
    >>> share_interval(np.ones(20, dtype=bool))
    1.000 [0.832, 1.000]

    References
    ----------
    Brown, L., Cai, T. & DasGupta, A. (2001). Interval estimation for a binomial proportion. Statistical
    Science 16(2), section 4.1. Clopper, C. & Pearson, E. (1934). Biometrika 26(4).
    """
    flags = as_array(flags, dtype=np.float64)
    if flags.ndim != 1 or len(flags) == 0 or not np.isin(flags, (0, 1)).all():
        raise RepdynError(
            f"share_interval: flags must be 0 or 1, of shape (N,) with N > 0, got {flags.shape}"
        )
    low, high = _binomial(float(flags.sum()), float(len(flags)), level)
    return Estimate(float(flags.mean()), low, high, level)


def bounded_interval(value: float, replicates: NDArray[Any], count: int, *, level: float = 0.95) -> Estimate:
    """Interval of a figure between 0 and 1 from its bootstrap replicates, of positive width at 0 and 1 too.

    The figure is taken for a share of as many samples as give the replicates' variance. Near 0 and 1, where
    replicates tell little or nothing of it, that number is drawn to ``count``.

    Parameters
    ----------
    value
        The statistic on all samples.
    replicates
        Shape ``(R,)``.
    count
        Samples that the figure is about.
    level
        Nominal coverage.
    """
    value = min(max(float(value), 0.0), 1.0)
    found = np.asarray(replicates, dtype=np.float64)
    spread = float(np.var(found[np.isfinite(found)]))
    return _of_variance(value, spread, 2 * count * min(value, 1 - value), count, level)


def auroc_interval(above: NDArray[Any], below: NDArray[Any], *, level: float = 0.95) -> Estimate:
    r"""P(a value of the first sample exceeds one of the second), ties half, with a score interval.

    .. math:: \{\theta : (\hat\theta - \theta)^2 \le z^2\, r\, V(\theta)\}

    with V the variance of Hanley and McNeil as Newcombe's fifth method has it, which stays positive up to the
    border, and r the ratio of DeLong's variance to it. Where few pairs are discordant, DeLong's variance says
    little. r is drawn to the ratio of normal values whose spreads are those of the samples, or to 1 if that
    is larger: a small sample of wide spread makes the variance several times V.

    Parameters
    ----------
    above, below
        Shapes ``(M,)`` and ``(N,)``.
    level
        Nominal coverage.

    References
    ----------
    Newcombe, R. (2006). Confidence intervals for an effect size measure based on the Mann-Whitney statistic,
    part 2. Statistics in Medicine 25(4). DeLong, E., DeLong, D. & Clarke-Pearson, D. (1988). Comparing the
    areas under two or more correlated receiver operating characteristic curves. Biometrics 44(3).
    """
    from scipy.stats import norm, rankdata  # scipy.stats takes a third of a second to import

    above, below = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    m, n = len(above), len(below)
    if above.ndim != 1 or below.ndim != 1 or min(m, n) == 0:
        raise RepdynError(
            f"auroc_interval: both samples must have shape (N,) with N > 0, got {above.shape}, {below.shape}"
        )
    ranks = rankdata(np.concatenate([above, below]))
    of_above = (ranks[:m] - rankdata(above)) / n
    of_below = 1 - (ranks[m:] - rankdata(below)) / m
    value = float(of_above.mean())
    delong = float(of_above.var(ddof=m > 1)) / m + float(of_below.var(ddof=n > 1)) / n
    share = (m + n) / 2 - 1

    def variance(theta: float) -> float:
        spread = 1 + share * (1 - theta) / (2 - theta) + share * theta / (1 + theta)
        return theta * (1 - theta) / (m * n) * spread

    told = 2 * min(m, n) * min(value, 1 - value)
    own = variance(value)
    z = float(norm.ppf((1 + level) / 2))
    inner = (value * min(m, n) + 0.5) / (min(m, n) + 1)
    expected = max(_normal_variance(inner, _relative_spread(above, below), m, n) / variance(inner), 1.0)
    measured = delong / own * _uncertain(told, level) if own > 0 else expected
    ratio = (measured * told + 3 * expected) / (told + 3)

    def end(inside: float, outside: float) -> float:
        for _ in range(60):
            middle = (inside + outside) / 2
            if (value - middle) ** 2 <= z * z * ratio * variance(middle):
                inside = middle
            else:
                outside = middle
        return inside

    return Estimate(value, end(value, 0.0), end(value, 1.0), level)


def passing_interval(
    kept: NDArray[Any], judged: NDArray[Any], *, rate: float = 0.95, level: float = 0.95
) -> Estimate:
    """Share of ``judged`` at or above the threshold that a share ``rate`` of ``kept`` reaches: FPR@95.

    Both samples are taken for random. The number of values of ``kept`` below the true threshold is binomial;
    given the threshold, the share has Jeffreys' posterior. The ends are quantiles of the mixture. Where the
    true threshold may lie below all of ``kept``, the ROC curve is continued as that of normal values with the
    spreads of the samples.

    Parameters
    ----------
    kept, judged
        Shapes ``(M,)`` and ``(N,)``, finite.
    rate
        Share of ``kept`` that must reach the threshold.
    level
        Nominal coverage.

    Examples
    --------
    >>> import numpy as np
    >>> passing_interval(np.arange(100.0), np.arange(-50.0, 50.0)).value
    0.45
    """
    from scipy.special import betainc, ndtr, ndtri
    from scipy.stats import binom  # scipy.stats takes a third of a second to import

    kept, judged = (np.sort(np.asarray(x, dtype=np.float64)) for x in (kept, judged))
    m, n = len(kept), len(judged)
    if kept.ndim != 1 or judged.ndim != 1 or min(m, n) == 0:
        raise RepdynError(
            "passing_interval: both samples must have shape (N,) with N > 0, "
            f"got {kept.shape} and {judged.shape}"
        )
    passing = n - np.searchsorted(judged, kept, side="left")
    value = float(passing[m - int(np.ceil(rate * m - 1e-9))]) / n  # .95 * 20 is 19.000000000000004
    chance = binom.pmf(np.arange(m + 1), m, 1 - rate)
    below = np.flatnonzero(chance[1:m] > 1e-7) + 1
    # The true threshold lies between two neighbors: each of them has half of the weight.
    counts = [passing[below - 1], passing[below]]
    weights = [chance[below] / 2, chance[below] / 2]
    moved = [np.zeros(2 * len(below))]
    if chance[0] > 1e-7:
        # Share of the distribution below the least of kept, given that it is at least 1 − rate.
        left = 1 - rate * ((np.arange(8) + 0.5) / 8) ** (1 / m)
        counts.append(np.full(8, passing[0]))
        weights.append(np.full(8, chance[0] / 8))
        moved.append(_relative_spread(kept, judged) * (ndtri(left) - ndtri(1 - rate)))
    hits, weight, shift = np.concatenate(counts), np.concatenate(weights), np.concatenate(moved)

    def quantile(wanted: float) -> float:
        low, high = 0.0, 1.0
        for _ in range(50):
            middle = (low + high) / 2
            place = ndtr(ndtri(middle) - shift)
            if float(weight @ betainc(hits + 0.5, n - hits + 0.5, place)) < wanted * float(weight.sum()):
                low = middle
            else:
                high = middle
        return (low + high) / 2

    tail = (1 - level) / 2
    return Estimate(value, min(quantile(tail), value), max(quantile(1 - tail), value), level)


def precision_interval(positive: NDArray[Any], negative: NDArray[Any], *, level: float = 0.95) -> Estimate:
    """Average precision of ``positive`` ranked above ``negative``, the AUPR, with its interval.

    The precision at a positive sample counts that sample itself, which raises the figure of small samples:
    .54 is expected of 20 and 20 that are alike. The interval lies around two thirds of the figure in which no
    sample counts for itself, which is too low, and one third of the figure as it is. The variance is that of
    the influence of each sample. The interval is a binomial one, of as many samples as give that variance;
    near 1 that number is drawn to the smaller sample's.

    Parameters
    ----------
    positive, negative
        Shapes ``(M,)`` and ``(N,)``; higher is more positive.
    level
        Nominal coverage.

    Examples
    --------
    >>> import numpy as np
    >>> precision_interval(np.arange(20.0), np.arange(20.0))
    0.500 [0.306, 0.618]
    """
    positive, negative = (np.asarray(x, dtype=np.float64) for x in (positive, negative))
    m, n = len(positive), len(negative)
    if positive.ndim != 1 or negative.ndim != 1 or min(m, n) == 0:
        raise RepdynError(
            "precision_interval: both samples must have shape (N,) with N > 0, "
            f"got {positive.shape} and {negative.shape}"
        )
    own, others = np.sort(-positive), np.sort(-negative)
    hits = np.searchsorted(own, own, side="right").astype(np.float64)
    alarms = np.searchsorted(others, own, side="right").astype(np.float64)
    passed = hits + alarms
    precision = hits / passed
    value = float(precision.mean())
    seen = passed > 1
    apart = float(((hits - 1)[seen] / (passed - 1)[seen]).mean()) if seen.any() else value
    center = value / 3 + 2 * apart / 3
    # A positive sample raises the precision at those below it, a negative one lowers it.
    raised = np.append(np.cumsum((alarms / passed**2)[::-1])[::-1], 0.0)
    lowered = np.append(np.cumsum((hits / passed**2)[::-1])[::-1], 0.0)
    of_positive = precision + raised[np.searchsorted(own, own, side="left")]
    of_negative = lowered[np.searchsorted(own, others, side="left")] * n / m
    variance = float(of_positive.var(ddof=m > 1)) / m + float(of_negative.var(ddof=n > 1)) / n
    variance *= 1 + 2 / min(m, n)  # samples that do not count for themselves make the center less sure
    found = _of_variance(center, variance, 2 * min(m, n) * min(value, 1 - value), min(m, n), level)
    return Estimate(value, min(found.low, value), max(found.high, value), level)


def ratio_interval(
    numerator: NDArray[Any],
    denominator: NDArray[Any],
    *,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
) -> Estimate:
    """A sum over a sum, such as the fraction of variance unexplained, with its interval.

    Studentized bootstrap of its logarithm, which follows the skewness of a few large terms.

    Parameters
    ----------
    numerator, denominator
        Of each sample, not negative, shape ``(N,)``.
    seed, resamples, level
        As in :func:`bootstrap`.

    Returns
    -------
    Estimate
        NaN where the denominators sum to 0.

    References
    ----------
    Efron, B. & Tibshirani, R. (1993). An introduction to the bootstrap, chapter 12.
    """
    top, bottom = np.asarray(numerator, dtype=np.float64), np.asarray(denominator, dtype=np.float64)
    if top.shape != bottom.shape or top.ndim != 1 or len(top) == 0:
        raise RepdynError(f"ratio_interval: expected two arrays (N,), got {top.shape} and {bottom.shape}")
    size = float(np.abs(bottom).max())  # so that no square leaves the number format
    if not size > 0:
        return Estimate(float("nan"), float("nan"), float("nan"), level)
    peak = float(np.abs(top).max())
    if peak == 0:
        return Estimate(0.0, 0.0, 0.0, level)
    unit = peak / size
    low, high = _studentized(top / peak, bottom / size, seed, resamples, level)
    value = float((top / peak).sum() / (bottom / size).sum())
    return Estimate(value * unit, low * unit, high * unit, level)


def _of_variance(value: float, variance: float, told: float, count: int, level: float) -> Estimate:
    """Interval of a figure between 0 and 1: that of a share of as many samples as give its variance.

    ``told`` discordant samples are behind the variance; the fewer, the more that of ``count`` samples counts.
    """
    middle = (value * count + 0.5) / (count + 1)
    binomial = middle * (1 - middle)
    variance = (variance * _uncertain(told, level) * told + binomial / count) / (told + 1)
    effective = max(binomial / variance, 1.0)
    low, high = _binomial(value * effective, effective, level)
    return Estimate(value, min(low, value), max(high, value), level)


def _uncertain(told: float, level: float) -> float:
    """What a variance estimated from so many discordant samples is raised by, as Student's quantile is."""
    from scipy.stats import norm, t

    tail = (1 + level) / 2
    return float((t.ppf(tail, 6 + told) / norm.ppf(tail)) ** 2)


def difference_interval(one: Estimate, other: Estimate, correlation: float) -> Estimate:
    """Difference of two figures about the same samples, from the interval of each.

    Parameters
    ----------
    one, other
        Figures of the same level.
    correlation
        Of the two, over samples; 0 for figures about independent samples.

    References
    ----------
    Zou, G. & Donner, A. (2008). Construction of confidence limits about effect measures: a general approach.
    Statistics in Medicine 27(10).

    Examples
    --------
    >>> difference_interval(Estimate(0.5, 0.2, 0.9), Estimate(0.5, 0.1, 0.8), 0.0)
    0.000 [-0.424, 0.566]
    """

    def reach(a: float, b: float) -> float:
        return float(np.sqrt(max(a * a + b * b - 2 * correlation * a * b, 0.0)))

    value = one.value - other.value
    low = value - reach(one.value - one.low, other.high - other.value)
    high = value + reach(one.high - one.value, other.value - other.low)
    return Estimate(value, low, high, one.level)


def _relative_spread(one: Array, other: Array) -> float:
    """Interquartile range of one sample over that of the other, between .1 and 10; 1 where one has none."""
    spread = [float(np.subtract(*np.quantile(x, (0.75, 0.25)))) for x in (one, other)]
    if not (np.isfinite(spread).all() and min(spread) > 0):
        return 1.0
    return float(np.clip(np.exp(np.log(spread[0]) - np.log(spread[1])), 0.1, 10.0))


def _normal_variance(theta: float, relative: float, m: int, n: int) -> float:
    """Variance of the AUROC of m and n normal values, those ``relative`` times as spread as these."""
    from scipy.special import ndtri

    square = float(ndtri(theta)) ** 2

    def shared(correlation: float) -> float:
        """P(both normal values of that correlation lie below the quantile of theta) − theta²."""
        angle = np.arcsin(correlation) * (np.arange(32) + 0.5) / 32
        return float(np.exp(-square / (1 + np.sin(angle))).mean() * np.arcsin(correlation) / (2 * np.pi))

    of_above = relative**2 / (1 + relative**2)
    pairs = theta * (1 - theta) + (m - 1) * shared(1 - of_above) + (n - 1) * shared(of_above)
    return pairs / (m * n)


def _studentized(
    top: Array, bottom: Array | None, seed: int, resamples: int, level: float
) -> tuple[float, float]:
    """Ends for a mean, or for a ratio of sums by its logarithm."""
    n = len(top)
    generator = np.random.default_rng(seed)

    def of(index: NDArray[np.int64] | slice) -> tuple[Array, Array]:
        """Statistic and its standard error, over the last axis."""
        x = top[index]
        if bottom is None:
            return x.mean(axis=-1), x.std(axis=-1) / np.sqrt(max(n - 1, 1))
        y = bottom[index]
        above, below = x.mean(axis=-1), y.mean(axis=-1)
        part = x / above[..., None] - y / below[..., None]
        return np.log(above / below), part.std(axis=-1) / np.sqrt(max(n - 1, 1))

    with np.errstate(divide="ignore", invalid="ignore"):
        value, error = of(slice(None))
        if not error > 0:
            ends = value, value
        else:
            replicates = np.empty(resamples)
            block = max(1, int(4e6 // n))  # bounds the memory
            for start in range(0, resamples, block):
                size = min(block, resamples - start)
                found, own = of(generator.integers(n, size=(size, n)))
                replicates[start : start + size] = np.where(own > 0, (found - value) / own, np.nan)
            replicates = replicates[np.isfinite(replicates)]
            if len(replicates) < resamples / 2:
                replicates = np.array([-2.0, 2.0])  # nearly all samples are one: the normal interval
            low, high = np.quantile(replicates, [(1 - level) / 2, (1 + level) / 2])
            ends = value - max(high, 0.0) * error, value - min(low, 0.0) * error
    first, last = (float(end) for end in ends)
    return (first, last) if bottom is None else (float(np.exp(first)), float(np.exp(last)))


def _binomial(successes: float, count: float, level: float) -> tuple[float, float]:
    """See :func:`share_interval`; the count need not be whole."""
    from scipy.stats import beta  # scipy.stats takes a third of a second to import

    tail, misses = (1 - level) / 2, count - successes
    jeffreys = beta.ppf([tail, 1 - tail], successes + 0.5, misses + 0.5)
    low = 0.0 if successes <= 1 else float(jeffreys[0])
    high = 1.0 if misses <= 1 else float(jeffreys[1])
    if successes <= 1e-9:
        high = 1 - tail ** (1 / count)
    if misses <= 1e-9:
        low = tail ** (1 / count)
    exact_low = 0.0 if successes <= 1e-9 else float(beta.ppf(tail, successes, misses + 1))
    exact_high = 1.0 if misses <= 1e-9 else float(beta.ppf(1 - tail, successes + 1, misses))
    return (low + exact_low) / 2, (high + exact_high) / 2


def _percentiles(value: float, replicates: NDArray[np.float64], level: float) -> Estimate:
    finite = replicates[np.isfinite(replicates)]
    if len(finite) == 0:
        return Estimate(value, float("nan"), float("nan"), level)
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, float(low), float(high), level)
