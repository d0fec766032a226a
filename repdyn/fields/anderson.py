"""Anderson acceleration, guarded: it finishes what plain iteration has begun, and goes nowhere else.

Begun at the start it sends most samples elsewhere than plain iteration would. So it is only given
samples whose steps already shrink geometrically, and gives up those that it would take further than that
decay allows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from repdyn.devices import double
from repdyn.fields.field import LatentField

__all__ = ["anderson", "decay"]

MEMORY = 5
"""Earlier steps combined; more gain little and make the small systems ill-conditioned."""

RIDGE = 1e-10
"""Of the small least-squares problem, relative to its trace: parallel steps must not blow up its solution."""

WATCHED = 8
"""Plain steps over which the decay is watched; each must be shorter than the one before."""

SLACK = 2.0
"""How much further than the geometric series of the observed decay a sample may travel."""


def decay(field: LatentField, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Watch plain iteration: where it gets to, and how far it can still go if it decays on as it does.

    With steps :math:`r_0 > r_1 > … > r_8` and rate :math:`q = (r_8 / r_0)^{1/8}`, the rest of the journey is
    :math:`r_8 q / (1 - q)`.

    Parameters
    ----------
    field
        The map.
    z
        Shape ``(N, d)``.

    Returns
    -------
    z, residual, reach
        After ``WATCHED`` steps; ``reach`` is 0 where a step was not shorter than the one before.
    """
    image = field(z)
    first = last = (image - z).norm(dim=1)
    falling = torch.ones_like(first, dtype=torch.bool)
    for _ in range(WATCHED):
        z, image = image, field(image)
        length = (image - z).norm(dim=1)
        falling &= length < last
        last = length
    rate = (last / first.clamp_min(torch.finfo(z.dtype).tiny)) ** (1 / WATCHED)
    reach = SLACK * last * rate / (1 - rate).clamp_min(torch.finfo(z.dtype).eps)
    return z, last, torch.where(falling, reach, torch.zeros_like(reach))


def anderson(
    field: LatentField, z0: Tensor, reach: Tensor, *, tolerance: float, max_steps: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    r"""Accelerate samples that plain iteration is about to settle.

    .. math:: z_{t+1} = \sum_i \alpha_i f(z_{t-i}), \quad
              \alpha = \arg\min_{\sum \alpha_i = 1} \Big\lVert \sum_i \alpha_i V(z_{t-i}) \Big\rVert

    A sample that leaves the ball of radius ``reach`` around its start, or is not finite, is given up.

    Parameters
    ----------
    field
        The map.
    z0
        Shape ``(N, d)``.
    reach
        How far each may go, shape ``(N,)``.
    tolerance
        A step this short is settled.
    max_steps
        Evaluations for each sample.

    Returns
    -------
    z, residual, steps, settled
        Where ``settled`` is false the sample is where it was.

    References
    ----------
    Anderson (1965). Iterative procedures for nonlinear integral equations. J. ACM 12. Walker, Ni (2011).
    Anderson acceleration for fixed-point iterations. SIAM J. Numer. Anal. 49.
    """
    n = len(z0)
    z, residual = z0.clone(), z0.new_full((n,), float("inf"))
    steps = torch.zeros(n, dtype=torch.long, device=z0.device)
    settled = torch.zeros(n, dtype=torch.bool, device=z0.device)
    active, now = torch.arange(n, device=z0.device), z0
    images: list[Tensor] = []
    velocities: list[Tensor] = []
    for t in range(1, max_steps + 1):
        if not len(active):
            break
        image = field(now)
        velocity = image - now
        length = velocity.norm(dim=1)
        still = length <= tolerance
        gone = ~torch.isfinite(length) | ((now - z0[active]).norm(dim=1) > reach[active])
        done = still | gone
        steps[active] = t
        finished = active[still & ~gone]
        z[finished], residual[finished] = image[still & ~gone], length[still & ~gone]
        settled[finished] = True
        images, velocities = [*images, image][-MEMORY:], [*velocities, velocity][-MEMORY:]
        if bool(done.any()):
            active = active[~done]
            images, velocities = [x[~done] for x in images], [x[~done] for x in velocities]
        now = _combine(images, velocities)
    return z, residual, steps, settled


def _combine(images: list[Tensor], velocities: list[Tensor]) -> Tensor:
    # The constraint is removed by differences to the newest: minimise |v - V g| over g, in float64.
    newest = images[-1]
    if len(images) == 1:
        return newest
    difference = double(torch.stack([velocities[-1] - v for v in velocities[:-1]], dim=2))
    gram = difference.transpose(1, 2) @ difference
    trace = gram.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]
    eye = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    ridge = (RIDGE * trace).clamp_min(torch.finfo(gram.dtype).tiny) * eye
    target = difference.transpose(1, 2) @ double(velocities[-1])[:, :, None]
    weights = torch.linalg.solve(gram + ridge, target)
    moved = double(torch.stack([newest - x for x in images[:-1]], dim=2)) @ weights
    combined: Tensor = newest - moved[:, :, 0].to(newest.dtype)
    return combined
