"""Match all leaves of two sets by the angles between them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from repdyn.translation.assignment import quadratic_assignment
from repdyn.translation.leaves import Leaves, MatchedLeaves, cosines, standardised, trait_agreement
from repdyn.translation.surrogates import coarse_surrogate, groups_of, random_surrogate, shuffled_surrogate

__all__ = ["whole_by_chance", "whole_pairs"]

Floats = NDArray[np.float64]
Index = NDArray[np.int64]

RESTARTS = 12
"""Independent matchings, each on a bootstrap of the points and at its own flattening of the geometry: the
confidence of a pair is the share of them that contain it."""

STARTS = 16
"""Of each quadratic assignment, for true and surrogate geometries alike."""

POWERS = (0.5, 1.0)
"""Flattening of the leaves' spectrum: below one, few leading directions do not decide the match alone."""

TRAITS = 0.2
"""Weight of the traits beside the geometry: by chance their correlation spreads five times as wide."""


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
    told = np.empty((RESTARTS, 2))
    for k in range(RESTARTS):
        power = float(generator.uniform(*POWERS))
        one, other = (cosines(*side.resampled(generator), power) for side in (a, b))
        told[k, 0], pairs = _matched(one, other, generator)
        told[k, 1] = trait_agreement(a.traits[pairs[:, 0]], b.traits[pairs[:, 1]])
        votes[pairs[:, 0], pairs[:, 1]] += 1 / RESTARTS
    objective, traits = (float(median) for median in np.median(told, axis=0))
    score = float(np.median(told @ [1.0, TRAITS]))
    # The matching that independent matchings agree on most, not the one of one lucky objective.
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
    power = float(generator.uniform(*POWERS))
    here, there = cosines(a.mass, a.form, power), cosines(b.mass, b.form, power)
    scores = []
    for other in (
        cosines(b.mass, random_surrogate(b.form, generator), power),
        cosines(b.mass, coarse_surrogate(b.mass, b.form, generator), power),
        shuffled_surrogate(there, groups_of(b.mass, b.form), generator),
    ):
        objective, pairs = _matched(here, other, generator)
        traits = trait_agreement(a.traits[pairs[:, 0]], b.traits[pairs[:, 1]])
        scores.append(objective + TRAITS * traits)
    return tuple(scores)


def _matched(a: Floats, b: Floats, generator: np.random.Generator) -> tuple[float, Index]:
    """One matching of two matrices of cosines: its objective and its pairs of leaves."""
    size = max(len(a), len(b))
    seed = int(generator.integers(2**31))
    found, _ = quadratic_assignment(
        standardised(a, size), standardised(b, size), starts=STARTS, polished=2, seed=seed
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
