"""From starts to attractors: follow, verify, merge, and name what did not settle."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from repdyn.errors import RepdynError, nearest_names
from repdyn.fields.anderson import WATCHED, anderson, decay
from repdyn.fields.attractors import Attractors
from repdyn.fields.counted import CountedField
from repdyn.fields.field import LatentField
from repdyn.fields.merging import count_sweep, merge_points
from repdyn.fields.places import Place, canonical_phase, follow_rest, gather, merge_cycles, shortest_period
from repdyn.fields.reached import reached_sets
from repdyn.fields.solvers import ESCAPED, MAX_PERIOD, MOVING, RECURRENT, SETTLED, TRAPPED, Iteration, picard
from repdyn.fields.starts import check_map, check_starts, geometry_of, to_index, to_numpy
from repdyn.fields.status import BUDGET, CYCLE, DIVERGED, FIXED, SLOW
from repdyn.fields.trapping import Traps, set_traps
from repdyn.fields.verifying import MERGE, verify_points

__all__ = ["find_attractors"]

SOLVERS = ("picard", "trapping", "anderson")
PILOT, GROWTH = 64, 4
"""Starts in the first round of a search with traps, all followed to the end; each round is so much larger."""
ESCAPE = 100.0
"""A sample this many times further out than any start has left for good."""
SWITCH = 1e-2
"""Steps this small, relative to the scale, may be accelerated if they also keep shrinking."""
NEAR = 1e-3
"""Steps this small, relative to the scale, are worth polishing even where the tolerance was not met."""
ORBIT = 256
"""Steps for which orbits that did not settle are followed."""


def find_attractors(
    field: LatentField,
    z0: Any,
    *,
    solver: str = "picard",
    tol: float = 1e-5,
    max_steps: int = 3000,
    seed: int = 0,
) -> Attractors:
    r"""Iterate a field from many starts and say what was reached, and what was not.

    Plain iteration :math:`z_{t+1} = f(z_t)` decides where a start goes. What settles is merged, polished
    by Newton's method in float64 where the map allows, and called an attractor only if plain iteration
    keeps approaching the polished point and every multiplier there is below one in modulus. What recurs
    is verified as a cycle in the same way. What does neither is followed further and told apart by its
    Lyapunov exponents.

    Parameters
    ----------
    field
        The map, deterministic, samples independent (networks in evaluation mode).
    z0
        Starts, tensor or array, shape ``(N, d)``.
    solver
        ``"picard"``: every start is followed until it settles. ``"trapping"``: a few starts are
        followed to the end, the others in rounds; they stop as soon as they enter a neighbourhood, from whose
        rim plain iteration leads inward, of a fixed point that was verified in an earlier round, or of an
        orbit that still moved there, whose name they share. Fewer evaluations, and the same destinations but
        for a few in a thousand.
        ``"anderson"``: starts whose steps are small and keep shrinking are finished by
        :func:`repdyn.fields.anderson.anderson`, within the distance that their decay allows; the others go
        on plainly.
    tol
        A start has settled when its step is this short, relative to the scale of the starts.
    max_steps
        Plain steps allowed for each start.
    seed
        Of the directions that multipliers and exponents start from.

    Returns
    -------
    Attractors

    Raises
    ------
    RepdynError
        On an unknown solver, on starts that are not finite or not ``(N, d)``, on a map of another shape, one
        that gives NaN everywhere, or one whose result for a sample depends on the other samples or on chance.

    Examples
    --------
    >>> import torch
    >>> found = LatentField(lambda z: 0.5 * z + 1).attractors(torch.tensor([[0.0, 0.0], [1.0, 3.0]]))
    >>> found.points.round(3).tolist(), found.verdict
    ([[2.0, 2.0]], 'found')

    References
    ----------
    Fumero et al. (2025), arXiv 2505.22785, section 3; Radhakrishnan, Belkin, Uhler (2020). Overparameterized
    neural networks implement associative memory. PNAS 117.
    """
    if solver not in SOLVERS:
        raise RepdynError(f"solver: there is no {solver!r}; {nearest_names(solver, SOLVERS)}")
    search = _Search(field, check_starts(z0, tol, max_steps), solver, tol, max_steps, seed)
    search.follow()
    search.find_cycles()
    search.find_fixed_points()
    search.name_the_rest()
    return search.result()


class _Search:
    """One search: what is known of each start, filled in step by step."""

    def __init__(
        self, field: LatentField, starts: Tensor, solver: str, tol: float, max_steps: int, seed: int
    ) -> None:
        self.starts, self.solver, self.tol, self.max_steps, self.seed = starts, solver, tol, max_steps, seed
        self.count = [0]
        self.plain = CountedField(field.step, self.count)
        self.centre, self.scale, self.reach = geometry_of(starts)
        check_map(self.plain, starts, self.scale)
        in_double = field.double(starts)
        self.exact = self.plain if in_double is None else CountedField(in_double.step, self.count)
        self.precise = starts.dtype if in_double is None else torch.float64
        self.places: list[Place] = []
        self.polished = [np.zeros((0, starts.shape[1]))]
        self.saddles = np.zeros((0, starts.shape[1]))
        self.marginal = self.neutral = 0

    def follow(self) -> None:
        """Plain iteration of every start; with traps, what the first reach stops the others."""
        n = len(self.starts)
        self.z, self.ends = self.starts.clone(), self.starts.to(self.precise, copy=True)
        self.steps = torch.zeros(n, dtype=torch.long, device=self.z.device)
        self.outcome, self.lag = np.full(n, MOVING), np.zeros(n, dtype=np.int64)
        self.residual = np.full(n, np.inf)
        self.status = np.full(n, BUDGET, dtype="<U16")
        self.shared = np.full(n, -1, dtype=np.int64)
        everything = np.arange(n)
        if self.solver == "anderson":
            self._accelerate()
            return
        if self.solver == "picard" or n < 2 * PILOT:
            self._iterate(everything, max_period=MAX_PERIOD)
            return
        self._join()

    def _join(self) -> None:
        """In rounds, each ``GROWTH`` times the one before: what a round reached traps those after it."""
        n = len(self.starts)
        order = np.random.default_rng(self.seed).permutation(n)
        # Of each trapped set: its fixed point, or the start whose orbit it is and whose fate is shared.
        points, owners = self.ends[:0], np.zeros(0, dtype=np.int64)
        traps: Traps | None = None
        done, size = 0, PILOT
        while done < n:
            # No round of its own for a small rest.
            stop = done + size if n - done >= 2 * size else n
            chosen = np.sort(order[done:stop])
            self._iterate(chosen, max_period=MAX_PERIOD, traps=traps)
            caught = chosen[self.outcome[chosen] == TRAPPED]
            owner = owners[self.lag[caught]]
            self.shared[caught[owner >= 0]] = owner[owner >= 0]
            settled = caught[owner < 0]
            self.ends[to_index(settled, self.z)] = points[to_index(self.lag[settled], self.z)]
            if stop < n:
                sets, own, reached = self._reached_by(chosen[self.outcome[chosen] != TRAPPED])
                if sets:
                    more = set_traps(self.plain, sets, self.scale, seed=self.seed)
                    traps = more if traps is None else traps.and_more(more, len(owners))
                    owners = np.concatenate([owners, np.full(len(reached), -1), own])
                    blank = reached.new_full((len(own), reached.shape[1]), float("nan"))
                    points = torch.cat([points, reached.to(points.dtype), blank.to(points.dtype)])
            self.outcome[settled] = SETTLED
            done, size = stop, GROWTH * size

    def _reached_by(self, pilot: NDArray[np.int64]) -> tuple[list[Tensor], NDArray[np.int64], Tensor]:
        where = to_index(pilot, self.z)
        close = self.residual[pilot] <= NEAR * self.scale
        run = Iteration(
            self.z[where],
            torch.from_numpy(self.residual[pilot]),
            self.steps[where],
            torch.from_numpy(np.where((self.outcome[pilot] == MOVING) & close, SETTLED, self.outcome[pilot])),
            torch.from_numpy(self.lag[pilot]),
        )
        steps = min(ORBIT, max(16, self.max_steps))
        sets, owners, points = reached_sets(
            self.plain, self.exact, run, self.scale, steps, precise=self.precise, seed=self.seed
        )
        return sets, pilot[owners], points

    def _accelerate(self) -> None:
        """Plainly to where steps are small, accelerated from there if they shrink, plainly if they do not."""
        everything = np.arange(len(self.starts))
        self._iterate(everything, max_period=0, tolerance=SWITCH)
        near = np.flatnonzero(self.outcome == SETTLED)
        where = to_index(near, self.z)
        z, _, reach = decay(self.plain, self.z[where])
        self.z[where] = z
        self.steps[where] += WATCHED + 1
        budget = max(1, self.max_steps - int(self.steps.max()))
        z, residual, steps, settled = anderson(
            self.plain, z, reach, tolerance=self.tol * self.scale, max_steps=budget
        )
        done = to_numpy(settled)
        self.steps[where] += steps
        self.z[where[settled]], self.ends[where[settled]] = z[settled], z[settled].to(self.precise)
        self.residual[near[done]] = to_numpy(residual[settled])
        rest = np.concatenate([near[~done], np.flatnonzero(self.outcome == MOVING)])
        if len(rest):
            self._iterate(np.sort(rest), max_period=MAX_PERIOD)

    def _iterate(
        self,
        chosen: NDArray[np.int64],
        *,
        max_period: int,
        traps: Traps | None = None,
        tolerance: float | None = None,
    ) -> None:
        where = to_index(chosen, self.z)
        run = picard(
            self.plain,
            self.z[where],
            tolerance=(self.tol if tolerance is None else tolerance) * self.scale,
            max_steps=max(1, self.max_steps - int(self.steps[where].min())),
            centre=self.centre,
            escape=ESCAPE * self.reach,
            max_period=max_period,
            traps=traps,
        )
        self.z[where], self.ends[where] = run.z, run.z.to(self.precise)
        self.steps[where] += run.steps
        self.outcome[chosen], self.lag[chosen] = to_numpy(run.outcome), to_numpy(run.lag)
        self.residual[chosen] = to_numpy(run.residual)

    def find_cycles(self) -> None:
        """A cycle of period p is a fixed point of the p-th iterate."""
        recurrent = self.outcome == RECURRENT
        for period in np.unique(self.lag[recurrent]).tolist():
            chosen = np.flatnonzero(recurrent & (self.lag == period))
            ends = canonical_phase(self.exact, self.z[to_index(chosen, self.z)].to(self.precise), period)
            checked = verify_points(
                self.exact.power(period), ends, self.residual[chosen], self.scale, seed=self.seed
            )
            proper = shortest_period(self.exact, checked.points, period, MERGE * self.scale) == period
            good = checked.stable & proper
            self.polished.append(to_numpy(checked.points).astype(np.float64)[good])
            self.places += gather(self.exact, checked, chosen, good, CYCLE, period, self.scale)
            self.status[chosen[good[checked.member]]] = CYCLE
        # A slow spiral comes back near itself too; it goes on as if it had not been stopped.
        stopped = np.flatnonzero(recurrent & (self.status != CYCLE))
        if len(stopped):
            self._iterate(stopped, max_period=0)

    def find_fixed_points(self) -> None:
        """Verify what settled, and what had all but settled when the budget was spent."""
        self.status[self.outcome == ESCAPED] = DIVERGED
        self.status[self.outcome == SETTLED] = SLOW
        close = (self.outcome == MOVING) & (self.residual <= NEAR * self.scale)
        chosen = np.flatnonzero((self.outcome == SETTLED) | close)
        if not len(chosen):
            return
        ends = self.ends[to_index(chosen, self.z)].to(self.precise)
        checked = verify_points(self.exact, ends, self.residual[chosen], self.scale, seed=self.seed)
        points = to_numpy(checked.points).astype(np.float64)
        self.polished.append(points[checked.stable])
        self.places += gather(self.exact, checked, chosen, checked.stable, FIXED, 1, self.scale)
        named = checked.stable | checked.saddle | checked.marginal
        self.status[chosen[named[checked.member]]] = FIXED
        self.marginal = int(checked.marginal[checked.member].sum())
        saddles = points[checked.saddle]
        self.saddles = saddles[merge_points(saddles, MERGE * self.scale)[0]]

    def name_the_rest(self) -> None:
        """Tell apart what neither settled nor recurred to something verified."""
        chosen = np.flatnonzero((self.status == BUDGET) & (self.shared < 0))
        if len(chosen):
            steps = min(ORBIT, max(16, self.max_steps))
            places, names, self.neutral = follow_rest(
                self.plain, self.exact, self.z, chosen, self.scale, steps,
                precise=self.precise, seed=self.seed,
            )  # fmt: skip
            cycles = [place.point for place in places if place.kind == CYCLE]
            self.polished.append(np.array(cycles).reshape(-1, self.starts.shape[1]))
            self.places = merge_cycles([*self.places, *places], self.scale)
            self.status[chosen] = names
        sharing = np.flatnonzero(self.shared >= 0)
        self.status[sharing] = self.status[self.shared[sharing]]
        self.places = [
            replace(p, members=np.concatenate([p.members, sharing[np.isin(self.shared[sharing], p.members)]]))
            for p in self.places
        ]

    def result(self) -> Attractors:
        """Order the attractors by basin and say what must be known of them."""
        places = sorted(self.places, key=lambda place: (-len(place.members), place.kind))
        basin = np.full(len(self.starts), -1, dtype=np.int64)
        for a, place in enumerate(places):
            basin[place.members] = a
        k = max((len(p.multipliers) for p in places if p.multipliers is not None), default=0)
        blank = np.full(k, np.nan, dtype=np.complex128)
        multipliers = [blank if p.multipliers is None else p.multipliers for p in places]
        points = np.array([p.point for p in places], dtype=np.float64).reshape(-1, self.starts.shape[1])
        distance = np.linalg.norm(points - to_numpy(self.centre).astype(np.float64), axis=1)
        # A tenth of slack: the outermost start is a random thing.
        supported = distance <= 1.1 * self.reach
        sweep = count_sweep(np.concatenate(self.polished), self.scale)
        enough = float((basin >= 0).mean()) >= 0.5
        return Attractors(
            points=points,
            kind=tuple(p.kind for p in places),
            period=np.array([p.period for p in places], dtype=np.int64),
            radius=np.array([p.radius for p in places], dtype=np.float64),
            supported=supported,
            point_residual=np.array([p.residual for p in places], dtype=np.float64),
            multipliers=np.array(multipliers, dtype=np.complex128).reshape(len(places), k),
            lyapunov=np.array([p.lyapunov for p in places], dtype=np.float64).reshape(-1, 3),
            saddles=self.saddles,
            basin=basin,
            status=self.status.astype(np.str_),
            residual=self.residual,
            steps=to_numpy(self.steps),
            starts=to_numpy(self.starts).astype(np.float64),
            ends=to_numpy(self.z).astype(np.float64),
            counts=np.array([[t, c] for t, c in sweep.items()], dtype=np.float64),
            scale=self.scale,
            evaluations=self.count[0],
            tolerance=self.tol,
            max_steps=self.max_steps,
            solver=self.solver,
            notes=self._notes(basin, supported),
            verdict="not found" if not places else "found" if enough else "inconclusive",
        )

    def _notes(self, basin: NDArray[np.int64], supported: NDArray[np.bool_]) -> tuple[str, ...]:
        n, count, notes = len(self.starts), len(supported), []
        if self.marginal == n and bool((self.steps == 1).all()):
            notes.append("every point is fixed: the map is the identity on these starts and attracts nothing")
        elif self.marginal:
            notes.append(
                f"{self.marginal} of {n} starts end on fixed points that attract nothing (leading multiplier "
                "1): a continuum of fixed points"
            )
        if self.neutral:
            notes.append(f"{self.neutral} of {n} starts go round circles of their own that attract nothing")
        diverged = int((self.status == DIVERGED).sum())
        if diverged:
            notes.append(f"{diverged} of {n} starts diverged: the map expands there")
        unsettled = int(np.isin(self.status, (SLOW, BUDGET)).sum())
        if unsettled:
            notes.append(f"{unsettled} of {n} starts did not reach an attractor within the budget")
        if n > 1 and count == 1 and bool((basin == 0).all()):
            notes.append("one attractor holds every start: destinations tell nothing about the starts")
        if n >= 10 and count >= 0.8 * n:
            notes.append("about as many attractors as starts: more starts would find more")
        if not supported.all():
            outside = int((~supported).sum())
            notes.append(f"{outside} attractors lie outside the range of the starts, unsupported by data")
        return tuple(notes)
