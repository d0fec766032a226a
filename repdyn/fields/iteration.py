"""Plain iteration of many starts, and Anderson acceleration of those that are about to converge.

Which attractor a start reaches is the result, so the search iterates plainly (Picard). Acceleration from the
start sends samples to other, mostly unstable, fixed points. :class:`Trajectories` holds the state of all
starts; :func:`picard` and :func:`anderson` advance some of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from repdyn.devices import double
from repdyn.fields.map import CountedMap, SelfMap, check_map, geometry_of, to_index
from repdyn.fields.settings import SEARCH, AndersonSettings, SearchSettings
from repdyn.progress import track
from repdyn.reading import as_array

__all__ = [
    "ABSORBED",
    "CONVERGED",
    "ESCAPED",
    "MOVING",
    "RECURRENT",
    "Iteration",
    "Trajectories",
    "anderson",
    "measure_decay",
    "picard",
]

MOVING, CONVERGED, RECURRENT, ESCAPED, ABSORBED = range(5)


class Trajectories:
    """The state of all starts during a search.

    Parameters
    ----------
    field
        The map.
    starts
        Checked starts, shape ``(N, d)``.
    tol, max_steps, seed
        As in :func:`repdyn.fields.find_attractors`.
    settings
        Settings of the search.

    Attributes
    ----------
    plain, exact
        The map in the precision of the starts, and in float64 (``precise``) if possible. Both count their
        evaluations in ``count``.
    center, scale, reach
        Mean ``(d,)`` of the starts, root mean square and largest distance from it.
    z, ends
        Current points in either precision, shape ``(N, d)``.
    steps, residual
        Plain steps done for each start, and the length of the last one, shape ``(N,)``.
    outcome, lag
        As in :class:`Iteration`, shape ``(N,)``.
    shared
        Index of the start whose attractor each start inherits, or -1, shape ``(N,)``.
    """

    def __init__(
        self,
        field: SelfMap,
        starts: Tensor,
        tol: float,
        max_steps: int,
        seed: int,
        settings: SearchSettings = SEARCH,
    ) -> None:
        self.starts, self.tol, self.max_steps, self.seed = starts, tol, max_steps, seed
        self.settings = settings
        self.count = [0]
        self.plain = CountedMap(field.step, self.count)
        self.center, self.scale, self.reach = geometry_of(starts)
        check_map(self.plain, starts, self.scale)
        wide = field.as_float64(starts)
        self.exact = self.plain if wide is None else CountedMap(wide.step, self.count)
        self.precise = starts.dtype if wide is None else torch.float64
        n = len(starts)
        self.z, self.ends = starts.clone(), starts.to(self.precise, copy=True)
        self.steps = torch.zeros(n, dtype=torch.long, device=self.z.device)
        self.outcome, self.lag = np.full(n, MOVING), np.zeros(n, dtype=np.int64)
        self.residual = np.full(n, np.inf)
        self.shared = np.full(n, -1, dtype=np.int64)

    def iterate(
        self,
        chosen: NDArray[np.int64] | None = None,
        *,
        max_period: int | None = None,
        region_of: Callable[[Tensor], Tensor] | None = None,
        tolerance: float | None = None,
    ) -> None:
        """Iterate some starts plainly from their current points, until they stop or ``max_steps`` is reached.

        Parameters
        ----------
        chosen
            Their indices; default: all.
        max_period
            Longest period of recurrence; default: that of the settings.
        region_of
            As in :func:`picard`.
        tolerance
            Step length, relative to the scale, at which a start has converged; default: ``tol``.
        """
        chosen = np.arange(len(self.starts)) if chosen is None else chosen
        index = to_index(chosen, self.z)
        run = picard(
            self.plain,
            self.z[index],
            tolerance=(self.tol if tolerance is None else tolerance) * self.scale,
            max_steps=max(1, self.max_steps - int(self.steps[index].min())),
            center=self.center,
            escape=self.settings.escape_factor * self.reach,
            max_period=self.settings.max_period if max_period is None else max_period,
            region_of=region_of,
            settings=self.settings,
        )
        self.z[index], self.ends[index] = run.z, run.z.to(self.precise)
        self.steps[index] += run.steps
        self.outcome[chosen], self.lag[chosen] = as_array(run.outcome), as_array(run.lag)
        self.residual[chosen] = as_array(run.residual)

    def accelerate(self) -> None:
        """Iterate all starts plainly until steps are small; accelerate those whose steps keep shrinking.

        The others are iterated plainly to the end.
        """
        settings = self.settings.anderson
        self.iterate(max_period=0, tolerance=settings.switch)
        near = np.flatnonzero(self.outcome == CONVERGED)
        index = to_index(near, self.z)
        z, _, reach = measure_decay(self.plain, self.z[index], settings)
        self.z[index] = z
        self.steps[index] += settings.watched_steps + 1
        left = max(1, self.max_steps - int(self.steps.max()))
        z, residual, steps, converged = anderson(
            self.plain, z, reach, tolerance=self.tol * self.scale, max_steps=left, settings=settings
        )
        done = as_array(converged)
        self.steps[index] += steps
        self.z[index[converged]], self.ends[index[converged]] = z[converged], z[converged].to(self.precise)
        self.residual[near[done]] = as_array(residual[converged])
        rest = np.concatenate([near[~done], np.flatnonzero(self.outcome == MOVING)])
        if len(rest):
            self.iterate(np.sort(rest))


@dataclass(frozen=True, eq=False)
class Iteration:
    """State of some samples after an iteration.

    Attributes
    ----------
    z
        Last points, shape ``(N, d)``.
    residual
        Length of the last step, shape ``(N,)``.
    steps
        Evaluations for each sample, shape ``(N,)``.
    outcome
        ``MOVING``, ``CONVERGED``, ``RECURRENT``, ``ESCAPED`` or ``ABSORBED``, shape ``(N,)``.
    lag
        Steps after which a recurrent sample returned, or the set whose trapping region absorbed a sample,
        shape ``(N,)``.
    """

    z: Tensor
    residual: Tensor
    steps: Tensor
    outcome: Tensor
    lag: Tensor


def picard(
    field: SelfMap,
    z0: Tensor,
    *,
    tolerance: float,
    max_steps: int,
    center: Tensor,
    escape: float,
    max_period: int = SEARCH.max_period,
    region_of: Callable[[Tensor], Tensor] | None = None,
    settings: SearchSettings = SEARCH,
) -> Iteration:
    r"""Iterate :math:`z_{t+1} = f(z_t)`, finished samples leaving the batch.

    A sample finishes in one of four ways. It has converged when its step is shorter than ``tolerance``. It is
    recurrent when it returns to within ``tolerance`` of its point at the last power of two (Brent's cycle
    detection, one distance per step). It has escaped when it is not finite or further than ``escape`` from
    ``center``. It is absorbed when it lies in a trapping region.

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
    center
        Shape ``(d,)``.
    max_period
        Longest lag that counts as a recurrence; 0 for none.
    region_of
        The trapping region in which each of some points ``(n, d)`` lies, or -1, shape ``(n,)``.
    settings
        Settings of the search.

    References
    ----------
    Brent (1980). An improved Monte Carlo factorization algorithm. BIT 20, section 2.
    """
    n = len(z0)
    z, residual = z0.clone(), z0.new_full((n,), float("inf"))
    steps = torch.zeros(n, dtype=torch.long, device=z0.device)
    outcome, lag = torch.full_like(steps, MOVING), torch.zeros_like(steps)
    # Far from the origin, rounding alone moves a fixed point by more than a small tolerance.
    rounding = 4 * torch.finfo(z0.dtype).eps
    active = torch.arange(n, device=z0.device)
    now, marked, mark = z0.clone(), z0.clone(), 0
    for t in track(range(1, max_steps + 1), "following the latent field"):
        if not len(active):
            break
        image = field(now)
        length = (image - now).norm(dim=1)
        gone = ~torch.isfinite(length) | ((image - center).norm(dim=1) > escape)
        still = length <= tolerance + rounding * image.norm(dim=1)
        back = (image - marked).norm(dim=1) <= tolerance if 1 < t - mark <= max_period else still
        back = back & (length > settings.min_cycle_step * tolerance)
        inside = torch.full_like(active, -1)
        if region_of is not None and t % settings.trapping.check_every == 0:
            inside = region_of(image)
        done = gone | still | back | (inside >= 0)
        if t == max_steps:
            z[active], residual[active], steps[active] = image, length, t
        if bool(done.any()):
            index = active[done]
            # An escaped sample keeps its last finite point.
            z[index] = torch.where(gone[done, None], now[done], image[done])
            residual[index], steps[index] = length[done], t
            kinds = torch.where(back, RECURRENT, ABSORBED)
            kinds = torch.where(still, CONVERGED, kinds)
            outcome[index] = torch.where(gone, ESCAPED, kinds)[done]
            lag[index] = torch.where(outcome[index] == ABSORBED, inside[done], t - mark)
            active, image, marked = active[~done], image[~done], marked[~done]
        now = image
        if t & (t - 1) == 0:
            marked, mark = now.clone(), t
    return Iteration(z, residual, steps, outcome, lag)


def measure_decay(
    field: SelfMap, z: Tensor, settings: AndersonSettings = SEARCH.anderson
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Iterate plainly for a few steps, and bound the remaining distance if the decay continues.

    With steps :math:`r_0 > r_1 > … > r_8` and rate :math:`q = (r_8 / r_0)^{1/8}`, the remaining distance is
    :math:`r_8 q / (1 - q)`.

    Parameters
    ----------
    field
        The map.
    z
        Shape ``(N, d)``.
    settings
        ``watched_steps`` and ``slack``.

    Returns
    -------
    z, residual, reach
        Points ``(N, d)`` after ``watched_steps`` steps, length of the last step and the bound, ``(N,)``. The
        bound is 0 where a step was not shorter than the one before.
    """
    image = field(z)
    first = last = (image - z).norm(dim=1)
    falling = torch.ones_like(first, dtype=torch.bool)
    for _ in range(settings.watched_steps):
        z, image = image, field(image)
        length = (image - z).norm(dim=1)
        falling &= length < last
        last = length
    rate = (last / first.clamp_min(torch.finfo(z.dtype).tiny)) ** (1 / settings.watched_steps)
    reach = settings.slack * last * rate / (1 - rate).clamp_min(torch.finfo(z.dtype).eps)
    return z, last, torch.where(falling, reach, torch.zeros_like(reach))


