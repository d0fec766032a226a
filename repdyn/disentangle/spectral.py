"""The spectral loss: s eigenvalues at one, the others away from it, with gradients that cannot blow up."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import schur
from torch import Tensor

from repdyn.devices import double, to
from repdyn.errors import RepdynError
from repdyn.reading import as_array

__all__ = ["RealSchur", "eigenvalue_distances", "real_schur", "spectral_loss", "static_weights"]

CLUSTER = 1e-3
"""Eigenvalues whose squared distances to one differ by less count as one cluster, which is never divided."""


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
        found: NDArray[np.bool_] = np.diagonal(self.triangle, offset=-1, axis1=1, axis2=2) != 0
        return found


def real_schur(operators: Tensor) -> RealSchur:
    """The real Schur form of each operator, shape ``(B, k, k)``.

    Raises
    ------
    RepdynError
        If an operator is not finite.
    """
    matrices = as_array(operators, np.float64)
    if not np.isfinite(matrices).all():
        raise RepdynError("an operator holds values that are not finite; the latents are not either")
    forms = [schur(matrix, output="real", check_finite=False) for matrix in matrices]
    return RealSchur(np.stack([form[0] for form in forms]), np.stack([form[1] for form in forms]))


def eigenvalue_distances(operators: Tensor, form: RealSchur | None = None) -> tuple[Tensor, Tensor]:
    r"""Squared distance to one, and real part, of each eigenvalue, differentiable.

    With the Schur basis Q held fixed, :math:`D = Q^\top A Q` is linear in A. A 1×1 block gives
    :math:`|\lambda - 1|^2 = (D_{ii} - 1)^2`; a 2×2 block B, a conjugate pair, gives
    :math:`|\lambda - 1|^2 = \det(B - I)`. Both are polynomials in the entries. Their gradient differs from
    that of the eigenvalue, :math:`y x^\top / (y^\top x)`, which has no bound where eigenvalues collide: it is
    :math:`q_i q_i^\top`, of norm one. The two are biorthogonal, :math:`\langle y_i x_i^\top / y_i^\top x_i,
    q_j q_j^\top \rangle = \delta_{ij}`, so a step along it moves each eigenvalue by what the loss asks, and
    no other.

    Parameters
    ----------
    operators
        Shape ``(B, k, k)``.
    form
        Their Schur form, where it is at hand.

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
    # Rounding may leave a pair's determinant a hair below zero.
    determinant = ((ahead - 1) * (behind - 1) - above * below).clamp(min=0)
    centre = (ahead + behind) / 2
    distance = _of_blocks((diagonal - 1).square(), determinant, first)
    return distance, _of_blocks(diagonal, centre, first)


def static_weights(distance: Tensor, static_dim: int) -> Tensor:
    """How much of each eigenvalue is static: weights in [0, 1] that sum to ``static_dim`` exactly.

    The eigenvalues nearest to one have weight one. Where the cut would divide a cluster (a conjugate pair, or
    eigenvalues that nearly collide), all of the cluster share what is left in equal parts.

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
    begins[:, 1:] = (ordered.diff(dim=1) >= CLUSTER).long()
    cluster = begins.cumsum(dim=1)
    cut = cluster[:, static_dim - 1 : static_dim]
    inside = cluster == cut
    before = (cluster < cut).sum(dim=1, keepdim=True)
    share = (static_dim - before) / inside.sum(dim=1, keepdim=True)
    weights = (cluster < cut).to(distance.dtype) + inside * share
    return torch.zeros_like(weights).scatter(1, order, weights)


def spectral_loss(operators: Tensor, static_dim: int, threshold: float) -> Tensor:
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

    Returns
    -------
    Tensor
        A scalar, float64, with a finite gradient whatever the operators are.

    References
    ----------
    Berman, Naiman and Azencot (2023), eq. (6) and (7).
    """
    distance, real = eigenvalue_distances(operators)
    weights = static_weights(distance, static_dim)
    static = (weights * distance).sum(dim=1) / static_dim
    others = max(distance.shape[1] - static_dim, 1)
    dynamic = ((1 - weights) * (real - threshold).clamp(min=0)).sum(dim=1) / others
    return (static + dynamic).mean()


def _of_blocks(single: Tensor, pair: Tensor, first: Tensor) -> Tensor:
    """What single eigenvalues have, and for both of each pair what the pair has."""
    nothing = torch.zeros_like(first[:, :1])
    begins, ends = torch.cat([first, nothing], dim=1), torch.cat([nothing, first], dim=1)
    filler = torch.zeros_like(single[:, :1])
    values = torch.where(begins, torch.cat([pair, filler], dim=1), single)
    return torch.where(ends, torch.cat([filler, pair], dim=1), values)
