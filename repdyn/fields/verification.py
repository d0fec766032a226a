"""Near a fixed point: acceleration of an approach, polishing of its end, and verification that it attracts.

:func:`verify_points` merges end points (:func:`merge_points`), polishes them with Newton's method
(:func:`newton`), and reads their multipliers from Jacobian-vector products alone
(:func:`leading_multipliers`). :func:`anderson` finishes samples that are about to converge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from repdyn.arguments import whole
from repdyn.devices import CPU, as_given, double, to, widest
from repdyn.errors import RepdynError
from repdyn.fields.map import SelfMap, to_index
from repdyn.fields.settings import SEARCH, AndersonSettings, SearchSettings
from repdyn.reading import as_array

__all__ = [
    "VerifiedPoints",
    "anderson",
    "count_sweep",
    "leading_multipliers",
    "measure_decay",
    "merge_points",
    "newton",
    "observed_rate",
    "verify_points",
]

KRYLOV = 64
"""Krylov dimension: exact up to 64 latent dimensions, and ample for the outermost eigenvalues beyond."""
BLOCK = 2**23
"""Numbers in a batch of Krylov bases: 64 MiB in float64."""
SKETCH = 8
"""Dimensions of the projection in which candidates for merging are looked up. Trees are slow in more."""
DISPLACEMENT = 1e-3
"""Distance, relative to the scale, at which neighbors start whose approach to a point is measured."""


@dataclass(frozen=True, eq=False)
class VerifiedPoints:
    """Groups of end points, and the verified point of each group.

    Attributes
    ----------
    member
        The group of each end point, shape ``(N,)``.
    points
        Polished points, shape ``(A, d)``.
    raw
        The end point from which each was polished, shape ``(A, d)``.
    residual
        Length of the step at each point, shape ``(A,)``.
    multipliers
        Leading multipliers, largest modulus first, shape ``(A, k)``.
    stable, saddle, marginal
        Whether each point attracts, is unstable, or neither attracts nor repels in working precision, shape
        ``(A,)`` each. A point that is none of these only moves slowly.
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
    field: SelfMap,
    ends: Tensor,
    residual: NDArray[np.float64],
    scale: float,
    *,
    seed: int = 0,
    settings: SearchSettings = SEARCH,
) -> VerifiedPoints:
    """Merge end points, polish them, and check destination, certainty and multipliers.

    A polished point counts only if plain iteration from its end point approaches it, or was there already.
    Newton's method alone also converges to the unstable point inside a limit cycle. A point is stable if its
    leading multiplier is below one by a margin, and if the residual, divided by that margin, puts the true
    fixed point within a tenth of the merge tolerance.

    Parameters
    ----------
    field
        The map, in the precision of ``ends``.
    ends
        Shape ``(N, d)``.
    residual
        Length of the last step at each end point, shape ``(N,)``. The smallest leads its group.
    scale
        Scale of the starts.
    seed
        Of the first Krylov direction.
    settings
        Settings of the search.
    """
    near = settings.merge_tolerance * scale
    leaders, member = merge_points(as_array(ends, np.float64), near, np.argsort(residual, kind="stable"))
    raw = ends[to_index(leaders, ends)]
    eps = torch.finfo(raw.dtype).eps
    points, length = newton(field, raw, settings)
    later = raw
    for round_ in range(settings.polish_rounds):
        for _ in range(settings.check_steps):
            later = field(later)
        # Newton's method stalls at a kink of the map. Plain iteration passes the kink; then Newton runs
        # again.
        stalled = length > 16 * eps * (points.norm(dim=1) + scale)
        if round_ + 1 == settings.polish_rounds or not bool(stalled.any()):
            break
        again, shorter = newton(field, later[stalled], settings)
        better = shorter < length[stalled]
        points[stalled] = torch.where(better[:, None], again, points[stalled])
        length[stalled] = torch.where(better, shorter, length[stalled])
    before, after = (raw - points).norm(dim=1), (later - points).norm(dim=1)
    reached = (before <= near) & (after <= 2 * near) | (after < before)
    points = torch.where(reached[:, None], points, raw)
    length = torch.where(reached, length, field.velocity(raw).norm(dim=1))

    multipliers = leading_multipliers(field, points, settings.n_multipliers, seed=seed)
    leading = multipliers.abs()[:, 0]
    floor = 64 * eps * (points.norm(dim=1) + scale)
    margin = settings.multiplier_margin
    stable = reached & (leading < 1 - margin) & (length <= settings.certainty * near * (1 - leading))
    saddle = (before <= near) & (leading > 1 + margin) & (length <= floor)
    marginal = ~stable & ~saddle & (leading <= 1 + margin) & (length <= 2 * eps * points.norm(dim=1))
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


