"""Interventions: forward passes with representations replaced, through nnsight.

:meth:`repdyn.TracedModel.patched` and :meth:`repdyn.TracedModel.run_from` use it. No other module imports
nnsight, because its import adds a ``save`` method to every object of the process.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from repdyn import devices
from repdyn.errors import RepdynError, nearest_names
from repdyn.tracing.hooks import Point
from repdyn.tracing.model import TracedModel
from repdyn_adapters.interleaving import Change, changed, run
from repdyn_adapters.nnsight_remote import run_remote

__all__ = ["patched", "run_from"]


@dataclass(frozen=True)
class Shortcut:
    """Blocks that later passes from a point can skip, as determined by the first pass."""

    shape: torch.Size
    skipped: tuple[str, ...] | None
    """Blocks before the point; None where the whole model must run."""
    version: int
    """Version of the weights. A shortcut found with zero weights may be wrong after training."""


_SHORTCUTS: WeakKeyDictionary[TracedModel, dict[tuple[str, bool], Shortcut]] = WeakKeyDictionary()


def patched(
    model: TracedModel, functions: Mapping[str, Callable[[Tensor], Tensor]], remote: bool | str = False
) -> Callable[[Any], Tensor]:
    """See :meth:`repdyn.TracedModel.patched`."""
    if not isinstance(functions, Mapping):
        raise RepdynError(f"patched: expected {{point: function}}, got {type(functions).__name__}")
    changes = []
    for name, function in functions.items():
        if not callable(function):
            raise RepdynError(f"patched: {name!r}: expected a function, got {type(function).__name__}")
        changes.append(_change(model, name, partial(_checked, name, function)))
    return _runner(model, changes, remote)


def run_from(
    model: TracedModel, point: str, x: Tensor, inputs: Any = None, remote: bool | str = False
) -> Tensor:
    """See :meth:`repdyn.TracedModel.run_from`."""
    place, _ = _find(model, point)
    x = torch.as_tensor(x)
    # A layout that is not declared may be wrong; the shape is compared with the model's below.
    certain = place.trust == "declared" and "*" not in place.layout
    if certain and x.ndim != len(place.layout) and x.ndim != 2:
        raise RepdynError(
            f"run_from: {point!r} has layout {place.layout}, x has shape {tuple(x.shape)}; "
            "give the module's output without pooling"
        )
    x = devices.to(x, model.device, devices.dtype_of(model.module))
    if remote and inputs is None:
        raise RepdynError("run_from: remote runs need inputs=, the prepared inputs that x belongs to")
    if remote:
        return _runner(model, [_change(model, point, lambda _: x)], remote)(inputs)
    given = inputs is not None
    start = inputs if given else _blank(model, point, x, 0)
    seen: list[torch.Size] = []

    def put(old: Tensor) -> Tensor:
        seen.append(old.shape)
        return _fitting(point, place, x, old.shape, given)

    whole = _change(model, point, put)
    known = _SHORTCUTS.setdefault(model, {})
    version = sum(weight._version for weight in model.module.parameters())
    learned = known.get((point, given))
    if learned is not None and learned.version != version:
        learned = None
    if learned is not None and learned.skipped is not None:
        _fitting(point, place, x, learned.shape, given=False)
        return run(model, _skipping(model, learned.skipped, whole, x), start)
    logits = run(model, [whole], start, once=True)
    if learned is None:
        with torch.no_grad():
            if not given and not _alike(logits, run(model, [whole], _blank(model, point, x, 1))):
                raise RepdynError(
                    f"run_from: {point!r} alone does not determine the output of {model.name} (another path "
                    "bypasses it); pass inputs=, the prepared inputs that x belongs to"
                )
            skipped = _find_shortcut(model, whole, x, start, logits)
            known[point, given] = Shortcut(seen[0], skipped, version)
    return logits


def _find(model: TracedModel, name: str) -> tuple[Point, slice]:
    base, _, call = name.partition("#") if isinstance(name, str) else ("", "", "")
    if base not in model.points or (call and not call.isdigit()):
        raise RepdynError(f"point {name!r}: {model.name} has none; {nearest_names(str(name), model.points)}")
    return model.points[base], slice(int(call), int(call) + 1) if call else slice(None)


def _change(model: TracedModel, name: str, function: Callable[[Tensor], Tensor]) -> Change:
    point, calls = _find(model, name)
    return Change(
        name,
        model.module.get_submodule(point.module),
        point.reads,
        calls,
        partial(changed, name, function, point.part),
    )


def _runner(model: TracedModel, changes: Sequence[Change], remote: bool | str) -> Callable[[Any], Tensor]:
    if not remote:
        return partial(run, model, changes)
    return partial(run_remote, model, changes, remote)


def _checked(name: str, function: Callable[[Tensor], Any], old: Tensor) -> Tensor:
    new = function(old)
    if not isinstance(new, Tensor) or new.shape != old.shape:
        given = f"shape {tuple(new.shape)}" if isinstance(new, Tensor) else f"a {type(new).__name__}"
        raise RepdynError(
            f"patched: the function at {name!r} gave {given}, expected a tensor of shape {tuple(old.shape)}"
        )
    return new


def _fitting(name: str, point: Point, x: Tensor, shape: torch.Size, given: bool) -> Tensor:
    """Return x if its shape fits the point; without given inputs, lengths may differ."""
    width = point.layout.index("C") if point.layout[-1] != "C" else -1
    # With a guessed layout, two axes may hold the channels.
    sides = (width,) if point.trust == "declared" else (min(1, x.ndim - 1), -1)
    fits = x.ndim == len(shape) and (
        x.shape == shape if given else any(x.shape[axis] == shape[axis] for axis in sides)
    )
    if not fits:
        raise RepdynError(
            f"run_from: x has shape {tuple(x.shape)}; at {name!r} the model gives {tuple(shape)} "
            f"({point.layout})"
        )
    return x


def _find_shortcut(
    model: TracedModel, change: Change, x: Tensor, inputs: Any, expected: Tensor
) -> tuple[str, ...] | None:
    """The blocks before a point, if skipping them gives bit-identical logits; else None."""
    if change.way != "output" or "#" in change.name:
        return None
    chain = re.sub(r"\d+", "*", change.name)
    names = list(model.points)
    before = tuple(
        name
        for name in model.default_points
        if re.sub(r"\d+", "*", name) == chain and names.index(name) < names.index(change.name)
    )
    try:
        skipped = run(model, _skipping(model, before, change, x), inputs)
    except Exception:  # any failure on unexpected shapes: the whole model runs instead
        return None
    return before if torch.equal(skipped, expected) else None


def _skipping(model: TracedModel, names: Sequence[str], change: Change, x: Tensor) -> list[Change]:
    """Changes that make each block return its input, and the block at the point return x."""
    steps = [_change(model, name, lambda old: old) for name in names]
    steps = [step._replace(way="skip", calls=slice(0, 1), function=lambda first: first) for step in steps]
    return [*steps, change._replace(way="skip", calls=slice(0, 1), function=lambda _: x)]


def _blank(model: TracedModel, point: str, x: Tensor, variant: int) -> Any:
    """Prepared blank inputs with as many samples and positions as x."""
    if model.blank is None:
        raise RepdynError(
            f"run_from: the input shape of {model.name} is unknown; "
            "pass inputs=, the prepared inputs that x belongs to"
        )
    layout = model.points[point.partition("#")[0]].layout
    positions = x.shape[layout.index("L")] if "L" in layout and x.ndim > 2 else 1
    sample = model.blank(positions)
    if variant:
        sample = torch.arange(sample.numel()).reshape(sample.shape)
        blank = model.blank(positions)
        sample = torch.cos(sample.to(blank.dtype)) if blank.is_floating_point() else 1 + sample % 2
    return model.prepare([sample] * x.shape[layout.index("N")])


def _alike(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal up to rounding, relative to the largest value."""
    scale = float(a.detach().abs().max().clamp(min=1e-6))
    return torch.allclose(a.float(), b.float(), rtol=0, atol=1e-4 * scale)
