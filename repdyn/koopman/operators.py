"""Koopman operators on observables, and the matrix exponentials that they are powers of.

Observables are rows, so an operator acts from the right: ``z(t) = z(0) K^t + b_t``. The offset ``b_t`` moves
the mean of the observables. It has no part in any eigenvalue: differences between two samples evolve by ``K``
alone. Generators give powers for any real time; a least-squares operator has them where its real root exists.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from repdyn.devices import as_given, double
from repdyn.errors import RepdynError
from repdyn.koopman.settings import FitSettings
from repdyn.linalg import ridge
from repdyn.reading import as_array

__all__ = [
    "OPERATORS",
    "Direct",
    "Generator",
    "LeastSquares",
    "LowRank",
    "Operator",
    "PerStep",
    "Piecewise",
    "advance",
    "exponential",
    "full_precision",
    "piecewise_propagator",
    "propagator",
    "real_power",
]

_SETTINGS = FitSettings()
_WEAK = 1e-4  # directions that a direct map shrinks by more are lost: going back would only amplify noise
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


class _Flow(nn.Module):
    """What the operators share: affine maps as matrices ``[[K, 0], [b, 1]]`` on observables with a one."""

    count: int
    weight: Any
    drift: Any

    def matrix(self, source: float, target: float) -> Tensor:
        """``K`` from depth ``source`` to depth ``target``, shape ``(d, d)``."""
        return self._affine(source, target)[:-1, :-1]

    def offset(self, source: float, target: float) -> Tensor:
        """``b`` from depth ``source`` to depth ``target``, shape ``(d,)``."""
        if not bool((self.drift != 0).any()):  # exactly as before offsets existed
            return torch.zeros_like(self.drift.reshape(-1, self.drift.shape[-1])[0])
        moved: Tensor = self._affine(source, target)[-1, :-1]
        return moved

    def _affine(self, source: float, target: float) -> Tensor:
        """``[[K, 0], [b, 1]]`` from depth ``source`` to depth ``target``, shape ``(d + 1, d + 1)``."""
        raise NotImplementedError

    def flow(self, source: float, target: float) -> Tensor:
        """``K`` and ``b`` from depth ``source`` to depth ``target`` for :func:`advance`, ``(d + 1, d)``."""
        return torch.cat([self.matrix(source, target), self.offset(source, target)[None]])

    def steps(self) -> list[Tensor]:
        """The operator of each step, in order, each ``(d, d)``."""
        return [self.matrix(number, number + 1) for number in range(self.count)]

    def from_first(self) -> Tensor:
        """Flows from the first point to every later one, shape ``(steps, d + 1, d)``."""
        product, products = None, []
        for step in self._affine_steps():
            product = step if product is None else product @ step
            products.append(product)
        return torch.stack(products)[..., :-1]

    def _affine_steps(self) -> list[Tensor]:
        """``[[K, 0], [b, 1]]`` of each step, each ``(d + 1, d + 1)``."""
        raise NotImplementedError

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        """Load weights, also those of version 0.1, whose operators have no offset."""
        state_dict.setdefault(prefix + "drift", torch.zeros_like(self.drift.data))
        super()._load_from_state_dict(state_dict, prefix, *rest)


class Generator(_Flow):
    """One generator for the whole path, ``z(t) = z(s) expm((t - s) G)``, and the mean's drift in each step.

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
        self.drift = nn.Parameter(torch.zeros(steps, latent_dim))

    def matrix(self, source: float, target: float) -> Tensor:
        # One exponential; the affine map of several steps would take one for each.
        return propagator(self.weight, target - source)

    def _affine(self, source: float, target: float) -> Tensor:
        generators = _homogeneous(self.weight.expand(self.count, -1, -1), self.drift)
        return piecewise_propagator(generators, source, target)

    def from_first(self) -> Tensor:
        # The drifts of all steps are rows of one matrix, so that one exponential serves all steps.
        width = self.weight.shape[-1]
        both = torch.nn.functional.pad(torch.cat([self.weight, self.drift]), (0, self.count))
        step = exponential(both)[:, :width]
        matrix, moved = step[:width], torch.nn.functional.pad(step[width:, None], (0, 0, width, 0))
        flows = [step[: width + 1]]
        with full_precision(matrix.device):
            for own in moved[1:]:
                flows.append(torch.addmm(own, flows[-1], matrix))
        return torch.stack(flows)

    def steps(self) -> list[Tensor]:
        return [propagator(self.weight, 1.0)] * self.count


class _Stepwise(_Flow):
    """A flow whose generator is constant within each step."""

    def _generators(self) -> Tensor:
        """The generator of each step, shape ``(steps, d, d)``."""
        raise NotImplementedError

    def matrix(self, source: float, target: float) -> Tensor:
        return piecewise_propagator(self._generators(), source, target)

    def _affine(self, source: float, target: float) -> Tensor:
        return piecewise_propagator(_homogeneous(self._generators(), self.drift), source, target)

    def steps(self) -> list[Tensor]:
        return list(exponential(self._generators()))

    def _affine_steps(self) -> list[Tensor]:
        return list(exponential(_homogeneous(self._generators(), self.drift)))


