"""Shrunk Gaussians: a normal density of unit vectors that stays honest with few samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from scipy.linalg import cholesky, solve_triangular

__all__ = ["ShrunkGaussian", "fit_gaussian", "ledoit_wolf", "unit"]

Array = NDArray[np.float64]

_ARRAYS = ("whitener", "centre", "means")
FLOOR = 1e-9  # only keeps a covariance invertible that shrinkage left singular


def unit(x: NDArray[np.floating], dtype: DTypeLike = np.float64) -> NDArray[Any]:
    """Divide each row by its Euclidean norm; a zero row stays zero.

    Norms vary between inputs for reasons that say little about what is in them (contrast, length), and
    an out-of-distribution input of small norm would look central: x ↦ x / ‖x‖₂.
    """
    x = np.asarray(x, dtype=dtype)
    norm = np.sqrt(np.einsum("nd,nd->n", x, x))[:, None]
    return np.asarray(np.divide(x, norm, out=np.zeros_like(x), where=norm > 0))


def ledoit_wolf(scatter: Array, fourth: float, count: int) -> tuple[Array, float]:
    """Shrink a covariance towards a multiple of the identity, by the intensity of least expected error.

    Σ = (1 − ρ) S + ρ (tr S / D) I, with S the scatter over the number of samples.

    Parameters
    ----------
    scatter
        Σₙ cₙ cₙᵀ of the centred samples, shape ``(D, D)``.
    fourth
        Σₙ ‖cₙ‖⁴, which tells how uncertain S is.
    count
        Number of samples.

    Returns
    -------
    covariance, intensity
        Shape ``(D, D)`` and ρ in [0, 1].

    References
    ----------
    Ledoit, O. & Wolf, M. (2004). A well-conditioned estimator for large-dimensional covariance matrices.
    Journal of Multivariate Analysis 88(2).
    """
    width = len(scatter)
    s = scatter / count
    scale = float(np.trace(s)) / width
    size = float(np.sum(s * s))
    uncertainty = (fourth / count - size) / (width * count)
    distance = (size - width * scale**2) / width
    intensity = 1.0 if distance <= 0 else min(max(uncertainty / distance, 0.0), 1.0)
    return (1 - intensity) * s + intensity * scale * np.eye(width), intensity


@dataclass(frozen=True, eq=False)
class ShrunkGaussian:
    """A normal density with one or several means and one shared, shrunk covariance.

    Attributes
    ----------
    whitener
        Shape ``(D, D)``: (x − centre) @ whitener has identity covariance.
    centre
        Shape ``(D,)``: the mean of all samples.
    means
        Shape ``(C, D)``: the class means, centred and whitened; one zero row where there are no classes.
    log_determinant
        Of the covariance.
    intensity
        The shrinkage ρ.
    """

    whitener: Array
    centre: Array
    means: Array
    log_determinant: float
    intensity: float

    def squared_distances(self, x: NDArray[np.floating]) -> NDArray[np.floating]:
        """Squared Mahalanobis distance to every mean, shape ``(N, C)``, in the dtype of ``x``."""
        z = (x - self.centre.astype(x.dtype)) @ self.whitener.astype(x.dtype)
        means = self.means.astype(x.dtype)
        squared = (z * z).sum(axis=1)[:, None]
        if len(means) == 1 and not means.any():
            return np.asarray(squared)
        squared = squared - 2 * z @ means.T + (means * means).sum(axis=1)
        return np.asarray(np.maximum(squared, 0))

    def distance(self, x: NDArray[np.floating]) -> Array:
        """Mahalanobis distance to the nearest mean, shape ``(N,)``.

        Not squared: the root of a χ² variable is nearly normal (Fisher), its square has a long tail that
        would let one point of the path outvote all others when points are averaged.
        """
        return np.asarray(np.sqrt(self.squared_distances(x).min(axis=1)), dtype=np.float64)

    def to_arrays(self, prefix: str) -> tuple[dict[str, float], dict[str, NDArray[Any]]]:
        """Numbers and arrays (their names begin with ``prefix``) to save."""
        arrays = {f"{prefix}{name}": getattr(self, name) for name in _ARRAYS}
        return {"log_determinant": self.log_determinant, "intensity": self.intensity}, arrays

    @classmethod
    def from_arrays(
        cls, prefix: str, numbers: Mapping[str, float], arrays: Mapping[str, NDArray[Any]]
    ) -> ShrunkGaussian:
        """The density that :meth:`to_arrays` wrote."""
        whitener, centre, means = (arrays[f"{prefix}{name}"] for name in _ARRAYS)
        determinant, intensity = float(numbers["log_determinant"]), float(numbers["intensity"])
        return cls(whitener, centre, means, determinant, intensity)


def fit_gaussian(x: Array, labels: NDArray[np.intp] | None, floor: float = FLOOR) -> ShrunkGaussian:
    """Fit a normal density with Ledoit–Wolf covariance, around class means where labels are given.

    The covariance around class means is divided by N and shrunk by the intensity of the covariance around
    the common mean. So it never exceeds that one in any direction, and a distance to a class grows at
    least as fast as the distance to the centre, however few samples there are.

    Parameters
    ----------
    x
        Shape ``(N, D)``; N may be smaller than D, shrinkage then carries the directions not seen.
    labels
        Class numbers ``(N,)``, or ``None`` for one mean.
    floor
        Variance added in every direction, as a share of the mean variance: below it lies noise.

    Returns
    -------
    ShrunkGaussian
    """
    width = x.shape[1]
    centre = x.mean(axis=0)
    centred = x - centre
    squared = np.einsum("nd,nd->n", centred, centred)
    scatter = centred.T @ centred
    covariance, intensity = ledoit_wolf(scatter, float(squared @ squared), len(x))
    level = float(np.trace(covariance)) / width
    means = np.zeros((1, width))
    if labels is not None:
        _, number, count = np.unique(labels, return_inverse=True, return_counts=True)
        means = np.zeros((len(count), width))
        np.add.at(means, number, centred)
        means /= count[:, None]
        within = (scatter - (means * count[:, None]).T @ means) / len(x)
        within_level = float(np.trace(within)) / width
        covariance = (1 - intensity) * within + intensity * within_level * np.eye(width)
    # A direction that no sample moves in and that shrinkage leaves at 0 would be an infinite distance.
    covariance[np.diag_indices_from(covariance)] += floor * level
    factor = cholesky(covariance, lower=True)
    whitener = solve_triangular(factor, np.eye(width), lower=True).T
    log_determinant = float(2 * np.log(np.diag(factor)).sum())
    return ShrunkGaussian(whitener, centre, means @ whitener, log_determinant, intensity)
