"""Fixed points by plain iteration (which explores) and by Newton-Krylov (which only polishes).

Which attractor a start reaches is the finding, so the search is plain Picard iteration. Acceleration from
the start sends samples to other, mostly unstable, fixed points.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from repdyn.devices import to
from repdyn.fields.field import LatentField
from repdyn.fields.multipliers import arnoldi
from repdyn.fields.trapping import Traps
from repdyn.progress import track

__all__ = ["ESCAPED", "MOVING", "RECURRENT", "SETTLED", "TRAPPED", "Iteration", "newton", "picard"]

MOVING, SETTLED, RECURRENT, ESCAPED, TRAPPED = range(5)

MAX_PERIOD = 128
"""Longest period that recurrence is tested for; near returns of invariant circles have longer lags."""

STRIDE = 100
"""A cycle's steps are this many tolerances long; a spiral's last turns, nearly closed, are shorter."""

EVERY = 5
"""Steps between looks at the traps."""

NEWTON_STEPS = 8
"""Newton doubles digits from a start already settled; eight steps are ample and bound the cost."""


@dataclass(frozen=True, eq=False)
class Iteration:
    """Where an iteration stopped.

    Attributes
    ----------
    z
        Last points, shape ``(N, d)``.
    residual
        Length of the last step, shape ``(N,)``.
    steps
        Evaluations spent on each sample, shape ``(N,)``.
    outcome
        ``MOVING``, ``SETTLED``, ``RECURRENT``, ``ESCAPED`` or ``TRAPPED``, shape ``(N,)``.
    lag
        Steps after which a recurrent sample came back, or the trap that a trapped one is in, shape ``(N,)``.
    """

    z: Tensor
    residual: Tensor
    steps: Tensor
    outcome: Tensor
    lag: Tensor


def picard(
    field: LatentField,
    z0: Tensor,
    *,
    tolerance: float,
    max_steps: int,
    centre: Tensor,
    escape: float,
    max_period: int = MAX_PERIOD,
    traps: Traps | None = None,
) -> Iteration:
    r"""Iterate :math:`z_{t+1} = f(z_t)`, finished samples leaving the batch.

    A sample finishes when its step is shorter than ``tolerance`` (settled), when it comes back to within
    ``tolerance`` of where it was at the last power of two (recurrent: Brent's cycle detection, one distance
    per step), or when it is non-finite or further than ``escape`` from ``centre`` (escaped).

    Parameters
    ----------
    field
        The map.
    z0
        Starts, shape ``(N, d)``.
    tolerance, escape
        Lengths, in the units of ``z0``.
    max_steps
        Evaluations allowed for each sample.
    centre
        Shape ``(d,)``.
    max_period
        Longest lag at which coming back counts; 0 for none.
    traps
        Neighbourhoods of attractors that end a sample's journey.

    References
    ----------
    Brent (1980). An improved Monte Carlo factorization algorithm. BIT 20, section 2.
    """
    n = len(z0)
    z, residual = z0.clone(), z0.new_full((n,), float("inf"))
    steps = torch.zeros(n, dtype=torch.long, device=z0.device)
    outcome, lag = torch.full_like(steps, MOVING), torch.zeros_like(steps)
    # Rounding moves a fixed point far from the origin by more than a small tolerance would allow.
    rounding = 4 * torch.finfo(z0.dtype).eps
    active = torch.arange(n, device=z0.device)
    now, marked, mark = z0.clone(), z0.clone(), 0
    for t in track(range(1, max_steps + 1), "following the latent field"):
        if not len(active):
            break
        image = field(now)
        length = (image - now).norm(dim=1)
        gone = ~torch.isfinite(length) | ((image - centre).norm(dim=1) > escape)
        still = length <= tolerance + rounding * image.norm(dim=1)
        back = (image - marked).norm(dim=1) <= tolerance if 1 < t - mark <= max_period else still
        back = back & (length > STRIDE * tolerance)
        inside = torch.full_like(active, -1)
        if traps is not None and t % EVERY == 0:
            inside = traps.catch(image)
        done = gone | still | back | (inside >= 0)
        if t == max_steps:
            z[active], residual[active], steps[active] = image, length, t
        if bool(done.any()):
            where = active[done]
            # An escaped sample keeps its last finite place.
            z[where] = torch.where(gone[done, None], now[done], image[done])
            residual[where], steps[where] = length[done], t
            kinds = torch.where(back, RECURRENT, TRAPPED)
            kinds = torch.where(still, SETTLED, kinds)
            outcome[where] = torch.where(gone, ESCAPED, kinds)[done]
            lag[where] = torch.where(outcome[where] == TRAPPED, inside[done], t - mark)
            active, image, marked = active[~done], image[~done], marked[~done]
        now = image
        if t & (t - 1) == 0:
            marked, mark = now.clone(), t
    return Iteration(z, residual, steps, outcome, lag)


def newton(field: LatentField, z: Tensor, *, krylov: int = 48) -> tuple[Tensor, Tensor]:
    r"""Polish points that have nearly settled, by Newton steps solved in a Krylov space.

    .. math:: z \leftarrow z + \arg\min_{\delta \in \mathcal K_m} \lVert V(z) - (I - J_f(z))\,\delta \rVert

    A step is kept only where it shortens the residual, so a point that cannot be polished stays. Nothing
    here says that the result is stable, nor that plain iteration would have gone there: check both.

    Parameters
    ----------
    field
        The map; in float64 where it allows.
    z
        Shape ``(A, d)``.
    krylov
        At most so many Jacobian-vector products for each step and point.

    Returns
    -------
    z, residual
        Shapes ``(A, d)`` and ``(A,)``.

    References
    ----------
    Knoll, Keyes (2004). Jacobian-free Newton-Krylov methods. J. Comput. Phys. 193.
    """
    z = z.clone()
    velocity = field.velocity(z)
    residual = velocity.norm(dim=1)
    eps = torch.finfo(z.dtype).eps
    open_ = torch.arange(len(z), device=z.device)
    for _ in range(NEWTON_STEPS):
        floor = 2 * eps * z[open_].norm(dim=1)
        open_ = open_[residual[open_] > floor]
        if not len(open_):
            break
        basis, hessenberg = arnoldi(field, z[open_], velocity[open_], min(krylov, z.shape[1]))
        m = hessenberg.shape[2]
        # Many small systems: the host is the faster, and has float64.
        system = torch.eye(m + 1, m, dtype=torch.float64) - hessenberg.cpu().double()
        target = system.new_zeros((len(open_), m + 1, 1))
        target[:, 0, 0] = residual[open_].cpu().double()
        # A continuum of fixed points makes the system singular; the cut-off then takes the nearest one,
        # and keeps rounding from being inverted into a leap.
        weights = to(torch.linalg.pinv(system, atol=1e-6, rtol=1e-10) @ target, z.device)
        trial = z[open_] + (basis[:, :m] * weights).sum(dim=1).to(z.dtype)
        moved = field.velocity(trial)
        length = moved.norm(dim=1)
        better = length < residual[open_]
        kept = open_[better]
        z[kept], velocity[kept], residual[kept] = trial[better], moved[better], length[better]
        open_ = kept
    return z, residual
