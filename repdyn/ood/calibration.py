"""From scores to decisions: conformal p-values and thresholds at a chosen false-positive rate.

The guarantee. Let a detector be fitted without the calibration samples, and let the calibration samples
and a new in-distribution sample be exchangeable. Then the new sample is flagged at rate α with probability
at most α, for any distribution of the scores and any detector, averaged over calibration sets. For one
calibration set of n samples, the rate at which fresh in-distribution samples are flagged is itself random,
Beta(k, n + 1 − k) with k = ⌊α (n + 1)⌋ if scores have no ties: :func:`false_positive_interval`. The guarantee
does not hold for data that has drifted.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repdyn.arguments import fraction, whole
from repdyn.errors import RepdynError
from repdyn.ood.path_chunks import LOWEST
from repdyn.reading import as_array

__all__ = ["conformal_p_values", "conformal_threshold", "false_positive_interval", "smooth_log_p_values"]


def conformal_p_values(calibration_scores: ArrayLike, scores: ArrayLike) -> NDArray[np.float64]:
    """Conformal p-value of each score among in-distribution ones: small is unusual.

    p(s) = (1 + #{i : cᵢ ≤ s}) / (n + 1), so that P(p ≤ α) ≤ α for an exchangeable sample.

    Parameters
    ----------
    calibration_scores
        Scores cᵢ of n in-distribution samples the detector was not fitted on, higher is more normal.
    scores
        Scores to judge, any shape.

    Returns
    -------
    numpy.ndarray
        p-values of the shape of ``scores``, in (0, 1]. A score that is not finite gets the smallest one,
        1 / (n + 1).

    Examples
    --------
    >>> conformal_p_values([1.0, 2.0, 3.0], [0.0, 2.0, 9.0]).tolist()
    [0.25, 0.75, 1.0]

    References
    ----------
    Vovk, V., Gammerman, A. & Shafer, G. (2005). Algorithmic learning in a random world.
    """
    reference = np.sort(_calibration(calibration_scores))
    rank = np.searchsorted(reference, _ranked(scores), side="right")
    return np.asarray((1 + rank) / (len(reference) + 1), dtype=np.float64)


def conformal_threshold(calibration_scores: ArrayLike, false_positive_rate: float = 0.05) -> float:
    """The score below which a sample is flagged, for a false-positive rate of at most α.

    The k-th smallest calibration score with k = ⌊α (n + 1)⌋; ``score < threshold`` exactly when the
    conformal p-value is at most α.

    Parameters
    ----------
    calibration_scores
        Shape ``(n,)``, as in :func:`conformal_p_values`.
    false_positive_rate
        α in (0, 1).

    Raises
    ------
    RepdynError
        If n is too small for any sample to be flagged at this rate.
    """
    reference = np.sort(_calibration(calibration_scores))
    k = _rank(len(reference), false_positive_rate)
    return float(reference[k - 1])


def false_positive_interval(
    count: int, false_positive_rate: float = 0.05, level: float = 0.95
) -> tuple[float, float]:
    """Interval of the true false-positive rate for one calibration set of ``count`` samples.

    Quantiles of Beta(k, n + 1 − k), k = ⌊α (n + 1)⌋.

    Parameters
    ----------
    count
        Number n of calibration samples.
    false_positive_rate
        The nominal rate α.
    level
        Coverage of the interval.

    Returns
    -------
    low, high

    Examples
    --------
    >>> low, high = false_positive_interval(1000)
    >>> round(low, 3), round(high, 3)
    (0.037, 0.064)

    References
    ----------
    Vovk, V. (2012). Conditional validity of inductive conformal predictors. ACML.
    """
    from scipy.stats import beta  # scipy.stats takes a third of a second to import

    level = fraction("level", level)
    k = _rank(whole("count", count), false_positive_rate)
    low, high = beta.ppf([(1 - level) / 2, (1 + level) / 2], k, count + 1 - k)
    return float(low), float(high)


def smooth_log_p_values(calibration_scores: ArrayLike, scores: ArrayLike) -> NDArray[np.float64]:
    """Logarithms of p-values, extrapolated below the lowest calibration score, for combining.

    A conformal p-value is at least 1 / (n + 1), so all scores far outside tie. Below the k-th smallest score
    u, k about n / 20, the tail is modelled as exponential with its mean excess β,
    log p(s) = log(k / (n + 1)) − (u − s) / β. The extrapolation has no guarantee; calibrate the combination.

    Parameters
    ----------
    calibration_scores
        Shape ``(n,)``, at least 5.
    scores
        Any shape.

    Returns
    -------
    numpy.ndarray
        Of the shape of ``scores``, increasing in them, at most 0; −inf for a score that is not finite.

    References
    ----------
    Pickands, J. (1975). Statistical inference using extreme order statistics. Annals of Statistics 3(1).
    """
    reference = np.sort(_calibration(calibration_scores))
    values = _ranked(scores)
    edge, scale, share = tail(reference)
    inside = np.log(conformal_p_values(reference, values))
    return np.where(values < edge, np.log(share) - (edge - values) / scale, inside)


def tail(reference: NDArray[np.float64]) -> tuple[float, float, float]:
    """Edge u, mean excess β and share of the lower tail of sorted scores.

    Samples that a detector refuses have the lowest score of all, −10³⁰. They count in the share, and are no
    part of the excess: one of them would be all of β, and all lower scores would look alike.
    """
    read = reference[reference > LOWEST]
    if len(read) < 5:
        refused = len(reference) - len(read)
        raise RepdynError(
            f"calibration_scores: {len(read)} are too few to estimate their tail, give at least 5"
            + (f"; {refused} more are of samples that the detector refuses" if refused else "")
        )
    k = max(5, len(read) // 20)
    edge = float(read[k - 1])
    excess = float(np.mean(edge - read[: k - 1]))
    share = (k + len(reference) - len(read)) / (len(reference) + 1)
    return edge, excess if excess > 0 else float(read.std()) or 1.0, share


def _ranked(scores: ArrayLike) -> NDArray[np.float64]:
    """Scores, with those that are not finite (+inf too) set below all others."""
    values = as_array(scores, dtype=np.float64)
    return np.where(np.isfinite(values), values, -np.inf)


def _rank(count: int, rate: float) -> int:
    """k = ⌊α (n + 1)⌋, the rank of the threshold among n sorted calibration scores."""
    rate = fraction("false_positive_rate", rate)
    # 1e-9 is added because α (n + 1) is often a whole number that rounding may miss.
    k = math.floor(rate * (count + 1) + 1e-9)
    if k < 1:
        needed = math.ceil(1 / rate - 1 - 1e-9)
        raise RepdynError(
            f"calibration: {count} samples cannot support a false-positive rate of {rate:g}; "
            f"give at least {needed}, or allow a rate of at least {_smallest_rate(count):g}"
        )
    return k


def _smallest_rate(count: int) -> float:
    """The smallest rate that so many samples support, 1 / (n + 1), rounded up to four digits."""
    scale = 10.0 ** (4 + math.floor(math.log10(count + 1)))
    return math.ceil(scale / (count + 1)) / scale


def _calibration(scores: ArrayLike) -> NDArray[np.float64]:
    values = as_array(scores, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0:
        raise RepdynError(f"calibration_scores: must have shape (n,) with n > 0, got {values.shape}")
    if not np.isfinite(values).all():
        wrong = np.flatnonzero(~np.isfinite(values))
        raise RepdynError(
            f"calibration_scores: {len(wrong)} of {len(values)} are not finite, the first at index "
            f"{wrong[0]}; leave those samples out"
        )
    return values
