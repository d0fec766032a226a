"""Other matchings of the same leaves that fit as well, as for symmetric trees."""

from __future__ import annotations

from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from repdyn.translation.trees.assignment import quadratic_assignment
from repdyn.translation.trees.leaves import MatchedLeaves, cosines, standardized, trait_agreement
from repdyn.translation.trees.settings import PAIRING

__all__ = ["tied_matchings"]

Floats = NDArray[np.float64]
Index = NDArray[np.int64]


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
    lead = np.empty((PAIRING.symmetry_bootstraps, len(rivals)))
    left, right = match.pairs[:, 0], match.pairs[:, 1]
    own_traits = trait_agreement(match.a.traits[left], match.b.traits[right])
    rival_traits = [trait_agreement(match.a.traits[left], match.b.traits[right[s]]) for s in rivals]
    for k in range(PAIRING.symmetry_bootstraps):
        a, b = _matched_cosines(match, generator)
        own = _correlation(a[upper], b[upper]) + traits * own_traits
        for n, sigma in enumerate(rivals):
            score = _correlation(a[upper], b[np.ix_(sigma, sigma)][upper]) + traits * rival_traits[n]
            lead[k, n] = own - score
    # Equal scores have no spread: differences by rounding are ties.
    tied = lead.mean(0) <= PAIRING.noise * lead.std(0) + 1e-9
    return np.asarray(rivals[tied], dtype=np.int64)


def _near_symmetries(match: MatchedLeaves, generator: np.random.Generator) -> Index:
    """Permutations ``(M, P)`` that keep the angles between the matched leaves, without the identity."""
    count = len(match.pairs)
    identity = np.arange(count)
    if count <= PAIRING.enumerated:
        return np.array(list(permutations(range(count)))[1:], dtype=np.int64).reshape(-1, count)
    left, right = match.pairs[:, 0], match.pairs[:, 1]
    a = cosines(match.a.mass, match.a.form, 1.0)[np.ix_(left, left)]
    b = cosines(match.b.mass, match.b.form, 1.0)[np.ix_(right, right)]
    mean = (standardized(a, count) + standardized(b, count)) / 2
    seed = int(generator.integers(2**31))
    found, _ = quadratic_assignment(
        mean, mean, starts=PAIRING.symmetry_starts, polished=PAIRING.symmetry_polished, seed=seed
    )
    kept = {tuple(order) for order in found.tolist()}
    for i in range(count):
        for j in range(i):
            order = identity.copy()
            order[[i, j]] = j, i
            kept.add(tuple(order.tolist()))
    for one in found:
        for other in found:
            if len(kept) < PAIRING.composed + count**2:
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
    """Correlation of two vectors; 0 where one is constant."""
    spread = float(x.std() * y.std())
    return float(((x - x.mean()) * (y - y.mean())).mean()) / spread if spread > 1e-12 else 0.0
