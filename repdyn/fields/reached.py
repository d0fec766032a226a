"""What the first starts of a search reached: the sets around which traps are then set for the others."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from repdyn.fields.field import LatentField
from repdyn.fields.merging import merge_points
from repdyn.fields.places import share_orbits
from repdyn.fields.solvers import MOVING, RECURRENT, SETTLED, Iteration
from repdyn.fields.starts import to_index, to_numpy
from repdyn.fields.verifying import MERGE, verify_points

__all__ = ["reached_sets"]


def reached_sets(
    plain: LatentField,
    exact: LatentField,
    run: Iteration,
    scale: float,
    steps: int,
    *,
    precise: torch.dtype,
    seed: int = 0,
) -> tuple[list[Tensor], NDArray[np.int64], Tensor]:
    """Stable fixed points, then stretches of the orbits that still move or recur, one for each set.

    Parameters
    ----------
    plain, exact
        The map, in the precision of the starts and in that of the ends.
    run
        Where the starts are.
    scale
        The data's.
    steps
        Length of the stretches.
    precise
        In which fixed points are polished.
    seed
        Of the first Krylov direction.

    Returns
    -------
    sets, owners, points
        Shapes ``(1, d)`` for each of ``A`` fixed points, then ``(K, d)`` for each stretch; the sample whose
        orbit each stretch is; the fixed points, shape ``(A, d)``.
    """
    outcome = to_numpy(run.outcome)
    points = run.z[:0]
    settled = np.flatnonzero(outcome == SETTLED)
    if len(settled):
        ends = run.z[to_index(settled, run.z)].to(precise)
        checked = verify_points(exact, ends, to_numpy(run.residual)[settled], scale, seed=seed)
        stable = checked.points[torch.from_numpy(checked.stable).to(ends.device)]
        points = stable[to_index(merge_points(to_numpy(stable), MERGE * scale)[0], stable)].to(run.z.dtype)
    sets: list[Tensor] = list(points[:, None])
    owners: list[int] = []
    moving = np.flatnonzero(outcome == MOVING)
    if len(moving):
        leaders = moving[share_orbits(plain, run.z, moving, scale, steps)[0]]
        sets += list(plain.trajectory(run.z[to_index(leaders, run.z)], steps).transpose(0, 1))
        owners += leaders.tolist()
    for sample in np.flatnonzero(outcome == RECURRENT).tolist():
        # Twice round, so that the stretch is seen to come back.
        turn = plain.trajectory(run.z[sample : sample + 1], 2 * int(run.lag[sample]) - 1)[:, 0]
        if all(float(torch.cdist(turn[:1], known).min()) > MERGE * scale for known in sets):
            sets.append(turn)
            owners.append(sample)
    return sets, np.array(owners, dtype=np.int64), points
