"""A forward pass through nnsight with changed module inputs or outputs."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor, nn

from repdyn import devices
from repdyn.errors import RepdynError
from repdyn.tracing.hooks import Point, evaluating, unwrap
from repdyn.tracing.model import TracedModel
from repdyn.tracing.pooling import as_tokens, find_pooling

__all__ = [
    "Change",
    "changed",
    "final_point",
    "interleaved",
    "logits",
    "positional_and_named",
    "run",
]

_LEFT_BEHIND = ("forward", "__nnsight__")
"""Entries that nnsight adds to the instance dictionary of every wrapped module."""


class Change(NamedTuple):
    """A change of one module's input or output in a forward pass."""

    name: str
    module: nn.Module
    way: str
    """``"output"`` or ``"input"`` are replaced by a function of them; ``"skip"`` does not run the module."""
    calls: slice
    function: Callable[[Any], Any]


def run(model: TracedModel, changes: Sequence[Change], inputs: Any, once: bool = False) -> Tensor:
    """Logits of one forward pass with the changes applied.

    ``once`` refuses a change without a number at a module that is called several times.
    """
    args, kwargs = positional_and_named(model, inputs)
    with evaluating(model.module), _wrapped(model.module) as (root, envoys):
        steps = [(envoys[change.module], change.way, change.calls, change.function) for change in changes]
        final = final_point(model)
        end = envoys[model.module.get_submodule(final.module)]
        kept, problem = interleaved(root, steps, end, final.reads, args, kwargs)
        for change in changes:
            _check_called(change, _count(root, envoys[change.module], change.way), once)
        if problem is not None:
            raise problem
        return logits(model, kept, kwargs)


def final_point(model: TracedModel) -> Point:
    """The point that gives the logits: the head's input, or the model's output if it has no head."""
    if model.head is None or model.final is None:
        return Point("", "N*C")
    return model.points[model.final]


def logits(model: TracedModel, kept: Any, inputs: Mapping[str, Any]) -> Tensor:
    """Logits from the value at the final point, pooled as in tracing."""
    value = unwrap(kept, model.name)
    if model.head is None or model.final is None:
        return value
    final = model.points[model.final]
    mask = None if final.mask is None else inputs.get(final.mask)
    real = None if mask is None or bool(mask.bool().all()) else mask.bool()
    tokens = as_tokens(value, final.layout, real, final.prefix)
    return model.head(find_pooling(model.pooling)(tokens) if tokens.spatial else tokens.values[:, 0])


def changed(name: str, function: Callable[[Tensor], Any], part: int | None, value: Any) -> Any:
    """A module's output with its representation replaced by a function of it."""
    old = unwrap(value if part is None else value[part], name)
    return _replaced(value, old, function(old))


def interleaved(
    root: Any,
    steps: Sequence[tuple[Any, str, slice, Callable[[Any], Any]]],
    end: Any,
    reads: str,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    **options: Any,
) -> tuple[Any, Exception | None]:
    """Run nnsight's tree with steps at its nodes; returns the value at ``end``, or an out-of-order error.

    ``options`` go to nnsight's ``trace`` (``remote``).
    """
    from nnsight.intervention.interleaver import OutOfOrderError

    kept: Any = None
    try:
        # An empty invoke acts on the whole batch, and each waits for its own module: the order of the
        # points in the user's mapping need not be that of execution.
        with root.trace(**options) as tracer:
            with tracer.invoke(*args, **kwargs):
                pass
            for envoy, way, calls, function in steps:
                with tracer.invoke():
                    for _ in tracer.iter[calls]:
                        if way == "skip":
                            envoy.skip(function(envoy.input))
                        elif way == "input":
                            envoy.input = function(envoy.input)
                        else:
                            envoy.output = function(envoy.output)
            with tracer.invoke():
                kept = end.input.save() if reads == "input" else end.output.save()
    except OutOfOrderError as error:
        return None, error
    return kept, None


def positional_and_named(model: TracedModel, inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Prepared inputs as ``(args, kwargs)``, on the model's device and in its dtype."""
    inputs = devices.to(inputs, model.device, devices.dtype_of(model.module))
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return inputs if isinstance(inputs, tuple) else (inputs,), {}


@contextmanager
def _wrapped(module: nn.Module) -> Iterator[tuple[Any, dict[nn.Module, Any]]]:
    """nnsight's tree of the module and the node of every part; the wrapping is undone on exit."""
    import nnsight

    before = [
        (part, {name: part.__dict__[name] for name in _LEFT_BEHIND if name in part.__dict__})
        for part in module.modules()
    ]
    try:
        with warnings.catch_warnings():
            # nnsight warns when it renames a part called "output" (as in BERT) in its tree, which has no
            # effect here, and when a loop over all calls of a module ends, which it always does.
            warnings.filterwarnings("ignore", "Module .* has a submodule named", UserWarning)
            warnings.filterwarnings("ignore", ".* was never reached: the loop asked", UserWarning)
            root = nnsight.NNsight(module)
            yield root, {envoy._module: envoy for envoy in root.modules()}
    finally:
        for part, had in before:
            for name in _LEFT_BEHIND:
                part.__dict__.pop(name, None)
            part.__dict__.update(had)


def _count(root: Any, envoy: Any, way: str) -> int:
    """Number of calls of a module in the last forward pass."""
    return int(root.interleaver.counts.get(f"{envoy.path}.{'output' if way == 'output' else 'input'}", 0))


def _check_called(change: Change, count: int, once: bool) -> None:
    wanted = change.calls.stop or 1
    if count == 0:
        raise RepdynError(f"point {change.name!r}: the module is never called in a forward pass")
    if count < wanted:
        base = change.name.partition("#")[0]
        raise RepdynError(
            f"point {change.name!r}: the module is called {count} times; the last is {base}#{count - 1}"
        )
    if once and count > 1 and change.calls.stop is None:
        raise RepdynError(
            f"point {change.name!r}: the module is called {count} times; name one call, {change.name}#0 … "
            f"{change.name}#{count - 1}"
        )


def _replaced(value: Any, old: Tensor, new: Tensor) -> Any:
    """A module's output with every occurrence of one tensor replaced."""
    if value is old:
        return new
    if old is new or isinstance(value, Tensor):
        return value
    if isinstance(value, Mapping):
        result = copy.copy(value)
        for key in value:
            result[key] = _replaced(value[key], old, new)  # type: ignore[index]
        return result
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        result = copy.copy(value)
        for field in dataclasses.fields(value):
            object.__setattr__(result, field.name, _replaced(getattr(value, field.name), old, new))
        return result
    if isinstance(value, (tuple, list)):
        items = [_replaced(item, old, new) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value
