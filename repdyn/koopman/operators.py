"""Koopman operators on observables: powers of a generator, and ridge least squares.

Observables are rows, so an operator acts from the right: ``z(t) = z(0) K^t``.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from repdyn.errors import RepdynError
from repdyn.koopman.exponential import exponential, piecewise_propagator, propagator
from repdyn.reading import as_array

__all__ = [
    "OPERATORS",
    "Generator",
    "LeastSquares",
    "LowRank",
    "Operator",
    "PerStep",
    "real_power",
    "ridge",
]

_RANK = 4  # of each step's correction to a shared generator
_SHRINKAGE = (
    1e-4  # ridge of a solved operator, relative to the mean eigenvalue of the observables' Gram matrix
)
_ON_THE_AXIS = 1e-9  # an eigenvalue this near to the negative axis, relative to the largest, is on it


class Generator(nn.Module):
    """One generator for the whole path: ``z(t) = z(s) expm((t - s) G)``.

    ``G`` starts at zero, so ``K`` starts at the identity. (Started at the identity matrix, as published,
    ``K`` would start at ``e`` times it.)

    Parameters
    ----------
    latent_dim
        ``d``, the number of observables.
    steps
        Steps of the path, one fewer than its points.

    References
    ----------
    Aswani and Jabari (2025), arXiv 2505.12809, section 3.
    """

    def __init__(self, latent_dim: int, steps: int) -> None:
        super().__init__()
        self.count = steps
        self.weight = nn.Parameter(torch.zeros(latent_dim, latent_dim))

    def matrix(self, source: float, target: float) -> Tensor:
        """``K`` from depth ``source`` to depth ``target``, shape ``(d, d)``."""
        return propagator(self.weight, target - source)

    def steps(self) -> list[Tensor]:
        """The operator of each step, in order, each ``(d, d)``; here one and the same."""
        return [propagator(self.weight, 1.0)] * self.count


class PerStep(nn.Module):
    """A generator of its own for each step: depth as a non-autonomous linear system.

    Parameters
    ----------
    latent_dim, steps
        As in :class:`Generator`.
    """

    def __init__(self, latent_dim: int, steps: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(steps, latent_dim, latent_dim))

    def matrix(self, source: float, target: float) -> Tensor:
        """``K`` from depth ``source`` to depth ``target``, shape ``(d, d)``."""
        return piecewise_propagator(self.weight, source, target)

    def steps(self) -> list[Tensor]:
        """The operator of each step, in order, each ``(d, d)``."""
        return list(exponential(self.weight))


class LowRank(nn.Module):
    """A shared generator and a correction of low rank for each step, ``G_l = G + U_l V_l``.

    Parameters
    ----------
    latent_dim, steps
        As in :class:`Generator`.
    """

    def __init__(self, latent_dim: int, steps: int) -> None:
        super().__init__()
        rank = min(_RANK, latent_dim)
        self.weight = nn.Parameter(torch.zeros(latent_dim, latent_dim))
        # One factor starts at zero and so does the correction; the other must not, or neither would learn.
        self.left = nn.Parameter(torch.zeros(steps, latent_dim, rank))
        self.right = nn.Parameter(torch.randn(steps, rank, latent_dim) * latent_dim**-0.5)

    def matrix(self, source: float, target: float) -> Tensor:
        """``K`` from depth ``source`` to depth ``target``, shape ``(d, d)``."""
        return piecewise_propagator(self.weight + self.left @ self.right, source, target)

    def steps(self) -> list[Tensor]:
        """The operator of each step, in order, each ``(d, d)``."""
        return list(exponential(self.weight + self.left @ self.right))


class LeastSquares(nn.Module):
    """One operator for the whole path that is not trained but solved for: ``K`` by ridge on each batch.

    Gradients reach the encoder through the solution. After training, ``K`` is the ridge solution on all
    training paths.

    Parameters
    ----------
    latent_dim, steps
        As in :class:`Generator`.
    """

    def __init__(self, latent_dim: int, steps: int) -> None:
        super().__init__()
        self.count = steps
        self.register_buffer("weight", torch.eye(latent_dim))

    weight: Tensor

    def solve(self, before: Tensor, after: Tensor) -> None:
        """Take ``K`` from observables before and after a step, shapes ``(n, d)``."""
        # In units of the mean eigenvalue of Z'Z: the same shrinkage for any batch and any scale.
        unit = float(before.detach().double().square().sum()) / min(before.shape)
        solved = ridge(before, after, _SHRINKAGE * (unit or 1.0)).to(before.dtype)
        # In the layout of a loaded weight: products round by the layout of their factors.
        self.weight = solved.contiguous()

    def solve_sums(self, gram: Tensor, cross: Tensor, rows: int) -> None:
        """Take ``K`` from sums over many rows, ``Z'Z`` and ``Z'Z_next``, each ``(d, d)`` in float64."""
        unit = float(gram.trace()) / min(rows, len(gram))
        gram = gram.clone()
        gram.diagonal().add_(_SHRINKAGE * (unit or 1.0))
        self.weight = torch.linalg.solve(gram, cross).to(self.weight.dtype).contiguous()

    def matrix(self, source: float, target: float) -> Tensor:
        """``K`` from depth ``source`` to depth ``target``, shape ``(d, d)``.

        Raises
        ------
        RepdynError
            Between points, where ``K`` has no real root.
        """
        time = target - source
        if time == round(time):
            power: Tensor = torch.linalg.matrix_power(self.weight, round(time))
            return power
        found = real_power(as_array(self.weight, np.float64), time)
        if found is None:
            raise RepdynError(
                "this least-squares operator has an eigenvalue on the closed negative real axis and so no "
                "real root: it has no values between points; use operator='generator'"
            )
        return torch.from_numpy(found).to(self.weight)

    def steps(self) -> list[Tensor]:
        """The operator of each step, in order, each ``(d, d)``; here one and the same."""
        return [self.weight] * self.count


def real_power(matrix: NDArray[np.float64], exponent: float) -> NDArray[np.float64] | None:
    """Real principal power of a real matrix, ``None`` where there is none.

    It exists if and only if no eigenvalue lies on the closed negative real axis (Higham 2008, theorem 1.31).

    Parameters
    ----------
    matrix
        Shape ``(d, d)``.
    exponent
        Any real number.
    """
    # scipy.linalg is slow to import and only fractional depths need it.
    from scipy.linalg import fractional_matrix_power

    values = np.linalg.eigvals(matrix)
    near = _ON_THE_AXIS * np.abs(values).max()
    if np.any((np.abs(values.imag) <= near) & (values.real <= near)):
        return None
    return np.ascontiguousarray(np.asarray(fractional_matrix_power(matrix, exponent)).real)


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


OPERATORS: dict[str, type[Generator | PerStep | LowRank | LeastSquares]] = {
    "generator": Generator,
    "per_step": PerStep,
    "low_rank": LowRank,
    "least_squares": LeastSquares,
}
"""Operators by the name a Koopman autoencoder knows them by."""

Operator = Generator | PerStep | LowRank | LeastSquares
"""Any of them."""
