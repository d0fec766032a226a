"""A device that is none: tensors on it hold their values on the CPU, and refuse what a GPU's would refuse.

A tensor on ``standin`` does not meet a tensor of the CPU (but for numbers and indices), does not
become an array, and takes no random generator of the CPU. So code that forgets to move fails here as it would
on a GPU. It stands on torch's own place for other backends (PrivateUse1), in Python.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

NAME = "standin"
_ATEN = torch.ops.aten
_BETWEEN = {_ATEN.copy_.default, _ATEN._to_copy.default}
"""What moves values between devices."""
_INDEXED = {
    _ATEN.index.Tensor,
    _ATEN.index_put.default,
    _ATEN.index_put_.default,
    _ATEN._index_put_impl_.default,
}
"""What takes indices of the CPU on any device."""
moves = [0]
"""How often a whole tensor was copied to the CPU, since the test began."""
active = [False]
"""Whether a test uses the device."""
refused: set[torch.dtype] = set()
"""Types of number that the device does not have."""


class StandInTensor(torch.Tensor):
    """Values on the CPU under the name of another device."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> StandInTensor:
        return torch.Tensor._make_wrapper_subclass(  # type: ignore[no-any-return,attr-defined]
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=torch.device(NAME, 0),
        )

    def __init__(self, held: torch.Tensor) -> None:
        self.held = held

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    @property  # type: ignore[override]
    def data(self) -> torch.Tensor:
        """The values without the graph."""
        return self.detach()

    @data.setter
    def data(self, value: torch.Tensor) -> None:
        torch.Tensor.data.__set__(self, value)  # type: ignore[attr-defined]
        self.held = value.held  # type: ignore[attr-defined]

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"StandInTensor({self.held!r})"


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    leaves = tree_leaves((args, kwargs))
    ours = any(isinstance(leaf, StandInTensor) for leaf in leaves)
    for leaf in leaves:
        if isinstance(leaf, torch.Generator):
            raise RuntimeError(f"{func}: expected a generator of {NAME}, got one of {leaf.device}")
        strange = isinstance(leaf, torch.Tensor) and not isinstance(leaf, StandInTensor) and leaf.ndim > 0
        if strange and func not in _BETWEEN | _INDEXED:
            raise RuntimeError(f"{func}: expected all tensors on {NAME}, found one on {leaf.device}")
    there = kwargs.get("device")
    to_cpu = there is not None and torch.device(there).type == "cpu"
    if func is _ATEN.copy_.default and not isinstance(args[0], StandInTensor):
        to_cpu = True
    if to_cpu and ours and func in _BETWEEN and max((x.ndim for x in leaves if _is(x)), default=0) > 0:
        moves[0] += 1
    plain_args, plain_kwargs = tree_map(lambda x: x.held if _is(x) else x, (args, kwargs))
    if "device" in plain_kwargs:
        plain_kwargs["device"] = "cpu"
    found = _WITHOUT_KERNEL.get(func, func)(*plain_args, **plain_kwargs)
    if to_cpu or func is _ATEN._local_scalar_dense.default:
        return args[0] if func is _ATEN.copy_.default else found
    written = kwargs.get("out")
    if _is(written) and written.shape != written.held.shape:
        raise NotImplementedError(f"{func}: a stand-in tensor cannot be resized; say so in tests/stand_in.py")
    for made in tree_leaves(found):
        if isinstance(made, torch.Tensor) and made.dtype in refused:
            raise TypeError(f"{func}: {NAME} has no {made.dtype}")
    wrapped = tree_map(lambda x: StandInTensor(x) if _bare(x) else x, found)
    return return_and_correct_aliasing(func, args, kwargs, wrapped) if ours else wrapped


def _is(x: object) -> bool:
    return isinstance(x, StandInTensor)


def _bare(x: object) -> bool:
    return isinstance(x, torch.Tensor) and not isinstance(x, StandInTensor)


