"""From a rough map to an exact one: mutual nearest neighbours on raw points, at all depths together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from repdyn.translation.coordinates import unit_rows

__all__ = [
    "fit_without_pairs",
    "joint_similarity",
    "mutual_neighbors",
    "nearest_orthogonal",
    "refine",
    "settle",
]

Rows = NDArray[np.float32]
Index = NDArray[np.int64]

HUB_NEIGHBORS = 5
"""Neighbours over which a point's mean similarity is taken off, so that hubs do not attract every match."""


def refine(
    a: Sequence[Rows],
    b: Sequence[Rows],
    maps: Sequence[Rows],
    ranks: Sequence[int],
    batch: int = 1500,
    seed: int = 0,
    fixed: tuple[Index, Index] | None = None,
) -> list[Rows]:
    r"""Iterate: match mutual neighbours under the present maps, refit every depth's map on the matches.

    .. math:: S &= \textstyle\sum_l w_l \cos(z^A_l Q_l,\; z^B_l) \\
              Q_l &\leftarrow \arg\max_{Q^\top Q = I} \mathrm{tr}\; Q^\top
                     \textstyle\sum_{ij} z^A_{l,i} {z^B_{l,j}}^\top \\
              w_l &\propto \big(\mathrm{mean}_{ij} \cos(z^A_{l,i} Q_l,\; z^B_{l,j})\big)^2

    with (i, j) the mutual neighbours under S corrected for hubs. One set of matches serves all depths,
    because the same inputs are matched at each, and a depth counts by how well its map fits the matches:
    the depth that two models share most leads the others. This is what makes it stronger than iterating at
    one depth. New draws at every step keep it from settling on one set of wrong matches.

    Parameters
    ----------
    a, b
        Points in principal coordinates per depth, ``(N_a, D_a)`` and ``(N_b, D_b)``; rows agree over depths.
    maps
        Start, one ``(D_a, D_b)`` per depth.
    ranks
        One step each, in so many leading components: small ones first, where the noise is least.
    batch
        Points of each side drawn per step.
    seed
        Of the draws.
    fixed
        Rows of a and b known to be pairs: always among the matches, as heavy as all found ones together.

    Returns
    -------
    list of (D_a, D_b) arrays

    References
    ----------
    Besl, P. and McKay, N. (1992). A method for registration of 3-D shapes. IEEE TPAMI 14(2).
    Conneau, A. et al. (2018). Word translation without parallel data. ICLR (hubness correction, eq. 7).
    """
    generator = np.random.default_rng(seed)
    maps = [np.asarray(m, dtype=np.float32) for m in maps]
    weights = np.full(len(maps), 1 / len(maps))
    for rank in ranks:
        left, right = _drawn(a, b, rank, batch, generator)
        i, j = mutual_neighbors(_weighted(left, right, maps, weights, rank))
        maps, weights = _refitted(a, b, left, right, maps, (i, j), rank, fixed)
    return maps


def settle(
    a: Sequence[Rows],
    b: Sequence[Rows],
    maps: Sequence[Rows],
    steps: int,
    batch: int = 6000,
    seed: int = 0,
    fixed: tuple[Index, Index] | None = None,
) -> list[Rows]:
    """Last steps of :func:`refine`: in all components, all points or very many, each with its nearest.

    What mutual neighbours alone settle on depends on how dense the points are: with few of each side the map
    drifts away even from the truth, and least with all, each point of either side matched to its nearest.

    Parameters
    ----------
    a, b, maps, seed, fixed
        As in :func:`refine`.
    steps
        Few: every one compares all with all.
    batch
        Points of each side at most; the comparison takes its square in memory.

    Returns
    -------
    list of (D_a, D_b) arrays
    """
    generator = np.random.default_rng(seed)
    maps = [np.asarray(m, dtype=np.float32) for m in maps]
    weights = np.full(len(maps), 1 / len(maps))
    rank = max(x.shape[1] for x in (*a, *b))
    for _ in range(steps):
        left, right = _drawn(a, b, rank, batch, generator)
        corrected = _without_hubs(_weighted(left, right, maps, weights, rank))
        forward, backward = corrected.argmax(1), corrected.argmax(0)
        del corrected
        i = np.concatenate([np.arange(len(forward)), backward])
        j = np.concatenate([forward, np.arange(len(backward))])
        maps, weights = _refitted(a, b, left, right, maps, (i, j), rank, fixed)
    return maps


