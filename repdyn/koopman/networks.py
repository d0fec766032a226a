"""Encoder and decoder of observables: a linear map that starts as PCA, plus a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from repdyn.errors import RepdynError
from repdyn.koopman.frames import PointFrames

__all__ = ["Lift", "PointDecoder", "PointEncoder", "load_weights"]


class Lift(nn.Module):
    """``f(u) = u S + mlp(u)``.

    The linear part starts at the leading principal components and the network near zero, or at the nonlinear
    observables of :mod:`repdyn.koopman.start`.

    Parameters
    ----------
    inputs, outputs
        Widths.
    hidden
        Widths of the hidden layers. An empty sequence gives a linear map.
    """

    def __init__(self, inputs: int, outputs: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        sizes = (inputs, *hidden, outputs)
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.LeakyReLU()]
        self.network = nn.Sequential(*layers[:-1]) if hidden else None

    @torch.no_grad()
    def start(self, weight: Tensor, scale: float) -> None:
        """Set the linear part to ``u -> u S``, ``(inputs, outputs)``, and scale the network's last layer."""
        self.linear.weight.copy_(weight.T)
        self.linear.bias.zero_()
        if self.network is not None:
            final = self.network[-1]
            assert isinstance(final, nn.Linear)
            final.weight.mul_(scale)
            final.bias.zero_()

    @torch.no_grad()
    def narrow(self, width: int) -> None:
        """Keep the first ``width`` units of the only hidden layer."""
        assert self.network is not None
        first, _, final = self.network
        assert isinstance(first, nn.Linear)
        assert isinstance(final, nn.Linear)
        first.weight, first.bias = nn.Parameter(first.weight[:width]), nn.Parameter(first.bias[:width])
        final.weight = nn.Parameter(final.weight[:, :width].contiguous())
        first.out_features = final.in_features = width

    def forward(self, u: Tensor) -> Tensor:
        """Shape ``(…, inputs)`` to ``(…, outputs)``."""
        linear: Tensor = self.linear(u)
        return linear if self.network is None else linear + self.network(u)


class PointEncoder(nn.Module):
    """Encoder of one point: representations ``(…, width)`` to observables ``(…, latent_dim)``.

    Parameters
    ----------
    frames, encoder
        Modules of a Koopman autoencoder, shared with it.
    number
        Number of the point, in order of depth.
    """

    def __init__(self, frames: PointFrames, encoder: Lift, number: int) -> None:
        super().__init__()
        self.frames, self.encoder, self.number = frames, encoder, number

    def forward(self, x: Tensor) -> Tensor:
        """Observables ``(…, latent_dim)``, in the dtype of the weights."""
        z: Tensor = self.encoder(self.frames.lift(x, self.number))
        return z


class PointDecoder(nn.Module):
    """Decoder of one point: observables ``(…, latent_dim)`` to representations ``(…, width)``.

    Parameters
    ----------
    frames, decoder
        Modules of a Koopman autoencoder, shared with it.
    number
        Number of the point, in order of depth.
    """

    def __init__(self, frames: PointFrames, decoder: Lift, number: int) -> None:
        super().__init__()
        self.frames, self.decoder, self.number = frames, decoder, number

    def forward(self, z: Tensor) -> Tensor:
        """Representations ``(…, width)``, in the dtype of the weights."""
        u: Tensor = self.decoder(z.to(self.frames.scale.dtype))
        return self.frames.lower(u, self.number)


def load_weights(model: nn.Module, tensors: Mapping[str, NDArray[Any]], path: Any) -> None:
    """Load saved arrays into a network.

    Parameters
    ----------
    model
        Set in place.
    tensors
        Arrays by the names of ``model.state_dict()``.
    path
        Folder that they were read from, for the error message.

    Raises
    ------
    RepdynError
        If a name, shape or type differs, or a value is not finite.
    """
    try:
        for name, own in model.state_dict().items():
            kind = np.asarray(tensors.get(name, 0.0)).dtype.kind
            if name in tensors and (kind == "f") != own.dtype.is_floating_point:
                raise RuntimeError(f"{name} holds {tensors[name].dtype}, expected {own.dtype}")
            if name in tensors and not np.isfinite(tensors[name]).all():
                raise RuntimeError(f"{name} holds values that are not finite")
        model.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in tensors.items()})
    except RuntimeError as error:
        raise RepdynError(
            f"{path}: the weights do not match config.json: {' '.join(str(error).split())}"
        ) from None
