"""A translation as a torch module with buffers only, to run between two models and to be saved with them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from repdyn import devices
from repdyn.errors import RepdynError

Floats = NDArray[np.float64]

__all__ = ["TranslationModule", "affine", "register_affine"]


class TranslationModule(nn.Module):
    r"""An affine map :math:`t(x) = (x - \mu_A) M + \mu_B`; made by :meth:`LinearTranslation.as_module`.

    ``matrix`` ``(D_a, D_b)``, ``offset_a`` and ``offset_b`` are buffers in float32: they move with ``.to``,
    are in ``state_dict``, and training leaves them alone.
    """

    matrix: Tensor
    offset_a: Tensor
    offset_b: Tensor

    def __init__(self, matrix: Floats, offset_a: Floats, offset_b: Floats) -> None:
        super().__init__()
        register_affine(self, matrix, offset_a, offset_b)

    def forward(self, x: Tensor) -> Tensor:
        """Translate ``(..., D_a)``, on the device and in the type of the buffers; the result is as ``x``."""
        moved = affine(x, self.matrix, self.offset_a, self.offset_b)
        answer: Tensor = devices.as_given(moved, x)
        return answer


def register_affine(
    module: nn.Module,
    matrix: Floats,
    offset_a: Floats,
    offset_b: Floats,
    device: torch.device | None = None,
) -> None:
    """Register the parts of a translation as float32 buffers of a module. Default device: the CPU."""
    for name, array in (("matrix", matrix), ("offset_a", offset_a), ("offset_b", offset_b)):
        module.register_buffer(name, devices.to(torch.as_tensor(array, dtype=torch.float32), device))


def affine(x: Tensor, matrix: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """Points ``(..., D_a)`` translated, on the device and in the type of the matrix.

    Raises
    ------
    RepdynError
        If the last axis is not of width D_a.
    """
    if x.shape[-1] != len(before):
        raise RepdynError(
            f"translation: reads points of width {len(before)}, got shape {tuple(x.shape)}; "
            "give representations of model A at the point that it was fitted on"
        )
    here = devices.to(x if x.is_floating_point() else x.to(matrix.dtype), matrix.device, matrix.dtype)
    moved: Tensor = (here - before) @ matrix + after
    return moved
