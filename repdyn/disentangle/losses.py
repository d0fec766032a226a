"""Losses of SKD and SSM-SKD: reconstruction, prediction, spectrum; and two that are not published."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from repdyn.devices import as_given, double
from repdyn.disentangle.settings import TRAINING
from repdyn.disentangle.spectral import (
    RealSchur,
    one_step,
    operators_of,
    spectral_loss,
    static_mode,
    static_modes,
)

__all__ = [
    "LOSSES",
    "LossWeights",
    "constancy_loss",
    "cycle_loss",
    "drop_latents",
    "dropout_masks",
    "exchange_static",
    "forward_operators",
    "masked_error",
    "motion_loss",
    "sequence_losses",
]

LOSSES = ("reconstruction", "prediction", "spectral", "constancy", "motion", "cycle")


@dataclass(frozen=True)
class LossWeights:
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
        :func:`constancy_loss`, through the differentiable static mode. 0 as published.
    motion
        :func:`motion_loss`, of sequences whose static parts were exchanged. 0 as published.
    cycle
        :func:`cycle_loss`, of the same sequences. 0 as published.
    """

    reconstruction: float = 16.0
    prediction: float = 1.0
    spectral: float = 1.0
    constancy: float = 0.0
    motion: float = 0.0
    cycle: float = 0.0

    @property
    def exchanges(self) -> bool:
        """Whether sequences with exchanged static parts are decoded."""
        return bool(self.motion or self.cycle)


