"""Neighbourhoods of attractors and orbits from which there is no way out, so that samples may stop there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from repdyn.fields.field import LatentField
from repdyn.reading import as_array

__all__ = ["Traps", "gap_of", "leaving", "set_traps"]

RADIUS = 0.05
"""Of a trap, relative to the scale; on MNIST auto-encoders, before captives were followed on, .3 lost up to a
fifth of the destinations, .1 one in a hundred and .05 up to one in forty; .02 sets no traps for long orbits,
at many times the cost."""
PROBES = 8
"""Points on a trap's rim, followed to see whether it leads inward."""
INWARD = 20
"""Plain steps for which they are followed."""
HALVINGS = 3
"""A trap that leaks is halved so often, then given up."""
STAY = 100
"""Plain steps after which a captive that is followed on must still be in its trap: some rims lead inward but
for a few directions, which random probes miss and captives come in by."""


class Traps:
    """Balls around the points of several sets.

    Parameters
    ----------
    points
        Centres, shape ``(M, d)``.
    owner
        The set that each belongs to, shape ``(M,)``.
    radius
        Shape ``(M,)``.
    least
        Radius below which each is given up, shape ``(M,)``.
    """

    def __init__(self, points: Tensor, owner: Tensor, radius: Tensor, least: Tensor) -> None:
        self.points, self.owner, self.radius, self.least = points, owner, radius, least

    def and_more(self, other: Traps, offset: int) -> Traps:
        """These and others, whose sets are numbered from ``offset``."""
        return Traps(
            torch.cat([self.points, other.points]),
            torch.cat([self.owner, other.owner + offset]),
            torch.cat([self.radius, other.radius]),
            torch.cat([self.least, other.least]),
        )

    def narrowed(self, owners: Tensor) -> Traps:
        """These with half the radius around some sets, or without their traps where they are too narrow."""
        radius = torch.where(torch.isin(self.owner, owners), self.radius / 2, self.radius)
        kept = radius >= self.least
        return Traps(self.points[kept], self.owner[kept], radius[kept], self.least[kept])

    def catch(self, z: Tensor) -> Tensor:
        """The set in whose trap each of some samples ``(N, d)`` is, or -1, shape ``(N,)``."""
        if not len(self.points):
            return torch.full((len(z),), -1, dtype=torch.long, device=z.device)
        # Relative to the radius, for sets of different reach lie beside each other.
        nearness, which = (torch.cdist(z, self.points) / self.radius).min(dim=1)
        return torch.where(nearness <= 1, self.owner[which], -1)


def set_traps(field: LatentField, sets: Sequence[Tensor], scale: float, *, seed: int = 0) -> Traps:
    """Set a trap around each set, of a radius that plain iteration from the rim confirms.

    Points on the rim, followed for a while, must all end nearer to the set than they began; otherwise the
    radius is halved. A set known from a stretch of orbit gets no trap finer than the orbit's gaps.

    Parameters
    ----------
    field
        The map.
    sets
        At least one: stable fixed points, shape ``(1, d)`` each, or stretches of orbits, ``(K, d)``.
    scale
        The data's.
    seed
        Of the rim's points.
    """
    generator = torch.Generator().manual_seed(seed)
    like = sets[0]
    rim = torch.randn((PROBES, like.shape[1]), generator=generator, dtype=torch.float64).to(like)
    rim = rim / rim.norm(dim=1, keepdim=True)
    bases = torch.stack(
        [s[torch.randint(0, len(s), (PROBES,), generator=generator).to(s.device)] for s in sets]
    )
    gaps = torch.tensor([gap_of(s) for s in sets]).to(like)
    radius = torch.full((len(sets),), RADIUS * scale).to(like)
    leaking = torch.ones_like(radius, dtype=torch.bool)
    for _ in range(HALVINGS + 1):
        leaking &= radius >= gaps
        tried = leaking.nonzero()[:, 0].tolist()
        if not tried:
            break
        probes = (bases[tried] + radius[tried, None, None] * rim).reshape(-1, like.shape[1])
        for _ in range(INWARD):
            probes = field(probes)
        for own, index in zip(probes.reshape(len(tried), PROBES, -1), tried):
            furthest = torch.cdist(own, sets[index]).amin(dim=1).max()
            # NaN compares false: a trap that leads nowhere leaks.
            if bool(furthest < radius[index]):
                leaking[index] = False
            else:
                radius[index] /= 2
    held = [index for index in range(len(sets)) if not leaking[index] and radius[index] >= gaps[index]]
    if not held:
        return Traps(like[:0], torch.zeros(0, dtype=torch.long), radius[:0], radius[:0])
    points = torch.cat([sets[index] for index in held])
    owner = torch.cat([torch.full((len(sets[index]),), index) for index in held]).to(points.device)
    least = gaps.clamp_min(RADIUS * scale / 2**HALVINGS)
    return Traps(points, owner, radius[owner], least[owner])


def leaving(field: LatentField, traps: Traps, z: Tensor, owner: Tensor) -> Tensor:
    """Which captives, followed on, get out of the traps that caught them, shape ``(n,)``.

    Parameters
    ----------
    field
        The map.
    traps
        All there are.
    z, owner
        The captives, shape ``(n, d)``, and the set whose trap caught each, shape ``(n,)``.
    """
    for _ in range(STAY):
        z = field(z)
    nearness = torch.cdist(z, traps.points) / traps.radius
    inside = (nearness <= 1) & (traps.owner == owner[:, None])
    return ~inside.any(dim=1)


def gap_of(orbit: Tensor) -> float:
    """How finely a stretch of orbit samples the set that it fills: 90 % of its later half lie this near to
    its earlier half. Shape ``(K, d)``; 0 for a single point."""
    if len(orbit) < 2:
        return 0.0
    half = len(orbit) // 2
    return float(np.quantile(as_array(torch.cdist(orbit[half:], orbit[:half]).amin(dim=1)), 0.9))
