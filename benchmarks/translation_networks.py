"""Small networks of the translation study: trained here, one per seed, or by others and loaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import repdyn
from repdyn.tracing import TracedModel

__all__ = ["autoencoder", "classifier", "dsprites_vae", "vae", "with_random_weights"]

Floats = NDArray[np.float32]

LATENTS = 10
"""Of the VAEs."""

VAE_EPOCHS = 8


def autoencoder(seed: int, pictures: Floats, cache: Path) -> TracedModel:
    """A fully connected auto-encoder of MNIST with 32 latents, trained from this seed."""
    from safetensors.torch import load_file, save_file

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = nn.Sequential(
            nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 32)
        )
        decoder = nn.Sequential(
            nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 784)
        )
    file = cache / f"autoencoder{seed}.safetensors"
    if file.exists():
        encoder.load_state_dict(load_file(str(file)))
    else:
        x = torch.as_tensor(pictures).flatten(1)
        optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], 1e-3)
        draw = torch.Generator().manual_seed(seed)
        for _ in range(6):
            for rows in torch.randperm(len(x), generator=draw).split(256):
                optimizer.zero_grad()
                loss = nn.functional.mse_loss(decoder(encoder(x[rows])), x[rows])
                loss.backward()
                optimizer.step()
        save_file(encoder.state_dict(), str(file))
    return repdyn.wrap(encoder.eval(), points={"1": "NC", "3": "NC", "5": "NC"})


def classifier(seed: int, pictures: Floats, labels: NDArray[np.int64], cache: Path) -> TracedModel:
    """A fully connected classifier of MNIST; the width of its hidden layers depends on the seed."""
    from safetensors.torch import load_file, save_file

    width = (256, 192)[seed % 2]
    with torch.random.fork_rng():
        torch.manual_seed(100 + seed)
        body = nn.Sequential(nn.Flatten(), nn.Linear(784, width), nn.ReLU(), nn.Linear(width, 64), nn.ReLU())
        head = nn.Linear(64, 10)
    file = cache / f"classifier{seed}.safetensors"
    if file.exists():
        body.load_state_dict(load_file(str(file)))
    else:
        x, y = torch.as_tensor(pictures).flatten(1), torch.as_tensor(labels)
        optimizer = torch.optim.Adam([*body.parameters(), *head.parameters()], 1e-3)
        draw = torch.Generator().manual_seed(seed)
        for _ in range(4):
            for rows in torch.randperm(len(x), generator=draw).split(256):
                optimizer.zero_grad()
                nn.functional.cross_entropy(head(body(x[rows])), y[rows]).backward()
                optimizer.step()
        save_file(body.state_dict(), str(file))
    return repdyn.wrap(body.eval(), points={"1": "NC", "3": "NC"})


def with_random_weights(model: TracedModel) -> TracedModel:
    """Every weight redrawn with its own mean and deviation: nothing that was learned is left."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.module.parameters():
            noise = torch.randn(weight.shape, generator=draw)
            spread = weight.float().std() if weight.numel() > 1 else torch.tensor(0.0)
            weight.copy_(weight.float().mean() + spread * noise)
    return model


class VaeEncoder(nn.Module):
    """Burgess et al.'s encoder for 32 or 64 pixels; gives the means of ten latents."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 32, 4, 2, 1), nn.Conv2d(32, 32, 4, 2, 1)
        self.conv3 = nn.Conv2d(32, 32, 4, 2, 1)
        self.conv_64 = nn.Conv2d(32, 32, 4, 2, 1) if side == 64 else None
        self.lin1, self.lin2 = nn.Linear(512, 256), nn.Linear(256, 256)
        self.mu_logvar_gen = nn.Linear(256, 2 * LATENTS)
        self.mean = nn.Identity()

    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Means and log-variances."""
        for layer in (self.conv1, self.conv2, self.conv3):
            x = torch.relu(layer(x))
        if self.conv_64 is not None:
            x = torch.relu(self.conv_64(x))
        x = torch.relu(self.lin2(torch.relu(self.lin1(x.flatten(1)))))
        mean, spread = self.mu_logvar_gen(x).view(-1, LATENTS, 2).unbind(-1)
        return self.mean(mean), spread

    def forward(self, x: Tensor) -> Tensor:
        return self.both(x)[0]


VAE_POINTS = {"lin1": "NC", "lin2": "NC", "mean": "NC"}


def vae(file: Path) -> TracedModel:
    """The encoder of a VAE that others have trained."""
    from safetensors.torch import load_file

    state = {k.removeprefix("encoder."): v for k, v in load_file(str(file)).items() if "encoder." in k}
    network = VaeEncoder(64 if "conv_64.weight" in state else 32)
    network.load_state_dict(state)
    return repdyn.wrap(network.eval(), points=VAE_POINTS)


def dsprites_vae(pictures: Floats, cache: Path) -> TracedModel:
    """The encoder for 64 pixels trained here, with a fully connected decoder: another VAE of dSprites."""
    from safetensors.torch import load_file, save_file

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = VaeEncoder(64)
        decoder = nn.Sequential(
            nn.Linear(LATENTS, 256), nn.ReLU(), nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 64 * 64)
        )
    file = cache / "vae_dsprites_own.safetensors"
    if file.exists():
        network.load_state_dict(load_file(str(file)))
    else:
        x = torch.as_tensor(pictures)
        optimizer = torch.optim.Adam([*network.parameters(), *decoder.parameters()], 1e-3)
        draw = torch.Generator().manual_seed(0)
        for _ in range(VAE_EPOCHS):
            for rows in torch.randperm(len(x), generator=draw).split(64):
                optimizer.zero_grad()
                mean, spread = network.both(x[rows])
                z = mean + torch.exp(spread / 2) * torch.randn(mean.shape, generator=draw)
                told = nn.functional.binary_cross_entropy_with_logits(
                    decoder(z), x[rows].flatten(1), reduction="sum"
                )
                divergence = 0.5 * (mean**2 + spread.exp() - spread - 1).sum()
                ((told + divergence) / len(rows)).backward()
                optimizer.step()
        save_file(network.state_dict(), str(file))
    return repdyn.wrap(network.eval(), points=VAE_POINTS)
