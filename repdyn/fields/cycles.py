"""Recurrent orbits: their groups, their period, the verification of cycles, and families of neutral cycles.

:func:`polish_cycle` verifies a cycle by Newton's method. A family is a continuum, such as a circle on which
every orbit has period two. No single cycle of it attracts, since its neighbors keep their distance. The
family as a whole may attract, and is one attractor then. :func:`is_neutral` recognizes such a cycle, and
:func:`link_cycles` says which cycles belong to one family.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from repdyn.devices import as_given, double, to, widest
from repdyn.fields.map import SelfMap, to_index
from repdyn.fields.settings import SEARCH, ClassificationSettings, SearchSettings
from repdyn.fields.verification import leading_multipliers, merge_points
from repdyn.reading import as_array

__all__ = [
    "BATCH",
    "Cycle",
    "NeutralCycle",
    "canonical_phase",
    "cycle_multipliers",
    "gap_of",
    "group_orbits",
    "hold_escaped",
    "is_neutral",
    "link_cycles",
    "period_of",
    "polish_cycle",
    "shortest_period",
]

BATCH = 2**23
"""Numbers in a batch of orbits: 32 MiB in float32."""
GRAPH_POINTS = 128
"""Points of a cycle whose Jacobians are read from one graph, which keeps the map's activations at each."""


