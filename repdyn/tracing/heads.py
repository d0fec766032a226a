"""Logits of a model's head, and their comparison with the logits of the whole model."""

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
    """Logits ``(N, classes)`` of the model's head for the pooled final point ``(N, D)``.

    Raises
    ------
    RepdynError
        If the head is a function on another device, or does not return logits.
    """
    assert model.head is not None
    try:
        logits = devices.call(model.head, x)
    except RuntimeError as error:
        if "same device" not in str(error):
            raise
        raise RepdynError(
            f"{model.name}: its head is not on {x.device}, the device of {model.final!r} "
            f"({str(error).splitlines()[0]}); move the head there, or make it a torch.nn.Module, "
            "whose input is moved to its device"
        ) from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[0] != x.shape[0]:
        given = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise RepdynError(
            f"{model.name}: its head returns {given} for {tuple(x.shape)}; expected logits "
            f"({x.shape[0]}, classes)"
        )
    return logits


def check_logits(model: ModelSpec, x: Tensor, own: Tensor | None) -> Tensor:
    """The head's logits of the final point, compared with the model's ``own`` logits if known.

    Raises
    ------
    RepdynError
        If the head cannot read the point, or its logits differ.
    """
    remedy = "trace the blocks by name, or drop the head: replace(model, head=None)"
    try:
        logits = head_logits(model, x)
    except Exception as error:  # a head may raise anything for an input it does not support
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RepdynError(
            f"{model.name}: its head cannot read {model.final!r} ({reason}); {remedy}"
        ) from error
    if own is None:
        return logits
    expected, given = (as_array(part.float()) for part in (own, real_parts(logits)))
    half = (torch.float16, torch.bfloat16)
    coarse = torch.is_autocast_enabled(x.device.type) or devices.dtype_of(model.module) in half
    # Logits of half precision keep two or three digits.
    allowed = (0.1 if coarse else 1e-3) * max(float(np.abs(expected).max(initial=0.0)), 1e-30)
    if expected.shape != given.shape or (
        np.isfinite(expected).all() and not np.abs(expected - given).max() <= allowed
    ):
        raise RepdynError(
            f"{model.name}: its head's logits of {model.final!r} differ from those of the whole model "
            f"for the same {len(given)} samples, so the head is not all that follows this point; {remedy}"
        )
    return logits


def real_parts(x: Tensor) -> Tensor:
    """Complex values ``(…, D)`` as real ones ``(…, 2 D)``: real parts first, then imaginary parts."""
    return torch.cat([x.real, x.imag], dim=-1) if x.is_complex() else x
