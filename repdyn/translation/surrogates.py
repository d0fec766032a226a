"""The nulls of a tree match: geometries that share something with a set of leaves and are else random."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage

from repdyn.translation.coordinates import unit_rows

__all__ = ["coarse_surrogate", "random_surrogate"]

Floats = NDArray[np.float64]


def random_surrogate(mass: Floats, form: Floats, generator: np.random.Generator) -> Floats:
    r"""Vectors of equal masses and spectrum whose geometry is random: mixed by a rotation over the leaves.

    .. math:: \tilde C = M^{-1/2} Q\, M^{1/2} (C - m^\top C), \qquad M = \mathrm{diag}(m)

    Parameters
    ----------
    mass, form
        Shapes ``(n,)`` and ``(n, D)``.
    generator
        Draws Q.

    Returns
    -------
    (n, D) array
    """
    weighted = np.sqrt(mass)[:, None] * (form - mass @ form)
    return np.asarray((_rotation(len(mass), generator) @ weighted) / np.sqrt(mass)[:, None])


def coarse_surrogate(mass: Floats, form: Floats, generator: np.random.Generator) -> Floats:
    r"""Vectors whose coarse geometry is the given one and whose fine geometry is random.

    About :math:`\sqrt n` groups of leaves (Ward) keep their means; within each, what differs from the mean is
    mixed by a random rotation and turned by another. Two unrelated sets of leaves that both fall into a few
    groups match in those groups, and by them alone reach a high objective: a match is one only where the fine
    geometry adds to it.

    Parameters
    ----------
    mass, form
        As in :func:`random_surrogate`.
    generator
        Draws the rotations.

    Returns
    -------
    (n, n) array or narrower
        In principal coordinates of the leaves.

    References
    ----------
    Ward, J. (1963). Hierarchical grouping to optimize an objective function. JASA 58(301).
    """
    centred = form - mass @ form
    count = len(centred)
    groups = fcluster(
        linkage(unit_rows(centred), "ward"), max(2, round(float(np.sqrt(count)))), criterion="maxclust"
    )
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    placed = left * values
    made = placed.copy()
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        if len(rows) < 2:
            continue
        mean = placed[rows].mean(0)
        # An orthonormal basis of what sums to zero over the group: mixing in it leaves the mean alone.
        noise = generator.normal(size=(len(rows), len(rows) - 1))
        basis = np.linalg.qr(np.column_stack([np.ones(len(rows)), noise]))[0][:, 1:]
        mixed = basis @ _rotation(len(rows) - 1, generator) @ (basis.T @ (placed[rows] - mean))
        made[rows] = mean + mixed @ _rotation(placed.shape[1], generator)
    return np.asarray(made)


def _rotation(size: int, generator: np.random.Generator) -> Floats:
    return np.asarray(np.linalg.qr(generator.normal(size=(size, size)))[0])
