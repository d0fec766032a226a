"""Drift of a stream since a detector was fitted: the share flagged over time, and the depths that moved."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from repdyn.arguments import whole
from repdyn.artifacts import Artifact
from repdyn.errors import RepdynError
from repdyn.intervals import Estimate, share_interval
from repdyn.ood.calibration import false_positive_interval
from repdyn.ood.detector import Detector
from repdyn.ood.detectors import DensityDetector
from repdyn.ood.inputs import Given
from repdyn.ood.path_chunks import LOWEST
from repdyn.ood.settings import VERDICT
from repdyn.results import Result

if TYPE_CHECKING:
    import plotly.graph_objects as go


__all__ = ["DriftMonitor", "DriftReport"]

Array = NDArray[np.float64]
DriftVerdict = Literal["drift found", "no drift found", "inconclusive"]

_VERDICTS_OF_0_1 = {"found": "drift found", "not found": "no drift found"}


@dataclass(frozen=True, eq=False)
class DriftReport(Result, kind="drift"):
    """Shares flagged of a stream by window, and shifts of the depth profile in the last window.

    Attributes
    ----------
    start
        Number of the first sample of each window, ``(W,)``.
    count
        Samples in each window, ``(W,)``.
    flagged
        Share flagged in each window, with its interval (:func:`repdyn.intervals.share_interval`).
    expected
        Share flagged of data from the distribution of the calibration data: the nominal rate, with the
        interval of the true rate for one calibration set of that size (:func:`false_positive_interval`).
    points
        Depths, in order; empty where the detector has no profile.
    shift
        Mean standardized distance at each depth in the last window, minus that of the calibration data. The
        intervals hold jointly over all depths (Bonferroni) and include the uncertainty of the calibration.
    moved
        Points whose interval excludes 0, the largest shift first.
    skipped
        Inputs that could not be read.
    verdict
        Of the last window. ``"drift found"``: the interval of the share lies above the expected one.
        ``"no drift found"``: it does not, no depth moved, and the interval excludes three times the expected
        share. ``"inconclusive"``: otherwise; the window is then too small, or a depth moved.
    """

    figures: ClassVar = (
        "verdict",
        "start",
        "count",
        "flagged",
        "expected",
        "points",
        "shift",
        "moved",
        "skipped",
    )

    start: NDArray[np.int64]
    count: NDArray[np.int64]
    flagged: tuple[Estimate, ...]
    expected: Estimate
    points: tuple[str, ...]
    shift: tuple[Estimate, ...]
    moved: tuple[str, ...]
    skipped: int
    verdict: DriftVerdict

    def __repr__(self) -> str:
        lines = [
            f"DriftReport: {self.verdict}, {int(self.count.sum())} samples in {len(self.count)} windows"
            + (f", {self.skipped} skipped" if self.skipped else ""),
            f"  expected share flagged {self.expected}",
        ]
        shown = range(max(0, len(self.count) - 6), len(self.count))
        if shown.start:
            lines.append(f"  … {shown.start} earlier windows")
        for w in shown:
            last = int(self.start[w] + self.count[w]) - 1
            lines.append(f"  samples {int(self.start[w])} to {last}: {self.flagged[w]}")
        if self.points:
            lines.append(f"  depths that moved in the last window: {', '.join(self.moved[:4]) or 'none'}")
        return "\n".join(lines)

    def plot(self) -> go.Figure:
        """Share flagged over time, and the shift at each depth."""
        from repdyn.views.drift import drift  # plotly is loaded only for a picture

        return drift(
            self.start + self.count, self.flagged, self.expected, self.points, self.shift, self.verdict
        )

    @classmethod
    def _upgrade(cls, artifact: Artifact, path: Path) -> Artifact:
        """Version 0.1 kept one entry of plain values, with the verdicts "found" and "not found"."""
        config = dict(artifact.config["drift"])
        config["verdict"] = _VERDICTS_OF_0_1.get(config["verdict"], config["verdict"])
        return replace(artifact, config=config, tensors={})


class DriftMonitor:
    """Scores a stream part by part, and stores only what a report needs.

    A window that is complete is kept as its share with an interval, so that an endless stream takes about
    200 bytes for each window.

    Parameters
    ----------
    detector
        Fitted. The expected share is guaranteed only after it was calibrated on held-out paths.
    window
        Number of samples in a window.

    Examples
    --------
    >>> import numpy as np
    >>> from repdyn.ood import PathDetector
    >>> from repdyn.paths import RepresentationPaths
    >>> x = np.random.default_rng(0).normal(size=(400, 8)) + 3
    >>> monitor = DriftMonitor(PathDetector().fit(RepresentationPaths.from_arrays({"last": x})), window=50)
    >>> flagged = monitor.update(RepresentationPaths.from_arrays({"last": -x[:50]})).flagged
    >>> bool(flagged.all()), monitor.report().verdict
    (True, 'drift found')
    """

    def __init__(self, detector: Detector, window: int = 500) -> None:
        window = whole("window", window)
        if window < VERDICT.min_window:
            raise RepdynError(f"window: must be at least {VERDICT.min_window} samples, got {window}")
        self.detector = detector
        self.window = window
        self.skipped = 0
        self._profiler = _profiler(detector)
        self._closed: list[Estimate] = []  # the share of every window before those that are open
        self._seen = 0
        # Of the open windows, which hold at most two windows of samples. Equal samples have equal hashes.
        self._flags = np.empty(0, dtype=bool)
        self._equal = np.empty(0, dtype=np.int64)
        depths = len(self._profiler.points_) if self._profiler is not None else 0
        self._recent = np.empty((0, depths))

    def update(self, paths: Given) -> Scored:
        """Score the next part of the stream.

        Parameters
        ----------
        paths
            The next samples, in any form that :meth:`~repdyn.ood.detector.Detector.fit` takes.

        Returns
        -------
        Scored
        """
        profile = None
        if self._profiler is not None:
            profile = self._profiler.profile(paths)
            # The last complete window and the one that is being filled are kept.
            self._recent = np.concatenate([self._recent, profile])[-2 * self.window :]
        if profile is not None and self._profiler is self.detector:
            scores = np.maximum(-profile.mean(axis=1), LOWEST)
        else:
            scores = self.detector.score_samples(paths)
        points = self._profiler.points_ if self._profiler is not None else ()
        scored = Scored(scores, scores < self.detector.threshold_, profile, points)
        # Different samples may have equal scores under a union; their profiles differ.
        rows = np.ascontiguousarray(scores[:, None] if profile is None else profile)
        self._add(scored.flagged, [hash(row.tobytes()) for row in rows])
        return scored

    def note_broken(self, count: int) -> Scored:
        """Count samples whose representation is not finite; paths cannot hold them. All are flagged.

        Parameters
        ----------
        count
            Number of such samples. Each is infinitely far at every depth.
        """
        far = np.full((count, self._recent.shape[1]), np.inf)
        self._recent = np.concatenate([self._recent, far])[-2 * self.window :]
        scored = Scored(np.full(count, LOWEST), np.ones(count, dtype=bool), None, ())
        self._add(scored.flagged, [hash(("broken", self._seen + k)) for k in range(count)])
        return scored

    def _add(self, flagged: NDArray[np.bool_], hashes: list[int]) -> None:
        """Add samples to the open windows, and close those that no later sample can change."""
        self._seen += len(flagged)
        self._flags = np.concatenate([self._flags, flagged])
        self._equal = np.concatenate([self._equal, np.array(hashes, dtype=np.int64)])
        # A remainder is added to the last complete window: the one before two full ones is final.
        closing = range(0, len(self._flags) - 2 * self.window + 1, self.window)
        for start in closing:
            part = slice(start, start + self.window)
            self._closed.append(_share(self._flags[part], self._equal[part]))
        if closing:
            # Copies, because a slice would keep the whole array.
            self._flags = self._flags[closing[-1] + self.window :].copy()
            self._equal = self._equal[closing[-1] + self.window :].copy()

    def report(self) -> DriftReport:
        """The report of all windows; a remainder of less than half a window is added to the one before it.

        Raises
        ------
        RepdynError
            If nothing was scored yet.
        """
        flags, equal, closed = self._flags, self._equal, len(self._closed)
        if not len(flags):
            raise RepdynError("report: nothing was scored yet; call update(paths) first")
        start = np.arange(0, len(flags), self.window)
        if len(start) > 1 and len(flags) - start[-1] < self.window // 2:
            start = start[:-1]
        count = np.diff([*start, len(flags)])
        # Equal samples of a window are not independent: an interval is over the distinct ones.
        open_ = [_share(flags[s : s + c], equal[s : s + c]) for s, c in zip(start, count)]
        shares = (*self._closed, *open_)
        start = np.concatenate([np.arange(closed), closed + start // self.window]) * self.window
        count = np.concatenate([np.full(closed, self.window), count])
        # Sorted, because the order of hashes differs between processes, and sums with it.
        once = np.sort(np.unique(equal[-int(count[-1]) :], return_index=True)[1])
        if len(once) < 2:  # no spread could be estimated
            once = np.arange(int(count[-1]))
        known = self.detector.calibration_scores_
        rank = max(1, int((known <= self.detector.threshold_).sum()))
        rate = rank / (len(known) + 1)
        expected = Estimate(rate, *false_positive_interval(len(known), rate, VERDICT.level))
        points = self._profiler.points_ if self._profiler is not None else ()
        shift = (
            _shift(self._recent[-int(count[-1]) :][once], self._profiler)
            if self._profiler is not None
            else ()
        )
        moved = [
            p for p in np.argsort([-abs(s.value) for s in shift]) if not shift[p].low <= 0 <= shift[p].high
        ]
        verdict: DriftVerdict = "inconclusive"
        if shares[-1].low > expected.high:
            verdict = "drift found"
        elif shares[-1].high <= VERDICT.drift_factor * expected.high and not moved:
            verdict = "no drift found"
        return DriftReport(
            start=start.astype(np.int64),
            count=count.astype(np.int64),
            flagged=shares,
            expected=expected,
            points=points,
            shift=shift,
            moved=tuple(points[p] for p in moved),
            skipped=self.skipped,
            verdict=verdict,
        )


@dataclass(frozen=True, eq=False)
class Scored:
    """One part of a stream: scores and flags ``(n,)``, the depth profile ``(n, L)`` or None, its L points."""

    scores: Array
    flagged: NDArray[np.bool_]
    profile: Array | None
    points: tuple[str, ...]


def _share(flags: NDArray[np.bool_], equal: NDArray[np.int64]) -> Estimate:
    """Share flagged ``(n,)``, with an interval over distinct samples (by hash ``(n,)``)."""
    once = np.unique(equal, return_index=True)[1]
    interval, value = share_interval(flags[once], level=VERDICT.level), float(flags.mean())
    return Estimate(value, min(interval.low, value), max(interval.high, value), VERDICT.level)


def _profiler(detector: Detector) -> DensityDetector | None:
    """The density detector that gives the depth profile: the detector itself, or a member of a union."""
    members = getattr(detector, "members_", {}).values()
    profilers = [part for part in (detector, *members) if isinstance(part, DensityDetector)]
    # The one that reads most depths; others may read a single point.
    return max(profilers, key=lambda part: len(part.points_)) if profilers else None


def _shift(profile: Array, profiler: DensityDetector) -> tuple[Estimate, ...]:
    """Mean of the profile ``(n, L)`` minus the mean of held-out paths, at each depth, by Welch's test."""
    from scipy.stats import t  # scipy.stats takes a third of a second to import

    level = 1 - (1 - VERDICT.level) / profile.shape[1]
    # A layer that died or exploded is infinitely far: unclipped, a few such samples would give an infinite
    # variance and hide the shift.
    profile = np.clip(profile, -VERDICT.max_deviation, VERDICT.max_deviation)
    usual, variance, count = profiler.usual_profile()
    mean = profile.mean(axis=0) - usual
    parts = profile.var(axis=0, ddof=1) / len(profile), variance / count
    error = np.sqrt(parts[0] + parts[1])
    # Welch's test, because both variances are estimated.
    freedom = error**4 / (parts[0] ** 2 / (len(profile) - 1) + parts[1] ** 2 / (count - 1))
    half = t.ppf((1 + level) / 2, freedom) * error
    return tuple(Estimate(float(m), float(m - h), float(m + h), level) for m, h in zip(mean, half))
