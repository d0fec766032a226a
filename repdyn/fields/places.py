"""Attractors under construction: from verified points, and from orbits that fill a set."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from repdyn.fields.cycles import Cycle, period_of, polish_cycle
from repdyn.fields.field import LatentField
from repdyn.fields.merging import merge_points
from repdyn.fields.multipliers import observed_rate
from repdyn.fields.starts import to_index, to_numpy
from repdyn.fields.status import (
    BUDGET,
    CHAOTIC,
    CIRCLE,
    CYCLE,
    STATUSES,
    Orbits,
    follow_orbits,
    lyapunov_exponents,
    name_orbits,
    orbit_features,
)
from repdyn.fields.trapping import gap_of
from repdyn.fields.verifying import MERGE, VerifiedPoints

__all__ = [
    "Place",
    "canonical_phase",
    "follow_rest",
    "gather",
    "merge_cycles",
    "share_orbits",
    "shortest_period",
]

CROWD = 2**23
"""Numbers in a batch of orbits."""
LONGER = 8
"""How many times longer, at most, the orbit that stands for a set is followed than one on its own."""
FAR = 1e3
"""An orbit that comes this far, in units of the scale, is under way to infinity."""
WATCHED = 64
"""Plain steps for which the approach to a fixed point is watched."""
SAMPLED = 32
"""Points of an orbit that are looked up to see which set it fills."""


@dataclass(frozen=True, eq=False)
class Place:
    """One attractor under construction."""

    point: NDArray[np.float64]
    kind: str
    members: NDArray[np.int64]
    lyapunov: NDArray[np.float64]
    radius: float
    period: int = 0
    residual: float = float("nan")
    multipliers: NDArray[np.complex128] | None = None
    observed: float = float("nan")


def gather(
    field: LatentField,
    checked: VerifiedPoints,
    chosen: NDArray[np.int64],
    stable: NDArray[np.bool_],
    kind: str,
    period: int,
    scale: float,
) -> list[Place]:
    """Merge what proved stable once more, now that it is polished."""
    points = to_numpy(checked.points).astype(np.float64)
    places = []
    index = np.flatnonzero(stable)
    leaders, group = merge_points(points[stable], MERGE * scale)
    polished = checked.points[to_index(index[leaders], checked.points)]
    # Two turns at the least are watched; of a long cycle each is costly.
    observed = observed_rate(field.power(period), polished, scale, max(2, WATCHED // period))
    for g, leader in enumerate(index[leaders]):
        orbit = to_numpy(field.trajectory(checked.points[leader : leader + 1], period - 1))[:, 0]
        growth = np.log(max(abs(checked.multipliers[leader, 0]), 1e-300)) / period
        places.append(
            Place(
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
    return places


def follow_rest(
    field: LatentField,
    exact: LatentField,
    ends: Tensor,
    chosen: NDArray[np.int64],
    scale: float,
    steps: int,
    *,
    precise: torch.dtype,
    seed: int,
) -> tuple[list[Place], NDArray[np.str_], int]:
    """Name the orbits still under way, gather those that fill attracting sets, count circles that do not.

    Orbits on one set are found by following all of them plainly. The first of each set is then followed with
    its tangent directions, for as many evaluations in all as that would have taken for every orbit over
    ``steps``, so where many starts share a set its exponents are known the better. Those that come back to
    themselves are polished, in ``exact`` and ``precise``, to cycles.
    """
    leaders, group = share_orbits(field, ends, chosen, scale, steps)
    longer = int(np.clip(steps * len(chosen) // len(leaders), steps, LONGER * steps))
    names: list[NDArray[np.str_]] = []
    attracting, exponents, features, spread = [], [], [], []
    places: list[Place] = []
    crowd = max(1, CROWD // ((longer + 1) * ends.shape[1]))
    for block in np.split(chosen[leaders], range(crowd, len(leaders), crowd)):
        orbits = follow_orbits(field, ends[to_index(block, ends)], longer, seed=seed)
        held, left = _held(orbits.points, scale)
        growth = torch.where(left[:, None], torch.zeros_like(orbits.growth), orbits.growth)
        orbits = Orbits(held, growth)
        exponent = lyapunov_exponents(to_numpy(growth))
        name, attracts = name_orbits(orbits, exponent, scale)
        name = name.astype(np.dtype(f"<U{max(map(len, STATUSES))}"))
        name[to_numpy(left)], attracts[to_numpy(left)] = BUDGET, False
        points = to_numpy(orbits.points)
        for i in np.flatnonzero(np.isin(name, (CIRCLE, BUDGET)) & ~to_numpy(left)):
            period = period_of(orbits.points[:, i], scale)
            cycle = period and polish_cycle(exact, orbits.points[-1, i].to(precise), period, scale)
            if cycle:
                name[i], attracts[i] = CYCLE, False
                leader = sum(len(earlier) for earlier in names) + i
                places.append(_cycle_place(exact, cycle, chosen[group == leader]))
        names.append(name)
        attracting.append(attracts)
        exponents.append(exponent[:, 0])
        features.append(orbit_features(points))
        spread.append(np.sqrt(points.var(axis=0).sum(axis=1)))
    named = np.concatenate(names)
    attracts, exponent = np.concatenate(attracting), np.concatenate(exponents)
    feature, size = np.concatenate(features), np.concatenate(spread)
    # Averages over a chaotic orbit of this length scatter by a tenth of its size, over a circle far less.
    for kind, share in ((CIRCLE, 0.05), (CHAOTIC, 0.3)):
        index = np.flatnonzero(attracts & (named == kind))
        first, same = merge_points(feature[index], share * float(np.median(size[index])) if len(index) else 0)
        for g, leader in enumerate(index[first]):
            places.append(
                Place(
                    point=to_numpy(ends[chosen[leaders[leader]]]).astype(np.float64),
                    kind=kind,
                    members=chosen[np.isin(group, index[same == g])],
                    lyapunov=exponent[leader],
                    radius=float(size[leader]),
                )
            )
    return places, named[group], int(((named == CIRCLE) & ~attracts)[group].sum())


def merge_cycles(places: list[Place], scale: float) -> list[Place]:
    """The same places, but cycles that orbits of several groups were polished to are one."""
    cycles = [place for place in places if place.kind == CYCLE]
    kept = [place for place in places if place.kind != CYCLE]
    if not cycles:
        return kept
    leaders, member = merge_points(np.array([place.point for place in cycles]), MERGE * scale)
    for group, leader in enumerate(leaders):
        own = np.flatnonzero(member == group)
        kept.append(replace(cycles[leader], members=np.concatenate([cycles[i].members for i in own])))
    return kept


def _held(orbits: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Orbits ``(W + 1, n, d)``, those that leave for good held at their start; and which do."""
    gone = ~((orbits - orbits[0]).norm(dim=2).amax(dim=0) <= FAR * scale)
    return torch.where(gone[:, None], orbits[:1].expand_as(orbits), orbits), gone


