"""Rough maps: from matched nodes, back to gains of matching nodes, and the consensus of many maps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repdyn.translation.coordinates import unit_rows
from repdyn.translation.unpaired.nodes import GeometricNodes
from repdyn.translation.unpaired.settings import CONSENSUS, SEARCH

__all__ = [
    "consensus_weights",
    "cross_moments",
    "guided_gain",
    "maps_from_nodes",
    "padded",
    "partial_procrustes",
]

Floats = NDArray[np.float64]
Rows = NDArray[np.float32]
Index = NDArray[np.int64]


def maps_from_nodes(
    a: GeometricNodes, b: GeometricNodes, permutation: Index, rank: int = SEARCH.start_rank
) -> list[Rows]:
    """Procrustes on matched centroids at each depth, ``(D_a, D_b)``, of a rank that nodes determine."""
    left = np.flatnonzero(permutation[: len(a)] < len(b))
    right = permutation[left]
    weight = np.sqrt(a.mass[left] * b.mass[right])
    maps = []
    for x, y in zip(a.centroids, b.centroids):
        maps.append(partial_procrustes((x[left] * weight[:, None]).T @ y[right], rank))
    return maps


def cross_moments(a: GeometricNodes, b: GeometricNodes, permutation: Index) -> list[Floats]:
    """Cross-covariance of matched centroids at each depth, ``(D_a, D_b)``; each node has the same weight."""
    left = np.flatnonzero(permutation[: len(a)] < len(b))
    right = permutation[left]
    return [np.asarray(x[left].T @ y[right]) / len(left) for x, y in zip(a.centroids, b.centroids)]


def guided_gain(a: GeometricNodes, b: GeometricNodes, maps: Sequence[Rows], size: int) -> Floats:
    """Gain ``(size, size)`` of matching nodes that the maps send to each other.

    For exact maps it weighs as much as the geometry.
    """
    gain = np.zeros((size, size))
    weight = np.sqrt(np.outer(a.mass, b.mass))
    for x, y, m in zip(a.centroids, b.centroids, maps):
        near = unit_rows(x @ m[: x.shape[1], : y.shape[1]]) @ unit_rows(y).T
        gain[: len(a), : len(b)] += weight * np.maximum(near, 0)
    return gain


def partial_procrustes(moment: NDArray[np.floating], most: int | None = None) -> Rows:
    """Polar factor of a moment ``(D_a, D_b)`` of rank at most ``most``, zero in all other directions."""
    u, values, v = np.linalg.svd(moment, full_matrices=False)
    rank = int((values > 1e-6 * max(float(values[0]), 1e-30)).sum())
    rank = rank if most is None else min(rank, most)
    return np.asarray(u[:, :rank] @ v[:rank], dtype=np.float32)


def padded(m: Rows, rows: int, columns: int) -> Rows:
    """A map of leading components as ``(rows, columns)``, zero on the other components."""
    made = np.zeros((rows, columns), dtype=np.float32)
    made[: m.shape[0], : m.shape[1]] = m
    return made


def consensus_weights(maps: ArrayLike) -> Floats:
    r"""Weights of rough maps whose weighted sums estimate a common component, the largest sum first.

    Proposals are modelled as :math:`M_k = c_k T + E_k` with a common map T, coefficients
    :math:`c_k \ge 0` that are mostly near 0, and errors :math:`E_k`. The leading eigenvectors of the Gram
    matrix :math:`G_{kl} = \langle M_k, M_l \rangle` span the weights of T as soon as
    :math:`\sum_k c_k^2` exceeds its value for errors alone; no single proposal needs a large coefficient.
    Errors are shared too, so T may be the first or second direction, or mixed with errors. Coefficients that
    are mostly near 0 are skewed. Directions of the highest skewness within the span are therefore computed
    from several starts,

    .. math:: w \leftarrow P\, \max(w, 0)^2 / \lVert P\, \max(w, 0)^2 \rVert,

    with P the projection on the span.

    Parameters
    ----------
    maps
        One row per map, shape ``(K, F)``.

    Returns
    -------
    (M, K) array
        Unit rows, distinct, by falling :math:`\lVert \sum_k w_k M_k \rVert`; M is at most twelve.

    References
    ----------
    Singer, A. (2011). Angular synchronization by eigenvectors and semidefinite programming. Applied and
    Computational Harmonic Analysis 30(1). Hyvärinen, A. and Oja, E. (1997). A fast fixed-point algorithm for
    independent component analysis. Neural Computation 9(7).
    """
    rows = np.asarray(maps, dtype=np.float32)
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    gram = np.asarray(rows @ rows.T, dtype=np.float64)
    _, vectors = np.linalg.eigh(gram)
    span = vectors[:, ::-1][:, : CONSENSUS.directions]
    found: list[Floats] = []
    for start in np.concatenate([span.T, -span.T]):
        w = start
        for _ in range(CONSENSUS.steps):
            w = span @ (span.T @ np.maximum(w, 0) ** 2)
            w = w / max(float(np.linalg.norm(w)), 1e-12)
        if w.any() and all(abs(float(w @ other)) < CONSENSUS.same for other in found):
            found.append(w)
    return np.array(sorted(found, key=lambda w: -float(w @ gram @ w)))
