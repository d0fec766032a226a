"""Orbits of codes under an encode-decode map, and what describes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from repdyn.reading import as_array

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Map", "apply", "as_numpy", "as_tensor", "orbit_features"]

Array = NDArray[np.float64]
Map = Callable[["Tensor"], "Tensor"]

FLOOR = 1e-12  # below any float32 residual; keeps a logarithm finite where an orbit stands still


def orbit_features(
    encode: Map, decode: Map, x: Tensor, steps: int, radius: float, *, gradient: bool = False
) -> Tensor:
    """The features of :class:`TrajectoryDetector`: ``(n, D) -> (n, steps + 4)``, with gradients if asked."""
    import torch

    run = _run if gradient else apply
    start = code = _held(run(encode, x), radius)
    columns, velocities = [], []
    for k in range(steps):
        back = run(decode, code)
        if k == 0:
            columns += [_log_norm(_held(x - back, radius)), _log_norm(code)]
        after = _held(run(encode, back), radius)
        velocities.append(after - code)
        columns.append(_log_norm(velocities[-1]))
        code = after
    columns.append(_log_norm(code - start))
    columns.append(torch.cosine_similarity(velocities[0], velocities[1], dim=1))
    return torch.stack(columns, dim=1)


def _held(z: Tensor, radius: float) -> Tensor:
    """Keep an orbit that leaves for infinity on a far sphere, so that what is computed of it is finite."""
    z = z.nan_to_num(nan=radius, posinf=radius, neginf=-radius)
    shrink: Tensor = radius / z.norm(dim=1, keepdim=True).clamp_min(FLOOR)
    return z * shrink.clamp_max(1.0)


def _log_norm(z: Tensor) -> Tensor:
    norm: Tensor = z.norm(dim=1)
    return norm.clamp_min(FLOOR).log()


def _run(function: Map, x: Tensor) -> Tensor:
    return function(x)


def apply(function: Map, x: Tensor) -> Tensor:
    """A map without its gradient."""
    import torch

    with torch.no_grad():
        return function(x).detach()


def as_tensor(function: Map, x: NDArray[Any]) -> Tensor:
    """The input on the device and in the precision of the map, float32 on the CPU where it says nothing."""
    import torch

    from repdyn.devices import device_of, dtype_of, to  # which loads torch

    found: Tensor = to(
        torch.as_tensor(np.asarray(x)), device_of(function), dtype_of(function) or torch.float32
    )
    return found


def as_numpy(x: Tensor) -> Array:
    """A tensor as a float64 array."""
    found: Array = as_array(x, np.float64)
    return found
