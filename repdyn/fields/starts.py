"""Starts and maps, checked before work begins."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from repdyn.errors import RepdynError
from repdyn.fields.field import LatentField

__all__ = ["check_map", "check_starts", "geometry_of", "to_index", "to_numpy"]


def check_starts(z0: Any, tol: float, max_steps: int) -> Tensor:
    """The starts as a detached tensor, or an error that names what is wrong with them or the protocol."""
    starts = torch.as_tensor(z0).detach()
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


def geometry_of(starts: Tensor) -> tuple[Tensor, float, float]:
    """Centre, scale and reach of the starts; one start, or equal ones, give no scale but their own size."""
    centre = starts.mean(dim=0)
    distance = (starts - centre).norm(dim=1).double()
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
    array: NDArray[Any] = x.detach().cpu().numpy()
    return array


def to_index(chosen: NDArray[np.int64], like: Tensor) -> Tensor:
    """An index of the host as one for tensors on the device of ``like``."""
    return torch.from_numpy(chosen).to(like.device)
