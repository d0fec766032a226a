"""What both models minimise: reconstruction, prediction, the spectrum, constancy of the static part."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from repdyn.disentangle.operators import batch_operator, one_step, sequence_operators
from repdyn.disentangle.spectral import spectral_loss
from repdyn.disentangle.static import static_mode

__all__ = ["LOSSES", "Weights", "constancy_loss", "masked_error", "operators_of", "sequence_losses"]

LOSSES = ("reconstruction", "prediction", "spectral", "constancy")
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
    """

    reconstruction: float = 16.0
    prediction: float = 1.0
    spectral: float = 1.0
    constancy: float = 0.0


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
    real = mask.double()
    # The left vector scales both sums alike, so that the coordinate along the right one is all it takes.
    coordinate = (z.double() @ right[..., None])[..., 0] * real
    count = real.sum(dim=1)
    mean = coordinate.sum(dim=1) / count
    moved = ((coordinate - mean[:, None]).square() * real).sum(dim=1)
    return (moved / (coordinate.square().sum(dim=1) + _FLOOR)).mean()


_FLOOR = 1e-6  # a clip whose static coordinate is nothing at all is constant


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