def merge_points(
    points: NDArray[np.floating], radius: float, order: NDArray[np.integer] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Group points: each leader takes all free points within ``radius``, leaders in the given order.

    Groups do not chain, so a line of slow points does not join two attractors. Candidates come from a tree
    over an orthonormal projection, which never lengthens a distance, and are then checked in all dimensions.

    Parameters
    ----------
    points
        Shape ``(N, d)``.
    radius
        Largest distance from the leader.
    order
        Indices in the order in which points become leaders; default: as given.

    Returns
    -------
    leaders, member
        Index of each group's leader, shape ``(A,)``; each point's group, shape ``(N,)``.

    Examples
    --------
    >>> import numpy as np
    >>> merge_points(np.array([[0.0], [0.1], [5.0]]), 0.5)[1].tolist()
    [0, 0, 1]
    """
    # scipy takes half a second to import.
    from scipy.spatial import cKDTree

    points = np.asarray(points, dtype=np.float64)
    n, d = points.shape
    member = np.full(n, -1, dtype=np.int64)
    leaders: list[int] = []
    if n == 0:
        return np.zeros(0, dtype=np.int64), member
    sketch = points
    if d > SKETCH:
        directions = np.linalg.qr(np.random.default_rng(0).standard_normal((d, SKETCH)))[0]
        sketch = points @ directions
    tree = cKDTree(sketch)
    # Rounding of the projection must not separate points within the radius.
    slack = radius + 1e-9 * float(np.abs(sketch).max())
    for i in np.arange(n) if order is None else order:
        if member[i] >= 0:
            continue
        near = np.asarray(tree.query_ball_point(sketch[i], slack), dtype=np.int64)
        near = near[member[near] < 0]
        near = near[np.linalg.norm(points[near] - points[i], axis=1) <= radius]
        member[near] = len(leaders)
        member[i] = len(leaders)
        leaders.append(int(i))
    return np.asarray(leaders, dtype=np.int64), member


def count_sweep(
    points: NDArray[np.floating], scale: float, tolerances: Sequence[float] = SEARCH.merge_sweep
) -> dict[float, int]:
    """Number of groups at each merge tolerance.

    Parameters
    ----------
    points
        Shape ``(N, d)``.
    scale
        Scale of the starts, to which tolerances are relative.
    tolerances
        Merge tolerances. A count that depends on them is not reliable.
    """
    return {t: len(merge_points(points, t * scale)[0]) for t in tolerances}


def newton(field: SelfMap, z: Tensor, settings: SearchSettings = SEARCH) -> tuple[Tensor, Tensor]:
    r"""Polish points that have nearly converged, by Newton steps solved in a Krylov space.

    .. math:: z \leftarrow z + \arg\min_{\delta \in \mathcal K_m} \lVert V(z) - (I - J_f(z))\,\delta \rVert

    A step is kept only where it shortens the residual, so a point that cannot be polished stays where it is.
    The result may be unstable, and plain iteration may not go there: the caller checks both.

    Parameters
    ----------
    field
        The map, in float64 where possible.
    z
        Shape ``(A, d)``.
    settings
        ``newton_steps`` and ``newton_krylov_dim``.

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
    for _ in range(settings.newton_steps):
        # The shortest step that the precision can hold at this point.
        floor = 2 * eps * z[open_].norm(dim=1)
        open_ = open_[residual[open_] > floor]
        if not len(open_):
            break
        basis, hessenberg = _arnoldi(
            field, z[open_], velocity[open_], min(settings.newton_krylov_dim, z.shape[1])
        )
        m = hessenberg.shape[2]
        # Many small systems are faster on the CPU, which also has float64.
        system = torch.eye(m + 1, m, dtype=torch.float64) - to(hessenberg, CPU, torch.float64)
        target = system.new_zeros((len(open_), m + 1, 1))
        target[:, 0, 0] = to(residual[open_], CPU, torch.float64)
        # A continuum of fixed points makes the system singular. The cut-off selects the nearest one, and
        # prevents that rounding errors are inverted into a large step.
        weights = to(torch.linalg.pinv(system, atol=1e-6, rtol=1e-10) @ target, z.device)
        trial = z[open_] + (basis[:, :m] * weights).sum(dim=1).to(z.dtype)
        moved = field.velocity(trial)
        length = moved.norm(dim=1)
        better = length < residual[open_]
        kept = open_[better]
        z[kept], velocity[kept], residual[kept] = trial[better], moved[better], length[better]
        open_ = kept
    return z, residual


def leading_multipliers(field: SelfMap, z: Tensor, count: int = 6, *, seed: int = 0) -> Tensor:
    r"""The eigenvalues of largest modulus of :math:`J_f(z)`, by Arnoldi's method, matrix-free.

    Parameters
    ----------
    field
        The map.
    z
        Shape ``(A, d)``.
    count
        Number of eigenvalues; ``d`` if that is smaller.
    seed
        Of the first Krylov direction.

    Returns
    -------
    Tensor
        Shape ``(A, min(count, d))``, complex128, largest modulus first.

    Examples
    --------
    >>> import torch
    >>> from repdyn.fields import LatentField
    >>> field = LatentField(lambda z: z * torch.tensor([0.5, -0.25]))
    >>> leading_multipliers(field, torch.zeros(1, 2)).real
    tensor([[ 0.5000, -0.2500]], dtype=torch.float64)

    References
    ----------
    Arnoldi (1951). The principle of minimized iterations in the solution of the matrix eigenvalue problem.
    """
    if z.ndim != 2 or not bool(torch.isfinite(z).all()):
        raise RepdynError(f"leading_multipliers: z must be finite, of shape (A, d), got {tuple(z.shape)}")
    if whole("count", count) < 1:
        raise RepdynError(f"leading_multipliers: count={count}; expected 1 or more")
    d = z.shape[1]
    m = min(KRYLOV, d)
    generator = torch.Generator().manual_seed(seed)
    direction = to(torch.randn(d, generator=generator, dtype=torch.float64), z.device)
    multipliers = torch.zeros((len(z), min(count, d)), dtype=torch.complex128)
    size = max(1, BLOCK // ((m + 1) * d))
    for block in (slice(i, i + size) for i in range(0, len(z), size)):
        _, hessenberg = _arnoldi(field, z[block], direction.expand(len(z[block]), d), m)
        # Many small matrices are faster on the CPU, and MPS has no eigvals.
        values = torch.linalg.eigvals(to(hessenberg[:, :m], CPU, torch.float64))
        order = values.abs().argsort(dim=1, descending=True)
        multipliers[block] = values.gather(1, order)[:, : multipliers.shape[1]]
    return to(multipliers, z.device)


def observed_rate(field: SelfMap, z: Tensor, scale: float, turns: int = 40, *, seed: int = 0) -> Tensor:
    r"""Factor by which one step of plain iteration shrinks the distance to each fixed point.

    .. math:: \Big(\frac{\lVert f^{t}(z + \delta) - z \rVert}
                         {\lVert f^{t/2}(z + \delta) - z \rVert}\Big)^{2/t}

    over the later half of the approach, before rounding errors dominate. The leading multiplier predicts it
    where the map is smooth and nearly normal.

    Parameters
    ----------
    field
        The map; for a cycle, its power of that period.
    z
        Fixed points, shape ``(A, d)``.
    scale
        Scale of the starts. Neighbors start a thousandth of it away.
    turns
        Number of steps, at least 2.
    seed
        Of the directions of the displacements.

    Returns
    -------
    Tensor
        Shape ``(A,)``; NaN where fewer than two steps are above the rounding errors.

    Examples
    --------
    >>> import torch
    >>> field = SelfMap(lambda z: z * torch.tensor([0.5, -0.25], dtype=torch.float64))
    >>> observed_rate(field, torch.zeros(1, 2, dtype=torch.float64), 1.0).round(decimals=4)
    tensor([0.5000], dtype=torch.float64)
    """
    generator = torch.Generator().manual_seed(seed)
    direction = as_given(torch.randn(z.shape, generator=generator, dtype=torch.float64), z)
    moved = z + DISPLACEMENT * scale * direction / direction.norm(dim=1, keepdim=True)
    distance = [(moved - z).norm(dim=1)]
    for _ in range(turns):
        moved = field(moved)
        distance.append((moved - z).norm(dim=1))
    table = double(torch.stack(distance))
    # Distances below this are rounding, and their ratio is no rate.
    floor = 1e3 * torch.finfo(z.dtype).eps * (double(z.norm(dim=1)) + scale)
    # The last step at which the distance is above the rounding errors.
    last = (table > floor).long().cumprod(dim=0).sum(dim=0) - 1
    first = last // 2
    ratio = table.gather(0, last[None])[0] / table.gather(0, first[None])[0]
    rate = ratio ** (1 / (last - first).clamp_min(1))
    return torch.where(last >= 2, rate, torch.full_like(rate, float("nan")))


def _arnoldi(field: SelfMap, z: Tensor, start: Tensor, m: int) -> tuple[Tensor, Tensor]:
    r"""Arnoldi decomposition of the Jacobian at many points at once.

    .. math:: J\, Q_m = Q_{m+1}\, \bar H_m

    Parameters
    ----------
    field
        The map.
    z, start
        Points and the first direction at each, shape ``(A, d)``.
    m
        Krylov dimension, at most ``d``.

    Returns
    -------
    basis, hessenberg
        Shapes ``(A, m + 1, d)`` and ``(A, m + 1, m)``, float64.
    """
    count, d = z.shape
    wide = widest(z.device)
    basis = torch.zeros((count, m + 1, d), dtype=wide, device=z.device)
    hessenberg = torch.zeros((count, m + 1, m), dtype=wide, device=z.device)
    generator = torch.Generator().manual_seed(0)
    first = double(start)
    basis[:, 0] = first / first.norm(dim=1, keepdim=True).clamp_min(1e-300)
    _, apply = field.linearize(z)
    for k in range(m):
        product = double(apply(basis[:, k].to(z.dtype)))
        size = product.norm(dim=1)
        # The second orthogonalization restores what cancellation lost; more are not needed.
        for _ in range(2):
            overlap = (basis[:, : k + 1] @ product[:, :, None])[:, :, 0]
            hessenberg[:, : k + 1, k] += overlap
            product = product - (overlap[:, None] @ basis[:, : k + 1])[:, 0]
        rest = product.norm(dim=1)
        # An exhausted Krylov space continues from a fresh direction that is orthogonal to it.
        spent = rest <= 1e-12 * size.clamp_min(1e-300)
        if bool(spent.any()) and k + 1 < d:
            fresh = to(torch.randn((count, d), generator=generator, dtype=torch.float64), z.device)
            for _ in range(2):
                overlap = (basis[:, : k + 1] @ fresh[:, :, None])[:, :, 0]
                fresh = fresh - (overlap[:, None] @ basis[:, : k + 1])[:, 0]
            product = torch.where(spent[:, None], fresh, product)
        hessenberg[:, k + 1, k] = torch.where(spent, torch.zeros_like(rest), rest)
        if k + 1 < d:
            basis[:, k + 1] = product / product.norm(dim=1, keepdim=True).clamp_min(1e-300)
    return basis, hessenberg


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
