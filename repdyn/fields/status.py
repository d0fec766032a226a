"""What became of each start, in words, and how orbits that did not settle are told apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from repdyn.fields.field import LatentField
from repdyn.reading import as_array

__all__ = ["STATUSES", "Orbits", "follow_orbits", "lyapunov_exponents", "name_orbits"]

FIXED, SLOW, CYCLE, CIRCLE = "fixed point", "slow point", "cycle", "invariant circle"
CHAOTIC, DIVERGED, BUDGET = "chaotic", "diverged", "budget spent"
STATUSES = (FIXED, SLOW, CYCLE, CIRCLE, CHAOTIC, DIVERGED, BUDGET)

BLOCKS = 8
"""An exponent's interval comes from means over this many blocks of the orbit."""
T_QUANTILE = 2.365
"""97.5 % point of Student's t with seven degrees of freedom."""
NEUTRAL = 2e-3
"""A chaotic set expands, and a circle contracts across itself, by more than this at each step."""
ZERO = 1e-5
"""The exponent along a circle, averaged smoothly, is nearer to zero than this in single precision."""
STEADY = 0.02
"""Steps of a steady orbit keep their mean (log) length from one half of the orbit to the other."""
LENGTHENING = 0.5
"""Steps of chaos lengthen, from one half to the other, by less than this share of what neighbours part by."""
RETURN = 0.3
"""The second half of a circle's orbit lies this close, in units of its radius, to the first half; that of a
straight drift lies three times as far."""


@dataclass(frozen=True, eq=False)
class Orbits:
    """Stretches of orbit and how they stretch space.

    Attributes
    ----------
    points
        Shape ``(W + 1, N, d)``.
    growth
        Logarithmic growth per step of the leading directions, shape ``(W, N, k)``; k is 2, or 1 where d is 1.
    """

    points: Tensor
    growth: Tensor


def follow_orbits(field: LatentField, z: Tensor, steps: int, *, seed: int = 0) -> Orbits:
    """Follow orbits with two tangent directions each, kept orthogonal.

    Parameters
    ----------
    field
        The map.
    z
        Shape ``(N, d)``.
    steps
        Length W of the orbits.
    seed
        Of the first tangent directions.

    References
    ----------
    Benettin, Galgani, Giorgilli, Strelcyn (1980). Lyapunov characteristic exponents. Meccanica 15.
    """
    n, d = z.shape
    k = min(2, d)
    generator = torch.Generator().manual_seed(seed)
    directions = torch.linalg.qr(torch.randn((d, k), generator=generator, dtype=torch.float64))[0]
    tangent = directions.to(z).T[:, None].expand(k, n, d).contiguous()
    points, growth = z.new_empty((steps + 1, n, d)), z.new_empty((steps, n, k))
    points[0] = z
    tiny = torch.finfo(z.dtype).tiny
    for t in range(steps):
        points[t + 1], apply = field.linearize(points[t])
        stretched = torch.stack([apply(tangent[j]) for j in range(k)])
        for j in range(k):
            vector = stretched[j]
            for i in range(j):
                vector = vector - (vector * tangent[i]).sum(dim=1, keepdim=True) * tangent[i]
            length = vector.norm(dim=1).clamp_min(tiny)
            growth[t, :, j] = length.log()
            tangent[j] = vector / length[:, None]
    return Orbits(points, growth)


