"""Controls that need no fitted detector: the model's own confidence, and the input's low-level statistics."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp

from repdyn.errors import RepdynError
from repdyn.ood.crossfit import FOLDS, folds
from repdyn.ood.gaussian import fit_gaussian
from repdyn.reading import as_array
from repdyn.repeats import groups_of_equal_rows

__all__ = ["IN_DISTRIBUTION", "energy", "statistics_scores"]

Array = NDArray[np.float64]

IN_DISTRIBUTION = "in-distribution"


def energy(logits: ArrayLike) -> Array:
    """Log-sum-exp of the logits, ``(N, C) -> (N,)``: minus the free energy, higher is more normal.

    References
    ----------
    Liu, W. et al. (2020). Energy-based out-of-distribution detection. NeurIPS.
    """
    return np.asarray(logsumexp(as_array(logits, dtype=np.float64), axis=1))


def statistics_scores(
    statistics: Mapping[str, ArrayLike], sizes: Mapping[str, int], seed: int
) -> dict[str, Array]:
    """Score inputs by low-level statistics alone: what a detector may have found instead of content.

    Minus the Mahalanobis distance of the statistics, each in units of its spread; every in-distribution
    sample is scored by a fit without it.

    Parameters
    ----------
    statistics
        ``{set: (N, F)}``, the in-distribution ones under ``"in-distribution"``.
    sizes
        ``{set: N}``, what is expected.
    seed
        Draws the folds.

    Returns
    -------
    dict
        ``{set: (N,)}``, higher is more normal.

    Raises
    ------
    RepdynError
        If a set is lacking, has another number of samples, or nothing varies.
    """
    given = {}
    for name, size in sizes.items():
        if name not in statistics:
            raise RepdynError(f"statistics: lack the set {name!r}; give an array (N, F) for each")
        array = as_array(statistics[name], dtype=np.float64)
        array = array[:, None] if array.ndim == 1 else array
        if array.ndim != 2 or len(array) != size or not np.isfinite(array).all():
            raise RepdynError(
                f"statistics: those of {name!r} have shape {array.shape}, expected ({size}, F), finite"
            )
        given[name] = array
    inside = given[IN_DISTRIBUTION]
    scale = inside.std(axis=0)
    given = {name: array[:, scale > 0] / scale[scale > 0] for name, array in given.items()}
    inside = given[IN_DISTRIBUTION]
    if inside.shape[1] == 0 or len(inside) < FOLDS:
        raise RepdynError("statistics: those of the in-distribution samples do not vary")
    fold = folds(groups_of_equal_rows(inside), seed)
    scores = {name: np.zeros(len(array)) for name, array in given.items()}
    for k in range(FOLDS):
        gaussian = fit_gaussian(inside[fold != k], None)
        for name, array in given.items():
            if name == IN_DISTRIBUTION:
                scores[name][fold == k] = -gaussian.distance(array[fold == k])
            else:
                scores[name] -= gaussian.distance(array) / FOLDS
    return scores