def anderson(
    field: SelfMap,
    z0: Tensor,
    reach: Tensor,
    *,
    tolerance: float,
    max_steps: int,
    settings: AndersonSettings = SEARCH.anderson,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    r"""Accelerate samples that are about to converge under plain iteration.

    .. math:: z_{t+1} = \sum_i \alpha_i f(z_{t-i}), \quad
              \alpha = \arg\min_{\sum \alpha_i = 1} \Big\lVert \sum_i \alpha_i V(z_{t-i}) \Big\rVert

    Acceleration from the start would send most samples to other fixed points than plain iteration. A sample
    that leaves the ball of radius ``reach`` around its start, or is not finite, is therefore given up.

    Parameters
    ----------
    field
        The map.
    z0
        Shape ``(N, d)``.
    reach
        Radius of the ball of each sample, shape ``(N,)``.
    tolerance
        Step length at which a sample has converged.
    max_steps
        Evaluations for each sample.
    settings
        ``memory`` and ``ridge``.

    Returns
    -------
    z, residual, steps, converged
        Shapes ``(N, d)`` and ``(N,)``. A sample that has not converged keeps its start.

    References
    ----------
    Anderson (1965). Iterative procedures for nonlinear integral equations. J. ACM 12. Walker, Ni (2011).
    Anderson acceleration for fixed-point iterations. SIAM J. Numer. Anal. 49.
    """
    n = len(z0)
    z, residual = z0.clone(), z0.new_full((n,), float("inf"))
    steps = torch.zeros(n, dtype=torch.long, device=z0.device)
    converged = torch.zeros(n, dtype=torch.bool, device=z0.device)
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
        converged[finished] = True
        images, velocities = [*images, image][-settings.memory :], [*velocities, velocity][-settings.memory :]
        if bool(done.any()):
            active = active[~done]
            images, velocities = [x[~done] for x in images], [x[~done] for x in velocities]
        now = _combine(images, velocities, settings.ridge)
    return z, residual, steps, converged


def _combine(images: list[Tensor], velocities: list[Tensor], relative_ridge: float) -> Tensor:
    """The next points ``(n, d)``, from up to ``memory`` earlier images and velocities ``(n, d)`` each."""
    # Differences to the newest remove the constraint: minimize |v - V g| over g, in float64.
    newest = images[-1]
    if len(images) == 1:
        return newest
    difference = double(torch.stack([velocities[-1] - v for v in velocities[:-1]], dim=2))
    gram = difference.transpose(1, 2) @ difference
    trace = gram.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]
    eye = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    ridge = (relative_ridge * trace).clamp_min(torch.finfo(gram.dtype).tiny) * eye
    target = difference.transpose(1, 2) @ double(velocities[-1])[:, :, None]
    weights = torch.linalg.solve(gram + ridge, target)
    moved = double(torch.stack([newest - x for x in images[:-1]], dim=2)) @ weights
    combined: Tensor = newest - moved[:, :, 0].to(newest.dtype)
    return combined
