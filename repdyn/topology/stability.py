"""Which leaves of a level-set tree come back when the points are drawn anew."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repdyn.errors import RepdynError
from repdyn.progress import track
from repdyn.reading import as_array
from repdyn.topology.neighbors import as_points
from repdyn.topology.tree import LevelSetTree

__all__ = ["leaf_support"]

Array = NDArray[np.float64]

# Two sets of points are the same leaf when they share more than half of their union.
SAME_LEAF = 0.5


def leaf_support(
    tree: LevelSetTree,
    x: ArrayLike,
    density: str | Callable[[Array], ArrayLike] | ArrayLike = "knn",
    resamples: int = 20,
    seed: int = 0,
) -> Array:
    r"""Estimate for each leaf how often a bootstrap sample has it too.

    .. math:: s_\ell = \frac1B \sum_b \left[ \max_m
        \frac{|\ell \cap b \cap m|}{|(\ell \cap b) \cup m|} > \frac12 \right]

    over the leaves *m* of the tree of sample *b*. Samples are drawn with replacement and each point is
    used once, because copies would be their own nearest neighbours; the tree of a sample is simplified at
    the same persistence.

    Parameters
    ----------
    tree
        A tree of these points.
    x
        The points ``(N, D)``.
    density
        As the tree was fitted.
    resamples
        B.
    seed
        Same seed, same support.

    Returns
    -------
    (L,) array
        Between 0 and 1, in the order of the leaves.

    Raises
    ------
    RepdynError
        If the points are not as many as the tree's.

    References
    ----------
    Felsenstein, J. (1985). Confidence limits on phylogenies: an approach using the bootstrap. Evolution 39.
    Hennig, C. (2007). Cluster-wise assessment of cluster stability. Computational Statistics and Data
    Analysis 52.
    """
    points = as_points(x, "leaf_support")
    if len(points) != len(tree.assignment):
        raise RepdynError(
            f"leaf_support: x has {len(points)} points, the tree {len(tree.assignment)}; give the tree's own"
        )
    if resamples < 1:
        raise RepdynError(f"leaf_support: resamples={resamples}; expected 1 or more")
    generator = np.random.default_rng(seed)
    count = len(tree.leaves)
    returned = np.zeros(count)
    for _ in track(range(resamples), "bootstrapping leaves"):
        drawn = np.unique(generator.integers(len(points), size=len(points)))
        given = density if isinstance(density, str) or callable(density) else as_array(density)[drawn]
        other = LevelSetTree.fit(
            points[drawn], given, max(tree.neighbors, 1), persistence=tree.threshold, seed=seed
        )
        leaves = len(other.leaves)
        shared = np.zeros((count, leaves))
        np.add.at(shared, (tree.assignment[drawn], other.assignment), 1)
        union = shared.sum(axis=1, keepdims=True) + shared.sum(axis=0) - shared
        returned += (shared / union).max(axis=1) > SAME_LEAF
    return returned / resamples
