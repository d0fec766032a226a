"""Koopman operators of latent sequences, their spectra, and the static part of a spectrum.

In this order: operators by ridge (one for a batch, or one for each sequence); the spectral loss, whose
gradients are bounded; exact static projectors for reading; one static mode that can be differentiated.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import lapack, schur
from torch import Tensor

from repdyn.devices import double, to
from repdyn.disentangle.settings import OPERATORS
from repdyn.errors import RepdynError
from repdyn.reading import as_array

__all__ = [
    "RealSchur",
    "StaticModes",
    "batch_operator",
    "eigenvalue_distances",
    "one_step",
    "operators_of",
    "real_schur",
    "sequence_operators",
    "spectral_loss",
    "static_mode",
    "static_modes",
    "static_weights",
]


def operators_of(z: Tensor, mask: Tensor, kind: str) -> Tensor:
    """The operator of a batch ``(1, k, k)``, or one of each sequence ``(B, k, k)``.

    Parameters
    ----------
    z, mask
        Latents ``(B, T, k)`` and which frames are real ``(B, T)``.
    kind
        ``"batch"`` or ``"sequence"``.
    """
    return batch_operator(z, mask) if kind == "batch" else sequence_operators(z, mask)


def batch_operator(z: Tensor, mask: Tensor, ridge: float = OPERATORS.ridge) -> Tensor:
    r"""The operator that all sequences share (SKD).

    :math:`K = (X^\top X + \varepsilon I)^{-1} X^\top Y` with one row of X and of Y for each transition of
    each sequence, in float64.

    Parameters
    ----------
    z
        Latents, shape ``(B, T, k)``.
    mask
        Which frames are real, shape ``(B, T)``.
    ridge
        :math:`\varepsilon`.

    Returns
    -------
    Tensor
        Shape ``(1, k, k)``, float64; rows evolve as ``z_(t+1) = z_t K``.

    Examples
    --------
    >>> z = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]])
    >>> batch_operator(z, torch.ones(1, 3, dtype=torch.bool)).round(decimals=3)[0]
    tensor([[0., 1.],
            [1., 0.]], dtype=torch.float64)

    References
    ----------
    Berman, N., Naiman, I. and Azencot, O. (2023). Multifactor sequential disentanglement via structured
    Koopman autoencoders. ICLR, eq. (3), without the ridge.
    """
    x, y = _transitions(z, mask)
    return _primal(x.flatten(0, 1)[None], y.flatten(0, 1)[None], ridge)


def sequence_operators(z: Tensor, mask: Tensor, ridge: float = OPERATORS.ridge) -> Tensor:
    r"""An operator for each sequence (SSM-SKD), from its own transitions.

    :math:`K_b = X_b^\top (X_b X_b^\top + \varepsilon I)^{-1} Y_b`, the same matrix as by the primal normal
    equations, from a system of the size of the number of transitions.

    Parameters
    ----------
    z, mask, ridge
        As in :func:`batch_operator`.

    Returns
    -------
    Tensor
        Shape ``(B, k, k)``, float64.

    References
    ----------
    Hason, A. (2024). Single static mode structured Koopman disentanglement. MSc thesis, Ben-Gurion
    University.
    """
    x, y = _transitions(z, mask)
    if x.shape[1] > x.shape[2]:
        return _primal(x, y, ridge)
    return x.mT @ torch.cholesky_solve(y, _cholesky(_ridged(x @ x.mT, ridge)))


def one_step(z: Tensor, operators: Tensor) -> Tensor:
    """The first frame, then each frame predicted from the true previous one; shape ``(B, T, k)``."""
    predicted = double(z[:, :-1]) @ operators
    return torch.cat([z[:, :1], predicted.to(z.dtype)], dim=1)


def _transitions(z: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs of successive frames ``(B, T - 1, k)``; pairs with padding are zero, so Gram matrices ignore
    them."""
    real = (mask[:, 1:] & mask[:, :-1])[..., None]
    z = double(z)
    return z[:, :-1] * real, z[:, 1:] * real


def _primal(x: Tensor, y: Tensor, ridge: float) -> Tensor:
    """Ridge regression of a batch ``(B, n, k)`` by the normal equations, with gradients.

    :func:`repdyn.linalg.ridge` solves one system without the relative ridge.
    """
    return torch.cholesky_solve(x.mT @ y, _cholesky(_ridged(x.mT @ x, ridge)))


