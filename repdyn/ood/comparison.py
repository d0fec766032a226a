"""AUROC, AUPR and FPR@95 of several detectors on the same samples, with paired differences.

:func:`separation` computes the metrics of two samples of scores, for every bootstrap replicate at once;
:func:`compare` applies it to all detectors under one resampling, so that any two can be compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repdyn.errors import RepdynError
from repdyn.intervals import Estimate, bounded_interval, difference_interval
from repdyn.ood.settings import VERDICT
from repdyn.progress import track
from repdyn.ranking import auroc_influence, auroc_interval, passing_interval, precision_interval
from repdyn.reading import as_array

__all__ = [
    "IN_DISTRIBUTION",
    "MEAN",
    "Comparison",
    "ControlComparison",
    "Positive",
    "Separation",
    "compare",
    "separation",
]

Array = NDArray[np.float64]
Counts = NDArray[np.integer]
Positive = Literal["id", "ood"]

IN_DISTRIBUTION = "in-distribution"
MEAN = "mean of sets"
METRICS = ("auroc", "aupr", "fpr95")


@dataclass(frozen=True, eq=False)
class ControlComparison:
    """One detector against its controls; the attributes are those of :class:`repdyn.ood.OODEvaluation`."""

    difference: dict[str, Estimate]
    best_control: dict[str, str]
    verdict: dict[str, str]


@dataclass(frozen=True, eq=False)
class Comparison:
    """Metrics of every detector on every set, and their replicates under one resampling of the samples.

    Attributes
    ----------
    runs
        ``{detector: {set: {metric: (1 + R,)}}}``: the value on all samples, then its replicates; with several
        sets also their mean, ``"mean of sets"``.
    exact
        ``{detector: {set: {metric: Estimate}}}``: AUROC with a score interval, AUPR with one around
        an estimate of smaller bias, FPR@95 with one that includes the error of the threshold.
    sizes
        ``{set: {metric: N}}``: number of samples behind a metric, the smaller class or the negatives.
    influence
        ``{detector: {set: (N + M,)}}``, of :func:`repdyn.ranking.auroc_influence`.
    ranks
        ``{detector: {set: (N + M,)}}``, of all scores together.
    """

    runs: dict[str, dict[str, dict[str, Array]]]
    exact: dict[str, dict[str, dict[str, Estimate]]]
    sizes: dict[str, dict[str, int]]
    influence: dict[str, dict[str, Array]]
    ranks: dict[str, dict[str, Array]]

    def table(self) -> dict[str, dict[str, dict[str, Estimate]]]:
        """``{detector: {set: {metric: Estimate}}}``."""
        return {
            detector: {name: self._cell(detector, name) for name in row}
            for detector, row in self.runs.items()
        }

    def _cell(self, detector: str, name: str) -> dict[str, Estimate]:
        """Estimates of all metrics of one detector on one set."""
        runs, sizes = self.runs[detector][name], self.sizes[name]
        intervals = self.exact[detector].get(name) or {
            m: bounded_interval(float(runs[m][0]), runs[m][1:], sizes[m], level=VERDICT.level)
            for m in METRICS
        }
        # The value is the metric of all samples. The intervals count equal samples once and may exclude it.
        values = {m: float(runs[m][0]) for m in METRICS}
        return {
            m: Estimate(v, min(intervals[m].low, v), max(intervals[m].high, v), VERDICT.level)
            for m, v in values.items()
        }

    def _gap(self, detector: str, rival: str, name: str, runs: Array) -> Estimate:
        """Difference of two AUROCs, from the interval of each and their correlation.

        The correlation is that of the influence of each sample; of a mean of sets, that of the replicates. An
        interval of replicates alone has no width where both AUROCs are 1. With several rivals the interval
        also covers that of the replicates, in each of which the best rival is chosen again.
        """
        own, other = (self._cell(which, name)["auroc"] for which in (detector, rival))
        if name == MEAN:
            pair = [self.runs[which][name]["auroc"][1:] for which in (detector, rival)]
            pair = [values - values.mean() for values in pair]
        else:
            pair = [self.influence[which][name] for which in (detector, rival)]
        if all(np.array_equal(self.ranks[detector][k], self.ranks[rival][k]) for k in self._sets(name)):
            return _estimate(runs)  # the same scores
        size = float(np.sqrt(np.square(pair[0]).sum() * np.square(pair[1]).sum()))
        correlation = float(pair[0] @ pair[1]) / size if size > 0 else 0.0
        # Different scores that err on the same samples: the fewer these are, the less is known.
        if np.array_equal(pair[0], pair[1]):
            discordant = float((np.abs(pair[0]) > np.abs(pair[0]).min()).sum())
            correlation *= discordant / (discordant + 1)
        gap = difference_interval(own, other, correlation)
        value, low, high = float(runs[0]), gap.low, gap.high
        if len(self.runs) > 2:
            drawn = _estimate(runs)
            low, high = min(low, drawn.low), max(high, drawn.high)
        return Estimate(value, low, high, VERDICT.level)

    def _sets(self, name: str) -> list[str]:
        """Sets that a row is about: all for their mean."""
        return [k for k in next(iter(self.ranks.values())) if name in (k, MEAN)]

    def against(self, detector: str, controls: Sequence[str]) -> ControlComparison:
        """Whether a detector's AUROC exceeds that of the best control, chosen again in each replicate.

        Parameters
        ----------
        detector
            Its name among those compared.
        controls
            Names of at least one other.
        """
        difference, best, verdict = {}, {}, {}
        for name, cell in self.runs[detector].items():
            rivals = np.stack([self.runs[control][name]["auroc"] for control in controls])
            best[name] = controls[int(np.argmax(rivals[:, 0]))]
            gap = self._gap(detector, best[name], name, cell["auroc"] - rivals.max(axis=0))
            difference[name] = gap
            verdict[name] = "found" if gap.low > 0 else "not found" if gap.high < 0 else "inconclusive"
        return ControlComparison(difference, best, verdict)


def compare(
    scores: Mapping[str, Mapping[str, Array]],
    positive: Positive = "id",
    *,
    groups: Mapping[str, NDArray[np.int64]] | None = None,
    seed: int = 0,
) -> Comparison:
    """Metrics of each score on each set, by one resampling of the samples shared by all scores.

    Parameters
    ----------
    scores
        ``{detector: {set: (N,)}}``, higher is more normal; the in-distribution ones under
        ``"in-distribution"``.
    positive
        As in :func:`repdyn.ood.evaluate`.
    groups
        ``{set: (N,)}``: samples of one group are equal. They are resampled together and count once in an
        interval; in the metrics themselves each counts.
    seed
        Of the bootstrap.
    """
    generator = np.random.default_rng(seed)
    sizes = {name: len(own) for name, own in next(iter(scores.values())).items()}
    names = [name for name in sizes if name != IN_DISTRIBUTION]
    alike = {name: np.arange(size) if groups is None else groups[name] for name, size in sizes.items()}
    once = {name: np.unique(own, return_index=True)[1] for name, own in alike.items()}
    # Of one set and two scores, every interval has a closed form.
    replicates = VERDICT.resamples if len(names) > 1 or len(scores) > 2 else 0
    drawn = {name: _resampled(own, replicates, generator) for name, own in alike.items()}
    runs: dict[str, dict[str, dict[str, Array]]] = {}
    for detector, own in track(scores.items(), "comparing detectors", total=len(scores)):
        runs[detector] = {}
        for name in names:
            runs[detector][name] = _runs(
                own[IN_DISTRIBUTION], own[name], positive, drawn[IN_DISTRIBUTION], drawn[name]
            )
        if len(names) > 1:
            row = runs[detector]
            row[MEAN] = {m: np.mean([row[name][m] for name in names], axis=0) for m in METRICS}
    exact = {
        detector: {name: _exact(own[IN_DISTRIBUTION], own[name], positive, once, name) for name in names}
        for detector, own in scores.items()
    }
    pairs = {
        detector: {
            name: (own[IN_DISTRIBUTION][once[IN_DISTRIBUTION]], own[name][once[name]]) for name in names
        }
        for detector, own in scores.items()
    }
    influence = {d: {name: auroc_influence(*pair) for name, pair in own.items()} for d, own in pairs.items()}
    ranks = {d: {name: _ranks(*pair) for name, pair in own.items()} for d, own in pairs.items()}
    sizes = {name: len(own) for name, own in once.items()}
    inside = sizes[IN_DISTRIBUTION]
    about = {}
    for name in names:
        fewer = min(inside, sizes[name])
        about[name] = {"auroc": fewer, "aupr": fewer, "fpr95": sizes[name] if positive == "id" else inside}
    about[MEAN] = {m: min(own[m] for own in about.values()) for m in METRICS}
    return Comparison(runs, exact, about, influence, ranks)


def _exact(
    inside: Array, outside: Array, positive: Positive, once: Mapping[str, NDArray[np.intp]], name: str
) -> dict[str, Estimate]:
    """Intervals from one sample of each group of equal ones, ``{metric: Estimate}``."""
    inside, outside = inside[once[IN_DISTRIBUTION]], outside[once[name]]
    kept, judged = (inside, outside) if positive == "id" else (-outside, -inside)
    passing = passing_interval(kept, judged, rate=VERDICT.true_positive_rate, level=VERDICT.level)
    return {
        "auroc": auroc_interval(inside, outside, level=VERDICT.level),
        "aupr": precision_interval(kept, judged, level=VERDICT.level),
        "fpr95": passing,
    }


def _runs(inside: Array, outside: Array, positive: Positive, n: Counts, m: Counts) -> dict[str, Array]:
    """Metrics ``(1 + R,)`` of all samples and each replicate, from counts ``(1 + R, N)``, ``(1 + R, M)``."""
    block = max(1, int(4e5) // (len(inside) + len(outside)))  # work arrays of some MB
    parts = [
        separation(inside, outside, positive, n[start : start + block], m[start : start + block])
        for start in range(0, len(n), block)
    ]
    return {metric: np.concatenate([getattr(part, metric) for part in parts]) for metric in METRICS}


def _ranks(inside: Array, outside: Array) -> Array:
    """Rank of each score among all, equal for equal scores, ``(N + M,)``; those of ``inside`` come first."""
    return np.unique(np.concatenate([inside, outside]), return_inverse=True)[1].astype(np.float64)


def _resampled(groups: NDArray[np.int64], replicates: int, generator: np.random.Generator) -> Counts:
    """How often each sample is drawn, ``(1 + R, N)``, groups as a whole; the first row is all ones."""
    count = int(groups.max()) + 1
    counts = np.ones((1 + replicates, count), dtype=np.uint16)
    for row in counts[1:]:
        row[:] = np.bincount(generator.integers(count, size=count), minlength=count)
    return counts if count == len(groups) else counts[:, groups]


def _estimate(runs: Array) -> Estimate:
    """Value and percentile interval of ``(1 + R,)`` replicates; no width where there are none."""
    if len(runs) == 1:
        return Estimate(float(runs[0]), float(runs[0]), float(runs[0]), VERDICT.level)
    low, high = np.quantile(runs[1:], [(1 - VERDICT.level) / 2, (1 + VERDICT.level) / 2])
    return Estimate(float(runs[0]), float(low), float(high), VERDICT.level)


@dataclass(frozen=True, eq=False)
class Separation:
    """Metrics that separate in-distribution from out-of-distribution scores, one per replicate, ``(R,)``.

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
        each by default.

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
    values, rank = np.unique(sign * np.concatenate([inside, outside]), return_inverse=True)
    id_mass = _mass(rank[: len(inside)], len(values), id_counts)
    ood_mass = _mass(rank[len(inside) :], len(values), ood_counts)
    hits, alarms = (id_mass, ood_mass) if positive == "id" else (ood_mass, id_mass)
    true_positives, false_positives = hits.cumsum(axis=1), alarms.cumsum(axis=1)
    positives, negatives = true_positives[:, -1:], false_positives[:, -1:]
    above = negatives - false_positives + 0.5 * alarms
    auroc = (hits * above).sum(axis=1) / (positives * negatives)[:, 0]
    flagged = true_positives + false_positives
    precision = np.divide(true_positives, flagged, out=np.zeros_like(flagged), where=flagged > 0)
    aupr = (hits * precision).sum(axis=1) / positives[:, 0]
    # Compared as counts: .95 * 20 is 19.000000000000004 in floating point.
    first = np.argmax(true_positives >= VERDICT.true_positive_rate * positives - 1e-9, axis=1)
    fpr95 = np.take_along_axis(false_positives, first[:, None], axis=1)[:, 0] / negatives[:, 0]
    return Separation(auroc, aupr, fpr95)


def _mass(rank: NDArray[np.intp], size: int, counts: NDArray[np.integer] | None) -> Array:
    """Number of draws of each distinct score, ``(R, U)``; tied samples are added up."""
    if counts is None:
        return np.bincount(rank, minlength=size).astype(np.float64)[None]
    replicates = len(counts)
    if len(np.unique(rank)) == len(rank):  # no ties: nothing to add up
        moved = np.zeros((replicates, size))
        moved[:, rank] = counts
        return moved
    flat = (np.arange(replicates)[:, None] * size + rank).ravel()
    piled = np.bincount(flat, weights=counts.ravel(), minlength=replicates * size)
    return np.asarray(piled.reshape(replicates, size), dtype=np.float64)


def _scores(scores: ArrayLike, name: str) -> Array:
    values = as_array(scores, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0:
        raise RepdynError(f"{name}: must have shape (N,) with N > 0, got {values.shape}")
    if not np.isfinite(values).all():
        raise RepdynError(f"{name}: hold non-finite values at index {int(np.argmin(np.isfinite(values)))}")
    return values
