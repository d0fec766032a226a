"""Quadratic assignment of two sets of nodes, batched over many starts."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment

from repdyn.errors import RepdynError

__all__ = ["assignment_objective", "quadratic_assignment"]

Floats = NDArray[np.float64]
Batch = NDArray[np.float32]
Index = NDArray[np.int64]


@dataclass(frozen=True)
class AssignmentSettings:
    """Settings of :func:`quadratic_assignment`.

    Attributes
    ----------
    enumerated
        Number of nodes up to which all permutations are tried: 720 cost less than the relaxation.
    relaxation_steps
        Frank-Wolfe steps per start; most starts have converged by then, and 2-opt completes the rest.
    spread
        Distance of a start from the barycenter towards a random doubly stochastic matrix. Not studied.
    """

    enumerated: int = 6
    relaxation_steps: int = 25
    spread: float = 0.5


ASSIGNMENT = AssignmentSettings()


def quadratic_assignment(
    a: ArrayLike,
    b: ArrayLike,
    unary: ArrayLike | None = None,
    starts: int = 32,
    polished: int = 4,
    seed: int = 0,
) -> tuple[Index, Floats]:
    r"""Match nodes so that their inner products agree, from many starts at once.

    .. math:: \max_\pi \sum_{l} \sum_{i,j} A^l_{ij} B^l_{\pi(i)\pi(j)} + \sum_i U_{i\pi(i)}

    Each start relaxes the permutation to a doubly stochastic matrix and climbs by Frank-Wolfe steps with
    exact line search (FAQ); all starts share their matrix products. The best are polished by 2-opt.

    Parameters
    ----------
    a, b
        Symmetric matrices over the two node sets, shapes ``(L, n, n)`` and ``(L, n, n)``; ``(n, n)`` is
        one layer. Sets of unequal size are padded with rows of zeros, which stand for "unmatched".
    unary
        Gain of matching node i with node j, shape ``(n, n)``.
    starts
        Random starts; the first is the barycenter.
    polished
        How many of the best are polished and returned.
    seed
        Of the starts.

    Returns
    -------
    permutations : (polished, n) array
        Node of b for each node of a, best first.
    objectives : (polished,) array

    Raises
    ------
    RepdynError
        On matrices that are not square, finite and of one shape.

    References
    ----------
    Vogelstein, J. et al. (2015). Fast approximate quadratic programming for graph matching. PLOS ONE 10(4).
    """
    left, right = (np.atleast_3d(np.asarray(m, dtype=np.float64)) for m in (a, b))
    if np.ndim(a) == 2:
        left, right = left.transpose(2, 0, 1), right.transpose(2, 0, 1)
    if left.ndim != 3 or left.shape != right.shape or left.shape[1] != left.shape[2] or left.shape[1] == 0:
        raise RepdynError(
            f"quadratic_assignment: a and b need one shape (L, n, n), got {np.shape(a)} and {np.shape(b)}"
        )
    size = left.shape[1]
    gain = np.zeros((size, size)) if unary is None else np.asarray(unary, dtype=np.float64)
    if gain.shape != (size, size) or not all(np.isfinite(m).all() for m in (left, right, gain)):
        raise RepdynError(f"quadratic_assignment: a, b and unary ({size}, {size}) must be finite")
    generator = np.random.default_rng(seed)
    if size <= ASSIGNMENT.enumerated:
        found = np.array(list(itertools.permutations(range(size))))
    else:
        found = _relax(left, right, gain, _starts(size, max(1, starts), generator))
    values = np.array([assignment_objective(left, right, p, gain) for p in found])
    # Stable order, and each permutation once: polishing a copy would give the same result.
    order = np.argsort(-values, kind="stable")
    _, first = np.unique(found[order], axis=0, return_index=True)
    best = found[order][np.sort(first)][:polished]
    best = np.stack([_two_opt(left, right, gain, p) for p in best])
    values = np.array([assignment_objective(left, right, p, gain) for p in best])
    order = np.argsort(-values, kind="stable")
    return best[order], values[order]


def assignment_objective(a: Floats, b: Floats, permutation: Index, unary: Floats | None = None) -> float:
    """The objective of :func:`quadratic_assignment` at one permutation, matrices of shape ``(L, n, n)``."""
    value = float((a * b[:, permutation][:, :, permutation]).sum())
    return value if unary is None else value + float(unary[np.arange(len(permutation)), permutation].sum())


def _starts(size: int, count: int, generator: np.random.Generator) -> Batch:
    """Doubly stochastic matrices ``(count, size, size)``; the first is the barycenter."""
    noise = generator.random((count, size, size), dtype=np.float32)
    for _ in range(10):  # Sinkhorn balancing; ten rounds leave row sums within a percent
        noise /= noise.sum(2, keepdims=True)
        noise /= noise.sum(1, keepdims=True)
    noise[0] = 1 / size
    return np.asarray((1 - ASSIGNMENT.spread) / size + ASSIGNMENT.spread * noise, dtype=np.float32)


def _relax(left: Floats, right: Floats, gain: Floats, relaxed: Batch) -> Index:
    """Permutations ``(S, n)`` that Frank-Wolfe ascent from doubly stochastic starts ``(S, n, n)`` ends at."""
    # Single precision: the relaxation only proposes, objectives are computed in double.
    a, b, unary = (m.astype(np.float32) for m in (left, right, gain))
    active = np.arange(len(relaxed))
    rows = np.arange(a.shape[1])
    for _ in range(ASSIGNMENT.relaxation_steps):
        current = relaxed[active]
        gradient = 2 * _sandwich(a, current, b) + unary
        vertex = np.zeros_like(current)
        for k, matrix in enumerate(gradient):
            vertex[k, rows, linear_sum_assignment(matrix, maximize=True)[1]] = 1
        direction = vertex - current
        slope = (direction * gradient).sum((1, 2))
        curvature = (direction * _sandwich(a, direction, b)).sum((1, 2))
        inner = np.clip(-slope / (2 * np.minimum(curvature, -1e-12)), 0, 1)
        step = np.where(slope <= 0, 0, np.where(curvature < 0, inner, 1)).astype(np.float32)
        relaxed[active] = current + step[:, None, None] * direction
        active = active[step * np.abs(direction).max((1, 2)) > 1e-3]
        if len(active) == 0:
            break
    return np.stack([linear_sum_assignment(matrix, maximize=True)[1] for matrix in relaxed])


def _sandwich(a: Batch, p: Batch, b: Batch) -> Batch:
    """Sum over layers of ``A^l P B^l``, for P of shape ``(S, n, n)``."""
    total = np.zeros_like(p)
    for one, other in zip(a, b):
        total += np.matmul(np.matmul(one, p), other)
    return total


def _two_opt(a: Floats, b: Floats, unary: Floats, permutation: Index) -> Index:
    r"""Swap the pair with the highest gain until no swap gains.

    With zero diagonals, M = B permuted and P = A M, swapping i and j gains
    :math:`2 \sum_l (P_{ij} + P_{ji} - P_{ii} - P_{jj} + 2 A_{ij} M_{ij})` and the linear part. Both sums over
    layers are updated after a swap, which takes n² operations instead of n³.
    """
    p = permutation.copy()
    rows = np.arange(len(p))
    # The diagonals contribute linearly: A_ii B_kk where node i is matched with node k.
    linear = unary + np.einsum("li,lk->ik", *(np.diagonal(m, axis1=1, axis2=2) for m in (a, b)))
    a, moved = a.copy(), b[:, p][:, :, p]
    a[:, rows, rows] = 0
    moved[:, rows, rows] = 0
    linear = linear[:, p]
    product, entrywise = (a @ moved).sum(0), (a * moved).sum(0)
    for _ in range(10 * len(p)):
        gains = 2 * (product + entrywise) + linear
        gains += gains.T
        kept = np.diag(2 * product + linear)
        gains -= kept[:, None] + kept
        gains[rows, rows] = 0
        i, j = np.unravel_index(int(gains.argmax()), gains.shape)
        if gains[i, j] <= 1e-9 * max(1.0, float(np.abs(gains).max())):
            break
        product += (a[:, :, j] - a[:, :, i]).T @ (moved[:, i] - moved[:, j])
        product[:, [i, j]] = product[:, [j, i]]
        moved[:, [i, j]] = moved[:, [j, i]]
        moved[:, :, [i, j]] = moved[:, :, [j, i]]
        linear[:, [i, j]] = linear[:, [j, i]]
        changed = (a[:, [i, j]] * moved[:, [i, j]]).sum(0)
        entrywise[[i, j]], entrywise[:, [i, j]] = changed, changed.T
        p[[i, j]] = p[[j, i]]
    return p
