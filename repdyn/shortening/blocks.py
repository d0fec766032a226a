"""The blocks of a network: which runs can be replaced, and modules that stand in for them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from repdyn.errors import RepdynError
from repdyn.tracing import Point, TracedModel
from repdyn.tracing.hooks import unwrap
from repdyn.tracing.pooling import Layout
from repdyn.tracing.reduction import WHOLE

__all__ = ["Block", "PointwiseMap", "blocks_of", "replaceable", "replaced"]


class _StandIn(nn.Module):
    """A module with the call of a block: its result is like the block's, a tensor or a tuple."""

    def __init__(self, packed: bool) -> None:
        super().__init__()
        self.packed = packed

    def map(self, x: Tensor) -> Tensor:
        """The output for a representation."""
        raise NotImplementedError

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Map the first tensor among the arguments; the others (masks, positions) are not used."""
        given = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        y = self.map(given[0])
        return (y,) if self.packed else y


class Passthrough(_StandIn):
    """Returns its input: a block that has been removed."""

    def map(self, x: Tensor) -> Tensor:
        """The representation itself."""
        return x


class PointwiseMap(_StandIn):
    r"""An affine map of every token or place, with hidden units if it is lifted.

    .. math:: y = x + x A + b + relu(n(x) W + c) E

    where :math:`n(x)` is the token, divided by its norm if ``normalized``.

    Parameters
    ----------
    width
        Channels.
    units
        Hidden units; 0 for an affine map.
    axis
        Axis of the channels.
    packed
        Whether the result is a tuple.
    normalized
        Whether hidden units read the token divided by its norm.
    """

    def __init__(
        self, width: int, units: int = 0, axis: int = -1, packed: bool = False, normalized: bool = True
    ) -> None:
        super().__init__(packed)
        self.axis, self.normalized = axis, normalized
        self.weight = nn.Parameter(torch.zeros(width, width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.inner = nn.Parameter(torch.zeros(width, units)) if units else None
        self.shift = nn.Parameter(torch.zeros(units)) if units else None
        self.effect = nn.Parameter(torch.zeros(units, width)) if units else None

    def hidden(self, x: Tensor) -> Tensor:
        """Hidden units ``(…, units)`` of tokens ``(…, width)``."""
        assert self.inner is not None
        assert self.shift is not None
        # A token of zeros has no direction and stays zero.
        read = x / x.norm(dim=-1, keepdim=True).clamp_min(1e-12) if self.normalized else x
        return torch.relu(read @ self.inner + self.shift)

    def map(self, x: Tensor) -> Tensor:
        """Shape and type of the input."""
        rows = (x if self.axis == -1 else x.movedim(self.axis, -1)).to(self.weight.dtype)
        y = rows + rows @ self.weight + self.bias
        if self.effect is not None:
            y = y + self.hidden(rows) @ self.effect
        return (y if self.axis == -1 else y.movedim(-1, self.axis)).to(x.dtype)


@dataclass(frozen=True)
class Block:
    """A block of a model.

    Attributes
    ----------
    point
        Its name among the model's points.
    path
        Its module.
    axis
        Axis of the channels of its output.
    shape
        Shape of its output for one sample, without the axis of the samples.
    width
        Number of channels.
    fits
        Whether its input has the shape of its output.
    follows
        Whether its input is the output of the block before it.
    packed
        Whether it returns a tuple.
    parameters
        Number of weights.
    """

    point: str
    path: str
    axis: int
    shape: tuple[int, ...]
    width: int
    fits: bool
    follows: bool
    packed: bool
    parameters: int


@torch.no_grad()
def blocks_of(model: TracedModel, samples: Sequence[Any]) -> list[Block]:
    """The blocks among a model's default points, as they run on some samples.

    Raises
    ------
    RepdynError
        If a block has no declared layout, or runs several times in one pass.
    """
    names = [name for name in model.default_points if model.points[name].module]
    names = [name for name in names if model.points[name].reads == "output"]
    paths = [model.points[name].module for name in names]
    # Where the final point is a stage, its blocks count and not the stage.
    names = [n for n, own in zip(names, paths) if not any(p.startswith(f"{own}.") for p in paths)]
    if not names:
        raise RepdynError(f"shorten: {model.name} has no blocks among its points {model.default_points}")
    packed: dict[str, bool] = {}

    def note(path: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            packed[path] = not isinstance(output, Tensor)
            unwrap(output)

        return hook

    handles = [
        model.module.get_submodule(model.points[name].module).register_forward_hook(
            note(model.points[name].module)
        )
        for name in names
    ]
    try:
        values, layouts = read_whole(model, names, samples)
    finally:
        for handle in handles:
            handle.remove()
    found: list[Block] = []
    before: Tensor | None = None
    for name in names:
        point = model.points[name]
        start, end = values[f"{name}:input"], values[name]
        layout = layouts.get(name, point.layout)
        axis = -1 if layout.endswith("C") else 1
        if "S" in layout or layout[axis] != "C":
            raise RepdynError(
                f"shorten: the axes of {name!r} are {layout!r}, expected channels at the second or the last "
                "axis; wrap the model with a Point of such a layout"
            )
        found.append(
            Block(
                name,
                point.module,
                axis,
                tuple(end.shape[1:]),
                end.shape[axis],
                start.shape == end.shape,
                before is not None and before.shape == start.shape and bool(torch.equal(before, start)),
                packed[point.module],
                sum(p.numel() for p in model.module.get_submodule(point.module).parameters()),
            )
        )
        before = end
    return found


def read_whole(
    model: TracedModel, names: Sequence[str], samples: Sequence[Any]
) -> tuple[dict[str, Tensor], dict[str, Layout]]:
    """Inputs (``NAME:input``) and outputs of blocks, not pooled, and the layouts that were determined."""
    with with_inputs(model, names).reader([*names, *(f"{name}:input" for name in names)], WHOLE) as read:
        reading = read(samples)
        layouts = {name: read.model.points[name].layout for name in names}
    missing = [name for name in names if name not in reading]
    if missing:
        raise RepdynError(
            f"shorten: block {missing[0]!r} of {model.name} runs several times in one pass and cannot be "
            "replaced"
        )
    return dict(reading), layouts


def with_inputs(model: TracedModel, names: Sequence[str]) -> TracedModel:
    """The model with the inputs of some blocks as further points, ``NAME:input``."""
    further = {f"{name}:input": _input_of(model.points[name]) for name in names}
    return replace(model, points={**model.points, **further})


def _input_of(point: Point) -> Point:
    return replace(point, reads="input", part=None)


def replaceable(blocks: Sequence[Block], count: int) -> list[int]:
    """Numbers of the first blocks of all runs of ``count`` blocks that one map of a token can replace."""
    starts = []
    for start in range(len(blocks) - count + 1):
        run = blocks[start : start + count]
        if all(block.fits for block in run) and all(block.follows for block in run[1:]):
            starts.append(start)
    return starts


def replaced(model: TracedModel, run: Sequence[Block], stand_in: nn.Module) -> TracedModel:
    """The model with ``stand_in`` for the first block of a run and nothing for the others.

    Weights are shared with the given model, whose module is not changed.
    """
    whole = model.module if model.weights is None else model.weights
    path = next((name for name, part in whole.named_modules() if part is model.module), None)
    if path is None:
        raise RepdynError(f"shorten: the module of {model.name} is not a part of its weights")
    memo: dict[int, Any] = {id(tensor): tensor for tensor in (*whole.parameters(), *whole.buffers())}
    for block in run:  # not copied: they are replaced
        part = model.module.get_submodule(block.path)
        memo[id(part)] = Passthrough(block.packed).train(part.training)
    memo[id(model.module.get_submodule(run[0].path))] = stand_in
    new = copy.deepcopy(whole, memo)
    module = new.get_submodule(path)
    # The head's logits would be compared with those of the whole model, which the function still computes.
    return replace(model, module=module, weights=None if model.weights is None else new, own_logits=None)
