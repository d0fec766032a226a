"""Small networks that several studies train here: digits, how they are trained, and what is kept of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from harness import made_once
from numpy.typing import NDArray
from pretrained_autoencoders import LATENTS, VaeEncoder
from safetensors.torch import load_file, save_file
from stored_pictures import labeled_digits
from torch import Tensor, nn

from repdyn.progress import track

__all__ = [
    "autoencoder",
    "classifier",
    "digits",
    "divergence",
    "dsprites_vae",
    "layers",
    "minimize",
    "networks",
    "sampled",
    "trained",
    "trained_once",
]

HIDDEN = (256, 128)
BATCH = 256
RATE = 1e-3
Loss = Callable[[Tensor, torch.Generator], Tensor]
"""From the numbers of a batch's rows, and what random numbers are drawn from, to a loss."""


def digits(split: str, count: int | None = None) -> Tensor:
    """Pictures of one split (``"train"`` or ``"test"``) as rows of values in [0, 1], ``(N, 784)``."""
    pictures = labeled_digits("mnist", split)[0][:count]
    return torch.from_numpy(pictures.reshape(len(pictures), -1)).float() / 255


def layers(*widths: int) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    found: list[nn.Module] = []
    for wide_in, wide_out in pairwise(widths):
        found += [nn.Linear(wide_in, wide_out), nn.ReLU()]
    return nn.Sequential(*found[:-1])


def minimize(
    parts: Sequence[nn.Module],
    loss: Loss,
    count: int,
    epochs: int,
    seed: int,
    *,
    batch: int = BATCH,
    decay: float = 0.0,
    after: Callable[[int], object] = lambda epoch: None,
) -> None:
    """Minimize a loss of batches of ``count`` rows by Adam.

    Parameters
    ----------
    parts
        Networks whose parameters change.
    loss
        Function of a batch.
    count, epochs, batch
        Rows, passes over all of them, and rows of a batch.
    seed
        Of the batches and of what the loss draws.
    decay
        Weight decay.
    after
        Called with the number of epochs that are done, after each.
    """
    optimizer = torch.optim.Adam([p for part in parts for p in part.parameters()], RATE, weight_decay=decay)
    draw = torch.Generator().manual_seed(seed)
    for epoch in track(range(epochs), "training a small network"):
        for rows in torch.randperm(count, generator=draw).split(batch):
            optimizer.zero_grad()
            loss(rows, draw).backward()
            optimizer.step()
        after(epoch + 1)


def trained_once(network: nn.Module, file: Path | None, train: Callable[[], object]) -> None:
    """Give a network the weights of a file, which is made by training it where there is none."""
    if file is None:
        train()
    else:
        made_once(file, lambda scratch: (train(), save_file(network.state_dict(), scratch)))
        network.load_state_dict(load_file(file))
    network.eval().requires_grad_(False)


def networks(width: int, seed: int) -> tuple[nn.Sequential, nn.Sequential]:
    """Encoder 784-256-128-``width`` and its mirror with a sigmoid at the end, before any training."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return layers(784, *HIDDEN, width), nn.Sequential(*layers(width, *HIDDEN[::-1], 784), nn.Sigmoid())


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

    def loss(rows: Tensor, draw: torch.Generator) -> Tensor:
        x = pictures[rows]
        seen = x + noise * torch.randn(x.shape, generator=draw) if noise else x
        return (decoder(encoder(seen)) - x).square().mean()

    def after(epoch: int) -> None:
        if watch is not None:
            watch(epoch, encoder, decoder)

    def train() -> None:
        after(0)
        minimize((encoder, decoder), loss, len(pictures), epochs, seed, decay=decay, after=after)

    trained_once(nn.ModuleList([encoder, decoder]), cache, train)
    return encoder, decoder


def autoencoder(seed: int, pictures: NDArray[np.float32], cache: Path) -> nn.Sequential:
    """The encoder of a fully connected auto-encoder of MNIST with 32 latents, trained from this seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = nn.Sequential(nn.Flatten(), *layers(784, *HIDDEN, 32))
        decoder = layers(32, *HIDDEN[::-1], 784)
    x = torch.as_tensor(pictures).flatten(1)

    def loss(rows: Tensor, _: torch.Generator) -> Tensor:
        return nn.functional.mse_loss(decoder(encoder(x[rows])), x[rows])

    file = cache / f"autoencoder{seed}.safetensors"
    trained_once(encoder, file, lambda: minimize((encoder, decoder), loss, len(x), 6, seed))
    return encoder


def classifier(
    seed: int, pictures: NDArray[np.float32], labels: NDArray[np.int64], cache: Path
) -> nn.Sequential:
    """The body of a classifier of MNIST; the width of its hidden layers depends on the seed."""
    with torch.random.fork_rng():
        torch.manual_seed(100 + seed)
        body = nn.Sequential(nn.Flatten(), *layers(784, (256, 192)[seed % 2], 64), nn.ReLU())
        head = nn.Linear(64, 10)
    x, y = torch.as_tensor(pictures).flatten(1), torch.as_tensor(labels)

    def loss(rows: Tensor, _: torch.Generator) -> Tensor:
        return nn.functional.cross_entropy(head(body(x[rows])), y[rows])

    file = cache / f"classifier{seed}.safetensors"
    trained_once(body, file, lambda: minimize((body, head), loss, len(x), 4, seed))
    return body


def sampled(mean: Tensor, spread: Tensor, draw: torch.Generator) -> Tensor:
    """Latents of a VAE from means and log-variances."""
    return mean + torch.exp(spread / 2) * torch.randn(mean.shape, generator=draw)


def divergence(mean: Tensor, spread: Tensor) -> Tensor:
    """Twice the divergence of the latents from the prior, by coordinate."""
    return mean**2 + spread.exp() - spread - 1


def dsprites_vae(pictures: NDArray[np.float32], cache: Path) -> VaeEncoder:
    """The encoder for 64 pixels trained here, with a fully connected decoder: another VAE of dSprites."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder, decoder = VaeEncoder(64), layers(LATENTS, 256, 512, 64 * 64)
    x = torch.as_tensor(pictures)

    def loss(rows: Tensor, draw: torch.Generator) -> Tensor:
        mean, spread = encoder.both(x[rows])
        rebuilt, seen = decoder(sampled(mean, spread, draw)), x[rows].flatten(1)
        error = nn.functional.binary_cross_entropy_with_logits(rebuilt, seen, reduction="sum")
        return (error + 0.5 * divergence(mean, spread).sum()) / len(rows)

    file = cache / "vae_dsprites_own.safetensors"
    trained_once(encoder, file, lambda: minimize((encoder, decoder), loss, len(x), 8, 0, batch=64))
    return encoder
