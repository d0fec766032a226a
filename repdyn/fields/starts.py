"""Starts and maps, checked before work begins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from repdyn.devices import double
from repdyn.errors import RepdynError
from repdyn.fields.field import LatentField
from repdyn.reading import as_array

__all__ = ["as_tensor", "check_map", "check_starts", "geometry_of", "to_index", "to_numpy", "widened"]


def check_starts(field: LatentField, z0: Any, tol: float, max_steps: int) -> Tensor:
    """The starts where the field is, out of any graph, or an error that names what is wrong with them."""
    starts = field.place(z0)
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
    if max_steps < 1:
        raise RepdynError(f"max_steps: must be at least 1, got {max_steps}")
    return starts


def as_tensor(x: Any) -> Tensor:
    """Values as a tensor out of any graph; a tensor keeps its type and device."""
    return x.detach() if isinstance(x, Tensor) else torch.as_tensor(as_array(x))


def widened(function: Callable[[Tensor], Any], x: Tensor) -> Tensor:
    """Half-precision values in float32, unless the map computes in half precision itself."""
    if x.dtype not in (torch.bfloat16, torch.float16):
        return x
    try:
        with torch.no_grad():
            function(x[:1].float())
    except RuntimeError:  # weights of another type than the input's
        return x
    return x.float()


def geometry_of(starts: Tensor) -> tuple[Tensor, float, float]:
    """Centre, scale and reach of the starts; one start, or equal ones, give no scale but their own size."""
    centre = starts.mean(dim=0)
    distance = double((starts - centre).norm(dim=1))
    scale, reach = float(distance.square().mean().sqrt()), float(distance.max())
    if scale <= 1e-6 * float(centre.norm()) or scale == 0:
        scale = reach = float(centre.norm()) or 1.0
    return centre, scale, reach


def check_map(field: LatentField, starts: Tensor, scale: float) -> None:
    """Refuse a map without a finite value, and one in which a sample's image depends on the others."""
    together, alone = field(starts[:4]), field(starts[:1])
    if not bool(torch.isfinite(field(starts)).any()):
        raise RepdynError("step: the map gives no finite value at any start; look for NaN in its weights")
    difference = float((together[:1] - alone).abs().max())
    if difference > 1e-3 * scale:
        raise RepdynError(
            f"step: the image of start 0 changes by {difference:.2g} with the rest of the batch or from call "
            "to call; put the networks into evaluation mode (dropout, batch normalisation)"
        )


def to_numpy(x: Tensor) -> NDArray[Any]:
    """A tensor's values, on the host and out of the graph."""
    return as_array(x)


def to_index(chosen: NDArray[np.int64], like: Tensor) -> Tensor:
    """An index of the host as one for tensors on the device of ``like``."""
    return torch.from_numpy(chosen).to(like.device)
