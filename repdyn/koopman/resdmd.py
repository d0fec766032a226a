"""Residual dynamic mode decomposition from sums, and spectral projectors.

Eigenpairs and their residuals need only the Gram matrices of the observables before and after a step. Blocks
of samples are summed once, and every bootstrap replicate costs one eigendecomposition. Projectors onto groups
of eigenvalues are stable where single eigenvectors are not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repdyn.deprecation import renamed_arguments
from repdyn.errors import RepdynError
from repdyn.koopman.settings import SpectrumSettings

__all__ = [
    "Resampled",
    "condition_number",
    "eigenpairs",
    "left_vectors",
    "moments",
    "overlapping",
    "pseudospectrum",
    "resample",
    "residuals",
    "riesz_projector",
    "solve",
    "spectral_projector",
]

Complex = NDArray[Any]
Real = NDArray[np.float64]

_SETTINGS = SpectrumSettings()
_TINY = 1e-300  # avoids division by zero


def moments(z: Real) -> Real:
    """``Ψ*Ψ``, ``Ψ*Ψ'`` and ``Ψ'*Ψ'`` over all steps, ``(3, d, d)``, of observables ``(points, N, d)``."""
    before, after = z[:-1].reshape(-1, z.shape[-1]), z[1:].reshape(-1, z.shape[-1])
    return np.stack([before.T @ before, before.T @ after, after.T @ after])


def shrunk(gram: Real) -> Real:
    """A Gram matrix ``(d, d)`` plus a ridge of the size of rounding, so that it can be inverted.

    The ridge is relative to the size of each observable. A common ridge would exceed the small observables.
    """
    size = np.diag(gram)
    # The ridge of an observable that is zero everywhere would be zero, and the system singular.
    floor = max(float(size.max()) * np.finfo(np.float64).eps ** 2, _TINY)
    ridged: Real = gram + _SETTINGS.shrinkage * np.diag(np.maximum(size, floor))
    return ridged


def solve(gram: Real, right: Real) -> Real:
    """``(gram + ridge)^-1 right``, shape ``(d, q)``, computed with observables scaled to unit size."""
    matrix = shrunk(gram)
    size = 1 / np.sqrt(np.diag(matrix))
    solution: Real = size[:, None] * np.linalg.solve(size[:, None] * matrix * size, size[:, None] * right)
    return solution


def left_vectors(vectors: Complex) -> Complex:
    """Left eigenvectors: rows of the (pseudo-)inverse of right eigenvectors ``(d, d)``.

    Rows and columns are scaled to unit size first. The entries have the sizes of the observables, and the
    cut-off of the pseudo-inverse would discard the small ones.
    """
    row = np.abs(vectors).max(axis=1, initial=0.0)
    row[row == 0] = 1.0
    column = np.abs(vectors / row[:, None]).max(axis=0, initial=0.0)
    column[column == 0] = 1.0
    left: Complex = np.linalg.pinv(vectors / row[:, None] / column) / column[:, None] / row
    return left


def condition_number(gram: Real) -> float:
    """Condition number of a Gram matrix ``(d, d)`` of observables scaled to unit size.

    Infinite if the smallest eigenvalue is not positive (rounding).
    """
    size = np.sqrt(np.diag(gram))
    size = np.where(size > 0, size, 1)
    spread = np.linalg.eigvalsh(gram / size / size[:, None])
    return float(spread[-1] / spread[0]) if spread[0] > 0 else float("inf")


def eigenpairs(sums: Real) -> tuple[Real, Complex, Complex]:
    """The operator ``(Ψ*Ψ + r I)^-1 Ψ*Ψ'``, its eigenvalues by decreasing modulus, and right eigenvectors.

    Parameters
    ----------
    sums
        Result of :func:`moments`, ``(3, d, d)``.
    """
    # Similar matrices share eigenvalues. Scaling the observables to unit size minimizes rounding.
    matrix = shrunk(sums[0])
    size = 1 / np.sqrt(np.diag(matrix))
    operator = np.linalg.solve(size[:, None] * matrix * size, size[:, None] * sums[1] * size)
    values, vectors = np.linalg.eig(operator)
    operator, vectors = size[:, None] * operator / size, size[:, None] * vectors
    vectors = vectors / np.linalg.norm(vectors, axis=0)
    order = np.argsort(-np.abs(values), kind="stable")
    return operator, values[order].astype(np.complex128), vectors[:, order].astype(np.complex128)


