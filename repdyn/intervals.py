"""Confidence intervals over samples, for every figure.

Shares get an exact binomial interval, ratios and means of unbounded values a studentized bootstrap; other
statistics the percentile bootstrap. Figures of a ranking have theirs in :mod:`repdyn.ranking`.
``benchmarks/coverage.py`` measures how often each holds the truth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repdyn.arguments import fraction
from repdyn.errors import RepdynError
from repdyn.reading import as_array

__all__ = [
    "Estimate",
    "bootstrap",
    "bootstrap_mean",
    "bounded_interval",
    "difference_interval",
    "mean_of_groups",
    "ratio_interval",
    "share_interval",
    "uncertainty",
    "variance_interval",
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
        Its nominal coverage; default: 0.95.
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
    level = fraction("level", level)
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
    level = fraction("level", level)
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
    1.000 [0.840, 1.000]
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
    """Share of samples for which something holds, with Blaker's exact interval.

    It covers at least ``level``, whatever the true share, and lies within Clopper and Pearson's interval.

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
    1.000 [0.840, 1.000]

    References
    ----------
    Blaker, H. (2000). Confidence curves and improved exact confidence intervals for discrete distributions.
    Canadian Journal of Statistics 28(4).
    """
    level = fraction("level", level)
    flags = as_array(flags, dtype=np.float64)
    if flags.ndim != 1 or len(flags) == 0 or not np.isin(flags, (0, 1)).all():
        raise RepdynError(
            f"share_interval: flags must be 0 or 1, of shape (N,) with N > 0, got {flags.shape}"
        )
    hits, count = int(flags.sum()), len(flags)
    low, high = _blaker_low(hits, count, level), 1 - _blaker_low(count - hits, count, level)
    return Estimate(float(flags.mean()), low, high, level)


def bounded_interval(value: float, replicates: NDArray[Any], count: int, *, level: float = 0.95) -> Estimate:
    """Interval of a figure between 0 and 1 from its bootstrap replicates, of positive width at 0 and 1 too.

    The figure is taken for a share of as many samples as give the replicates' variance. Near 0 and 1, where
    replicates hold little or no information on it, that number is drawn to ``count``.

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
    level = fraction("level", level)
    value = min(max(float(value), 0.0), 1.0)
    found = np.asarray(replicates, dtype=np.float64)
    spread = float(np.var(found[np.isfinite(found)]))
    return variance_interval(value, spread, 2 * count * min(value, 1 - value), count, level)


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
    level = fraction("level", level)
    top, bottom = np.asarray(numerator, dtype=np.float64), np.asarray(denominator, dtype=np.float64)
    if top.shape != bottom.shape or top.ndim != 1 or len(top) == 0:
        raise RepdynError(f"ratio_interval: expected two arrays (N,), got {top.shape} and {bottom.shape}")
    size = float(np.abs(bottom).max())  # scaled, so that squares do not overflow
    if not size > 0:
        return Estimate(float("nan"), float("nan"), float("nan"), level)
    peak = float(np.abs(top).max())
    if peak == 0:
        return Estimate(0.0, 0.0, 0.0, level)
    unit = peak / size
    low, high = _studentized(top / peak, bottom / size, seed, resamples, level)
    value = float((top / peak).sum() / (bottom / size).sum())
    return Estimate(value * unit, low * unit, high * unit, level)


def variance_interval(
    value: float, variance: float, discordant: float, count: int, level: float, least: float = 0.0
) -> Estimate:
    """Interval of a figure between 0 and 1: that of a share of as many samples as give its variance.

    The variance comes from ``discordant`` samples; the fewer, the more that of ``count`` samples counts. It
    counts as ``least`` or more.
    """
    middle = (value * count + 0.5) / (count + 1)
    binomial = middle * (1 - middle)
    variance = (variance * uncertainty(discordant, level) * discordant + binomial / count) / (discordant + 1)
    effective = max(binomial / max(variance, least), 1.0)
    low, high = _binomial(value * effective, effective, level)
    return Estimate(value, min(low, value), max(high, value), level)


def uncertainty(discordant: float, level: float) -> float:
    """Inflation factor of a variance estimated from few discordant samples, as in Student's quantile."""
    from scipy.stats import norm, t

    tail = (1 + level) / 2
    return float((t.ppf(tail, 6 + discordant) / norm.ppf(tail)) ** 2)


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

    if one.level != other.level or not -1 <= correlation <= 1:
        raise RepdynError(
            "difference_interval: expected two figures of one level and a correlation from -1 to 1, got "
            f"{one.level}, {other.level} and {correlation}"
        )
    value = one.value - other.value
    low = value - reach(one.value - one.low, other.high - other.value)
    high = value + reach(one.high - one.value, other.value - other.low)
    return Estimate(value, low, high, one.level)


def _studentized(
    top: Array, bottom: Array | None, seed: int, resamples: int, level: float
) -> tuple[float, float]:
    """Ends for a mean, or for a ratio of sums by its logarithm."""
    n = len(top)
    below = np.ones(n) if bottom is None else bottom
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        value = top.mean() / below.mean()
        rest = top - value * below  # sums to 0: moments of it lose no digits to the value
        unit = float(np.abs(rest).max())
        rest = rest / (unit if unit > 0 else 1.0)  # scaled, so that squares do not overflow
        statistic = value if bottom is None else np.log(value)
        error = rest.std() / np.sqrt(max(n - 1, 1)) * (unit if bottom is None else unit / top.mean())
        if not error > 0:
            ends = statistic, statistic
        else:
            columns = [rest, rest**2] if bottom is None else [rest, rest**2, below, rest * below, below**2]
            replicates = _pivots(np.column_stack(columns), value / unit, seed, resamples)
            replicates = replicates[np.isfinite(replicates)]
            if len(replicates) < resamples / 2:
                replicates = np.array([-2.0, 2.0])  # nearly all weight is on one sample: the normal interval
            low, high = np.quantile(replicates, [(1 - level) / 2, (1 + level) / 2])
            low, high = (end * _tail_factor(rest, level) for end in (low, high))
            ends = statistic - max(high, 0.0) * error, statistic - min(low, 0.0) * error
    first, last = (float(end) for end in ends)
    return (first, last) if bottom is None else (float(np.exp(first)), float(np.exp(last)))