def _cholesky(gram: Tensor) -> Tensor:
    """Factors ``(B, n, n)``; NaN for a matrix that has none, which `real_schur` refuses.

    ``torch.linalg.cholesky`` would wait for the device in every step, to check.
    """
    factor, failed = torch.linalg.cholesky_ex(gram)
    checked: Tensor = factor.masked_fill((failed > 0)[:, None, None], float("nan"))
    return checked


def _ridged(gram: Tensor, ridge: float) -> Tensor:
    """Gram matrices ``(B, n, n)`` with the absolute and the relative ridge on their diagonals."""
    size = ridge + OPERATORS.relative_ridge * gram.detach().diagonal(dim1=-2, dim2=-1).sum(dim=-1)
    return gram + size[:, None, None] * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)


@dataclass(frozen=True, eq=False)
class RealSchur:
    """``A = Q T Q^T`` for a batch, without gradient.

    Attributes
    ----------
    triangle, basis
        T and Q, shape ``(B, k, k)``, float64. T has 1×1 blocks for real eigenvalues and 2×2 blocks for
        conjugate pairs on its diagonal.
    """

    triangle: NDArray[np.float64]
    basis: NDArray[np.float64]

    @property
    def pairs(self) -> NDArray[np.bool_]:
        """Where a 2×2 block begins, shape ``(B, k - 1)``."""
        begins: NDArray[np.bool_] = np.diagonal(self.triangle, offset=-1, axis1=1, axis2=2) != 0
        return begins


def real_schur(operators: Tensor) -> RealSchur:
    """The real Schur form of each operator, shape ``(B, k, k)``.

    Raises
    ------
    RepdynError
        If an operator is not finite.
    """
    matrices = as_array(operators, np.float64)
    if not np.isfinite(matrices).all():
        raise RepdynError(
            "operators: expected finite values; an operator is not finite, so the latents are not"
        )
    forms = [schur(matrix, output="real", check_finite=False) for matrix in matrices]
    return RealSchur(np.stack([form[0] for form in forms]), np.stack([form[1] for form in forms]))


def eigenvalue_distances(operators: Tensor, form: RealSchur | None = None) -> tuple[Tensor, Tensor]:
    r"""Squared distance to one, and real part, of each eigenvalue, differentiable.

    With the Schur basis Q held fixed, :math:`D = Q^\top A Q` is linear in A. A 1×1 block gives
    :math:`|\lambda - 1|^2 = (D_{ii} - 1)^2`; a 2×2 block B, a conjugate pair, gives
    :math:`|\lambda - 1|^2 = \det(B - I)`. Both are polynomials in the entries. Their gradient differs from
    that of the eigenvalue, :math:`y x^\top / (y^\top x)`, which has no bound where eigenvalues collide: it is
    :math:`q_i q_i^\top`, of norm one. The two are biorthogonal, :math:`\langle y_i x_i^\top / y_i^\top x_i,
    q_j q_j^\top \rangle = \delta_{ij}`, so a gradient step along it moves that eigenvalue only.

    Parameters
    ----------
    operators
        Shape ``(B, k, k)``.
    form
        Their Schur form, if it is known.

    Returns
    -------
    tuple of Tensor
        :math:`|\lambda_i - 1|^2` and :math:`\mathrm{Re}\,\lambda_i`, each ``(B, k)``, in the order of the
        Schur form; the two of a pair are equal.
    """
    form = real_schur(operators) if form is None else form
    basis = to(torch.from_numpy(form.basis), operators.device)
    first = to(torch.from_numpy(form.pairs), operators.device)
    blocks = basis.mT @ double(operators) @ basis
    diagonal = blocks.diagonal(dim1=1, dim2=2)
    ahead, behind = diagonal[:, :-1], diagonal[:, 1:]
    above, below = blocks.diagonal(1, 1, 2), blocks.diagonal(-1, 1, 2)
    # Rounding errors can make the determinant of a pair slightly negative.
    determinant = ((ahead - 1) * (behind - 1) - above * below).clamp(min=0)
    center = (ahead + behind) / 2
    distance = _of_blocks((diagonal - 1).square(), determinant, first)
    return distance, _of_blocks(diagonal, center, first)


