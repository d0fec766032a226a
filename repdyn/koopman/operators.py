"""Koopman operators on observables, and the matrix exponentials that they are powers of.

Observables are rows, so an operator acts from the right: ``z(t) = z(0) K^t``. Generators give powers for any
real time; a least-squares operator has them where its real root exists.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from repdyn.errors import RepdynError
from repdyn.koopman.settings import FitSettings
from repdyn.linalg import ridge
from repdyn.reading import as_array

__all__ = [
    "OPERATORS",
    "Generator",
    "LeastSquares",
    "LowRank",
    "Operator",
    "PerStep",
    "exponential",
    "full_precision",
    "piecewise_propagator",
    "propagator",
    "real_power",
]

_SETTINGS = FitSettings()
_ON_THE_AXIS = 1e-9  # relative distance from the negative axis at which an eigenvalue lies on it (rounding)

# The scheme of Bader, Blanes and Casas; see exponential.
_REACH = 0.5  # norm up to which polynomial and gradient are exact to float32 rounding
_ROOT = math.sqrt(177.0)
_A = ((1 + _ROOT) / 132, (1 + _ROOT) / 528)
_B = (
    2 / 3,
    (-271 + 29 * _ROOT) / 210,
    (-11 + 11 * _ROOT) / 840,
    (-99 + 11 * _ROOT) / 3360,
    (89 - _ROOT) / 2240,
)
_C = (857 - 58 * _ROOT) / 630


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
        """The operator of each step, in order, each ``(d, d)``; all are equal."""
        return [propagator(self.weight, 1.0)] * self.count


class PerStep(nn.Module):
    """One generator for each step: depth as a non-autonomous linear system.

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
        rank = min(_SETTINGS.rank, latent_dim)
        self.weight = nn.Parameter(torch.zeros(latent_dim, latent_dim))
        # The correction starts at zero because one factor does. With both at zero, neither has a gradient.
        self.left = nn.Parameter(torch.zeros(steps, latent_dim, rank))
        self.right = nn.Parameter(torch.randn(steps, rank, latent_dim) * latent_dim**-0.5)

    def matrix(self, source: float, target: float) -> Tensor:
        """``K`` from depth ``source`` to depth ``target``, shape ``(d, d)``."""
        return piecewise_propagator(self.weight + self.left @ self.right, source, target)

    def steps(self) -> list[Tensor]:
        """The operator of each step, in order, each ``(d, d)``."""
        return list(exponential(self.weight + self.left @ self.right))


