"""Residual dynamic mode decomposition on sums: eigenpairs of data, and how far each is from being true.

All of it needs no more of the observables than their Gram matrices before and after a step, so blocks of
samples are summed once and every resample afterwards costs one eigendecomposition.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Resampled",
    "condition_number",
    "eigenpairs",
    "left_vectors",
    "moments",
    "pseudospectrum",
    "resample",
    "residuals",
    "solve",
]

Complex = NDArray[Any]
Real = NDArray[np.float64]

_SHRINKAGE = 1e-10  # ridge relative to the mean eigenvalue: below it is rounding of the float32 encoder
_TINY = 1e-300


def moments(z: Real) -> Real:
    """``Ψ*Ψ``, ``Ψ*Ψ'`` and ``Ψ'*Ψ'`` of observables ``(points, N, d)`` over all steps, ``(3, d, d)``."""
    before, after = z[:-1].reshape(-1, z.shape[-1]), z[1:].reshape(-1, z.shape[-1])
    return np.stack([before.T @ before, before.T @ after, after.T @ after])


def shrunk(gram: Real) -> Real:
    """A Gram matrix with a ridge at the size of rounding, so that it can be inverted.

    The ridge is relative to each observable's own size: a common one would be far above the small ones.
    """
    size = np.diag(gram)
    floor = max(float(size.max()) * np.finfo(np.float64).eps ** 2, _TINY)
    found: Real = gram + _SHRINKAGE * np.diag(np.maximum(size, floor))
    return found


def solve(gram: Real, right: Real) -> Real:
    """``(gram + ridge)^-1 right``, worked out with observables of one size."""
    matrix = shrunk(gram)
    size = 1 / np.sqrt(np.diag(matrix))
    found: Real = size[:, None] * np.linalg.solve(size[:, None] * matrix * size, size[:, None] * right)
    return found


def left_vectors(vectors: Complex) -> Complex:
    """The rows w of the inverse of eigenvectors (their pseudo-inverse if they are dependent).

    Rows and columns are first brought to one size: observables of unequal size make those of vectors unequal,
    and a common cut-off would drop the narrow ones.
    """
    row = np.abs(vectors).max(axis=1, initial=0.0)
    row[row == 0] = 1.0
    column = np.abs(vectors / row[:, None]).max(axis=0, initial=0.0)
    column[column == 0] = 1.0
    found: Complex = np.linalg.pinv(vectors / row[:, None] / column) / column[:, None] / row
    return found


def condition_number(gram: Real) -> float:
    """Largest eigenvalue of a Gram matrix over its smallest, of observables brought to one size.

    Infinite where the smallest is rounding.
    """
    size = np.sqrt(np.diag(gram))
    size = np.where(size > 0, size, 1)
    spread = np.linalg.eigvalsh(gram / size / size[:, None])
    return float(spread[-1] / spread[0]) if spread[0] > 0 else float("inf")


def eigenpairs(found: Real) -> tuple[Real, Complex, Complex]:
    """The operator ``(Ψ*Ψ + r I)^-1 Ψ*Ψ'``, its eigenvalues by falling modulus, and its right eigenvectors.

    Parameters
    ----------
    found
        Of :func:`moments`.
    """
    # Similar matrices share eigenvalues: those of observables of one size are computed with least rounding.
    matrix = shrunk(found[0])
    size = 1 / np.sqrt(np.diag(matrix))
    operator = np.linalg.solve(size[:, None] * matrix * size, size[:, None] * found[1] * size)
    values, vectors = np.linalg.eig(operator)
    operator, vectors = size[:, None] * operator / size, size[:, None] * vectors
    vectors = vectors / np.linalg.norm(vectors, axis=0)
    order = np.argsort(-np.abs(values), kind="stable")
    return operator, values[order].astype(np.complex128), vectors[:, order].astype(np.complex128)


def residuals(found: Real, values: Complex, vectors: Complex) -> Real:
    """``|Ψ' v - λ Ψ v| / |Ψ v|`` of pairs on the data whose moments these are, shape ``(d,)``.

    The moments need not be those that the pairs were found on.

    References
    ----------
    Colbrook, Ayton and Szőke (2023), Residual dynamic mode decomposition, J. Fluid Mech. 955, eq. (3.5).
    """
    gram, cross, after = found

    def form(matrix: Real) -> Complex:
        summed: Complex = (vectors.conj() * (matrix @ vectors)).sum(axis=0)
        return summed

    norm = np.maximum(form(gram).real, _TINY)
    square = form(after).real - 2 * (values.conj() * form(cross)).real + np.abs(values) ** 2 * norm
    answer: Real = np.sqrt(np.maximum(square, 0.0) / norm)
    return answer


@dataclass(frozen=True, eq=False)
class Resampled:
    """Bootstrap replicates of eigenpairs, each matched to the estimate it is a replicate of.

    Attributes
    ----------
    values
        Eigenvalues, shape ``(resamples, d)``.
    unseen
        Residuals of each replicate's pairs on the blocks it did not draw, shape ``(resamples, d)``.
    """

    values: Complex
    unseen: Real


def resample(sums: Real, values: Complex, resamples: int, seed: int) -> Resampled:
    """Draw blocks of samples with replacement and find the eigenpairs anew.

    Parameters
    ----------
    sums
        Moments of each block, shape ``(blocks, 3, d, d)``.
    values
        Eigenvalues of all blocks together.
    resamples
        How often.
    seed
        Of the draws.
    """
    # scipy is slow to import and only spectra need it.
    from scipy.optimize import linear_sum_assignment

    draw = np.random.default_rng(seed)
    drawn = np.empty((resamples, len(values)), dtype=np.complex128)
    unseen = np.full((resamples, len(values)), np.nan)
    for number in range(resamples):
        counts = np.bincount(draw.integers(len(sums), size=len(sums)), minlength=len(sums))
        _, found, vectors = eigenpairs(np.tensordot(counts, sums, axes=1))
        # Eigenvalues have no order of their own: each replicate is matched to the estimate.
        _, match = linear_sum_assignment(np.abs(values[:, None] - found[None]))
        drawn[number] = found[match]
        if (counts == 0).any():
            rest = sums[counts == 0].sum(axis=0)
            unseen[number] = residuals(rest, found[match], vectors[:, match])
    return Resampled(drawn, unseen)


def pseudospectrum(found: Real, places: Complex) -> Real:
    """``min_v |Ψ' v - λ Ψ v| / |Ψ v|`` at each place ``λ`` of the complex plane, any shape.

    References
    ----------
    Colbrook and Townsend (2024), Rigorous data-driven computation of spectral properties of Koopman
    operators, algorithm 2.
    """
    from scipy.linalg import eigvalsh

    gram, cross, after = found
    # In coordinates in which the Gram matrix is the identity, each place is an ordinary eigenproblem.
    matrix = shrunk(gram)
    size = 1 / np.sqrt(np.diag(matrix))
    spread, axes = np.linalg.eigh(size[:, None] * matrix * size)
    whiten = size[:, None] * axes / np.sqrt(spread)
    after, cross = whiten.T @ after @ whiten, whiten.T @ cross @ whiten
    identity = np.eye(len(gram))
    answer = []
    for place in np.ravel(places):
        form = after - place * cross.T - np.conj(place) * cross + abs(place) ** 2 * identity
        smallest = eigvalsh(form, subset_by_index=[0, 0])[0]
        answer.append(np.sqrt(max(0.0, float(smallest))))
    return np.reshape(np.array(answer), np.shape(places))
