"""What a reader gives, to score: tensors by point, checked, as arrays; and answers where the tensors are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from repdyn import devices
from repdyn.errors import RepdynError, nearest_names
from repdyn.ood.detector import LOGITS
from repdyn.reading import as_array

if TYPE_CHECKING:
    from repdyn.tracing.model import TracedModel

__all__ = ["answered", "arrays_of", "taken", "what_to_read"]


def what_to_read(model: TracedModel, points: Iterable[str], pool: str) -> tuple[tuple[str, ...], str]:
    """The points and the pooling that give a model's paths as a detector was fitted on them.

    Parameters
    ----------
    model
        To be read.
    points
        Of the detector, ``"logits"`` among them where it reads those.
    pool
        The pooling in its metadata.

    Raises
    ------
    RepdynError
        If it reads logits, and the model has no head.
    """
    points = tuple(points)
    names = dict.fromkeys(point for point in points if point != LOGITS)
    if LOGITS in points:
        if model.head is None or model.final is None:
            raise RepdynError(
                f"model: {model.name} has no head, and the detector reads logits; give one that has"
            )
        names[model.final] = None
    # "auto" goes by the name of what it stood for.
    return tuple(names), "auto" if pool == model.pooling else pool


def taken(found: Mapping[str, Any], points: tuple[str, ...], widths: Mapping[str, int]) -> dict[str, Any]:
    """The points that a detector reads, of the widths that it was fitted on.

    Parameters
    ----------
    found
        By point, tensors or arrays ``(n, D)``. Logits are an entry of their own, or the attribute
        ``logits`` of what a reader gives.
    points, widths
        Of the detector.

    Raises
    ------
    RepdynError
        If a point is missing, or of another shape.
    """
    chosen: dict[str, Any] = {}
    for point in points:
        value = found.get(point, getattr(found, LOGITS, None) if point == LOGITS else None)
        if value is None:
            raise RepdynError(
                f"mapping: lacks the point {point!r} the detector was fitted on; "
                f"{nearest_names(point, found)}; read the model at detector.points_, and at its final point "
                "where these hold 'logits'"
            )
        if value.ndim != 2 or value.shape[1] != widths[point]:
            raise RepdynError(
                f"mapping: {point!r} has shape {tuple(value.shape)}, the detector was fitted on "
                f"(n, {widths[point]}); read it with the same model and pooling"
            )
        chosen[point] = value
    sizes = {len(value) for value in chosen.values()}
    if len(sizes) > 1:
        raise RepdynError(f"mapping: its points hold {sorted(sizes)} samples; they must be of the same ones")
    return chosen


def arrays_of(chosen: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """The same as arrays of float32, or float64 where they are."""
    arrays = {point: as_array(value) for point, value in chosen.items()}
    return {
        point: x if x.dtype == np.float64 else x.astype(np.float32, copy=False) for point, x in arrays.items()
    }


def answered(chosen: Mapping[str, Any], answer: NDArray[Any]) -> Any:
    """An answer as a tensor on the device of what was asked; as it is where that was arrays."""
    first = next(iter(chosen.values()))
    if not isinstance(first, Tensor):
        return answer
    return devices.to(torch.as_tensor(answer), first.device, torch.float64)
