"""Neighbourhoods of verified attractors from which there is no way out, so that samples may stop there."""

from __future__ import annotations

import torch
from torch import Tensor

from repdyn.fields.field import LatentField

__all__ = ["Traps", "set_traps"]

RADIUS = 0.05
"""Of a trap, relative to the scale; on MNIST auto-encoders .3 loses up to a fifth of the destinations, .1 one
in a hundred, .05 three in a thousand, .02 none."""
PROBES = 8
"""Points on a trap's rim, followed to see whether it leads inward."""
INWARD = 20
"""Plain steps for which they are followed."""
HALVINGS = 3
"""A trap that leaks is halved so often, then given up."""


class Traps:
    """Balls around attractors.

    Parameters
    ----------
    points
        Centres, shape ``(A, d)``.
    radius
        Shape ``(A,)``.
    """

    def __init__(self, points: Tensor, radius: Tensor) -> None:
        self.points, self.radius = points, radius

    def catch(self, z: Tensor) -> Tensor:
        """The trap each of some samples ``(N, d)`` is in, or -1, shape ``(N,)``."""
        if not len(self.points):
            return torch.full((len(z),), -1, dtype=torch.long, device=z.device)
        distance, nearest = torch.cdist(z, self.points).min(dim=1)
        return torch.where(distance <= self.radius[nearest], nearest, -1)


def set_traps(field: LatentField, points: Tensor, scale: float, *, seed: int = 0) -> Traps:
    """Set a trap around each attractor, of a radius that plain iteration from the rim confirms.

    Points on the rim, followed for a while, must all end deeper inside than they began; otherwise the ball
    is halved.

    Parameters
    ----------
    field
        The map.
    points
        Stable fixed points, shape ``(A, d)``.
    scale
        The data's.
    seed
        Of the rim's points.
    """
    generator = torch.Generator().manual_seed(seed)
    rim = torch.randn((PROBES, points.shape[1]), generator=generator, dtype=torch.float64).to(points)
    rim = rim / rim.norm(dim=1, keepdim=True)
    radius = torch.full_like(points[:, 0], RADIUS * scale)
    leaking = torch.ones_like(radius, dtype=torch.bool)
    for _ in range(HALVINGS + 1):
        if not bool(leaking.any()):
            break
        centres, size = points[leaking], radius[leaking]
        probes = (centres[:, None] + size[:, None, None] * rim).reshape(-1, points.shape[1])
        for _ in range(INWARD):
            probes = field(probes)
        furthest = (probes.reshape(len(centres), PROBES, -1) - centres[:, None]).norm(dim=2).amax(dim=1)
        held = furthest < size
        radius[leaking] = torch.where(held, size, size / 2)
        leaking[leaking.clone()] = ~held
    return Traps(points[~leaking], radius[~leaking])