def residuals(sums: Real, values: Complex, vectors: Complex) -> Real:
    """Residuals ``|Ψ' v - λ Ψ v| / |Ψ v|`` of eigenpairs, shape ``(d,)``.

    Parameters
    ----------
    sums
        Moments ``(3, d, d)`` of the evaluation data, which may differ from the data of the pairs.
    values, vectors
        Eigenvalues ``(d,)`` and right eigenvectors, the columns of ``(d, d)``.

    References
    ----------
    Colbrook, Ayton and Szőke (2023), Residual dynamic mode decomposition, J. Fluid Mech. 955, eq. (3.5).
    """
    gram, cross, after = sums

    def form(matrix: Real) -> Complex:
        summed: Complex = (vectors.conj() * (matrix @ vectors)).sum(axis=0)
        return summed

    norm = np.maximum(form(gram).real, _TINY)
    square = form(after).real - 2 * (values.conj() * form(cross)).real + np.abs(values) ** 2 * norm
    answer: Real = np.sqrt(np.maximum(square, 0.0) / norm)
    return answer


@dataclass(frozen=True, eq=False)
class Resampled:
    """Bootstrap replicates of eigenpairs, each matched to an eigenpair of the estimate.

    Attributes
    ----------
    values
        Eigenvalues, shape ``(resamples, d)``.
    unseen
        Residuals of each replicate's pairs on the blocks that it did not draw, shape ``(resamples, d)``.
    """

    values: Complex
    unseen: Real


def resample(sums: Real, values: Complex, resamples: int, seed: int) -> Resampled:
    """Bootstrap over blocks of samples: eigenpairs of each replicate.

    Parameters
    ----------
    sums
        Moments of each block, shape ``(blocks, 3, d, d)``.
    values
        Eigenvalues of the estimate, from all blocks, ``(d,)``.
    resamples
        Number of replicates.
    seed
        Seed of the draws.
    """
    # scipy is slow to import and only spectra need it.
    from scipy.optimize import linear_sum_assignment

    draw = np.random.default_rng(seed)
    drawn = np.empty((resamples, len(values)), dtype=np.complex128)
    unseen = np.full((resamples, len(values)), np.nan)
    for number in range(resamples):
        counts = np.bincount(draw.integers(len(sums), size=len(sums)), minlength=len(sums))
        _, replicate, vectors = eigenpairs(np.tensordot(counts, sums, axes=1))
        # Eigenvalues have no natural order, so each replicate is matched to the estimate.
        _, match = linear_sum_assignment(np.abs(values[:, None] - replicate[None]))
        drawn[number] = replicate[match]
        if (counts == 0).any():
            rest = sums[counts == 0].sum(axis=0)
            unseen[number] = residuals(rest, replicate[match], vectors[:, match])
    return Resampled(drawn, unseen)


def pseudospectrum(sums: Real, points: Complex) -> Real:
    """Smallest residual ``min_v |Ψ' v - λ Ψ v| / |Ψ v|`` at points ``λ`` of the complex plane, of any shape.

    Parameters
    ----------
    sums
        Result of :func:`moments`, ``(3, d, d)``.
    points
        Complex numbers.

    References
    ----------
    Colbrook and Townsend (2024), Rigorous data-driven computation of spectral properties of Koopman
    operators, algorithm 2.
    """
    from scipy.linalg import eigvalsh

    gram, cross, after = sums
    # After whitening the Gram matrix, each point is an ordinary symmetric eigenproblem.
    matrix = shrunk(gram)
    size = 1 / np.sqrt(np.diag(matrix))
    spread, axes = np.linalg.eigh(size[:, None] * matrix * size)
    whiten = size[:, None] * axes / np.sqrt(spread)
    after, cross = whiten.T @ after @ whiten, whiten.T @ cross @ whiten
    identity = np.eye(len(gram))
    result = []
    for point in np.ravel(points):
        form = after - point * cross.T - np.conj(point) * cross + abs(point) ** 2 * identity
        smallest = eigvalsh(form, subset_by_index=[0, 0])[0]
        result.append(np.sqrt(max(0.0, float(smallest))))
    return np.reshape(np.array(result), np.shape(points))


