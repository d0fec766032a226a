"""AUROC, AUPR and FPR@95 of two samples of scores, with every bootstrap replicate in one pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repdyn.errors import RepdynError
from repdyn.reading import as_array

__all__ = ["Positive", "Separation", "separation"]

Array = NDArray[np.float64]
Positive = Literal["id", "ood"]
TRUE_POSITIVE_RATE = 0.95


@dataclass(frozen=True, eq=False)
class Separation:
    """How well scores tell in-distribution from out-of-distribution samples; each ``(R,)``.

    Attributes
    ----------
    auroc
        Area under the ROC curve: P(normal score > foreign score), ties half. Both conventions agree.
    aupr
        Average precision, the positive class ranked first.
    fpr95
        False-positive rate at the first threshold with a true-positive rate of at least 95 %.
    """

    auroc: Array
    aupr: Array
    fpr95: Array


def separation(
    id_scores: ArrayLike,
    ood_scores: ArrayLike,
    positive: Positive = "id",
    id_counts: NDArray[np.integer] | None = None,
    ood_counts: NDArray[np.integer] | None = None,
) -> Separation:
    """Compare two samples of scores (higher is more normal).

    Parameters
    ----------
    id_scores, ood_scores
        Shapes ``(N,)`` and ``(M,)``.
    positive
        Which class is the positive one of FPR@95 and AUPR. ``"id"``: how many foreign samples pass when
        95 % of the normal ones do (Fumero et al.; Hendrycks & Gimpel's later users). ``"ood"``: how many
        normal samples are flagged when 95 % of the foreign ones are (OpenOOD, pytorch-ood).
    id_counts, ood_counts
        How often each sample is drawn in each of R replicates, shapes ``(R, N)`` and ``(R, M)``; once
        each unless told.

    Returns
    -------
    Separation
        With ``R`` values each.

    Examples
    --------
    >>> s = separation([3.0, 2.0], [1.0, 2.0])
    >>> float(s.auroc[0]), float(s.fpr95[0])
    (0.875, 0.5)
    """
    if positive not in ("id", "ood"):
        raise RepdynError(f"positive: must be 'id' or 'ood', got {positive!r}")
    inside, outside = _scores(id_scores, "id_scores"), _scores(ood_scores, "ood_scores")
    sign = -1.0 if positive == "id" else 1.0  # ranks run from the most positive sample to the least
    values, place = np.unique(sign * np.concatenate([inside, outside]), return_inverse=True)
    id_mass = _pile(place[: len(inside)], len(values), id_counts)
    ood_mass = _pile(place[len(inside) :], len(values), ood_counts)
    hits, alarms = (id_mass, ood_mass) if positive == "id" else (ood_mass, id_mass)
    true_positives, false_positives = hits.cumsum(axis=1), alarms.cumsum(axis=1)
    positives, negatives = true_positives[:, -1:], false_positives[:, -1:]
    above = negatives - false_positives + 0.5 * alarms
    auroc = (hits * above).sum(axis=1) / (positives * negatives)[:, 0]
    flagged = true_positives + false_positives
    precision = np.divide(true_positives, flagged, out=np.zeros_like(flagged), where=flagged > 0)
    aupr = (hits * precision).sum(axis=1) / positives[:, 0]
    # Compared as counts: .95 * 20 is 19.000000000000004 in floating point.
    first = np.argmax(true_positives >= TRUE_POSITIVE_RATE * positives - 1e-9, axis=1)
    fpr95 = np.take_along_axis(false_positives, first[:, None], axis=1)[:, 0] / negatives[:, 0]
    return Separation(auroc, aupr, fpr95)


def _pile(place: NDArray[np.intp], size: int, counts: NDArray[np.integer] | None) -> Array:
    """Weight of each distinct score, ``(R, U)``: tied samples move as one."""
    if counts is None:
        return np.bincount(place, minlength=size).astype(np.float64)[None]
    replicates = len(counts)
    if len(np.unique(place)) == len(place):  # no ties: nothing to add up
        moved = np.zeros((replicates, size))
        moved[:, place] = counts
        return moved
    flat = (np.arange(replicates)[:, None] * size + place).ravel()
    piled = np.bincount(flat, weights=counts.ravel(), minlength=replicates * size)
    return np.asarray(piled.reshape(replicates, size), dtype=np.float64)


def _scores(scores: ArrayLike, name: str) -> Array:
    values = as_array(scores, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0:
        raise RepdynError(f"{name}: must have shape (N,) with N > 0, got {values.shape}")
    if not np.isfinite(values).all():
        raise RepdynError(f"{name}: hold non-finite values at index {int(np.argmin(np.isfinite(values)))}")
    return values
