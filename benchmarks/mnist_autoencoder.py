"""The small MNIST auto-encoder that several benchmarks share: its data, its training, its cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from harness import data
from torch import Tensor, nn

from repdyn.progress import track

__all__ = ["digits", "networks", "trained"]

HIDDEN = (256, 128)
BATCH = 256
RATE = 1e-3


def digits(split: str, count: int | None = None) -> Tensor:
    """Pictures of one split (``"train"`` or ``"test"``) as rows of values in [0, 1], ``(N, 784)``."""
    with np.load(data("images", "mnist.npz")) as file:
        pictures = file[f"x_{split}"][:count]
    return torch.from_numpy(pictures.reshape(len(pictures), -1)).float() / 255


def networks(width: int, seed: int) -> tuple[nn.Sequential, nn.Sequential]:
    """Encoder 784-256-128-``width`` and its mirror with a sigmoid at the end, before any training."""
    first, second = HIDDEN
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = nn.Sequential(
            nn.Linear(784, first), nn.ReLU(), nn.Linear(first, second), nn.ReLU(), nn.Linear(second, width)
        )
        decoder = nn.Sequential(
            nn.Linear(width, second), nn.ReLU(), nn.Linear(second, first), nn.ReLU(),
            nn.Linear(first, 784), nn.Sigmoid(),
        )  # fmt: skip
    return encoder, decoder


def trained(
    pictures: Tensor,
    width: int,
    epochs: int,
    seed: int,
    *,
    decay: float = 0.0,
    noise: float = 0.0,
    watch: Callable[[int, nn.Module, nn.Module], object] | None = None,
    cache: Path | None = None,
) -> tuple[nn.Sequential, nn.Sequential]:
    """The two networks after training on squared error by Adam, frozen and in evaluation mode.

    Parameters
    ----------
    pictures
        Training data, shape ``(N, 784)``.
    width
        Of the code.
    epochs, seed
        Of the training.
    decay
        Weight decay.
    noise
        Standard deviation of what is added to the inputs, not to the targets.
    watch
        Called with the epoch and both networks before the first epoch and after every one.
    cache
        Weights are read from this file where it exists, and kept there where it does not.
    """
    encoder, decoder = networks(width, seed)
    both = nn.ModuleList([encoder, decoder])
    if cache is not None and cache.is_file():
        both.load_state_dict(torch.load(cache, weights_only=True))
    else:
        _train(pictures, encoder, decoder, epochs, seed, decay, noise, watch)
        if cache is not None:
            torch.save(both.state_dict(), cache)
    both.eval().requires_grad_(False)
    return encoder, decoder


def _train(
    pictures: Tensor,
    encoder: nn.Module,
    decoder: nn.Module,
    epochs: int,
    seed: int,
    decay: float,
    noise: float,
    watch: Callable[[int, nn.Module, nn.Module], object] | None,
) -> None:
    optimiser = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], RATE, weight_decay=decay)
    generator = torch.Generator().manual_seed(seed)
    for epoch in track(range(epochs), "training an auto-encoder"):
        if watch is not None and epoch == 0:
            watch(0, encoder, decoder)
        for batch in torch.randperm(len(pictures), generator=generator).split(BATCH):
            x = pictures[batch]
            seen = x + noise * torch.randn(x.shape, generator=generator) if noise else x
            loss = (decoder(encoder(seen)) - x).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        if watch is not None:
            watch(epoch + 1, encoder, decoder)