class PerStep(_Stepwise):
    """One generator and one drift for each step: depth as a non-autonomous linear system.

    Parameters
    ----------
    latent_dim, steps
        As in :class:`Generator`.
    """

    def __init__(self, latent_dim: int, steps: int) -> None:
        super().__init__()
        self.count = steps
        self.weight = nn.Parameter(torch.zeros(steps, latent_dim, latent_dim))
        self.drift = nn.Parameter(torch.zeros(steps, latent_dim))

    def _generators(self) -> Tensor:
        weight: Tensor = self.weight
        return weight


class Piecewise(_Stepwise):
    """One generator for each phase, a run of steps, and one drift for each step.

    Parameters
    ----------
    latent_dim, steps
        As in :class:`Generator`.
    starts
        Number of the first step of each phase, from 0 on (:func:`repdyn.koopman.phases.change_points`).
    """

    def __init__(self, latent_dim: int, steps: int, starts: Sequence[int] = (0,)) -> None:
        super().__init__()
        ends = (*starts[1:], steps)
        if not starts or starts[0] != 0 or any(a >= b for a, b in zip(starts, ends)):
            raise RepdynError(
                f"starts must be increasing step numbers from 0 to {steps - 1}, the first of them 0, got "
                f"{tuple(starts)}"
            )
        self.count = steps
        self.spans = tuple(zip(starts, ends))
        lengths = torch.tensor([end - start for start, end in self.spans])
        self.register_buffer("phase", torch.repeat_interleave(torch.arange(len(starts)), lengths))
        self.weight = nn.Parameter(torch.zeros(len(starts), latent_dim, latent_dim))
        self.drift = nn.Parameter(torch.zeros(steps, latent_dim))

    phase: Tensor

    def _generators(self) -> Tensor:
        generators: Tensor = self.weight[self.phase]
        return generators

    def steps(self) -> list[Tensor]:
        # One exponential for each phase, instead of one for each step.
        return list(exponential(self.weight)[self.phase])


class LowRank(_Stepwise):
    """A shared generator, and for each step a drift and a correction of low rank, ``G_l = G + U_l V_l``.

    Parameters
    ----------
    latent_dim, steps
        As in :class:`Generator`.
    """

    def __init__(self, latent_dim: int, steps: int) -> None:
        super().__init__()
        rank = min(_SETTINGS.rank, latent_dim)
        self.count = steps
        self.weight = nn.Parameter(torch.zeros(latent_dim, latent_dim))
        self.drift = nn.Parameter(torch.zeros(steps, latent_dim))
        # The correction starts at zero because one factor does. With both at zero, neither has a gradient.
        self.left = nn.Parameter(torch.zeros(steps, latent_dim, rank))
        self.right = nn.Parameter(torch.randn(steps, rank, latent_dim) * latent_dim**-0.5)

    def _generators(self) -> Tensor:
        generators: Tensor = self.weight + self.left @ self.right
        return generators


class LeastSquares(_Flow):
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
        self.register_buffer("drift", torch.zeros(steps, latent_dim))

    weight: Tensor
    drift: Tensor

    def solve(self, before: Tensor, after: Tensor) -> None:
        """Solve for ``K`` and the drifts from observables before and after steps.

        Shapes ``(steps, n, d)``, or ``(n, d)`` for one drift at all steps.
        """
        start, end = before.mean(dim=-2, keepdim=True), after.mean(dim=-2, keepdim=True)
        means = start.squeeze(-2), end.squeeze(-2)
        before, after = (before - start).flatten(0, -2), (after - end).flatten(0, -2)
        # The penalty is in units of the mean eigenvalue of Z'Z: the same shrinkage for any batch and scale.
        unit = float(double(before.detach()).square().sum()) / min(before.shape)
        solved = ridge(before, after, _SETTINGS.shrinkage * (unit or 1.0)).to(before.dtype)
        # A loaded weight is contiguous, and products round by the memory layout of their factors.
        self.weight = solved.contiguous()
        self.drift = (means[1] - means[0] @ self.weight).expand_as(self.drift).contiguous()

    def solve_sums(self, gram: Tensor, cross: Tensor, totals: tuple[Tensor, Tensor], rows: int) -> None:
        """Solve for ``K`` and the drift from sums over many rows in float64.

        Parameters
        ----------
        gram, cross
            ``Z'Z`` and ``Z'Z_next``, each ``(d, d)``.
        totals
            Sums of the rows of ``Z`` and of ``Z_next`` at each step, each ``(steps, d)``.
        rows
            Number of rows at each step.
        """
        start, end = (total / rows for total in totals)
        gram, cross = gram - rows * (start.T @ start), cross - rows * (start.T @ end)
        unit = float(gram.trace()) / min(rows * len(start), len(gram))
        gram = gram.clone()
        gram.diagonal().add_(_SETTINGS.shrinkage * (unit or 1.0))
        solved = torch.linalg.solve(gram, cross)
        self.weight = solved.to(self.weight.dtype).contiguous()
        self.drift = (end - start @ solved).to(self.weight.dtype)

    def matrix(self, source: float, target: float) -> Tensor:
        """``K`` from depth ``source`` to depth ``target``, shape ``(d, d)``.

        Raises
        ------
        RepdynError
            Between points, where ``K`` has no real root.
        """
        return self._power(self.weight, target - source)

    def _affine(self, source: float, target: float) -> Tensor:
        low, high = min(source, target), max(source, target)
        result = torch.eye(len(self.weight) + 1, dtype=self.weight.dtype, device=self.weight.device)
        for number in range(math.floor(low), math.ceil(high)):
            part = min(high, number + 1) - max(low, number)
            result = result @ self._power(_with_offset(self.weight, self.drift[number]), part)
        return result if target >= source else torch.linalg.inv(result)

    def _affine_steps(self) -> list[Tensor]:
        return [_with_offset(self.weight, moved) for moved in self.drift]

    def _power(self, matrix: Tensor, time: float) -> Tensor:
        """A power of ``K`` or of ``[[K, 0], [b, 1]]``."""
        if time == round(time):
            power: Tensor = torch.linalg.matrix_power(matrix, round(time))
            return power
        root = real_power(as_array(matrix, np.float64), time)
        if root is None:
            raise RepdynError(
                "this least-squares operator has an eigenvalue on the closed negative real axis and so no "
                "real root: it has no values between points; use operator='generator'"
            )
        return as_given(root, self.weight)

    def steps(self) -> list[Tensor]:
        return [self.weight] * self.count


