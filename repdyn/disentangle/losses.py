"""What both models minimise: reconstruction, prediction, the spectrum; and two losses of our own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from repdyn.devices import double
from repdyn.disentangle.operators import batch_operator, one_step, sequence_operators
from repdyn.disentangle.spectral import spectral_loss
from repdyn.disentangle.static import static_mode, static_modes

__all__ = [
    "LOSSES",
    "Weights",
    "constancy_loss",
    "exchange_static",
    "masked_error",
    "motion_loss",
    "operators_of",
    "sequence_losses",
]

LOSSES = ("reconstruction", "prediction", "spectral", "constancy", "motion")
_DROPOUT = 0.2  # on the latent that is reconstructed, as published


@dataclass(frozen=True)
class Weights:
    """Weights of the losses; the first three as published for SSM-SKD on Sprites.

    Attributes
    ----------
    reconstruction
        Mean squared error of the decoded latents.
    prediction
        Half for the decoded one-step prediction against the data, half for the predicted latents.
    spectral
        :func:`~repdyn.disentangle.spectral.spectral_loss`.
    constancy
        :func:`constancy_loss`, through the differentiable static mode; none as published.
    motion
        :func:`motion_loss`, of sequences whose static parts were exchanged; none as published.
    """

    reconstruction: float = 16.0
    prediction: float = 1.0
    spectral: float = 1.0
    constancy: float = 0.0
    motion: float = 0.0


def operators_of(z: Tensor, mask: Tensor, kind: str) -> Tensor:
    """The operator of the batch, ``(1, k, k)``, or one of each sequence, ``(B, k, k)``."""
    return batch_operator(z, mask) if kind == "batch" else sequence_operators(z, mask)


def masked_error(found: Tensor, wanted: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error over real frames, shapes ``(B, T, …)`` and ``(B, T)``."""
    if mask.all():
        return functional.mse_loss(found, wanted)
    return functional.mse_loss(found[mask], wanted[mask])


def constancy_loss(z: Tensor, mask: Tensor, operators: Tensor) -> Tensor:
    r"""How much the static representation moves within a clip, as a share of its own size.

    :math:`\sum_t \|s_t - \bar s\|^2 / (\sum_t \|s_t\|^2 + \epsilon)` with
    :math:`s_t = (z_t \cdot v)\, u^\top` along the differentiable mode
    (:func:`~repdyn.disentangle.static.static_mode`), mean over clips.

    Parameters
    ----------
    z
        Latents, shape ``(B, T, k)``.
    mask
        Which frames are real, shape ``(B, T)``.
    operators
        Shape ``(1, k, k)`` or ``(B, k, k)``.

    Returns
    -------
    Tensor
        A scalar in [0, 1].
    """
    right, _, _ = static_mode(operators)
    real = double(mask)
    # The left vector scales both sums alike, so that the coordinate along the right one is all it takes.
    coordinate = (double(z) @ right[..., None])[..., 0] * real
    count = real.sum(dim=1)
    mean = coordinate.sum(dim=1) / count
    moved = ((coordinate - mean[:, None]).square() * real).sum(dim=1)
    return (moved / (coordinate.square().sum(dim=1) + _FLOOR)).mean()


_FLOOR = 1e-6  # a clip whose static coordinate is nothing at all is constant


def exchange_static(z: Tensor, mask: Tensor, operators: Tensor, static_dim: int) -> tuple[Tensor, Tensor]:
    """Latents with the static part of the sequence before; and where both of them are real.

    Projectors are taken as they are: no gradient passes through eigenvectors. Shapes ``(B, T, k)`` and
    ``(B, T)``.
    """
    projectors = torch.from_numpy(static_modes(operators.detach(), static_dim).projectors).to(z)
    static = (z @ projectors) * mask[..., None]
    return z - static + static.roll(1, dims=0), mask & mask.roll(1, dims=0)


def motion_loss(exchanged: Tensor, x: Tensor, mask: Tensor) -> Tensor:
    r"""How much of what moves, once the static part is another's, moves elsewhere than it did.

    Where a sequence moves is :math:`m_t = |x_{t+1} - x_t| / (|x_{t+1} - x_t| + \tau)`, the mean over channels
    first: near one wherever something changes, however bright it is. The loss is
    :math:`1 - \langle \tilde m, m \rangle / (\|\tilde m\| \|m\|)` of a sequence and of what it became, mean
    over sequences. Without it, whatever does not change by itself (the way a figure faces) stays in the
    static part, though all that moves depends on it.

    Parameters
    ----------
    exchanged
        Sequences with their own dynamic and another's static part, shape ``(B, T, …)``.
    x
        The sequences themselves.
    mask
        Which frames are real, shape ``(B, T)``.

    Returns
    -------
    Tensor
        A scalar in [0, 1].
    """
    steps = (mask[:, 1:] & mask[:, :-1])[..., None]
    found, wanted = (_moving(frames) * steps for frames in (exchanged, x))
    still = _RESTING**2 * found[0].numel()
    sizes = [(moves.square().sum(dim=(1, 2)) + still).sqrt() for moves in (found, wanted)]
    return (1 - (found * wanted).sum(dim=(1, 2)) / (sizes[0] * sizes[1])).mean()


_FAINT = 0.02  # a change of so much counts half; of pixels in [0, 1], or of coordinates of unit spread
_RESTING = 1e-2  # mean motion below which a clip is taken to rest, and which one cannot be divided by


def _moving(x: Tensor) -> Tensor:
    """Where sequences change, in [0, 1], shape ``(B, T - 1, places)``."""
    change = (x[:, 1:] - x[:, :-1]).abs()
    if change.ndim == 5:
        change = change.mean(dim=2)
    change = change.flatten(2)
    return change / (change + _FAINT)


def sequence_losses(
    x: Tensor,
    z: Tensor,
    mask: Tensor,
    decoded: Tensor,
    predicted: tuple[Tensor, Tensor],
    operators: Tensor,
    static_dim: int,
    threshold: float,
    weights: Weights,
) -> dict[str, Tensor]:
    """Each loss, weighted.

    Parameters
    ----------
    x, z, mask
        Data ``(B, T, …)``, latents ``(B, T, k)`` and which frames are real ``(B, T)``.
    decoded
        Reconstruction from the latents after dropout.
    predicted
        Latents one step ahead, and what they decode to.
    operators
        ``(1, k, k)`` or ``(B, k, k)``.
    static_dim, threshold
        Of the spectral loss.
    weights
        Their weights.
    """
    ahead, shown = predicted
    found = {
        "reconstruction": weights.reconstruction * masked_error(decoded, x, mask),
        "prediction": weights.prediction / 2 * (masked_error(shown, x, mask) + masked_error(ahead, z, mask)),
        "spectral": weights.spectral * spectral_loss(operators, static_dim, threshold),
    }
    if weights.constancy:
        found["constancy"] = weights.constancy * constancy_loss(z, mask, operators)
    return found


def drop_latents(z: Tensor, generator: torch.Generator) -> Tensor:
    """Dropout from a generator of our own, so that the global stream stays as it was."""
    kept = torch.rand(z.shape, generator=generator) >= _DROPOUT
    return z * kept.to(z.device) / (1 - _DROPOUT)


def forward_operators(z: Tensor, mask: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """Operators and the latents that they predict."""
    operators = operators_of(z, mask, kind)
    return operators, one_step(z, operators)
