"""From starts to attractors: follow, verify, merge, and name what did not settle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from repdyn.errors import RepdynError
from repdyn.fields.attractors import Attractors
from repdyn.fields.field import LatentField
from repdyn.fields.merging import count_sweep, merge_points
from repdyn.fields.solvers import ESCAPED, MOVING, RECURRENT, SETTLED, picard
from repdyn.fields.status import (
    BUDGET,
    CHAOTIC,
    CIRCLE,
    CYCLE,
    DIVERGED,
    FIXED,
    SLOW,
    follow_orbits,
    lyapunov_exponents,
    name_orbits,
    orbit_features,
)
from repdyn.fields.verifying import MERGE, VerifiedPoints, verify_points

__all__ = ["find_attractors"]

ESCAPE = 100.0
"""A sample this many times further out than any start has left for good."""
NEAR = 1e-3
"""Steps this small, relative to the scale, are worth polishing even where the tolerance was not met."""
ORBIT = 256
"""Steps for which orbits that did not settle are followed."""
CROWD = 2**23
"""Numbers in a batch of orbits."""


@dataclass(frozen=True, eq=False)
class _Place:
    """One attractor under construction."""

    point: NDArray[np.float64]
    kind: str
    members: NDArray[np.int64]
    lyapunov: NDArray[np.float64]
    radius: float
    period: int = 0
    residual: float = float("nan")
    multipliers: NDArray[np.complex128] | None = None


def find_attractors(
    field: LatentField, z0: Any, *, tol: float = 1e-5, max_steps: int = 3000, seed: int = 0
) -> Attractors:
    r"""Iterate a field from many starts and say what was reached, and what was not.

    Plain iteration :math:`z_{t+1} = f(z_t)` decides where a start goes. What settles is merged, polished
    by Newton's method in float64 where the map allows, and called an attractor only if plain iteration
    keeps approaching the polished point and every multiplier there is below one in modulus. What recurs
    is verified as a cycle in the same way. What does neither is followed further and told apart by its
    Lyapunov exponents.

    Parameters
    ----------
    field
        The map, deterministic, samples independent (networks in evaluation mode).
    z0
        Starts, tensor or array, shape ``(N, d)``.
    tol
        A start has settled when its step is this short, relative to the scale of the starts.
    max_steps
        Plain steps allowed for each start.
    seed
        Of the directions that multipliers and exponents start from.

    Returns
    -------
    Attractors

    Raises
    ------
    RepdynError
        On starts that are not finite or not ``(N, d)``, on a map of another shape, one that gives NaN
        everywhere, or one whose result for a sample depends on the other samples or on chance.

    Examples
    --------
    >>> import torch
    >>> found = LatentField(lambda z: 0.5 * z + 1).attractors(torch.tensor([[0.0, 0.0], [1.0, 3.0]]))
    >>> found.points.round(3).tolist(), found.verdict
    ([[2.0, 2.0]], 'found')

    References
    ----------
    Fumero et al. (2025), arXiv 2505.22785, section 3; Radhakrishnan, Belkin, Uhler (2020). Overparameterized
    neural networks implement associative memory. PNAS 117.
    """
    starts = _check_starts(z0, tol, max_steps)
    count = [0]
    plain = _counted(field.step, count)
    centre, scale, reach = _geometry(starts)
    _check_map(plain, starts, scale)
    in_double = field.double(starts)
    exact = plain if in_double is None else _counted(in_double.step, count)
    precise = starts.dtype if in_double is None else torch.float64

    escape = ESCAPE * reach
    run = picard(plain, starts, tolerance=tol * scale, max_steps=max_steps, centre=centre, escape=escape)
    z, steps = run.z, run.steps
    outcome, lag, residual = _numpy(run.outcome), _numpy(run.lag), _numpy(run.residual).astype(np.float64)
    status = np.full(len(starts), BUDGET, dtype="<U16")
    places: list[_Place] = []
    polished = [np.zeros((0, starts.shape[1]))]

    # A cycle of period p is a fixed point of the p-th iterate.
    recurrent = outcome == RECURRENT
    for period in np.unique(lag[recurrent]).tolist():
        chosen = np.flatnonzero(recurrent & (lag == period))
        ends = _canonical_phase(exact, z[_index(chosen, z)].to(precise), period)
        checked = verify_points(exact.power(period), ends, residual[chosen], scale, seed=seed)
        proper = _shortest_period(exact, checked.points, period, MERGE * scale) == period
        _gather(places, polished, exact, checked, chosen, checked.stable & proper, CYCLE, period, scale)
        status[chosen[(checked.stable & proper)[checked.member]]] = CYCLE
    # A slow spiral comes back near itself too; it goes on as if it had not been stopped.
    stopped = np.flatnonzero(recurrent & (status != CYCLE))
    if len(stopped):
        where = _index(stopped, z)
        left = max(1, max_steps - int(steps[where].min()))
        more = picard(
            plain, z[where], tolerance=tol * scale, max_steps=left, centre=centre, escape=escape, max_period=0
        )
        z[where], steps[where] = more.z, steps[where] + more.steps
        outcome[stopped], residual[stopped] = _numpy(more.outcome), _numpy(more.residual)

    status[outcome == ESCAPED] = DIVERGED
    status[outcome == SETTLED] = SLOW
    chosen = np.flatnonzero((outcome == SETTLED) | ((outcome == MOVING) & (residual <= NEAR * scale)))
    saddles, marginal = np.zeros((0, starts.shape[1])), 0
    if len(chosen):
        checked = verify_points(exact, z[_index(chosen, z)].to(precise), residual[chosen], scale, seed=seed)
        _gather(places, polished, exact, checked, chosen, checked.stable, FIXED, 1, scale)
        named = checked.stable | checked.saddle | checked.marginal
        status[chosen[named[checked.member]]] = FIXED
        marginal = int(checked.marginal[checked.member].sum())
        saddles = _numpy(checked.points)[checked.saddle].astype(np.float64)
        saddles = saddles[merge_points(saddles, MERGE * scale)[0]]

    # What neither settled nor recurred to something verified.
    under_way = np.flatnonzero(status == BUDGET)
    neutral = 0
    if len(under_way):
        rest, neutral = _follow_rest(plain, z, under_way, status, scale, min(ORBIT, max_steps), seed)
        places += rest

    places.sort(key=lambda place: (-len(place.members), place.kind))
    basin = np.full(len(starts), -1, dtype=np.int64)
    for a, place in enumerate(places):
        basin[place.members] = a
    d = starts.shape[1]
    k = max((len(p.multipliers) for p in places if p.multipliers is not None), default=0)
    blank = np.full(k, np.nan, dtype=np.complex128)
    points = np.array([p.point for p in places], dtype=np.float64).reshape(-1, d)
    sweep = count_sweep(np.concatenate(polished), scale)
    furthest = np.linalg.norm(points - _numpy(centre).astype(np.float64), axis=1)
    held = float((basin >= 0).mean())
    return Attractors(
        points=points,
        kind=tuple(p.kind for p in places),
        period=np.array([p.period for p in places], dtype=np.int64),
        radius=np.array([p.radius for p in places], dtype=np.float64),
        supported=furthest <= 1.1 * reach,
        point_residual=np.array([p.residual for p in places], dtype=np.float64),
        multipliers=np.array(
            [blank if p.multipliers is None else p.multipliers for p in places], dtype=np.complex128
        ).reshape(len(places), k),
        lyapunov=np.array([p.lyapunov for p in places], dtype=np.float64).reshape(-1, 3),
        saddles=saddles,
        basin=basin,
        status=status.astype(np.str_),
        residual=residual,
        steps=_numpy(steps),
        starts=_numpy(starts).astype(np.float64),
        ends=_numpy(z).astype(np.float64),
        counts=np.array([[t, c] for t, c in sweep.items()], dtype=np.float64),
        scale=scale,
        evaluations=count[0],
        tolerance=tol,
        max_steps=max_steps,
        solver="picard",
        notes=_notes(len(starts), places, marginal, neutral, status, steps, basin, furthest > 1.1 * reach),
        verdict="not found" if not places else "found" if held >= 0.5 else "inconclusive",
    )


def _gather(
    places: list[_Place],
    polished: list[NDArray[np.float64]],
    field: LatentField,
    checked: VerifiedPoints,
    chosen: NDArray[np.int64],
    stable: NDArray[np.bool_],
    kind: str,
    period: int,
    scale: float,
) -> None:
    """Merge what proved stable once more, now that it is polished, and add it to the places."""
    points = _numpy(checked.points).astype(np.float64)
    polished.append(points[stable])
    index = np.flatnonzero(stable)
    leaders, group = merge_points(points[stable], MERGE * scale)
    for g, leader in enumerate(index[leaders]):
        orbit = _numpy(field.trajectory(checked.points[leader : leader + 1], period - 1))[:, 0]
        growth = np.log(max(abs(checked.multipliers[leader, 0]), 1e-300)) / period
        places.append(
            _Place(
                point=points[leader],
                kind=kind,
                members=chosen[np.isin(checked.member, index[group == g])],
                lyapunov=np.full(3, growth),
                radius=float(np.sqrt(orbit.var(axis=0).sum())),
                period=period,
                residual=float(checked.residual[leader]),
                multipliers=checked.multipliers[leader],
            )
        )


def _follow_rest(
    field: LatentField,
    ends: Tensor,
    chosen: NDArray[np.int64],
    status: NDArray[Any],
    scale: float,
    steps: int,
    seed: int,
) -> tuple[list[_Place], int]:
    """Name the orbits still under way (into ``status``) and gather those that fill an attracting set."""
    names, attracting, exponents, features, spread = [], [], [], [], []
    crowd = max(1, CROWD // ((steps + 1) * ends.shape[1]))
    for block in np.split(chosen, range(crowd, len(chosen), crowd)):
        orbits = follow_orbits(field, ends[_index(block, ends)], max(16, steps), seed=seed)
        exponent = lyapunov_exponents(_numpy(orbits.growth))
        name, attracts = name_orbits(orbits, exponent, scale)
        points = _numpy(orbits.points)
        names.append(name)
        attracting.append(attracts)
        exponents.append(exponent[:, 0])
        features.append(orbit_features(points))
        spread.append(np.sqrt(points.var(axis=0).sum(axis=1)))
    status[chosen] = np.concatenate(names)
    attracts, exponent = np.concatenate(attracting), np.concatenate(exponents)
    feature, size = np.concatenate(features), np.concatenate(spread)
    places = []
    # Averages over a chaotic orbit of this length scatter by a tenth of its size, over a circle far less.
    for kind, share in ((CIRCLE, 0.05), (CHAOTIC, 0.3)):
        index = np.flatnonzero(attracts & (status[chosen] == kind))
        leaders, group = merge_points(
            feature[index], share * float(np.median(size[index])) if len(index) else 0
        )
        for g, leader in enumerate(index[leaders]):
            places.append(
                _Place(
                    point=_numpy(ends[chosen[leader]]).astype(np.float64),
                    kind=kind,
                    members=chosen[index[group == g]],
                    lyapunov=exponent[leader],
                    radius=float(size[leader]),
                )
            )
    return places, int(((status[chosen] == CIRCLE) & ~attracts).sum())


def _notes(
    n: int,
    places: list[_Place],
    marginal: int,
    neutral: int,
    status: NDArray[Any],
    steps: Tensor,
    basin: NDArray[np.int64],
    outside: NDArray[np.bool_],
) -> tuple[str, ...]:
    notes = []
    if marginal == n and bool((steps == 1).all()):
        notes.append("every point is fixed: the map is the identity on these starts and attracts nothing")
    elif marginal:
        notes.append(
            f"{marginal} of {n} starts end on fixed points that attract nothing (leading multiplier 1): "
            "a continuum of fixed points"
        )
    if neutral:
        notes.append(f"{neutral} of {n} starts go round circles of their own that attract nothing")
    diverged = int((status == DIVERGED).sum())
    if diverged:
        notes.append(f"{diverged} of {n} starts diverged: the map expands there")
    open_ = int(np.isin(status, (SLOW, BUDGET)).sum())
    if open_:
        notes.append(f"{open_} of {n} starts did not reach an attractor within the budget")
    if n > 1 and len(places) == 1 and int((basin == 0).sum()) == n:
        notes.append("one attractor holds every start: destinations tell nothing about the starts")
    if n >= 10 and len(places) >= 0.8 * n:
        notes.append("about as many attractors as starts: more starts would find more")
    if bool(outside.any()):
        notes.append(
            f"{int(outside.sum())} attractors lie outside the range of the starts, unsupported by data"
        )
    return tuple(notes)


def _counted(step: Callable[[Tensor], Tensor], count: list[int]) -> LatentField:
    def counting(z: Tensor) -> Tensor:
        count[0] += len(z)
        return step(z)

    return LatentField(counting)


def _numpy(x: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = x.detach().cpu().numpy()
    return array


def _check_starts(z0: Any, tol: float, max_steps: int) -> Tensor:
    starts = torch.as_tensor(z0).detach()
    if starts.ndim != 2 or 0 in starts.shape or not starts.is_floating_point():
        raise RepdynError(
            f"z0: starts must be floating point of shape (N, d), got {starts.dtype} {tuple(starts.shape)}"
        )
    broken = (~torch.isfinite(starts).all(dim=1)).nonzero()
    if len(broken):
        raise RepdynError(
            f"z0: start {int(broken[0])} is not finite ({len(broken)} of {len(starts)} are not)"
        )
    if not tol > 0:
        raise RepdynError(f"tol: must be above 0, got {tol}")
    if max_steps < 1:
        raise RepdynError(f"max_steps: must be at least 1, got {max_steps}")
    return starts


def _geometry(starts: Tensor) -> tuple[Tensor, float, float]:
    """Centre, scale and reach of the starts; one start, or equal ones, give no scale but their own size."""
    centre = starts.mean(dim=0)
    distance = (starts - centre).norm(dim=1).double()
    scale, reach = float(distance.square().mean().sqrt()), float(distance.max())
    if scale <= 1e-6 * float(centre.norm()) or scale == 0:
        scale = reach = float(centre.norm()) or 1.0
    return centre, scale, reach


def _check_map(field: LatentField, starts: Tensor, scale: float) -> None:
    together, alone = field(starts[:4]), field(starts[:1])
    if not bool(torch.isfinite(field(starts)).any()):
        raise RepdynError("step: the map gives no finite value at any start; look for NaN in its weights")
    difference = float((together[:1] - alone).abs().max())
    if difference > 1e-3 * scale:
        raise RepdynError(
            f"step: the image of start 0 changes by {difference:.2g} with the rest of the batch or from call "
            "to call; put the networks into evaluation mode (dropout, batch normalisation)"
        )


def _canonical_phase(field: LatentField, ends: Tensor, period: int) -> Tensor:
    """The point of each cycle that is furthest along a fixed direction, so that phases of one cycle merge."""
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(ends.shape[1], generator=generator, dtype=torch.float64).to(ends)
    orbit = field.trajectory(ends, period - 1)
    best = (orbit @ direction).argmax(dim=0)
    return orbit[best, torch.arange(len(ends), device=ends.device)]


def _shortest_period(field: LatentField, points: Tensor, period: int, near: float) -> NDArray[np.int64]:
    shortest = np.full(len(points), period, dtype=np.int64)
    image = points
    for k in range(1, period):
        image = field(image)
        back = _numpy((image - points).norm(dim=1) <= near) & (shortest == period)
        shortest[back] = k
    return shortest


def _index(chosen: NDArray[np.int64], like: Tensor) -> Tensor:
    return torch.from_numpy(chosen).to(like.device)
