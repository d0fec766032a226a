"""Points of a representation in their own principal coordinates, in which all matching is done."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repdyn.errors import RepdynError
from repdyn.reading import as_array

__all__ = ["Cloud", "label_means", "outlier_shrink", "unit_rows"]

Floats = NDArray[np.float64]
Rows = NDArray[np.float32]


@dataclass(frozen=True)
class CloudSettings:
    """Settings of :class:`Cloud`.

    Attributes
    ----------
    far
        Distance from the median, in units of the median distance, from which on a row is left out of the
        center, the length and the axes.
    wide
        Variance of an outlier axis over that of all narrower axes together. None of the 45 points of
        MiniLM-L6, paraphrase-L3 and two CIFAR ResNets has such an axis.
    max_wide
        Share of the axes that may be outliers, one at least.
    rounding
        Share of the variance below which the remaining variance is rounding.
    """

    far: float = 10.0
    wide: float = 100.0
    max_wide: float = 0.01
    rounding: float = 1e-12


SETTINGS = CloudSettings()


@dataclass(frozen=True, eq=False)
class Cloud:
    r"""Centered points on the unit sphere, rotated to their principal axes.

    .. math:: z_i = V^\top \frac{S (x_i - \mu)}{\lVert S (x_i - \mu) \rVert}

    Directions depend on the content of an input, lengths mostly on its length or frequency. In principal
    coordinates "the first r components" is a slice. S is the identity, except where few axes hold nearly all
    of the variance, like the outlier coordinates of language models: all directions would be nearly the
    same. S then scales each of these axes to the variance that all other axes have together.

    Attributes
    ----------
    points
        z, shape ``(N, D)``, single precision.
    offset
        μ, shape ``(D,)``.
    basis
        V, columns by falling variance, shape ``(D, D)``.
    length
        Root mean square of :math:`\lVert S (x_i - \mu) \rVert`.
    shrink
        S, symmetric, shape ``(D, D)``; None for the identity.
    """

    points: Rows
    offset: Floats
    basis: Floats
    length: float
    shrink: Floats | None = None

    @classmethod
    def of(cls, x: ArrayLike, name: str = "x") -> Cloud:
        """Build from raw points ``(N, D)``.

        Raises
        ------
        RepdynError
            On a wrong shape, fewer than two points, values that are not finite, or points that are all one.
        """
        raw = as_array(x, np.float64)
        if raw.ndim != 2 or len(raw) < 2 or raw.shape[1] == 0:
            raise RepdynError(f"{name}: expected points of shape (N, D) with N >= 2, got {raw.shape}")
        if not np.isfinite(raw).all():
            row = int(np.flatnonzero(~np.isfinite(raw).all(1))[0])
            raise RepdynError(f"{name}: not finite at row {row}; trace or clean the points first")
        near = _near_rows(raw)
        offset = raw[near].mean(0)
        centered = raw - offset
        length = float(np.sqrt((centered[near] ** 2).sum(1).mean()))
        if length <= 1e-12 * float(np.abs(offset).max()):
            raise RepdynError(f"{name}: all points are the same; there is nothing to translate")
        shrink = outlier_shrink(centered[near] / length)
        if shrink is not None:
            centered = centered @ shrink
            length = float(np.sqrt((centered[near] ** 2).sum(1).mean()))
        directions = unit_rows(centered)
        _, axes = np.linalg.eigh(directions.T @ directions)
        basis = np.ascontiguousarray(axes[:, ::-1])
        return cls((directions @ basis).astype(np.float32), offset, basis, length, shrink)

    def take(self, index: NDArray[np.int64]) -> Cloud:
        """The rows of an index, in the same coordinates."""
        return replace(self, points=self.points[index])

    @property
    def into(self) -> Floats:
        """S V: from centered points to principal coordinates, before division by their length."""
        return self.basis if self.shrink is None else np.asarray(self.shrink @ self.basis)

    @property
    def back(self) -> Floats:
        """Inverse of :attr:`into`."""
        turned = self.basis.T
        return turned if self.shrink is None else np.asarray(np.linalg.solve(self.shrink, turned.T).T)


def _near_rows(raw: Floats) -> NDArray[np.bool_]:
    """Mask ``(N,)`` of rows that are not far outliers: a few of these would determine center and axes."""
    distance = np.linalg.norm(raw - np.median(raw, axis=0), axis=1)
    middle = float(np.median(distance))
    return distance <= SETTINGS.far * middle if middle > 0 else np.ones(len(raw), dtype=bool)


def outlier_shrink(centered: Floats) -> Floats | None:
    """S of :class:`Cloud` for centered points ``(N, D)``; None where there are no outlier axes."""
    values, axes = np.linalg.eigh(centered.T @ centered)
    values, axes = np.maximum(values[::-1], 0), axes[:, ::-1]
    rest = values.sum() - np.cumsum(values)
    most = max(1, int(SETTINGS.max_wide * len(values)))
    # Rounding errors of the widest axes are not the variance of the others.
    apart = (values[:most] > SETTINGS.wide * rest[:most]) & (rest[:most] > SETTINGS.rounding * values.sum())
    if not apart.any():
        return None
    count = int(np.flatnonzero(apart)[-1]) + 1
    wide = axes[:, :count]
    factor = np.sqrt(rest[count - 1] / values[:count])
    return np.asarray(np.eye(len(values)) - (wide * (1 - factor)) @ wide.T)


def label_means(x: NDArray[np.floating], labels: NDArray[np.int64]) -> Floats:
    """Mean of the points ``(N, D)`` of each label, ``(n, D)``; labels 0 to n − 1, none empty."""
    counts = np.bincount(labels)
    indicator = np.zeros((len(counts), len(labels)), dtype=np.float32)
    indicator[labels, np.arange(len(labels))] = 1
    return np.asarray(np.asarray(indicator @ x, dtype=np.float64) / counts[:, None])


def unit_rows(x: NDArray[np.floating]) -> NDArray[np.floating]:
    """Rows divided by their length, without underflow; rows of zeros stay zeros."""
    largest = np.abs(x).max(axis=1, keepdims=True, initial=0)
    # Squares of very small numbers underflow: rows are scaled to their largest entry first.
    scaled = x / np.where(largest > 0, largest, 1)
    length = np.linalg.norm(scaled, axis=1, keepdims=True)
    unit: NDArray[np.floating] = scaled / np.where(length > 0, length, 1)
    return unit