@renamed_arguments(centre="center")
def riesz_projector(matrix: NDArray[Any], center: complex, radius: float) -> Complex:
    """Spectral projector onto all eigenvalues within a circle.

    ``P = (1 / 2πi) ∮ (ζ I - K)^-1 dζ`` by the trapezoidal rule, which converges geometrically.

    Parameters
    ----------
    matrix
        Shape ``(d, d)``.
    center, radius
        Circle. No eigenvalue may lie near it.

    Returns
    -------
    ndarray
        Shape ``(d, d)``, complex; its trace is the number of eigenvalues inside.

    Raises
    ------
    RepdynError
        If an eigenvalue lies within 5 % of the radius of the circle.

    Examples
    --------
    >>> projector = riesz_projector(np.diag([1.0, 0.9, 0.1]), 0.95, 0.2)
    >>> bool(np.allclose(projector, np.diag([1, 1, 0])))
    True

    References
    ----------
    Kato (1995), Perturbation Theory for Linear Operators, section I.5.3.
    """
    if not radius > 0:
        raise RepdynError(f"riesz_projector: radius must be positive, got {radius}")
    distance = np.abs(np.abs(np.linalg.eigvals(matrix) - center) - radius)
    if distance.min() < _SETTINGS.clearance * radius:
        raise RepdynError(
            f"riesz_projector: an eigenvalue lies {distance.min():.2g} from the circle of radius "
            f"{radius:.3g}; choose another circle, or use spectral_projector for a set of eigenvalues"
        )
    # Nodes at half steps: none lies on the real axis, where eigenvalues of real operators lie.
    angles = 2 * np.pi * (np.arange(_SETTINGS.nodes) + 0.5) / _SETTINGS.nodes
    offsets = radius * np.exp(1j * angles)
    identity = np.eye(len(matrix))
    resolvents = np.linalg.inv((center + offsets)[:, None, None] * identity - matrix)
    projector: Complex = (offsets[:, None, None] * resolvents).mean(axis=0)
    return projector


def spectral_projector(matrix: NDArray[Any], eigenvalues: ArrayLike) -> Complex:
    """Spectral projector onto a set of eigenvalues: the Riesz projector without a contour.

    From the ordered Schur form ``K = Q [[A, B], [0, C]] Q*``: ``P = Q [[I, X], [0, 0]] Q*`` with
    ``A X - X C = B``.

    Parameters
    ----------
    matrix
        Shape ``(d, d)``.
    eigenvalues
        Some of its eigenvalues, shape ``(m,)``.

    Returns
    -------
    ndarray
        Shape ``(d, d)``. Real if the matrix is real and the set is closed under conjugation, else complex.
        Its norm is 1 for a normal matrix and grows as the set is less separated from the other eigenvalues.

    Raises
    ------
    RepdynError
        If the set is empty, or separates eigenvalues that coincide.

    References
    ----------
    Bai and Demmel (1993), On swapping diagonal blocks in real Schur form, section 1; Kato (1995).
    """
    # scipy is slow to import and only spectra need it.
    from scipy.linalg import schur, solve_sylvester

    chosen = np.ravel(np.asarray(eigenvalues, dtype=np.complex128))
    own = np.linalg.eigvals(matrix)
    if len(chosen) == 0:
        raise RepdynError("spectral_projector: the set of eigenvalues is empty")
    near = _SETTINGS.same * max(1.0, float(np.abs(own).max()))
    # An eigenvalue of the matrix belongs to the set if one of the set is equal up to rounding.
    tolerance = np.sqrt(near)
    inside = np.abs(own[:, None] - chosen[None]).min(axis=1) <= tolerance
    if inside.sum() != len(chosen):
        raise RepdynError(
            f"spectral_projector: {len(chosen)} eigenvalues were given and {int(inside.sum())} of the "
            "matrix's match; give eigenvalues of the matrix, including all that coincide"
        )
    form, basis, size = schur(
        np.asarray(matrix, dtype=np.complex128),
        output="complex",
        sort=lambda value: bool(np.abs(value - chosen).min() <= tolerance),
    )
    upper = np.zeros_like(form)
    upper[:size, :size] = np.eye(size)
    if size < len(form):
        upper[:size, size:] = solve_sylvester(form[:size, :size], -form[size:, size:], form[:size, size:])
    projector: Complex = basis @ upper @ basis.conj().T
    paired = all(np.abs(chosen - value.conjugate()).min() <= tolerance for value in chosen)
    return np.ascontiguousarray(projector.real) if np.isrealobj(matrix) and paired else projector


def overlapping(values: Complex, radius: NDArray[np.float64]) -> list[NDArray[np.intp]]:
    """Groups of values whose discs overlap, directly or through other discs, together with their conjugates.

    Parameters
    ----------
    values
        Centers, shape ``(d,)``.
    radius
        Radius of each disc, shape ``(d,)``.

    Returns
    -------
    list of ndarray
        Indices of each group, ordered by first member.
    """
    from scipy.sparse.csgraph import connected_components  # imported here: only clusters need it

    reach = radius[:, None] + radius[None] + _SETTINGS.same * max(1.0, float(np.abs(values).max(initial=0.0)))
    # Eigenvalues of a real operator come in conjugate pairs, and a real projector needs both.
    near = (np.abs(values[:, None] - values[None]) <= reach) | (
        np.abs(values[:, None] - values[None].conj()) <= reach
    )
    _, group = connected_components(near, directed=False)
    members = [np.flatnonzero(group == number) for number in np.unique(group)]
    return sorted(members, key=lambda rows: int(rows[0]))
