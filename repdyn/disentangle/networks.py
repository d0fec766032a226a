"""Encoders and decoders of sequences: convolutions for clips, a perceptron for vectors, then an LSTM."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

__all__ = ["FrameDecoder", "FrameEncoder", "SequenceDecoder", "SequenceEncoder", "smallest_side"]

_SLOPE = 0.2  # of LeakyReLU, as published


class SequenceEncoder(nn.Module):
    """Frame by frame to k features in (-1, 1), then an LSTM over time to latents of width k.

    Parameters
    ----------
    frame
        Shape of a frame: ``(width,)``, or ``(channels, height, width)``.
    latent_dim
        k.
    channels
        Widths of the convolutions, or of the perceptron's hidden layers.
    """

    def __init__(self, frame: Sequence[int], latent_dim: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.frames = FrameEncoder(frame, latent_dim, channels)
        self.recurrent = nn.LSTM(latent_dim, latent_dim, batch_first=True)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Latents ``(B, T, k)`` of sequences ``(B, T, …)``; frames that are not real are never looked at."""
        if mask.all():  # nothing to pick out, and picking copies all there is
            rows = self.frames(x.flatten(0, 1)).unflatten(0, mask.shape)
        else:
            features = self.frames(x[mask])
            rows = features.new_zeros(*mask.shape, features.shape[1])
            rows[mask] = features
        latents: Tensor = self.recurrent(rows)[0]
        return latents


class SequenceDecoder(nn.Module):
    """An LSTM over time from latents to ``hidden`` features, then frame by frame to the data.

    Parameters
    ----------
    frame
        Shape of a frame.
    latent_dim
        k.
    hidden
        Width of the LSTM.
    channels
        As the encoder's; mirrored.
    """

    def __init__(self, frame: Sequence[int], latent_dim: int, hidden: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.recurrent = nn.LSTM(latent_dim, hidden, batch_first=True)
        self.frames = FrameDecoder(frame, hidden, channels)

    def forward(self, z: Tensor) -> Tensor:
        """Sequences ``(B, T, …)`` from latents ``(B, T, k)``."""
        rows = self.recurrent(z)[0]
        found: Tensor = self.frames(rows.flatten(0, 1))
        return found.reshape(*rows.shape[:2], *found.shape[1:])


class FrameEncoder(nn.Sequential):
    """Frames to features: strided 4×4 convolutions with batch norm and LeakyReLU, or linear layers; tanh."""

    def __init__(self, frame: Sequence[int], outputs: int, channels: Sequence[int]) -> None:
        layers: list[nn.Module] = []
        if len(frame) == 1:
            for before, after in pairwise((frame[0], *channels)):
                layers += [nn.Linear(before, after), nn.LeakyReLU(_SLOPE)]
            layers += [nn.Linear((frame[0], *channels)[-1], outputs), nn.Tanh()]
        else:
            for before, after in pairwise((frame[0], *channels)):
                layers += [
                    nn.Conv2d(before, after, 4, 2, 1),
                    nn.BatchNorm2d(after),
                    nn.LeakyReLU(_SLOPE),
                ]
            remaining = (frame[1] >> len(channels)) * (frame[2] >> len(channels))
            # The last of the published convolutions covers all that remains of a frame: it is linear. Its
            # batch norm sees one value for each frame and feature, so it needs several frames.
            layers += [nn.Flatten(), nn.Linear(channels[-1] * remaining, outputs)]
            layers += [nn.BatchNorm1d(outputs), nn.Tanh()]
        super().__init__(*layers)


class FrameDecoder(nn.Sequential):
    """The mirror of :class:`FrameEncoder`; clips end in a sigmoid, vectors in a linear layer."""

    def __init__(self, frame: Sequence[int], inputs: int, channels: Sequence[int]) -> None:
        layers: list[nn.Module] = []
        if len(frame) == 1:
            for before, after in pairwise((inputs, *reversed(channels))):
                layers += [nn.Linear(before, after), nn.LeakyReLU(_SLOPE)]
            layers += [nn.Linear((inputs, *reversed(channels))[-1], frame[0])]
        else:
            remaining = (channels[-1], frame[1] >> len(channels), frame[2] >> len(channels))
            layers += [nn.Linear(inputs, math.prod(remaining)), nn.Unflatten(1, remaining)]
            for before, after in pairwise((*reversed(channels), frame[0])):
                layers += [nn.BatchNorm2d(before), nn.LeakyReLU(_SLOPE)]
                layers += [nn.ConvTranspose2d(before, after, 4, 2, 1)]
            layers += [nn.Sigmoid()]
        super().__init__(*layers)


def smallest_side(channels: Sequence[int]) -> int:
    """Height and width of a frame must be multiples of this: each convolution halves them."""
    return 1 << len(channels)
