"""Encoder and decoder of observables: a linear map that starts as PCA, and a network beside it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from repdyn.devices import double
from repdyn.koopman.frames import PointFrames, principal_axes
from repdyn.koopman.states import States

__all__ = ["Lift", "PointDecoder", "PointEncoder", "start_at_principal_components"]

_START_ROWS = 20_000  # rows are enough to find where the encoder starts
_SMALL_START = 0.1  # the network begins as a tenth of its usual size, the linear part does the work at first


class Lift(nn.Module):
    """``f(u) = u S + mlp(u)``.

    A Koopman autoencoder is at least a linear model in the leading principal components (dynamic mode
    decomposition); started there, it only has to learn what that misses.

    Parameters
    ----------
    inputs, outputs
        Widths.
    hidden
        Widths of the hidden layers; none leaves the map linear.
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
    def start(self, weight: Tensor) -> None:
        """Set the linear part to ``u -> u S``, shape ``(inputs, outputs)``, and the network near zero."""
        self.linear.weight.copy_(weight.T)
        self.linear.bias.zero_()
        if self.network is not None:
            final = self.network[-1]
            assert isinstance(final, nn.Linear)
            final.weight.mul_(_SMALL_START)
            final.bias.zero_()

    def forward(self, u: Tensor) -> Tensor:
        """Shape ``(…, inputs)`` to ``(…, outputs)``."""
        straight: Tensor = self.linear(u)
        return straight if self.network is None else straight + self.network(u)


class PointEncoder(nn.Module):
    """Representations at one point ``(…, width)`` to observables ``(…, latent_dim)``, a module of its own.

    Parameters
    ----------
    frames, encoder
        Of a Koopman autoencoder, shared with it.
    number
        Depth of the point.
    """

    def __init__(self, frames: PointFrames, encoder: Lift, number: int) -> None:
        super().__init__()
        self.frames, self.encoder, self.number = frames, encoder, number

    def forward(self, x: Tensor) -> Tensor:
        """Observables, in the type of the weights."""
        found: Tensor = self.encoder(self.frames.lift(x, self.number))
        return found


class PointDecoder(nn.Module):
    """The way back: observables to representations at one point."""

    def __init__(self, frames: PointFrames, decoder: Lift, number: int) -> None:
        super().__init__()
        self.frames, self.decoder, self.number = frames, decoder, number

    def forward(self, z: Tensor) -> Tensor:
        """Representations, in the type of the weights."""
        u: Tensor = self.decoder(z.to(self.frames.scale.dtype))
        return self.frames.lower(u, self.number)


@torch.no_grad()
def start_at_principal_components(
    encoder: Lift, decoder: Lift, states: States, generator: torch.Generator
) -> None:
    """Begin encoder and decoder at the leading principal components of all points together.

    Parameters
    ----------
    encoder, decoder
        Set in place. Observables beyond the width of the state start at zero.
    states
        Lifted representations.
    generator
        Chooses the rows that are looked at, where there are many.
    """
    chosen = torch.randperm(states.points * states.samples, generator=generator)[:_START_ROWS]
    rows = states.at(chosen % states.samples, chosen // states.samples)
    observables = encoder.linear.out_features
    axes = principal_axes(double(rows), min(observables, rows.shape[1])).to(rows.dtype)
    weight = torch.zeros(rows.shape[1], observables, dtype=rows.dtype, device=rows.device)
    weight[:, : axes.shape[1]] = axes
    encoder.start(weight)
    decoder.start(weight.T)