class _Backend:
    """What torch asks of a backend's module."""

    @staticmethod
    def is_initialized() -> bool:
        return True

    @staticmethod
    def is_available() -> bool:
        return active[0]  # elsewhere in the process nothing may choose it by itself

    @staticmethod
    def current_device() -> int:
        return 0

    @staticmethod
    def device_count() -> int:
        return 1

    @staticmethod
    def _is_in_bad_fork() -> bool:
        return False

    @staticmethod
    def manual_seed_all(seed: int) -> None:
        pass

    @staticmethod
    def get_rng_state(device: object = None) -> torch.Tensor:
        return torch.empty(0, dtype=torch.uint8)

    @staticmethod
    def set_rng_state(state: torch.Tensor, device: object = None) -> None:
        pass

    @staticmethod
    def get_amp_supported_dtype() -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]


def _lstm_cell(
    inputs: torch.Tensor,
    hidden: torch.Tensor,
    cell: torch.Tensor,
    input_bias: torch.Tensor | None = None,
    hidden_bias: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The fused cell, which torch has for GPUs alone: state, cell, and gates for the way back."""
    gates = inputs + hidden
    for bias in (input_bias, hidden_bias):
        gates = gates if bias is None else gates + bias
    i, f, g, o = gates.chunk(4, dim=1)
    i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    after = f * cell + i * g
    return o * after.tanh(), after, torch.cat([i, f, g, o], dim=1)


def _lstm_cell_backward(
    d_state: torch.Tensor | None,
    d_cell: torch.Tensor | None,
    before: torch.Tensor,
    after: torch.Tensor,
    workspace: torch.Tensor,
    has_bias: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    i, f, g, o = workspace.chunk(4, dim=1)
    d_state = torch.zeros_like(after) if d_state is None else d_state
    total = d_state * o * (1 - after.tanh() ** 2) + (0 if d_cell is None else d_cell)
    parts = [
        total * g * i * (1 - i),
        total * before * f * (1 - f),
        total * i * (1 - g**2),
        d_state * after.tanh() * o * (1 - o),
    ]
    gates = torch.cat(parts, dim=1)
    return gates, total * f, gates.sum(dim=0) if has_bias else None


_WITHOUT_KERNEL: dict[Any, Any] = {
    _ATEN._thnn_fused_lstm_cell.default: _lstm_cell,
    _ATEN._thnn_fused_lstm_cell_backward_impl.default: _lstm_cell_backward,
}
_MAKERS = {
    torch.tensor,
    torch.as_tensor,
    torch.eye,
    torch.arange,
    torch.linspace,
    torch.randperm,
}
"""What torch builds below the place where a backend in Python can answer."""


class _Made(TorchFunctionMode):
    """Tensors made on the stand-in are made on the CPU and moved."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = dict(kwargs or {})
        where = given.get("device")
        if func not in _MAKERS or where is None or torch.device(where).type != NAME:
            return func(*args, **given)
        if _is(args[0]):
            return args[0].to(given.get("dtype"))
        return func(*args, **{**given, "device": "cpu"}).to(where)


@contextmanager
def on_stand_in() -> Iterator[str]:
    """Within this context a device of this name can be used."""
    name = stand_in()
    active[0] = True
    try:
        with _Made():
            yield name
    finally:
        active[0] = False


@functools.cache
def stand_in() -> str:
    """The device's name; torch knows it from the first call on, for the life of the process."""

    class Hook(torch._C._acc.PrivateUse1Hooks):  # type: ignore[name-defined,misc]
        def is_available(self) -> bool:
            return True

        def has_primary_context(self, dev_id: int) -> bool:
            return True

        def is_built(self) -> bool:
            return True

    class Guard(torch._C._acc.DeviceGuard):  # type: ignore[name-defined,misc]
        def type_(self) -> Any:
            return torch._C._autograd.DeviceType.PrivateUse1  # type: ignore[attr-defined]

    torch.utils.rename_privateuse1_backend(NAME)
    torch.utils.generate_methods_for_privateuse1_backend()
    torch._register_device_module(NAME, _Backend())  # type: ignore[arg-type]
    kept = Hook(), Guard(), torch.library.Library("_", "IMPL")
    torch._C._acc.register_python_privateuseone_hook(kept[0])  # type: ignore[attr-defined]
    torch._C._acc.register_python_privateuseone_device_guard(kept[1])  # type: ignore[attr-defined]
    kept[2].fallback(lambda op, *args, **kwargs: _run(op, args, kwargs), "PrivateUse1")  # type: ignore[no-untyped-call]
    _KEPT.extend(kept)
    return NAME


_KEPT: list[Any] = []
