"""Refinement of a rough map by mutual nearest neighbors among points, at all depths together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from repdyn.linalg import polar
from repdyn.translation.coordinates import unit_rows
from repdyn.translation.unpaired.settings import REFINEMENT

__all__ = [
    "final_refinement",
    "fit_without_pairs",
    "joint_similarity",
    "mutual_neighbors",
    "nearest_orthogonal",
    "recovered_rows",
    "refine",
    "retrieval",
]

Rows = NDArray[np.float32]
Index = NDArray[np.int64]

BLOCK = 125  # rows of a similarity that are corrected at a time, so that they stay in the cache


def refine(
    a: Sequence[Rows],
    b: Sequence[Rows],
    maps: Sequence[Rows],
    ranks: Sequence[int],
    batch: int = 1500,
    seed: int = 0,
    fixed: tuple[Index, Index] | None = None,
    known_share: float = 0.0,
) -> list[Rows]:
    r"""Iterate: match mutual neighbours under the present maps, refit every depth's map on the matches.

    .. math:: S &= \textstyle\sum_l w_l \cos(z^A_l Q_l,\; z^B_l) \\
              Q_l &\leftarrow \arg\max_{Q^\top Q = I} \mathrm{tr}\; Q^\top
                     \textstyle\sum_{ij} z^A_{l,i} {z^B_{l,j}}^\top \\
              w_l &\propto \big(\mathrm{mean}_{ij} \cos(z^A_{l,i} Q_l,\; z^B_{l,j})\big)^2

    with (i, j) the mutual neighbors under S corrected for hubs. One set of matches is used at all depths,
    because the same inputs are matched at each. A depth is weighted by the fit of its map to the matches, so
    the depth at which the two models agree most has the largest weight. This makes the iteration stronger
    than one at a single depth. New draws at every step avoid convergence to one set of wrong matches.

    Parameters
    ----------
    a, b
        Points in principal coordinates per depth, ``(N_a, D_a)`` and ``(N_b, D_b)``; rows agree over depths.
    maps
        Start, one ``(D_a, D_b)`` per depth.
    ranks
        Numbers of leading components, one step each: small ones first, where the noise is smallest.
    batch
        Points of each side drawn per step.
    seed
        Of the draws.
    fixed
        Rows of a and b known to be pairs. They are always among the matches, each with the weight of one.
    known_share
        Least total weight of the known pairs, relative to that of all matches. Under a rough map most matches
        are wrong, and a few pairs should outweigh them. Under a good map hundreds of matches are correct, and
        a few pairs that outweigh them would add only noise.

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
        paired = [(x[i], y[j]) for x, y in zip(left, right)]
        known = _known(a, b, fixed, rank, known_share * len(i))
        maps, weights = _refitted(paired, maps, rank, known)
    return maps


