"""Match what two sets of leaves share, where each has leaves that the other lacks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from repdyn.errors import RepdynError
from repdyn.translation.leaves import Leaves, MatchedLeaves, trait_agreement
from repdyn.translation.surrogates import coarse_surrogate, groups_of, random_surrogate, shuffled_surrogate

__all__ = [
    "MOST_LEAVES",
    "consistent_pairs",
    "distance_correlation",
    "log_distances",
    "shared_by_chance",
    "shared_pairs",
]

Floats = NDArray[np.float64]
Index = NDArray[np.int64]

TOLERANCE = 0.05
"""Ratio of two distances, less one, that still agrees well: at .08 unrelated leaves agree too often."""

RESAMPLED = 12
"""Bootstraps of the points; the confidence of a pair is the share of them that contain it."""

MOST_LEAVES = 30
"""Of either side: the graph of all pairs takes their fourth power in memory."""

STEPS = 40
"""Steps of the walk; most have settled after half of them."""

JUMP = 0.4
"""Of every step, the part that leaves the graph for the present assignment: it keeps rivals for one leaf from
sharing what they hold."""

SHARPNESS = 8.0
"""How much more than its rivals the strongest pair counts in the present assignment."""

CONSISTENT = 0.5
"""Mean consistency with the other pairs below which a pair is dropped: with most of them it then is not."""

FEWEST = 4
"""Pairs that are never dropped; three distances always agree by chance."""

ROUNDS = 2
"""Matchings, each with the unit of length that the pairs of the one before agree on."""


def shared_pairs(a: Leaves, b: Leaves, generator: np.random.Generator) -> MatchedLeaves:
    """Match what two sets of leaves share.

    Parameters
    ----------
    a, b
        Leaves whose ``form`` is as the models have it: lengths of directions would depend on the common mean.
    generator
        Of bootstraps.
    """
    score, pairs = consistent_pairs(log_distances(a.form), log_distances(b.form), TOLERANCE)
    votes = np.zeros((len(a.mass), len(b.mass)))
    for _ in range(RESAMPLED):
        (_, one), (_, other) = a.resampled(generator), b.resampled(generator)
        _, again = consistent_pairs(log_distances(one), log_distances(other), TOLERANCE)
        votes[again[:, 0], again[:, 1]] += 1 / RESAMPLED
    confidence = votes[pairs[:, 0], pairs[:, 1]]
    objective = distance_correlation(a, b, pairs)
    traits = trait_agreement(a.traits[pairs[:, 0]], b.traits[pairs[:, 1]])
    return MatchedLeaves(a, b, pairs, confidence, objective, traits, score)


def shared_by_chance(a: Leaves, b: Leaves, generator: np.random.Generator) -> tuple[float, ...]:
    """Scores of what a shares with one surrogate of b from each null.

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
    return tuple(consistent_pairs(here, other, TOLERANCE)[0] for other in others)


def distance_correlation(a: Leaves, b: Leaves, pairs: Index) -> float:
    """Correlation of the log-distances between matched leaves."""
    i, j = pairs.T
    upper = np.triu_indices(len(pairs), 1)
    one, other = log_distances(a.form)[np.ix_(i, i)][upper], log_distances(b.form)[np.ix_(j, j)][upper]
    spread = float(one.std() * other.std())
    return float(((one - one.mean()) * (other - other.mean())).mean()) / spread if spread > 0 else 0.0


def log_distances(form: Floats) -> Floats:
    """Logarithms of distances between rows about their median, shape ``(n, n)``; zero on the diagonal.

    Distances do not depend on where the common mean lies, which leaves that one side lacks move; logarithms
    turn a change of unit into a shift.
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

    is how well two pairs agree. A walk over the graph of all pairs, drawn to assignments (each leaf in one
    pair), gathers where many agree; of the assignment it ends in, pairs that agree with less than half of the
    rest are dropped, worst first. The shift s, a change of unit, is then read off the kept pairs, and all
    repeated once.

    Parameters
    ----------
    a, b
        :func:`log_distances` of both, shapes ``(n, n)`` and ``(m, m)``.
    tolerance
        σ: .05 takes distances that differ by a twentieth for nearly the same.

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
    for _ in range(ROUNDS):
        graph = _agreement(a, b, shift, tolerance)
        pairs, total = _trimmed(graph, _walked(graph))
        upper = np.triu_indices(len(pairs), 1)
        i, j = pairs.T
        shift = float(np.median((a[np.ix_(i, i)] - b[np.ix_(j, j)])[upper]))
    most = min(len(a), len(b))
    return total / (most * (most - 1)), pairs


def _agreement(a: Floats, b: Floats, shift: float, tolerance: float) -> NDArray[np.float32]:
    """W, shape ``(n, m, n, m)``."""
    difference = (a[:, None, :, None] - b[None, :, None, :] - shift).astype(np.float32)
    graph = np.exp(-(difference**2) / np.float32(2 * tolerance**2))
    rows, columns = np.arange(len(a)), np.arange(len(b))
    graph[rows, :, rows, :] = 0  # a leaf in two pairs
    graph[:, columns, :, columns] = 0
    return np.asarray(graph)


def _walked(graph: NDArray[np.float32]) -> Floats:
    """Where the walk gathers, shape ``(n, m)``."""
    shape = graph.shape[:2]
    flat = graph.reshape(shape[0] * shape[1], -1)
    state = np.full(len(flat), 1 / len(flat), dtype=np.float32)
    for _ in range(STEPS):
        state = flat @ state
        state /= max(float(np.linalg.norm(state)), 1e-30)
        plan = np.exp(SHARPNESS * state.reshape(shape) / max(float(state.max()), 1e-30))
        for _ in range(5):
            plan /= plan.sum(1, keepdims=True)
            plan /= plan.sum(0, keepdims=True)
        state = (1 - JUMP) * state + JUMP * plan.ravel() / np.linalg.norm(plan)
    return np.asarray(state.reshape(shape), dtype=np.float64)


def _trimmed(graph: NDArray[np.float32], state: Floats) -> tuple[Index, float]:
    """The best assignment without pairs that disagree with most others; the sum of what the rest agree."""
    i, j = linear_sum_assignment(state, maximize=True)
    agreed = graph[i[:, None], j[:, None], i, j].astype(np.float64)
    kept = np.arange(len(i))
    while len(kept) > min(FEWEST, len(i)):
        mean = agreed[np.ix_(kept, kept)].sum(1) / (len(kept) - 1)
        if mean.min() >= CONSISTENT:
            break
        kept = np.delete(kept, int(mean.argmin()))
    total = float(agreed[np.ix_(kept, kept)].sum())
    return np.stack([i[kept], j[kept]], axis=1).astype(np.int64), total
