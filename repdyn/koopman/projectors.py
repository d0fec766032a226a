"""Spectral projectors: what belongs to a group of eigenvalues, stable where single eigenvectors are not."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repdyn.errors import RepdynError

__all__ = ["overlapping", "riesz_projector", "spectral_projector"]

Complex = NDArray[Any]

_NODES = 64  # of a contour: a projector is idempotent to 1e-13 with them where the contour keeps its distance
_CLOSE = 0.05  # of the radius: 64 nodes leave an error of (1 - 0.05)^64 = 4 % there, and more nearer
_SAME = 1e-9  # eigenvalues nearer than this, relative to the largest, cannot be told apart


def riesz_projector(matrix: NDArray[Any], centre: complex, radius: float) -> Complex:
    """Spectral projector onto all eigenvalues within a circle.

    ``P = (1 / 2πi) ∮ (ζ I - K)^-1 dζ``, by the trapezoidal rule, which converges geometrically.

    Parameters
    ----------
    matrix
        Shape ``(d, d)``.
    centre, radius
        Of the circle; no eigenvalue may lie near it.

    Returns
    -------
    ndarray
        Shape ``(d, d)``, complex; its trace is the number of eigenvalues inside.

    Raises
    ------
    RepdynError
        If an eigenvalue lies on the circle or too near to it to be counted in or out.

    Examples
    --------
    >>> found = riesz_projector(np.diag([1.0, 0.9, 0.1]), 0.95, 0.2)
    >>> bool(np.allclose(found, np.diag([1, 1, 0])))
    True

    References
    ----------
    Kato (1995), Perturbation Theory for Linear Operators, section I.5.3.
    """
    if not radius > 0:
        raise RepdynError(f"riesz_projector: radius must be positive, got {radius}")
    distance = np.abs(np.abs(np.linalg.eigvals(matrix) - centre) - radius)
    if distance.min() < _CLOSE * radius:
        raise RepdynError(
            f"riesz_projector: an eigenvalue lies {distance.min():.2g} from the circle of radius "
            f"{radius:.3g}; choose a circle that keeps its distance, or spectral_projector for a set"
        )
    angles = 2 * np.pi * (np.arange(_NODES) + 0.5) / _NODES
    offsets = radius * np.exp(1j * angles)
    identity = np.eye(len(matrix))
    resolvents = np.linalg.inv((centre + offsets)[:, None, None] * identity - matrix)
    found: Complex = (offsets[:, None, None] * resolvents).mean(axis=0)
    return found


def spectral_projector(matrix: NDArray[Any], eigenvalues: ArrayLike) -> Complex:
    """Spectral projector onto a set of eigenvalues of any shape: the Riesz projector without a contour.

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
        Shape ``(d, d)``: real where the matrix is and the set holds every eigenvalue with its conjugate,
        else complex. Its norm says how well the set is separated from the rest: 1 for a normal matrix.

    Raises
    ------
    RepdynError
        If the set is empty, or cuts through eigenvalues that cannot be told apart.

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
    near = _SAME * max(1.0, float(np.abs(own).max()))
    # Each of the matrix's eigenvalues belongs to the nearest of the set, if it is as near as rounding.
    tolerance = np.sqrt(near)
    inside = np.abs(own[:, None] - chosen[None]).min(axis=1) <= tolerance
    if inside.sum() != len(chosen):
        raise RepdynError(
            f"spectral_projector: {len(chosen)} eigenvalues were given, {int(inside.sum())} of the matrix's "
            "match; give eigenvalues of the matrix, all of those that coincide"
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
    found: Complex = basis @ upper @ basis.conj().T
    paired = all(np.abs(chosen - value.conjugate()).min() <= tolerance for value in chosen)
    return np.ascontiguousarray(found.real) if np.isrealobj(matrix) and paired else found


def overlapping(values: Complex, radius: NDArray[np.float64]) -> list[NDArray[np.intp]]:
    """Groups of values whose discs overlap, directly or through others, and their conjugates with them.

    Parameters
    ----------
    values
        Centres, shape ``(d,)``.
    radius
        Of each disc, shape ``(d,)``.

    Returns
    -------
    list of ndarray
        Indices of each group, ordered by their first member.
    """
    from scipy.sparse.csgraph import connected_components  # imported here: only clusters need it

    reach = radius[:, None] + radius[None] + _SAME * max(1.0, float(np.abs(values).max(initial=0.0)))
    # A real operator's eigenvalues come in conjugate pairs: a real projector needs both.
    near = (np.abs(values[:, None] - values[None]) <= reach) | (
        np.abs(values[:, None] - values[None].conj()) <= reach
    )
    _, group = connected_components(near, directed=False)
    members = [np.flatnonzero(group == number) for number in np.unique(group)]
    return sorted(members, key=lambda rows: int(rows[0]))
