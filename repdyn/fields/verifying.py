"""Ends of an iteration, checked: is there a fixed point or cycle, does it attract, did they go there?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from repdyn.fields.field import LatentField
from repdyn.fields.merging import merge_points
from repdyn.fields.multipliers import leading_multipliers
from repdyn.fields.solvers import newton
from repdyn.reading import as_array

__all__ = ["MARGIN", "MERGE", "VerifiedPoints", "verify_points"]

MERGE = 1e-3
"""Ends nearer than this share of the data's scale are one point; polished points agree far better."""
MARGIN = 1e-4
"""Multipliers nearer to one in modulus are neither stable nor unstable at single precision."""
CHECK = 50
"""Plain steps by which a polished point's destination is checked."""
ROUNDS = 6
"""At most so many turns of plain iteration and polishing."""
CERTAIN = 0.1
"""Share of the merge tolerance within which the true fixed point must lie."""
MULTIPLIERS = 6
"""Leading multipliers kept for each point."""


@dataclass(frozen=True, eq=False)
class VerifiedPoints:
    """Groups of ends and what is at each.

    Attributes
    ----------
    member
        The group of each end, shape ``(N,)``.
    points
        Polished, shape ``(A, d)``.
    raw
        The end that each was polished from, shape ``(A, d)``.
    residual
        Shape ``(A,)``.
    multipliers
        Leading first, shape ``(A, k)``.
    stable, saddle, marginal
        Attracting; unstable; a fixed point that neither attracts nor repels, to the last digit. Shape
        ``(A,)`` each; a point that is none of these only moves slowly.
    """

    member: NDArray[np.int64]
    points: Tensor
    raw: Tensor
    residual: NDArray[np.float64]
    multipliers: NDArray[np.complex128]
    stable: NDArray[np.bool_]
    saddle: NDArray[np.bool_]
    marginal: NDArray[np.bool_]


def verify_points(
    field: LatentField, ends: Tensor, residual: NDArray[np.float64], scale: float, *, seed: int = 0
) -> VerifiedPoints:
    """Merge ends, polish them, and check destination, certainty and multipliers.

    A polished point counts only if plain iteration from the end it came from keeps approaching it (or was
    there already): Newton's method happily finds the unstable point inside a limit cycle. It is stable if
    its leading multiplier is below one by a margin and the residual, divided by that margin, puts the true
    fixed point within a tenth of the merge tolerance.

    Parameters
    ----------
    field
        The map, in the precision of ``ends``.
    ends
        Shape ``(N, d)``.
    residual
        Of each end, shape ``(N,)``; the smallest leads its group.
    scale
        The data's.
    seed
        Of the first Krylov direction.
    """
    near = MERGE * scale
    leaders, member = merge_points(as_array(ends, np.float64), near, np.argsort(residual, kind="stable"))
    raw = ends[torch.from_numpy(leaders).to(ends.device)]
    eps = torch.finfo(raw.dtype).eps
    points, length = newton(field, raw)
    later = raw
    for round_ in range(ROUNDS):
        for _ in range(CHECK):
            later = field(later)
        # At a kink of the map Newton's method stalls; plain iteration gets past it, and it tries again.
        stalled = length > 16 * eps * (points.norm(dim=1) + scale)
        if round_ + 1 == ROUNDS or not bool(stalled.any()):
            break
        again, shorter = newton(field, later[stalled])
        better = shorter < length[stalled]
        points[stalled] = torch.where(better[:, None], again, points[stalled])
        length[stalled] = torch.where(better, shorter, length[stalled])
    before, after = (raw - points).norm(dim=1), (later - points).norm(dim=1)
    reached = (before <= near) & (after <= 2 * near) | (after < before)
    points = torch.where(reached[:, None], points, raw)
    length = torch.where(reached, length, field.velocity(raw).norm(dim=1))

    multipliers = leading_multipliers(field, points, MULTIPLIERS, seed=seed)
    leading = multipliers.abs()[:, 0]
    floor = 64 * eps * (points.norm(dim=1) + scale)
    stable = reached & (leading < 1 - MARGIN) & (length <= CERTAIN * near * (1 - leading))
    saddle = (before <= near) & (leading > 1 + MARGIN) & (length <= floor)
    marginal = ~stable & ~saddle & (leading <= 1 + MARGIN) & (length <= 2 * eps * points.norm(dim=1))
    return VerifiedPoints(
        member=member,
        points=points,
        raw=raw,
        residual=as_array(length, np.float64),
        multipliers=as_array(multipliers, np.complex128),
        stable=as_array(stable),
        saddle=as_array(saddle),
        marginal=as_array(marginal),
    )
