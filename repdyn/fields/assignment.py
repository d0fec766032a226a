"""Where new points go: basins of attractors that are known already."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from repdyn.errors import RepdynError
from repdyn.fields.attractors import Attractors
from repdyn.fields.field import LatentField
from repdyn.fields.solvers import picard
from repdyn.fields.starts import check_starts, geometry_of, to_numpy, widened
from repdyn.fields.status import CHAOTIC, CIRCLE
from repdyn.fields.verifying import MERGE

__all__ = ["assign_basins"]

NEAR = 10 * MERGE
"""Ends settle on a plain orbit, attractors were polished: at most this share of the scale lies between."""
ORBIT = 512
"""Points by which an attractor that is not a fixed point or cycle is represented."""
ESCAPE = 100.0
"""As in the search: a sample this many times further out than any start has left for good."""


def assign_basins(field: LatentField, attractors: Attractors, z: Any) -> NDArray[np.int64]:
    """The attractor that plain iteration takes each new point to, by the protocol of the search.

    A point that has settled or recurs belongs to the attractor whose orbit it ends on. One that still moves
    when the budget is spent belongs to an invariant circle or a chaotic set if it moves along that set, and
    to nothing otherwise: basins are never extended to the nearest attractor.

    Parameters
    ----------
    field
        The map that the attractors were found in.
    attractors
        What the search found.
    z
        New points, shape ``(N, d)``.

    Returns
    -------
    NDArray
        Index of each point's attractor, or -1, shape ``(N,)``.

    Raises
    ------
    RepdynError
        On points that are not finite, not ``(N, d)``, or of another width than the attractors.

    Examples
    --------
    >>> import torch
    >>> field = LatentField(lambda z: torch.tanh(3 * z))
    >>> found = field.attractors(torch.tensor([[0.5], [0.7], [-0.2]]))
    >>> found.assign(field, torch.tensor([[2.0], [-3.0]])).tolist()
    [0, 1]
    """
    new = widened(field, check_starts(field, z, attractors.tolerance, attractors.max_steps))
    width = attractors.starts.shape[1]
    if new.shape[1] != width:
        raise RepdynError(f"z: points of {new.shape[1]} dimensions, but the attractors have {width}")
    assigned = np.full(len(new), -1, dtype=np.int64)
    if not len(attractors):
        return assigned
    centre, _, reach = geometry_of(torch.from_numpy(attractors.starts).to(new))
    run = picard(
        field,
        new,
        tolerance=attractors.tolerance * attractors.scale,
        max_steps=attractors.max_steps,
        centre=centre,
        escape=ESCAPE * max(reach, float((new - centre).norm(dim=1).max())),
    )
    ends = to_numpy(run.z).astype(np.float64)
    best = np.full(len(new), np.inf)
    for a in range(len(attractors)):
        distance, allowed = _distance(field, attractors, a, ends, new)
        nearer = (distance <= allowed) & (distance < best)
        assigned[nearer], best[nearer] = a, distance[nearer]
    return assigned


def _distance(
    field: LatentField, attractors: Attractors, a: int, ends: NDArray[np.float64], like: Tensor
) -> tuple[NDArray[np.float64], float]:
    """Distance of each end from one attractor's orbit, and how much of it still counts as being there."""
    # scipy is half a second to import: here, not with the room.
    from scipy.spatial import cKDTree

    filled = attractors.kind[a] in (CIRCLE, CHAOTIC)
    turns = ORBIT if filled else max(1, int(attractors.period[a]))
    start = torch.from_numpy(attractors.points[a : a + 1]).to(like)
    orbit = to_numpy(field.trajectory(start, turns - 1))[:, 0].astype(np.float64)
    distance = cKDTree(orbit).query(ends)[0]
    allowed = NEAR * attractors.scale
    if filled:
        # A set is as finely known as its orbit samples it: the usual gap between neighbours on it.
        gaps = cKDTree(orbit).query(orbit, k=2)[0][:, 1]
        allowed = max(allowed, 3 * float(np.quantile(gaps, 0.9)))
    return np.asarray(distance, dtype=np.float64), allowed
