"""Reading a model while it runs: forward hooks that pool inside and are always taken away again."""

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
    """A place in a model where its representation is read.

    Attributes
    ----------
    module
        Name of the module, as in ``named_modules()``; empty for the model itself.
    layout
        What its axes mean.
    prefix
        Number of leading tokens that are no place of the input (class and register tokens).
    mask
        Which of the prepared inputs marks its real tokens, or a function from the prepared inputs to
        that mask; None where there is no padding.
    reads
        The module's ``"output"``, or the first argument of its call, its ``"input"``.
    part
        Which member of a tuple output is the representation; None for the first tensor in it.
    channels
        How many channels the module's own last layer gives, where the layout is not declared.
    trust
        ``"declared"``: the layout is what it is. ``"family"``: other points of this kind of model have it,
        and it holds if the module's own layers or the number of positions say the same. ``"guess"``: nobody
        knows. What does not hold is found by running the model at another size of input.
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
    """Raised in a hook once the last wanted point is read: the rest of the model need not run."""


class Hooks:
    """The forward hooks of one reading: while they are attached, passes hand over what the hooks reduced.

    Parameters
    ----------
    module
        The model.
    points
        What to read, under the names it should have.
    reduce
        Called inside the hook with name, point and tensor; what it returns is kept, the tensor is not.
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
        # The thread that runs a pass: one that another thread runs through the same modules is not read.
        self._thread: int | None = None
        self.repeated: frozenset[str] = frozenset()
        """Points known to be called several times, though a pass that stops early may see one call."""
        self.stop_after: str | None = None
        """A read name (``blocks.3``, ``layer#7``) after which the forward pass may end."""
        self.may_skip: Callable[[str, RepdynError], bool] = lambda name, error: False
        """Whether a pass goes on without a point that gives no tensor."""

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Within this context the hooks are in place; they are removed when it ends, whatever happens in it.

        Raises
        ------
        RepdynError
            If a point names no module, or a scripted one.
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
            What each point was reduced to, in order of execution. A module that was called several
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
        place = _part(self.module, name, point)
        if isinstance(place, torch.jit.ScriptModule):
            raise RepdynError(
                f"point {name!r}: is scripted (torch.jit), and what it gives cannot be read; pass the "
                "model that it was made from"
            )

        def keep(value: object) -> None:
            if self._thread != get_ident():  # a head that is applied by hand is a module with a hook, too
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
            if self.stop_after in (name, f"{name}#{count}"):
                raise _StopForward

        if point.reads == "output":
            return place.register_forward_hook(lambda _module, _args, output: keep(output))
        return place.register_forward_pre_hook(
            lambda _module, args, kwargs: keep(args[0] if args else next(iter(kwargs.values()))),
            with_kwargs=True,
        )


def _part(module: nn.Module, name: str, point: Point) -> nn.Module:
    """The module of a point, by the names of ``named_modules``."""
    found: nn.Module | None = module
    for step in point.module.split(".") if point.module else ():
        # Of a scripted module the parts are no dictionary.
        found = None if found is None else dict(found._modules.items()).get(step)
    if found is None:
        raise RepdynError(f"point {name!r}: the model has no module {point.module!r}")
    return found


@contextmanager
def reading(
    module: nn.Module, points: Mapping[str, Point], reduce: Callable[[str, Point, Tensor], Any]
) -> Iterator[Hooks]:
    """Within this context, forward passes of a module are read at the given points; see :class:`Hooks`."""
    hooks = Hooks(module, points, reduce)
    with hooks.attached():
        yield hooks


def unwrap(value: object, name: str = "the module") -> Tensor:
    """The tensor in what a module returned: the one place that knows about tuples and model outputs.

    Libraries change what a block returns between versions (transformers' BERT layers: a tuple in 4, a
    tensor in 5). The representation is the tensor itself, the first tensor of a sequence, or of a
    mapping or dataclass its ``last_hidden_state`` or else the first tensor.

    Raises
    ------
    RepdynError
        If there is no tensor in it.
    """
    if isinstance(value, Tensor):
        if value.is_nested:
            raise RepdynError(f"{name}: gives a nested tensor; read a module that gives a padded tensor")
        return value
    if isinstance(value, nn.utils.rnn.PackedSequence):
        raise RepdynError(f"{name}: gives a packed sequence; read a module that gives a padded tensor")
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
    raise RepdynError(f"{name}: gives a {type(value).__name__} without a tensor in it")


@contextmanager
def in_evaluation(*modules: nn.Module) -> Iterator[None]:
    """Within this context the modules are in evaluation mode; afterwards every part's flag is what it was."""
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
    """The CUDA devices that hold parts of a module, whose random states a pass may advance."""
    devices = {parameter.device for parameter in module.parameters() if parameter.device.type == "cuda"}
    return sorted(device.index or 0 for device in devices)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Within this context the module is in evaluation mode and has its own dice.

    Afterwards every submodule's training flag and the global random state are what they were.
    """
    with torch.random.fork_rng(devices=cuda_devices(module)), in_evaluation(module):
        yield


@contextmanager
def uncached(module: nn.Module) -> Iterator[None]:
    """Afterwards, tensors that modules cached in their forward passes are dropped."""
    found = [(part, type(part), dict(vars(part)), dict(part._buffers)) for part in module.modules()]
    try:
        yield
    finally:
        for part, kind, attributes, buffers in found:
            if type(part) is kind:  # a lazy module becomes another class when it learns its shapes
                _reset(part, attributes, buffers)


@contextmanager
def left_as_found(module: nn.Module) -> Iterator[None]:
    """As :func:`evaluating`, and without gradients; tensors that modules cache are dropped.

    Gradients are off by :func:`torch.no_grad`. Under :func:`torch.inference_mode` a tensor that a module
    caches in its forward pass would be an inference tensor, which a later training step cannot use.
    """
    with uncached(module), evaluating(module), torch.no_grad():
        yield


class RandomState:
    """The random state of a reading, its own: what it draws moves no other draw, nor is moved by one.

    The first pass starts from the global state, each later one where the last ended.
    """

    def __init__(self, module: nn.Module) -> None:
        self._devices = cuda_devices(module)
        self._states: list[Tensor] = []

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Within this context torch draws from this state; afterwards the global one is what it was."""
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
    """Undo what a forward pass cached: all attributes of a module in which a tensor was put."""
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
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return any(_holds_tensor(part) for part in value)
    return isinstance(value, Tensor)
