"""The networks of SKD and SSM-SKD: encoder and decoder of sequences, in the units that they work in.

:class:`SequenceAutoencoder` holds settings, networks and buffers. Training works on it, and the public models
(:mod:`repdyn.disentangle.models`) derive from it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from repdyn.arguments import whole
from repdyn.disentangle.losses import LossWeights
from repdyn.errors import RepdynError, nearest_names
from repdyn.koopman.frames import PointFrames
from repdyn.seeding import drawing

__all__ = [
    "EXTRACTIONS",
    "FrameDecoder",
    "FrameEncoder",
    "SequenceAutoencoder",
    "SequenceDecoder",
    "SequenceEncoder",
]

EXTRACTIONS = ("eigenvector", "coordinate")
_SLOPE = 0.2  # of LeakyReLU, as published
_CHANNELS = (32, 64, 128, 256)  # convolutions of a clip's encoder, as published


class SequenceAutoencoder(nn.Module):
    """Settings, networks and buffers of a model; see :class:`repdyn.disentangle.models.StructuredKoopman`."""

    operator: ClassVar[str]
    frame_: tuple[int, ...]
    encoder_: SequenceEncoder
    decoder_: SequenceDecoder
    frames_: PointFrames | None
    operator_: Tensor
    mean_: Tensor
    scale_: Tensor
    history_: Mapping[str, list[float]]
    best_epoch_: int

    def __init__(
        self,
        static_dim: int,
        latent_dim: int,
        hidden: int,
        channels: Sequence[int] | None,
        extraction: str,
        threshold: float,
        weights: LossWeights,
    ) -> None:
        super().__init__()
        self.static_dim = static_dim
        self.latent_dim = latent_dim
        self.hidden = hidden
        self.channels = None if channels is None else tuple(channels)
        self.extraction = extraction
        self.threshold = threshold
        self.weights = weights

    def build(self, frame: Sequence[int], widths: Mapping[str, int] | None, seed: int) -> None:
        """Create the untrained networks and buffers; :meth:`fit` and loading call it.

        Parameters
        ----------
        frame
            Shape of a frame: ``(width,)``, or ``(channels, height, width)``.
        widths
            Widths of the points of paths, or None for other sequences.
        seed
            Of the weights.
        """
        self._check_settings(frame)
        self.frame_ = tuple(frame)
        default = _CHANNELS if len(frame) == 3 else (self.hidden,)
        channels = default if self.channels is None else self.channels
        with drawing(seed):
            self.encoder_ = SequenceEncoder(self.frame_, self.latent_dim, channels)
            self.decoder_ = SequenceDecoder(self.frame_, self.latent_dim, self.hidden, channels)
        self.frames_ = None if widths is None else PointFrames(widths)
        self.register_buffer(
            "operator_", torch.zeros(1, self.latent_dim, self.latent_dim, dtype=torch.float64)
        )
        self.register_buffer("mean_", torch.zeros(self.frame_))
        self.register_buffer("scale_", torch.ones(()))

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.mean_.device

    def standardize(self, x: Tensor) -> Tensor:
        """Data in the units of the networks: vectors centered and scaled, pixels unchanged."""
        return (x - self.mean_) / self.scale_

    def restore_scale(self, x: Tensor) -> Tensor:
        """The inverse of :meth:`standardize`."""
        return x * self.scale_ + self.mean_

    def _check_fitted(self) -> None:
        """Raise an error for a model that is not fitted."""
        if not hasattr(self, "frame_"):
            raise RepdynError(f"this {type(self).__name__} is not fitted yet; call fit(sequences) first")

    def _check_settings(self, frame: Sequence[int]) -> None:
        """Raise an error that names a setting out of range, given the shape of a frame."""
        sizes = {"latent_dim": self.latent_dim, "hidden": self.hidden, "static_dim": self.static_dim}
        for name, size in sizes.items():
            setattr(self, name, whole(name, size))
        if self.latent_dim < 1 or self.hidden < 1 or any(width < 1 for width in self.channels or ()):
            raise RepdynError(
                f"latent_dim, hidden and channels must be positive, got {self.latent_dim}, {self.hidden} and "
                f"{self.channels}"
            )
        if not 1 <= self.static_dim <= self.latent_dim:
            raise RepdynError(
                f"static_dim={self.static_dim} must be from 1 to latent_dim={self.latent_dim}, the "
                "number of eigenvalues"
            )
        if self.extraction not in EXTRACTIONS:
            raise RepdynError(
                f"there is no extraction {self.extraction!r}; {nearest_names(self.extraction, EXTRACTIONS)}"
            )
        if self.weights.constancy and self.static_dim != 1:
            raise RepdynError(
                f"the constancy loss needs one static mode, and static_dim is {self.static_dim}; set it to "
                "1, or the weight of the loss to 0"
            )
        if len(frame) == 3:
            step = 1 << len(self.channels or _CHANNELS)
            if frame[1] % step or frame[2] % step:
                raise RepdynError(
                    f"frames are {frame[1]}×{frame[2]} pixels; {step} must divide both, because each "
                    "convolution halves them: resize the clips, or give fewer channels"
                )


class SequenceEncoder(nn.Module):
    """A frame encoder with k features in (-1, 1), then an LSTM over time with latents of width k.

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

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Latents ``(B, T, k)`` of sequences ``(B, T, …)``; padding is not read. All frames are real if None.

        Under autocast, only the frame encoder is of lower precision: operators are solved from latents, and
        their eigenvalues amplify rounding.
        """
        if mask is None:  # selecting frames would copy all of them
            rows = self.frames(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        else:
            features = self.frames(x[mask])
            rows = features.new_zeros(*mask.shape, features.shape[1])
            rows[mask] = features
        with torch.autocast(x.device.type, enabled=False):
            latents: Tensor = self.recurrent(rows.to(x.dtype))[0]
        return latents


class SequenceDecoder(nn.Module):
    """An LSTM over time from latents to ``hidden`` features, then a frame decoder to the data.

    Parameters
    ----------
    frame
        Shape of a frame.
    latent_dim
        k.
    hidden
        Width of the LSTM.
    channels
        As for the encoder, in reverse order.
    """

    def __init__(self, frame: Sequence[int], latent_dim: int, hidden: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.recurrent = nn.LSTM(latent_dim, hidden, batch_first=True)
        self.frames = FrameDecoder(frame, hidden, channels)

    def forward(self, z: Tensor) -> Tensor:
        """Sequences ``(B, T, …)`` from latents ``(B, T, k)``."""
        with torch.autocast(z.device.type, enabled=False):
            rows = self.recurrent(z)[0]
        frames: Tensor = self.frames(rows.flatten(0, 1)).to(z.dtype)
        return frames.reshape(*rows.shape[:2], *frames.shape[1:])


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
            # The last published convolution covers the remaining frame, so it is a linear layer. Its batch
            # norm has one value for each frame and feature, so it needs several frames.
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
