"""Phases of depth: runs of steps that share one affine map, with change points found from data.

Between neighboring points ``x_(l+1) ≈ x_l K_p + b_l``, with one ``K_p`` for all steps of a phase and one
offset for each step. Maps are fitted on some samples and judged on others. The cost of a phase is the sum
over its steps of ``log(error of its map / error of the step's own map)``. Dynamic programming minimizes the
costs plus a fixed price for each phase.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from repdyn.devices import double, to
from repdyn.errors import RepdynError
from repdyn.intervals import Estimate, ratio_interval
from repdyn.koopman.frames import PointFrames, principal_axes
from repdyn.koopman.settings import PhaseSettings
from repdyn.koopman.states import read_points
from repdyn.paths import RepresentationPaths, nearby
from repdyn.progress import track
from repdyn.reading import as_array
from repdyn.repeats import folds_by_group, groups_of_equal_rows, sums_by_group
from repdyn.results import Result

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["Phases", "change_points", "phases"]

Real = NDArray[np.float64]
_SETTINGS = PhaseSettings()


@dataclass(frozen=True, eq=False)
class Phases(Result, kind="phases"):
    """Runs of steps that share one map, and what such maps leave unexplained on test paths.

    Attributes
    ----------
    points
        Points of the path, in order of depth.
    starts
        Number of the first step of each phase; step ``l`` leads from point ``l`` to the next.
    number
        Number of phases, with its 95 % bootstrap interval over samples.
    places
        For each change the number of the point at which the new phase begins, with its interval.
    one, piecewise, own
        Fraction of variance unexplained of one step from true representations, for every step on test paths:
        by one map for all steps, by one for each phase, by one for each step.
    ratio
        Errors of the phases' maps over those of the steps' own, geometric mean over steps, with its interval;
        1 where depth is autonomous within phases.
    eigenvalues
        Eigenvalues of the map of each phase, by modulus.
    relative
        Whether maps and eigenvalues are relative to frames that differ between points.
    samples, drawn_from
        Number of training samples that maps and phases were fitted on, and of those given; None in results of
        earlier versions.
    """

    points: tuple[str, ...]
    starts: tuple[int, ...]
    number: Estimate
    places: tuple[Estimate, ...]
    one: tuple[Estimate, ...]
    piecewise: tuple[Estimate, ...]
    own: tuple[Estimate, ...]
    ratio: Estimate
    eigenvalues: tuple[NDArray[Any], ...]
    relative: bool
    samples: int | None = None
    drawn_from: int | None = None

    figures: ClassVar = (
        "points",
        "starts",
        "number",
        "places",
        "one",
        "piecewise",
        "own",
        "ratio",
        "autonomous",
        "relative",
        "samples",
        "drawn_from",
        "verdict",
        "reason",
    )

    @property
    def verdict(self) -> str:
        """``"found"`` if there are several phases of which some has several steps.

        ``"not found"`` if one map serves all steps, or every step has a map of its own, else
        ``"inconclusive"``. The interval of the number decides. If maps are relative to frames, that several
        steps share one is ``"inconclusive"``: in a space as wide as the widest point, one map can hold those
        of several narrower points side by side.
        """
        steps = len(self.points) - 1
        if self.relative and self.number.low < steps:
            return "inconclusive"
        if self.number.low > 1 and self.number.high < steps:
            return "found"
        return "not found" if self.number.high <= 1 or self.number.low >= steps else "inconclusive"

    @property
    def reason(self) -> str:
        """The verdict in words."""
        low, high, steps = int(self.number.low), int(self.number.high), len(self.points) - 1
        if self.verdict == "found":
            return f"{len(self.starts)} phases, each with one map"
        if self.relative and self.verdict == "inconclusive":
            return (
                f"{len(self.starts)} phases in frames of their own, where one map can hold those of several "
                "narrower points"
            )
        if self.verdict == "inconclusive":
            return f"the data agree with {low} to {high} phases"
        return "one map serves all steps" if high <= 1 else f"each of the {steps} steps has a map of its own"

    @property
    def autonomous(self) -> str:
        """Whether one map for each phase is as good as one for each step on test paths.

        ``"found"`` if the interval of :attr:`ratio` ends below 1.1, ``"not found"`` if it begins above it, or
        if no phase has more than one step. ``"inconclusive"`` if maps are relative to frames, as
        :attr:`verdict`.
        """
        if len(self.starts) == len(self.points) - 1:
            return "not found"
        if self.relative:
            return "inconclusive"
        limit = 1 + _SETTINGS.material
        if self.ratio.high < limit:
            return "found"
        return "not found" if self.ratio.low > limit else "inconclusive"

    def __repr__(self) -> str:
        steps = len(self.points) - 1
        ends = [*self.starts[1:], steps]
        lines = [
            f"Phases of depth: {self.verdict} ({self.reason})",
            f"  number {len(self.starts)} [{self.number.low:g}, {self.number.high:g}] of {steps} steps",
        ]
        if self.samples != self.drawn_from:
            lines.append(f"  fitted on {self.samples} of {self.drawn_from} samples, drawn at random")
        if self.relative:
            lines.append("  relative to frames: each point has its own rotation and scale")
        for number, (start, end) in enumerate(zip(self.starts, ends)):
            values = self.eigenvalues[number]
            # A real eigenvalue has an angle of rounding.
            turning = float((np.abs(np.angle(values)) > 1e-3).mean())
            begins = ""
            if number:
                place = self.places[number - 1]
                begins = f", begins at point {start} [{place.low:g}, {place.high:g}]"
            lines.append(
                f"  {self.points[start]} to {self.points[end]}{begins}: |λ| {np.abs(values).max():.3f} to "
                f"{np.abs(values).min():.3f}, {turning:.0%} of them complex"
            )
        for name, series in (
            ("one map", self.one),
            ("a map per phase", self.piecewise),
            ("a map per step", self.own),
        ):
            lines.append(f"  FVU of a step, {name}: " + " ".join(f"{e.value:.3f}" for e in series))
        lines.append(
            f"  error of the phases' maps, divided by that of each step's own map: {self.ratio}; "
            f"autonomous within phases: {self.autonomous}"
        )
        return "\n".join(lines)

    def plot(self) -> go.Figure:
        """Plot the unexplained variance of the three kinds of maps against depth."""
        # plotly is slow to import and not everyone plots.
        from repdyn.views.dynamics import phases as draw

        return draw(
            self.points[1:],
            {
                "a map per phase": [e.to_dict() for e in self.piecewise],
                "one map": [e.to_dict() for e in self.one],
                "a map per step": [e.to_dict() for e in self.own],
            },
            self.starts,
            self.verdict,
        )


def phases(paths: RepresentationPaths, train: RepresentationPaths, *, seed: int = 0) -> Phases:
    """Find runs of steps that share one map on training paths, and evaluate them on test paths.

    A phase costs a price of ``log 1.1``: two runs are separate if together their maps lower the summed
    logarithms of the errors by more. Where widths are equal, all points share one frame, so that a map is one
    map of the representations.

    Parameters
    ----------
    paths
        Test paths.
    train
        Training paths of the same model, on which the change points are found; at least four points.
    seed
        Seed of the folds and of the bootstrap.

    Returns
    -------
    Phases

    Raises
    ------
    RepdynError
        If the path has fewer than four points, or the two have different points or widths.

    Examples
    --------
    >>> import numpy as np
    >>> draw = np.random.default_rng(0)
    >>> x = [draw.standard_normal((200, 2))]
    >>> for step in [np.diag([0.9, 0.5])] * 2 + [np.diag([0.5, 1.1])] * 2:
    ...     x.append(x[-1] @ step + 0.01 * draw.standard_normal((200, 2)))
    >>> paths = RepresentationPaths.from_arrays({f"p{n}": own for n, own in enumerate(x)})
    >>> phases(paths, paths).starts
    (0, 2)
    """
    if paths.points != train.points or paths.widths != train.widths:
        raise RepdynError(
            f"test paths have points {paths.points}, training paths {train.points}, or other widths"
        )
    search = _Search(train, seed)
    starts = search.best(search.errors.sum(axis=2))
    number, places = search.intervals(starts, seed)
    steps = search.steps
    models = {
        "one": (0,),
        "piecewise": starts,
        "own": tuple(range(steps)),
    }
    maps = {name: search.maps(own) for name, own in models.items()}
    states = _lifted(nearby(paths), search.frames)
    groups = groups_of_equal_rows(as_array(states[0].float()))
    found: dict[str, list[Estimate]] = defaultdict(list)
    logs = []
    for step in range(steps):
        before, after = states[step], states[step + 1]
        spread = as_array((after - after.mean(dim=0)).square().sum(dim=1))
        grouped = {}
        for name, fitted in maps.items():
            weight, offset = fitted[step]
            error = as_array((before @ weight + offset - after).square().sum(dim=1))
            grouped[name] = sums_by_group(groups, error)
            found[name].append(ratio_interval(grouped[name], sums_by_group(groups, spread), seed=seed))
        floor = _SETTINGS.exact * float(spread.sum()) / len(grouped["own"])
        logs.append((grouped["piecewise"] + floor, grouped["own"] + floor))
    spectra = []
    for start in starts:
        values = np.linalg.eigvals(as_array(maps["piecewise"][start][0], np.float64))
        spectra.append(values[np.argsort(-np.abs(values), kind="stable")].astype(complex))
    return Phases(
        paths.points,
        starts,
        number,
        places,
        tuple(found["one"]),
        tuple(found["piecewise"]),
        tuple(found["own"]),
        _mean_ratio(logs, seed),
        tuple(spectra),
        search.frames.relative,
        len(search.groups),
        len(train),
    )


def change_points(paths: RepresentationPaths, *, seed: int = 0) -> tuple[int, ...]:
    """Number of the first step of each phase, by the search of :func:`phases`.

    Parameters
    ----------
    paths
        Training paths of at least four points.
    seed
        Seed of the folds.
    """
    search = _Search(paths, seed)
    return search.best(search.errors.sum(axis=2))


def _mean_ratio(logs: Sequence[tuple[Real, Real]], seed: int) -> Estimate:
    """Geometric mean over steps of a sum over a sum, with a bootstrap interval over rows ``(N,)``."""
    top, bottom = (np.stack(own) for own in zip(*logs))  # (steps, N)

    def value(counts: Real) -> Real:
        own: Real = np.exp(np.log((counts @ top.T) / (counts @ bottom.T)).mean(axis=-1))
        return own

    drawn = _resampled(top.shape[1], seed)
    low, high = np.quantile(value(drawn), [0.025, 0.975])
    return Estimate(float(value(np.ones(top.shape[1]))), float(low), float(high))


def _resampled(count: int, seed: int) -> Real:
    """How often each of so many units is drawn in every bootstrap replicate, ``(replicates, count)``."""
    draw = np.random.default_rng(seed)
    return draw.multinomial(count, np.full(count, 1 / count), size=_SETTINGS.resamples).astype(np.float64)


def _lifted(paths: RepresentationPaths, frames: PointFrames) -> list[Tensor]:
    """States of every point, each ``(n, width)``, float64."""
    return [frames.lift(double(x), number) for number, x in enumerate(read_points(paths))]


class _Search:
    """Errors of one map for every run of steps on unseen samples, and the best division into runs.

    Parameters
    ----------
    paths
        Training paths.
    seed
        Seed of the folds.
    """

    def __init__(self, paths: RepresentationPaths, seed: int) -> None:
        self.steps = len(paths.points) - 1
        if self.steps < _SETTINGS.min_steps:
            raise RepdynError(
                f"phases of depth need a path of at least {_SETTINGS.min_steps + 1} points, which has "
                f"{_SETTINGS.min_steps} steps, got {len(paths.points)} points {paths.points}: with fewer, a "
                "phase is a single step; trace more points, or use operator='per_step'"
            )
        most = max(1, _SETTINGS.rows // len(paths.points))
        if len(paths) > most:
            kept = np.random.default_rng(seed).permutation(len(paths))[:most]
            paths = paths.subset(np.sort(kept))
        equal = len(set(paths.widths.values())) == 1
        rows = read_points(nearby(paths))
        self.frames = to(PointFrames(paths.widths, common=equal), None, torch.float64).fit(rows)
        self.states = [self.frames.lift(double(x), number) for number, x in enumerate(rows)]
        self.groups = groups_of_equal_rows(as_array(rows[0]))
        distinct = int(self.groups.max()) + 1
        # Each fold needs two different samples to have a variance.
        if distinct < 2 * _SETTINGS.folds:
            raise RepdynError(
                f"phases of depth: {distinct} different samples are too few to judge a map on samples that "
                f"it was not fitted to; at least {2 * _SETTINGS.folds} are needed"
            )
        draw = np.random.default_rng(seed)
        self.folds = folds_by_group(self.groups, _SETTINGS.folds, draw)
        # Blocks of groups are the units of the bootstrap: equal samples are drawn together.
        self.blocks = self.groups % min(distinct, _SETTINGS.blocks)
        self.unit = double(self.frames.variance)
        later = torch.stack([x - x.mean(dim=0) for x in self.states[1:]])
        later = (later / self.unit[1:, None, None].sqrt()).flatten(0, 1)
        width = later.shape[1]
        self.axes = (
            principal_axes(later, _SETTINGS.targets)
            if width > _SETTINGS.targets
            else torch.eye(width, dtype=later.dtype)
        )
        self.runs = [(a, b) for a in range(self.steps) for b in range(a + 1, self.steps + 1)]
        self.errors, self.floor = self._judged()

    def _judged(self) -> tuple[Real, Real]:
        """Squared errors of unseen samples ``(runs, steps, blocks)``, and what counts as rounding.

        Entries of steps outside of a run are not numbers.
        """
        errors = np.full((len(self.runs), self.steps, int(self.blocks.max()) + 1), np.nan)
        for number, (a, b) in enumerate(self.runs):
            errors[number, a:b] = 0.0
        spread = np.zeros(self.steps)
        for fold in track(range(_SETTINGS.folds), "finding change points"):
            sums, centers = self._sums(torch.from_numpy(self.folds != fold))
            unseen = np.flatnonzero(self.folds == fold)
            before, after = [], []
            for step, (start, end) in enumerate(centers):
                before.append(self.states[step][unseen] - start)
                after.append((self.states[step + 1][unseen] - end) @ self.axes)
                spread[step] += float(after[-1].square().sum())
            noise = torch.ones(self.steps, dtype=torch.float64)
            by_run = sorted(range(len(self.runs)), key=lambda k: self.runs[k][1] - self.runs[k][0])
            for number in by_run:  # single steps first: their errors weight the steps of longer runs
                a, b = self.runs[number]
                found = self._best_of_run(sums, noise, a, b, before, after)
                if b == a + 1:
                    own = float(found[0].sum()) / len(unseen)
                    noise[a] = own + _SETTINGS.exact * float(self.unit[a + 1])
                for step, error in zip(range(a, b), found):
                    errors[number, step] += np.bincount(
                        self.blocks[unseen], as_array(error), minlength=errors.shape[2]
                    )
        return errors, _SETTINGS.exact * spread

    def _sums(self, kept: Tensor) -> tuple[list[tuple[Tensor, Tensor]], list[tuple[Tensor, Tensor]]]:
        """``X'X`` and ``X'Y`` of every step about its means, per sample, and these means."""
        sums, centers = [], []
        for one, other in pairwise(self.states):
            x, y = one[kept], other[kept]
            centers.append((x.mean(dim=0), y.mean(dim=0)))
            x, y = x - centers[-1][0], y - centers[-1][1]
            sums.append((x.T @ x / len(x), x.T @ y / len(x)))
        return sums, centers

    def _best_of_run(
        self,
        sums: list[tuple[Tensor, Tensor]],
        noise: Tensor,
        a: int,
        b: int,
        before: list[Tensor],
        after: list[Tensor],
    ) -> list[Tensor]:
        """Squared errors of unseen samples at each step of a run, by the map with the best penalty."""
        gram = torch.stack([sums[step][0] / noise[step] for step in range(a, b)]).sum(dim=0)
        cross = torch.stack([sums[step][1] / noise[step] for step in range(a, b)]).sum(dim=0)
        best: tuple[float, list[Tensor]] | None = None
        for penalty in _SETTINGS.penalties:
            weight = _ridge_of(gram, cross, self.axes, penalty)
            found = [(before[step] @ weight - after[step]).square().sum(dim=1) for step in range(a, b)]
            cost = sum(
                float(torch.log(own.mean() + _SETTINGS.exact * self.unit[step + 1]))
                for step, own in zip(range(a, b), found)
            )
            if best is None or cost < best[0]:
                best = cost, found
        assert best is not None
        return best[1]

    def best(self, errors: Real) -> tuple[int, ...]:
        """First steps of the phases of the division with the least cost, from errors ``(runs, steps)``."""
        single = {a: k for k, (a, b) in enumerate(self.runs) if b == a + 1}
        own = np.array([errors[single[step], step] for step in range(self.steps)]) + self.floor
        with np.errstate(invalid="ignore"):
            costs = np.nansum(np.log((errors + self.floor) / own), axis=1) + np.log1p(_SETTINGS.material)
        cost = {run: float(value) for run, value in zip(self.runs, costs)}
        reached: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
        for end in range(1, self.steps + 1):
            ways = [(reached[a][0] + cost[a, end], (*reached[a][1], a)) for a in range(end)]
            reached.append(min(ways, key=lambda way: (way[0], len(way[1]))))
        return reached[-1][1]

    def intervals(self, starts: tuple[int, ...], seed: int) -> tuple[Estimate, tuple[Estimate, ...]]:
        """Bootstrap intervals of the number of phases and of each change, over blocks of samples."""
        drawn = _resampled(self.errors.shape[2], seed)
        replicates = [self.best(self.errors @ counts) for counts in drawn]
        counts = np.array([len(own) for own in replicates])

        def interval(value: float, found: NDArray[Any]) -> Estimate:
            # Whole numbers: the ends are values that occur.
            low, high = np.quantile(found, [0.025, 0.975], method="inverted_cdf")
            return Estimate(float(value), float(min(low, value)), float(max(high, value)))

        places = []
        for change in starts[1:]:
            nearest = [min(own[1:], key=lambda place: abs(place - change)) for own in replicates if own[1:]]
            places.append(interval(change, np.array(nearest or [change])))
        return interval(len(starts), counts), tuple(places)

    def maps(self, starts: tuple[int, ...]) -> list[tuple[Tensor, Tensor]]:
        """Map and offset of every step, fitted to all training samples, one map for each phase."""
        every = torch.ones(len(self.states[0]), dtype=torch.bool)
        sums, centers = self._sums(every)
        held = torch.from_numpy(self.folds == 0)
        fitted_sums, fitted_centers = self._sums(~held)
        identity, axes = torch.eye(self.axes.shape[0], dtype=torch.float64), self.axes
        found = []
        noise = torch.ones(self.steps, dtype=torch.float64)
        singles = {a: k for k, (a, b) in enumerate(self.runs) if b == a + 1}
        for step in range(self.steps):
            noise[step] = float(self.errors[singles[step], step].sum()) / len(self.states[0])
            noise[step] += _SETTINGS.exact * float(self.unit[step + 1])
        before = [x[held] - own[0] for x, own in zip(self.states, fitted_centers)]
        after = [(x[held] - own[1]) @ axes for x, own in zip(self.states[1:], fitted_centers)]
        for a, b in pairwise((*starts, self.steps)):
            gram, cross = (
                torch.stack([own[step][part] / noise[step] for step in range(a, b)]).sum(dim=0)
                for own, part in ((fitted_sums, 0), (fitted_sums, 1))
            )
            errors = []
            for penalty in _SETTINGS.penalties:
                weight = _ridge_of(gram, cross, axes, penalty)
                errors.append(
                    sum(
                        float(torch.log((before[s] @ weight - after[s]).square().mean() + 1e-30))
                        for s in range(a, b)
                    )
                )
            penalty = _SETTINGS.penalties[int(np.argmin(errors))]
            gram, cross = (
                torch.stack([sums[step][part] / noise[step] for step in range(a, b)]).sum(dim=0)
                for part in (0, 1)
            )
            weight = _ridge_of(gram, cross, identity, penalty)
            found += [(weight, centers[step][1] - centers[step][0] @ weight) for step in range(a, b)]
        return found


def _ridge_of(gram: Tensor, cross: Tensor, axes: Tensor, penalty: float) -> Tensor:
    """Ridge solution of ``X'X`` and ``X'Y`` onto ``axes``, with a penalty relative to the mean eigenvalue.

    It shrinks towards the identity, the map that changes nothing.
    """
    shrunk = gram.clone()
    shrunk.diagonal().add_(penalty * float(gram.trace()) / len(gram) or 1.0)
    return axes + torch.cholesky_solve((cross - gram) @ axes, torch.linalg.cholesky(shrunk))
