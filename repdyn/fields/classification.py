"""What the orbits of a search are: fixed points, cycles, families of cycles, invariant circles, chaotic sets.

:func:`candidates_from_points` builds attractors from verified fixed points and cycles.
:func:`classify_orbits` follows the orbits that did not converge, groups those on the same set, and names each
set by its Lyapunov exponents (:func:`lyapunov_exponents`) and by its returns (:func:`polish_cycle`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from repdyn.devices import as_given
from repdyn.errors import RepdynError
from repdyn.fields.cycles import (
    BATCH,
    Cycle,
    NeutralCycle,
    canonical_phase,
    cycle_multipliers,
    group_orbits,
    hold_escaped,
    is_neutral,
    link_cycles,
    period_of,
    polish_cycle,
)
from repdyn.fields.map import SelfMap, to_index
from repdyn.fields.settings import SEARCH, ClassificationSettings, SearchSettings
from repdyn.fields.verification import VerifiedPoints, merge_points, observed_rate
from repdyn.reading import as_array

__all__ = [
    "STATUSES",
    "AttractorCandidate",
    "Orbits",
    "candidates_from_families",
    "candidates_from_points",
    "classify_orbits",
    "integrate_orbits",
    "lyapunov_exponents",
    "merge_cycles",
]

FIXED, SLOW, CYCLE, FAMILY = "fixed point", "slow point", "cycle", "family of cycles"
CIRCLE, CHAOTIC, DIVERGED, UNFINISHED = "invariant circle", "chaotic", "diverged", "max_steps reached"
STATUSES = (FIXED, SLOW, CYCLE, FAMILY, CIRCLE, CHAOTIC, DIVERGED, UNFINISHED)

BLOCKS, T_QUANTILE = 8, 2.365
"""Blocks of an orbit whose means give an exponent's interval, and the 97.5 % point of Student's t with one
degree of freedom less."""


@dataclass(frozen=True, eq=False)
class AttractorCandidate:
    """One attractor during the search.

    Attributes
    ----------
    point
        A point on it, shape ``(d,)``.
    kind
        Its status name.
    members
        Indices of the starts that reached it.
    lyapunov
        Leading exponent with its interval, shape ``(3,)``.
    radius
        Root mean square distance of its orbit from the mean.
    period, residual, multipliers, observed
        As in :class:`repdyn.fields.Attractors`; unset for circles and chaotic sets.
    """

    point: NDArray[np.float64]
    kind: str
    members: NDArray[np.int64]
    lyapunov: NDArray[np.float64]
    radius: float
    period: int = 0
    residual: float = float("nan")
    multipliers: NDArray[np.complex128] | None = None
    observed: float = float("nan")


def candidates_from_points(
    field: SelfMap,
    checked: VerifiedPoints,
    chosen: NDArray[np.int64],
    stable: NDArray[np.bool_],
    kind: str,
    period: int,
    scale: float,
    settings: SearchSettings = SEARCH,
) -> list[AttractorCandidate]:
    """Candidates from verified points, merged once more now that they are polished.

    Parameters
    ----------
    field
        The map.
    checked
        Verified points of the end points of ``chosen``.
    chosen
        Indices of starts, shape ``(n,)``.
    stable
        The points that attract, shape ``(A,)``.
    kind, period
        ``"fixed point"`` and 1, or ``"cycle"`` and its period.
    scale
        Scale of the starts.
    settings
        Settings of the search.
    """
    points = as_array(checked.points, np.float64)
    candidates = []
    index = np.flatnonzero(stable)
    leaders, group = merge_points(points[stable], settings.merge_tolerance * scale)
    polished = checked.points[to_index(index[leaders], checked.points)]
    # At least two turns, but few of a long cycle, where each turn is costly.
    turns = max(2, settings.classification.approach_steps // period)
    observed = observed_rate(field.power(period), polished, scale, turns)
    for g, leader in enumerate(index[leaders]):
        orbit = as_array(field.trajectory(checked.points[leader : leader + 1], period - 1))[:, 0]
        # A superattracting point has the multiplier zero.
        growth = np.log(max(abs(checked.multipliers[leader, 0]), 1e-300)) / period
        candidates.append(
            AttractorCandidate(
                point=points[leader],
                kind=kind,
                members=chosen[np.isin(checked.member, index[group == g])],
                lyapunov=np.full(3, growth),
                radius=float(np.sqrt(orbit.var(axis=0).sum())),
                period=period,
                residual=float(checked.residual[leader]),
                multipliers=checked.multipliers[leader],
                observed=float(observed[g]),
            )
        )
    return candidates


def candidates_from_families(
    field: SelfMap, cycles: Sequence[NeutralCycle], scale: float, settings: SearchSettings = SEARCH
) -> tuple[list[AttractorCandidate], NDArray[np.int64]]:
    """One candidate for each family of neutral cycles that contracts in some direction.

    Parameters
    ----------
    field
        The map, in the precision of the cycles.
    cycles
        The neutral cycles.
    scale
        Scale of the starts.
    settings
        Settings of the search.

    Returns
    -------
    candidates, indifferent
        Candidates, and the starts on families that contract in no direction: a rotation by half a turn puts
        every start on a cycle and attracts nothing.
    """
    candidates, indifferent = [], [np.zeros(0, dtype=np.int64)]
    for period in sorted({c.period for c in cycles}):
        own = [c for c in cycles if c.period == period]
        family = link_cycles(field, torch.stack([c.point for c in own]), period, scale, settings)
        for number in range(int(family.max()) + 1):
            chosen = [c for c, f in zip(own, family) if f == number]
            members = np.concatenate([c.members for c in chosen])
            multipliers = cycle_multipliers(field, chosen[0].point, period)
            if np.abs(multipliers).min() > 1 - settings.multiplier_margin:
                indifferent.append(members)
                continue
            point = canonical_phase(field, chosen[0].point[None], period)
            phases = field.trajectory(torch.stack([c.point for c in chosen]), period - 1)
            cloud = as_array(phases, np.float64).reshape(-1, len(chosen[0].point))
            candidates.append(
                AttractorCandidate(
                    point=as_array(point, np.float64)[0],
                    kind=FAMILY,
                    members=members,
                    lyapunov=np.full(3, np.log(np.abs(multipliers[0])) / period),
                    radius=float(np.sqrt(cloud.var(axis=0).sum())),
                    period=period,
                    residual=float((field.power(period)(point) - point).norm()),
                    multipliers=multipliers[: settings.n_multipliers],
                )
            )
    return candidates, np.concatenate(indifferent)


def classify_orbits(
    field: SelfMap,
    exact: SelfMap,
    ends: Tensor,
    chosen: NDArray[np.int64],
    scale: float,
    steps: int,
    *,
    precise: torch.dtype,
    seed: int,
    settings: SearchSettings = SEARCH,
) -> tuple[list[AttractorCandidate], list[NeutralCycle], NDArray[np.str_], int]:
    """Name the orbits that still move, and build candidates from those on attracting sets.

    All orbits are followed plainly and grouped by the set that they fill. One orbit of each group is then
    followed with its tangent directions. The evaluations that the other orbits would have needed extend it,
    so the exponents of a set that many starts share are more precise. Orbits that return to themselves are
    polished to cycles, or are neutral cycles, which form families.

    Parameters
    ----------
    field, exact
        The map in the precision of the starts, and in ``precise``.
    ends
        Current points of all starts, shape ``(N, d)``.
    chosen
        Indices of the starts that still move, shape ``(n,)``.
    scale
        Scale of the starts.
    steps
        Steps for which orbits are followed.
    precise
        Precision in which cycles are polished.
    seed
        Of the first tangent directions.
    settings
        Settings of the search.

    Returns
    -------
    candidates, cycles, names, neutral
        Candidates; neutral cycles; the status of each orbit, shape ``(n,)``; the number of orbits on circles
        that do not attract.
    """
    options = settings.classification
    leaders, group = group_orbits(field, ends, chosen, scale, steps, settings)
    longer = int(np.clip(steps * len(chosen) // len(leaders), steps, options.max_extension * steps))
    names: list[NDArray[np.str_]] = []
    attracting, exponents, features, spread = [], [], [], []
    candidates: list[AttractorCandidate] = []
    cycles: list[NeutralCycle] = []
    batch = max(1, BATCH // ((longer + 1) * ends.shape[1]))
    for block in np.split(chosen[leaders], range(batch, len(leaders), batch)):
        orbits = integrate_orbits(field, ends[to_index(block, ends)], longer, seed=seed)
        held, left = hold_escaped(orbits.points, options.escape_distance * scale)
        growth = torch.where(left[:, None], torch.zeros_like(orbits.growth), orbits.growth)
        orbits = Orbits(held, growth)
        exponent = lyapunov_exponents(as_array(growth))
        name, attracts = _name_orbits(orbits, exponent, scale, options)
        name = name.astype(np.dtype(f"<U{max(map(len, STATUSES))}"))
        name[as_array(left)], attracts[as_array(left)] = UNFINISHED, False
        points = as_array(orbits.points)
        for i in np.flatnonzero(np.isin(name, (CIRCLE, UNFINISHED)) & ~as_array(left)):
            period = period_of(orbits.points[:, i], scale, options)
            if not period:
                continue
            end = orbits.points[-1, i].to(precise)
            own = chosen[group == sum(len(earlier) for earlier in names) + i]
            if cycle := polish_cycle(exact, end, period, scale, settings):
                name[i], attracts[i] = CYCLE, False
                candidates.append(_candidate_from_cycle(exact, cycle, own))
            elif is_neutral(exact, end, period, scale, settings):
                name[i], attracts[i] = FAMILY, False
                cycles.append(NeutralCycle(end, period, own))
        names.append(name)
        attracting.append(attracts)
        exponents.append(exponent[:, 0])
        features.append(_orbit_features(points))
        spread.append(np.sqrt(points.var(axis=0).sum(axis=1)))
    named = np.concatenate(names)
    attracts, exponent = np.concatenate(attracting), np.concatenate(exponents)
    feature, size = np.concatenate(features), np.concatenate(spread)
    for kind, share in ((CIRCLE, options.circle_spread), (CHAOTIC, options.chaos_spread)):
        index = np.flatnonzero(attracts & (named == kind))
        first, same = merge_points(feature[index], share * float(np.median(size[index])) if len(index) else 0)
        for g, leader in enumerate(index[first]):
            candidates.append(
                AttractorCandidate(
                    point=as_array(ends[chosen[leaders[leader]]]).astype(np.float64),
                    kind=kind,
                    members=chosen[np.isin(group, index[same == g])],
                    lyapunov=exponent[leader],
                    radius=float(size[leader]),
                )
            )
    return candidates, cycles, named[group], int(((named == CIRCLE) & ~attracts)[group].sum())


def merge_cycles(
    candidates: list[AttractorCandidate], scale: float, settings: SearchSettings = SEARCH
) -> list[AttractorCandidate]:
    """The same candidates; equal cycles, to which orbits of several groups were polished, become one."""
    cycles = [c for c in candidates if c.kind == CYCLE]
    kept = [c for c in candidates if c.kind != CYCLE]
    if not cycles:
        return kept
    leaders, member = merge_points(np.array([c.point for c in cycles]), settings.merge_tolerance * scale)
    for group, leader in enumerate(leaders):
        own = np.flatnonzero(member == group)
        kept.append(replace(cycles[leader], members=np.concatenate([cycles[i].members for i in own])))
    return kept


@dataclass(frozen=True, eq=False)
class Orbits:
    """Finite orbits and the growth of tangent vectors along them.

    Attributes
    ----------
    points
        Shape ``(W + 1, N, d)``.
    growth
        Logarithmic growth per step of the leading directions, shape ``(W, N, k)``; k is 2, or 1 where d is 1.
    """

    points: Tensor
    growth: Tensor


def integrate_orbits(field: SelfMap, z: Tensor, steps: int, *, seed: int = 0) -> Orbits:
    """Follow orbits with two tangent directions each, which are kept orthogonal.

    Parameters
    ----------
    field
        The map.
    z
        Shape ``(N, d)``.
    steps
        Length W of the orbits.
    seed
        Of the first tangent directions.

    References
    ----------
    Benettin, Galgani, Giorgilli, Strelcyn (1980). Lyapunov characteristic exponents. Meccanica 15.
    """
    n, d = z.shape
    k = min(2, d)
    generator = torch.Generator().manual_seed(seed)
    directions = torch.linalg.qr(torch.randn((d, k), generator=generator, dtype=torch.float64))[0]
    tangent = as_given(directions, z).T[:, None].expand(k, n, d).contiguous()
    points, growth = z.new_empty((steps + 1, n, d)), z.new_empty((steps, n, k))
    points[0] = z
    tiny = torch.finfo(z.dtype).tiny
    for t in range(steps):
        points[t + 1], apply = field.linearize(points[t])
        stretched = torch.stack([apply(tangent[j]) for j in range(k)])
        for j in range(k):
            vector = stretched[j]
            for i in range(j):
                vector = vector - (vector * tangent[i]).sum(dim=1, keepdim=True) * tangent[i]
            length = vector.norm(dim=1).clamp_min(tiny)
            growth[t, :, j] = length.log()
            tangent[j] = vector / length[:, None]
    return Orbits(points, growth)


def lyapunov_exponents(growth: NDArray[np.floating]) -> NDArray[np.float64]:
    r"""Lyapunov exponents and their 95 % intervals from growth per step.

    .. math:: \lambda = \sum_t w_t \log \lVert J_t v_t \rVert, \quad
              w_t \propto \exp\!\left(-\frac{1}{s(1-s)}\right), \ s = \tfrac{t + 1}{W + 1}

    The smooth weights make averages over quasi-periodic orbits converge faster than any power of the
    length, which separates circles from slow spirals. The interval is Student's, over means of eight blocks.

    Parameters
    ----------
    growth
        Logarithmic growth, shape ``(W, N, k)``, W of 8 or more.

    Returns
    -------
    NDArray
        Value, low and high, shape ``(N, k, 3)``.

    References
    ----------
    Das, Saiki, Sander, Yorke (2017). Quantitative quasiperiodicity. Nonlinearity 30.
    """
    growth = as_array(growth, dtype=np.float64)
    if growth.ndim != 3 or len(growth) < BLOCKS or np.isnan(growth).any():
        raise RepdynError(
            f"lyapunov_exponents: growth must have shape (steps, N, k), {BLOCKS} steps or more and no NaN, "
            f"got {growth.shape}"
        )
    blocks = growth[: len(growth) // BLOCKS * BLOCKS].reshape(BLOCKS, -1, *growth.shape[1:]).mean(axis=1)
    margin = T_QUANTILE * blocks.std(axis=0, ddof=1) / np.sqrt(BLOCKS)
    value = _smooth_mean(growth)
    return np.stack([value, value - margin, value + margin], axis=-1)


def _name_orbits(
    orbits: Orbits, exponents: NDArray[np.float64], scale: float, settings: ClassificationSettings
) -> tuple[NDArray[np.str_], NDArray[np.bool_]]:
    """Name orbits as chaotic, invariant circle, slow point, or unfinished.

    An orbit is chaotic if the interval of its leading exponent lies above zero and the steps do not lengthen
    accordingly. It is an invariant circle if the leading exponent is zero, the steps have a steady length,
    and the orbit returns close to itself. An orbit with small steps is a slow point. All others are
    unfinished.

    Parameters
    ----------
    orbits
        N orbits.
    exponents
        As :func:`lyapunov_exponents` gives, shape ``(N, k, 3)``.
    scale
        Scale of the starts. A step below a thousandth of it is small.
    settings
        Thresholds.

    Returns
    -------
    names, attracting
        Shape ``(N,)`` each. Circles attract where the second exponent is negative: a pure rotation puts
        every start on a circle of its own and attracts nothing.
    """
    # scipy takes half a second to import.
    from scipy.spatial import cKDTree

    points = as_array(orbits.points, np.float64)
    length = np.linalg.norm(np.diff(points, axis=0), axis=2)
    half = len(length) // 2
    names, attracting = [], []
    for i in range(points.shape[1]):
        orbit, (value, low, high) = points[:, i], exponents[i, 0]
        neutral = low <= 0 <= high or abs(value) <= settings.zero_exponent
        extent = float(np.sqrt(((orbit - orbit.mean(axis=0)) ** 2).sum(axis=1).mean()))
        # An orbit that stands still has steps of length zero.
        logs = np.log(np.maximum(length[:, i], 1e-300))
        change = abs(_smooth_mean(logs[:half]) - _smooth_mean(logs[half : 2 * half]))
        steady = change <= settings.steady_change
        gap = np.median(cKDTree(orbit[:half]).query(orbit[half:])[0]) if extent > 0 else np.inf
        slow = float(length[-1, i]) <= 1e-3 * scale
        # In an expanding map the steps lengthen at the rate of the exponent: this is not chaos.
        if low > settings.neutral_exponent and change <= settings.chaos_lengthening * value * half:
            name = CHAOTIC
        elif neutral and steady and gap <= settings.circle_return * extent:
            name = CIRCLE
        else:
            name = SLOW if slow else UNFINISHED
        names.append(name)
        second = exponents[i, 1, 2] if exponents.shape[1] > 1 else -np.inf
        attracting.append(name == CHAOTIC or (name == CIRCLE and second < -settings.neutral_exponent))
    return np.asarray(names, dtype=np.str_), np.asarray(attracting, dtype=np.bool_)


def _orbit_features(points: NDArray[np.floating]) -> NDArray[np.float64]:
    """Mean of an orbit and its spread along fixed random directions; equal for orbits on the same set.

    Parameters
    ----------
    points
        Shape ``(W + 1, N, d)``.

    Returns
    -------
    NDArray
        Shape ``(N, 2 d)``.
    """
    points = np.asarray(points, dtype=np.float64)
    d = points.shape[2]
    directions = np.linalg.qr(np.random.default_rng(0).standard_normal((d, d)))[0]
    mean = _smooth_mean(points)
    spread = np.sqrt(np.maximum(_smooth_mean(((points - mean) @ directions) ** 2), 0))
    return np.concatenate([mean, spread], axis=1)


def _smooth_mean(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Mean over the first axis, with weights that vanish smoothly at both ends."""
    s = np.arange(1, len(values) + 1) / (len(values) + 1)
    weight = np.exp(-1 / (s * (1 - s)))
    averaged: NDArray[np.float64] = np.tensordot(weight / weight.sum(), values, axes=(0, 0))
    return averaged


def _candidate_from_cycle(field: SelfMap, cycle: Cycle, members: NDArray[np.int64]) -> AttractorCandidate:
    """The candidate of a verified cycle that the starts ``members`` reached."""
    point = canonical_phase(field, cycle.point[None], cycle.period)
    orbit = as_array(field.trajectory(point, cycle.period - 1))[:, 0]
    growth = np.log(max(abs(cycle.multipliers[0]), 1e-300)) / cycle.period
    return AttractorCandidate(
        point=as_array(point, np.float64)[0],
        kind=CYCLE,
        members=members,
        lyapunov=np.full(3, growth),
        radius=float(np.sqrt(orbit.var(axis=0).sum())),
        period=cycle.period,
        residual=cycle.residual,
        multipliers=cycle.multipliers,
        observed=cycle.observed,
    )
