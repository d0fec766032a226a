"""All parameters of a fit as one vector: one kernel instead of one for each of them."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["FlatParameters"]


class FlatParameters:
    """Lay the parameters of modules out in one vector, and their gradients in another.

    Small networks spend their time in launching kernels. Clipping, averaging over devices and the
    optimiser's step then take one each, whatever the number of parameters.

    Parameters
    ----------
    modules
        Their parameters become views, until :meth:`release`.
    """

    def __init__(self, modules: nn.Module) -> None:
        self._each = list(modules.parameters())
        self.vector = nn.Parameter(torch.cat([p.detach().flatten() for p in self._each]))
        self.gradient = torch.zeros_like(self.vector)
        self.vector.grad = self.gradient
        start, values = 0, self.vector.detach()
        for parameter in self._each:
            place = slice(start, start + parameter.numel())
            # Where a gradient is present, it is added to in place, and so lands in the vector.
            gradient = self.gradient[place].view_as(parameter)
            parameter.data = values[place].view_as(parameter)
            parameter.grad = gradient
            start += parameter.numel()

    def clip(self, largest: float) -> None:
        """Scale the gradient so that its norm is at most ``largest``."""
        self.gradient.mul_((largest / (self.gradient.norm() + 1e-6)).clamp_max(1.0))

    def release(self) -> None:
        """Give every parameter its own memory again, without gradients."""
        for parameter in self._each:
            parameter.data = parameter.data.clone()
            parameter.grad = None
