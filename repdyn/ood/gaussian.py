"""Gaussian densities of unit vectors with Ledoit–Wolf covariance, for few samples in many dimensions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from scipy.linalg import blas, cholesky, lapack
from scipy.sparse import csr_array

from repdyn.conformity import check_arrays, check_values
from repdyn.ood.settings import FIT

__all__ = [
    "Moments",
    "ShrunkGaussian",
    "Squared",
    "fit_gaussian",
    "ledoit_wolf",
    "lengths",
    "unit",
    "unit_and_lengths",
]

Array = NDArray[np.float64]

_ROWS = 128  # rows that are normalized at a time: measured fastest of 32 to 512, at width 768
_EDGE = (
    float(np.finfo(np.float64).tiny) ** 0.25
)  # squares of norms outside of this, or its inverse, are scaled

ARRAYS = {"whitener": "whitener", "center": "centre", "means": "means"}  # attributes: names in saved files


def unit(x: NDArray[np.floating], dtype: DTypeLike = np.float64) -> NDArray[Any]:
    """Divide each row by its Euclidean norm; a zero row stays zero.

    x ↦ x / ‖x‖₂. Norms depend on the contrast or the length of an input more than on its content, and an
    out-of-distribution input of small norm would lie near the center.

    Parameters
    ----------
    x
        Shape ``(N, D)``.
    dtype
        In which it is computed.

    Returns
    -------
    numpy.ndarray
        Shape ``(N, D)``, of ``dtype``.
    """
    x = np.asarray(x, dtype=dtype)
    with np.errstate(over="ignore"):
        norm = np.sqrt(np.einsum("nd,nd->n", x, x))
    # Squares of very large and very small entries overflow or underflow: those rows are scaled first.
    edge = np.finfo(x.dtype).tiny ** 0.25
    odd = np.flatnonzero(~((norm > edge) & (norm < 1 / edge)))
    if len(odd):
        largest = np.abs(x[odd]).max(axis=1, initial=0)[:, None]
        largest[largest == 0] = 1
        x = x.copy()
        x[odd] /= largest
        norm[odd] = np.sqrt(np.einsum("nd,nd->n", x[odd], x[odd]))
        norm[norm == 0] = 1
    return np.asarray(x / norm[:, None])


def unit_and_lengths(x: NDArray[np.floating], dtype: DTypeLike = np.float64) -> tuple[NDArray[Any], Array]:
    """:func:`unit` and :func:`lengths` of each row in one pass, computed in float64.

    Some rows at a time: all of them in float64 would not stay in the processor's cache.

    Parameters
    ----------
    x
        Shape ``(N, D)``.
    dtype
        Of the unit vectors, which are rounded to it once.

    Returns
    -------
    directions, norms
        Shapes ``(N, D)`` and ``(N,)``, the second in float64.
    """
    directions, norms = np.empty(x.shape, dtype), np.empty(len(x))
    for start in range(0, len(x), _ROWS):
        part = slice(start, start + _ROWS)
        wide = x[part].astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            norm = np.sqrt(np.einsum("nd,nd->n", wide, wide))
        if not ((norm > _EDGE) & (norm < 1 / _EDGE)).all():
            norms[part], directions[part] = lengths(wide), unit(wide)
            continue
        wide /= norm[:, None]
        norms[part], directions[part] = norm, wide
    return directions, norms


def lengths(x: NDArray[np.floating]) -> Array:
    """Euclidean norm of each row, ``(N, D) -> (N,)``, in float64, without overflow or underflow."""
    x = np.asarray(x, dtype=np.float64)
    largest = np.abs(x).max(axis=1, initial=0)
    safe = np.where(largest > 0, largest, 1)
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = x / safe[:, None]
        return np.asarray(largest * np.sqrt(np.einsum("nd,nd->n", scaled, scaled)))


def ledoit_wolf(scatter: Array, fourth: float, count: int) -> tuple[Array, float]:
    """Shrink a covariance towards a multiple of the identity, with the least expected squared error.

    Σ = (1 − ρ) S + ρ (tr S / D) I, with S the scatter over the number of samples.

    Parameters
    ----------
    scatter
        Σₙ cₙ cₙᵀ of the centered samples, shape ``(D, D)``.
    fourth
        Σₙ ‖cₙ‖⁴, from which the sampling error of S is estimated.
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
    """A Gaussian density with one or several means and one shared, shrunk covariance.

    Attributes
    ----------
    whitener
        Shape ``(D, D)``, upper triangular: (x − center) @ whitener has identity covariance.
    center
        Shape ``(D,)``: the mean of all samples.
    means
        Shape ``(C, D)``: the class means, centered and whitened; one zero row where there are no classes.
    log_determinant
        Of the covariance.
    intensity
        The shrinkage ρ.
    """

    whitener: Array
    center: Array
    means: Array
    log_determinant: float
    intensity: float

    def nearest_squared(self, x: NDArray[np.floating]) -> NDArray[np.floating]:
        """Squared Mahalanobis distance to the nearest mean, shape ``(N,)``, in the dtype of ``x``.

        z = (x − c) W, then ‖z‖² + min_c (‖m_c‖² − 2 z · m_c).
        """
        parts = self._single if x.dtype == np.float32 else self._double
        # The transpose of a row-major array is what BLAS reads; a triangular product is half of a full one.
        white = parts.product(1.0, parts.whitener, (x - parts.center).T, trans_a=1, overwrite_b=1).T
        squared = np.einsum("nd,nd->n", white, white)
        if parts.twice is None:
            return np.asarray(squared)
        lengths = parts.lengths - white @ parts.twice
        return np.asarray(np.maximum(squared + lengths.min(axis=1), 0))

    def __getstate__(self) -> dict[str, Any]:
        # The cached products hold BLAS functions, which cannot be pickled; they are computed again.
        return {name: value for name, value in vars(self).items() if name not in ("_single", "_double")}

    @cached_property
    def float32_suffices(self) -> bool:
        """Whether distances can be computed in float32: no standard deviation is near its rounding error.

        Standard deviations are small where unit vectors lie close together, or where they differ much
        between directions.
        """
        return bool(np.abs(np.diag(self.whitener)).max() < FIT.float32_whitener)

    @cached_property
    def _single(self) -> _Products:
        return _Products.of(self, np.float32)

    @cached_property
    def _double(self) -> _Products:
        return _Products.of(self, np.float64)

    def distance(self, x: NDArray[np.floating]) -> Array:
        """Mahalanobis distance to the nearest mean, shape ``(N,)``.

        The distance is not squared. The root of a χ² variable is nearly normal (Fisher); the square has a
        long tail, so that a single point would dominate a mean over points.
        """
        return self.distance_by(lambda own: own.nearest_squared(x))

    def distance_by(self, squared: Squared) -> Array:
        """:meth:`distance` from squared distances that may be cached, ``(N,)``."""
        return np.asarray(np.sqrt(squared(self)), dtype=np.float64)

    def to_arrays(self, prefix: str) -> tuple[dict[str, float], dict[str, NDArray[Any]]]:
        """Numbers and arrays (their names begin with ``prefix``) to save."""
        arrays = {f"{prefix}{name}": getattr(self, attribute) for attribute, name in ARRAYS.items()}
        return {"log_determinant": self.log_determinant, "intensity": self.intensity}, arrays

    @classmethod
    def from_arrays(
        cls, prefix: str, numbers: Mapping[str, float], arrays: Mapping[str, NDArray[Any]]
    ) -> ShrunkGaussian:
        """The density that :meth:`to_arrays` wrote.

        Raises
        ------
        ValueError
            If shapes or types do not fit together.
        """
        own = {attribute: arrays[f"{prefix}{name}"] for attribute, name in ARRAYS.items()}
        check_arrays(own, True, whitener="D D", center="D", means="C D")
        check_values(numbers, log_determinant=float, intensity=float)
        if not len(own["means"]):
            raise ValueError(f"{prefix}means holds no mean")
        whitener, center, means = own.values()
        determinant, intensity = float(numbers["log_determinant"]), float(numbers["intensity"])
        return cls(whitener, center, means, determinant, intensity)


