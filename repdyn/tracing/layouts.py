"""Which axis of a representation holds the channels, determined from runs at several input sizes.

Axes that change with the input size are positions; the remaining axis holds the channels. If a model takes
one size only, its layers and the shapes of other points decide. An undetermined layout raises.
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
    """The layout with a number of axes, the channels at one and the samples at another; None if unsupported.

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
    """Sizes of the axes that are neither samples nor channels.

    Examples
    --------
    >>> positions("NCHW", (2, 8, 4, 5))
    (4, 5)
    """
    if layout == "LNC":
        return shape[:1]
    if layout in ("NLSC", "SNLC"):
        at = layout.index("L")
        return shape[at : at + 1]
    return shape[2:] if layout[1] == "C" else shape[1:-1]


def from_sizes(shape: Shape, count: int, others: Iterable[tuple[Shape, int]]) -> tuple[Layout | None, bool]:
    """The layout that is consistent with the shapes at several input sizes.

    Parameters
    ----------
    shape, count
        Shape of the representation for ``count`` samples.
    others
        Shapes and counts at other input sizes.

    Returns
    -------
    layout, decided
        The layout, if the shapes decide it. ``decided`` without a layout: no supported layout has the
        channels at that axis.

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
    """The layout from a module's layers and the positions of other points; None if they do not decide it.

    Parameters
    ----------
    point
        The point; ``channels`` are those of its last layer.
    shape
        Shape of its representation, samples first.
    known
        Positions of inputs and of points with certain layouts.
    """
    candidates = {_by_channels(point, shape), _by_positions(shape, known)} - {None}
    return next(iter(candidates)) if len(candidates) == 1 else None


def agreeing(point: Point, shape: Shape, known: Iterable[Shape]) -> bool:
    """Whether :func:`from_evidence` agrees with the layout of the model's family."""
    layout = from_evidence(point, shape, known)
    return layout is not None and (layout[1] == "C") == (point.layout[1] == "C")


def refusal(name: str, shape: Shape) -> RepdynError:
    """The error for a point with an undetermined layout."""
    base = name.partition("#")[0]
    return RepdynError(
        f"point {base!r}: has shape {shape}, and neither other input sizes nor its layers determine which "
        "axis holds the channels; declare it, "
        f"repdyn.wrap(module, points={{{base!r}: 'NLC'}}) or another layout, or leave the point out"
    )


def other_sizes(prepared: Any, count: int, lengthen: bool) -> Iterator[tuple[Any, int]]:
    """Inputs with another number of samples and of positions, and the number of samples.

    Parameters
    ----------
    prepared
        Arguments of the model.
    count
        Number of samples in them.
    lengthen
        Whether axes may also be lengthened. A position embedding that is indexed out of range breaks a GPU
        context.
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
    """Sets of axes to resize, for tensors of a number of axes."""
    single: list[tuple[int, ...]] = [(axis,) for axis in range(1, axes)]
    together: dict[int, list[tuple[int, ...]]] = {4: [(2, 3), (1, 2)], 5: [(3, 4), (2, 3, 4), (1, 2, 3)]}
    return together.get(axes, []) + single


def _resized(value: Any, count: int, number: int, sizes: Mapping[int, int], longer: bool) -> Any:
    """Inputs for ``number`` samples, with axes of these sizes halved or doubled."""
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
    """All tensors in prepared inputs."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping | tuple):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(part)


def _by_channels(point: Point, shape: Shape) -> Layout | None:
    """The layout whose channel axis has the size of the last layer, if there is one such axis."""
    second, last = (shape[axis] == point.channels for axis in (1, -1))
    if second == last:
        return None
    return layout_of(len(shape), 1 if second else len(shape) - 1)


def _by_positions(shape: Shape, known: Iterable[Shape]) -> Layout | None:
    """The layout whose positions have known sizes, if there is one."""
    sizes = set(known)
    last, second = shape[1:-1] in sizes, shape[2:] in sizes
    if second == last:
        return None
    return layout_of(len(shape), len(shape) - 1 if last else 1)
