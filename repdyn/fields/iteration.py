"""Plain iteration of many starts, to the end or into trapping regions (``solver="trapping"``).

Which attractor a start reaches is the result, so the search iterates plainly (Picard). Acceleration from the
start sends samples to other, mostly unstable, fixed points. :class:`Trajectories` holds the state of all
starts; :func:`picard` advances some of them.

Trapping regions are neighborhoods of attractors that end a trajectory early. :func:`iterate_with_trapping`
follows the starts in rounds. A round sets regions around the sets that it reached (:func:`set_regions`), and
trajectories of later rounds stop when they enter one. Some absorbed trajectories of each region are followed
further to check the region.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from repdyn.devices import as_given, to
from repdyn.fields.cycles import gap_of, group_orbits
from repdyn.fields.map import CountedMap, SelfMap, check_map, geometry_of, to_index
from repdyn.fields.settings import SEARCH, SearchSettings, TrappingSettings
from repdyn.fields.verification import anderson, measure_decay, merge_points, verify_points
from repdyn.progress import track
from repdyn.reading import as_array

__all__ = [
    "ABSORBED",
    "CONVERGED",
    "ESCAPED",
    "MOVING",
    "RECURRENT",
    "Iteration",
    "Trajectories",
    "TrappingRegions",
    "escaping",
    "iterate_with_trapping",
    "picard",
    "set_regions",
]

MOVING, CONVERGED, RECURRENT, ESCAPED, ABSORBED = range(5)


class Trajectories:
    """The state of all starts during a search.

    Parameters
    ----------
    field
        The map.
    starts
        Checked starts, shape ``(N, d)``.
    tol, max_steps, seed
        As in :func:`repdyn.fields.find_attractors`.
    settings
        Settings of the search.

    Attributes
    ----------
    plain, exact
        The map in the precision of the starts, and in float64 (``precise``) if possible. Both count their
        evaluations in ``count``.
    center, scale, reach
        Mean ``(d,)`` of the starts, root mean square and largest distance from it.
    z, ends
        Current points in either precision, shape ``(N, d)``.
    steps, residual
        Plain steps done for each start, and the length of the last one, shape ``(N,)``.
    outcome, lag
        As in :class:`Iteration`, shape ``(N,)``.
    shared
        Index of the start whose attractor each start inherits, or -1, shape ``(N,)``.
    """

    def __init__(
        self,
        field: SelfMap,
        starts: Tensor,
        tol: float,
        max_steps: int,
        seed: int,
        settings: SearchSettings = SEARCH,
    ) -> None:
        self.starts, self.tol, self.max_steps, self.seed = starts, tol, max_steps, seed
        self.settings = settings
        self.count = [0]
        self.plain = CountedMap(field.step, self.count)
        self.center, self.scale, self.reach = geometry_of(starts)
        check_map(self.plain, starts, self.scale)
        wide = field.as_float64(starts)
        self.exact = self.plain if wide is None else CountedMap(wide.step, self.count)
        self.precise = starts.dtype if wide is None else torch.float64
        n = len(starts)
        self.z, self.ends = starts.clone(), starts.to(self.precise, copy=True)
        self.steps = torch.zeros(n, dtype=torch.long, device=self.z.device)
        self.outcome, self.lag = np.full(n, MOVING), np.zeros(n, dtype=np.int64)
        self.residual = np.full(n, np.inf)
        self.shared = np.full(n, -1, dtype=np.int64)

    def iterate(
        self,
        chosen: NDArray[np.int64] | None = None,
        *,
        max_period: int | None = None,
        region_of: Callable[[Tensor], Tensor] | None = None,
        tolerance: float | None = None,
    ) -> None:
        """Iterate some starts plainly from their current points, until they stop or ``max_steps`` is reached.

        Parameters
        ----------
        chosen
            Their indices; default: all.
        max_period
            Longest period of recurrence; default: that of the settings.
        region_of
            As in :func:`picard`.
        tolerance
            Step length, relative to the scale, at which a start has converged; default: ``tol``.
        """
        chosen = np.arange(len(self.starts)) if chosen is None else chosen
        index = to_index(chosen, self.z)
        run = picard(
            self.plain,
            self.z[index],
            tolerance=(self.tol if tolerance is None else tolerance) * self.scale,
            max_steps=max(1, self.max_steps - int(self.steps[index].min())),
            center=self.center,
            escape=self.settings.escape_factor * self.reach,
            max_period=self.settings.max_period if max_period is None else max_period,
            region_of=region_of,
            settings=self.settings,
        )
        self.z[index], self.ends[index] = run.z, run.z.to(self.precise)
        self.steps[index] += run.steps
        self.outcome[chosen], self.lag[chosen] = as_array(run.outcome), as_array(run.lag)
        self.residual[chosen] = as_array(run.residual)

    def accelerate(self) -> None:
        """Iterate all starts plainly until steps are small; accelerate those whose steps keep shrinking.

        The others are iterated plainly to the end.
        """
        settings = self.settings.anderson
        self.iterate(max_period=0, tolerance=settings.switch)
        near = np.flatnonzero(self.outcome == CONVERGED)
        index = to_index(near, self.z)
        z, _, reach = measure_decay(self.plain, self.z[index], settings)
        self.z[index] = z
        self.steps[index] += settings.watched_steps + 1
        left = max(1, self.max_steps - int(self.steps.max()))
        z, residual, steps, converged = anderson(
            self.plain, z, reach, tolerance=self.tol * self.scale, max_steps=left, settings=settings
        )
        done = as_array(converged)
        self.steps[index] += steps
        self.z[index[converged]], self.ends[index[converged]] = z[converged], z[converged].to(self.precise)
        self.residual[near[done]] = as_array(residual[converged])
        rest = np.concatenate([near[~done], np.flatnonzero(self.outcome == MOVING)])
        if len(rest):
            self.iterate(np.sort(rest))


@dataclass(frozen=True, eq=False)
class Iteration:
    """State of some samples after an iteration.

    Attributes
    ----------
    z
        Last points, shape ``(N, d)``.
    residual
        Length of the last step, shape ``(N,)``.
    steps
        Evaluations for each sample, shape ``(N,)``.
    outcome
        ``MOVING``, ``CONVERGED``, ``RECURRENT``, ``ESCAPED`` or ``ABSORBED``, shape ``(N,)``.
    lag
        Steps after which a recurrent sample returned, or the set whose trapping region absorbed a sample,
        shape ``(N,)``.
    """

    z: Tensor
    residual: Tensor
    steps: Tensor
    outcome: Tensor
    lag: Tensor


def picard(
    field: SelfMap,
    z0: Tensor,
    *,
    tolerance: float,
    max_steps: int,
    center: Tensor,
    escape: float,
    max_period: int = SEARCH.max_period,
    region_of: Callable[[Tensor], Tensor] | None = None,
    settings: SearchSettings = SEARCH,
) -> Iteration:
    r"""Iterate :math:`z_{t+1} = f(z_t)`, finished samples leaving the batch.

    A sample finishes in one of four ways. It has converged when its step is shorter than ``tolerance``. It is
    recurrent when it returns to within ``tolerance`` of its point at the last power of two (Brent's cycle
    detection, one distance per step). It has escaped when it is not finite or further than ``escape`` from
    ``center``. It is absorbed when it lies in a trapping region.

    Parameters
    ----------
    field
        The map.
    z0
        Starts, shape ``(N, d)``.
    tolerance, escape
        Lengths, in the units of ``z0``.
    max_steps
        Evaluations allowed for each sample.
    center
        Shape ``(d,)``.
    max_period
        Longest lag that counts as a recurrence; 0 for none.
    region_of
        The trapping region in which each of some points ``(n, d)`` lies, or -1, shape ``(n,)``.
    settings
        Settings of the search.

    References
    ----------
    Brent (1980). An improved Monte Carlo factorization algorithm. BIT 20, section 2.
    """
    n = len(z0)
    z, residual = z0.clone(), z0.new_full((n,), float("inf"))
    steps = torch.zeros(n, dtype=torch.long, device=z0.device)
    outcome, lag = torch.full_like(steps, MOVING), torch.zeros_like(steps)
    # Far from the origin, rounding alone moves a fixed point by more than a small tolerance.
    rounding = 4 * torch.finfo(z0.dtype).eps
    active = torch.arange(n, device=z0.device)
    now, marked, mark = z0.clone(), z0.clone(), 0
    for t in track(range(1, max_steps + 1), "following the latent field"):
        if not len(active):
            break
        image = field(now)
        length = (image - now).norm(dim=1)
        gone = ~torch.isfinite(length) | ((image - center).norm(dim=1) > escape)
        still = length <= tolerance + rounding * image.norm(dim=1)
        back = (image - marked).norm(dim=1) <= tolerance if 1 < t - mark <= max_period else still
        back = back & (length > settings.min_cycle_step * tolerance)
        inside = torch.full_like(active, -1)
        if region_of is not None and t % settings.trapping.check_every == 0:
            inside = region_of(image)
        done = gone | still | back | (inside >= 0)
        if t == max_steps:
            z[active], residual[active], steps[active] = image, length, t
        if bool(done.any()):
            index = active[done]
            # An escaped sample keeps its last finite point.
            z[index] = torch.where(gone[done, None], now[done], image[done])
            residual[index], steps[index] = length[done], t
            kinds = torch.where(back, RECURRENT, ABSORBED)
            kinds = torch.where(still, CONVERGED, kinds)
            outcome[index] = torch.where(gone, ESCAPED, kinds)[done]
            lag[index] = torch.where(outcome[index] == ABSORBED, inside[done], t - mark)
            active, image, marked = active[~done], image[~done], marked[~done]
        now = image
        if t & (t - 1) == 0:
            marked, mark = now.clone(), t
    return Iteration(z, residual, steps, outcome, lag)


def iterate_with_trapping(run: Trajectories) -> None:
    """Iterate all starts in growing rounds; what a round reached absorbs trajectories of later rounds.

    An absorbed trajectory gets the fixed point of its region as its end point, or, where the region surrounds
    the orbit of another start, shares the attractor of that start. Few starts are iterated without regions.

    Parameters
    ----------
    run
        The state of the starts, which is updated.
    """
    n, settings = len(run.starts), run.settings.trapping
    if n < 2 * settings.first_round:
        run.iterate()
        return
    order = np.random.default_rng(run.seed).permutation(n)
    # One entry for each set with regions: its fixed point, or the start whose orbit it is (else -1).
    points, owners = run.ends[:0], np.zeros(0, dtype=np.int64)
    regions: TrappingRegions | None = None
    audited = np.zeros(0, dtype=np.int64)
    done, size = 0, settings.first_round
    while done < n:
        # A small rest joins the last round.
        stop = done + size if n - done >= 2 * size else n
        chosen = np.sort(order[done:stop])
        run.iterate(chosen, region_of=None if regions is None else regions.region_of)
        if regions is not None:
            regions = _audit(run, chosen, regions, audited)
        absorbed = chosen[run.outcome[chosen] == ABSORBED]
        owner = owners[run.lag[absorbed]]
        run.shared[absorbed[owner >= 0]] = owner[owner >= 0]
        at_point = absorbed[owner < 0]
        run.ends[to_index(at_point, run.z)] = points[to_index(run.lag[at_point], run.z)]
        if stop < n:
            sets, own, reached = _reached_sets(run, chosen[run.outcome[chosen] != ABSORBED])
            if sets:
                more = set_regions(run.plain, sets, run.scale, seed=run.seed, settings=settings)
                regions = more if regions is None else regions.with_more(more, len(owners))
                owners = np.concatenate([owners, np.full(len(reached), -1), own])
                audited = np.concatenate([audited, np.zeros(len(sets), dtype=np.int64)])
                blank = reached.new_full((len(own), reached.shape[1]), float("nan"))
                points = torch.cat([points, reached.to(points.dtype), blank.to(points.dtype)])
        run.outcome[at_point] = CONVERGED
        done, size = stop, settings.round_growth * size


def _audit(
    run: Trajectories, chosen: NDArray[np.int64], regions: TrappingRegions, audited: NDArray[np.int64]
) -> TrappingRegions:
    """Follow some absorbed trajectories of each region further, and shrink the regions that any of them
    leaves.

    All trajectories in a region that was shrunk continue.

    Parameters
    ----------
    run
        The state of the starts, which is updated.
    chosen
        Starts of this round, shape ``(n,)``.
    regions
        All regions.
    audited
        For each set, absorbed trajectories that stayed since its regions last shrank, shape ``(A,)``. It is
        updated.
    """
    settings = run.settings.trapping
    generator, fresh = np.random.default_rng(run.seed), np.ones(len(run.starts), dtype=np.bool_)
    while True:
        absorbed = generator.permutation(chosen[(run.outcome[chosen] == ABSORBED) & fresh[chosen]])
        owner = run.lag[absorbed]
        wanted = [absorbed[owner == k][: max(0, settings.audited - audited[k])] for k in np.unique(owner)]
        tried = np.concatenate([*wanted, absorbed[:0]])
        if not len(tried):
            return regions
        index = to_index(tried, run.z)
        out = as_array(
            escaping(run.plain, regions, run.z[index], to_index(run.lag[tried], run.z), settings.audit_steps)
        )
        np.add.at(audited, run.lag[tried], 1)
        rejected = np.unique(run.lag[tried[out]])
        if not len(rejected):
            return regions
        audited[rejected] = 0
        regions = regions.shrunk(to_index(rejected, run.z))
        freed = chosen[(run.outcome[chosen] == ABSORBED) & np.isin(run.lag[chosen], rejected)]
        fresh[tried], fresh[freed] = False, True
        run.iterate(freed, region_of=regions.region_of)


def _reached_sets(
    run: Trajectories, chosen: NDArray[np.int64]
) -> tuple[list[Tensor], NDArray[np.int64], Tensor]:
    """The sets that some starts reached.

    Parameters
    ----------
    run
        The state of the starts.
    chosen
        Indices of starts, shape ``(n,)``.

    Returns
    -------
    sets, owners, points
        Shape ``(1, d)`` for each of ``A`` stable fixed points, then ``(K, d)`` for each orbit that still
        moves or recurs; the start of each such orbit; the fixed points, shape ``(A, d)``.
    """
    near = run.settings.merge_tolerance * run.scale
    close = run.residual[chosen] <= run.settings.polish_tolerance * run.scale
    outcome = np.where((run.outcome[chosen] == MOVING) & close, CONVERGED, run.outcome[chosen])
    steps = min(run.settings.orbit_steps, max(16, run.max_steps))
    points = run.z[:0]
    converged = chosen[outcome == CONVERGED]
    if len(converged):
        ends = run.z[to_index(converged, run.z)].to(run.precise)
        checked = verify_points(
            run.exact, ends, run.residual[converged], run.scale, seed=run.seed, settings=run.settings
        )
        stable = checked.points[to(torch.from_numpy(checked.stable), ends.device)]
        points = stable[to_index(merge_points(as_array(stable), near)[0], stable)].to(run.z.dtype)
    sets: list[Tensor] = list(points[:, None])
    owners: list[int] = []
    moving = chosen[outcome == MOVING]
    if len(moving):
        leaders = moving[group_orbits(run.plain, run.z, moving, run.scale, steps, run.settings)[0]]
        sets += list(run.plain.trajectory(run.z[to_index(leaders, run.z)], steps).transpose(0, 1))
        owners += leaders.tolist()
    for start in chosen[outcome == RECURRENT].tolist():
        # Two turns, so that the orbit returns to itself.
        turns = run.plain.trajectory(run.z[start : start + 1], 2 * int(run.lag[start]) - 1)[:, 0]
        if all(float(torch.cdist(turns[:1], known).min()) > near for known in sets):
            sets.append(turns)
            owners.append(start)
    return sets, np.array(owners, dtype=np.int64), points


class TrappingRegions:
    """Balls around the points of several sets.

    Parameters
    ----------
    points
        Centers, shape ``(M, d)``.
    owner
        The set of each ball, shape ``(M,)``.
    radius
        Radius of each ball, shape ``(M,)``.
    least
        Radius below which each ball is dropped, shape ``(M,)``.
    """

    def __init__(self, points: Tensor, owner: Tensor, radius: Tensor, least: Tensor) -> None:
        self.points, self.owner, self.radius, self.least = points, owner, radius, least

    def with_more(self, other: TrappingRegions, offset: int) -> TrappingRegions:
        """These regions and others, whose sets are numbered from ``offset``."""
        return TrappingRegions(
            torch.cat([self.points, other.points]),
            torch.cat([self.owner, other.owner + offset]),
            torch.cat([self.radius, other.radius]),
            torch.cat([self.least, other.least]),
        )

    def shrunk(self, owners: Tensor) -> TrappingRegions:
        """These regions with half the radius around some sets; balls that become too small are dropped."""
        radius = torch.where(torch.isin(self.owner, owners), self.radius / 2, self.radius)
        kept = radius >= self.least
        return TrappingRegions(self.points[kept], self.owner[kept], radius[kept], self.least[kept])

    def region_of(self, z: Tensor) -> Tensor:
        """The set in whose region each point ``(N, d)`` lies, or -1, shape ``(N,)``."""
        if not len(self.points):
            return torch.full((len(z),), -1, dtype=torch.long, device=z.device)
        # Relative to the radius, since regions of different radius can overlap.
        nearness, index = (torch.cdist(z, self.points) / self.radius).min(dim=1)
        return torch.where(nearness <= 1, self.owner[index], -1)


def set_regions(
    field: SelfMap,
    sets: Sequence[Tensor],
    scale: float,
    *,
    seed: int = 0,
    settings: TrappingSettings = SEARCH.trapping,
) -> TrappingRegions:
    """Set a trapping region around each set, with a radius that plain iteration from the boundary confirms.

    Random points on the boundary are followed. If one does not end closer to the set than the radius, the
    radius is halved. The region of an orbit is never finer than the gaps between the points of the orbit.

    Parameters
    ----------
    field
        The map.
    sets
        At least one: stable fixed points, shape ``(1, d)`` each, or orbits, ``(K, d)``.
    scale
        Scale of the starts.
    seed
        Of the points on the boundary.
    settings
        Settings of the regions.
    """
    generator = torch.Generator().manual_seed(seed)
    like, n_probes = sets[0], settings.probes
    boundary = as_given(
        torch.randn((n_probes, like.shape[1]), generator=generator, dtype=torch.float64), like
    )
    boundary = boundary / boundary.norm(dim=1, keepdim=True)
    bases = torch.stack(
        [s[to(torch.randint(0, len(s), (n_probes,), generator=generator), s.device)] for s in sets]
    )
    gaps = as_given(torch.tensor([gap_of(s) for s in sets]), like)
    radius = as_given(torch.full((len(sets),), settings.radius * scale), like)
    rejected = torch.ones_like(radius, dtype=torch.bool)
    for _ in range(settings.halvings + 1):
        rejected &= radius >= gaps
        tried = rejected.nonzero()[:, 0].tolist()
        if not tried:
            break
        probes = (bases[tried] + radius[tried, None, None] * boundary).reshape(-1, like.shape[1])
        for _ in range(settings.probe_steps):
            probes = field(probes)
        for own, index in zip(probes.reshape(len(tried), n_probes, -1), tried):
            furthest = torch.cdist(own, sets[index]).amin(dim=1).max()
            # NaN compares false, so a region from which probes diverge is rejected.
            if bool(furthest < radius[index]):
                rejected[index] = False
            else:
                radius[index] /= 2
    held = [index for index in range(len(sets)) if not rejected[index] and radius[index] >= gaps[index]]
    if not held:
        no_owner = torch.zeros(0, dtype=torch.long, device=like.device)
        return TrappingRegions(like[:0], no_owner, radius[:0], radius[:0])
    points = torch.cat([sets[index] for index in held])
    owner = to(torch.cat([torch.full((len(sets[index]),), index) for index in held]), points.device)
    least = gaps.clamp_min(settings.radius * scale / 2**settings.halvings)
    return TrappingRegions(points, owner, radius[owner], least[owner])


def escaping(
    field: SelfMap,
    regions: TrappingRegions,
    z: Tensor,
    owner: Tensor,
    steps: int = SEARCH.trapping.audit_steps,
) -> Tensor:
    """Which absorbed trajectories leave the regions of their set when they are followed further.

    Parameters
    ----------
    field
        The map.
    regions
        All regions.
    z, owner
        Points of the trajectories, shape ``(n, d)``, and the set that absorbed each, shape ``(n,)``.
    steps
        Plain steps.

    Returns
    -------
    Tensor
        Shape ``(n,)``, boolean.
    """
    for _ in range(steps):
        z = field(z)
    nearness = torch.cdist(z, regions.points) / regions.radius
    inside = (nearness <= 1) & (regions.owner == owner[:, None])
    return ~inside.any(dim=1)
