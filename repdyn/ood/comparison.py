"""Scores of several detectors on the same samples, resampled together, so that any two can be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from repdyn.intervals import (
    Estimate,
    bounded_interval,
    difference_interval,
)
from repdyn.ood.controls import IN_DISTRIBUTION
from repdyn.ood.metrics import TRUE_POSITIVE_RATE, Positive, separation
from repdyn.progress import track
from repdyn.ranking import auroc_interval, passing_interval, precision_interval

__all__ = ["MEAN", "Comparison", "Judgement", "compare"]

Array = NDArray[np.float64]
Counts = NDArray[np.integer]

MEAN = "mean of sets"
RESAMPLES = 500  # the 95 % ends are then known to about 5 % of the interval's width
LEVEL = 0.95
METRICS = ("auroc", "aupr", "fpr95")


@dataclass(frozen=True, eq=False)
class Judgement:
    """One detector against some others; the attributes are those of :class:`repdyn.ood.OODEvaluation`."""

    difference: dict[str, Estimate]
    best_control: dict[str, str]
    verdict: dict[str, str]


@dataclass(frozen=True, eq=False)
class Comparison:
    """Metrics of every score on every set, and their replicates under one resampling of the samples.

    Attributes
    ----------
    runs
        ``{detector: {set: {metric: (1 + R,)}}}``: the value on all samples, then its replicates; with several
        sets also their mean, ``"mean of sets"``.
    exact
        ``{detector: {set: {metric: Estimate}}}``: AUROC with a score interval, AUPR with one around
        a figure of less bias, FPR@95 with one that holds the threshold's error too.
    sizes
        ``{set: {metric: N}}``: samples that a metric is about, the fewer of both kinds or the negatives.
    """

    runs: dict[str, dict[str, dict[str, Array]]]
    exact: dict[str, dict[str, dict[str, Estimate]]]
    sizes: dict[str, dict[str, int]]

    def table(self) -> dict[str, dict[str, dict[str, Estimate]]]:
        """``{detector: {set: {metric: Estimate}}}``."""
        return {
            detector: {name: self._cell(detector, name) for name in row}
            for detector, row in self.runs.items()
        }

    def _cell(self, detector: str, name: str) -> dict[str, Estimate]:
        runs, sizes = self.runs[detector][name], self.sizes[name]
        found = {m: bounded_interval(float(runs[m][0]), runs[m][1:], sizes[m], level=LEVEL) for m in METRICS}
        found |= self.exact[detector].get(name, {})
        # The figure as it was computed, to the last digit; unequal repeats may move it out of the interval.
        values = {m: float(runs[m][0]) for m in METRICS}
        return {m: Estimate(v, min(found[m].low, v), max(found[m].high, v), LEVEL) for m, v in values.items()}

    def _gap(self, detector: str, rival: str, name: str, runs: Array) -> Estimate:
        """Difference of two AUROCs, from the interval of each and their correlation over replicates.

        Replicates alone are of no width where both AUROCs are 1. With several rivals the interval holds that
        of the replicates too, in which the best is chosen anew.
        """
        own, other = (self._cell(which, name)["auroc"] for which in (detector, rival))
        pair = np.stack([self.runs[which][name]["auroc"][1:] for which in (detector, rival)])
        correlation = 0.0
        if pair.std(axis=1).min() > 0:
            if np.array_equal(*pair):  # the same scores
                return _estimate(runs)
            correlation = float(np.asarray(np.corrcoef(pair))[0, 1])
        gap = difference_interval(own, other, correlation)
        value, low, high = float(runs[0]), gap.low, gap.high
        if len(self.runs) > 2:
            drawn = _estimate(runs)
            low, high = min(low, drawn.low), max(high, drawn.high)
        return Estimate(value, low, high, LEVEL)

    def judge(self, detector: str, controls: Sequence[str]) -> Judgement:
        """Whether a detector's AUROC exceeds that of the best control, chosen anew in each replicate.

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
        return Judgement(difference, best, verdict)


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
        interval; in the figures themselves each counts.
    seed
        Of the bootstrap.
    """
    generator = np.random.default_rng(seed)
    sizes = {name: len(own) for name, own in next(iter(scores.values())).items()}
    names = [name for name in sizes if name != IN_DISTRIBUTION]
    alike = {name: np.arange(size) if groups is None else groups[name] for name, size in sizes.items()}
    once = {name: np.unique(own, return_index=True)[1] for name, own in alike.items()}
    drawn = {name: _resampled(own, generator) for name, own in alike.items()}
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
    sizes = {name: len(own) for name, own in once.items()}
    inside = sizes[IN_DISTRIBUTION]
    about = {}
    for name in names:
        fewer = min(inside, sizes[name])
        about[name] = {"auroc": fewer, "aupr": fewer, "fpr95": sizes[name] if positive == "id" else inside}
    about[MEAN] = {m: min(own[m] for own in about.values()) for m in METRICS}
    return Comparison(runs, exact, about)


def _exact(
    inside: Array, outside: Array, positive: Positive, once: Mapping[str, NDArray[np.intp]], name: str
) -> dict[str, Estimate]:
    """Intervals from each different sample once."""
    inside, outside = inside[once[IN_DISTRIBUTION]], outside[once[name]]
    kept, judged = (inside, outside) if positive == "id" else (-outside, -inside)
    passing = passing_interval(kept, judged, rate=TRUE_POSITIVE_RATE, level=LEVEL)
    return {
        "auroc": auroc_interval(inside, outside, level=LEVEL),
        "aupr": precision_interval(kept, judged, level=LEVEL),
        "fpr95": passing,
    }


def _runs(inside: Array, outside: Array, positive: Positive, n: Counts, m: Counts) -> dict[str, Array]:
    block = max(1, int(4e5) // (len(inside) + len(outside)))  # work arrays of some MB
    parts = [
        separation(inside, outside, positive, n[start : start + block], m[start : start + block])
        for start in range(0, len(n), block)
    ]
    return {metric: np.concatenate([getattr(part, metric) for part in parts]) for metric in METRICS}


def _resampled(groups: NDArray[np.int64], generator: np.random.Generator) -> Counts:
    """How often each sample is drawn, ``(1 + R, N)``, a group as one; the first row is the sample itself."""
    count = int(groups.max()) + 1
    counts = np.ones((1 + RESAMPLES, count), dtype=np.uint16)
    for row in counts[1:]:
        row[:] = np.bincount(generator.integers(count, size=count), minlength=count)
    return counts if count == len(groups) else counts[:, groups]


def _estimate(runs: Array) -> Estimate:
    low, high = np.quantile(runs[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(runs[0]), float(low), float(high), LEVEL)
