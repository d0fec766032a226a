"""Several matchings of the same trees: which is best, and does chance do as well?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from repdyn.progress import track
from repdyn.translation.leaves import Leaves, MatchedLeaves

if TYPE_CHECKING:
    from repdyn.topology import LevelSetTree

__all__ = ["Candidate", "Tested", "best_by_chance", "highest_by_chance"]

Floats = NDArray[np.float64]

FEWEST_DRAWN = 30
"""Surrogates that are drawn at least: how far scores lie above fewer says little."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """A matching, and what draws the scores that surrogates reach in its place, one for each null.

    Attributes
    ----------
    match
        The matching.
    by_chance
        Takes the two sets of leaves and a generator.
    cut
        The two trees at their granularity.
    """

    match: MatchedLeaves
    by_chance: Callable[[Leaves, Leaves, np.random.Generator], tuple[float, ...]]
    cut: tuple[LevelSetTree, LevelSetTree]


@dataclass(frozen=True, eq=False)
class Tested:
    """The best of several candidates.

    Attributes
    ----------
    best
        That which lies farthest above its surrogates.
    p_value
        Of the best of all candidates among the best that surrogates reach in any.
    surrogates
        What surrogates reach in the place of the best, ``(nulls, n)``.
    """

    best: Candidate
    p_value: float
    surrogates: Floats


def best_by_chance(
    candidates: Sequence[Candidate], draws: int, enough: int, generator: np.random.Generator
) -> Tested:
    """Draw surrogates in the place of every candidate, and hold the best against the best of them.

    Parameters
    ----------
    candidates
        One or more.
    draws
        Surrogates of each null.
    enough
        Of those that reach the best score, after which no more are drawn.
    generator
        Of surrogates.

    References
    ----------
    Besag, J. and Clifford, P. (1991). Sequential Monte Carlo p-values. Biometrika 78(2) (the early stop).
    """
    scores = np.array([candidate.match.score for candidate in candidates])
    found: list[list[tuple[float, ...]]] = []
    for _ in track(range(draws), "matching surrogates"):
        found.append([c.by_chance(c.match.a, c.match.b, generator) for c in candidates])
        drawn = np.array(found).transpose(2, 0, 1)
        above, p_value = highest_by_chance(scores, drawn, enough)
        # Where there is one candidate, only the order of scores matters.
        known = len(candidates) == 1 or len(found) >= FEWEST_DRAWN
        if known and p_value * len(found) >= enough:
            break
    best = int(above.argmax())
    return Tested(candidates[best], p_value, drawn[:, :, best])


def highest_by_chance(score: Floats, surrogates: Floats, enough: int) -> tuple[Floats, float]:
    r"""How far each score lies above its surrogates, and how often the highest of the surrogates does so.

    .. math:: t_l = (s_l - \mu_l) / \sigma_l, \qquad
              p = \max_\text{null} \frac{1 + \#\{k : \max_l t^k_l \ge \max_l t_l\}}{1 + K}

    Several things were tried, so the best of them is held against the best that surrogates reach in any.

    Parameters
    ----------
    score
        Of each thing tried, ``(L,)``.
    surrogates
        Of each null, draw and thing tried, ``(nulls, K, L)``.
    enough
        Surrogates that reach the score from which on p is their share: none were drawn after them.

    Returns
    -------
    (L,) array
        Lowest t over the nulls.
    float
        p of the null that reaches the score most often.

    References
    ----------
    Westfall, P. and Young, S. (1993). Resampling-based multiple testing. Wiley (the step of the maximum).
    """
    # The observed score belongs to the moments too: under the null it is one more draw.
    drawn = np.concatenate([surrogates, np.broadcast_to(score, (len(surrogates), 1, len(score)))], axis=1)
    spread = np.maximum(drawn.std(1, keepdims=True), 1e-12)
    above = (drawn - drawn.mean(1, keepdims=True)) / spread
    highest = above.max(2)
    # Rounding must not tell equal scores apart.
    reached = int((highest[:, :-1] >= highest[:, -1:] - 1e-9).sum(1).max())
    count = surrogates.shape[1]
    return above[:, -1].min(0), reached / count if reached >= enough else (1 + reached) / (1 + count)
