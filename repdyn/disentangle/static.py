"""The static part of a spectrum: exact projectors for reading, and one mode that can be differentiated."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import lapack
from torch import Tensor

from repdyn.disentangle.spectral import eigenvalue_distances, real_schur, static_weights
from repdyn.reading import as_array

__all__ = ["StaticModes", "static_mode", "static_modes"]

_WORST = 1e6
"""Condition above which eigenvectors of the static block say nothing; its Schur basis then serves."""

_SHIFT = 1e-2  # the inverse iteration looks at 1 ± i·shift, which no real eigenvalue can meet
_ITERATIONS = 8
_OVERLAP = 1e-12  # square of the smallest product of unit left and right vectors that is still divided by
_SHORTEST = 1e-6
_TIKHONOV = 1e-12  # of the norm: an exact hit of a complex pair stays solvable


@dataclass(frozen=True, eq=False)
class StaticModes:
    """The static spectral projectors of a batch of operators, mode by mode.

    ``P = right @ left`` has trace s exactly and commutes with its operator.

    Attributes
    ----------
    right
        Shape ``(B, k, m)``: a latent row z has coordinates ``z @ right``.
    left
        Shape ``(B, m, k)``: where those coordinates put it. Weights of a divided cluster are folded in.
    factor
        Shape ``(B, m)``: which of the s static factors each mode belongs to; -1 for padding.
    """

    right: NDArray[np.float64]
    left: NDArray[np.float64]
    factor: NDArray[np.int64]

    @property
    def projectors(self) -> NDArray[np.float64]:
        """Shape ``(B, k, k)``."""
        return self.right @ self.left


def static_modes(operators: Tensor, static_dim: int) -> StaticModes:
    """Static modes of each operator, by reordered Schur forms.

    The invariant subspace of the eigenvalues nearest to one comes from a reordered real Schur form, its
    complement from a Sylvester equation; eigenvectors of the other eigenvalues, which may not even exist, are
    never needed. No gradient.

    Parameters
    ----------
    operators
        Shape ``(B, k, k)``.
    static_dim
        s. Where it would divide a cluster, that cluster's projector enters in the fraction that makes the
        trace s.

    Returns
    -------
    StaticModes
    """
    form = real_schur(operators)
    distance, _ = eigenvalue_distances(operators, form)
    weights = as_array(static_weights(distance, static_dim), np.float64)
    rows = [
        _modes(*matrices, static_dim)
        for matrices in zip(form.triangle, form.basis, weights, as_array(distance, np.float64))
    ]
    width = operators.shape[-1]
    most = max(row[0].shape[1] for row in rows)
    right, left = np.zeros((len(rows), width, most)), np.zeros((len(rows), most, width))
    factor = np.full((len(rows), most), -1)
    for number, (columns, duals, member) in enumerate(rows):
        count = columns.shape[1]
        right[number, :, :count], left[number, :count] = columns, duals
        factor[number, :count] = member
    return StaticModes(right, left, factor)


def static_mode(operators: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""The mode nearest to one of each operator, differentiable.

    Shifted inverse power iteration with the conjugate shifts :math:`1 \pm i\delta`, which stays real:
    :math:`v \leftarrow ((K - I)^2 + \delta^2 I)^{-1} v`, normalised, a fixed number of times, and the same
    for the left vector. No real eigenvalue can make the system singular, :math:`\lambda = 1` included, where
    a real shift would; a small Tikhonov term covers the complex ones. Gradients flow through the solves.

    Parameters
    ----------
    operators
        Shape ``(B, k, k)``, float64.

    Returns
    -------
    tuple of Tensor
        The right vector ``(B, k)``, of norm one; the left vector ``(B, k)``, scaled so that their product is
        one; the eigenvalue (Rayleigh quotient) ``(B,)``. ``right ⊗ left`` is the projector.

    References
    ----------
    Hason (2024), chapter on future work; Golub, G. H. and Van Loan, C. F. (2013). Matrix Computations, 7.6.1.
    """
    identity = torch.eye(operators.shape[-1], dtype=operators.dtype, device=operators.device)
    beside = operators - identity
    shifted = beside @ beside + _SHIFT**2 * identity
    right, left = _inverse_iteration(shifted), _inverse_iteration(shifted.mT)
    overlap = (right * left).sum(dim=1, keepdim=True)
    # 1/overlap, bounded where left and right are almost orthogonal (a defective eigenvalue).
    left = left * overlap / (overlap.square() + _OVERLAP)
    value = (left[:, None] @ operators @ right[..., None])[:, 0, 0]
    return right, left, value


