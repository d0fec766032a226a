"""Parts of one optimizer step: losses, learning-rate schedules, and parameters as one vector.

Each of the four losses is in units of its target's variance. A weight thus means the same for any width,
scale and number of samples: predicting the mean of the target costs one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from repdyn.koopman.settings import FitSettings

__all__ = [
    "SCHEDULES",
    "Cosine",
    "FlatParameters",
    "Plateau",
    "isometry",
    "linearity",
    "reconstruction",
    "state",
    "total_variance",
]

_SETTINGS = FitSettings()
_SMALLEST = 1e-12  # keeps the square root of a distance differentiable where two rows coincide


def total_variance(x: Tensor) -> Tensor:
    """Mean squared distance of the rows from their mean, a scalar tensor."""
    return (x - x.mean(dim=0)).square().sum(dim=-1).mean()


def reconstruction(decoded: Tensor, target: Tensor, variance: Tensor | float) -> Tensor:
    """``E |D(E(x)) - x|^2 / var x`` over rows of shape ``(…, w)``.

    Parameters
    ----------
    decoded, target
        Output and input of the autoencoder.
    variance
        The target's total variance, a number or one for each row.
    """
    return _relative(decoded, target, variance)


def state(decoded: Tensor, target: Tensor, variance: Tensor | float) -> Tensor:
    """``E |D(K^t E(x_0)) - x_t|^2 / var x_t``: the future state, decoded from the propagated observables.

    Parameters
    ----------
    decoded, target
        The decoded prediction and the true representation at its depth.
    variance
        The target's total variance, a number or one for each row.
    """
    return _relative(decoded, target, variance)


def linearity(propagated: Tensor, encoded: Tensor, unit: Tensor | None = None) -> Tensor:
    """``E |K^t E(x_0) - E(x_t)|^2 / var E(x_t)``: the same future, compared in observable space.

    The variance passes no gradient, so that the encoder cannot lower the loss by increasing its scale.

    Parameters
    ----------
    propagated, encoded
        Shapes ``(n, d)``, or ``(depths, n, d)`` for rows of several depths.
    unit
        Variance of the states at each depth, ``(depths,)``: every depth then counts alike, whatever its
        scale, and the movement of the mean over depth does not count as variance.
    """
    if unit is not None:
        scale = unit.clamp_min(_SMALLEST).sqrt()[:, None, None]
        propagated, encoded = propagated / scale, encoded / scale
    rows = encoded.detach()
    if unit is not None and rows.shape[1] > 1:
        means = rows.mean(dim=1, keepdim=True)
        variance = (rows - means).square().sum() / (rows.shape[0] * (rows.shape[1] - 1))
    else:
        variance = total_variance(rows.flatten(0, -2))
    return (propagated - encoded).square().sum(dim=-1).mean() / variance.clamp_min(_SMALLEST)


def isometry(x: Tensor, encoded: Tensor, unit: Tensor | None = None) -> Tensor:
    """Mean squared error of pairwise distances, on as many random pairs as there are rows.

    ``E (|z_i - z_j| - |x_i - x_j|)^2 / E |x_i - x_j|^2``, with ``j`` the row after ``i``. Neighboring rows of
    a shuffled batch are random pairs, so the cost is O(B) instead of O(B^2). The mean squared distance of a
    pair is twice the target's variance.

    Parameters
    ----------
    x, encoded
        Shapes ``(…, B, w)`` and ``(…, B, d)``; each leading index is a batch, and batches are averaged.
    unit
        Variance of each row's state, ``(…, B)``: errors are in its units, so that all scales count alike.

    References
    ----------
    Aswani and Jabari (2025), arXiv 2505.12809: their code compares distances over all pairs (their poster
    prints norms).
    """
    true = (x - x.roll(1, dims=-2)).square().sum(dim=-1)
    learned = (encoded - encoded.roll(1, dims=-2)).square().sum(dim=-1)
    error = (torch.sqrt(learned + _SMALLEST) - torch.sqrt(true + _SMALLEST)).square()
    if unit is not None:
        error, true = error / unit.clamp_min(_SMALLEST), true / unit.clamp_min(_SMALLEST)
    return (error.mean(dim=-1) / true.mean(dim=-1).clamp_min(_SMALLEST)).mean()


def _relative(predicted: Tensor, target: Tensor, variance: Tensor | float) -> Tensor:
    """Mean squared error of rows ``(…, w)`` relative to a variance, a scalar tensor."""
    return ((predicted - target).square().sum(dim=-1) / variance).mean()


class Cosine:
    """Linear-to-cosine schedule: warm-up over a fifth of the steps, then cosine decay to zero.

    ``torch.optim.lr_scheduler.OneCycleLR`` has the same shape; this class is stateless, so that a resumed fit
    has the same rates bit for bit.

    Parameters
    ----------
    rate
        Highest learning rate.
    steps
        Steps of the whole fit.
    """

    def __init__(self, rate: float, steps: int) -> None:
        self.highest, self.steps = rate, steps

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from zero."""
        up = max(_SETTINGS.warm_up * self.steps, 1.0)
        if step < up:
            part = 0.5 - 0.5 * math.cos(math.pi * step / up)
            return self.highest * (1 / _SETTINGS.start_divisor + (1 - 1 / _SETTINGS.start_divisor) * part)
        return self.highest * (0.5 + 0.5 * math.cos(math.pi * (step - up) / max(self.steps - up, 1.0)))

    def validated(self, improved: bool) -> None:
        """Called after each evaluation of the validation part; without effect here."""

    def state(self) -> list[float]:
        """State for a checkpoint, besides the step."""
        return []

    def restore(self, state: list[float]) -> None:
        """Restore the value of :meth:`state`."""