def _pivots(columns: Array, value: float, seed: int, resamples: int) -> Array:
    """Deviation of each replicate in its own standard errors, from means of a few columns alone.

    Parameters
    ----------
    columns
        Of a mean: deviations and their squares. Of a ratio x / y: r = x - value y, r², y, r y and y².
    value
        The ratio, in the unit of r.
    """
    n = len(columns)
    generator = np.random.default_rng(seed)
    means = np.empty((resamples, columns.shape[1]))
    block = max(1, 250_000 // n)  # counts of one block fit into the processor's cache
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        drawn = generator.integers(n, size=(size, n)) + n * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n)
        means[start : start + size] = counts.astype(np.float64) @ columns / n
    rest, square = means[:, 0], means[:, 1]
    if columns.shape[1] == 2:
        moved, variance = rest, square - rest**2
    else:
        y, both, y_square = means[:, 2], means[:, 3], means[:, 4]
        x = rest + value * y
        # The influence of a sample is x_i / x - y_i / y = r_i / x + slope y_i, of mean 0.
        slope = -rest / (x * y)
        moved = np.log1p(rest / (value * y))
        variance = square / x**2 + 2 * slope * both / x + slope**2 * y_square
        square = square / x**2
    # A replicate of equal samples has no variance but for rounding.
    own = np.sqrt(np.where(variance > 1e-12 * square, variance, np.nan)) / np.sqrt(max(n - 1, 1))
    return np.asarray(moved / own)


def _tail_factor(part: Array, level: float) -> float:
    """Widening factor of an interval for heavy-tailed samples, whose tail is only partly observed.

    The variance of n samples with excess kurtosis k is as uncertain as that of 2 n / (2 + k) normal ones: the
    ratio of Student's quantiles for these two numbers.
    """
    from scipy.stats import t  # scipy.stats takes a third of a second to import

    n, moved = len(part), part - part.mean()
    excess = float((moved**4).mean() / (moved**2).mean() ** 2) - 3
    if n > 3:  # the kurtosis of a few samples is too small: Fisher's unbiased form
        excess = (n - 1) / ((n - 2) * (n - 3)) * ((n + 1) * excess + 6)
    excess = max(excess, 0.0)
    tail = (1 + level) / 2
    return float(t.ppf(tail, max(2 * n / (2 + excess) - 1, 2.0)) / t.ppf(tail, max(n - 1, 2)))


def _blaker_low(hits: int, count: int, level: float) -> float:
    """Least probability of success at which so many hits are acceptable to Blaker's test."""
    from scipy.stats import beta  # scipy.stats takes a third of a second to import

    if hits == 0:
        return 0.0
    # Below Clopper and Pearson's end no probability is acceptable, as the upper tail alone is too improbable;
    # above that of a one-sided test it is more probable than 1 - level.
    first, last = (float(beta.ppf(tail, hits, count - hits + 1)) for tail in ((1 - level) / 2, 1 - level))
    for _ in range(4):  # what is acceptable need not be connected: a grid, refined at its first point
        grid = np.linspace(first, last, 65)
        found = int(np.argmax(_acceptability(hits, count, grid) > 1 - level))
        if found == 0:
            return float(grid[0]) if _acceptability(hits, count, grid[:1])[0] > 1 - level else last
        first, last = float(grid[found - 1]), float(grid[found])
    return first


def _acceptability(hits: int, count: int, chance: Array) -> Array:
    """Probability of outcomes that lie in a tail no more probable than that of ``hits`` and above.

    That is P(X >= hits), plus the largest P(X <= k) that does not exceed it; of chances below hits / count.
    """
    from scipy.special import bdtr, bdtrc

    upper = bdtrc(hits - 1, count, chance)
    first, last = np.full(len(chance), -1.0), np.full(len(chance), float(hits))
    while np.any(last - first > 1):  # P(X <= first) <= upper < P(X <= last)
        middle = np.floor((first + last) / 2)
        fits = bdtr(middle, count, chance) <= upper * (1 + 1e-12)
        first, last = np.where(fits, middle, first), np.where(fits, last, middle)
    return np.asarray(upper + np.where(first < 0, 0.0, bdtr(np.maximum(first, 0), count, chance)))


def _binomial(successes: float, count: float, level: float) -> tuple[float, float]:
    """Ends for a share of a count that need not be whole, where an exact test is not defined.

    They are the means of those of Jeffreys' interval, with Brown, Cai and DasGupta's change at the border,
    and of those of Clopper and Pearson's exact one. The first alone covers .92 in places, the second .99.

    References
    ----------
    Brown, L., Cai, T. & DasGupta, A. (2001). Interval estimation for a binomial proportion. Statistical
    Science 16(2), section 4.1. Clopper, C. & Pearson, E. (1934). Biometrika 26(4).
    """
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
    if len(finite) == 0 or np.isnan(value):
        return Estimate(value, float("nan"), float("nan"), level)
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, float(low), float(high), level)
