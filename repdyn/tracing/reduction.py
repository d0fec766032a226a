"""Pooling of representations inside hooks, and determination of layouts that are not declared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from repdyn import devices
from repdyn.errors import RepdynError
from repdyn.tracing import layouts
from repdyn.tracing.hooks import Point
from repdyn.tracing.pooling import POOLINGS, Layout, Pooling, Tokens, as_tokens, find_pooling
from repdyn.tracing.spec import ModelSpec

__all__ = ["WHOLE", "Reduction", "determine_layouts"]

WHOLE = "whole"
"""In place of a pooling: the module's output, as :meth:`TracedModel.run_from` takes it."""


class Reduction:
    """Pools the representations of one model, batch by batch; called by :class:`~repdyn.tracing.hooks.Hooks`.

    Parameters
    ----------
    model
        The model.
    pool
        As in :func:`repdyn.trace`, or :data:`WHOLE`.
    """

    def __init__(self, model: ModelSpec, pool: str | Pooling) -> None:
        self._is_auto = isinstance(pool, str) and pool == "auto"
        self.model = model
        self.pool = model.pooling if self._is_auto else pool
        self._pooling = None if self.pool in ("none", WHOLE) else find_pooling(self.pool)
        self.layouts: dict[str, Layout] = {}
        """Layouts determined by running the model, by name and number of call: ``blocks.0#0``."""
        self.mode = ""
        """``"shapes"``: only shapes are recorded. ``"tentative"``: layouts may still change."""
        self.shapes: dict[str, layouts.Shape] = {}
        """Shapes of the representations of this pass, in either mode."""
        self.witness = ""
        """A point of which only the shape is recorded."""
        self.refused: RepdynError | None = None
        """Error of a point that a tentative pass could not pool."""
        self.optional: frozenset[str] = frozenset()
        """Points selected by a pattern, which are left out if they cannot be read."""
        self.left_out: dict[str, str] = {}
        """Points that are left out, with the reason."""
        self.learning = True
        """Whether the first samples run. Later, no further point is left out."""
        self._count = 0
        self._called: Counter[str] = Counter()
        self._masks: dict[object, Tensor | None] = {}

    def begin(self, inputs: Any, count: int, device: torch.device, names: Iterable[str]) -> None:
        """Prepare for a pass.

        Parameters
        ----------
        inputs
            Arguments of the model before they are moved: a mask on the CPU is inspected there.
        count
            Number of samples.
        device
            Device of the model.
        names
            Points to read.
        """
        self._count = count
        self._called.clear()
        self.shapes = {}
        self.refused = None
        self._masks.clear()
        # Before the model runs: it may go on to change its inputs in place.
        for name in names if isinstance(inputs, Mapping) else ():
            key = self.model.points[name.partition("#")[0]].mask
            if key is None or key in self._masks:
                continue
            mask = key(inputs) if callable(key) else inputs.get(key)
            real = None if mask is None else mask.bool().clone()
            # An exported graph keeps the mask: whether all tokens are real is not known when it is made.
            unused = real is None or (not torch.compiler.is_compiling() and bool(real.all()))
            self._masks[key] = None if unused else devices.to(real, device)

    def __call__(self, name: str, point: Point, value: Tensor) -> Any:
        """Reduce a representation to a tensor ``(N, D)``, or to :class:`~repdyn.tracing.pooling.Tokens`."""
        key = f"{name}#{self._called[name]}"
        self._called[name] += 1
        if self.mode:
            self.shapes[key] = tuple(value.shape)
        if self.mode == "shapes" or name == self.witness or name in self.left_out:
            return None
        layout = self.layouts.get(key, point.layout)
        if value.ndim == 2 and point.trust != "declared":
            layout = "NC"
        try:
            return self._pooled(point, value, layout)
        except RepdynError as error:
            named = RepdynError(f"point {name!r}: {error}")
            if self.mode == "tentative" and point.trust != "declared" and value.ndim > 2:
                self.refused = named  # the layout may be another one
                return None
            if not self.leaves_out(name, named):
                raise named from None
            return None

    def leaves_out(self, name: str, error: RepdynError) -> bool:
        """Whether a point that cannot be read is left out, because a pattern selected it."""
        base = name.partition("#")[0]
        if self.learning and base in self.optional:
            self.left_out.setdefault(base, str(error).removeprefix(f"point {base!r}: "))
        return base in self.left_out

    def _pooled(self, point: Point, value: Tensor, layout: Layout) -> Any:
        """The pooled representation, or its tokens, in memory of its own."""
        mask = self._masks.get(point.mask)
        axis = layout.index("N")
        if value.ndim <= axis or value.shape[axis] != self._count:
            raise RepdynError(
                f"has shape {tuple(value.shape)} for {self._count} samples: no axis is that of the "
                "samples (a module inside windows or groups?); read the block around it"
            )
        # Without positions, every named pooling is the identity.
        flat = value.ndim == 2 and (layout == "NC" or "*" in layout) and isinstance(self.pool, str)
        if flat or self.pool == WHOLE:
            return value.clone()
        grid = value.ndim > 3  # a grid has no class token
        tokens = as_tokens(value, layout, mask, 0 if grid else point.prefix)
        if self._pooling is None:
            return replace(tokens, values=_owned(tokens.values, value))
        own = self._is_auto and self.pool == "cls" and grid
        if isinstance(self.pool, str):
            pooled = POOLINGS["gap"](tokens) if own else self._pooling(tokens)
        else:
            pooled = self._pooled_by_function(self._pooling, tokens)
        return _owned(pooled, value)

    def _pooled_by_function(self, function: Pooling, tokens: Tokens) -> Tensor:
        """What a function of the user returns, ``(N, D)``."""
        try:
            pooled = function(tokens)
        except Exception as error:
            raise RepdynError(
                f"pool: the function raised {type(error).__name__}: {error}; it is called with one "
                f"repdyn.tracing.Tokens (values {tuple(tokens.values.shape)} and mask)"
            ) from error
        if not isinstance(pooled, Tensor) or pooled.ndim != 2 or pooled.shape[0] != self._count:
            tensor = isinstance(pooled, Tensor)
            given = f"shape {tuple(pooled.shape)}" if tensor else type(pooled).__name__
            raise RepdynError(f"pool: the function returned {given}, expected a tensor ({self._count}, D)")
        return pooled


