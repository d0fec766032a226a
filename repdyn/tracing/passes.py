"""Forward passes of a traced model: what each gives, reduced inside the hooks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from repdyn.errors import RepdynError, nearest_names
from repdyn.tracing.hooks import Point, left_as_found, reading, unwrap
from repdyn.tracing.model import TracedModel
from repdyn.tracing.pooling import Layout, Pooling, as_tokens, find_pooling

__all__ = ["WIDEST_LOGITS", "Batch", "Passes"]

WIDEST_LOGITS = 32_768
"""Logits wider than this (the vocabularies of language models; ImageNet-21k has 21 843 classes) are not
kept: ``model.head(paths[last])`` gives them from a hundredth of the room."""


@dataclass(frozen=True, eq=False)
class Batch:
    """What one forward pass gave: per point ``(N, D)``, or a list of ``(T, D)`` where tokens are kept."""

    values: dict[str, Any]
    logits: NDArray[Any] | None


class Passes:
    """Within this context, a model runs batch by batch and is read at some points.

    Entering runs the first sample, to learn which points there are in which order and how wide.

    Parameters
    ----------
    model
        What runs.
    points
        What is read, as :meth:`TracedModel.find_points` takes it.
    pool
        The name of a pooling, ``"none"``, ``"auto"`` or a function.
    sample
        Any one sample.
    dtype
        What values are kept in.
    device
        Where the model runs; afterwards it is back where it was.
    compute
        What it multiplies in; None for the type of its weights.
    """

    def __init__(
        self,
        model: TracedModel,
        points: str | Sequence[str] | None,
        pool: str | Pooling,
        sample: Any,
        dtype: np.dtype[Any],
        device: torch.device | str | None,
        compute: torch.dtype | None = None,
    ) -> None:
        self.model = model
        self.dtype = dtype
        self.pool = model.pooling if isinstance(pool, str) and pool == "auto" else pool
        self._pooling = None if self.pool == "none" else find_pooling(self.pool)
        asked = ["blocks"] if points is None else [points] if isinstance(points, str) else list(points)
        self._default = asked == ["blocks"]
        self._final_unnamed = "blocks" in asked and model.final not in asked
        self._wanted = model.find_points(points)
        self._sample = sample
        self._device = device
        self.compute = compute
        self._inputs: Any = None
        self._count = 0
        self._own: Tensor | None = None
        self._whole: set[str] = set()
        self._masks: dict[object, Tensor | None] = {}
        self._stack = ExitStack()
        self.points: tuple[str, ...] = ()
        self.widths: dict[str, int] = {}
        self.logits_width: int | None = None
        self.token_points: tuple[str, ...] = ()

    def __enter__(self) -> Passes:
        with ExitStack() as stack:
            if self._device is not None:
                _move(stack, self.model, self._device)
            stack.enter_context(left_as_found(self.model.module))
            if self.compute is not None:
                stack.enter_context(torch.autocast(self.model.device.type, self.compute))
            bases = dict.fromkeys(name.partition("#")[0] for name in self._wanted)
            self._reader = stack.enter_context(
                reading(self.model.module, {name: self.model.points[name] for name in bases}, self._reduce)
            )
            self._learn()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def prepare(self, samples: Sequence[Any]) -> Any:
        """Model inputs of a batch, on the CPU; may run in another thread."""
        return self.model.prepare(samples)

    def run(self, prepared: Any, count: int) -> Batch:
        """One forward pass over the prepared inputs of so many samples."""
        found = self._forward(prepared, count)
        extra = [name for name in found if "#" in name and name not in self.points]
        more = [name for name in extra if name.partition("#")[0] in self._whole]
        if more:
            raise RepdynError(
                f"point {more[0]!r}: the module is called more often than for the first sample; read calls "
                f"that every sample has by name, such as {more[0].partition('#')[0] + '#0'!r}"
            )
        missing = [name for name in self.points if name not in found]
        if missing:
            raise RepdynError(f"point {missing[0]!r}: was read for the first sample but not for a later one")
        values = {name: self._keep(found[name]) for name in self.points}
        logits = None
        if self.logits_width is not None:
            logits = self._logits(found)
        return Batch(values, logits)

    def _learn(self) -> None:
        try:
            checks = self.model.head is not None and self.model.final in self._wanted
            own = self.model.own_logits if checks else None
            prepared = self.prepare([self._sample])
            found = self._forward(prepared, 1, own)
            if own is not None and self.model.final not in found:  # the model calls a part of what runs
                logits = self._own
                found = self._forward(prepared, 1)
                self._own = logits
        except RepdynError:
            raise
        except Exception as error:  # whatever the model says of inputs that are not its own
            reason = " ".join(str(error).split()) or type(error).__name__
            raise RepdynError(
                f"{self.model.name}: cannot be called with the first sample "
                f"({type(error).__name__}: {reason}); is it what this model takes, or does it need prepare=…?"
            ) from error
        self._reader.repeated = frozenset(name.partition("#")[0] for name in found if "#" in name)
        names = self._in_order(found)
        final = self.model.final
        # Where the last block's output, pooled, is already what the head or the user takes, the model's
        # final point repeats it: a step of depth that changes nothing is no step.
        if self._final_unnamed and self.model.head is None and len(names) > 1 and final == names[-1]:
            last, before = found[names[-1]], found[names[-2]]
            both = isinstance(last, Tensor) and isinstance(before, Tensor)
            if both and last.shape == before.shape and torch.equal(last, before):
                names = names[:-1]
        self.points = tuple(names)
        self._whole = {name.partition("#")[0] for name in names if name not in self._wanted} | {
            name for name in self._wanted if "#" not in name
        }
        # A module that is called several times may be called once more for another sample.
        open_end = "#" in names[-1] and names[-1] not in self._wanted
        self._reader.stop_after = None if open_end else names[-1]
        kept = {name: self._keep(found[name]) for name in names}
        self.widths = {name: value[0].shape[-1] for name, value in kept.items()}
        self.token_points = tuple(name for name, value in kept.items() if isinstance(value, list))
        if self._has_logits():
            width = self._first_logits(found).shape[1]
            self.logits_width = width if width <= WIDEST_LOGITS else None

    def _first_logits(self, found: Mapping[str, Any]) -> NDArray[Any]:
        """What the head gives of the first sample, which must be what the model itself gives."""
        name, remedy = (
            self.model.name,
            "trace the blocks by name, or drop the head: replace(model, head=None)",
        )
        try:
            logits = self._logits(found)
        except Exception as error:  # whatever a head says of a representation that is not its own
            reason = " ".join(str(error).split()) or type(error).__name__
            raise RepdynError(
                f"{name}: its head cannot read {self.model.final!r} ({reason}); {remedy}"
            ) from error
        if self._own is None:
            return logits
        own = self._own.detach().float().cpu().numpy().reshape(-1)
        coarse = self.compute is not None or _float_type(self.model) in (torch.float16, torch.bfloat16)
        allowed = (0.1 if coarse else 1e-3) * max(float(np.abs(own).max(initial=0.0)), 1e-30)
        if own.shape != logits[0].shape or (
            np.isfinite(own).all() and not np.abs(own - logits[0]).max() <= allowed
        ):
            raise RepdynError(
                f"{name}: its head gives other logits of {self.model.final!r} than the model itself does of "
                f"the first sample, so that it is not all that follows this point; {remedy}"
            )
        return logits

    def _in_order(self, found: Mapping[str, Any]) -> list[str]:
        kept = []
        for name in self._wanted:
            base, _, call = name.partition("#")
            calls = [known for known in found if known.partition("#")[0] == base]
            if not calls and self._default and found:
                continue  # the rule took it for a block, the model does without it
            if not calls:
                raise RepdynError(
                    f"point {name!r}: the module is never called in a forward pass of {self.model.name}; "
                    + nearest_names(name, found)
                )
            if call and name not in found:
                raise RepdynError(
                    f"point {name!r}: the module is called {len(calls)} times; read {calls[-1]!r}"
                )
            kept += [name] if call else calls
        return [name for name in found if name in kept]

    def _forward(self, prepared: Any, count: int, own: Callable[[Any], Any] | None = None) -> dict[str, Any]:
        """Run the model; where its own logits are asked for, the whole of it, of which it may be a part."""
        module = self.model.module
        self._own = None
        self._inputs = _to_model(prepared, self.model.device, _float_type(self.model))
        self._count = count
        self._read_masks()
        inputs = self._inputs
        if own is not None:
            given: list[Any] = []
            found = self._reader.run(lambda: given.append(own(inputs)))
            self._own = unwrap(given[0], "the model's logits")
            return found
        if isinstance(inputs, Mapping):
            return self._reader.run(lambda: module(**inputs))
        if isinstance(inputs, tuple):
            return self._reader.run(lambda: module(*inputs))
        return self._reader.run(lambda: module(inputs))

    def _reduce(self, name: str, point: Point, value: Tensor) -> Any:
        try:
            mask = self._masks.get(point.mask)
            axis = point.layout.index("N")
            if value.ndim <= axis or value.shape[axis] != self._count:
                raise RepdynError(
                    f"gives shape {tuple(value.shape)} for {self._count} samples: no axis of it is the "
                    "samples' (a module inside windows or groups?); read the block around it"
                )
            tokens = as_tokens(value, _seen_layout(point, value), mask, point.prefix)
            if self._pooling is None:
                if not tokens.spatial:
                    return tokens.values[:, 0].clone()
                return replace(tokens, values=_owned(tokens.values, value))
            if not tokens.spatial and isinstance(self.pool, str):
                return tokens.values[:, 0].clone()
            pooled = self._pooling(tokens)
        except RepdynError as error:
            raise RepdynError(f"point {name!r}: {error}") from None
        if pooled.ndim != 2 or len(pooled) != self._count:
            raise RepdynError(
                f"pool: the function gave shape {tuple(pooled.shape)} at {name!r}, "
                f"expected ({self._count}, D)"
            )
        return _owned(pooled, value)

    def _read_masks(self) -> None:
        """The masks of the batch, before the model runs: it may go on to change its inputs in place."""
        inputs = self._inputs
        self._masks.clear()
        for name in self._wanted if isinstance(inputs, Mapping) else ():
            key = self.model.points[name.partition("#")[0]].mask
            if key is None or key in self._masks:
                continue
            mask = key(inputs) if callable(key) else inputs.get(key)
            real = None if mask is None else mask.bool().clone()
            self._masks[key] = None if real is None or bool(real.all()) else real

    def _keep(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._array(value)
        arrays = self._array(value.values)
        if value.mask is None:
            return list(arrays)
        return [row[real] for row, real in zip(arrays, value.mask.cpu().numpy(), strict=True)]

    def _array(self, value: Tensor) -> NDArray[Any]:
        if value.is_complex():  # real parts first, then imaginary ones
            value = torch.cat([value.real, value.imag], dim=-1)
        wide = value.float() if value.dtype in (torch.float16, torch.bfloat16) else value
        array: NDArray[Any] = wide.cpu().numpy()
        with np.errstate(over="ignore"):  # what does not fit becomes infinite, and is reported by sample
            return array.astype(self.dtype, copy=False)

    def _has_logits(self) -> bool:
        final = self.model.final
        if self.model.head is None or final is None or final not in self.points:
            return False
        return self.pool == self.model.pooling or self.model.points[final].layout == "NC"

    def _logits(self, found: Mapping[str, Any]) -> NDArray[Any]:
        assert self.model.head is not None
        assert self.model.final is not None
        logits = self.model.head(found[self.model.final])
        if logits.is_complex():
            logits = torch.cat([logits.real, logits.imag], dim=-1)
        return logits.float().cpu().numpy()


_TURNED: dict[int, tuple[Layout, Layout]] = {3: ("NCL", "NLC"), 4: ("NCHW", "NHWC")}


def _seen_layout(point: Point, value: Tensor) -> Layout:
    """The declared layout, or the other one where only that has the module's number of channels."""
    if point.channels is None or value.ndim < 3 or point.layout[0] != "N":
        return point.layout
    second, last = (value.shape[axis] == point.channels for axis in (1, -1))
    if second == last:
        return point.layout
    return _TURNED.get(value.ndim, ("NC*", "N*C"))[0 if second else 1]