def lyapunov_exponents(growth: NDArray[np.floating]) -> NDArray[np.float64]:
    r"""Lyapunov exponents and their 95 % intervals from growth per step.

    .. math:: \lambda = \sum_t w_t \log \lVert J_t v_t \rVert, \quad
              w_t \propto \exp\!\left(-\frac{1}{s(1-s)}\right), \ s = \tfrac{t + 1}{W + 1}

    The smooth weights make averages over quasi-periodic orbits converge faster than any power of the
    length, so that circles are told from slow spirals. The interval is Student's over block means.

    Parameters
    ----------
    growth
        Shape ``(W, N, k)``.

    Returns
    -------
    NDArray
        Value, low and high, shape ``(N, k, 3)``.

    References
    ----------
    Das, Saiki, Sander, Yorke (2017). Quantitative quasiperiodicity. Nonlinearity 30.
    """
    growth = as_array(growth, dtype=np.float64)
    blocks = growth[: len(growth) // BLOCKS * BLOCKS].reshape(BLOCKS, -1, *growth.shape[1:]).mean(axis=1)
    margin = T_QUANTILE * blocks.std(axis=0, ddof=1) / np.sqrt(BLOCKS)
    value = _smooth_mean(growth)
    return np.stack([value, value - margin, value + margin], axis=-1)


def name_orbits(
    orbits: Orbits, exponents: NDArray[np.float64], scale: float
) -> tuple[NDArray[np.str_], NDArray[np.bool_]]:
    """Tell chaos, invariant circles, slow points and orbits still under way apart.

    Chaos: the interval of the leading exponent lies above zero, and steps do not lengthen by it. Invariant
    circle: leading exponent zero, steps of steady length, and the orbit comes back near where it was.
    Whatever takes only small steps is a slow point; the rest spent its budget.

    Parameters
    ----------
    orbits
        N orbits.
    exponents
        As :func:`lyapunov_exponents` gives, shape ``(N, k, 3)``.
    scale
        The data's; a step below a thousandth of it is slow.

    Returns
    -------
    names, attracting
        Shape ``(N,)`` each. Circles attract where the second exponent is negative: a pure rotation puts
        every start on a circle of its own and attracts nothing.
    """
    # scipy is half a second to import: here, not with the room.
    from scipy.spatial import cKDTree

    points = as_array(orbits.points, np.float64)
    length = np.linalg.norm(np.diff(points, axis=0), axis=2)
    half = len(length) // 2
    names, attracting = [], []
    for i in range(points.shape[1]):
        orbit, (value, low, high) = points[:, i], exponents[i, 0]
        neutral = low <= 0 <= high or abs(value) <= ZERO
        extent = float(np.sqrt(((orbit - orbit.mean(axis=0)) ** 2).sum(axis=1).mean()))
        logs = np.log(np.maximum(length[:, i], 1e-300))
        change = abs(_smooth_mean(logs[:half]) - _smooth_mean(logs[half : 2 * half]))
        steady = change <= STEADY
        gap = np.median(cKDTree(orbit[:half]).query(orbit[half:])[0]) if extent > 0 else np.inf
        slow = float(length[-1, i]) <= 1e-3 * scale
        # Where the whole map expands, steps lengthen as neighbours part: that is no chaos.
        if low > NEUTRAL and change <= LENGTHENING * value * half:
            name = CHAOTIC
        elif neutral and steady and gap <= RETURN * extent:
            name = CIRCLE
        else:
            name = SLOW if slow else BUDGET
        names.append(name)
        second = exponents[i, 1, 2] if exponents.shape[1] > 1 else -np.inf
        attracting.append(name == CHAOTIC or (name == CIRCLE and second < -NEUTRAL))
    return np.asarray(names, dtype=np.str_), np.asarray(attracting, dtype=np.bool_)


def orbit_features(points: NDArray[np.floating]) -> NDArray[np.float64]:
    """Mean of an orbit and its spread along fixed random directions: what one set has wherever it is entered.

    Parameters
    ----------
    points
        Shape ``(W + 1, N, d)``.

    Returns
    -------
    NDArray
        Shape ``(N, 2 d)``.
    """
    points = np.asarray(points, dtype=np.float64)
    d = points.shape[2]
    directions = np.linalg.qr(np.random.default_rng(0).standard_normal((d, d)))[0]
    mean = _smooth_mean(points)
    spread = np.sqrt(np.maximum(_smooth_mean(((points - mean) @ directions) ** 2), 0))
    return np.concatenate([mean, spread], axis=1)


def _smooth_mean(values: NDArray[np.floating]) -> NDArray[np.float64]:
    s = np.arange(1, len(values) + 1) / (len(values) + 1)
    weight = np.exp(-1 / (s * (1 - s)))
    averaged: NDArray[np.float64] = np.tensordot(weight / weight.sum(), values, axes=(0, 0))
    return averaged
