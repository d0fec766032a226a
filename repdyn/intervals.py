"""Confidence intervals by the bootstrap over samples: a figure never stands alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repdyn.errors import RepdynError

__all__ = ["Estimate", "bootstrap", "bootstrap_mean"]


@dataclass(frozen=True)
class Estimate:
    """A figure with its confidence interval.

    Attributes
    ----------
    value
        The statistic on all samples.
    low, high
        Ends of the percentile bootstrap interval.
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
    """Bootstrap of a mean, vectorised: the frequent case (an accuracy is a mean of 0 and 1).

    Parameters
    ----------
    values
        Shape ``(N,)``.
    seed, resamples, level
        As in :func:`bootstrap`.

    Returns
    -------
    Estimate
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0:
        raise RepdynError(f"bootstrap_mean: values must have shape (N,) with N > 0, got {values.shape}")
    generator = np.random.default_rng(seed)
    n = len(values)
    # A replicate's mean is a multinomial count vector times the values; blocks bound the memory.
    replicates = np.empty(resamples)
    block = max(1, int(4e6 // n))
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        replicates[start : start + size] = values[generator.integers(n, size=(size, n))].mean(axis=1)
    return _percentiles(float(values.mean()), replicates, level)


def _percentiles(value: float, replicates: NDArray[np.float64], level: float) -> Estimate:
    finite = replicates[np.isfinite(replicates)]
    if len(finite) == 0:
        return Estimate(value, float("nan"), float("nan"), level)
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, float(low), float(high), level)