class LeastSquares(nn.Module):
    """One operator for the whole path, solved for by ridge regression on each batch.

    The encoder is trained through the solution. After training, ``K`` is the ridge solution on all training
    paths.

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
        """Solve for ``K`` from observables before and after a step, shapes ``(n, d)``."""
        # The penalty is in units of the mean eigenvalue of Z'Z: the same shrinkage for any batch and scale.
        unit = float(before.detach().double().square().sum()) / min(before.shape)
        solved = ridge(before, after, _SETTINGS.shrinkage * (unit or 1.0)).to(before.dtype)
        # A loaded weight is contiguous, and products round by the memory layout of their factors.
        self.weight = solved.contiguous()

    def solve_sums(self, gram: Tensor, cross: Tensor, rows: int) -> None:
        """Solve for ``K`` from sums over many rows, ``Z'Z`` and ``Z'Z_next``, each ``(d, d)`` in float64."""
        unit = float(gram.trace()) / min(rows, len(gram))
        gram = gram.clone()
        gram.diagonal().add_(_SETTINGS.shrinkage * (unit or 1.0))
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
        root = real_power(as_array(self.weight, np.float64), time)
        if root is None:
            raise RepdynError(
                "this least-squares operator has an eigenvalue on the closed negative real axis and so no "
                "real root: it has no values between points; use operator='generator'"
            )
        return torch.from_numpy(root).to(self.weight)

    def steps(self) -> list[Tensor]:
        """The operator of each step, in order, each ``(d, d)``; all are equal."""
        return [self.weight] * self.count


OPERATORS: dict[str, type[Generator | PerStep | LowRank | LeastSquares]] = {
    "generator": Generator,
    "per_step": PerStep,
    "low_rank": LowRank,
    "least_squares": LeastSquares,
}
"""Operator classes by the value of ``KoopmanAutoencoder(operator=…)``."""

Operator = Generator | PerStep | LowRank | LeastSquares
"""Any of the operator classes."""


def exponential(matrix: Tensor) -> Tensor:
    """Matrix exponential with an inexpensive gradient.

    In float32: scaling and squaring with a Taylor polynomial of degree eight in three products, exact to
    rounding (1e-6). Its gradient costs two products for each product. The gradient of
    ``torch.linalg.matrix_exp`` is an exponential of twice the width and takes five times as long in training.
    In other types ``torch.linalg.matrix_exp`` is used.

    Parameters
    ----------
    matrix
        Shape ``(…, d, d)``.

    Returns
    -------
    Tensor
        The same shape.

    Examples
    --------
    >>> bool(torch.allclose(exponential(torch.zeros(2, 2)), torch.eye(2)))
    True

    References
    ----------
    Bader, Blanes and Casas (2019), Computing the matrix exponential with an optimized Taylor polynomial
    approximation, equation 15.
    """
    result: Tensor
    if matrix.dtype != torch.float32:
        result = torch.linalg.matrix_exp(matrix)
        return result
    norm = float(matrix.detach().abs().sum(dim=-2).amax())
    squarings = max(0, math.ceil(math.log2(norm / _REACH))) if math.isfinite(norm) and norm > 0 else 0
    # Repeated squaring amplifies rounding, so these products stay in float32 under autocast.
    with full_precision(matrix.device):
        a = matrix * 0.5**squarings
        a2 = a @ a
        a4 = a2 @ (_A[0] * a + _A[1] * a2)
        one = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
        a8 = (_B[0] * a2 + a4) @ (_B[1] * one + _B[2] * a + _B[3] * a2 + _B[4] * a4)
        result = one + a + _C * a2 + a8
        for _ in range(squarings):
            result = result @ result
    return result


def full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """A context that turns autocast off on a device, so that products keep float32."""
    # Entering an autocast context takes as long as a small product, so it is entered only if needed.
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def propagator(generator: Tensor, time: Tensor | float) -> Tensor:
    """Propagator of a linear flow, ``K^t = expm(t G)``.

    ``t`` is any real number: between points, and negative for earlier depths.

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
    return exponential(time[..., None, None] * generator)


def piecewise_propagator(generators: Tensor, source: float, target: float) -> Tensor:
    """Propagator of a linear flow whose generator is constant between points.

    ``K(s, t) = expm(a_l G_l) … expm(a_m G_m)``, where ``a`` is the part of each step between ``s`` and ``t``.
    From a later to an earlier depth it is the exact inverse.

    Parameters
    ----------
    generators
        One for each step, shape ``(steps, d, d)``.
    source, target
        Depths between 0 and ``steps``.

    Returns
    -------
    Tensor
        Shape ``(d, d)``.
    """
    low, high = min(source, target), max(source, target)
    sign = 1.0 if target >= source else -1.0
    factors = []
    for step in range(math.floor(low), math.ceil(high)):
        part = min(high, step + 1) - max(low, step)
        factors.append(propagator(generators[step], sign * part))
    result = torch.eye(generators.shape[-1], dtype=generators.dtype, device=generators.device)
    for factor in factors if sign > 0 else reversed(factors):
        result = result @ factor
    return result


def real_power(matrix: NDArray[np.float64], exponent: float) -> NDArray[np.float64] | None:
    """Real principal power of a real matrix, or ``None`` if it does not exist.

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
