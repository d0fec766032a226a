"""Forward passes of a traced model: what each gives, reduced inside the hooks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from repdyn.errors import RepdynError, nearest_names
from repdyn.tracing import layouts
from repdyn.tracing.hooks import Point, left_as_found, reading, unwrap
from repdyn.tracing.model import TracedModel, stands_for_many
from repdyn.tracing.pooling import POOLINGS, Layout, Pooling, as_tokens, find_pooling

__all__ = ["WIDEST_LOGITS", "Batch", "Passes"]

_FIXED_CALLS = frozenset({"torch", "torchvision", "timm", "transformers"})
"""Libraries whose modules call their parts equally often for all samples."""

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

    Entering runs the first samples, to learn which points there are in which order and how wide; what they
    give is kept, so that a trace that begins with them need not run them again. Where the layout of a point
    is not certain, one sample runs again at another size.

    Parameters
    ----------
    model
        What runs.
    points
        What is read, as :meth:`TracedModel.find_points` takes it.
    pool
        The name of a pooling, ``"none"``, ``"auto"`` or a function.
    first
        Some samples, the first batch of a trace or any one.
    check
        A few samples, of different lengths where there are some, for which the head must give the logits that
        the model itself gives. Without them, the first ones.
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
        first: Sequence[Any],
        dtype: np.dtype[Any],
        device: torch.device | str | None,
        compute: torch.dtype | None = None,
        check: Sequence[Any] = (),
    ) -> None:
        self.model = model
        self.dtype = dtype
        self._is_auto = isinstance(pool, str) and pool == "auto"
        self.pool = model.pooling if self._is_auto else pool
        self._pooling = None if self.pool == "none" else find_pooling(self.pool)
        asked = ["blocks"] if points is None else [points] if isinstance(points, str) else list(points)
        self._default = asked == ["blocks"]
        self._final_unnamed = "blocks" in asked and model.final not in asked
        self._wanted = model.find_points(points)
        # What stands for many points ("all", a pattern) is what of them can be read.
        groups = [name for name in asked if stands_for_many(name)]
        named = model.find_points([name for name in asked if name not in groups]) if asked != groups else ()
        self._optional = frozenset(name.partition("#")[0] for name in self._wanted) - {
            name.partition("#")[0] for name in named
        }
        self._first = list(first)
        self._check = list(check)
        self._device = device
        self.compute = compute
        self._inputs: Any = None
        self._count = 0
        self._own: Tensor | None = None
        self._whole: set[str] = set()
        self._masks: dict[object, Tensor | None] = {}
        self._layouts: dict[str, Layout] = {}
        self._shapes: dict[str, layouts.Shape] = {}
        self._called: Counter[str] = Counter()
        self._witness = ""
        self._mode = ""
        self._refused: RepdynError | None = None
        self.learned: Batch | None = None
        """What the first samples gave; None where only one of them was run."""
        self._stack = ExitStack()
        self.left_out: dict[str, str] = {}
        """Points of a pattern or of ``"all"`` that are not read, and why not."""
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
            # A block, whose layout is certain, tells how many positions there are.
            if any(self.model.points[name].trust == "family" for name in bases):
                self._witness = next((n for n in self.model.default_points if n not in bases), "")
                bases.update(dict.fromkeys([self._witness] if self._witness else []))
            self._reader = stack.enter_context(
                reading(self.model.module, {name: self.model.points[name] for name in bases}, self._reduce)
            )
            self._reader.may_skip = self._leaves_out
            self._learn()
            self._reader.may_skip = lambda name, error: name in self.left_out
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def prepare(self, samples: Sequence[Any]) -> Any:
        """Model inputs of a batch, on the CPU; may run in another thread."""
        return self.model.prepare(samples)

    def run(self, prepared: Any, count: int) -> Batch:
        """One forward pass over the prepared inputs of so many samples."""
        return self._batch(self._forward(prepared, count))

    def _batch(self, found: Mapping[str, Any]) -> Batch:
        extra = [name for name in found if "#" in name and name not in self.points]
        more = [name for name in extra if name.partition("#")[0] in self._whole]
        if more:
            raise RepdynError(
                f"point {more[0]!r}: the module is called more often than for the first samples; read calls "
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
        samples, found = self._some_pass()
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
        kept = {name: self._keep(found[name]) for name in names}
        self.widths = {name: value[0].shape[-1] for name, value in kept.items()}
        self.token_points = tuple(name for name, value in kept.items() if isinstance(value, list))
        if self._has_logits():
            width = self._checked_logits(found).shape[1]
            self.logits_width = width if width <= WIDEST_LOGITS else None
        # A module may be called once more for another sample: only then the pass goes on to its end.
        named = names[-1] in self._wanted and "#" in names[-1]
        self._reader.stop_after = names[-1] if named or self._calls_are_fixed(names[-1]) else None
        self.learned = self._batch(found) if len(samples) == len(self._first) else None

    def _some_pass(self) -> tuple[list[Any], dict[str, Any]]:
        """What the first samples give; where that fails, what one of them gives that does not."""
        first = self._first
        try:
            return first, self._first_pass(first)
        except Exception as error:  # whatever the model says of inputs that are not its own
            failed = error
        # Which of them it is shows when their batch is run.
        for number, sample in enumerate((first[0], first[-1], first[len(first) // 2]) if first[1:] else ()):
            try:
                return [sample], self._first_pass([sample])
            except Exception as error:
                failed = error if number == 0 else failed
        raise self._cannot(failed) from failed

    def _leaves_out(self, name: str, error: RepdynError) -> bool:
        """Whether a point that cannot be read is one of many that are read where they can be."""
        base = name.partition("#")[0]
        if base in self._optional:
            self.left_out.setdefault(base, str(error).removeprefix(f"point {base!r}: "))
        return base in self._optional

    def _first_pass(self, samples: list[Any]) -> dict[str, Any]:
        """What the first samples give, with the layouts of all points settled."""
        prepared = self.prepare(samples)
        own = self.model.own_logits if self._head_is_read() else None
        self._mode = "tentative"
        try:
            # Where the model's own logits are those of a whole that it is, they come along.
            found = self._forward(prepared, len(samples), own if own is self.model.module else None)
            logits, refused = self._own, self._refused
            if self._settle(prepared, len(samples)) or refused is not None:
                self._mode = ""
                found = self._forward(prepared, len(samples))
                self._own = logits
        finally:
            self._mode = ""
        return found

    def _head_is_read(self) -> bool:
        return self.model.head is not None and self.model.final in self._wanted

    def _cannot(self, error: Exception) -> RepdynError:
        if isinstance(error, RepdynError):
            return error
        reason = " ".join(str(error).split()) or type(error).__name__
        return RepdynError(
            f"{self.model.name}: cannot be called with the first sample "
            f"({type(error).__name__}: {reason}); is it what this model takes, or does it need prepare=…?"
        )

    def _calls_are_fixed(self, name: str) -> bool:
        """Whether all that calls a module is code of known libraries, whose calls no sample changes."""
        place = self.model.points[name.partition("#")[0]].module
        own = dict(self.model.module.named_modules(remove_duplicate=False))
        paths = [path for path, part in own.items() if part is own[place]]
        above = {path[:end] for path in paths for end in range(len(path)) if path[end] == "." or end == 0}
        if place == "":
            return True
        kinds = {type(own[path]).__module__.partition(".")[0] for path in above if path in own}
        return kinds <= _FIXED_CALLS

    def _settle(self, prepared: Any, count: int) -> bool:
        """Find the layouts that are not certain; whether one is other than was taken so far."""
        open_ = {
            key: shape
            for key, shape in self._shapes.items()
            if len(shape) > 2 and self.model.points[key.partition("#")[0]].trust != "declared"
        }
        if not open_ or self.pool == "flatten":
            return False
        before, shapes = dict(self._layouts), dict(self._shapes)
        for _ in range(2):  # those that are certain now tell how many positions the others have
            known = self._known_positions(shapes, open_)
            for key, shape in list(open_.items()):
                point = self.model.points[key.partition("#")[0]]
                if point.trust == "family" and layouts.agreeing(point, shape, known):
                    del open_[key]
                    found = layouts.from_evidence(point, shape, known)
                    if found is not None and len(point.layout) != len(shape) and point.mask is None:
                        self._layouts[key] = found  # a grid instead of a row of tokens
        open_.pop(f"{self._witness}#0", None)
        if open_:
            self._probe(prepared, count, open_)
        self._shapes = shapes
        points, turned = dict(self.model.points), False
        for key, layout in self._layouts.items():
            taken = before.get(key, points[key.partition("#")[0]].layout)
            turned |= (layout[0], layout[1] == "C") != (taken[0], taken[1] == "C")
        for key, layout in self._layouts.items():
            base, _, call = key.partition("#")
            if call == "0":
                points[base] = replace(points[base], layout=layout, trust="declared")
        self.model = replace(self.model, points=points)
        return turned

    def _known_positions(
        self, shapes: Mapping[str, layouts.Shape], open_: Mapping[str, object]
    ) -> set[layouts.Shape]:
        """Sizes of the positions of inputs and of points whose layouts are certain."""
        known = set()
        if isinstance(self._inputs, Mapping) and isinstance(ids := self._inputs.get("input_ids"), Tensor):
            known.add(tuple(ids.shape[1:]))
        for key, shape in shapes.items():
            point = self.model.points[key.partition("#")[0]]
            layout = self._layouts.get(key, point.layout)
            if key not in open_ and len(shape) > 2 and ("*" in layout or len(layout) == len(shape)):
                known.add(layouts.positions(layout, shape))
        return known

    def _probe(self, prepared: Any, count: int, open_: dict[str, layouts.Shape]) -> None:
        """Settle layouts by other sizes of input; where the model takes none, by what else is known."""
        seen: dict[str, list[tuple[layouts.Shape, int]]] = {key: [] for key in open_}
        tables = any(isinstance(part, nn.Embedding) for part in self.model.module.modules())
        lengthen = not (tables and self.model.device.type != "cpu")
        waiting, base_shapes = dict(open_), dict(self._shapes)
        self._mode = "shapes"
        for inputs, number in layouts.other_sizes(prepared, count, lengthen):
            try:
                self._forward(inputs, number)
            except Exception:  # whatever the model says of a size that it does not take
                continue
            for key, shape in list(waiting.items()):
                if key not in self._shapes:
                    continue
                seen[key].append((self._shapes[key], number))
                layout, settled = layouts.from_sizes(shape, count, seen[key])
                if layout is not None:
                    self._layouts[key] = layout
                elif not settled:
                    continue
                elif not self._leaves_out(key, refused := layouts.refusal(key, shape)):
                    raise refused
                del waiting[key]
            if not waiting:
                return
        known = self._known_positions(base_shapes, waiting)
        for key, shape in waiting.items():
            point = self.model.points[key.partition("#")[0]]
            if point.layout[0] != "N":
                continue  # declared by torch's own convention
            layout = layouts.from_evidence(point, shape, known) if shape[0] == count else None
            if layout is None and shape[0] == count:
                refused = layouts.refusal(key, shape)
                if not self._leaves_out(key, refused):
                    raise refused
            if layout is not None:
                self._layouts[key] = layout

    def _checked_logits(self, found: Mapping[str, Any]) -> NDArray[Any]:
        """What the head gives of the first samples, which must be what the model itself gives."""
        name, remedy = (
            self.model.name,
            "trace the blocks by name, or drop the head: replace(model, head=None)",
        )
        if self.model.own_logits is not None and self._own is None:
            found = self._own_pass(self.model.own_logits) or found
        own = self._own
        try:
            logits = self._logits(found)
        except Exception as error:  # whatever a head says of a representation that is not its own
            reason = " ".join(str(error).split()) or type(error).__name__
            raise RepdynError(
                f"{name}: its head cannot read {self.model.final!r} ({reason}); {remedy}"
            ) from error
        if own is None:
            return logits
        expected = own.detach().float().cpu().numpy()
        coarse = self.compute is not None or _float_type(self.model) in (torch.float16, torch.bfloat16)
        allowed = (0.1 if coarse else 1e-3) * max(float(np.abs(expected).max(initial=0.0)), 1e-30)
        if expected.shape != logits.shape or (
            np.isfinite(expected).all() and not np.abs(expected - logits).max() <= allowed
        ):
            raise RepdynError(
                f"{name}: its head gives other logits of {self.model.final!r} than the model itself does of "
                f"the same {len(logits)} samples, so that it is not all that follows this point; {remedy}"
            )
        return logits

    def _own_pass(self, own: Callable[[Any], Any]) -> dict[str, Any] | None:
        """A pass of the whole model over the samples that the head is checked with; None if it takes none."""
        for samples in (self._check, self._first[:1]):
            if not samples:
                continue
            try:
                prepared = self.prepare(samples)
                found = self._forward(prepared, len(samples), own)
                if self.model.final not in found:  # the model calls a part of what runs
                    logits = self._own
                    found = self._forward(prepared, len(samples))
                    self._own = logits
                return found
            except Exception as error:  # which sample it is shows when its batch is run
                if samples is not self._check or len(samples) == 1:
                    raise self._cannot(error) from error
        return None

    def _in_order(self, found: Mapping[str, Any]) -> list[str]:
        kept = []
        for name in self._wanted:
            base, _, call = name.partition("#")
            calls = [known for known in found if known.partition("#")[0] == base]
            if base in self.left_out:
                continue
            if not calls and self._default and found:
                continue  # the rule took it for a block, the model does without it
            if not calls:
                if found and self._leaves_out(name, RepdynError("never called")):
                    continue
                raise RepdynError(
                    f"point {name!r}: the module is never called in a forward pass of {self.model.name}; "
                    + nearest_names(name, found)
                )
            if call and name not in found:
                raise RepdynError(
                    f"point {name!r}: the module is called {len(calls)} times; read {calls[-1]!r}"
                )
            kept += [name] if call else calls
        if not kept:
            told = next(
                (f"{name!r}: {reason}" for name, reason in self.left_out.items()), "no module is called"
            )
            raise RepdynError(f"points: none of {len(self._wanted)} can be read ({told})")
        return [name for name in found if name in kept]

    def _forward(self, prepared: Any, count: int, own: Callable[[Any], Any] | None = None) -> dict[str, Any]:
        """Run the model; where its own logits are asked for, the whole of it, of which it may be a part."""
        module = self.model.module
        self._own = None
        self._refused = None
        self._called.clear()
        self._shapes = {}
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
        key = f"{name}#{self._called[name]}"
        self._called[name] += 1
        if self._mode:
            self._shapes[key] = tuple(value.shape)
        if self._mode == "shapes" or name == self._witness or name in self.left_out:
            return None
        layout = self._layouts.get(key, point.layout)
        if value.ndim == 2 and point.trust != "declared":
            layout = "NC"
        try:
            return self._pooled(name, point, value, layout)
        except RepdynError as error:
            told = RepdynError(f"point {name!r}: {error}")
            if self._mode == "tentative" and point.trust != "declared" and value.ndim > 2:
                self._refused = told  # the layout may be another one
                return None
            if self.points or not self._leaves_out(name, told):  # after the first samples there is no choice
                raise told from None
            return None

    def _pooled(self, name: str, point: Point, value: Tensor, layout: Layout) -> Any:
        mask = self._masks.get(point.mask)
        axis = layout.index("N")
        if value.ndim <= axis or value.shape[axis] != self._count:
            raise RepdynError(
                f"gives shape {tuple(value.shape)} for {self._count} samples: no axis of it is the "
                "samples' (a module inside windows or groups?); read the block around it"
            )
        grid = value.ndim > 3  # which has no class token
        tokens = as_tokens(value, layout, mask, 0 if grid else point.prefix)
        if self._pooling is None:
            if not tokens.spatial:
                return tokens.values[:, 0].clone()
            return replace(tokens, values=_owned(tokens.values, value))
        if not tokens.spatial and isinstance(self.pool, str):
            return tokens.values[:, 0].clone()
        own = self._is_auto and self.pool == "cls" and grid
        pooled = POOLINGS["gap"](tokens) if own else self._pooling(tokens)
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
