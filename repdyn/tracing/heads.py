"""A model's head on what was read: its logits, and whether they are those that the model itself gives."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from repdyn import devices
from repdyn.errors import RepdynError
from repdyn.reading import as_array
from repdyn.tracing.spec import ModelSpec

__all__ = ["check_logits", "head_logits", "real_parts"]


def head_logits(model: ModelSpec, x: Tensor) -> Tensor:
    """What the model's head gives of the pooled final point, on the device of ``x``.

    Raises
    ------
    RepdynError
        If the head is a function that works on another device.
    """
    assert model.head is not None
    try:
        found = devices.call(model.head, x)
    except RuntimeError as error:
        if "same device" not in str(error):
            raise
        raise RepdynError(
            f"{model.name}: its head is not on {x.device}, where {model.final!r} is read "
            f"({str(error).splitlines()[0]}); move the head there, or make it a torch.nn.Module, "
            "whose input is moved to it"
        ) from error
    if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(x):
        told = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise RepdynError(
            f"{model.name}: its head gives {told} of {tuple(x.shape)}; expected logits ({len(x)}, classes)"
        )
    return found


def check_logits(model: ModelSpec, x: Tensor, own: Tensor | None) -> Tensor:
    """The head's logits of the final point, which must be the model's ``own`` where those are known.

    Raises
    ------
    RepdynError
        If the head cannot read the point, or gives other logits.
    """
    remedy = "trace the blocks by name, or drop the head: replace(model, head=None)"
    try:
        logits = head_logits(model, x)
    except Exception as error:  # whatever a head says of a representation that is not its own
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RepdynError(
            f"{model.name}: its head cannot read {model.final!r} ({reason}); {remedy}"
        ) from error
    if own is None:
        return logits
    expected, given = (as_array(part.float()) for part in (own, real_parts(logits)))
    half = (torch.float16, torch.bfloat16)
    coarse = torch.is_autocast_enabled(x.device.type) or devices.dtype_of(model.module) in half
    allowed = (0.1 if coarse else 1e-3) * max(float(np.abs(expected).max(initial=0.0)), 1e-30)
    if expected.shape != given.shape or (
        np.isfinite(expected).all() and not np.abs(expected - given).max() <= allowed
    ):
        raise RepdynError(
            f"{model.name}: its head gives other logits of {model.final!r} than the model itself does of "
            f"the same {len(given)} samples, so that it is not all that follows this point; {remedy}"
        )
    return logits


def real_parts(x: Tensor) -> Tensor:
    """Complex numbers as real ones, twice as wide: real parts first, then imaginary ones."""
    return torch.cat([x.real, x.imag], dim=-1) if x.is_complex() else x