def static_weights(distance: Tensor, static_dim: int) -> Tensor:
    """Static weight of each eigenvalue, in [0, 1]; the weights sum to ``static_dim``.

    The eigenvalues nearest to one have weight one. If the cut would divide a cluster (a conjugate pair, or
    eigenvalues that nearly collide), all members of the cluster have equal weights.

    Parameters
    ----------
    distance
        Squared distances to one, shape ``(B, k)``.
    static_dim
        Size s of the static set.

    Returns
    -------
    Tensor
        Shape ``(B, k)``, without gradient.

    Examples
    --------
    >>> static_weights(torch.tensor([[0.5, 0.0, 0.5, 2.0]]), 2)
    tensor([[0.5000, 1.0000, 0.5000, 0.0000]])
    """
    ordered, order = distance.detach().sort(dim=1)
    begins = torch.ones_like(ordered, dtype=torch.long)
    begins[:, 1:] = (ordered.diff(dim=1) >= OPERATORS.cluster).long()
    cluster = begins.cumsum(dim=1)
    cut = cluster[:, static_dim - 1 : static_dim]
    inside = cluster == cut
    before = (cluster < cut).sum(dim=1, keepdim=True)
    share = (static_dim - before) / inside.sum(dim=1, keepdim=True)
    weights = (cluster < cut).to(distance.dtype) + inside * share
    return torch.zeros_like(weights).scatter(1, order, weights)


def spectral_loss(
    operators: Tensor, static_dim: int, threshold: float, form: RealSchur | None = None
) -> Tensor:
    r"""Static eigenvalues at one, dynamic ones with a real part of at most ``threshold``.

    :math:`\frac1s \sum_i w_i |\lambda_i - 1|^2 + \frac1{k-s} \sum_i (1 - w_i)
    \max(\mathrm{Re}\,\lambda_i - \alpha, 0)`, mean over the operators. The published code writes
    :math:`\mathrm{Re}\,\lambda\,[\mathrm{Re}\,\lambda > \alpha]` for the second term: the same gradient, with
    a jump in the value that this one does not have.

    Parameters
    ----------
    operators
        Shape ``(B, k, k)``.
    static_dim
        s, from 1 to k.
    threshold
        :math:`\alpha`.
    form
        Their Schur form, if it is known.

    Returns
    -------
    Tensor
        A scalar, float64, with a finite gradient whatever the operators are.

    References
    ----------
    Berman, Naiman and Azencot (2023), eq. (6) and (7).
    """
    distance, real = eigenvalue_distances(operators, form)
    weights = static_weights(distance, static_dim)
    static = (weights * distance).sum(dim=1) / static_dim
    others = max(distance.shape[1] - static_dim, 1)
    # Only eigenvalues beyond the threshold are pushed; the others have no gradient.
    dynamic = ((1 - weights) * (real - threshold).clamp(min=0)).sum(dim=1) / others
    return (static + dynamic).mean()


def _of_blocks(single: Tensor, pair: Tensor, first: Tensor) -> Tensor:
    """Values ``(B, k)``: ``single`` ``(B, k)``, but those of ``pair`` ``(B, k - 1)`` at both members of each
    pair."""
    nothing = torch.zeros_like(first[:, :1])
    begins, ends = torch.cat([first, nothing], dim=1), torch.cat([nothing, first], dim=1)
    filler = torch.zeros_like(single[:, :1])
    values = torch.where(begins, torch.cat([pair, filler], dim=1), single)
    return torch.where(ends, torch.cat([filler, pair], dim=1), values)


@dataclass(frozen=True, eq=False)
class StaticModes:
    """The static spectral projectors of a batch of operators, mode by mode.

    ``P = right @ left`` has trace s exactly and commutes with its operator.

    Attributes
    ----------
    right
        Shape ``(B, k, m)``: a latent row z has coordinates ``z @ right``.
    left
        Shape ``(B, m, k)``: the inverse of that, with the weights of a divided cluster.
    factor
        Shape ``(B, m)``: the static factor of each mode, from 0 to s - 1; -1 for padding.
    """

    right: NDArray[np.float64]
    left: NDArray[np.float64]
    factor: NDArray[np.int64]

    @property
    def projectors(self) -> NDArray[np.float64]:
        """Shape ``(B, k, k)``."""
        return self.right @ self.left