class Plateau:
    """Constant rate after a warm-up, lowered by a factor when the validation loss stops improving.

    Parameters
    ----------
    rate, steps
        As in :class:`Cosine`. Only the warm-up depends on the number of steps.
    """

    def __init__(self, rate: float, steps: int) -> None:
        self.highest, self.steps = rate, steps
        self.lowered, self.waited = 1.0, 0

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from zero."""
        # A tenth of the cosine's warm-up is enough: the rate stays high afterwards.
        part = min(1.0, (step + 1) / max(0.1 * _SETTINGS.warm_up * self.steps, 1.0))
        return (
            self.highest
            * self.lowered
            * (1 / _SETTINGS.start_divisor + (1 - 1 / _SETTINGS.start_divisor) * part)
        )

    def validated(self, improved: bool) -> None:
        """Called after each evaluation of the validation part."""
        self.waited = 0 if improved else self.waited + 1
        if self.waited >= _SETTINGS.plateau_patience:
            self.lowered, self.waited = self.lowered * _SETTINGS.plateau_factor, 0

    def state(self) -> list[float]:
        """State for a checkpoint, besides the step."""
        return [self.lowered, float(self.waited)]

    def restore(self, state: list[float]) -> None:
        """Restore the value of :meth:`state`."""
        self.lowered, self.waited = state[0], int(state[1])


SCHEDULES: dict[str, type[Cosine] | type[Plateau]] = {"cosine": Cosine, "plateau": Plateau}
"""Schedule classes by the value of ``fit(schedule=…)``."""


class FlatParameters:
    """All parameters of a module in one vector, and their gradients in another.

    Small networks spend most of their time launching kernels. With one vector, gradient clipping, averaging
    over devices and the optimizer step take one kernel each.

    Parameters
    ----------
    modules
        Module whose parameters become views of the vector, until :meth:`release`.
    """

    def __init__(self, modules: nn.Module) -> None:
        self._parameters = list(modules.parameters())
        self.vector = nn.Parameter(torch.cat([p.detach().flatten() for p in self._parameters]))
        self.gradient = torch.zeros_like(self.vector)
        self.vector.grad = self.gradient
        self.moments: dict[str, Tensor] = {}
        start, values = 0, self.vector.detach()
        for parameter in self._parameters:
            part = slice(start, start + parameter.numel())
            # PyTorch adds to an existing gradient in place, so gradients accumulate in the vector.
            gradient = self.gradient[part].view_as(parameter)
            parameter.data = values[part].view_as(parameter)
            parameter.grad = gradient
            start += parameter.numel()

    def clip(self, largest: float) -> None:
        """Scale the gradient so that its norm is at most ``largest``."""
        self.gradient.mul_((largest / (self.gradient.norm() + 1e-6)).clamp_max(1.0))

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One step of Adam, whose moments are in :attr:`moments`.

        The bookkeeping of ``torch.optim.AdamW`` takes ten times as long as its kernel on a small vector.
        """
        if not self.moments:
            zeros = torch.zeros_like(self.gradient)
            self.moments = {
                "step": torch.zeros((), dtype=torch.float32, device=self.gradient.device),
                "exp_avg": zeros,
                "exp_avg_sq": zeros.clone(),
            }
        own = self.moments
        adamw(
            [self.vector],
            [self.gradient],
            [own["exp_avg"]],
            [own["exp_avg_sq"]],
            [],
            [own["step"]],
            fused=True,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=rate,
            weight_decay=0.0,
            eps=1e-8,
            maximize=False,
        )

    def release(self) -> None:
        """Give every parameter its own memory again, and no gradient."""
        for parameter in self._parameters:
            parameter.data = parameter.data.clone()
            parameter.grad = None
