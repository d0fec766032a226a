"""Moving representations along depth through a fitted Koopman autoencoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from repdyn.errors import RepdynError
from repdyn.koopman.checks import check_fitted
from repdyn.koopman.reading import point_number

if TYPE_CHECKING:
    from repdyn.koopman.autoencoder import KoopmanAutoencoder

__all__ = ["depth_of", "propagate", "through"]


def propagate(kae: KoopmanAutoencoder, x: Any, source: str | float, target: str | float) -> Any:
    """Representations at another depth, ``D(E(x) K^(target - source))``.

    Parameters
    ----------
    kae
        A fitted Koopman autoencoder.
    x
        Representations at ``source``, shape ``(…, width)``; array or tensor.
    source, target
        Names of points, or depths; the source must be a point.

    Raises
    ------
    RepdynError
        On a depth outside the path, or a source between points.
    """
    start, end = depth_of(kae, source), depth_of(kae, target)
    before, after = round(start), round(end)
    if before != start:
        raise RepdynError(f"source depth {source} lies between points; give representations of a point")

    def move(rows: Tensor) -> Tensor:
        z = kae.encoder_(kae.frames_.lift(rows, before)) @ kae.operator_.matrix(start, end)
        return kae.frames_.lower(kae.decoder_(z), after)

    return through(kae, x, move, kae.widths_[kae.points_[before]])


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
        Its device and dtype are used.
    x
        Shape ``(…, width)``. A tensor keeps its gradient; an array is answered by an array.
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
    rows = given if given is not None else torch.as_tensor(np.asarray(x))
    if rows.ndim == 0 or rows.shape[-1] != width:
        raise RepdynError(
            f"the last axis must have {width} entries, got an array of shape {tuple(rows.shape)}"
        )
    moved = rows.to(kae.frames_.scale)
    if given is not None:
        return function(moved).to(device=rows.device)
    with torch.no_grad():
        answer: NDArray[Any] = function(moved).cpu().numpy()
    return answer