def static_modes(operators: Tensor, static_dim: int, form: RealSchur | None = None) -> StaticModes:
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
    form
        Their Schur form, if it is known.

    Returns
    -------
    StaticModes
    """
    form = real_schur(operators) if form is None else form
    distance, _ = eigenvalue_distances(operators, form)
    weights = as_array(static_weights(distance, static_dim), np.float64)
    rows = [_modes(*matrices, static_dim) for matrices in zip(form.triangle, form.basis, weights)]
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
    r"""The mode whose eigenvalue is nearest to one, of each operator, differentiable.

    Shifted inverse power iteration with the conjugate shifts :math:`1 \pm i\delta`, which stays real:
    :math:`v \leftarrow ((K - I)^2 + \delta^2 I)^{-1} v`, normalized, a fixed number of times, and the same
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
    centered = operators - identity
    shifted = centered @ centered + OPERATORS.shift**2 * identity
    right, left = _inverse_iteration(shifted), _inverse_iteration(shifted.mT)
    overlap = (right * left).sum(dim=1, keepdim=True)
    # 1/overlap, bounded where left and right are almost orthogonal (a defective eigenvalue).
    left = left * overlap / (overlap.square() + OPERATORS.least_overlap)
    value = (left[:, None] @ operators @ right[..., None])[:, 0, 0]
    return right, left, value


def _inverse_iteration(shifted: Tensor) -> Tensor:
    """Unit vectors ``(B, k)`` of the smallest singular direction of ``shifted`` ``(B, k, k)``."""
    width = shifted.shape[-1]
    # Tikhonov by QR of the stacked system: normal equations would square its condition. At norm one, no
    # solution is shorter than its right-hand side unless the system is singular.
    shifted = shifted / (shifted.detach().flatten(1).norm(dim=1)[:, None, None] + OPERATORS.shift**2)
    identity = torch.eye(width, dtype=shifted.dtype, device=shifted.device)
    columns, triangle = torch.linalg.qr(
        torch.cat([shifted, OPERATORS.tikhonov * identity.expand_as(shifted)], dim=1)
    )
    inverse = torch.linalg.solve_triangular(triangle, columns[:, :width].mT, upper=True)
    # The start needs a component along the mode; this one is along no axis and does not depend on data.
    start = torch.cos(torch.arange(width, dtype=shifted.dtype, device=shifted.device) + 1.0)
    vector: Tensor = (start / start.norm()).expand(len(shifted), -1)
    for _ in range(OPERATORS.iterations):
        vector = (inverse @ vector[..., None])[..., 0]
        vector = vector / vector.norm(dim=1, keepdim=True).clamp(min=OPERATORS.least_norm)
    return vector


def _modes(
    triangle: NDArray[np.float64],
    basis: NDArray[np.float64],
    weights: NDArray[np.float64],
    static_dim: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Right vectors ``(k, m)``, weighted left vectors ``(m, k)`` and factor numbers ``(m,)`` of one
    operator."""
    # A weight within 1e-9 of 0 or 1 counts as that: the rest is rounding.
    whole, divided = weights >= 1 - 1e-9, (weights > 1e-9) & (weights < 1 - 1e-9)
    right, left = _subspace(triangle, basis, whole)
    member = np.arange(right.shape[1])
    if not divided.any():
        return right, left, member
    both_right, both_left = _subspace(triangle, basis, whole | divided)
    # The projector of the divided cluster is the difference of two projectors.
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
    """Eigenvectors ``(k, n)`` and their duals ``(n, k)`` of the chosen eigenvalues, nearest to one first."""
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
    """Real eigenvectors ``(n, n)`` of a block (real and imaginary part of a pair), or the identity if
    ill-conditioned."""
    if len(block) == 1:
        return np.ones((1, 1))
    values, vectors = np.linalg.eig(block)
    # Of a pair, the member with positive imaginary part comes first; the term is below any other difference.
    order = np.argsort(np.abs(values - 1) - 1e-12 * values.imag, kind="stable")
    columns = [vectors[:, i].real if values[i].imag >= 0 else vectors[:, i].imag for i in order]
    change = np.stack(columns, axis=1)
    change /= np.linalg.norm(change, axis=0).clip(min=1e-300)
    return change if np.linalg.cond(change) < OPERATORS.worst_condition else np.eye(len(block))
