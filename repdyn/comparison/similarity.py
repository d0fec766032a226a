"""Measures of similarity between two representations of the same samples, and their values by chance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repdyn.arguments import whole
from repdyn.errors import RepdynError
from repdyn.reading import as_array
from repdyn.topology.neighbors import as_points

__all__ = [
    "Permuted",
    "mutual_neighbors",
    "neighbor_table",
    "permuted",
    "procrustes_distance",
    "unbiased_gram",
]

Floats = NDArray[np.float64]
Gram = NDArray[np.float32]
Index = NDArray[np.int64]


def unbiased_gram(x: ArrayLike) -> Gram:
    r"""Linear Gram matrix, centered so that inner products of two such matrices are unbiased.

    .. math:: \tilde K_{ij} = K_{ij} - \frac{\sum_l K_{il} + \sum_l K_{lj}}{N - 2}
              + \frac{\sum_{lm} K_{lm}}{(N - 1)(N - 2)}, \qquad \tilde K_{ii} = 0

    where the diagonal of *K* is left out of all sums. Centered kernel alignment is the cosine of two such
    matrices. That of independent samples is 0 on average, at any width; the common estimate grows with D/N.

    Parameters
    ----------
    x
        Points ``(N, D)``, N at least 4.

    Returns
    -------
    numpy.ndarray
        ``(N, N)`` float32, with Frobenius norm 1 (0 if all points are equal).

    References
    ----------
    Szekely, G. and Rizzo, M. (2014). Partial distance correlation with methods for dissimilarities. Annals of
    Statistics 42(6). Kornblith, S. et al. (2019). Similarity of neural network representations revisited.
    ICML.

    Examples
    --------
    >>> x, y = np.random.default_rng(0).normal(size=(2, 100, 400))
    >>> bool(abs((unbiased_gram(x) * unbiased_gram(y)).sum()) < 0.1)
    True
    """
    points = as_points(x, "unbiased_gram")
    count = len(points)
    if count < 4:
        raise RepdynError(f"unbiased_gram: expected points (N, D) with N of 4 or more, got {points.shape}")
    points = points - points.mean(0)
    gram = points @ points.T
    np.fill_diagonal(gram, 0)
    rows = gram.sum(1) / (count - 2)
    gram -= rows[:, None]
    gram -= rows
    gram += rows.sum() / (count - 1)
    np.fill_diagonal(gram, 0)
    norm = float(np.linalg.norm(gram))
    return np.asarray(gram / norm if norm > 0 else gram, dtype=np.float32)


def neighbor_table(x: ArrayLike, neighbors: int) -> Index:
    """Numbers of the nearest other points by cosine, ``(N, k)``, of centered points ``(N, D)``."""
    points = as_points(x, "neighbor_table")
    neighbors = whole("neighbor_table: neighbors", neighbors)
    if not 1 <= neighbors < len(points):
        raise RepdynError(
            f"neighbor_table: expected more than {neighbors} points (N, D) and 1 neighbor or more, got "
            f"{points.shape}"
        )
    points = points - points.mean(0)
    # A point at the center has no direction.
    points = points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-300)
    cosines = points @ points.T
    np.fill_diagonal(cosines, -np.inf)
    nearest = np.argpartition(cosines, -neighbors, axis=1)[:, -neighbors:]
    return nearest.astype(np.int64)


def mutual_neighbors(one: Index, other: Index) -> Floats:
    """Share of each sample's neighbors that both tables ``(N, k)`` have, ``(N,)``.

    References
    ----------
    Huh, M. et al. (2024). The Platonic representation hypothesis. ICML.

    Examples
    --------
    >>> one = np.array([[1, 2], [0, 2], [0, 1], [0, 1]])
    >>> mutual_neighbors(one, np.array([[2, 3], [0, 2], [0, 1], [1, 2]])).tolist()
    [0.5, 1.0, 1.0, 0.5]
    """
    one, other = (as_array(table) for table in (one, other))
    if one.ndim != 2 or one.shape != other.shape or {one.dtype.kind, other.dtype.kind} - {"i", "u"}:
        raise RepdynError(
            "mutual_neighbors: expected two tables of neighbors of one shape (N, k), integers as "
            f"neighbor_table gives, got {one.dtype} {one.shape} and {other.dtype} {other.shape}"
        )
    if min(one.min(), other.min()) < 0 or max(one.max(), other.max()) >= len(one):
        raise RepdynError(f"mutual_neighbors: the tables have {len(one)} samples and name others")
    return np.asarray(_membership(other)[np.arange(len(one))[:, None], one].mean(1), dtype=np.float64)


def procrustes_distance(x: ArrayLike, y: ArrayLike) -> float:
    r"""Distance of two point sets after the best rotation, translation and scaling, 0 to :math:`\sqrt2`.

    .. math:: d = \sqrt{2 - 2 \lVert \hat X^\top \hat Y \rVert_*}

    over centered points of Frobenius norm 1; widths may differ. With fewer samples than coordinates, the
    rotation fits noise, and the distance is small by chance.

    References
    ----------
    Williams, A. et al. (2021). Generalized shape metrics on neural representations. NeurIPS.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=(50, 3))
    >>> round(procrustes_distance(x, 2 + 3 * x[:, ::-1]), 6)
    0.0
    """
    one, other = as_points(x, "procrustes_distance"), as_points(y, "procrustes_distance")
    if len(one) != len(other):
        raise RepdynError(
            "procrustes_distance: expected points (N, D) and (N, E) of the same N samples, "
            f"got {one.shape} and {other.shape}"
        )
    return float(np.sqrt(max(0.0, 2 - 2 * _overlap(_unit(one), _unit(other)))))


def _unit(x: ArrayLike) -> Floats:
    points = as_array(x, np.float64)
    points = points - points.mean(0)
    norm = float(np.linalg.norm(points))
    return np.asarray(points / norm if norm > 0 else points)


def _overlap(x: Floats, y: Floats) -> float:
    """Sum of the singular values of the cross product of two point sets."""
    return float(np.linalg.svd(x.T @ y, compute_uv=False).sum())


def _membership(table: Index) -> NDArray[np.bool_]:
    """Whether sample j is a neighbor of sample i, ``(N, N)``."""
    member = np.zeros((len(table), len(table)), dtype=np.bool_)
    np.put_along_axis(member, table, True, axis=1)
    return member


class Permuted:
    """The measures of all pairs of depths of A and B, and of A's samples in random orders.

    Attributes
    ----------
    alignment, neighbors
        Of the samples in their order, ``(L_a, L_b)``.
    chance_alignment, chance_neighbors
        Of P permutations, ``(P, L_a, L_b)``.
    """

    def __init__(
        self, a: Sequence[ArrayLike], b: Sequence[ArrayLike], neighbors: int, permutations: int, seed: int
    ) -> None:
        # Flat rows, so that all pairs of depths are one matrix product.
        grams_a = np.stack([unbiased_gram(x) for x in a])
        grams_b = np.stack([unbiased_gram(y).ravel() for y in b])
        tables = [neighbor_table(x, neighbors) for x in a]
        members = [_membership(neighbor_table(y, neighbors)) for y in b]
        count = grams_a.shape[1]
        identity = np.arange(count)
        self.alignment = _aligned(grams_a, grams_b, identity)
        self.neighbors = _shared(tables, members, identity)
        generator = np.random.default_rng(seed)
        orders = [generator.permutation(count) for _ in range(permutations)]
        self.chance_alignment = np.stack([_aligned(grams_a, grams_b, order) for order in orders])
        self.chance_neighbors = np.stack([_shared(tables, members, order) for order in orders])


def _aligned(grams_a: Gram, grams_b: Gram, order: Index) -> Floats:
    moved = grams_a[:, order][:, :, order].reshape(len(grams_a), -1)
    return np.asarray(moved @ grams_b.T, dtype=np.float64)


def _shared(tables: Sequence[Index], members: Sequence[NDArray[np.bool_]], order: Index) -> Floats:
    """Mean share of neighbors that A's samples, renamed by ``order``, have in common with B's."""
    rows = order[:, None]
    return np.array([[member[rows, order[table]].mean() for member in members] for table in tables])


def permuted(statistic: ArrayLike, chance: NDArray[np.float64]) -> tuple[float, float]:
    """The 95 % quantile by chance, and the p-value of a statistic that is large where samples correspond.

    References
    ----------
    Phipson, B. and Smyth, G. (2010). Permutation p-values should never be zero. Statistical Applications in
    Genetics and Molecular Biology 9(1).
    """
    value = float(np.asarray(statistic))
    p = (1 + int((chance >= value).sum())) / (1 + len(chance))
    return float(np.quantile(chance, 0.95)), p


def jackknife_alignment(one: Gram, other: Gram) -> float:
    """Standard error of the alignment of two Gram matrices over samples, by leaving one out at a time."""
    count = len(one)
    cross, first, second = (
        (x * y).sum(1, dtype=np.float64) for x, y in ((one, other), (one, one), (other, other))
    )
    if not (first.any() and second.any()):  # all points are equal
        return 0.0
    # A sample stands in one row and one column.
    left = (cross.sum() - 2 * cross) / np.sqrt((first.sum() - 2 * first) * (second.sum() - 2 * second))
    return float(np.sqrt((count - 1) / count * ((left - left.mean()) ** 2).sum()))
