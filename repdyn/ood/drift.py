"""Has the data moved since a detector was fitted: the share flagged over time, and which depth moved."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from repdyn.artifacts import load_artifact, refuses_damage, save_artifact
from repdyn.errors import RepdynError
from repdyn.intervals import Estimate, share_interval
from repdyn.ood.calibration import false_positive_interval
from repdyn.ood.detector import LOWEST, Detector
from repdyn.ood.detectors import PathDetector

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from repdyn.paths import RepresentationPaths

__all__ = ["DriftMonitor", "DriftReport"]

Array = NDArray[np.float64]

LEVEL = 0.95
TELLING = 3.0  # times the expected share: where even that cannot be ruled out, a window was too small
FAR = 10.0  # spreads: a distance counts as no larger than this in the mean at a depth
FEWEST = 20  # samples in a window: below, an interval of a small share says nothing


@dataclass(frozen=True, eq=False)
class DriftReport:
    """What a stream looked like, window by window.

    Attributes
    ----------
    start
        Number of the first sample of each window, ``(W,)``.
    count
        Samples in each window, ``(W,)``.
    flagged
        Share flagged in each window, with its interval (:func:`repdyn.intervals.share_interval`).
    expected
        Share that is flagged of data like the calibration's: the rate asked for, and between which ends the
        true rate lies for one calibration set of that size (:func:`false_positive_interval`).
    points
        Depths, in order; empty where the detector has no profile.
    shift
        Mean standardised distance at each depth in the last window, less that of the calibration: 0 is
        usual. The intervals hold together
        over all depths (Bonferroni) and carry the calibration's own uncertainty.
    moved
        Points whose interval lies off 0, the furthest moved first.
    skipped
        Inputs that could not be read.
    verdict
        Of the last window. ``"found"``: the share's interval lies above that expected. ``"not found"``: it
        does not, no depth moved, and the window is large enough that three times the expected share would
        have been seen. ``"inconclusive"``: else.
    """

    start: NDArray[np.int64]
    count: NDArray[np.int64]
    flagged: tuple[Estimate, ...]
    expected: Estimate
    points: tuple[str, ...]
    shift: tuple[Estimate, ...]
    moved: tuple[str, ...]
    skipped: int
    verdict: str

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
        """Share flagged over time, and how far each depth moved."""
        from repdyn.views.drift import drift  # plotly is loaded only for a picture

        return drift(
            self.start + self.count, self.flagged, self.expected, self.points, self.shift, self.verdict
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for ``--json``."""
        return {
            "verdict": self.verdict,
            "start": self.start.tolist(),
            "count": self.count.tolist(),
            "flagged": [share.to_dict() for share in self.flagged],
            "expected": self.expected.to_dict(),
            "points": list(self.points),
            "shift": [shift.to_dict() for shift in self.shift],
            "moved": list(self.moved),
            "skipped": self.skipped,
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to a folder, of kind ``"drift"``."""
        save_artifact(path, "drift", {"drift": self.to_dict()}, {"count": self.count})

    @classmethod
    @refuses_damage
    def load(cls, path: str | os.PathLike[str]) -> DriftReport:
        """Read what :meth:`save` wrote."""
        found = load_artifact(path, "drift").config["drift"]
        return cls(
            start=np.array(found["start"], dtype=np.int64),
            count=np.array(found["count"], dtype=np.int64),
            flagged=tuple(Estimate(**share) for share in found["flagged"]),
            expected=Estimate(**found["expected"]),
            points=tuple(found["points"]),
            shift=tuple(Estimate(**shift) for shift in found["shift"]),
            moved=tuple(found["moved"]),
            skipped=int(found["skipped"]),
            verdict=found["verdict"],
        )


class DriftMonitor:
    """Scores a stream part by part, and keeps of it only what a report needs.

    Parameters
    ----------
    detector
        Fitted; best also calibrated on held-out paths, for the expected share is only then guaranteed.
    window
        Samples in a window.

    Examples
    --------
    >>> import numpy as np
    >>> from repdyn.ood import PathDetector
    >>> from repdyn.paths import RepresentationPaths
    >>> x = np.random.default_rng(0).normal(size=(400, 8)) + 3
    >>> monitor = DriftMonitor(PathDetector().fit(RepresentationPaths.from_arrays({"last": x})), window=50)
    >>> flagged = monitor.update(RepresentationPaths.from_arrays({"last": -x[:50]})).flagged
    >>> bool(flagged.all()), monitor.report().verdict
    (True, 'found')
    """

    def __init__(self, detector: Detector, window: int = 500) -> None:
        if window < FEWEST:
            raise RepdynError(f"window: must be at least {FEWEST} samples, got {window}")
        self.detector = detector
        self.window = window
        self.skipped = 0
        self._profiler = _profiler(detector)
        self._flags: list[NDArray[np.bool_]] = []
        self._alike: list[NDArray[np.int64]] = []  # equal numbers: equal samples
        depths = len(self._profiler.points_) if self._profiler is not None else 0
        self._recent = np.empty((0, depths))

    def update(self, paths: RepresentationPaths) -> Scored:
        """Score the next part of the stream."""
        profile = None
        if self._profiler is not None:
            profile = self._profiler.profile(paths)
            # The last complete window and the one that is being filled.
            self._recent = np.concatenate([self._recent, profile])[-2 * self.window :]
        if profile is not None and self._profiler is self.detector:
            scores = np.maximum(-profile.mean(axis=1), LOWEST)
        else:
            scores = self.detector.score_samples(paths)
        points = self._profiler.points_ if self._profiler is not None else ()
        scored = Scored(scores, scores < self.detector.threshold_, profile, points)
        self._flags.append(scored.flagged)
        # Scores of a union are steps: where there is a profile, it tells samples apart.
        told = np.ascontiguousarray(scores[:, None] if profile is None else profile)
        self._alike.append(np.array([hash(row.tobytes()) for row in told], dtype=np.int64))
        return scored

    def note_broken(self, count: int) -> Scored:
        """Count samples whose representation is not finite, which paths cannot hold: all are flagged.

        Parameters
        ----------
        count
            How many. Each is infinitely far at every depth.
        """
        far = np.full((count, self._recent.shape[1]), np.inf)
        self._recent = np.concatenate([self._recent, far])[-2 * self.window :]
        scored = Scored(np.full(count, LOWEST), np.ones(count, dtype=bool), None, ())
        self._flags.append(scored.flagged)
        seen = sum(len(flags) for flags in self._flags)
        self._alike.append(np.array([hash(("broken", seen - k)) for k in range(count)], dtype=np.int64))
        return scored

    def report(self) -> DriftReport:
        """The windows so far; a remainder of less than half a window counts with the one before it.

        Raises
        ------
        RepdynError
            If nothing was scored yet.
        """
        flags = np.concatenate(self._flags) if self._flags else np.zeros(0, dtype=bool)
        if not len(flags):
            raise RepdynError("report: nothing was scored yet; call update(paths) first")
        start = np.arange(0, len(flags), self.window)
        if len(start) > 1 and len(flags) - start[-1] < self.window // 2:
            start = start[:-1]
        count = np.diff([*start, len(flags)])
        # Equal samples of a window are no evidence of their own: an interval is over the different ones.
        alike = np.concatenate(self._alike)
        shares = tuple(_share(flags[s : s + c], alike[s : s + c]) for s, c in zip(start, count))
        once = np.unique(alike[-int(count[-1]) :], return_index=True)[1]
        if len(once) < 2:  # no spread could be estimated
            once = np.arange(int(count[-1]))
        known = self.detector.calibration_scores_
        rank = max(1, int((known <= self.detector.threshold_).sum()))
        rate = rank / (len(known) + 1)
        expected = Estimate(rate, *false_positive_interval(len(known), rate, LEVEL))
        points = self._profiler.points_ if self._profiler is not None else ()
        shift = (
            _shift(self._recent[-int(count[-1]) :][once], self._profiler)
            if self._profiler is not None
            else ()
        )
        moved = [
            p for p in np.argsort([-abs(s.value) for s in shift]) if not shift[p].low <= 0 <= shift[p].high
        ]
        verdict = "inconclusive"
        if shares[-1].low > expected.high:
            verdict = "found"
        elif shares[-1].high <= TELLING * expected.high and not moved:
            verdict = "not found"
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


def _share(flags: NDArray[np.bool_], alike: NDArray[np.int64]) -> Estimate:
    once = np.unique(alike, return_index=True)[1]
    found, value = share_interval(flags[once], level=LEVEL), float(flags.mean())
    return Estimate(value, min(found.low, value), max(found.high, value), LEVEL)


def _profiler(detector: Detector) -> PathDetector | None:
    """What knows the distance at each depth: the detector itself, or a member of a union."""
    members = getattr(detector, "members_", {}).values()
    found = [part for part in (detector, *members) if isinstance(part, PathDetector)]
    # The one that reads most depths: single points are read by detectors of the same kind.
    return max(found, key=lambda part: len(part.points_)) if found else None


def _shift(profile: Array, profiler: PathDetector) -> tuple[Estimate, ...]:
    from scipy.stats import t  # scipy.stats takes a third of a second to import

    level = 1 - (1 - LEVEL) / profile.shape[1]
    # A layer that died or exploded is infinitely far: a few such samples must not hide in an infinite spread.
    profile = np.clip(profile, -FAR, FAR)
    usual, variance, count = profiler.usual_profile()
    mean = profile.mean(axis=0) - usual
    parts = profile.var(axis=0, ddof=1) / len(profile), variance / count
    error = np.sqrt(parts[0] + parts[1])
    # Welch's test: the spreads of both are estimated.
    freedom = error**4 / (parts[0] ** 2 / (len(profile) - 1) + parts[1] ** 2 / (count - 1))
    half = t.ppf((1 + level) / 2, freedom) * error
    return tuple(Estimate(float(m), float(m - h), float(m + h), level) for m, h in zip(mean, half))
