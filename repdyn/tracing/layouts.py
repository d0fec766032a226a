"""Which axis of a representation holds the channels: found by running the model at another size of input.

Axes that follow the size of the input are positions, the axis that does not is that of the channels. Where a
model takes one size only, its own layers and the points beside it are asked. What stays open is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from repdyn.errors import RepdynError
from repdyn.tracing.hooks import Point
from repdyn.tracing.pooling import Layout

__all__ = [
    "Shape",
    "agreeing",
    "from_evidence",
    "from_sizes",
    "layout_of",
    "other_sizes",
    "positions",
    "refusal",
]

Shape = tuple[int, ...]

_CHANNELS_SECOND: dict[int, Layout] = {3: "NCL", 4: "NCHW"}
_CHANNELS_LAST: dict[int, Layout] = {3: "NLC", 4: "NHWC"}


def layout_of(axes: int, channels: int, samples: int = 0) -> Layout | None:
    """The layout of so many axes with the channels at one and the samples at another; None if there is none.

    Examples
    --------
    >>> layout_of(4, 1), layout_of(3, 2), layout_of(3, 2, samples=1), layout_of(4, 2)
    ('NCHW', 'NLC', 'LNC', None)
    """
    if samples == 1 and axes == 3 and channels == 2:
        return "LNC"
    if samples != 0:
        return None
    if channels == axes - 1:
        return _CHANNELS_LAST.get(axes, "N*C")
    return _CHANNELS_SECOND.get(axes, "NC*") if channels == 1 else None


def positions(layout: Layout, shape: Shape) -> Shape:
    """The sizes of the axes that are neither samples nor channels.

    Examples
    --------
    >>> positions("NCHW", (2, 8, 4, 5))
    (4, 5)
    """
    if layout == "LNC":
        return shape[:1]
    if layout == "NLSC":
        return shape[1:2]
    return shape[2:] if layout[1] == "C" else shape[1:-1]


def from_sizes(shape: Shape, count: int, others: Iterable[tuple[Shape, int]]) -> tuple[Layout | None, bool]:
    """The layout that the shapes at several sizes of input leave.

    Parameters
    ----------
    shape, count
        What was given for so many samples.
    others
        The same at other sizes of input.

    Returns
    -------
    layout, settled
        The layout, if the shapes settle it. ``settled`` without a layout: the channels stand where no layout
        has them.

    Examples
    --------
    >>> from_sizes((4, 8, 8, 8), 4, [((1, 8, 4, 4), 1)])
    ('NCHW', True)
    """
    samples = [axis for axis in range(min(2, len(shape))) if shape[axis] == count]
    moved: set[int] = set()
    for other, number in others:
        if len(other) != len(shape):
            continue
        samples = [axis for axis in samples if other[axis] == number]
        moved |= {axis for axis, (here, there) in enumerate(zip(shape, other)) if here != there}
    if not samples:
        return None, bool(moved)
    at = samples[0]
    fixed = [axis for axis in range(len(shape)) if axis != at and axis not in moved]
    if not moved - {at}:
        return None, False
    ends = [axis for axis in fixed if layout_of(len(shape), axis, at) is not None]
    if len(ends) == 1:
        return layout_of(len(shape), ends[0], at), True
    return None, bool(fixed) and not ends


def from_evidence(point: Point, shape: Shape, known: Iterable[Shape]) -> Layout | None:
    """The layout that a module's own layers and the positions of other points tell; None if they do not.

    Parameters
    ----------
    point
        Its ``channels`` are those of its own last layer.
    shape
        What it gives, samples first.
    known
        Sizes of the positions of inputs and points that are certain.
    """
    told = {_by_channels(point, shape), _by_positions(shape, known)} - {None}
    return next(iter(told)) if len(told) == 1 else None


def agreeing(point: Point, shape: Shape, known: Iterable[Shape]) -> bool:
    """Whether that evidence says the same as what was declared for the family of the model."""
    found = from_evidence(point, shape, known)
    return found is not None and (found[1] == "C") == (point.layout[1] == "C")


def refusal(name: str, shape: Shape) -> RepdynError:
    """Why a point cannot be pooled whose axes nobody knows."""
    base = name.partition("#")[0]
    return RepdynError(
        f"point {base!r}: gives shape {shape}; which axis holds the channels cannot be told, neither from "
        "other sizes of input nor from its own layers; declare it, "
        f"repdyn.wrap(module, points={{{base!r}: 'NLC'}}) or another layout, or leave the point out"
    )


def other_sizes(prepared: Any, count: int, lengthen: bool) -> Iterator[tuple[Any, int]]:
    """The same inputs with another number of samples and of positions, with how many samples there are.

    Parameters
    ----------
    prepared
        What the model is called with.
    count
        Samples in it.
    lengthen
        Whether axes may be made longer, too. An embedding of positions that is asked for more than it has
        stops a GPU.
    """
    tensors = list(_tensors(prepared))
    wide = [tensor for tensor in tensors if tensor.ndim > 1]
    if not wide:
        return
    main = max(wide, key=lambda tensor: tensor.numel())
    number = 2 if count == 1 else 1
    for longer in (False, True) if lengthen and main.is_floating_point() else (False,):
        for axes in _tried(main.ndim):
            sizes = {axis: main.shape[axis] for axis in axes}
            if all(size > 1 or longer for size in sizes.values()):
                yield _resized(prepared, count, number, sizes, longer), number


def _tried(axes: int) -> list[tuple[int, ...]]:
    single: list[tuple[int, ...]] = [(axis,) for axis in range(1, axes)]
    together: dict[int, list[tuple[int, ...]]] = {4: [(2, 3), (1, 2)], 5: [(3, 4), (2, 3, 4), (1, 2, 3)]}
    return together.get(axes, []) + single


def _resized(value: Any, count: int, number: int, sizes: Mapping[int, int], longer: bool) -> Any:
    if isinstance(value, Mapping):
        return {name: _resized(part, count, number, sizes, longer) for name, part in value.items()}
    if isinstance(value, tuple):
        return tuple(_resized(part, count, number, sizes, longer) for part in value)
    if not isinstance(value, Tensor) or value.ndim == 0:
        return value
    if value.shape[0] == count:
        value = value[:1].repeat(number, *[1] * (value.ndim - 1))
    for axis, size in sizes.items():
        if value.ndim > axis and value.shape[axis] == size:
            value = torch.cat([value, value], axis) if longer else value.narrow(axis, 0, size // 2)
    return value.contiguous()


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping | tuple):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(part)


def _by_channels(point: Point, shape: Shape) -> Layout | None:
    second, last = (shape[axis] == point.channels for axis in (1, -1))
    if second == last:
        return None
    return layout_of(len(shape), 1 if second else len(shape) - 1)


def _by_positions(shape: Shape, known: Iterable[Shape]) -> Layout | None:
    sizes = set(known)
    last, second = shape[1:-1] in sizes, shape[2:] in sizes
    if second == last:
        return None
    return layout_of(len(shape), len(shape) - 1 if last else 1)