def masked_error(x: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
    """Mean squared error over real frames, shapes ``(B, T, …)`` and ``(B, T)``; all are real if None."""
    if mask is None:
        return functional.mse_loss(x, target)
    return functional.mse_loss(x[mask], target[mask])


def constancy_loss(z: Tensor, mask: Tensor, operators: Tensor) -> Tensor:
    r"""Variance of the static representation within a clip, relative to its squared norm.

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
    # The left vector scales both sums equally, so the coordinate along the right vector suffices.
    coordinate = (double(z) @ right[..., None])[..., 0] * real
    count = real.sum(dim=1)
    mean = coordinate.sum(dim=1) / count
    moved = ((coordinate - mean[:, None]).square() * real).sum(dim=1)
    return (moved / (coordinate.square().sum(dim=1) + TRAINING.least_static)).mean()


def exchange_static(
    z: Tensor, mask: Tensor, operators: Tensor, static_dim: int, form: RealSchur | None = None
) -> tuple[Tensor, Tensor]:
    """Latents with the static part of the previous sequence, and the frames that are real in both.

    Projectors are constants: no gradient passes through eigenvectors. Shapes ``(B, T, k)`` and
    ``(B, T)``. ``form`` is the Schur form of the operators, if it is known.
    """
    projectors = as_given(static_modes(operators.detach(), static_dim, form).projectors, z)
    static = (z @ projectors) * mask[..., None]
    return z - static + static.roll(1, dims=0), mask & mask.roll(1, dims=0)


def motion_loss(exchanged: Tensor, x: Tensor, mask: Tensor) -> Tensor:
    r"""Change of the place of motion when the static part is exchanged.

    The motion map is :math:`m_t = |x_{t+1} - x_t| / (|x_{t+1} - x_t| + \tau)`, after a mean over channels. It
    is close to one wherever something changes, independent of brightness. The loss is :math:`1 - \langle
    \tilde m, m \rangle / (\|\tilde m\| \|m\|)` between a sequence and the exchanged one, mean over sequences.
    Without it, a factor that is constant in time but determines the motion (the direction that a figure
    faces) stays in the static part.

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
    after, before = (_moving(frames) * steps for frames in (exchanged, x))
    # Frames without motion have no direction; this keeps their cosine and its gradient finite.
    still = TRAINING.least_motion**2 * after[0].numel()
    sizes = [(moves.square().sum(dim=(1, 2)) + still).sqrt() for moves in (after, before)]
    return (1 - (after * before).sum(dim=(1, 2)) / (sizes[0] * sizes[1])).mean()


def cycle_loss(encoder: nn.Module, decoded: Tensor, exchanged: Tensor, mask: Tensor | None) -> Tensor:
    """Mean squared difference between exchanged latents and those of the sequences that they decode to.

    The encoder is held fixed, so that encoder and decoder cannot agree on a code that no picture shows.
    Without this loss, nothing but the place of motion is asked of an exchanged sequence, and the decoder need
    not know combinations of a static and a dynamic part that are not in the data.

    Parameters
    ----------
    encoder
        From sequences and mask to latents.
    decoded
        Sequences with exchanged static parts, shape ``(B, T, …)``.
    exchanged
        Their latents, shape ``(B, T, k)``; a constant.
    mask
        Which frames are real, shape ``(B, T)``; all if None.

    Returns
    -------
    Tensor
        A scalar.
    """
    fixed = {name: p.detach() for name, p in encoder.named_parameters()}
    fixed |= {name: buffer.detach().clone() for name, buffer in encoder.named_buffers()}
    again: Tensor = torch.func.functional_call(encoder, fixed, (decoded, mask))
    return masked_error(again, exchanged.detach(), mask)


def _moving(x: Tensor) -> Tensor:
    """Motion maps in [0, 1], shape ``(B, T - 1, pixels or coordinates)``."""
    change = (x[:, 1:] - x[:, :-1]).abs()
    if change.ndim == 5:
        change = change.mean(dim=2)
    change = change.flatten(2)
    return change / (change + TRAINING.faint_motion)


def sequence_losses(
    x: Tensor,
    z: Tensor,
    mask: Tensor,
    decoded: Tensor,
    predicted: tuple[Tensor, Tensor],
    operators: Tensor,
    static_dim: int,
    threshold: float,
    weights: LossWeights,
    *,
    full: bool = False,
    form: RealSchur | None = None,
) -> dict[str, Tensor]:
    """The weighted losses, by name.

    Parameters
    ----------
    x, z, mask
        Data ``(B, T, …)``, latents ``(B, T, k)`` and which frames are real ``(B, T)``.
    decoded
        Reconstruction from the latents after dropout.
    predicted
        Latents one step ahead, and the decoded ones.
    operators
        ``(1, k, k)`` or ``(B, k, k)``.
    static_dim, threshold
        Of the spectral loss.
    weights
        Their weights.
    full
        Whether all frames are known to be real.
    form
        Schur form of the operators, if it is known.
    """
    ahead, decoded_ahead = predicted
    real = None if full else mask
    losses = {
        "reconstruction": weights.reconstruction * masked_error(decoded, x, real),
        "prediction": weights.prediction
        / 2
        * (masked_error(decoded_ahead, x, real) + masked_error(ahead, z, real)),
        "spectral": weights.spectral * spectral_loss(operators, static_dim, threshold, form),
    }
    if weights.constancy:
        losses["constancy"] = weights.constancy * constancy_loss(z, mask, operators)
    return losses


def dropout_masks(shape: tuple[int, int, int], parts: int, generator: torch.Generator) -> Tensor:
    """Which latents ``(B, T, k)`` are kept in each of so many decoder passes, ``(parts, B, T, k)``.

    They are drawn on the CPU from a given generator, so that they are the same on every device and the global
    stream is left unchanged.
    """
    return torch.stack(
        [torch.rand(shape, generator=generator) >= TRAINING.latent_dropout for _ in range(parts)]
    )


def drop_latents(z: Tensor, kept: Tensor) -> Tensor:
    """Dropout of latents ``(B, T, k)``, given which are kept."""
    dropped: Tensor = z * kept / (1 - TRAINING.latent_dropout)
    return dropped


def forward_operators(z: Tensor, mask: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """Operators, and the latents ``(B, T, k)`` that they predict one step ahead."""
    operators = operators_of(z, mask, kind)
    return operators, one_step(z, operators)
