"""Other matchings of the same leaves that fit as well: what symmetric trees leave open."""

from __future__ import annotations

from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from repdyn.translation.assignment import quadratic_assignment
from repdyn.translation.leaves import MatchedLeaves, cosines, standardised, trait_agreement

__all__ = ["tied_matchings"]

Floats = NDArray[np.float64]
Index = NDArray[np.int64]

ENUMERATED = 6
"""Leaves up to which all permutations are tried."""

STARTS, POLISHED = 64, 32
"""Of the assignment of the leaves of B to themselves, which finds their near symmetries."""

COMPOSED = 200
"""Matchings at most, once those found are composed: symmetries form a group."""

BOOTSTRAPS = 24
"""Resamples of the points under which two matchings are compared."""

NOISE = 2.0
"""Standard deviations over resamples by which a matching must be ahead of another to be told from it."""


def tied_matchings(match: MatchedLeaves, traits: float, generator: np.random.Generator) -> Index:
    r"""Permutations of the matched leaves of B under which the match fits as well within the noise.

    For each permutation σ, with bootstraps k of the points of either side, the difference of scores

    .. math:: d_k(\sigma) = s_k(\mathrm{id}) - s_k(\sigma)

    is compared with its own spread. σ is tied where :math:`\bar d \le 2\,\mathrm{sd}(d)`.

    Parameters
    ----------
    match
        P matched leaves.
    traits
        Weight of the traits in the score.
    generator
        Of starts and bootstraps.

    Returns
    -------
    (M, P) array
        Row k sends pair i to the leaf of B of pair ``k[i]``. The identity is not among them.
    """
    count = len(match.pairs)
    rivals = _near_symmetries(match, generator)
    if count < 2 or not len(rivals):
        return np.empty((0, count), dtype=np.int64)
    upper = np.triu_indices(count, 1)
    told = np.empty((BOOTSTRAPS, len(rivals)))
    left, right = match.pairs[:, 0], match.pairs[:, 1]
    own_traits = trait_agreement(match.a.traits[left], match.b.traits[right])
    rival_traits = [trait_agreement(match.a.traits[left], match.b.traits[right[s]]) for s in rivals]
    for k in range(BOOTSTRAPS):
        a, b = _matched_cosines(match, generator)
        own = _correlation(a[upper], b[upper]) + traits * own_traits
        for n, sigma in enumerate(rivals):
            score = _correlation(a[upper], b[np.ix_(sigma, sigma)][upper]) + traits * rival_traits[n]
            told[k, n] = own - score
    # Scores of equal value have no spread at all: rounding must not tell them apart.
    tied = told.mean(0) <= NOISE * told.std(0) + 1e-9
    return np.asarray(rivals[tied], dtype=np.int64)


def _near_symmetries(match: MatchedLeaves, generator: np.random.Generator) -> Index:
    """Permutations that keep the angles between the matched leaves, best first; not the identity."""
    count = len(match.pairs)
    identity = np.arange(count)
    if count <= ENUMERATED:
        return np.array(list(permutations(range(count)))[1:], dtype=np.int64).reshape(-1, count)
    left, right = match.pairs[:, 0], match.pairs[:, 1]
    a = cosines(match.a.mass, match.a.form, 1.0)[np.ix_(left, left)]
    b = cosines(match.b.mass, match.b.form, 1.0)[np.ix_(right, right)]
    mean = (standardised(a, count) + standardised(b, count)) / 2
    seed = int(generator.integers(2**31))
    found, _ = quadratic_assignment(mean, mean, starts=STARTS, polished=POLISHED, seed=seed)
    kept = {tuple(order) for order in found.tolist()}
    for i in range(count):
        for j in range(i):
            order = identity.copy()
            order[[i, j]] = j, i
            kept.add(tuple(order.tolist()))
    for one in found:
        for other in found:
            if len(kept) < COMPOSED + count**2:
                kept.add(tuple(one[other].tolist()))
    kept.discard(tuple(identity.tolist()))
    return np.array(sorted(kept), dtype=np.int64).reshape(-1, count)


def _matched_cosines(match: MatchedLeaves, generator: np.random.Generator) -> tuple[Floats, Floats]:
    """Cosines between matched leaves of either side, on a bootstrap of the points."""
    left, right = match.pairs[:, 0], match.pairs[:, 1]
    a = cosines(*match.a.resampled(generator), 1.0)
    b = cosines(*match.b.resampled(generator), 1.0)
    return a[np.ix_(left, left)], b[np.ix_(right, right)]


def _correlation(x: Floats, y: Floats) -> float:
    spread = float(x.std() * y.std())
    return float(((x - x.mean()) * (y - y.mean())).mean()) / spread if spread > 1e-12 else 0.0
