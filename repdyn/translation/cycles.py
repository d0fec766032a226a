"""Round trips over several models: translations that are true come back to where they started."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from repdyn.errors import RepdynError
from repdyn.intervals import Estimate, bootstrap_mean
from repdyn.reading import as_array
from repdyn.translation.coordinates import unit_rows
from repdyn.translation.linear import LinearTranslation

__all__ = ["cycle_consistency"]

MOST_POINTS = 10_000
"""All round trips are compared with all points."""


def cycle_consistency(cycle: Sequence[LinearTranslation], x: ArrayLike, seed: int = 0) -> Estimate:
    r"""How often a point's round trip is nearer to the point than to any other.

    .. math:: \frac1N \sum_i \big[\, i = \arg\max_j \cos\big(t_n \cdots t_1(x_i) - \bar x,\; x_j - \bar x\big)
              \,\big]

    Needs no pairs: translations A → B, B → C, C → A that were found independently and are right, agree.
    Wrong ones do not, with the exception of errors that cancel, which two maps of one search may share:
    ``[t, t.inverse]`` is consistent whatever t is and says nothing.

    Parameters
    ----------
    cycle
        In order; each ends where the next begins, the last where the first began.
    x
        Points of the first model ``(N, D)``, N at most 10 000.
    seed
        Of the interval.

    Returns
    -------
    Estimate
        With its 95 % interval; chance is 1/N.

    Raises
    ------
    RepdynError
        If the translations do not form a cycle, or the points do not fit.

    References
    ----------
    Zhu, J. et al. (2017). Unpaired image-to-image translation using cycle-consistent adversarial networks.
    ICCV.

    Examples
    --------
    >>> turn = LinearTranslation(np.array([[0.0, 1.0], [-1.0, 0.0]]), np.zeros(2), np.zeros(2))
    >>> cycle_consistency([turn] * 4, np.random.default_rng(0).normal(size=(50, 2))).value
    1.0
    """
    if not cycle:
        raise RepdynError(
            "cycle_consistency: the cycle is empty; give translations A to B, B to C, …, back to A"
        )
    widths = [t.matrix.shape for t in cycle]
    if any(one[1] != other[0] for one, other in zip(widths, [*widths[1:], widths[0]])):
        raise RepdynError(f"cycle_consistency: these translations form no cycle, their widths are {widths}")
    points = as_array(x, np.float64)
    if points.ndim != 2 or points.shape[1] != widths[0][0] or not 2 <= len(points) <= MOST_POINTS:
        raise RepdynError(
            f"cycle_consistency: x needs 2 to {MOST_POINTS} points of width {widths[0][0]}, "
            f"got {points.shape}"
        )
    if not np.isfinite(points).all():
        raise RepdynError("cycle_consistency: x must be finite")
    moved = points
    for t in cycle:
        moved = t(moved)
    centre = points.mean(0)
    similarity = unit_rows(moved - moved.mean(0)) @ unit_rows(points - centre).T
    return bootstrap_mean(similarity.argmax(1) == np.arange(len(points)), seed=seed)
