"""Points of a representation in their own principal coordinates, the frame all matching works in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repdyn.errors import RepdynError

__all__ = ["Cloud", "unit_rows"]

Floats = NDArray[np.float64]
Rows = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Cloud:
    r"""Centred points on the unit sphere, rotated to their principal axes.

    .. math:: z_i = V^\top \frac{x_i - \mu}{\lVert x_i - \mu \rVert}

    Directions carry what a representation means, lengths mostly how long or frequent an input is; and in
    principal coordinates "the first r components" is a slice.

    Attributes
    ----------
    points
        z, shape ``(N, D)``, single precision.
    offset
        μ, shape ``(D,)``.
    basis
        V, columns by falling variance, shape ``(D, D)``.
    length
        Root mean square of :math:`\lVert x_i - \mu \rVert`.
    """

    points: Rows
    offset: Floats
    basis: Floats
    length: float

    @classmethod
    def of(cls, x: ArrayLike, name: str = "x") -> Cloud:
        """Build from raw points ``(N, D)``.

        Raises
        ------
        RepdynError
            On a wrong shape, fewer than two points, values that are not finite, or points that are all one.
        """
        raw = np.asarray(x, dtype=np.float64)
        if raw.ndim != 2 or len(raw) < 2 or raw.shape[1] == 0:
            raise RepdynError(f"{name}: expected points of shape (N, D) with N >= 2, got {raw.shape}")
        if not np.isfinite(raw).all():
            row = int(np.flatnonzero(~np.isfinite(raw).all(1))[0])
            raise RepdynError(f"{name}: not finite at row {row}; trace or clean the points first")
        offset = raw.mean(0)
        centred = raw - offset
        length = float(np.sqrt((centred**2).sum(1).mean()))
        if length <= 1e-12 * float(np.abs(offset).max()):
            raise RepdynError(f"{name}: all points are the same; there is nothing to translate")
        directions = unit_rows(centred)
        _, axes = np.linalg.eigh(directions.T @ directions)
        basis = np.ascontiguousarray(axes[:, ::-1])
        return cls((directions @ basis).astype(np.float32), offset, basis, length)

    def take(self, index: NDArray[np.int64]) -> Cloud:
        """The same frame with fewer points."""
        return Cloud(self.points[index], self.offset, self.basis, self.length)


def unit_rows(x: NDArray[np.floating]) -> NDArray[np.floating]:
    """Rows divided by their length, however small it is; rows of zeros stay zeros."""
    largest = np.abs(x).max(axis=1, keepdims=True, initial=0)
    # Squares of very small numbers are zero: rows are scaled to their largest entry first.
    scaled = x / np.where(largest > 0, largest, 1)
    length = np.linalg.norm(scaled, axis=1, keepdims=True)
    unit: NDArray[np.floating] = scaled / np.where(length > 0, length, 1)
    return unit
