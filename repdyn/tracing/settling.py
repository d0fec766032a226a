"""Layouts that nobody declared, settled by a first batch: by what else is known or other sizes of input."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from repdyn.tracing import layouts
from repdyn.tracing.model import TracedModel
from repdyn.tracing.pooling import Layout
from repdyn.tracing.reduction import Reduction

__all__ = ["settle"]

Forward = Callable[[Any, int], object]


def settle(reduction: Reduction, inputs: Any, count: int, forward: Forward) -> bool:
    """Find the layouts that are not certain, and note them in the reduction and its model.

    Parameters
    ----------
    reduction
        Which has seen a tentative pass over the inputs.
    inputs
        Prepared.
    count
        Samples in them.
    forward
        Runs the model over prepared inputs of so many samples.

    Returns
    -------
    bool
        Whether a layout is another than was taken so far.

    Raises
    ------
    RepdynError
        If the axes of a point cannot be told.
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
    for _ in range(2):  # those that are certain now tell how many positions the others have
        known = _known_positions(reduction, inputs, shapes, open_)
        for key, shape in list(open_.items()):
            point = model.points[key.partition("#")[0]]
            if point.trust == "family" and layouts.agreeing(point, shape, known):
                del open_[key]
                found = layouts.from_evidence(point, shape, known)
                if found is not None and len(point.layout) != len(shape) and point.mask is None:
                    reduction.layouts[key] = found  # a grid instead of a row of tokens
    open_.pop(f"{reduction.witness}#0", None)
    if open_:
        _probe(reduction, inputs, count, open_, forward)
    reduction.shapes = shapes
    reduction.model, turned = _noted(model, before, reduction.layouts)
    return turned


def _noted(
    model: TracedModel, before: Mapping[str, Layout], found: Mapping[str, Layout]
) -> tuple[TracedModel, bool]:
    """The model with what was found declared, and whether a layout turned out to be another."""
    points, turned = dict(model.points), False
    for key, layout in found.items():
        taken = before.get(key, points[key.partition("#")[0]].layout)
        turned |= (layout[0], layout[1] == "C") != (taken[0], taken[1] == "C")
    for key, layout in found.items():
        base, _, call = key.partition("#")
        if call == "0":
            points[base] = replace(points[base], layout=layout, trust="declared")
    return replace(model, points=points), turned


def _known_positions(
    reduction: Reduction, inputs: Any, shapes: Mapping[str, layouts.Shape], open_: Mapping[str, object]
) -> set[layouts.Shape]:
    """Sizes of the positions of inputs and of points whose layouts are certain."""
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
    """Settle layouts by other sizes of input; where the model takes none, by what else is known."""
    model = reduction.model
    seen: dict[str, list[tuple[layouts.Shape, int]]] = {key: [] for key in open_}
    tables = any(isinstance(part, nn.Embedding) for part in model.module.modules())
    lengthen = not (tables and model.device.type != "cpu")
    waiting, base_shapes = dict(open_), dict(reduction.shapes)
    reduction.mode = "shapes"
    for resized, number in layouts.other_sizes(inputs, count, lengthen):
        try:
            forward(resized, number)
        except Exception:  # whatever the model says of a size that it does not take
            continue
        for key, shape in list(waiting.items()):
            if key not in reduction.shapes:
                continue
            seen[key].append((reduction.shapes[key], number))
            layout, settled = layouts.from_sizes(shape, count, seen[key])
            if layout is not None:
                reduction.layouts[key] = layout
            elif not settled:
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
            continue  # declared by torch's own convention
        layout = layouts.from_evidence(point, shape, known) if shape[0] == count else None
        if layout is None and shape[0] == count:
            refused = layouts.refusal(key, shape)
            if not reduction.leaves_out(key, refused):
                raise refused
        if layout is not None:
            reduction.layouts[key] = layout
