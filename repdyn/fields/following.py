"""Starts under way: followed plainly, in rounds with traps, or finished by acceleration."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from repdyn.fields.anderson import WATCHED, anderson, decay
from repdyn.fields.counted import CountedField
from repdyn.fields.field import LatentField
from repdyn.fields.reached import reached_sets
from repdyn.fields.solvers import MAX_PERIOD, MOVING, SETTLED, TRAPPED, Iteration, picard
from repdyn.fields.starts import check_map, geometry_of, to_index, to_numpy
from repdyn.fields.trapping import Traps, leaving, set_traps

__all__ = ["NEAR", "ORBIT", "Journeys"]

PILOT, GROWTH = 64, 4
"""Starts in the first round of a search with traps, all followed to the end; each round is so much larger."""
AUDITED = 32
"""Captives of each trap that are followed on before it is believed."""
ESCAPE = 100.0
"""A sample this many times further out than any start has left for good."""
SWITCH = 1e-2
"""Steps this small, relative to the scale, may be accelerated if they also keep shrinking."""
NEAR = 1e-3
"""Steps this small, relative to the scale, are worth polishing even where the tolerance was not met."""
ORBIT = 256
"""Steps for which orbits that did not settle are followed."""


class Journeys:
    """Where each start is, how it was stopped, and whose fate it shares.

    Parameters
    ----------
    field, starts, solver, tol, max_steps, seed
        As :func:`repdyn.fields.find_attractors` takes them, checked.

    Attributes
    ----------
    plain, exact
        The map in the precision of the starts, and in float64 (``precise``) where it allows; both count in
        ``count``.
    centre, scale, reach
        Of the starts.
    z, ends
        Last points, in either precision, shape ``(N, d)``.
    steps, residual
        Plain steps spent on each start, and the length of its last one, shape ``(N,)``.
    outcome, lag
        As :class:`repdyn.fields.solvers.Iteration` has them, shape ``(N,)``.
    shared
        The start whose fate each shares, or -1, shape ``(N,)``.
    """

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
        n = len(starts)
        self.z, self.ends = starts.clone(), starts.to(self.precise, copy=True)
        self.steps = torch.zeros(n, dtype=torch.long, device=self.z.device)
        self.outcome, self.lag = np.full(n, MOVING), np.zeros(n, dtype=np.int64)
        self.residual = np.full(n, np.inf)
        self.shared = np.full(n, -1, dtype=np.int64)

    def follow(self) -> None:
        """Plain iteration of every start; with traps, what the first reach stops the others."""
        n = len(self.starts)
        everything = np.arange(n)
        if self.solver == "anderson":
            self._accelerate()
            return
        if self.solver == "picard" or n < 2 * PILOT:
            self.iterate(everything, max_period=MAX_PERIOD)
            return
        self._join()

    def release(self, captives: NDArray[np.int64]) -> None:
        """Follow captives on by themselves, to their own ends."""
        self.shared[captives] = -1
        self.iterate(captives, max_period=MAX_PERIOD)

    def _join(self) -> None:
        """In rounds, each ``GROWTH`` times the one before: what a round reached traps those after it."""
        n = len(self.starts)
        order = np.random.default_rng(self.seed).permutation(n)
        # Of each trapped set: its fixed point, or the start whose orbit it is and whose fate is shared.
        points, owners = self.ends[:0], np.zeros(0, dtype=np.int64)
        traps: Traps | None = None
        watched = np.zeros(0, dtype=np.int64)
        done, size = 0, PILOT
        while done < n:
            # No round of its own for a small rest.
            stop = done + size if n - done >= 2 * size else n
            chosen = np.sort(order[done:stop])
            self.iterate(chosen, max_period=MAX_PERIOD, traps=traps)
            if traps is not None:
                traps = self._audit(chosen, traps, watched)
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
                    watched = np.concatenate([watched, np.zeros(len(sets), dtype=np.int64)])
                    blank = reached.new_full((len(own), reached.shape[1]), float("nan"))
                    points = torch.cat([points, reached.to(points.dtype), blank.to(points.dtype)])
            self.outcome[settled] = SETTLED
            done, size = stop, GROWTH * size

    def _audit(self, chosen: NDArray[np.int64], traps: Traps, watched: NDArray[np.int64]) -> Traps:
        """Follow some captives of each trap; one that any gets out of is narrowed, and all in it go on.

        ``watched`` counts, for each set, the captives that stayed since its trap was last narrowed.
        """
        generator, fresh = np.random.default_rng(self.seed), np.ones(len(self.starts), dtype=np.bool_)
        while True:
            caught = generator.permutation(chosen[(self.outcome[chosen] == TRAPPED) & fresh[chosen]])
            owner = self.lag[caught]
            wanted = [caught[owner == k][: max(0, AUDITED - watched[k])] for k in np.unique(owner)]
            tried = np.concatenate([*wanted, caught[:0]])
            if not len(tried):
                return traps
            where = to_index(tried, self.z)
            out = to_numpy(leaving(self.plain, traps, self.z[where], to_index(self.lag[tried], self.z)))
            np.add.at(watched, self.lag[tried], 1)
            leaky = np.unique(self.lag[tried[out]])
            if not len(leaky):
                return traps
            watched[leaky] = 0
            traps = traps.narrowed(to_index(leaky, self.z))
            freed = chosen[(self.outcome[chosen] == TRAPPED) & np.isin(self.lag[chosen], leaky)]
            fresh[tried], fresh[freed] = False, True
            self.iterate(freed, max_period=MAX_PERIOD, traps=traps)

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
        self.iterate(everything, max_period=0, tolerance=SWITCH)
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
            self.iterate(np.sort(rest), max_period=MAX_PERIOD)

    def iterate(
        self,
        chosen: NDArray[np.int64],
        *,
        max_period: int,
        traps: Traps | None = None,
        tolerance: float | None = None,
    ) -> None:
        """Plain steps for some starts, from where they are."""
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