def _inverse_iteration(shifted: Tensor) -> Tensor:
    width = shifted.shape[-1]
    # Tikhonov by QR of the stacked system: normal equations would square its condition. At norm one, no
    # solution is shorter than its right-hand side unless the system is singular.
    shifted = shifted / (shifted.detach().flatten(1).norm(dim=1)[:, None, None] + _SHIFT**2)
    identity = torch.eye(width, dtype=shifted.dtype, device=shifted.device)
    columns, triangle = torch.linalg.qr(torch.cat([shifted, _TIKHONOV * identity.expand_as(shifted)], dim=1))
    inverse = torch.linalg.solve_triangular(triangle, columns[:, :width].mT, upper=True)
    # Any start with a part along the mode will do; this one is along no axis and depends on nothing.
    start = torch.cos(torch.arange(width, dtype=shifted.dtype, device=shifted.device) + 1.0)
    vector: Tensor = (start / start.norm()).expand(len(shifted), -1)
    for _ in range(_ITERATIONS):
        vector = (inverse @ vector[..., None])[..., 0]
        vector = vector / vector.norm(dim=1, keepdim=True).clamp(min=_SHORTEST)
    return vector


def _modes(
    triangle: NDArray[np.float64],
    basis: NDArray[np.float64],
    weights: NDArray[np.float64],
    distance: NDArray[np.float64],
    static_dim: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Right vectors, weighted left vectors and factor numbers of one operator."""
    whole, divided = weights >= 1 - 1e-9, (weights > 1e-9) & (weights < 1 - 1e-9)
    right, left = _subspace(triangle, basis, whole)
    member = np.arange(right.shape[1])
    if not divided.any():
        return right, left, member
    both_right, both_left = _subspace(triangle, basis, whole | divided)
    # The divided cluster's own projector is the difference of two, of its rank.
    own = both_right @ both_left - right @ left
    vectors, sizes, duals = np.linalg.svd(own)
    count = int(divided.sum())
    slots = static_dim - right.shape[1]
    shared = weights[divided].mean() * sizes[:count, None] * duals[:count]
    return (
        np.concatenate([right, vectors[:, :count]], axis=1),
        np.concatenate([left, shared]),
        np.concatenate([member, right.shape[1] + np.arange(count) % slots]),
    )


def _subspace(
    triangle: NDArray[np.float64], basis: NDArray[np.float64], chosen: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Eigenvectors (right) and their duals (left) of the chosen eigenvalues, nearest to one first."""
    width, count = len(triangle), int(chosen.sum())
    if count == 0:
        return np.zeros((width, 0)), np.zeros((0, width))
    if count < width:
        triangle, basis, *_ = lapack.dtrsen(chosen.astype(np.int32), triangle, basis, job=b"N")
    inner, outer = triangle[:count, :count], triangle[count:, count:]
    coupling = np.zeros((count, width - count))
    if count < width:
        solved, scale, _ = lapack.dtrsyl(inner, outer, -triangle[:count, count:], isgn=-1)
        coupling = solved / scale
    right, left = basis[:, :count], np.concatenate([np.eye(count), -coupling], axis=1) @ basis.T
    change = _eigenbasis(inner)
    duals = np.asarray(np.linalg.solve(change, left), dtype=np.float64)
    return right @ change, duals


def _eigenbasis(block: NDArray[np.float64]) -> NDArray[np.float64]:
    """Real eigenvectors of a small block (real and imaginary part of a pair), or the identity."""
    values, vectors = np.linalg.eig(block)
    order = np.argsort(np.abs(values - 1) - 1e-12 * values.imag, kind="stable")
    columns = [vectors[:, i].real if values[i].imag >= 0 else vectors[:, i].imag for i in order]
    change = np.stack(columns, axis=1)
    change /= np.linalg.norm(change, axis=0).clip(min=1e-300)
    return change if np.linalg.cond(change) < _WORST else np.eye(len(block))
