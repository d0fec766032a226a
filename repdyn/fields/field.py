"""The latent field of an autoencoder, or of any self-map, and the search for its attractors."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from repdyn.arguments import whole
from repdyn.errors import RepdynError, nearest_names
from repdyn.fields.attractors import Attractors
from repdyn.fields.classification import (
    CYCLE,
    DIVERGED,
    FAMILY,
    FIXED,
    SLOW,
    STATUSES,
    UNFINISHED,
    AttractorCandidate,
    candidates_from_families,
    candidates_from_points,
    classify_orbits,
    integrate_orbits,
    lyapunov_exponents,
    merge_cycles,
)
from repdyn.fields.cycles import NeutralCycle, canonical_phase, shortest_period
from repdyn.fields.iteration import (
    CONVERGED,
    ESCAPED,
    MOVING,
    RECURRENT,
    Trajectories,
    iterate_with_trapping,
)
from repdyn.fields.map import SelfMap, check_starts, rescaled, to_index, units_of, widened
from repdyn.fields.settings import SEARCH, VERDICTS, SearchSettings
from repdyn.fields.verification import count_sweep, merge_points, verify_points
from repdyn.reading import as_array

__all__ = ["LatentField", "find_attractors"]


SOLVERS = ("picard", "trapping", "anderson")


def find_attractors(
    field: SelfMap,
    z0: Any,
    *,
    solver: str = "picard",
    tol: float = 1e-5,
    max_steps: int = 3000,
    seed: int = 0,
    settings: SearchSettings = SEARCH,
) -> Attractors:
    r"""Iterate a field from many starts; return the attractors that were reached and the status of each
    start.

    Plain iteration :math:`z_{t+1} = f(z_t)` decides which attractor a start reaches. End points that
    converged are merged and polished by Newton's method, in float64 where the map allows it. A polished point
    is an attractor only if plain iteration keeps approaching it and every multiplier there is below one in
    modulus. Recurrent starts are verified as cycles in the same way. Starts that neither converge nor recur
    are followed further and named by their Lyapunov exponents.

    Parameters
    ----------
    field
        The map: deterministic, with independent samples (networks in evaluation mode).
    z0
        Starts, tensor or array, shape ``(N, d)``.
    solver
        ``"picard"``: every start is followed until it converges.

        ``"trapping"``: a few starts are followed to the end, the others in rounds. Their trajectories stop
        when they enter a trapping region of a verified fixed point, or of an orbit of an earlier round that
        still moved, and inherit its attractor. This takes fewer evaluations; the destination differs for a
        few starts in a thousand.

        ``"anderson"``: starts whose steps are small and keep shrinking are finished by Anderson acceleration,
        within the distance that their decay allows. The others continue by plain iteration.
    tol
        A start has converged when its step is this short, relative to the scale of the starts. Coordinates
        over thirty times wider than the narrow ones are divided by a power of two before lengths are
        measured. Points are returned in the original units; residuals, radii and the scale in the rescaled
        ones.
    max_steps
        Plain steps allowed for each start.
    seed
        Of the first directions for multipliers and exponents.
    settings
        Tolerances of merging, verification and classification.

    Returns
    -------
    Attractors

    Raises
    ------
    RepdynError
        On an unknown solver; on starts that are not finite or not ``(N, d)``; on a map that changes the
        shape, that gives no finite value, or whose result for a sample depends on other samples or on chance.

    Examples
    --------
    >>> import torch
    >>> from repdyn.fields import LatentField
    >>> field = LatentField(lambda z: 0.5 * z + 1)
    >>> attractors = find_attractors(field, torch.tensor([[0.0, 0.0], [1.0, 3.0]]))
    >>> attractors.points.round(3).tolist(), attractors.verdict
    ([[2.0, 2.0]], 'found')

    References
    ----------
    Fumero et al. (2025), arXiv 2505.22785, section 3; Radhakrishnan, Belkin, Uhler (2020). Overparameterized
    neural networks implement associative memory. PNAS 117.
    """
    if solver not in SOLVERS:
        raise RepdynError(f"solver: there is no {solver!r}; {nearest_names(solver, SOLVERS)}")
    max_steps = whole("max_steps", max_steps)
    starts = widened(field, check_starts(field, z0, tol, max_steps))
    units = units_of(starts, settings)
    if units is not None:
        field, starts = rescaled(field, units), starts / units
    run = Trajectories(field, starts, tol, max_steps, seed, settings)
    if solver == "trapping":
        iterate_with_trapping(run)
    elif solver == "anderson":
        run.accelerate()
    else:
        run.iterate()
    named = _name(run)
    misassigned = named.misassigned
    if len(misassigned):
        # Each is followed to its own end.
        run.shared[misassigned] = -1
        run.iterate(misassigned)
        named = _name(run)
    attractors = named.result(solver)
    if units is None:
        return attractors
    scales = as_array(units).astype(np.float64)
    in_units = ("points", "saddles", "starts", "ends")
    return replace(attractors, **{name: getattr(attractors, name) * scales for name in in_units})


def _name(run: Trajectories) -> _Naming:
    """The statuses and attractor candidates of all starts."""
    naming = _Naming(run)
    naming.find_cycles()
    naming.find_fixed_points()
    naming.name_the_rest()
    return naming


class _Naming:
    """Statuses ``(N,)`` and attractor candidates of the starts, filled in step by step."""

    def __init__(self, run: Trajectories) -> None:
        self.run = run
        self.status = np.full(len(run.starts), UNFINISHED, dtype=f"<U{max(map(len, STATUSES))}")
        self.candidates: list[AttractorCandidate] = []
        self.cycles: list[NeutralCycle] = []
        self.polished: dict[str, list[NDArray[np.float64]]] = {FIXED: [], CYCLE: []}
        self.saddles = np.zeros((0, run.starts.shape[1]))
        self.marginal = self.neutral = self.indifferent = 0

    def find_cycles(self) -> None:
        """Verify recurrent starts. A cycle of period p is a fixed point of the p-th iterate."""
        run = self.run
        near = run.settings.merge_tolerance * run.scale
        recurrent = run.outcome == RECURRENT
        for period in np.unique(run.lag[recurrent]).tolist():
            chosen = np.flatnonzero(recurrent & (run.lag == period))
            ends = canonical_phase(run.exact, run.z[to_index(chosen, run.z)].to(run.precise), period)
            checked = verify_points(
                run.exact.power(period), ends, run.residual[chosen], run.scale, seed=run.seed,
                settings=run.settings,
            )  # fmt: skip
            proper = shortest_period(run.exact, checked.points, period, near) == period
            good, neutral = checked.stable & proper, checked.marginal & proper
            self.polished[CYCLE].append(as_array(checked.points, np.float64)[good])
            self.candidates += candidates_from_points(
                run.exact, checked, chosen, good, CYCLE, period, run.scale, run.settings
            )
            self.status[chosen[good[checked.member]]] = CYCLE
            self.status[chosen[neutral[checked.member]]] = FAMILY
            for i in np.flatnonzero(neutral):
                self.cycles.append(NeutralCycle(checked.points[i], period, chosen[checked.member == i]))
        # A slow spiral also returns close to itself. It continues as if it had not been stopped.
        stopped = np.flatnonzero(recurrent & ~np.isin(self.status, (CYCLE, FAMILY)))
        if len(stopped):
            run.iterate(stopped, max_period=0)

    def find_fixed_points(self) -> None:
        """Verify starts that converged, and those that had nearly converged after ``max_steps``."""
        run = self.run
        self.status[run.outcome == ESCAPED] = DIVERGED
        self.status[run.outcome == CONVERGED] = SLOW
        close = (run.outcome == MOVING) & (run.residual <= run.settings.polish_tolerance * run.scale)
        chosen = np.flatnonzero((run.outcome == CONVERGED) | close)
        if not len(chosen):
            return
        ends = run.ends[to_index(chosen, run.z)].to(run.precise)
        checked = verify_points(
            run.exact, ends, run.residual[chosen], run.scale, seed=run.seed, settings=run.settings
        )
        points = as_array(checked.points, np.float64)
        self.polished[FIXED].append(points[checked.stable])
        self.candidates += candidates_from_points(
            run.exact, checked, chosen, checked.stable, FIXED, 1, run.scale, run.settings
        )
        verified = checked.stable | checked.saddle | checked.marginal
        self.status[chosen[verified[checked.member]]] = FIXED
        self.marginal = int(checked.marginal[checked.member].sum())
        saddles = points[checked.saddle]
        self.saddles = saddles[merge_points(saddles, run.settings.merge_tolerance * run.scale)[0]]

    def name_the_rest(self) -> None:
        """Classify the starts that neither converged nor recurred, and those that share an attractor."""
        run = self.run
        chosen = np.flatnonzero((self.status == UNFINISHED) & (run.shared < 0))
        if len(chosen):
            steps = min(run.settings.orbit_steps, max(16, run.max_steps))
            candidates, cycles, names, self.neutral = classify_orbits(
                run.plain, run.exact, run.z, chosen, run.scale, steps,
                precise=run.precise, seed=run.seed, settings=run.settings,
            )  # fmt: skip
            self.polished[CYCLE] += [c.point[None] for c in candidates if c.kind == CYCLE]
            self.candidates = merge_cycles([*self.candidates, *candidates], run.scale, run.settings)
            self.cycles += cycles
            self.status[chosen] = names
        families, indifferent = candidates_from_families(run.exact, self.cycles, run.scale, run.settings)
        self.candidates += families
        self.indifferent = len(indifferent)
        sharing = np.flatnonzero(run.shared >= 0)
        self.status[sharing] = self.status[run.shared[sharing]]
        self.candidates = [
            replace(c, members=np.concatenate([c.members, sharing[np.isin(run.shared[sharing], c.members)]]))
            for c in self.candidates
        ]

    @property
    def misassigned(self) -> NDArray[np.int64]:
        """Starts absorbed by an orbit that reached no attractor: their own way to one may be shorter."""
        return np.flatnonzero((self.run.shared >= 0) & np.isin(self.status, (SLOW, UNFINISHED)))

    def result(self, solver: str) -> Attractors:
        """The attractors, ordered by the size of their basins."""
        settings = self.run.settings
        ordered = sorted(self.candidates, key=lambda candidate: (-len(candidate.members), candidate.kind))
        basin = np.full(len(self.run.starts), -1, dtype=np.int64)
        for a, candidate in enumerate(ordered):
            basin[candidate.members] = a
        k = max((len(c.multipliers) for c in ordered if c.multipliers is not None), default=0)
        blank = np.full(k, np.nan, dtype=np.complex128)
        multipliers = [blank if c.multipliers is None else c.multipliers for c in ordered]
        points = np.array([c.point for c in ordered], dtype=np.float64).reshape(-1, self.run.starts.shape[1])
        distance = np.linalg.norm(points - as_array(self.run.center, np.float64), axis=1)
        # The margin allows for the randomness of the outermost start.
        supported = distance <= settings.support_margin * self.run.reach
        sweep = self._counts(ordered)
        enough = float((basin >= 0).mean()) >= VERDICTS.min_in_basins
        return Attractors(
            points=points,
            kind=tuple(c.kind for c in ordered),
            period=np.array([c.period for c in ordered], dtype=np.int64),
            radius=np.array([c.radius for c in ordered], dtype=np.float64),
            supported=supported,
            point_residual=np.array([c.residual for c in ordered], dtype=np.float64),
            multipliers=np.array(multipliers, dtype=np.complex128).reshape(len(ordered), k),
            observed=np.array([c.observed for c in ordered], dtype=np.float64),
            lyapunov=np.array([c.lyapunov for c in ordered], dtype=np.float64).reshape(-1, 3),
            saddles=self.saddles,
            basin=basin,
            status=self.status.astype(np.str_),
            residual=self.run.residual,
            steps=as_array(self.run.steps),
            starts=as_array(self.run.starts).astype(np.float64),
            ends=as_array(self.run.z).astype(np.float64),
            counts=np.array([[t, c] for t, c in sweep.items()], dtype=np.float64),
            scale=self.run.scale,
            evaluations=self.run.count[0],
            tolerance=self.run.tol,
            max_steps=self.run.max_steps,
            solver=solver,
            notes=self._notes(basin, supported),
            verdict="not found" if not ordered else "found" if enough else "inconclusive",
        )

    def _counts(self, found: list[AttractorCandidate]) -> dict[float, int]:
        """Number of attractors at each merge tolerance; at that of the search, the number of those found.

        Only fixed points and cycles depend on a tolerance. Those found are apart by more than the tolerance
        of the search, so that coarser tolerances merge them further. Finer ones look at all polished points.
        """
        settings, scale = self.run.settings, self.run.scale
        counts = dict.fromkeys(settings.merge_sweep, sum(c.kind not in self.polished for c in found))
        for kind, polished in self.polished.items():
            own = [c.point for c in found if c.kind == kind]
            if own:
                fine = count_sweep(np.concatenate(polished), scale, settings.merge_sweep)
                coarse = count_sweep(np.array(own), scale, settings.merge_sweep)
                for t in counts:
                    counts[t] += coarse[t] if t >= settings.merge_tolerance else max(fine[t], len(own))
        return counts

    def _notes(self, basin: NDArray[np.int64], supported: NDArray[np.bool_]) -> tuple[str, ...]:
        """Warnings, given the basin of each start ``(N,)`` and whether data support each attractor
        ``(A,)``."""
        n, count, notes = len(self.run.starts), len(supported), []
        if self.marginal == n and bool((self.run.steps == 1).all()):
            notes.append("every point is fixed: the map is the identity on these starts and attracts nothing")
        elif self.marginal:
            notes.append(
                f"{self.marginal} of {n} starts end on fixed points that do not attract (leading multiplier "
                "1): a continuum of fixed points"
            )
        if self.indifferent:
            notes.append(
                f"{self.indifferent} of {n} starts move on cycles that neither attract nor repel: a "
                "continuum of cycles"
            )
        if self.neutral:
            notes.append(f"{self.neutral} of {n} starts move on invariant circles that do not attract")
        diverged = int((self.status == DIVERGED).sum())
        if diverged:
            notes.append(f"{diverged} of {n} starts diverged: the map expands there")
        unfinished = int(np.isin(self.status, (SLOW, UNFINISHED)).sum())
        if unfinished:
            notes.append(
                f"{unfinished} of {n} starts did not reach an attractor within {self.run.max_steps} steps"
            )
        if n > 1 and count == 1 and bool((basin == 0).all()):
            notes.append("all starts reach one attractor: the attractor does not distinguish the starts")
        if n >= 10 and count >= 0.8 * n:
            notes.append("about as many attractors as starts: more starts would reach more attractors")
        if not supported.all():
            outside = int((~supported).sum())
            lie = "attractor lies" if outside == 1 else "attractors lie"
            notes.append(f"{outside} {lie} outside the range of the starts, unsupported by data")
        return tuple(notes)


class LatentField(SelfMap):
    r"""A self-map of a latent space and the vector field that it induces.

    .. math:: V(z) = f(z) - z, \qquad f = E \circ D

    for an autoencoder with encoder :math:`E` and decoder :math:`D`. Any batched map ``(N, d) -> (N, d)`` is
    accepted if no sample's image depends on another sample. Precision and device follow the input. Only
    :meth:`jvp`, :meth:`linearize` and the methods built on them differentiate the map.

    Parameters
    ----------
    step
        The map :math:`f`.

    Attributes
    ----------
    encode, decode
        The autoencoder's functions, or None for a field that was made from a map.

    Examples
    --------
    >>> import torch
    >>> field = LatentField(lambda z: 0.5 * z)
    >>> field.velocity(torch.ones(1, 2))
    tensor([[-0.5000, -0.5000]])

    References
    ----------
    Fumero, Moschella, Rodolà, Locatello (2025). Navigating the Latent Space Dynamics of Neural Models,
    arXiv 2505.22785, section 3.
    """

    @classmethod
    def from_autoencoder(
        cls, encode: Callable[[Tensor], Tensor], decode: Callable[[Tensor], Tensor]
    ) -> LatentField:
        r"""The field of :math:`f(z) = E(D(z))`.

        Parameters
        ----------
        encode
            Data to code. For a variational autoencoder: the mean of the code.
        decode
            Code to data.
        """
        if isinstance(encode, nn.Module) and isinstance(decode, nn.Module):
            field = cls(nn.Sequential(decode, encode))
        else:
            field = cls(lambda z: encode(decode(z)))
        field.encode, field.decode = encode, decode
        return field

    def attractors(self, z0: Any, **options: Any) -> Attractors:
        """Attractors reached from the starts ``z0`` ``(N, d)``; see :func:`repdyn.fields.find_attractors`."""
        return find_attractors(self, z0, **options)

    def lyapunov(self, z: Tensor, steps: int = 256, *, seed: int = 0) -> NDArray[np.float64]:
        """The two leading Lyapunov exponents along the orbit of each point, with their intervals.

        Parameters
        ----------
        z
            Shape ``(N, d)``.
        steps
            Length of the orbits, at least 16.
        seed
            Of the first tangent directions.

        Returns
        -------
        NDArray
            Value, low and high; shape ``(N, min(2, d), 3)``. See :func:`repdyn.fields.lyapunov_exponents`.

        Raises
        ------
        RepdynError
            On fewer than 16 steps.
        """
        if steps < 16:
            raise RepdynError(f"steps: the interval of an exponent needs at least 16 steps, got {steps}")
        return lyapunov_exponents(as_array(integrate_orbits(self, z, steps, seed=seed).growth))

    def place(self, x: Any) -> Tensor:
        """Old name of :meth:`on_device`."""
        warnings.warn("LatentField.place was renamed on_device", DeprecationWarning, stacklevel=2)
        return self.on_device(x)

    def double(self, like: Tensor) -> SelfMap | None:
        """Old name of :meth:`as_float64`."""
        warnings.warn("LatentField.double was renamed as_float64", DeprecationWarning, stacklevel=2)
        return self.as_float64(like)
