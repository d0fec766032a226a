"""Long cycles: orbits that come back after more steps than recurrence is watched for, verified."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from repdyn.devices import double, widest
from repdyn.fields.field import LatentField
from repdyn.fields.verifying import CERTAIN, MARGIN, MERGE, MULTIPLIERS
from repdyn.reading import as_array

__all__ = ["Cycle", "period_of", "polish_cycle"]

RETURN = 1e-3
"""Of the scale: an orbit that comes back this near may be closing in on a cycle; Newton's method decides."""
CONTRAST = 0.1
"""Of the usual step: it must come back this near too, for neighbours on a slow orbit are near as they are."""
TURNS = 8
"""Newton steps, and turns of plain iteration by which the destination is checked."""
WORK = 2**16
"""Largest product of period and dimension: a step costs so many evaluations of the map."""
TOGETHER = 128
"""Points of a turn whose Jacobians are read from one graph, which keeps the map's activations at each."""


@dataclass(frozen=True, eq=False)
class Cycle:
    """A verified cycle: a point ``(d,)`` on it, and of a turn its residual, its multipliers ``(k,)`` and the
    factor by which plain iteration was seen to come nearer."""

    point: Tensor
    period: int
    residual: float
    multipliers: NDArray[np.complex128]
    observed: float


def period_of(orbit: Tensor, scale: float) -> int:
    """After how many steps the end of an orbit had last been where it is, or 0 if it had not.

    At most half of the orbit, so that each return is seen twice.

    Parameters
    ----------
    orbit
        Shape ``(W + 1, d)``.
    scale
        The data's.

    Examples
    --------
    >>> import torch
    >>> period_of(torch.tensor([[0.0], [1.0], [3.0]]).repeat(4, 1), 1.0)
    3
    """
    step = float((orbit[1:] - orbit[:-1]).norm(dim=1).median())
    distance = (orbit[:-1] - orbit[-1]).norm(dim=1).flip(0)[: len(orbit) // 2]
    back = (distance <= min(RETURN * scale, CONTRAST * step)).nonzero()
    return int(back[0]) + 1 if len(back) else 0


def polish_cycle(field: LatentField, start: Tensor, period: int, scale: float) -> Cycle | None:
    r"""Newton's method for a fixed point of the ``period``-th iterate, with the whole turn's Jacobian.

    .. math:: z \leftarrow z + (I - M)^{-1} (f^p(z) - z), \qquad M = J(f^{p-1} z) \cdots J(f z)\, J(z)

    The Jacobians at the points of a turn are read together, so a turn costs p evaluations of the map, one
    after the other, and d products of a batch of p.

    Parameters
    ----------
    field
        The map, in the precision of ``start``.
    start
        A point near the cycle, shape ``(d,)``.
    period
        Its period p.
    scale
        The data's.

    Returns
    -------
    Cycle or None
        None where there is no cycle, where it does not attract, where plain iteration does not approach it,
        where its period is shorter, or where it would take too long to tell.
    """
    d = len(start)
    if period * d > WORK:
        return None
    eps = torch.finfo(start.dtype).eps
    best, length, turn = start, float("inf"), torch.eye(d, dtype=start.dtype, device=start.device)
    point = start
    for _ in range(TURNS):
        image, jacobian = _turn(field, point, period)
        residual = float((image - point).norm())
        if not residual < length:
            break
        best, length, turn = point, residual, jacobian
        if residual <= 16 * eps * (float(point.norm()) + scale):
            break
        unit = torch.eye(d, dtype=widest(start.device), device=start.device)
        system = unit - double(jacobian)
        # Ridged, so that a nearly neutral direction is not inverted into a leap.
        step = torch.linalg.solve(
            system.T @ system + 1e-12 * unit,
            system.T @ double(image - point),
        )
        point = point + step.to(start.dtype)
    multipliers = np.linalg.eigvals(as_array(turn, np.float64)).astype(np.complex128)
    multipliers = multipliers[np.argsort(-abs(multipliers), kind="stable")][:MULTIPLIERS]
    leading = float(abs(multipliers[0]))
    later = field.power(TURNS * period)(start[None])[0]
    before, after = float((start - best).norm()), float((later - best).norm())
    orbit = field.trajectory(best[None], period - 1)[1:, 0]
    shorter = len(orbit) > 0 and float((orbit - best).norm(dim=1).min()) <= MERGE * scale
    certain = length <= CERTAIN * MERGE * scale * (1 - leading)
    # In single precision a turn's product can predict an approach that plain iteration does not make.
    near = before <= 10 * RETURN * scale and (after < before or after <= CERTAIN * MERGE * scale)
    if leading >= 1 - MARGIN or shorter or not (certain and near):
        return None
    rounding = 1e3 * eps * (float(best.norm()) + scale)
    observed = (after / before) ** (1 / TURNS) if min(before, after) > rounding else float("nan")
    return Cycle(best, period, length, multipliers, observed)


def _turn(field: LatentField, point: Tensor, period: int) -> tuple[Tensor, Tensor]:
    """Where ``period`` steps lead and their Jacobian.

    The points come first, one after the other; the Jacobians at many of them are then read column by column
    from one recorded graph.
    """
    d = len(point)
    orbit = field.trajectory(point[None], period)[:, 0]
    units = torch.eye(d, dtype=point.dtype, device=point.device)
    turn = units
    for block in torch.split(orbit[:-1], TOGETHER):
        _, apply = field.linearize(block)
        columns = torch.stack([apply(unit.expand_as(block)) for unit in units], dim=2)
        for jacobian in columns:
            turn = jacobian @ turn
    return orbit[-1], turn
