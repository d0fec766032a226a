"""Coordinates of very unequal width: a field in units in which no coordinate hides the others."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from repdyn.devices import double
from repdyn.fields.field import LatentField

__all__ = ["in_units", "units_of"]

WIDE = 4.0
"""Times the narrow coordinates' spread: what a wider one is brought down to."""
UNEVEN = 30.0
"""Spreads that differ less than this many times are left as they are."""


def units_of(starts: Tensor) -> Tensor | None:
    """What each coordinate is divided by, powers of two, or None where widths are comparable.

    A distance over all coordinates is that of the widest one: two attractors that differ in another would be
    merged, at every tolerance.
    """
    spread = double(starts - starts.mean(dim=0)).square().mean(dim=0).sqrt()
    varying = spread[spread > 1e-6 * double(starts).abs().mean(dim=0)]
    if not len(varying):
        return None
    narrow = varying.sort().values[(len(varying) - 1) // 4]  # the lower quartile
    if not spread.max() > UNEVEN * narrow:
        return None
    # Powers of two round nothing.
    wide = (spread / (WIDE * narrow)).clamp_min(1.0)
    return torch.exp2(wide.log2().round()).to(starts)


def in_units(field: LatentField, units: Tensor) -> LatentField:
    """The same map between coordinates that were divided by ``units`` ``(d,)``."""
    if isinstance(field.step, nn.Module):
        return LatentField(_Rescaled(field.step, units))
    step = field.step
    return LatentField(lambda w: step(w * units.to(w)) / units.to(w))


class _Rescaled(nn.Module):
    units: Tensor

    def __init__(self, step: nn.Module, units: Tensor) -> None:
        super().__init__()
        self.step = step
        self.register_buffer("units", units)

    def forward(self, w: Tensor) -> Tensor:
        moved: Tensor = self.step(w * self.units) / self.units
        return moved