def _drawn(
    a: Sequence[Rows], b: Sequence[Rows], rank: int, batch: int, generator: np.random.Generator
) -> tuple[list[Rows], list[Rows]]:
    """The same random rows at every depth, in the leading components, of length one."""
    rows = generator.permutation(len(a[0]))[:batch]
    columns = generator.permutation(len(b[0]))[:batch]
    left = [unit_rows(x[rows, :rank]).astype(np.float32) for x in a]
    return left, [unit_rows(y[columns, :rank]).astype(np.float32) for y in b]


def _weighted(
    left: Sequence[Rows], right: Sequence[Rows], maps: Sequence[Rows], weights: NDArray[np.float64], rank: int
) -> Rows:
    """Weighted mean over depths of the cosines of translated points with real ones."""
    total = np.zeros((len(left[0]), len(right[0])), dtype=np.float32)
    for x, y, m, weight in zip(left, right, maps, weights):
        total += (np.float32(weight) * unit_rows(x @ m[:rank, :rank]).astype(np.float32)) @ y.T
    return total


def _refitted(
    a: Sequence[Rows],
    b: Sequence[Rows],
    left: Sequence[Rows],
    right: Sequence[Rows],
    maps: Sequence[Rows],
    matches: tuple[Index, Index],
    rank: int,
    fixed: tuple[Index, Index] | None,
) -> tuple[list[Rows], NDArray[np.float64]]:
    """Every depth's map from the matches, and how much each depth's present map deserves to count."""
    i, j = matches
    quality = np.empty(len(maps))
    updated = []
    for depth, (x, y, m) in enumerate(zip(left, right, maps)):
        chosen, targets = x[i], y[j]
        cosine = (unit_rows(chosen @ m[:rank, :rank]) * targets).sum(1)
        quality[depth] = max(float(cosine.mean()), 1e-3) if len(i) else 1e-3
        moment = chosen.T @ targets
        if fixed is not None:
            known = unit_rows(a[depth][fixed[0], :rank]).T @ unit_rows(b[depth][fixed[1], :rank])
            moment = moment / max(len(i), 1) + known / len(fixed[0])
        made = np.zeros_like(m)
        made[:rank, :rank] = nearest_orthogonal(moment)
        updated.append(made)
    return updated, quality**2 / (quality**2).sum()


def joint_similarity(a: Sequence[Rows], b: Sequence[Rows], maps: Sequence[Rows]) -> Rows:
    """Mean over depths of the cosine of translated points of a with points of b, shape ``(N_a, N_b)``."""
    total = np.zeros((len(a[0]), len(b[0])), dtype=np.float32)
    for x, y, m in zip(a, b, maps):
        total += unit_rows(x @ m).astype(np.float32) @ unit_rows(y[:, : m.shape[1]]).astype(np.float32).T
    return total / np.float32(len(maps))


def mutual_neighbors(similarity: Rows) -> tuple[Index, Index]:
    """Rows and columns that are each other's nearest, after taking off every point's own hubness."""
    corrected = _without_hubs(similarity)
    forward, backward = corrected.argmax(1), corrected.argmax(0)
    rows = np.flatnonzero(backward[forward] == np.arange(len(forward)))
    return rows, forward[rows]


def _without_hubs(similarity: Rows) -> Rows:
    """Twice the similarity, less either point's mean similarity to its nearest."""
    k = min(HUB_NEIGHBORS, *similarity.shape)
    of_rows = -np.partition(-similarity, k - 1, axis=1)[:, :k].mean(1)
    of_columns = -np.partition(-similarity.T.copy(), k - 1, axis=1)[:, :k].mean(1)
    corrected: Rows = 2 * similarity - of_rows[:, None] - of_columns
    return corrected


def fit_without_pairs(similarity: Rows) -> float:
    """How well translated points fall among real ones: mean similarity of nearest neighbours, both ways."""
    return float(similarity.max(1).mean() + similarity.max(0).mean()) / 2


def nearest_orthogonal(m: NDArray[np.floating]) -> Rows:
    """The (semi-)orthogonal matrix nearest to m: its polar factor."""
    left, _, right = np.linalg.svd(m, full_matrices=False)
    return np.asarray(left @ right, dtype=np.float32)
