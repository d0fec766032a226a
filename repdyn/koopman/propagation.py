"""Moving representations along depth through a fitted Koopman autoencoder."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from repdyn.devices import as_given, to
from repdyn.errors import RepdynError
from repdyn.koopman.checks import check_fitted
from repdyn.koopman.reading import point_number
from repdyn.reading import as_array

if TYPE_CHECKING:
    from repdyn.koopman.autoencoder import KoopmanAutoencoder

__all__ = ["depth_of", "propagate", "through"]

_ROUNDING = 1e-9  # a last hop shorter than this is none


def propagate(
    kae: KoopmanAutoencoder,
    x: Any,
    source: str | float,
    target: str | float,
    reencode_every: float | None = None,
) -> Any:
    """Representations at another depth, ``D(E(x) K^(target - source))``.

    Parameters
    ----------
    kae
        A fitted Koopman autoencoder.
    x
        Representations at ``source``, shape ``(…, width)``; array or tensor.
    source, target
        Names of points, or depths; the source must be a point.
    reencode_every
        Steps of depth after which the observables are decoded and encoded anew. None: never.

    Raises
    ------
    RepdynError
        On a depth outside the path, a source between points, or steps that are not positive.
    """
    start, end = depth_of(kae, source), depth_of(kae, target)
    before, after = round(start), round(end)
    if before != start:
        raise RepdynError(f"source depth {source} lies between points; give representations of a point")
    if reencode_every is not None and not reencode_every > 0:
        raise RepdynError(f"reencode_every must be positive, got {reencode_every}")
    stops = _stops(start, end, reencode_every)

    def move(rows: Tensor) -> Tensor:
        u = kae.frames_.lift(rows, before)
        for here, there in pairwise(stops):
            u = kae.decoder_(kae.encoder_(u) @ kae.operator_.matrix(here, there))
        return kae.frames_.lower(u, after, rows.dtype)

    return through(kae, x, move, kae.widths_[kae.points_[before]])


def _stops(start: float, end: float, every: float | None) -> list[float]:
    """Depths at which observables are decoded, from ``start`` on; always at ``end``."""
    if every is None:
        return [start, end]
    hops = max(1, math.ceil(abs(end - start) / every - _ROUNDING))
    sign = 1.0 if end >= start else -1.0
    return [start + sign * every * hop for hop in range(hops)] + [end]


def depth_of(kae: KoopmanAutoencoder, place: str | float) -> float:
    """Depth of a point by its name, or a depth that is checked to lie within the path."""
    points = check_fitted(kae)
    if isinstance(place, str):
        return float(point_number(place, points))
    if not 0 <= place <= len(points) - 1:
        raise RepdynError(f"depth must lie between 0 and {len(points) - 1} (the path's points), got {place}")
    return float(place)


def through(kae: KoopmanAutoencoder, x: Any, function: Callable[[Tensor], Tensor], width: int) -> Any:
    """Apply a function of rows of the autoencoder's dtype to an array or tensor, and answer in kind.

    Parameters
    ----------
    kae
        Where it is, and in its type, is computed.
    x
        Shape ``(…, width)``. A tensor keeps its gradient, and is answered on its device in its type; an array
        is answered by an array.
    function
        From rows to rows.
    width
        What the last axis must be.

    Raises
    ------
    RepdynError
        If the last axis is another.
    """
    given = x if isinstance(x, Tensor) else None
    rows = given if given is not None else torch.as_tensor(as_array(x))
    if rows.ndim == 0 or rows.shape[-1] != width:
        raise RepdynError(
            f"the last axis must have {width} entries, got an array of shape {tuple(rows.shape)}"
        )
    # What is subtracted from representations in double precision may leave little.
    where = kae.frames_.scale.device
    moved = to(rows, where, torch.float64 if rows.dtype == torch.float64 else kae.frames_.scale.dtype)
    if given is not None:
        return as_given(function(moved), given)
    with torch.no_grad():
        return as_array(function(moved))
