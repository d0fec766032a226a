"""Self-maps of a latent space: images, Jacobian-vector products, and checks of starts and maps.

:class:`SelfMap` evaluates and differentiates a map. :class:`CountedMap` counts evaluations, and
:func:`rescaled` changes units. Below them are the checks that run before a search begins.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import chain
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from repdyn.arguments import whole
from repdyn.devices import as_given, device_of, double, to, widest
from repdyn.errors import RepdynError
from repdyn.fields.settings import SEARCH, SearchSettings
from repdyn.reading import as_array

__all__ = [
    "CountedMap",
    "SelfMap",
    "as_tensor",
    "check_map",
    "check_starts",
    "geometry_of",
    "narrowed_units",
    "rescaled",
    "to_index",
    "units_of",
    "widened",
]


class SelfMap:
    r"""A batched map of a space to itself, ``(N, d) -> (N, d)``, and the vector field that it induces.

    .. math:: V(z) = f(z) - z

    No sample's image may depend on another sample. Precision and device follow the input. Only :meth:`jvp`,
    :meth:`linearize` and the methods built on them differentiate the map.

    Parameters
    ----------
    step
        The map :math:`f`.
    """

    def __init__(self, step: Callable[[Tensor], Tensor]) -> None:
        self.step = step
        self.encode: Callable[[Tensor], Tensor] | None = None
        self.decode: Callable[[Tensor], Tensor] | None = None
        self._differentiable: bool | None = None
        self._last_seen = torch.device("cpu")

    @property
    def device(self) -> torch.device:
        """Device of the map's weights; without weights, the device of the last input."""
        return self._weights_device() or self._last_seen

    def on_device(self, x: Any) -> Tensor:
        """Values, detached, on the device of the map.

        Parameters
        ----------
        x
            A tensor on any device, or an array. A tensor stays on its device if the map has no weights.
        """
        if isinstance(x, Tensor):
            return to(x.detach(), self._weights_device())
        return to(torch.as_tensor(as_array(x)), self.device)

    def _weights_device(self) -> torch.device | None:
        """Device of the first part that has weights or buffers, or None."""
        for part in (self.step, self.encode, self.decode):
            if (
                isinstance(part, nn.Module)
                and next(chain(part.parameters(), part.buffers()), None) is not None
            ):
                return device_of(part)
        return None

    def __call__(self, z: Tensor) -> Tensor:
        """Apply the map once, ``(N, d) -> (N, d)``."""
        self._last_seen = z.device
        with torch.no_grad():
            image = self.step(z)
        if not isinstance(image, Tensor) or image.shape != z.shape:
            raise RepdynError(
                f"step: must map a tensor of shape {tuple(z.shape)} to one of the same shape, gave "
                f"{tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__}"
            )
        return image.detach()

    def velocity(self, z: Tensor) -> Tensor:
        """The field at ``z``: ``f(z) - z``, shape ``(N, d)``."""
        return self(z) - z

    def trajectory(self, z: Tensor, steps: int = 30) -> Tensor:
        """The orbit of each point, shape ``(steps + 1, N, d)``; the first entry is ``z`` itself."""
        orbit = z.new_empty((steps + 1, *z.shape))
        orbit[0] = z
        for k in range(steps):
            orbit[k + 1] = self(orbit[k])
        return orbit

    def jvp(self, z: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
        r"""The map and its Jacobian applied to one direction per sample, without forming a Jacobian.

        .. math:: f(z), \quad J_f(z)\, v

        Parameters
        ----------
        z, direction
            Shape ``(N, d)`` each.

        Returns
        -------
        image, product
            Shape ``(N, d)`` each.
        """
        image, apply = self.linearize(z)
        return image, apply(direction)

    def linearize(self, z: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        r"""The map at ``z`` and its Jacobian there as a function, for many directions at the same points.

        .. math:: f(z), \quad v \mapsto J_f(z)\, v = \partial_u \langle J_f(z)^\top u, v \rangle

        The graph of :math:`J^\top u`, linear in :math:`u`, is recorded once; each direction then costs one
        backward pass through it. (Forward mode pays several milliseconds of dispatch at every call.)

        Parameters
        ----------
        z
            Shape ``(N, d)``.

        Returns
        -------
        image, apply
            Shape ``(N, d)``, and a function of directions ``(N, d)``.

        Notes
        -----
        A map may hide its derivative, wholly or in part (inference mode, a detached branch, arrays instead
        of tensors). Its products are then central differences. This is decided once, by comparing a product
        with a difference. Without this check, a hidden derivative would be zero and every point stable.
        """
        if self._differentiable is None:
            self._differentiable = self._is_differentiable(z[:8])
        if self._differentiable:
            return _recorded(self.step, z)
        # The cube root of the precision balances rounding against truncation for a central difference.
        width = torch.finfo(z.dtype).eps ** (1 / 3) * (1 + z.norm(dim=1, keepdim=True))

        def apply(direction: Tensor) -> Tensor:
            length = direction.norm(dim=1, keepdim=True).clamp_min(torch.finfo(z.dtype).tiny)
            small = direction / length * width
            product: Tensor = (self(z + small) - self(z - small)) / (2 * width) * length
            return product

        return self(z), apply

    def _is_differentiable(self, z: Tensor) -> bool:
        """Whether recorded products at ``z`` ``(n, d)`` agree with central differences, in the median."""
        generator = torch.Generator().manual_seed(0)
        direction = as_given(torch.randn(z.shape, generator=generator, dtype=torch.float64), z)
        try:
            recorded = _recorded(self.step, z)[1](direction)
        except (RuntimeError, NotImplementedError, TypeError):
            return False
        differenced = SelfMap(self.step)
        differenced._differentiable = False
        product = differenced.jvp(z, direction)[1]
        # A kink of the map can spoil the difference at single samples, hence the median.
        error = (recorded - product).norm(dim=1) / product.norm(dim=1).clamp_min(1e-6)
        return not bool(error.median() > 0.1)

    def divergence(self, z: Tensor, probes: int = 16, *, seed: int = 0) -> tuple[Tensor, Tensor]:
        r"""Divergence of the field, :math:`\operatorname{tr} J_f(z) - d`; negative where volumes shrink.

        .. math:: \operatorname{tr} J \approx \tfrac{1}{m} \sum_{i \le m} v_i^\top J v_i

        Parameters
        ----------
        z
            Shape ``(N, d)``.
        probes
            Random sign vectors. With ``d`` of them or more, the trace is summed exactly instead.
        seed
            Of the signs.

        Returns
        -------
        value, error
            Shape ``(N,)`` each: the estimate and its standard error, zero where it is exact.

        References
        ----------
        Hutchinson (1989). A stochastic estimator of the trace of the influence matrix.
        """
        d = z.shape[1]
        _, apply = self.linearize(z)
        if probes >= d:
            units = torch.eye(d, dtype=z.dtype, device=z.device)
            diagonal = torch.stack([apply(units[i].expand_as(z))[:, i] for i in range(d)])
            return diagonal.sum(dim=0) - d, torch.zeros_like(z[:, 0])
        generator = torch.Generator().manual_seed(seed)
        signs = (
            2 * as_given(torch.randint(0, 2, (probes, *z.shape), generator=generator, dtype=torch.float64), z)
            - 1
        )
        traces = torch.stack([(v * apply(v)).sum(dim=1) for v in signs])
        return traces.mean(dim=0) - d, traces.std(dim=0) / probes**0.5

    def power(self, period: int) -> Self:
        """The map applied ``period`` times. A cycle of that period is a fixed point of it."""

        def repeated(z: Tensor) -> Tensor:
            for _ in range(period):
                z = self.step(z)
            return z

        return self if period == 1 else type(self)(repeated)

    def as_float64(self, like: Tensor) -> SelfMap | None:
        """This map in 64-bit precision, or None where the map or its device does not allow it.

        Parameters
        ----------
        like
            Points, shape ``(N, d)``. The first one is used to test the map.
        """
        if widest(like.device) != torch.float64:
            return None
        candidates: list[Callable[[Tensor], Tensor]] = [self.step]
        if isinstance(self.step, nn.Module):
            candidates.insert(0, to(copy.deepcopy(self.step), None, torch.float64))
        for step in candidates:
            try:
                with torch.no_grad():
                    image = step(double(like[:1]))
            except (RuntimeError, TypeError, ValueError):
                continue
            if image.dtype == torch.float64:
                return SelfMap(step)
        return None


def _recorded(step: Callable[[Tensor], Tensor], z: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Images ``(N, d)`` of ``z``, and the Jacobian product read from one recorded graph."""
    with torch.enable_grad():
        # A copy, so that later in-place writes of the caller do not invalidate the graph.
        point = z.detach().clone().requires_grad_(True)
        image = step(point)
        dual = torch.zeros_like(image, requires_grad=True)
        (pulled,) = torch.autograd.grad(image, point, dual, create_graph=True)

    def apply(direction: Tensor) -> Tensor:
        # The pulled-back vector of a constant map is zero and does not depend on the dual.
        if not pulled.requires_grad:
            return torch.zeros_like(direction)
        (product,) = torch.autograd.grad(pulled, dual, as_given(direction, image), retain_graph=True)
        return product

    return image.detach(), apply


class CountedMap(SelfMap):
    """A map that counts its evaluations, in samples.

    Parameters
    ----------
    step
        The map.
    count
        A list with one number, to which each evaluation and each Jacobian product adds. Several maps can
        share one.
    turns
        Evaluations of the underlying map in one call of ``step``.
    """

    def __init__(self, step: Callable[[Tensor], Tensor], count: list[int], turns: int = 1) -> None:
        def counting(z: Tensor) -> Tensor:
            count[0] += turns * len(z)
            return step(z)

        super().__init__(counting)
        self.original, self.count, self.turns = step, count, turns

    def linearize(self, z: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """As :meth:`SelfMap.linearize`; each product counts as an evaluation."""
        image, apply = super().linearize(z)

        def counting(direction: Tensor) -> Tensor:
            self.count[0] += self.turns * len(direction)
            return apply(direction)

        return image, counting

    def power(self, period: int) -> CountedMap:
        """The map applied ``period`` times, each of which counts."""
        return CountedMap(SelfMap(self.original).power(period).step, self.count, period)


def units_of(starts: Tensor, settings: SearchSettings = SEARCH) -> Tensor | None:
    """Divisor of each coordinate, a power of two, shape ``(d,)``; or None where spreads are comparable.

    The widest coordinate dominates a distance over all coordinates. Without rescaling, two attractors that
    differ only in a narrow coordinate would be merged at every tolerance.
    """
    spread = double(starts - starts.mean(dim=0)).square().mean(dim=0).sqrt()
    # Constant coordinates differ by rounding only, and would make every other coordinate look wide.
    varying = spread[spread > 1e-6 * double(starts).abs().mean(dim=0)]
    if not len(varying):
        return None
    narrow = varying.sort().values[(len(varying) - 1) // 4]  # the lower quartile
    if not spread.max() > settings.uneven_spread * narrow:
        return None
    # Division by a power of two is exact.
    wide = (spread / (settings.wide_spread * narrow)).clamp_min(1.0)
    return as_given(torch.exp2(wide.log2().round()), starts)


def narrowed_units(rows: Tensor) -> Tensor:
    """Divisor of each coordinate ``(d,)`` that brings those far wider than the others down to their spread.

    One coordinate of a thousand times the others' spread would be all that distances see.
    """
    units, ones = units_of(rows), torch.ones_like(rows[0])
    return ones if units is None else torch.where(units > 1, units * SEARCH.wide_spread, ones)


def rescaled(field: SelfMap, units: Tensor) -> SelfMap:
    """The same map between coordinates that were divided by ``units`` ``(d,)``."""
    if isinstance(field.step, nn.Module):
        return SelfMap(_Rescaled(field.step, units))
    step = field.step
    return SelfMap(lambda w: step(w * as_given(units, w)) / as_given(units, w))


class _Rescaled(nn.Module):
    """A module between coordinates divided by ``units``, which follow it to another device or precision."""

    units: Tensor

    def __init__(self, step: nn.Module, units: Tensor) -> None:
        super().__init__()
        self.step = step
        self.register_buffer("units", units)

    def forward(self, w: Tensor) -> Tensor:
        moved: Tensor = self.step(w * self.units) / self.units
        return moved


def check_starts(field: SelfMap, z0: Any, tol: float, max_steps: int) -> Tensor:
    """Starts ``(N, d)``, detached and on the field's device.

    Raises
    ------
    RepdynError
        On starts that are not finite floating-point ``(N, d)``, or on a tolerance or step limit out of range.
    """
    starts = field.on_device(z0)
    if starts.ndim != 2 or 0 in starts.shape or not starts.is_floating_point():
        raise RepdynError(
            f"z0: starts must be floating point of shape (N, d), got {starts.dtype} {tuple(starts.shape)}"
        )
    broken = (~torch.isfinite(starts).all(dim=1)).nonzero()
    if len(broken):
        raise RepdynError(
            f"z0: start {int(broken[0])} is not finite ({len(broken)} of {len(starts)} are not)"
        )
    if not tol > 0:
        raise RepdynError(f"tol: must be above 0, got {tol}")
    if whole("max_steps", max_steps) < 1:
        raise RepdynError(f"max_steps: must be at least 1, got {max_steps}")
    return starts


def as_tensor(x: Any) -> Tensor:
    """Values as a detached tensor. A tensor keeps its type and device."""
    return x.detach() if isinstance(x, Tensor) else torch.as_tensor(as_array(x))


def widened(function: Callable[[Tensor], Any], x: Tensor) -> Tensor:
    """Half-precision values in float32, unless the function computes in half precision itself."""
    if x.dtype not in (torch.bfloat16, torch.float16):
        return x
    try:
        with torch.no_grad():
            function(x[:1].float())
    except RuntimeError:  # the weights are of another type than the input
        return x
    return x.float()


def geometry_of(starts: Tensor) -> tuple[Tensor, float, float]:
    """Mean ``(d,)`` of the starts, and the root mean square and largest distance from it.

    A single start, or equal starts, have no spread: their norm is the scale then.
    """
    center = starts.mean(dim=0)
    distance = double((starts - center).norm(dim=1))
    scale, reach = float(distance.square().mean().sqrt()), float(distance.max())
    # Equal starts far from the origin differ by rounding.
    if scale <= 1e-6 * float(center.norm()) or scale == 0:
        scale = reach = float(center.norm()) or 1.0
    return center, scale, reach


def check_map(field: SelfMap, starts: Tensor, scale: float) -> None:
    """Raise an error for a map without a finite value, or one whose images depend on the rest of the
    batch."""
    together, alone = field(starts[:4]), field(starts[:1])
    if not bool(torch.isfinite(field(starts)).any()):
        raise RepdynError("step: the map gives no finite value at any start; check its weights for NaN")
    difference = float((together[:1] - alone).abs().max())
    # Batched products round differently, by far less than this.
    if difference > 1e-3 * scale:
        raise RepdynError(
            f"step: the image of start 0 changes by {difference:.2g} with the rest of the batch or from call "
            "to call; put the networks into evaluation mode (dropout, batch normalization)"
        )


def to_index(chosen: NDArray[np.int64], like: Tensor) -> Tensor:
    """An index array as a tensor on the device of ``like``."""
    return to(torch.from_numpy(chosen), like.device)
