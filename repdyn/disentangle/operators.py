"""Koopman operators of latent sequences: one for a batch, or one for each sequence, by ridge."""

from __future__ import annotations

import torch
from torch import Tensor

from repdyn.devices import double

__all__ = ["RIDGE", "batch_operator", "one_step", "sequence_operators"]

RIDGE = 1e-4
"""Absolute, because latents are bounded by one; it keeps gradients bounded on sequences that barely move."""

_RELATIVE = 1e-12  # of the Gram matrix's trace: keeps Cholesky defined where latents are large


def batch_operator(z: Tensor, mask: Tensor, ridge: float = RIDGE) -> Tensor:
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


def sequence_operators(z: Tensor, mask: Tensor, ridge: float = RIDGE) -> Tensor:
    r"""An operator for each sequence (SSM-SKD), from its own few transitions.

    :math:`K_b = X_b^\top (X_b X_b^\top + \varepsilon I)^{-1} Y_b`, the same matrix as by the primal normal
    equations, from a system as small as the number of transitions.

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
        Shape ``(B, k, k)``, float64.

    References
    ----------
    Hason, A. (2024). Single static mode structured Koopman disentanglement. MSc thesis, Ben-Gurion
    University.
    """
    x, y = _transitions(z, mask)
    if x.shape[1] > x.shape[2]:
        return _primal(x, y, ridge)
    factor = torch.linalg.cholesky(_ridged(x @ x.mT, ridge))
    return x.mT @ torch.cholesky_solve(y, factor)


def one_step(z: Tensor, operators: Tensor) -> Tensor:
    """The first frame, then every frame predicted from the true one before it; shape ``(B, T, k)``."""
    predicted = double(z[:, :-1]) @ operators
    return torch.cat([z[:, :1], predicted.to(z.dtype)], dim=1)


def _transitions(z: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs of frames; a pair that is not real is two rows of zeros, which no Gram matrix notices."""
    real = (mask[:, 1:] & mask[:, :-1])[..., None]
    z = double(z)
    return z[:, :-1] * real, z[:, 1:] * real


def _primal(x: Tensor, y: Tensor, ridge: float) -> Tensor:
    factor = torch.linalg.cholesky(_ridged(x.mT @ x, ridge))
    return torch.cholesky_solve(x.mT @ y, factor)


def _ridged(gram: Tensor, ridge: float) -> Tensor:
    size = ridge + _RELATIVE * gram.detach().diagonal(dim1=-2, dim2=-1).sum(dim=-1)
    return gram + size[:, None, None] * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
