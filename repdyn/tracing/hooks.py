"""Forward hooks that read representations, and contexts that restore the state of a model."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from threading import get_ident
from typing import Any, Literal

import torch
from torch import Tensor, nn

from repdyn.errors import RepdynError
from repdyn.tracing.pooling import Layout

__all__ = [
    "Hooks",
    "Point",
    "RandomState",
    "cuda_devices",
    "evaluating",
    "in_evaluation",
    "left_as_found",
    "reading",
    "uncached",
    "unwrap",
]


@dataclasses.dataclass(frozen=True)
class Point:
    """A point of a model at which a representation is read.

    Attributes
    ----------
    module
        Name of the module, as in ``named_modules()``; empty for the model itself.
    layout
        Meaning of the axes.
    prefix
        Number of leading tokens without a position in the input (class and register tokens).
    mask
        Name of the prepared input that marks real tokens, or a function from the prepared inputs to that
        mask; None without padding.
    reads
        The module's ``"output"``, or the first argument of its call, its ``"input"``.
    part
        Index of the representation in a tuple output; None for the first tensor.
    channels
        Output channels of the module's last layer, if the layout is not declared.
    trust
        ``"declared"``: the layout is certain. ``"family"``: other points of this kind of model have it, and
        the module's layers or the number of positions must agree. ``"guess"``: unknown. An uncertain layout
        is determined by running the model at another input size.
    """

    module: str
    layout: Layout
    prefix: int = 0
    mask: str | Callable[[Mapping[str, Any]], Tensor | None] | None = None
    reads: Literal["output", "input"] = "output"
    part: int | None = None
    channels: int | None = None
    trust: Literal["declared", "family", "guess"] = "declared"


class _StopForward(Exception):
    """Raised in a hook after the last point is read, to end the forward pass."""


class Hooks:
    """Forward hooks that reduce each representation inside the forward pass.

    Parameters
    ----------
    module
        The model.
    points
        Points to read, by name.
    reduce
        Function of name, point and tensor, called inside the hook. Its result is kept, the tensor is not.
    """

    def __init__(
        self,
        module: nn.Module,
        points: Mapping[str, Point],
        reduce: Callable[[str, Point, Tensor], Any],
    ) -> None:
        self.module, self.points, self._reduce = module, points, reduce
        self._calls: list[tuple[str, Any]] = []
        self._counts: dict[str, int] = defaultdict(int)
        # The thread of the current pass: passes of other threads through the same modules are not read.
        self._thread: int | None = None
        self.repeated: frozenset[str] = frozenset()
        """Points that are called several times; a pass that ends early may see only one call."""
        self.stop_after: str | None = None
        """A read name (``blocks.3``, ``layer#7``) after which the forward pass may end."""
        self.may_skip: Callable[[str, RepdynError], bool] = lambda name, error: False
        """Whether a pass continues without a point that returns no tensor."""

    @contextmanager
    def attached(self) -> Iterator[None]:
        """A context in which the hooks are attached; they are removed at its end, also after an error.

        Raises
        ------
        RepdynError
            If a point is not a module, or a scripted one.
        """
        handles = []
        try:
            for name, point in self.points.items():
                handles.append(self._attach(name, point))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def run(self, call: Callable[[], object]) -> dict[str, Any]:
        """Run one forward pass.

        Returns
        -------
        dict
            The reduced representation of each point, in order of execution. A module that was called several
            times has one entry per call, ``name#0``, ``name#1``, ….
        """
        self._calls.clear()
        self._counts.clear()
        self._thread = get_ident()
        try:
            with suppress(_StopForward):
                call()
        finally:
            self._thread = None
        seen: dict[str, int] = defaultdict(int)
        result = {}
        for name, value in self._calls:
            repeated = self._counts[name] > 1 or name in self.repeated
            result[f"{name}#{seen[name]}" if repeated else name] = value
            seen[name] += 1
        self._calls.clear()
        return result

    def _attach(self, name: str, point: Point) -> torch.utils.hooks.RemovableHandle:
        target = _part(self.module, name, point)
        if isinstance(target, torch.jit.ScriptModule):
            raise RepdynError(
                f"point {name!r}: is scripted (torch.jit), so its output cannot be read; pass the model "
                "that it was made from"
            )

        def keep(value: object) -> None:
            if self._thread != get_ident():  # a head that is called separately has a hook, too
                return
            count = self._counts[name]
            self._counts[name] = count + 1
            part = value if point.part is None else value[point.part]  # type: ignore[index]
            try:
                tensor = unwrap(part, name)
            except RepdynError as error:
                if not self.may_skip(name, error):
                    raise
            else:
                self._calls.append((name, self._reduce(name, point, tensor)))
            # An exported graph leaves out what its outputs do not need; an exception would end the export.
            ends = self.stop_after in (name, f"{name}#{count}")
            if ends and not torch.compiler.is_compiling():
                raise _StopForward

        if point.reads == "output":
            return target.register_forward_hook(lambda _module, _args, output: keep(output))
        return target.register_forward_pre_hook(
            lambda _module, args, kwargs: keep(args[0] if args else next(iter(kwargs.values()))),
            with_kwargs=True,
        )


def _part(module: nn.Module, name: str, point: Point) -> nn.Module:
    """The module of a point, by its name in ``named_modules``."""
    part: nn.Module | None = module
    for step in point.module.split(".") if point.module else ():
        # The parts of a scripted module are not a dictionary, but have items().
        part = None if part is None else dict(part._modules.items()).get(step)
    if part is None:
        raise RepdynError(f"point {name!r}: the model has no module {point.module!r}")
    return part


@contextmanager
def reading(
    module: nn.Module, points: Mapping[str, Point], reduce: Callable[[str, Point, Tensor], Any]
) -> Iterator[Hooks]:
    """A context with hooks attached to a module at the given points; see :class:`Hooks`."""
    hooks = Hooks(module, points, reduce)
    with hooks.attached():
        yield hooks


def unwrap(value: object, name: str = "the module") -> Tensor:
    """The representation in the output of a module.

    A tensor is the representation itself. Of a sequence it is the first tensor. Of a mapping or dataclass it
    is ``last_hidden_state``, or else the first tensor. Output types change between versions of libraries
    (BERT layers of transformers: a tuple in 4, a tensor in 5), and only this function depends on them.

    Raises
    ------
    RepdynError
        If there is no tensor in it.
    """
    if isinstance(value, Tensor):
        if value.is_nested:
            raise RepdynError(f"{name}: returns a nested tensor; read a module that returns a padded tensor")
        return value
    if isinstance(value, nn.utils.rnn.PackedSequence):
        raise RepdynError(f"{name}: returns a packed sequence; read a module that returns a padded tensor")
    parts: list[object] = []
    if isinstance(value, Mapping):
        parts = [value.get("last_hidden_state"), *value.values()]
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = [getattr(value, field.name) for field in dataclasses.fields(value)]
    elif isinstance(value, (tuple, list)):
        parts = list(value)
    for part in parts:
        if isinstance(part, Tensor):
            return part
    for part in parts:
        if isinstance(part, (tuple, list, Mapping)) and part:
            return unwrap(part, name)
    raise RepdynError(f"{name}: returns a {type(value).__name__} without a tensor in it")


@contextmanager
def in_evaluation(*modules: nn.Module) -> Iterator[None]:
    """A context in which modules are in evaluation mode; the mode of every part is restored afterwards."""
    modes = [
        (part, part.training)
        for module in modules
        for part in module.modules()
        if hasattr(part, "training")  # a frozen one has none
    ]
    if not any(training for _, training in modes):
        yield
        return
    try:
        for module in modules:
            module.eval()
        yield
    finally:
        for part, training in modes:
            part.training = training


def cuda_devices(module: nn.Module) -> list[int]:
    """Indices of the CUDA devices with parameters of a module, whose random states a pass may advance."""
    devices = {parameter.device for parameter in module.parameters() if parameter.device.type == "cuda"}
    return sorted(device.index or 0 for device in devices)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """A context in which the module is in evaluation mode with its own random state.

    The training flag of every submodule and the global random state are restored afterwards.
    """
    with torch.random.fork_rng(devices=cuda_devices(module)), in_evaluation(module):
        yield


@contextmanager
def uncached(module: nn.Module) -> Iterator[None]:
    """A context after which tensors that modules cached in forward passes are dropped."""
    before = [(part, type(part), dict(vars(part)), dict(part._buffers)) for part in module.modules()]
    try:
        yield
    finally:
        for part, kind, attributes, buffers in before:
            if type(part) is kind:  # a lazy module changes its class when it is initialized
                _reset(part, attributes, buffers)


@contextmanager
def left_as_found(module: nn.Module) -> Iterator[None]:
    """:func:`evaluating` and :func:`uncached`, without gradients.

    Gradients are disabled by :func:`torch.no_grad`. Under :func:`torch.inference_mode` a cached tensor would
    be an inference tensor, which a later training step cannot use.
    """
    with uncached(module), evaluating(module), torch.no_grad():
        yield


class RandomState:
    """A random state of its own for a series of forward passes.

    The first pass starts from the global state, each later one from the end of the previous one.
    """

    def __init__(self, module: nn.Module) -> None:
        self._devices = cuda_devices(module)
        self._states: list[Tensor] = []

    @contextmanager
    def scope(self) -> Iterator[None]:
        """A context in which torch draws from this state; the global state is restored afterwards."""
        with torch.random.fork_rng(devices=self._devices):
            if self._states:
                torch.set_rng_state(self._states[0])
                for device, state in zip(self._devices, self._states[1:], strict=True):
                    torch.cuda.set_rng_state(state, device)
            yield
            self._states = [
                torch.get_rng_state(),
                *(torch.cuda.get_rng_state(device) for device in self._devices),
            ]


def _reset(part: nn.Module, attributes: dict[str, Any], buffers: dict[str, Tensor | None]) -> None:
    """Restore the attributes of a module if a forward pass stored a tensor in one of them."""
    own = vars(part)
    changed = [name for name, value in own.items() if attributes.get(name, own) is not value]
    replaced = [name for name, value in part._buffers.items() if buffers.get(name, part) is not value]
    if not replaced and not any(_holds_tensor(own[name]) for name in changed):
        return
    for name in changed:
        if name not in attributes:
            del own[name]
    own.update(attributes)
    part._buffers.clear()
    part._buffers.update(buffers)


def _holds_tensor(value: object) -> bool:
    """Whether a value is a tensor or a container of one."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return any(_holds_tensor(part) for part in value)
    return isinstance(value, Tensor)