def final_refinement(
    a: Sequence[Rows],
    b: Sequence[Rows],
    maps: Sequence[Rows],
    steps: int,
    nearest: int = REFINEMENT.nearest,
    batch: int = 5000,
    seed: int = 0,
    fixed: tuple[Index, Index] | None = None,
    prior: float = 0.0,
) -> list[Rows]:
    r"""Final iterations of :func:`refine`: in all components, on most points, each with its nearest ones.

    .. math:: Q_l \leftarrow \arg\max_{Q^\top Q = I} \mathrm{tr}\; Q^\top \Big(
              \textstyle\sum_i z^A_{l,i} \bar z^{B\top}_{l,N(i)}
              + \sum_j \bar z^A_{l,N(j)} z^{B\top}_{l,j} \Big)

    with means over the nearest points, after full hubness correction. The maps of the second half of the
    steps are averaged, because new draws move each of them about the mean. The fixed point of mutual
    neighbors alone depends on the density of the points: with few points the map drifts away even from the
    true one, least with all points.

    Parameters
    ----------
    a, b, maps, seed, fixed
        As in :func:`refine`.
    steps
        Few steps, because each compares all points with all.
    nearest
        Number of points whose mean is the counterpart of a point.
    batch
        Most points of each side; the comparison takes its square in memory.
    prior
        Weight of the start relative to the matches, by nuclear norm. With a start that is known to be nearly
        right, and few points, it holds the directions that the matches do not determine.

    Returns
    -------
    list of (D_a, D_b) arrays
    """
    generator = np.random.default_rng(seed)
    maps = [np.asarray(m, dtype=np.float32) for m in maps]
    weights = np.full(len(maps), 1 / len(maps))
    rank = max(x.shape[1] for x in (*a, *b))
    kept, start = [maps], maps
    for _ in range(steps):
        left, right = _drawn(a, b, rank, batch, generator)
        similarity = _weighted(left, right, maps, weights, rank, REFINEMENT.final_components)
        of_rows, of_columns = _hubs(similarity)
        forward = _nearest(similarity, of_columns, nearest)
        backward = _nearest(similarity.T, of_rows, nearest)
        del similarity
        paired = [
            (np.concatenate([x, x[backward].mean(1)]), np.concatenate([y[forward].mean(1), y]))
            for x, y in zip(left, right)
        ]
        held = _known(a, b, fixed, rank, 0.0)
        if prior > 0:
            held = _with_prior(held, paired, start, prior)
        maps, weights = _refitted(paired, maps, rank, held)
        kept = [*kept, maps][-max(1, steps // 2) :]
    return [nearest_orthogonal(sum(some[1:], some[0])) for some in zip(*kept)]


def joint_similarity(a: Sequence[Rows], b: Sequence[Rows], maps: Sequence[Rows]) -> Rows:
    """Mean over depths of the cosine of translated points of a with points of b, shape ``(N_a, N_b)``."""
    total = np.zeros((len(a[0]), len(b[0])), dtype=np.float32)
    for x, y, m in zip(a, b, maps):
        # Rough maps are zero outside of leading components, which then need no product.
        rows, columns = (int(np.flatnonzero(m.any(axis))[-1:].sum()) + 1 for axis in (1, 0))
        moved = unit_rows(x[:, :rows] @ m[:rows, :columns]) / np.float32(len(maps))
        right = unit_rows(y[:, : m.shape[1]])[:, :columns]
        total += moved.astype(np.float32) @ right.astype(np.float32).T
    return total


def mutual_neighbors(similarity: Rows) -> tuple[Index, Index]:
    """Rows and columns that are each other's nearest, after hubness correction of every point.

    Rows and columns must be in an order that is independent of the similarity, such as a random one.
    """
    of_rows, of_columns = (np.float32(REFINEMENT.early_hubness) * hubs for hubs in _hubs(similarity))
    forward = np.empty(len(similarity), dtype=np.int64)
    best = np.full(similarity.shape[1], -np.inf, dtype=similarity.dtype)
    for start in range(0, len(similarity), BLOCK):
        block = similarity[start : start + BLOCK]
        forward[start : start + BLOCK] = (block - of_columns).argmax(1)
        np.maximum(best, (block - of_rows[start : start + BLOCK, None]).max(0), out=best)
    # The row of a column's maximum is found by its value: an argmax over columns is many times slower.
    rows = np.arange(len(forward))
    rows = np.flatnonzero(similarity[rows, forward] - of_rows == best[forward])
    return rows, forward[rows]


def fit_without_pairs(similarity: Rows) -> float:
    """Mean similarity of nearest neighbors, both ways: large where translated points lie among real ones."""
    return float(similarity.max(1).mean() + similarity.max(0).mean()) / 2


def retrieval(x: Rows, y: Rows) -> float:
    """Share of rows of x that are, among all rows of y, nearest to the row of the same number."""
    return float(recovered_rows(x, y).mean())


def recovered_rows(x: Rows, y: Rows) -> NDArray[np.bool_]:
    """Whether each row of x is nearest to the row of y of the same number, shape ``(N,)``."""
    return np.asarray((x @ y.T).argmax(1) == np.arange(len(x)))


def nearest_orthogonal(m: NDArray[np.floating]) -> Rows:
    """The (semi-)orthogonal matrix nearest to m, its polar factor, in float32."""
    return np.asarray(polar(m), dtype=np.float32)


def _drawn(
    a: Sequence[Rows], b: Sequence[Rows], rank: int, batch: int, generator: np.random.Generator
) -> tuple[list[Rows], list[Rows]]:
    """The same random rows at every depth, in the leading components, of length one."""
    rows = generator.permutation(len(a[0]))[:batch]
    columns = generator.permutation(len(b[0]))[:batch]
    left = [unit_rows(x[rows, :rank]).astype(np.float32) for x in a]
    return left, [unit_rows(y[columns, :rank]).astype(np.float32) for y in b]


def _weighted(
    left: Sequence[Rows],
    right: Sequence[Rows],
    maps: Sequence[Rows],
    weights: NDArray[np.float64],
    rank: int,
    compared: int | None = None,
) -> Rows:
    """Weighted mean over depths of the cosines of translated points with real ones: one product for all."""
    moved = [
        np.float32(weight) * unit_rows((x @ m[:rank, :rank])[:, :compared]).astype(np.float32)
        for x, m, weight in zip(left, maps, weights)
    ]
    near = [y if compared is None else unit_rows(y[:, :compared]).astype(np.float32) for y in right]
    similarity: Rows = np.concatenate(moved, axis=1) @ np.concatenate(near, axis=1).T
    return similarity


def _hubs(similarity: Rows) -> tuple[Rows, Rows]:
    """Mean similarity of every row and column to its nearest in each of five groups.

    Maxima of five groups take a tenth of the time of the five largest values, and compare points as well.
    """
    rows, columns = similarity.shape
    groups = min(REFINEMENT.hub_groups, rows, columns)
    tall, wide = rows // groups, columns // groups
    of_rows = similarity[:, : groups * wide].reshape(rows, groups, wide).max(2).mean(1)
    of_columns = similarity[: groups * tall].reshape(groups, tall, columns).max(1).mean(0)
    return of_rows, of_columns


def _nearest(similarity: Rows, hubs: Rows, most: int) -> Index:
    """Columns ``(N, k)`` of the largest entries of each row, after hubness correction of every column."""
    found = np.empty((len(similarity), min(most, similarity.shape[1])), dtype=np.int64)
    for start in range(0, len(similarity), BLOCK):
        score = np.ascontiguousarray(similarity[start : start + BLOCK] - hubs)
        rows = np.arange(len(score))
        for k in range(found.shape[1]):
            found[start : start + BLOCK, k] = score.argmax(1)
            score[rows, found[start : start + BLOCK, k]] = -np.inf
    return found


def _known(
    a: Sequence[Rows], b: Sequence[Rows], fixed: tuple[Index, Index] | None, rank: int, least: float
) -> list[Rows] | None:
    """Moments ``(D_a, D_b)`` of the known pairs at every depth, with a total weight of at least ``least``."""
    if fixed is None:
        return None
    i, j = fixed
    each = max(1.0, least / len(i))
    products = [unit_rows(x[i, :rank]).T @ unit_rows(y[j, :rank]) for x, y in zip(a, b)]
    return [np.asarray(each * product, dtype=np.float32) for product in products]


def _with_prior(
    known: list[Rows] | None, paired: Sequence[tuple[Rows, Rows]], start: Sequence[Rows], prior: float
) -> list[Rows]:
    """Moments of the known pairs with a start map, whose nuclear norm is ``prior`` times the matches'."""
    held = []
    for depth, ((x, y), m) in enumerate(zip(paired, start)):
        norms = [float(np.linalg.svd(moment, compute_uv=False).sum()) for moment in (x.T @ y, m)]
        weighted = np.float32(prior * norms[0] / max(norms[1], 1e-12)) * m
        held.append(weighted if known is None else known[depth] + weighted)
    return held


def _refitted(
    paired: Sequence[tuple[Rows, Rows]], maps: Sequence[Rows], rank: int, known: list[Rows] | None
) -> tuple[list[Rows], NDArray[np.float64]]:
    """Map of every depth from its pairs, and the weight of each depth by the fit of its present map."""
    quality = np.empty(len(maps))
    updated = []
    for depth, ((x, y), m) in enumerate(zip(paired, maps)):
        moved = unit_rows(x @ m[:rank, :rank])
        quality[depth] = max(float(np.einsum("nd,nd->", moved, y)) / len(x), 1e-3) if len(x) else 1e-3
        moment = x.T @ y
        if known is not None:
            moment = moment + known[depth]
        made = np.zeros_like(m)
        made[:rank, :rank] = nearest_orthogonal(moment)
        updated.append(made)
    return updated, quality**2 / (quality**2).sum()
