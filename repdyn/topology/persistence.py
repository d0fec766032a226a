"""Vietoris-Rips persistence of points, or of every point of a path, measured beside its controls."""

from __future__ import annotations

from typing import overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repdyn.errors import RepdynError
from repdyn.paths import RepresentationPaths
from repdyn.progress import track
from repdyn.repeats import groups_of_equal_rows
from repdyn.topology.diagrams import PathPersistence, Persistence, spread
from repdyn.topology.homology import gaussian_twin, shuffled_twin, vietoris_rips
from repdyn.topology.neighbors import as_points

__all__ = ["persistence"]

Array = NDArray[np.float64]

# Samples and controls are compared at one size, small enough that many can be drawn.
SAMPLE_POINTS = 2000


@overload
def persistence(
    x: RepresentationPaths, max_dim: int = ..., landmarks: int = ..., resamples: int = ..., seed: int = ...
) -> PathPersistence:
    """Measure every point of a path."""


@overload
def persistence(
    x: ArrayLike, max_dim: int = ..., landmarks: int = ..., resamples: int = ..., seed: int = ...
) -> Persistence:
    """Measure one set of points."""


def persistence(
    x: RepresentationPaths | ArrayLike,
    max_dim: int = 1,
    landmarks: int = 200,
    resamples: int = 8,
    seed: int = 0,
) -> Persistence | PathPersistence:
    """Compute the Vietoris-Rips persistence of points, or of every point of a path, with controls.

    Parameters
    ----------
    x
        Points ``(N, D)``, or a :class:`~repdyn.paths.RepresentationPaths` of such.
    max_dim
        Highest homology dimension: 0 components, 1 loops, 2 voids.
    landmarks
        Points that stand in for all; the result tells the error bound.
    resamples
        Half samples, and draws of each control.
    seed
        Same seed, same result.

    Returns
    -------
    Persistence or PathPersistence
        The second for a path.

    Raises
    ------
    RepdynError
        On a wrong shape or values that are not finite.

    Examples
    --------
    >>> import numpy as np
    >>> angle = np.random.default_rng(0).uniform(0, 2 * np.pi, 200)
    >>> persistence(np.column_stack([np.cos(angle), np.sin(angle)]), landmarks=60).verdicts[1]
    'found'
    """
    if resamples < 2:
        raise RepdynError(f"persistence: resamples={resamples}; expected 2 or more, for the intervals")
    if isinstance(x, RepresentationPaths):
        names = track(x.points, "persistent homology")
        return PathPersistence(
            {name: _measure(np.asarray(x[name]), max_dim, landmarks, resamples, seed) for name in names}
        )
    return _measure(x, max_dim, landmarks, resamples, seed)


def _measure(x: ArrayLike, max_dim: int, landmarks: int, resamples: int, seed: int) -> Persistence:
    points = as_points(x, "persistence")
    # Equal points are one: half samples would have fewer places than their twins, and so longer bars.
    points = points[np.unique(groups_of_equal_rows(points), return_index=True)[1]]
    diagrams, radius, scale = vietoris_rips(points, max_dim, landmarks)
    generator = np.random.default_rng(seed)
    size = min(SAMPLE_POINTS, max(len(points) // 2, 1))
    drawn: dict[str, list[tuple[Array, ...]]] = {"own": [], "shuffled": [], "gaussian": []}
    for _ in range(resamples):
        half = points[generator.permutation(len(points))[:size]]
        twins = {
            "own": half,
            "shuffled": shuffled_twin(half, generator),
            "gaussian": gaussian_twin(half, generator),
        }
        for name, sample in twins.items():
            drawn[name].append(vietoris_rips(sample, max_dim, landmarks)[0])
    longest = {
        name: tuple(spread([_longest(one[d]) for one in samples]) for d in range(max_dim + 1))
        for name, samples in drawn.items()
    }
    own = longest.pop("own")
    return Persistence(diagrams, radius, scale, own, longest, tuple(drawn["own"]))


def _longest(diagram: Array) -> float:
    return float((diagram[:, 1] - diagram[:, 0]).max(initial=0.0))