def _cycle_place(field: LatentField, cycle: Cycle, members: NDArray[np.int64]) -> Place:
    point = canonical_phase(field, cycle.point[None], cycle.period)
    orbit = to_numpy(field.trajectory(point, cycle.period - 1))[:, 0]
    growth = np.log(max(abs(cycle.multipliers[0]), 1e-300)) / cycle.period
    return Place(
        point=to_numpy(point)[0].astype(np.float64),
        kind=CYCLE,
        members=members,
        lyapunov=np.full(3, growth),
        radius=float(np.sqrt(orbit.var(axis=0).sum())),
        period=cycle.period,
        residual=cycle.residual,
        multipliers=cycle.multipliers,
        observed=cycle.observed,
    )


def share_orbits(
    field: LatentField, ends: Tensor, chosen: NDArray[np.int64], scale: float, steps: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which of some orbits fill the same set: leaders, and each orbit's group, as places in ``chosen``.

    An orbit joins the first leader along whose points it runs, as near as these sample their own set.

    Parameters
    ----------
    field
        The map.
    ends
        Where the orbits are, shape ``(N, d)``.
    chosen
        Which of them, shape ``(n,)``.
    scale
        The data's; sets nearer than its thousandth are one.
    steps
        Plain steps for which they are followed.
    """
    # scipy is half a second to import: here, not with the room.
    from scipy.spatial import cKDTree

    group = np.full(len(chosen), -1, dtype=np.int64)
    leaders: list[int] = []
    trees: list[tuple[cKDTree, float]] = []
    crowd = max(1, CROWD // ((steps + 1) * ends.shape[1]))
    for start in range(0, len(chosen), crowd):
        block = chosen[start : start + crowd]
        orbits, _ = _held(field.trajectory(ends[to_index(block, ends)], steps), scale)
        points = to_numpy(orbits).astype(np.float64)
        for i in range(len(block)):
            seen = points[:: max(1, steps // SAMPLED), i]
            for number, (tree, near) in enumerate(trees):
                # Most orbits are told apart by one of their points.
                if tree.query(seen[-1])[0] <= 4 * near and np.quantile(tree.query(seen)[0], 0.9) <= near:
                    group[start + i] = number
                    break
            else:
                group[start + i] = len(leaders)
                leaders.append(start + i)
                trees.append((cKDTree(points[:, i]), max(2 * gap_of(orbits[:, i]), MERGE * scale)))
    return np.array(leaders, dtype=np.int64), group


def canonical_phase(field: LatentField, ends: Tensor, period: int) -> Tensor:
    """The point of each cycle that is furthest along a fixed direction, so that phases of one cycle merge."""
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(ends.shape[1], generator=generator, dtype=torch.float64).to(ends)
    orbit = field.trajectory(ends, period - 1)
    best = (orbit @ direction).argmax(dim=0)
    return orbit[best, torch.arange(len(ends), device=ends.device)]


def shortest_period(field: LatentField, points: Tensor, period: int, near: float) -> NDArray[np.int64]:
    """Steps after which each point first comes back to within ``near``: a cycle of 4 may be one of 2."""
    shortest = np.full(len(points), period, dtype=np.int64)
    image = points
    for k in range(1, period):
        image = field(image)
        back = to_numpy((image - points).norm(dim=1) <= near) & (shortest == period)
        shortest[back] = k
    return shortest
