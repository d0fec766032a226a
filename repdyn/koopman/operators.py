"""Koopman operators on observables: powers of a generator, and ridge least squares.

Observables are rows, so an operator acts from the right: ``z(t) = z(0) K^t``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from repdyn.errors import RepdynError

__all__ = ["OPERATORS", "Generator", "propagator", "ridge"]


def propagator(generator: Tensor, time: Tensor | float) -> Tensor:
    """Solve the linear flow of a generator for a time.

    ``K^t = expm(t G)``; any real ``t`` is meant, so a path has values between its points and before its
    first.

    Parameters
    ----------
    generator
        ``G``, shape ``(d, d)``.
    time
        A number, or a tensor of shape ``(m,)``.

    Returns
    -------
    Tensor
        ``K^t``, shape ``(d, d)`` or ``(m, d, d)``.

    Examples
    --------
    >>> half = propagator(torch.zeros(2, 2), 0.5)
    >>> bool((half == torch.eye(2)).all())
    True
    """
    time = torch.as_tensor(time, dtype=generator.dtype, device=generator.device)
    power: Tensor = torch.linalg.matrix_exp(time[..., None, None] * generator)
    return power


class Generator(nn.Module):
    """One generator for the whole path: ``z(t) = z(s) expm((t - s) G)``.

    ``G`` starts at zero, so ``K`` starts at the identity. (Started at the identity matrix, as published,
    ``K`` would start at ``e`` times it.)

    Parameters
    ----------
    latent_dim
        ``d``, the number of observables.

    References
    ----------
    Aswani and Jabari (2025), arXiv 2505.12809, section 3.
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(latent_dim, latent_dim))

    def matrix(self, source: float, target: float) -> Tensor:
        """``K`` from depth ``source`` to depth ``target``, shape ``(d, d)``."""
        return propagator(self.weight, target - source)

    def steps(self, count: int) -> list[Tensor]:
        """The operators of the ``count`` steps from depth 0 on, each ``(d, d)``; here one and the same."""
        return [propagator(self.weight, 1.0)] * count


def ridge(x: Tensor, y: Tensor, penalty: float) -> Tensor:
    """Linear least squares with a ridge, in float64.

    ``A = (X'X + p I)^-1 X'Y``, or by its dual ``X'(XX' + p I)^-1 Y`` where there are fewer rows than
    columns: the same matrix from the smaller system. The ridge is never zero, because a rank-deficient
    least-squares solve is silently wrong on some devices.

    Parameters
    ----------
    x, y
        Shapes ``(n, p)`` and ``(n, q)``.
    penalty
        ``p > 0``, in the units of ``X'X``.

    Returns
    -------
    Tensor
        ``A``, shape ``(p, q)``, float64, with ``y ≈ x A``.

    Raises
    ------
    RepdynError
        If the penalty is not positive.

    Examples
    --------
    >>> x = torch.eye(3, dtype=torch.float64)
    >>> bool(torch.allclose(ridge(x, 2 * x, 1e-12), 2 * x))
    True
    """
    if not penalty > 0:
        raise RepdynError(f"ridge: penalty must be positive, got {penalty}")
    x, y = x.double(), y.double()
    rows, columns = x.shape
    gram = x @ x.T if rows < columns else x.T @ x
    gram.diagonal().add_(penalty)
    found: Tensor
    found = x.T @ torch.linalg.solve(gram, y) if rows < columns else torch.linalg.solve(gram, x.T @ y)
    return found


OPERATORS = {"generator": Generator}
"""Operators by the name a Koopman autoencoder knows them by."""
