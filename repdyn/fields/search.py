"""From starts to attractors: follow, verify, merge, and name what did not settle."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from repdyn.errors import RepdynError, nearest_names
from repdyn.fields.attractors import Attractors
from repdyn.fields.field import LatentField
from repdyn.fields.following import NEAR, ORBIT, Journeys
from repdyn.fields.merging import count_sweep, merge_points
from repdyn.fields.places import Place, canonical_phase, follow_rest, gather, merge_cycles, shortest_period
from repdyn.fields.solvers import ESCAPED, MOVING, RECURRENT, SETTLED
from repdyn.fields.starts import check_starts, to_index, to_numpy, widened
from repdyn.fields.status import BUDGET, CYCLE, DIVERGED, FIXED, SLOW
from repdyn.fields.units import in_units, units_of
from repdyn.fields.verifying import MERGE, verify_points

__all__ = ["find_attractors"]

SOLVERS = ("picard", "trapping", "anderson")


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
        A start has settled when its step is this short, relative to the scale of the starts. Coordinates over
        thirty times wider than the narrow ones are divided by a power of two for all lengths, so that none
        hides the others; places are given in their own units, residuals, radii and the scale in those.
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
    starts = widened(field, check_starts(field, z0, tol, max_steps))
    units = units_of(starts)
    if units is not None:
        found = _found(in_units(field, units), starts / units, solver, tol, max_steps, seed)
        return _in_coordinates(found, to_numpy(units).astype(np.float64))
    return _found(field, starts, solver, tol, max_steps, seed)


def _found(
    field: LatentField, starts: Tensor, solver: str, tol: float, max_steps: int, seed: int
) -> Attractors:
    journeys = Journeys(field, starts, solver, tol, max_steps, seed)
    journeys.follow()
    naming = _named(journeys)
    if len(naming.astray):
        journeys.release(naming.astray)
        naming = _named(journeys)
    return naming.result()


def _in_coordinates(found: Attractors, units: NDArray[np.float64]) -> Attractors:
    """Places given in their own units again; lengths stay in those of the narrow coordinates."""
    places = ("points", "saddles", "starts", "ends")
    return replace(found, **{name: getattr(found, name) * units for name in places})


def _named(journeys: Journeys) -> _Naming:
    naming = _Naming(journeys)
    naming.find_cycles()
    naming.find_fixed_points()
    naming.name_the_rest()
    return naming


class _Naming:
    """What each journey came to, filled in step by step."""

    def __init__(self, run: Journeys) -> None:
        self.run = run
        self.status = np.full(len(run.starts), BUDGET, dtype="<U16")
        self.places: list[Place] = []
        self.polished = [np.zeros((0, run.starts.shape[1]))]
        self.saddles = np.zeros((0, run.starts.shape[1]))
        self.marginal = self.neutral = 0

    def find_cycles(self) -> None:
        """A cycle of period p is a fixed point of the p-th iterate."""
        recurrent = self.run.outcome == RECURRENT
        for period in np.unique(self.run.lag[recurrent]).tolist():
            chosen = np.flatnonzero(recurrent & (self.run.lag == period))
            ends = canonical_phase(
                self.run.exact, self.run.z[to_index(chosen, self.run.z)].to(self.run.precise), period
            )
            checked = verify_points(
                self.run.exact.power(period),
                ends,
                self.run.residual[chosen],
                self.run.scale,
                seed=self.run.seed,
            )
            proper = shortest_period(self.run.exact, checked.points, period, MERGE * self.run.scale) == period
            good = checked.stable & proper
            self.polished.append(to_numpy(checked.points).astype(np.float64)[good])
            self.places += gather(self.run.exact, checked, chosen, good, CYCLE, period, self.run.scale)
            self.status[chosen[good[checked.member]]] = CYCLE
        # A slow spiral comes back near itself too; it goes on as if it had not been stopped.
        stopped = np.flatnonzero(recurrent & (self.status != CYCLE))
        if len(stopped):
            self.run.iterate(stopped, max_period=0)

    def find_fixed_points(self) -> None:
        """Verify what settled, and what had all but settled when the budget was spent."""
        self.status[self.run.outcome == ESCAPED] = DIVERGED
        self.status[self.run.outcome == SETTLED] = SLOW
        close = (self.run.outcome == MOVING) & (self.run.residual <= NEAR * self.run.scale)
        chosen = np.flatnonzero((self.run.outcome == SETTLED) | close)
        if not len(chosen):
            return
        ends = self.run.ends[to_index(chosen, self.run.z)].to(self.run.precise)
        checked = verify_points(
            self.run.exact, ends, self.run.residual[chosen], self.run.scale, seed=self.run.seed
        )
        points = to_numpy(checked.points).astype(np.float64)
        self.polished.append(points[checked.stable])
        self.places += gather(self.run.exact, checked, chosen, checked.stable, FIXED, 1, self.run.scale)
        named = checked.stable | checked.saddle | checked.marginal
        self.status[chosen[named[checked.member]]] = FIXED
        self.marginal = int(checked.marginal[checked.member].sum())
        saddles = points[checked.saddle]
        self.saddles = saddles[merge_points(saddles, MERGE * self.run.scale)[0]]

    def name_the_rest(self) -> None:
        """Tell apart what neither settled nor recurred to something verified."""
        chosen = np.flatnonzero((self.status == BUDGET) & (self.run.shared < 0))
        if len(chosen):
            steps = min(ORBIT, max(16, self.run.max_steps))
            places, names, self.neutral = follow_rest(
                self.run.plain, self.run.exact, self.run.z, chosen, self.run.scale, steps,
                precise=self.run.precise, seed=self.run.seed,
            )  # fmt: skip
            cycles = [place.point for place in places if place.kind == CYCLE]
            self.polished.append(np.array(cycles).reshape(-1, self.run.starts.shape[1]))
            self.places = merge_cycles([*self.places, *places], self.run.scale)
            self.status[chosen] = names
        sharing = np.flatnonzero(self.run.shared >= 0)
        self.status[sharing] = self.status[self.run.shared[sharing]]
        self.places = [
            replace(
                p, members=np.concatenate([p.members, sharing[np.isin(self.run.shared[sharing], p.members)]])
            )
            for p in self.places
        ]

    @property
    def astray(self) -> NDArray[np.int64]:
        """Captives of an orbit that came to no attractor: it was on its way, and theirs may be shorter."""
        return np.flatnonzero((self.run.shared >= 0) & np.isin(self.status, (SLOW, BUDGET)))

    def result(self) -> Attractors:
        """Order the attractors by basin and say what must be known of them."""
        places = sorted(self.places, key=lambda place: (-len(place.members), place.kind))
        basin = np.full(len(self.run.starts), -1, dtype=np.int64)
        for a, place in enumerate(places):
            basin[place.members] = a
        k = max((len(p.multipliers) for p in places if p.multipliers is not None), default=0)
        blank = np.full(k, np.nan, dtype=np.complex128)
        multipliers = [blank if p.multipliers is None else p.multipliers for p in places]
        points = np.array([p.point for p in places], dtype=np.float64).reshape(-1, self.run.starts.shape[1])
        distance = np.linalg.norm(points - to_numpy(self.run.centre).astype(np.float64), axis=1)
        # A tenth of slack: the outermost start is a random thing.
        supported = distance <= 1.1 * self.run.reach
        sweep = count_sweep(np.concatenate(self.polished), self.run.scale)
        enough = float((basin >= 0).mean()) >= 0.5
        return Attractors(
            points=points,
            kind=tuple(p.kind for p in places),
            period=np.array([p.period for p in places], dtype=np.int64),
            radius=np.array([p.radius for p in places], dtype=np.float64),
            supported=supported,
            point_residual=np.array([p.residual for p in places], dtype=np.float64),
            multipliers=np.array(multipliers, dtype=np.complex128).reshape(len(places), k),
            observed=np.array([p.observed for p in places], dtype=np.float64),
            lyapunov=np.array([p.lyapunov for p in places], dtype=np.float64).reshape(-1, 3),
            saddles=self.saddles,
            basin=basin,
            status=self.status.astype(np.str_),
            residual=self.run.residual,
            steps=to_numpy(self.run.steps),
            starts=to_numpy(self.run.starts).astype(np.float64),
            ends=to_numpy(self.run.z).astype(np.float64),
            counts=np.array([[t, c] for t, c in sweep.items()], dtype=np.float64),
            scale=self.run.scale,
            evaluations=self.run.count[0],
            tolerance=self.run.tol,
            max_steps=self.run.max_steps,
            solver=self.run.solver,
            notes=self._notes(basin, supported),
            verdict="not found" if not places else "found" if enough else "inconclusive",
        )

    def _notes(self, basin: NDArray[np.int64], supported: NDArray[np.bool_]) -> tuple[str, ...]:
        n, count, notes = len(self.run.starts), len(supported), []
        if self.marginal == n and bool((self.run.steps == 1).all()):
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
