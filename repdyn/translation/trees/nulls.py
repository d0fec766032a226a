"""Null models of a tree match: random geometries that keep one property of a set of leaves."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage

from repdyn.translation.coordinates import unit_rows

__all__ = ["coarse_surrogate", "groups_of", "random_surrogate", "shuffled_surrogate"]

Floats = NDArray[np.float64]
Index = NDArray[np.int64]


def random_surrogate(form: Floats, generator: np.random.Generator) -> Floats:
    r"""Vectors as far from their mean as the given ones, in directions mixed by a rotation over the leaves.

    .. math:: \tilde c_i = r_i \frac{\tilde u_i}{\lVert \tilde u_i \rVert}, \qquad
              \tilde U = \bar u + B Q B^\top (U - \bar u), \qquad c_i - \bar c = r_i u_i

    where the columns of B are an orthonormal basis of the vectors that sum to zero over the leaves. Leaves
    that are all equally far apart stay so about their unweighted mean. The effect of their masses on the
    angles about the mean of the points is the same for the surrogate.

    Parameters
    ----------
    form
        Shape ``(n, D)``.
    generator
        Draws Q.

    Returns
    -------
    (n, D) array
    """
    centered = form - form.mean(0)
    directions = unit_rows(centered)
    mean = directions.mean(0)
    mixed = mean + _mixed(directions - mean, generator)
    return np.asarray(unit_rows(mixed) * np.linalg.norm(centered, axis=1, keepdims=True))


def coarse_surrogate(mass: Floats, form: Floats, generator: np.random.Generator) -> Floats:
    r"""Vectors whose coarse geometry is the given one and whose fine geometry is random.

    About :math:`\sqrt n` groups of leaves (Ward) keep their means; within each, what differs from the mean is
    mixed by a random rotation and turned by another. Two unrelated sets of leaves that both form a few groups
    match in those groups, which alone gives a high objective. A match is significant only where the fine
    geometry adds to it.

    Parameters
    ----------
    mass, form
        Shapes ``(n,)`` and ``(n, D)``.
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
    centered = form - mass @ form
    groups = groups_of(mass, form)
    left, values, _ = np.linalg.svd(centered, full_matrices=False)
    placed = left * values
    made = placed.copy()
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        if len(rows) < 2:
            continue
        mean = placed[rows].mean(0)
        mixed = _mixed(placed[rows] - mean, generator)
        made[rows] = mean + mixed @ _rotation(placed.shape[1], generator)
    return np.asarray(made)


def groups_of(mass: Floats, form: Floats) -> Index:
    r"""About :math:`\sqrt n` groups of leaves by their directions (Ward): one for each leaf."""
    count = max(2, round(float(np.sqrt(len(form)))))
    return np.asarray(fcluster(linkage(unit_rows(form - mass @ form), "ward"), count, criterion="maxclust"))


def shuffled_surrogate(matrix: Floats, groups: Index, generator: np.random.Generator) -> Floats:
    """A symmetric matrix over the leaves, its entries between the same two groups (or within one) shuffled.

    Leaves that all lie equally far apart, as clusters in many dimensions do, agree in any order. A rotation
    would make their distances unequal, and any two such sets would then seem alike; here distances stay
    equal.

    Parameters
    ----------
    matrix
        Shape ``(n, n)``; its diagonal stays.
    groups
        Of each leaf, ``(n,)``: :func:`groups_of`.
    generator
        Draws the order.

    Returns
    -------
    (n, n) array
    """
    i, j = np.triu_indices(len(matrix), 1)
    low, high = np.minimum(groups[i], groups[j]), np.maximum(groups[i], groups[j])
    block = low * (int(groups.max()) + 1) + high
    places = np.argsort(block, kind="stable")
    drawn = np.lexsort((generator.random(len(block)), block))
    made = matrix.copy()
    made[i[places], j[places]] = made[j[places], i[places]] = matrix[i[drawn], j[drawn]]
    return made


def _mixed(rows: Floats, generator: np.random.Generator) -> Floats:
    """Rows that sum to zero, mixed by a rotation that leaves this so."""
    noise = generator.normal(size=(len(rows), len(rows) - 1))
    basis = np.linalg.qr(np.column_stack([np.ones(len(rows)), noise]))[0][:, 1:]
    return np.asarray(basis @ _rotation(len(rows) - 1, generator) @ (basis.T @ rows))


def _rotation(size: int, generator: np.random.Generator) -> Floats:
    """A random orthogonal matrix ``(size, size)``."""
    return np.asarray(np.linalg.qr(generator.normal(size=(size, size)))[0])