Squared = Callable[[ShrunkGaussian], NDArray[Any]]
"""Maps a density to the squared distances of some samples to its nearest mean, ``(N,)``."""


@dataclass(frozen=True, eq=False)
class _Products:
    """Arrays of a density in one precision for matrix products: twice the means, their squared norms."""

    product: Any
    whitener: NDArray[Any]
    center: NDArray[Any]
    twice: NDArray[Any] | None
    lengths: NDArray[Any]

    @classmethod
    def of(cls, density: ShrunkGaussian, dtype: DTypeLike) -> _Products:
        whitener = np.asarray(density.whitener, dtype=dtype, order="F")
        means = density.means.astype(dtype)
        twice = None if len(means) == 1 and not means.any() else 2 * means.T
        product = blas.strmm if whitener.dtype == np.float32 else blas.dtrmm
        return cls(product, whitener, density.center.astype(dtype), twice, (means * means).sum(axis=1))


def fit_gaussian(
    x: Array, labels: NDArray[np.intp] | None, floor: float = FIT.covariance_floor
) -> ShrunkGaussian:
    """Fit a Gaussian density with Ledoit–Wolf covariance, around class means where labels are given.

    The covariance around class means is divided by N and shrunk with the intensity of the covariance around
    the common mean. It therefore exceeds that covariance in no direction, and a distance to a class grows at
    least as fast as the distance to the center for any number of samples.

    Parameters
    ----------
    x
        Shape ``(N, D)``. N may be smaller than D; shrinkage then sets the variance of unobserved directions.
    labels
        Class numbers ``(N,)``, or ``None`` for one mean.
    floor
        Variance added in every direction, as a share of the mean variance.

    Returns
    -------
    ShrunkGaussian
    """
    number = None if labels is None else np.unique(labels, return_inverse=True)[1]
    return Moments(x, number).gaussian(floor)