class Direct(_Flow):
    """One map from the first point to each later one, ``z_l = z_0 C_l + b_l``, each solved for directly.

    A product of one-step maps predicts worse than one map over all steps wherever the steps lose information.
    Between two points the maps are interpolated; a map that does not start at the first point is
    ``C_s^+ C_t``.

    Parameters
    ----------
    latent_dim, steps
        As in :class:`Generator`.
    """

    def __init__(self, latent_dim: int, steps: int) -> None:
        super().__init__()
        self.count = steps
        self.register_buffer("weight", torch.eye(latent_dim).repeat(steps, 1, 1))
        self.register_buffer("drift", torch.zeros(steps, latent_dim))

    weight: Tensor
    drift: Tensor

    def _affine(self, source: float, target: float) -> Tensor:
        end = self._reached(target)
        if source == 0:
            return end
        left, values, right = torch.linalg.svd(self._reached(source), full_matrices=False)
        kept = values > _WEAK * values[0]  # torch.linalg.pinv makes float64 thresholds, which MPS refuses
        inverse: Tensor = (
            right.T * torch.where(kept, 1 / values.clamp_min(1e-30), torch.zeros_like(values))
        ) @ left.T
        moved: Tensor = inverse @ end
        return moved

    def _reached(self, depth: float) -> Tensor:
        """``[[C, 0], [b, 1]]`` from the first point to a depth."""
        low = min(math.floor(depth), self.count - 1)
        one = torch.eye(self.weight.shape[-1] + 1, dtype=self.weight.dtype, device=self.weight.device)
        numbers = [number for number in (low - 1, low) if number >= 0]
        maps = [one, *(_with_offset(self.weight[number], self.drift[number]) for number in numbers)]
        part = depth - low
        return (1 - part) * maps[-2] + part * maps[-1] if part else maps[-2]

    def from_first(self) -> Tensor:
        return torch.cat([self.weight, self.drift[:, None]], dim=1)


OPERATORS: dict[str, type[Generator | PerStep | Piecewise | LowRank | LeastSquares | Direct]] = {
    "generator": Generator,
    "per_step": PerStep,
    "piecewise": Piecewise,
    "low_rank": LowRank,
    "least_squares": LeastSquares,
    "direct": Direct,
}
"""Operator classes by the value of ``KoopmanAutoencoder(operator=…)``."""

Operator = Generator | PerStep | Piecewise | LowRank | LeastSquares | Direct
"""Any of the operator classes."""


def advance(z: Tensor, flow: Tensor) -> Tensor:
    """``z K + b`` of observables ``(…, n, d)`` and a flow ``(…, d + 1, d)``."""
    return z @ flow[..., :-1, :] + flow[..., -1:, :]


def _with_offset(matrix: Tensor, offset: Tensor) -> Tensor:
    """``[[K, 0], [b, 1]]`` of ``(d, d)`` and ``(d,)``."""
    return torch.cat([torch.nn.functional.pad(matrix, (0, 1)), torch.cat([offset, offset.new_ones(1)])[None]])


def _homogeneous(weight: Tensor, drift: Tensor) -> Tensor:
    """Generators ``[[G, 0], [c, 0]]`` of affine flows, shape ``(…, d + 1, d + 1)``."""
    return torch.nn.functional.pad(torch.cat([weight, drift[..., None, :]], dim=-2), (0, 1))


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
    time = as_given(torch.as_tensor(time, dtype=generator.dtype), generator)
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