def _owned(kept: Tensor, value: Tensor) -> Tensor:
    """What is kept, in memory of its own: the model may go on to change its tensors in place."""
    shared = kept.untyped_storage().data_ptr() == value.untyped_storage().data_ptr()
    return kept.clone() if shared or kept._is_view() else kept


def _move(stack: ExitStack, model: TracedModel, device: torch.device | str) -> None:
    try:
        there = torch.device(device)
        before = model.device
        if there == before:
            return
        for part in {id(part): part for part in (model.module, model.weights or model.module)}.values():
            stack.callback(part.to, before)
            part.to(there)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise RepdynError(f"device {str(device)!r}: cannot be used ({reason})") from None


def _float_type(model: TracedModel) -> torch.dtype | None:
    for parameter in model.module.parameters():
        if parameter.is_floating_point():
            return parameter.dtype
    return None


def _to_model(prepared: Any, device: torch.device, dtype: torch.dtype | None) -> Any:
    if isinstance(prepared, Tensor):
        return prepared.to(device, dtype if prepared.is_floating_point() else None)
    if isinstance(prepared, Mapping):
        return {name: _to_model(value, device, dtype) for name, value in prepared.items()}
    if isinstance(prepared, tuple):
        return tuple(_to_model(value, device, dtype) for value in prepared)
    return prepared
