"""Shrunk Gaussians: a normal density of unit vectors that stays honest with few samples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular
from scipy.special import logsumexp

__all__ = ["FOLDS", "HeldOut", "ShrunkGaussian", "cross_fit", "fit_gaussian", "ledoit_wolf", "unit"]

Array = NDArray[np.float64]

FOLDS = 5  # held-out scores come from models that saw four fifths: close to the final one, five fits only
# Total variance of unit vectors below which a point is constant but for rounding, (1e-7)² and some room.
CONSTANT = 1e-12
FLOOR = 1e-9  # only keeps a covariance invertible that shrinkage left singular


def unit(x: NDArray[np.floating]) -> Array:
    """Divide each row by its Euclidean norm; a zero row stays zero.

    Norms vary between inputs for reasons that say little about what is in them (contrast, length), and
    an out-of-distribution input of small norm would look central: x ↦ x / ‖x‖₂.
    """
    x = np.asarray(x, dtype=np.float64)
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    return np.asarray(np.divide(x, norm, out=np.zeros_like(x), where=norm > 0))


def ledoit_wolf(scatter: Array, fourth: float, count: int, freedom: int | None = None) -> tuple[Array, float]:
    """Shrink a covariance towards a multiple of the identity, by the intensity of least expected error.

    Σ = (1 − ρ) S + ρ (tr S / D) I, with S the scatter over its degrees of freedom.

    Parameters
    ----------
    scatter
        Σₙ cₙ cₙᵀ of the centred samples, shape ``(D, D)``.
    fourth
        Σₙ ‖cₙ‖⁴, which tells how uncertain S is.
    count
        Number of samples.
    freedom
        Degrees of freedom of the scatter, ``count`` unless told.

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
    freedom = count if freedom is None else freedom
    s = scatter / freedom
    scale = float(np.trace(s)) / width
    size = float(np.sum(s * s))
    uncertainty = (fourth / freedom - size) / (width * count)
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
    log_weights
        Shape ``(C,)``: logarithms of the classes' shares.
    log_determinant
        Of the covariance.
    intensity
        The shrinkage ρ.
    """

    whitener: Array
    centre: Array
    means: Array
    log_weights: Array
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

    def log_likelihood(self, x: NDArray[np.floating]) -> Array:
        """Log-density of the mixture over the means, shape ``(N,)``."""
        squared = self.squared_distances(np.asarray(x, dtype=np.float64))
        constant = -0.5 * (self.log_determinant + len(self.centre) * np.log(2 * np.pi))
        return np.asarray(logsumexp(self.log_weights - 0.5 * squared, axis=1) + constant)


@dataclass(frozen=True, eq=False)
class HeldOut:
    """A density fitted to all samples and what the cross-fitted ones say of each held-out sample.

    Attributes
    ----------
    gaussian
        Fitted to all samples; ``None`` where the samples do not vary.
    distances
        Shape ``(N,)``: each sample's distance under the model that did not see it.
    """

    gaussian: ShrunkGaussian | None
    distances: Array


def cross_fit(
    x: Array, labels: NDArray[np.intp] | None, fold: NDArray[np.intp], floor: float = FLOOR
) -> HeldOut:
    """Fit one Gaussian to unit vectors, with class means if they describe *held-out* samples better.

    Whether classes help is decided by the likelihood of in-distribution samples that the model did not
    see, a proper scoring rule; out-of-distribution data has no say. So labels that say nothing at a
    point (an early layer), or that are as many as the samples, do no harm.

    Parameters
    ----------
    x
        Unit vectors ``(N, D)``.
    labels
        Class numbers ``(N,)`` or ``None``.
    fold
        Fold of each sample ``(N,)``, numbers from 0.
    floor
        As in :func:`fit_gaussian`.

    Returns
    -------
    HeldOut
    """
    if float(x.var(axis=0).sum()) < CONSTANT:
        return HeldOut(None, np.zeros(len(x)))
    one, several = np.empty(len(x)), np.empty(len(x))
    gain: float | None = 0.0 if labels is not None else None
    for k in range(int(fold.max()) + 1):
        out = fold == k
        gaussian = fit_gaussian(x[~out], None, floor)
        one[out] = gaussian.distance(x[out])
        if labels is None or gain is None:
            continue
        if not _enough(labels[~out]):
            gain = None
            continue
        conditional = fit_gaussian(x[~out], labels[~out], floor)
        several[out] = conditional.distance(x[out])
        gain += float(np.sum(conditional.log_likelihood(x[out]) - gaussian.log_likelihood(x[out])))
    if labels is not None and gain is not None and gain > 0:
        return HeldOut(fit_gaussian(x, labels, floor), several)
    return HeldOut(fit_gaussian(x, None, floor), one)


def fit_gaussian(x: Array, labels: NDArray[np.intp] | None, floor: float = FLOOR) -> ShrunkGaussian:
    """Fit a normal density with Ledoit–Wolf covariance, around class means where labels are given.

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
    centre = x.mean(axis=0)
    centred = x - centre
    if labels is None:
        means, residual = np.zeros((1, x.shape[1])), centred
        weights = np.zeros(1)
    else:
        _, number, count = np.unique(labels, return_inverse=True, return_counts=True)
        means = np.zeros((len(count), x.shape[1]))
        np.add.at(means, number, centred)
        means /= count[:, None]
        residual, weights = centred - means[number], np.log(count / len(x))
    squared = np.einsum("nd,nd->n", residual, residual)
    covariance, intensity = ledoit_wolf(
        residual.T @ residual, float(squared @ squared), len(x), freedom=len(x) - len(means) + 1
    )
    # A direction that no sample moves in and that shrinkage leaves at 0 would be an infinite distance.
    covariance[np.diag_indices_from(covariance)] += floor * np.trace(covariance) / len(covariance)
    factor = cholesky(covariance, lower=True)
    whitener = solve_triangular(factor, np.eye(len(factor)), lower=True).T
    return ShrunkGaussian(
        whitener,
        centre,
        means @ whitener,
        weights,
        float(2 * np.log(np.diag(factor)).sum()),
        intensity,
    )


def _enough(labels: NDArray[np.intp]) -> bool:
    """Whether class means leave at least as many degrees of freedom as they take."""
    classes = len(np.unique(labels))
    return 2 <= classes <= len(labels) // 2
