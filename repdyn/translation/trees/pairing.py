"""Two ways to pair leaves: all leaves by the angles between them, or those whose distances agree.

:func:`whole_pairs` matches whole sets by quadratic assignment. :func:`shared_pairs` finds the part that two
sets have in common, where each has leaves that the other lacks. Each has a function that scores surrogates.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from repdyn.errors import RepdynError
from repdyn.translation.trees.assignment import quadratic_assignment
from repdyn.translation.trees.leaves import Leaves, MatchedLeaves, cosines, standardized, trait_agreement
from repdyn.translation.trees.nulls import (
    coarse_surrogate,
    groups_of,
    random_surrogate,
    shuffled_surrogate,
)
from repdyn.translation.trees.settings import PAIRING

__all__ = [
    "consistent_pairs",
    "distance_correlation",
    "log_distances",
    "shared_by_chance",
    "shared_pairs",
    "whole_by_chance",
    "whole_pairs",
]

Floats = NDArray[np.float64]
Index = NDArray[np.int64]


def shared_pairs(a: Leaves, b: Leaves, generator: np.random.Generator) -> MatchedLeaves:
    """Match the leaves that two sets have in common.

    Parameters
    ----------
    a, b
        Leaves whose ``form`` is not normalized: distances between directions depend on the common mean.
    generator
        Of bootstraps.
    """
    score, pairs = consistent_pairs(log_distances(a.form), log_distances(b.form), PAIRING.tolerance)
    votes = np.zeros((len(a.mass), len(b.mass)))
    for _ in range(PAIRING.resampled):
        (_, one), (_, other) = a.resampled(generator), b.resampled(generator)
        _, again = consistent_pairs(log_distances(one), log_distances(other), PAIRING.tolerance)
        votes[again[:, 0], again[:, 1]] += 1 / PAIRING.resampled
    confidence = votes[pairs[:, 0], pairs[:, 1]]
    objective = distance_correlation(a, b, pairs)
    traits = trait_agreement(a.traits[pairs[:, 0]], b.traits[pairs[:, 1]])
    return MatchedLeaves(a, b, pairs, confidence, objective, traits, score)


def shared_by_chance(a: Leaves, b: Leaves, generator: np.random.Generator) -> tuple[float, ...]:
    """Scores of the common part of a and one surrogate of b, for each null.

    Parameters
    ----------
    a, b
        As in :func:`shared_pairs`.
    generator
        Of surrogates.
    """
    here, there = log_distances(a.form), log_distances(b.form)
    others = (
        log_distances(random_surrogate(b.form, generator)),
        log_distances(coarse_surrogate(b.mass, b.form, generator)),
        shuffled_surrogate(there, groups_of(b.mass, b.form), generator),
    )
    return tuple(consistent_pairs(here, other, PAIRING.tolerance)[0] for other in others)


def distance_correlation(a: Leaves, b: Leaves, pairs: Index) -> float:
    """Correlation of the log-distances between matched leaves."""
    i, j = pairs.T
    upper = np.triu_indices(len(pairs), 1)
    one, other = log_distances(a.form)[np.ix_(i, i)][upper], log_distances(b.form)[np.ix_(j, j)][upper]
    spread = float(one.std() * other.std())
    return float(((one - one.mean()) * (other - other.mean())).mean()) / spread if spread > 0 else 0.0


def log_distances(form: Floats) -> Floats:
    """Logarithms of distances between rows about their median, shape ``(n, n)``; zero on the diagonal.

    Distances do not depend on the common mean, which changes with missing leaves. Logarithms turn a change of
    unit into a shift.
    """
    squares = (form**2).sum(1)
    apart = np.maximum(squares[:, None] + squares - 2 * form @ form.T, 0.0)
    upper = np.triu_indices(len(form), 1)
    floor = 1e-12 * max(float(np.median(apart[upper])), 1e-300)
    logarithms = 0.5 * np.log(np.maximum(apart, floor))
    logarithms -= np.median(logarithms[upper])
    np.fill_diagonal(logarithms, 0.0)
    return np.asarray(logarithms)


def consistent_pairs(a: Floats, b: Floats, tolerance: float) -> tuple[float, Index]:
    r"""Pairs of leaves whose distances agree with one another; all others stay unmatched.

    .. math:: W_{(i,j),(k,l)} = \exp\Big(-\frac{(\log d^A_{ik} - \log d^B_{jl} - s)^2}{2\sigma^2}\Big),
              \qquad i \ne k,\; j \ne l

    measures how well two pairs agree. A random walk over the graph of all pairs, reweighted towards
    assignments (each leaf in one pair), concentrates where many pairs agree. Of the assignment it ends in,
    pairs that agree with less than half of the others are dropped, worst first. The shift s, a change of
    unit, is then estimated from the kept pairs, and the procedure is repeated once.

    Parameters
    ----------
    a, b
        :func:`log_distances` of both, shapes ``(n, n)`` and ``(m, m)``.
    tolerance
        σ: at .05, distances that differ by a twentieth agree well.

    Returns
    -------
    score : float
        Sum of the agreements of kept pairs over its highest possible value, from 0 to 1.
    pairs : (P, 2) array
        Leaf of a, leaf of b.

    Raises
    ------
    RepdynError
        On fewer than two leaves.

    References
    ----------
    Leordeanu, M. and Hebert, M. (2005). A spectral technique for correspondence problems using pairwise
    constraints. ICCV.
    Cho, M., Lee, J. and Lee, K. M. (2010). Reweighted random walks for graph matching. ECCV.
    """
    if min(len(a), len(b)) < 2:
        raise RepdynError(f"consistent_pairs: {len(a)} and {len(b)} leaves; expected two or more of each")
    shift = 0.0
    for _ in range(PAIRING.rounds):
        graph = _agreement(a, b, shift, tolerance)
        pairs, total = _trimmed(graph, _walked(graph))
        upper = np.triu_indices(len(pairs), 1)
        i, j = pairs.T
        shift = float(np.median((a[np.ix_(i, i)] - b[np.ix_(j, j)])[upper]))
    most = min(len(a), len(b))
    return total / (most * (most - 1)), pairs


def _agreement(a: Floats, b: Floats, shift: float, tolerance: float) -> NDArray[np.float32]:
    """W of :func:`consistent_pairs`, shape ``(n, m, n, m)``."""
    difference = (a[:, None, :, None] - b[None, :, None, :] - shift).astype(np.float32)
    graph = np.exp(-(difference**2) / np.float32(2 * tolerance**2))
    rows, columns = np.arange(len(a)), np.arange(len(b))
    graph[rows, :, rows, :] = 0  # a leaf in two pairs
    graph[:, columns, :, columns] = 0
    return np.asarray(graph)


def _walked(graph: NDArray[np.float32]) -> Floats:
    """Stationary weights of the reweighted random walk, shape ``(n, m)``."""
    shape = graph.shape[:2]
    flat = graph.reshape(shape[0] * shape[1], -1)
    state = np.full(len(flat), 1 / len(flat), dtype=np.float32)
    for _ in range(PAIRING.walk_steps):
        state = flat @ state
        state /= max(float(np.linalg.norm(state)), 1e-30)
        plan = np.exp(PAIRING.sharpness * state.reshape(shape) / max(float(state.max()), 1e-30))
        for _ in range(5):
            plan /= plan.sum(1, keepdims=True)
            plan /= plan.sum(0, keepdims=True)
        state = (1 - PAIRING.jump) * state + PAIRING.jump * plan.ravel() / np.linalg.norm(plan)
    return np.asarray(state.reshape(shape), dtype=np.float64)


def _trimmed(graph: NDArray[np.float32], state: Floats) -> tuple[Index, float]:
    """Pairs of the best assignment without those that disagree with most others; sum of their agreements."""
    i, j = linear_sum_assignment(state, maximize=True)
    agreed = graph[i[:, None], j[:, None], i, j].astype(np.float64)
    kept = np.arange(len(i))
    while len(kept) > min(PAIRING.min_pairs, len(i)):
        mean = agreed[np.ix_(kept, kept)].sum(1) / (len(kept) - 1)
        if mean.min() >= PAIRING.consistent:
            break
        kept = np.delete(kept, int(mean.argmin()))
    total = float(agreed[np.ix_(kept, kept)].sum())
    return np.stack([i[kept], j[kept]], axis=1).astype(np.int64), total


def whole_pairs(a: Leaves, b: Leaves, generator: np.random.Generator) -> MatchedLeaves:
    """Match the leaves so that the angles between them agree, on bootstraps of the points.

    Parameters
    ----------
    a, b
        Leaves, five or more of each.
    generator
        Of starts and bootstraps.
    """
    votes = np.zeros((len(a.mass), len(b.mass)))
    measured = np.empty((PAIRING.restarts, 2))
    for k in range(PAIRING.restarts):
        power = float(generator.uniform(*PAIRING.powers))
        one, other = (cosines(*side.resampled(generator), power) for side in (a, b))
        measured[k, 0], pairs = _matched(one, other, generator)
        measured[k, 1] = trait_agreement(a.traits[pairs[:, 0]], b.traits[pairs[:, 1]])
        votes[pairs[:, 0], pairs[:, 1]] += 1 / PAIRING.restarts
    objective, traits = (float(median) for median in np.median(measured, axis=0))
    score = float(np.median(measured @ [1.0, PAIRING.traits]))
    # The matching that the restarts agree on most, not that with the highest single objective.
    left, right = linear_sum_assignment(votes, maximize=True)
    voted = votes[left, right] > 0
    pairs = np.stack([left[voted], right[voted]], axis=1).astype(np.int64)
    confidence = votes[pairs[:, 0], pairs[:, 1]]
    return MatchedLeaves(a, b, pairs, confidence, objective, traits, score)


def whole_by_chance(a: Leaves, b: Leaves, generator: np.random.Generator) -> tuple[float, ...]:
    """Scores of matching a with one surrogate of b from each null.

    Parameters
    ----------
    a, b
        As in :func:`whole_pairs`.
    generator
        Of starts and surrogates.
    """
    power = float(generator.uniform(*PAIRING.powers))
    here, there = cosines(a.mass, a.form, power), cosines(b.mass, b.form, power)
    scores = []
    for other in (
        cosines(b.mass, random_surrogate(b.form, generator), power),
        cosines(b.mass, coarse_surrogate(b.mass, b.form, generator), power),
        shuffled_surrogate(there, groups_of(b.mass, b.form), generator),
    ):
        objective, pairs = _matched(here, other, generator)
        traits = trait_agreement(a.traits[pairs[:, 0]], b.traits[pairs[:, 1]])
        scores.append(objective + PAIRING.traits * traits)
    return tuple(scores)


def _matched(a: Floats, b: Floats, generator: np.random.Generator) -> tuple[float, Index]:
    """One matching of two matrices of cosines: its objective and its pairs of leaves."""
    size = max(len(a), len(b))
    seed = int(generator.integers(2**31))
    found, _ = quadratic_assignment(
        standardized(a, size), standardized(b, size), starts=PAIRING.starts, polished=2, seed=seed
    )
    left = np.flatnonzero(found[0][: len(a)] < len(b))
    right = found[0][left]
    upper = np.triu_indices(len(left), 1)
    one, other = a[np.ix_(left, left)][upper], b[np.ix_(right, right)][upper]
    spread = float(one.std() * other.std())
    if spread <= 1e-12:
        return 0.0, np.stack([left, right], axis=1)
    similarity = float(((one - one.mean()) * (other - other.mean())).mean()) / spread
    return similarity, np.stack([left, right], axis=1)