def _owned(kept: Tensor, value: Tensor) -> Tensor:
    """A tensor in memory of its own, because the model may change its tensors in place."""
    if torch.compiler.is_compiling():
        return kept.clone()  # a traced tensor has no address
    return kept.clone() if kept._is_view() or _may_share(kept, value) else kept


def _may_share(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors use the same memory; true where a device's tensors have no address."""
    try:
        return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
    except RuntimeError:
        return True


Forward = Callable[[Any, int], object]
"""Runs the model over prepared inputs of some number of samples."""


def determine_layouts(reduction: Reduction, inputs: Any, count: int, forward: Forward) -> bool:
    """Determine the layouts that are not certain, in the reduction and its model.

    Parameters
    ----------
    reduction
        Reduction after a tentative pass over the inputs.
    inputs
        Prepared inputs.
    count
        Number of samples in them.
    forward
        Function that runs the model on prepared inputs with a number of samples.

    Returns
    -------
    bool
        Whether a layout differs from the assumed one.

    Raises
    ------
    RepdynError
        If the layout of a point cannot be determined.
    """
    model = reduction.model
    open_ = {
        key: shape
        for key, shape in reduction.shapes.items()
        if len(shape) > 2 and model.points[key.partition("#")[0]].trust != "declared"
    }
    if not open_ or reduction.pool == "flatten":
        return False
    before, shapes = dict(reduction.layouts), dict(reduction.shapes)
    for _ in range(2):  # a second round uses the positions of points that became certain in the first
        known = _known_positions(reduction, inputs, shapes, open_)
        for key, shape in list(open_.items()):
            point = model.points[key.partition("#")[0]]
            if point.trust == "family" and layouts.agreeing(point, shape, known):
                del open_[key]
                layout = layouts.from_evidence(point, shape, known)
                if layout is not None and len(point.layout) != len(shape) and point.mask is None:
                    reduction.layouts[key] = layout  # a grid instead of a sequence of tokens
    open_.pop(f"{reduction.witness}#0", None)
    if open_:
        _probe(reduction, inputs, count, open_, forward)
    reduction.shapes = shapes
    reduction.model, changed = _declared(model, before, reduction.layouts)
    return changed


def _declared(
    model: ModelSpec, before: Mapping[str, Layout], determined: Mapping[str, Layout]
) -> tuple[ModelSpec, bool]:
    """The model with the determined layouts, and whether one differs from the assumed layout."""
    points, changed = dict(model.points), False
    for key, layout in determined.items():
        assumed = before.get(key, points[key.partition("#")[0]].layout)
        changed |= (layout[0], layout[1] == "C") != (assumed[0], assumed[1] == "C")
    for key, layout in determined.items():
        base, _, call = key.partition("#")
        if call == "0":
            points[base] = replace(points[base], layout=layout, trust="declared")
    return replace(model, points=points), changed


def _known_positions(
    reduction: Reduction, inputs: Any, shapes: Mapping[str, layouts.Shape], open_: Mapping[str, object]
) -> set[layouts.Shape]:
    """Positions of inputs and of points with certain layouts."""
    known = set()
    if isinstance(inputs, Mapping) and isinstance(ids := inputs.get("input_ids"), Tensor):
        known.add(tuple(ids.shape[1:]))
    for key, shape in shapes.items():
        point = reduction.model.points[key.partition("#")[0]]
        layout = reduction.layouts.get(key, point.layout)
        if key not in open_ and len(shape) > 2 and ("*" in layout or len(layout) == len(shape)):
            known.add(layouts.positions(layout, shape))
    return known


def _probe(
    reduction: Reduction, inputs: Any, count: int, open_: Mapping[str, layouts.Shape], forward: Forward
) -> None:
    """Determine layouts by other input sizes; by :func:`layouts.from_evidence` if the model takes none."""
    model = reduction.model
    seen: dict[str, list[tuple[layouts.Shape, int]]] = {key: [] for key in open_}
    tables = any(isinstance(part, nn.Embedding) for part in model.module.modules())
    lengthen = not (tables and model.device.type != "cpu")
    waiting, base_shapes = dict(open_), dict(reduction.shapes)
    reduction.mode = "shapes"
    for resized, number in layouts.other_sizes(inputs, count, lengthen):
        try:
            forward(resized, number)
        except Exception:  # a model may raise anything for an unsupported size
            continue
        for key, shape in list(waiting.items()):
            if key not in reduction.shapes:
                continue
            seen[key].append((reduction.shapes[key], number))
            layout, decided = layouts.from_sizes(shape, count, seen[key])
            if layout is not None:
                reduction.layouts[key] = layout
            elif not decided:
                continue
            elif not reduction.leaves_out(key, refused := layouts.refusal(key, shape)):
                raise refused
            del waiting[key]
        if not waiting:
            return
    known = _known_positions(reduction, inputs, base_shapes, waiting)
    for key, shape in waiting.items():
        point = model.points[key.partition("#")[0]]
        if point.layout[0] != "N":
            continue  # the layout is torch's convention
        layout = layouts.from_evidence(point, shape, known) if shape[0] == count else None
        if layout is None and shape[0] == count:
            refused = layouts.refusal(key, shape)
            if not reduction.leaves_out(key, refused):
                raise refused
        if layout is not None:
            reduction.layouts[key] = layout
