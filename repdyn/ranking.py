"""Intervals of the figures of a ranking: AUROC, FPR at a true-positive rate, AUPR."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from repdyn.arguments import fraction
from repdyn.errors import RepdynError
from repdyn.intervals import Estimate, uncertainty, variance_interval

__all__ = ["auroc_influence", "auroc_interval", "passing_interval", "precision_interval"]

Array = NDArray[np.float64]

EXPONENTIAL = 1.228
"""Scale of the exponential distribution that has the interquartile range of a normal one of deviation 1."""


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
    from scipy.stats import norm  # scipy.stats takes a third of a second to import

    level = fraction("level", level)
    above, below = _checked(above, below, "auroc_interval")
    m, n = len(above), len(below)
    of_above, of_below = _placements(above, below)
    value = float(of_above.mean())
    delong = float(of_above.var(ddof=m > 1)) / m + float(of_below.var(ddof=n > 1)) / n
    share = (m + n) / 2 - 1

    def variance(theta: float) -> float:
        spread = 1 + share * (1 - theta) / (2 - theta) + share * theta / (1 + theta)
        return theta * (1 - theta) / (m * n) * spread

    discordant = 2 * min(m, n) * min(value, 1 - value)
    own = variance(value)
    z = float(norm.ppf((1 + level) / 2))
    inner = (value * min(m, n) + 0.5) / (min(m, n) + 1)
    expected = max(_normal_variance(inner, _relative_spread(above, below), m, n) / variance(inner), 1.0)
    measured = delong / own * uncertainty(discordant, level) if own > 0 else expected
    ratio = (measured * discordant + 3 * expected) / (discordant + 3)

    def end(inside: float, outside: float) -> float:
        for _ in range(60):
            middle = (inside + outside) / 2
            if (value - middle) ** 2 <= z * z * ratio * variance(middle):
                inside = middle
            else:
                outside = middle
        return inside

    return Estimate(value, end(value, 0.0), end(value, 1.0), level)


def auroc_influence(above: Array, below: Array) -> Array:
    """What each sample, those of ``above`` first, adds to the error of the AUROC; ``(M + N,)``.

    The sum of squares is DeLong's variance, and that of products of two scores of the same samples DeLong's
    covariance.
    """
    parts = []
    for place in _placements(above, below):
        count = len(place)
        parts.append((place - place.mean()) / np.sqrt(count * max(count - 1, 1)))
    return np.concatenate(parts)


def passing_interval(
    kept: NDArray[Any], judged: NDArray[Any], *, rate: float = 0.95, level: float = 0.95
) -> Estimate:
    """Share of ``judged`` at or above the threshold that a share ``rate`` of ``kept`` reaches: FPR@95.

    Both samples are taken for random. The number of values of ``kept`` below the true threshold is binomial;
    given the threshold, the share has Jeffreys' posterior. The ends are quantiles of the mixture. Where the
    true threshold may lie below all of ``kept``, the ROC curve is continued with an exponential tail of the
    samples' spreads.

    Parameters
    ----------
    kept, judged
        Shapes ``(M,)`` and ``(N,)``.
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

    rate, level = fraction("rate", rate), fraction("level", level)
    kept, judged = (np.sort(x) for x in _checked(kept, judged, "passing_interval"))
    m, n = len(kept), len(judged)
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
        # Between that quantile and the threshold, in standard deviations. With normal tails, intervals of 20
        # samples whose lower tail is exponential covered .71 to .80.
        moved.append(_relative_spread(kept, judged) * EXPONENTIAL * np.log(left / (1 - rate)))
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
    the influence of each sample, and at least that of normal values with the same AUROC whose spreads are
    those of the samples: a few negative samples above all positive ones lower the figure much, and a sample
    often holds none of them. The interval is a binomial one, of as many samples as give that variance; near 1
    that number is drawn to the smaller sample's. Scores with heavy tails have outliers that the sample does
    not hold. If one is expected, their number has a standard deviation of 1. The lower margin is therefore
    extended, in quadrature, by what z negative samples above all positive ones would cost, z the normal
    quantile of ``level`` (coverage with and without it: docs/benchmarks.md, Intervals).

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
    0.500 [0.289, 0.625]
    """
    from scipy.special import ndtri

    level = fraction("level", level)
    positive, negative = _checked(positive, negative, "precision_interval")
    m, n = len(positive), len(negative)
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
    discordant = 2 * min(m, n) * min(value, 1 - value)
    above = (float(_placements(positive, negative)[0].mean()) * min(m, n) + 0.5) / (min(m, n) + 1)
    least = _normal_precision_variance(above, _relative_spread(positive, negative), m, n)
    found = variance_interval(center, variance, discordant, min(m, n), level, least)
    unseen = value - float((hits / (passed + ndtri((1 + level) / 2))).mean())
    low = value - np.hypot(max(value - found.low, 0.0), unseen)
    return Estimate(value, max(float(low), 0.0), max(found.high, value), level)


def _checked(one: NDArray[Any], other: NDArray[Any], where: str) -> tuple[Array, Array]:
    """Two samples of scores; infinite ones have a rank, NaN has none."""
    one, other = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    if one.ndim != 1 or other.ndim != 1 or min(len(one), len(other)) == 0:
        raise RepdynError(
            f"{where}: both samples must have shape (N,) with N > 0, got {one.shape} and {other.shape}"
        )
    broken = int(np.isnan(one).sum()) + int(np.isnan(other).sum())
    if broken:
        raise RepdynError(
            f"{where}: {broken} of {len(one) + len(other)} scores are NaN; leave those samples out"
        )
    return one, other


def _placements(above: Array, below: Array) -> tuple[Array, Array]:
    """Share of ``below`` that lies under each of ``above``, and of ``above`` over each of ``below``."""
    from scipy.stats import rankdata

    m, n = len(above), len(below)
    ranks = rankdata(np.concatenate([above, below]))
    return (ranks[:m] - rankdata(above)) / n, 1 - (ranks[m:] - rankdata(below)) / m


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


def _normal_precision_variance(theta: float, relative: float, m: int, n: int) -> float:
    """Variance of the AUPR of m normal values above n others, those ``relative`` times as spread as these.

    It is that of the influence of each value, as in :func:`precision_interval`, at the population; ``theta``
    is the AUROC.
    """
    from scipy.special import ndtr, ndtri

    shift = float(ndtri(theta)) * np.sqrt(1 + 1 / relative**2)
    # Shares of positive values above a threshold, finest near 0, where negative values may be as frequent.
    edges = np.exp(np.linspace(np.log(1e-7), 0.0, 161))
    weight = np.diff(edges) / (1 - edges[0])
    hits = np.sqrt(edges[1:] * edges[:-1])
    chance = np.maximum(ndtr(-(shift - ndtri(hits)) * relative), 1e-300)
    alarms = chance * n / m
    passed = hits + alarms

    def below(values: Array) -> Array:
        return np.cumsum((weight * values / passed**2)[::-1])[::-1]

    of_positive, of_negative = hits / passed + below(alarms), below(hits) * n / m
    share = np.diff(chance, prepend=0.0)
    mean = float(share @ of_negative)
    spread = float(share @ (of_negative - mean) ** 2) + float(1 - chance[-1]) * mean**2
    return float(weight @ (of_positive - weight @ of_positive) ** 2) / m + spread / n