def group_orbits(
    field: SelfMap,
    ends: Tensor,
    chosen: NDArray[np.int64],
    scale: float,
    steps: int,
    settings: SearchSettings = SEARCH,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Group orbits that fill the same set.

    An orbit joins the first leader whose points it passes as closely as these sample their own set.

    Parameters
    ----------
    field
        The map.
    ends
        Current points of all starts, shape ``(N, d)``.
    chosen
        Indices of the starts whose orbits are grouped, shape ``(n,)``.
    scale
        Scale of the starts. Sets closer than the merge tolerance are one.
    steps
        Plain steps for which the orbits are followed.
    settings
        Settings of the search.

    Returns
    -------
    leaders, group
        Positions in ``chosen`` of one orbit per group, and the group of each orbit, shape ``(n,)``.
    """
    # scipy takes half a second to import.
    from scipy.spatial import cKDTree

    group = np.full(len(chosen), -1, dtype=np.int64)
    leaders: list[int] = []
    trees: list[tuple[cKDTree, float]] = []
    batch = max(1, BATCH // ((steps + 1) * ends.shape[1]))
    for start in range(0, len(chosen), batch):
        block = chosen[start : start + batch]
        distance = settings.classification.escape_distance * scale
        orbits, _ = hold_escaped(field.trajectory(ends[to_index(block, ends)], steps), distance)
        points = as_array(orbits, np.float64)
        for i in range(len(block)):
            sample = points[:: max(1, steps // settings.classification.sampled_points), i]
            for number, (tree, near) in enumerate(trees):
                # One point is enough to exclude most sets.
                if tree.query(sample[-1])[0] <= 4 * near and np.quantile(tree.query(sample)[0], 0.9) <= near:
                    group[start + i] = number
                    break
            else:
                group[start + i] = len(leaders)
                leaders.append(start + i)
                least = settings.merge_tolerance * scale
                # Twice the gap: an orbit passes between the points of another orbit on the same set.
                trees.append((cKDTree(points[:, i]), max(2 * gap_of(orbits[:, i]), least)))
    return np.array(leaders, dtype=np.int64), group


def gap_of(orbit: Tensor) -> float:
    """How densely an orbit ``(K, d)`` samples the set that it fills; 0 for a single point.

    Of the later half of the orbit, 90 % lie at most this far from the earlier half.
    """
    if len(orbit) < 2:
        return 0.0
    half = len(orbit) // 2
    # A quantile: the maximum would be that of the single widest gap.
    return float(np.quantile(as_array(torch.cdist(orbit[half:], orbit[:half]).amin(dim=1)), 0.9))


def hold_escaped(orbits: Tensor, distance: float) -> tuple[Tensor, Tensor]:
    """Orbits ``(W + 1, n, d)`` in which those that move beyond ``distance`` stay at their start.

    The second value, shape ``(n,)``, marks these orbits.
    """
    gone = ~((orbits - orbits[0]).norm(dim=2).amax(dim=0) <= distance)
    return torch.where(gone[:, None], orbits[:1].expand_as(orbits), orbits), gone


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
class ClosedOrbit:
    """An orbit that returns to its start.

    Attributes
    ----------
    point
        A point on it, shape ``(d,)``.
    period
        Steps after which it returns.
    """

    point: Tensor
    period: int


@dataclass(frozen=True, eq=False)
class Cycle(ClosedOrbit):
    """A verified cycle, which attracts.

    Attributes
    ----------
    residual
        Distance between the point and its image after one turn.
    multipliers
        Leading multipliers of a turn, shape ``(k,)``.
    observed
        Factor by which one turn of plain iteration shrank the distance to it.
    """

    residual: float
    multipliers: NDArray[np.complex128]
    observed: float


@dataclass(frozen=True, eq=False)
class NeutralCycle(ClosedOrbit):
    """A cycle that neither attracts nor repels.

    Attributes
    ----------
    members
        Indices of the starts that reached it.
    """

    members: NDArray[np.int64]


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
        # Further steps would only move the point by rounding.
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
    # Distances below this are rounding, and their ratio is no rate.
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


def canonical_phase(field: SelfMap, ends: Tensor, period: int) -> Tensor:
    """The point of each cycle that is furthest along a fixed direction, so that all phases of a cycle merge.

    Shapes ``(N, d)`` to ``(N, d)``.
    """
    generator = torch.Generator().manual_seed(0)
    direction = as_given(torch.randn(ends.shape[1], generator=generator, dtype=torch.float64), ends)
    orbit = field.trajectory(ends, period - 1)
    best = (orbit @ direction).argmax(dim=0)
    return orbit[best, torch.arange(len(ends), device=ends.device)]


def shortest_period(field: SelfMap, points: Tensor, period: int, near: float) -> NDArray[np.int64]:
    """Steps, at most ``period``, after which each point ``(N, d)`` first returns to within ``near``."""
    shortest = np.full(len(points), period, dtype=np.int64)
    image = points
    for k in range(1, period):
        image = field(image)
        back = as_array((image - points).norm(dim=1) <= near) & (shortest == period)
        shortest[back] = k
    return shortest


def cycle_multipliers(field: SelfMap, point: Tensor, period: int) -> NDArray[np.complex128]:
    """Multipliers of a turn from one point ``(d,)``, largest modulus first: all of them up to 64 dimensions.

    Shape ``(min(d, 64),)``.
    """
    multipliers = leading_multipliers(field.power(period), point[None], count=min(len(point), 64))
    return as_array(multipliers[0], np.complex128)


def is_neutral(
    field: SelfMap, point: Tensor, period: int, scale: float, settings: SearchSettings = SEARCH
) -> bool:
    """Whether an orbit closes exactly after ``period`` steps, and its turn neither attracts nor repels.

    A quasi-periodic orbit passes close to its start as well, but never that close.

    Parameters
    ----------
    field
        The map, in the precision of ``point``.
    point
        A point of the orbit, shape ``(d,)``.
    period
        Steps after which it returns.
    scale
        Scale of the starts.
    settings
        Settings of the search.
    """
    if period * len(point) > settings.classification.cycle_max_work:
        return False
    returned = field.power(period)(point[None])[0]
    eps = torch.finfo(point.dtype).eps
    allowed = max(settings.classification.neutral_return, 64 * eps) * scale
    if not float((returned - point).norm()) <= allowed:
        return False
    leading = float(np.abs(cycle_multipliers(field, point, period)[0]))
    return abs(leading - 1) <= settings.multiplier_margin


def link_cycles(
    field: SelfMap, points: Tensor, period: int, scale: float, settings: SearchSettings = SEARCH
) -> NDArray[np.int64]:
    """The family of each of some neutral cycles of one period.

    Cycles are linked along the shortest tree between their points. A gap is bridged if a walk
    leads through it: short steps towards the other end, each followed by plain iteration, which returns to
    the family. Between two circles, iteration undoes the steps.

    Parameters
    ----------
    field
        The map.
    points
        A point of each cycle, shape ``(n, d)``.
    period
        Their period.
    scale
        Scale of the starts.
    settings
        Settings of the search.

    Returns
    -------
    NDArray
        Number of each cycle's family, from 0 in order of appearance, shape ``(n,)``.
    """
    # scipy takes half a second to import.
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components, minimum_spanning_tree
    from scipy.spatial.distance import cdist

    leaders, member = merge_points(as_array(points, np.float64), settings.merge_tolerance * scale)
    count = min(len(leaders), max(2, settings.classification.family_points // period))
    kept = leaders[np.linspace(0, len(leaders) - 1, count).astype(np.int64)]
    phases = field.trajectory(points[to(torch.from_numpy(kept), points.device)], period - 1)
    cloud = as_array(phases, np.float64).reshape(period * count, -1)  # phase by phase
    cycle = np.tile(np.arange(count), period)
    distance = np.maximum(cdist(cloud, cloud), 1e-12 * scale)
    distance[cycle[:, None] == cycle] = np.inf
    family = np.arange(count)
    while True:
        # The shortest tree between families, of which those that no walk connects are no longer tried.
        between = np.where(family[cycle][:, None] == family[cycle], np.inf, distance)
        tree = minimum_spanning_tree(_closest(between, family[cycle])).tocoo()
        if not tree.nnz:
            break
        ends = np.array([_closest_pair(between, family[cycle], *pair) for pair in zip(tree.row, tree.col)])
        left, right = (_like(cloud[ends[:, side]], points) for side in (0, 1))
        bridged = _bridged(field, left, right, period, settings)
        for a, b in zip(tree.row[~bridged], tree.col[~bridged]):
            apart = np.ix_(family[cycle] == a, family[cycle] == b)
            distance[apart] = distance.T[apart] = np.inf
        joined = coo_array(
            (np.ones(int(bridged.sum())), (tree.row[bridged], tree.col[bridged])), shape=tree.shape
        )
        family = connected_components(joined, directed=False)[1][family]
    if count < len(leaders):
        nearest = cdist(as_array(points, np.float64)[leaders], cloud).argmin(axis=1)
        of_leader = family[cycle[nearest]]
    else:
        of_leader = family
    _, first, number = np.unique(of_leader[member], return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[number].astype(np.int64)


def _closest(distance: NDArray[np.float64], label: NDArray[np.int64]) -> NDArray[np.float64]:
    """Smallest distance between the points of each two labels ``(n,)``, 0 where infinite."""
    order = np.argsort(label, kind="stable")
    first = np.flatnonzero(np.diff(label[order], prepend=-1))
    rows = np.minimum.reduceat(distance[order][:, order], first, axis=0)
    smallest = np.minimum.reduceat(rows, first, axis=1)
    return np.where(np.isfinite(smallest), smallest, 0)


def _closest_pair(distance: NDArray[np.float64], label: NDArray[np.int64], a: int, b: int) -> tuple[int, int]:
    """The closest points of two labels, from distances ``(n, n)``."""
    rows, columns = np.flatnonzero(label == a), np.flatnonzero(label == b)
    i, j = np.unravel_index(distance[np.ix_(rows, columns)].argmin(), (len(rows), len(columns)))
    return int(rows[i]), int(columns[j])


def _bridged(
    field: SelfMap, left: Tensor, right: Tensor, period: int, settings: SearchSettings
) -> NDArray[np.bool_]:
    """Whether a walk along cycles leads from each point to its partner, shapes ``(n, d)`` to ``(n,)``."""
    now, gap = left.clone(), (right - left).norm(dim=1)
    open_ = torch.arange(len(left), device=left.device)
    bridged = torch.zeros(len(left), dtype=torch.bool, device=left.device)
    turns, walk = -(-settings.check_steps // period), settings.classification
    for _ in range(walk.walk_steps):
        ahead = (right - now)[open_]
        distance = ahead.norm(dim=1)
        there = distance <= walk.walk_arrived * gap[open_]
        bridged[open_[there]] = True
        open_, ahead, distance = open_[~there], ahead[~there], distance[~there]
        if not len(open_):
            break
        length = torch.minimum(walk.walk_stride * gap[open_], distance / 2)
        moved = now[open_] + ahead * (length / distance)[:, None]
        for _ in range(turns * period):
            moved = field(moved)
        now[open_] = moved
    return as_array(bridged)


def _like(values: NDArray[np.float64], tensor: Tensor) -> Tensor:
    """An array on the device and in the precision of a tensor."""
    return as_given(values, tensor)