class Moments:
    """Sums over samples, by fold, from which the density of all folds, or of all but one, is fitted.

    The scatter is the most expensive part of a fit. It is summed once for each fold, and every density is
    computed from these sums. Samples may come in parts (:meth:`add`); none of them is stored.

    Parameters
    ----------
    x
        Shape ``(N, D)``, the first part or all.
    labels
        Class numbers ``(N,)``, or ``None``.
    fold
        Fold of each sample ``(N,)``, numbers from 0; default: one fold.
    folds, classes
        Number of folds, and number of classes, if more parts follow. Default: those of the first part.
    """

    def __init__(
        self,
        x: Array,
        labels: NDArray[np.intp] | None = None,
        fold: NDArray[np.intp] | None = None,
        *,
        folds: int | None = None,
        classes: int | None = None,
    ) -> None:
        fold = np.zeros(len(x), dtype=np.intp) if fold is None else fold
        folds = int(fold.max()) + 1 if folds is None else folds
        self._classes = 0
        if labels is not None:
            self._classes = int(labels.max()) + 1 if classes is None else classes
        width = x.shape[1]
        # Sums are taken about the mean (of the first part): subtracting a fold's sums then does not cancel.
        self._origin = x.mean(axis=0)
        self._counts = np.zeros(folds, dtype=np.int64)
        self._sums, self._scatters = np.zeros((folds, width)), np.zeros((folds, width, width))
        # Of squared norms a: Σ a, Σ a², Σ a x, from which a fourth moment around any center follows.
        self._norms, self._squares = np.zeros(folds), np.zeros(folds)
        self._weighted = np.zeros((folds, width))
        self._class_counts = np.zeros((folds, self._classes), dtype=np.int64)
        self._class_sums = np.zeros((folds, self._classes, width))
        self.add(x, labels, fold)

    def add(self, x: Array, labels: NDArray[np.intp] | None, fold: NDArray[np.intp]) -> None:
        """Add samples ``(n, D)``, their classes ``(n,)`` and their folds ``(n,)``."""
        x = x - self._origin
        norms = np.einsum("nd,nd->n", x, x)
        for k in np.unique(fold):
            rows = fold == k
            part, own = x[rows], norms[rows]
            self._counts[k] += len(part)
            self._sums[k] += part.sum(axis=0)
            self._scatters[k] += part.T @ part
            self._norms[k] += own.sum()
            self._squares[k] += own @ own
            self._weighted[k] += own @ part
        if labels is not None:
            of, own = np.unique(fold * self._classes + labels, return_inverse=True)
            member = csr_array((np.ones(len(x)), (own, np.arange(len(x)))), shape=(len(of), len(x)))
            self._class_counts.reshape(-1)[of] += np.bincount(own)
            self._class_sums.reshape(-1, x.shape[1])[of] += member @ x

    @property
    def variance(self) -> float:
        """Total variance of all samples."""
        count = int(self._counts.sum())
        shift = self._sums.sum(axis=0) / count
        return float(self._norms.sum() / count - shift @ shift)

    def gaussian(
        self, floor: float = FIT.covariance_floor, *, classes: bool = True, without: int | None = None
    ) -> ShrunkGaussian:
        """The density, around class means if there are labels and ``classes`` is true.

        Parameters
        ----------
        floor
            As in :func:`fit_gaussian`.
        classes
            Whether class means are used.
        without
            The fold that is left out.
        """
        kept = np.arange(len(self._counts)) != (-1 if without is None else without)
        scatter, total = self._scatters.sum(axis=0), self._sums.sum(axis=0)
        if without is not None:
            scatter, total = scatter - self._scatters[without], total - self._sums[without]
        count = int(self._counts[kept].sum())
        shift = total / count
        fourth = self._fourth(kept, scatter, total, shift, count)
        scatter = scatter - count * np.outer(shift, shift)
        covariance, intensity = ledoit_wolf(scatter, fourth, count)
        width = len(scatter)
        level = float(np.trace(covariance)) / width
        means = np.zeros((1, width))
        if self._classes and classes:
            means, within = self._within(scatter, shift, kept, count)
            within_level = float(np.trace(within)) / width
            covariance = (1 - intensity) * within + intensity * within_level * np.eye(width)
        # A direction without variance, which shrinkage left at 0, would give an infinite distance.
        covariance[np.diag_indices_from(covariance)] += floor * level
        factor = cholesky(covariance, lower=True)
        whitener = np.tril(lapack.dtrtri(factor, lower=1)[0]).T
        log_determinant = float(2 * np.log(np.diag(factor)).sum())
        center = self._origin + shift
        return ShrunkGaussian(whitener, center, means @ whitener, log_determinant, intensity)

    def _fourth(
        self, kept: NDArray[np.bool_], scatter: Array, total: Array, shift: Array, count: int
    ) -> float:
        """Σ ‖x − s‖⁴ = Σ (a − 2 x·s + ‖s‖²)² over the kept folds, with a = ‖x‖²."""
        norms, squares = self._norms[kept].sum(), self._squares[kept].sum()
        weighted, size = self._weighted[kept].sum(axis=0), float(shift @ shift)
        along = 4 * shift @ scatter @ shift - 4 * weighted @ shift
        return float(squares + along + size * (2 * norms - 4 * total @ shift + count * size))

    def _within(
        self, scatter: Array, shift: Array, kept: NDArray[np.bool_], samples: int
    ) -> tuple[Array, Array]:
        """Class means about the mean of the kept folds, and the covariance around them."""
        count = self._class_counts[kept].sum(axis=0)
        means = self._class_sums[kept].sum(axis=0)[count > 0]
        count = count[count > 0]
        means = means / count[:, None] - shift
        return means, (scatter - (means * count[:, None]).T @ means) / samples
