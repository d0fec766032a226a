"""The plane in which paths are drawn: one projection that the points share."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.extmath import randomized_svd

from repdyn.paths.columns import Rows, Tokens
from repdyn.paths.sampling import sample_indices

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from repdyn.paths.paths import RepresentationPaths

__all__ = ["picture", "project"]


def picture(paths: RepresentationPaths, seed: int) -> go.Figure:
    """Paths drawn in one plane; see :meth:`repdyn.RepresentationPaths.plot`."""
    from repdyn.views.path_flow import path_flow

    seen = paths.subset(sample_indices(len(paths), seed))
    (block,) = seen.iterate(size=len(seen))
    columns = {
        point: Tokens.of(x, block.masks[point]) if point in block.masks else Rows.of(x)
        for point, x in block.items()
    }
    projected, explained = project(columns, seed)
    return path_flow(projected, seen.labels, list(seen.points), explained, total=len(paths))


def project(
    columns: Mapping[str, Rows | Tokens], seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Project all points of paths to one plane.

    Each point is centred and divided by its root mean square norm, because norms grow with depth and would
    hide everything else. Neighbouring points of one width are projected by one principal component analysis
    of all of them. Where the width changes a common plane does not exist: there the new plane is turned onto
    the one before (orthogonal Procrustes over the samples).

    Parameters
    ----------
    columns
        Representations of N samples at L points, in order of depth; tokens are averaged.
    seed
        Of the randomised decomposition.

    Returns
    -------
    tuple
        Coordinates ``(L, N, 2)`` and the plane's share of each point's variance, ``(L,)``.
    """
    projected: list[NDArray[np.float64]] = []
    explained: list[float] = []
    for _, group in groupby(columns.values(), key=lambda column: column.width):
        stack = np.stack([_standardised(column) for column in group])
        rows = stack.reshape(-1, stack.shape[-1])
        # Every point is centred, so the leading right singular vectors are the principal axes.
        axes = randomized_svd(rows, min(2, *rows.shape), random_state=seed)[2]
        basis = np.zeros((2, stack.shape[-1]))
        basis[: len(axes)] = axes
        planes = stack @ basis.T
        if projected:
            left, _, right = np.linalg.svd(planes[0].T @ projected[-1])
            planes = planes @ (left @ right)
        projected.extend(planes)
        energy = (stack**2).sum(axis=(1, 2))
        share = np.divide((planes**2).sum(axis=(1, 2)), energy, out=np.zeros(len(stack)), where=energy > 0)
        explained.extend(np.minimum(share, 1.0).tolist())
    return np.stack(projected), np.array(explained)


def _standardised(column: Rows | Tokens) -> NDArray[np.float64]:
    values: NDArray[np.float64] = np.asarray(column, dtype=np.float64)
    if isinstance(column, Tokens):
        values = values.sum(axis=1) / np.maximum(column.shown_lengths(), 1)[:, None]
    values = values - values.mean(axis=0)
    norm = float(np.sqrt((values**2).sum(axis=1).mean()))
    return values / norm if norm > 0 else values
