"""Devices of models and tensors, and calls that return on the device and in the dtype of their input.

The one module that moves tensors between devices. A user's model stays where it is, unless a function takes
``device=``; what a function is given is moved to the model once, and its answer is moved back once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any, TypeVar, overload

import torch
from torch import Tensor, nn

from repdyn.errors import RepdynError
from repdyn.reading import as_array

__all__ = ["as_given", "call", "check_device", "device_of", "double", "dtype_of", "to", "widest"]

CPU = torch.device("cpu")
WITHOUT_DOUBLE = {"mps"}
"""Types of device that have no float64."""
Held = TypeVar("Held", bound=Tensor | nn.Module)
_NARROWER = {torch.float64: torch.float32, torch.complex128: torch.complex64}


def device_of(holder: Any, default: torch.device = CPU) -> torch.device:
    """The device of a tensor or a module.

    Parameters
    ----------
    holder
        A tensor, a module (the device of its first weight or buffer), or anything else. Where accelerate
        keeps weights elsewhere until they are needed (a device map), the device on which it runs the first
        part of the module.
    default
        The result for a function, an array or a module without weights, which have no device.

    Returns
    -------
    torch.device

    Examples
    --------
    >>> import numpy as np
    >>> device_of(nn.Linear(2, 2)), device_of(np.zeros(3))
    (device(type='cpu'), device(type='cpu'))
    """
    if isinstance(holder, Tensor):
        return holder.device
    if not isinstance(holder, nn.Module):
        return default
    for tensor in chain(holder.parameters(), holder.buffers()):
        if tensor.device.type != "meta":
            return tensor.device
        break
    for part in holder.modules():
        placed = getattr(getattr(part, "_hf_hook", None), "execution_device", None)
        if placed is not None:
            return torch.device(placed)
    return default


def dtype_of(holder: Any) -> torch.dtype | None:
    """The dtype of a tensor, or of a module's first floating-point weight; None if there is none.

    Examples
    --------
    >>> dtype_of(nn.Linear(2, 2).double())
    torch.float64
    """
    if isinstance(holder, Tensor):
        return holder.dtype
    if not isinstance(holder, nn.Module):
        return None
    for parameter in holder.parameters():
        if parameter.is_floating_point():
            return parameter.dtype
    return None


@overload
def to(value: Held, device: torch.device | str | None, dtype: torch.dtype | None = None) -> Held: ...
@overload
def to(value: Any, device: torch.device | str | None, dtype: torch.dtype | None = None) -> Any: ...
def to(value: Any, device: torch.device | str | None, dtype: torch.dtype | None = None) -> Any:
    """Move all tensors in a value, whatever holds them; a module is moved in place.

    Parameters
    ----------
    value
        A tensor, a module, or mappings, tuples and lists of such; everything else is passed on as it is.
    device
        Where to; None leaves tensors where they are.
    dtype
        What floating-point tensors become; integers and booleans keep their type. None keeps every type.
        float64 becomes float32, and complex128 complex64, on a device that has none (:func:`widest`).

    Examples
    --------
    >>> to({"ids": torch.arange(2), "x": torch.ones(2)}, "cpu", torch.float64)["x"].dtype
    torch.float64
    """
    if isinstance(value, Tensor):
        kept = value.dtype if dtype is None or not value.is_floating_point() else dtype
        if kept in _NARROWER:
            where = value.device if device is None else torch.device(device)
            kept = _NARROWER[kept] if where.type in WITHOUT_DOUBLE else kept
        return value.to(device=device, dtype=kept)
    if isinstance(value, nn.Module):
        return value._apply(lambda tensor: to(tensor, device, dtype))  # type: ignore[no-untyped-call]
    if isinstance(value, Mapping):
        return {name: to(part, device, dtype) for name, part in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(to(part, device, dtype) for part in value))
    if isinstance(value, tuple | list):
        return type(value)(to(part, device, dtype) for part in value)
    return value


def call(module: Callable[[Tensor], Any], x: Any) -> Any:
    """Call a module on its own device, and return on the device and in the dtype of the input.

    Parameters
    ----------
    module
        From a tensor to a tensor. A function that is not a module has no device or dtype: the input
        reaches it as it is.
    x
        A tensor, of any device and floating-point type; or an array, which is answered by an array. An
        integer input reaches the module as it is.

    Returns
    -------
    Tensor or numpy.ndarray
        On the device of ``x``; in its type where both are floating point. Gradients flow from it to ``x``.

    Examples
    --------
    >>> call(nn.Linear(2, 3), torch.ones(4, 2, dtype=torch.float64)).dtype
    torch.float64
    >>> import numpy as np
    >>> type(call(nn.Linear(2, 3), np.ones((4, 2)))).__name__
    'ndarray'
    """
    if not isinstance(x, Tensor):
        with torch.no_grad():
            return as_array(call(module, torch.as_tensor(as_array(x))))
    moved = x
    if isinstance(module, nn.Module):
        moved = to(x, device_of(module), dtype_of(module))
    answer = module(moved)
    return as_given(answer, x) if isinstance(answer, Tensor) else answer


@overload
def as_given(found: Any, x: Tensor) -> Tensor: ...
@overload
def as_given(found: Any, x: Any) -> Any: ...
def as_given(found: Any, x: Any) -> Any:
    """A result like ``x``: for a tensor, on its device, and in its dtype if both are floating point.

    Parameters
    ----------
    found
        An array, or a tensor, whose graph is kept.
    x
        What the answer is to. Where it is no tensor, ``found`` is returned as it is.

    Examples
    --------
    >>> import numpy as np
    >>> as_given(np.zeros(2), torch.ones(1)).dtype
    torch.float32
    """
    if not isinstance(x, Tensor):
        return found
    answer = found if isinstance(found, Tensor) else torch.as_tensor(as_array(found))
    both = x.is_floating_point() and answer.is_floating_point()
    return to(answer, x.device, x.dtype if both else None)


def widest(device: torch.device) -> torch.dtype:
    """float64, or float32 on a device that has no wider type (Apple's MPS).

    Examples
    --------
    >>> widest(torch.device("mps")), widest(torch.device("cpu"))
    (torch.float32, torch.float64)
    """
    return torch.float32 if device.type in WITHOUT_DOUBLE else torch.float64


def double(x: Tensor) -> Tensor:
    """A tensor in the widest type of its device, on which it stays.

    Examples
    --------
    >>> double(torch.ones(1)).dtype
    torch.float64
    """
    return x.to(widest(x.device))


def check_device(device: torch.device | str, name: str = "device") -> torch.device:
    """A device that can be used here.

    Raises
    ------
    RepdynError
        If there is no such device, with torch's reason.

    Examples
    --------
    >>> check_device("cpu")
    device(type='cpu')
    """
    try:
        found = torch.device(device)
        torch.empty(1, device=found).sum().item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().partition("\n")[0][:200]
        raise RepdynError(
            f"{name} {str(device)!r}: cannot be used here ({reason}); give cpu, or leave it out"
        ) from None
    return found
