"""Attractors under construction: from verified points, and from orbits that fill a set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from repdyn.fields.field import LatentField
from repdyn.fields.merging import merge_points
from repdyn.fields.starts import to_index, to_numpy
from repdyn.fields.status import (
    CHAOTIC,
    CIRCLE,
    follow_orbits,
    lyapunov_exponents,
    name_orbits,
    orbit_features,
)
from repdyn.fields.verifying import MERGE, VerifiedPoints

__all__ = ["Place", "canonical_phase", "follow_rest", "gather", "shortest_period"]

CROWD = 2**23
"""Numbers in a batch of orbits."""


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
            )
        )
    return places


def follow_rest(
    field: LatentField,
    ends: Tensor,
    chosen: NDArray[np.int64],
    scale: float,
    steps: int,
    *,
    seed: int,
) -> tuple[list[Place], NDArray[np.str_], int]:
    """Name the orbits still under way, gather those that fill attracting sets, count circles that do not."""
    names, attracting, exponents, features, spread = [], [], [], [], []
    crowd = max(1, CROWD // ((steps + 1) * ends.shape[1]))
    for block in np.split(chosen, range(crowd, len(chosen), crowd)):
        orbits = follow_orbits(field, ends[to_index(block, ends)], steps, seed=seed)
        exponent = lyapunov_exponents(to_numpy(orbits.growth))
        name, attracts = name_orbits(orbits, exponent, scale)
        points = to_numpy(orbits.points)
        names.append(name)
        attracting.append(attracts)
        exponents.append(exponent[:, 0])
        features.append(orbit_features(points))
        spread.append(np.sqrt(points.var(axis=0).sum(axis=1)))
    named = np.concatenate(names)
    attracts, exponent = np.concatenate(attracting), np.concatenate(exponents)
    feature, size = np.concatenate(features), np.concatenate(spread)
    places = []
    # Averages over a chaotic orbit of this length scatter by a tenth of its size, over a circle far less.
    for kind, share in ((CIRCLE, 0.05), (CHAOTIC, 0.3)):
        index = np.flatnonzero(attracts & (named == kind))
        leaders, group = merge_points(
            feature[index], share * float(np.median(size[index])) if len(index) else 0
        )
        for g, leader in enumerate(index[leaders]):
            places.append(
                Place(
                    point=to_numpy(ends[chosen[leader]]).astype(np.float64),
                    kind=kind,
                    members=chosen[index[group == g]],
                    lyapunov=exponent[leader],
                    radius=float(size[leader]),
                )
            )
    return places, named, int(((named == CIRCLE) & ~attracts).sum())


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
