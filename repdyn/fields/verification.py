"""Fixed points and cycles: merge end points, polish them, and verify that they attract.

:func:`verify_points` is the entry for fixed points, :func:`polish_cycle` for long cycles. The former merges
end points (:func:`merge_points`), polishes them with Newton's method (:func:`newton`), and reads their
multipliers from Jacobian-vector products alone (:func:`leading_multipliers`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from repdyn.devices import double, to, widest
from repdyn.fields.map import SelfMap, to_index
from repdyn.fields.settings import SEARCH, ClassificationSettings, SearchSettings
from repdyn.reading import as_array

__all__ = [
    "Cycle",
    "VerifiedPoints",
    "count_sweep",
    "leading_multipliers",
    "merge_points",
    "newton",
    "observed_rate",
    "period_of",
    "polish_cycle",
    "verify_points",
]

KRYLOV = 64
"""Krylov dimension: exact up to 64 latent dimensions, and ample for the outermost eigenvalues beyond."""
BLOCK = 2**23
"""Numbers in a batch of Krylov bases: 64 MiB in float64."""
SKETCH = 8
"""Dimensions of the projection in which candidates for merging are looked up. Trees are slow in more."""
GRAPH_POINTS = 128
"""Points of a cycle whose Jacobians are read from one graph, which keeps the map's activations at each."""
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
        floor = 2 * eps * z[open_].norm(dim=1)
        open_ = open_[residual[open_] > floor]
        if not len(open_):
            break
        basis, hessenberg = _arnoldi(
            field, z[open_], velocity[open_], min(settings.newton_krylov_dim, z.shape[1])
        )
        m = hessenberg.shape[2]
        # Many small systems are faster on the CPU, which also has float64.
        system = torch.eye(m + 1, m, dtype=torch.float64) - hessenberg.cpu().double()
        target = system.new_zeros((len(open_), m + 1, 1))
        target[:, 0, 0] = residual[open_].cpu().double()
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
    d = z.shape[1]
    m = min(KRYLOV, d)
    generator = torch.Generator().manual_seed(seed)
    direction = to(torch.randn(d, generator=generator, dtype=torch.float64), z.device)
    multipliers = torch.zeros((len(z), min(count, d)), dtype=torch.complex128)
    size = max(1, BLOCK // ((m + 1) * d))
    for block in (slice(i, i + size) for i in range(0, len(z), size)):
        _, hessenberg = _arnoldi(field, z[block], direction.expand(len(z[block]), d), m)
        # Many small matrices are faster on the CPU, and MPS has no eigvals.
        values = torch.linalg.eigvals(hessenberg[:, :m].cpu().double())
        order = values.abs().argsort(dim=1, descending=True)
        multipliers[block] = values.gather(1, order)[:, : multipliers.shape[1]]
    return multipliers.to(z.device, torch.complex64 if widest(z.device) == torch.float32 else None)


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
    direction = torch.randn(z.shape, generator=generator, dtype=torch.float64).to(z)
    moved = z + DISPLACEMENT * scale * direction / direction.norm(dim=1, keepdim=True)
    distance = [(moved - z).norm(dim=1)]
    for _ in range(turns):
        moved = field(moved)
        distance.append((moved - z).norm(dim=1))
    table = double(torch.stack(distance))
    floor = 1e3 * torch.finfo(z.dtype).eps * (double(z.norm(dim=1)) + scale)
    # The last step at which the distance is above the rounding errors.
    last = (table > floor).long().cumprod(dim=0).sum(dim=0) - 1
    first = last // 2
    ratio = table.gather(0, last[None])[0] / table.gather(0, first[None])[0]
    rate = ratio ** (1 / (last - first).clamp_min(1))
    return torch.where(last >= 2, rate, torch.full_like(rate, float("nan")))


def period_of(orbit: Tensor, scale: float, settings: ClassificationSettings = SEARCH.classification) -> int:
    """Steps since an orbit was last at its end point, or 0 if it was not there before.

    Returns after more than half of the orbit are not counted, so that each return is seen twice.

    Parameters
    ----------
    orbit
        Shape ``(W + 1, d)``.
    scale
        Scale of the starts.
    settings
        ``cycle_return`` and ``cycle_contrast``.

    Examples
    --------
    >>> import torch
    >>> period_of(torch.tensor([[0.0], [1.0], [3.0]]).repeat(4, 1), 1.0)
    3
    """
    step = float((orbit[1:] - orbit[:-1]).norm(dim=1).median())
    distance = (orbit[:-1] - orbit[-1]).norm(dim=1).flip(0)[: len(orbit) // 2]
    back = (distance <= min(settings.cycle_return * scale, settings.cycle_contrast * step)).nonzero()
    return int(back[0]) + 1 if len(back) else 0


@dataclass(frozen=True, eq=False)
class Cycle:
    """A verified cycle.

    Attributes
    ----------
    point
        A point on it, shape ``(d,)``.
    period
        Its period.
    residual
        Distance between the point and its image after one turn.
    multipliers
        Leading multipliers of a turn, shape ``(k,)``.
    observed
        Factor by which one turn of plain iteration shrank the distance to it.
    """

    point: Tensor
    period: int
    residual: float
    multipliers: NDArray[np.complex128]
    observed: float


def polish_cycle(
    field: SelfMap, start: Tensor, period: int, scale: float, settings: SearchSettings = SEARCH
) -> Cycle | None:
    r"""Polish a cycle by Newton's method for the ``period``-th iterate, with the Jacobian of a whole turn.

    .. math:: z \leftarrow z + (I - M)^{-1} (f^p(z) - z), \qquad M = J(f^{p-1} z) \cdots J(f z)\, J(z)

    The Jacobians at the points of a turn are read together. A turn costs p sequential evaluations of the map
    and d products of a batch of p.

    Parameters
    ----------
    field
        The map, in the precision of ``start``.
    start
        A point near the cycle, shape ``(d,)``.
    period
        Its period p.
    scale
        Scale of the starts.
    settings
        Settings of the search.

    Returns
    -------
    Cycle or None
        None if there is no cycle, if it does not attract, if plain iteration does not approach it, if its
        period is shorter, or if period times dimension exceeds ``cycle_max_work``.
    """
    options, d = settings.classification, len(start)
    near, turns = settings.merge_tolerance * scale, options.cycle_newton_steps
    if period * d > options.cycle_max_work:
        return None
    eps = torch.finfo(start.dtype).eps
    best, length, turn = start, float("inf"), torch.eye(d, dtype=start.dtype, device=start.device)
    point = start
    for _ in range(turns):
        image, jacobian = _turn(field, point, period)
        residual = float((image - point).norm())
        if not residual < length:
            break
        best, length, turn = point, residual, jacobian
        if residual <= 16 * eps * (float(point.norm()) + scale):
            break
        unit = torch.eye(d, dtype=widest(start.device), device=start.device)
        system = unit - double(jacobian)
        # The ridge prevents a large step along a nearly neutral direction.
        step = torch.linalg.solve(
            system.T @ system + 1e-12 * unit,
            system.T @ double(image - point),
        )
        point = point + step.to(start.dtype)
    multipliers = np.linalg.eigvals(as_array(turn, np.float64)).astype(np.complex128)
    multipliers = multipliers[np.argsort(-abs(multipliers), kind="stable")][: settings.n_multipliers]
    leading = float(abs(multipliers[0]))
    later = field.power(turns * period)(start[None])[0]
    before, after = float((start - best).norm()), float((later - best).norm())
    orbit = field.trajectory(best[None], period - 1)[1:, 0]
    shorter = len(orbit) > 0 and float((orbit - best).norm(dim=1).min()) <= near
    certain = length <= settings.certainty * settings.merge_tolerance * scale * (1 - leading)
    # In single precision the Jacobian of a turn can predict convergence that plain iteration does not show.
    approached = before <= 10 * options.cycle_return * scale and (
        after < before or after <= settings.certainty * settings.merge_tolerance * scale
    )
    if leading >= 1 - settings.multiplier_margin or shorter or not (certain and approached):
        return None
    rounding = 1e3 * eps * (float(best.norm()) + scale)
    observed = (after / before) ** (1 / turns) if min(before, after) > rounding else float("nan")
    return Cycle(best, period, length, multipliers, observed)


def _turn(field: SelfMap, point: Tensor, period: int) -> tuple[Tensor, Tensor]:
    """Image ``(d,)`` of a point after ``period`` steps, and its Jacobian ``(d, d)``.

    The points are computed first, one after the other. The Jacobians at many of them are then read column by
    column from one recorded graph.
    """
    d = len(point)
    orbit = field.trajectory(point[None], period)[:, 0]
    units = torch.eye(d, dtype=point.dtype, device=point.device)
    turn = units
    for block in torch.split(orbit[:-1], GRAPH_POINTS):
        _, apply = field.linearize(block)
        columns = torch.stack([apply(unit.expand_as(block)) for unit in units], dim=2)
        for jacobian in columns:
            turn = jacobian @ turn
    return orbit[-1], turn


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
