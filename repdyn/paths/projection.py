"""All points of paths in one plane, for the picture of a flow."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from repdyn.paths.columns import TokenColumn, VectorColumn

__all__ = ["project"]


def project(
    columns: Mapping[str, VectorColumn | TokenColumn], seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Project all points of paths to one plane.

    Each point is centered and divided by its root mean square norm, because norms grow with depth and would
    dominate. Consecutive points of one width share one principal component analysis. Where the width changes,
    the new plane is rotated onto the previous one (orthogonal Procrustes over the samples).

    Parameters
    ----------
    columns
        Representations of N samples at L points, in order of depth; tokens are averaged.
    seed
        Seed of the randomized decomposition.

    Returns
    -------
    tuple
        Coordinates ``(L, N, 2)`` and the plane's share of each point's variance, ``(L,)``.
    """
    # scikit-learn and torch, which linalg needs, are slow to import: a store opens without them.
    from sklearn.utils.extmath import randomized_svd

    from repdyn.linalg import polar

    projected: list[NDArray[np.float64]] = []
    explained: list[float] = []
    for _, group in groupby(columns.values(), key=lambda column: column.width):
        stack = np.stack([_standardized(column) for column in group])
        rows = stack.reshape(-1, stack.shape[-1])
        # Points are centered, so the leading right singular vectors are the principal axes.
        axes = randomized_svd(rows, min(2, *rows.shape), random_state=seed)[2]
        basis = np.zeros((2, stack.shape[-1]))
        basis[: len(axes)] = axes
        planes = stack @ basis.T
        if projected:
            planes = planes @ polar(planes[0].T @ projected[-1])
        projected.extend(planes)
        energy = (stack**2).sum(axis=(1, 2))
        share = np.divide((planes**2).sum(axis=(1, 2)), energy, out=np.zeros(len(stack)), where=energy > 0)
        explained.extend(np.minimum(share, 1.0).tolist())
    return np.stack(projected), np.array(explained)


def _standardized(column: VectorColumn | TokenColumn) -> NDArray[np.float64]:
    """Centered vectors (mean tokens) ``(N, D)`` with root mean square norm 1."""
    values: NDArray[np.float64] = np.asarray(column, dtype=np.float64)
    if isinstance(column, TokenColumn):
        values = values.sum(axis=1) / np.maximum(column.shown_lengths(), 1)[:, None]
    values = values - values.mean(axis=0)
    norm = float(np.sqrt((values**2).sum(axis=1).mean()))
    return values / norm if norm > 0 else values
