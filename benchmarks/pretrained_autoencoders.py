"""Published auto-encoders, as their authors' weights want them: Burgess et al.'s VAE, and TAEF2.

Weights are read from ``models`` in the data folder; nothing is trained here.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from harness import data
from safetensors.torch import load_file
from stored_pictures import jpegs, labeled_digits
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["LATENTS", "BurgessVAE", "Taef2", "VaeEncoder", "cifar", "padded_digits"]

LATENTS = 10
"""Of the VAEs."""


class VaeEncoder(nn.Module):
    """The encoder of Burgess et al. (2018), arXiv 1804.03599, for 32 or 64 pixels: means of ten latents."""

    def __init__(self, side: int, channels: int = 1) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(channels, 32, 4, 2, 1), nn.Conv2d(32, 32, 4, 2, 1)
        self.conv3 = nn.Conv2d(32, 32, 4, 2, 1)
        self.conv_64 = nn.Conv2d(32, 32, 4, 2, 1) if side == 64 else None
        self.lin1, self.lin2 = nn.Linear(512, 256), nn.Linear(256, 256)
        self.mu_logvar_gen = nn.Linear(256, 2 * LATENTS)
        self.mean = nn.Identity()

    @classmethod
    def of(cls, file: Path) -> VaeEncoder:
        """With the weights of a file of :class:`BurgessVAE`."""
        state = {k.removeprefix("encoder."): v for k, v in load_file(file).items() if "encoder." in k}
        found = cls(64 if "conv_64.weight" in state else 32, state["conv1.weight"].shape[1])
        found.load_state_dict(state)
        return found.eval().requires_grad_(False)

    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures in [0, 1] to means and log-variances, ``(N, 10)``."""
        for layer in (self.conv1, self.conv2, self.conv3, self.conv_64):
            x = x if layer is None else torch.relu(layer(x))
        x = torch.relu(self.lin2(torch.relu(self.lin1(x.flatten(1)))))
        mean, spread = self.mu_logvar_gen(x).view(-1, LATENTS, 2).unbind(-1)
        return self.mean(mean), spread

    def forward(self, x: Tensor) -> Tensor:
        return self.both(x)[0]


class BurgessVAE(nn.Module):
    """The auto-encoder of Burgess et al. (2018), arXiv 1804.03599; a code is the mean of ten latents.

    Parameters
    ----------
    file
        ``vae_mnist.safetensors`` or ``btcvae_mnist`` (1 x 32 x 32 pixels), ``vae_dsprites`` (1 x 64 x 64)
        or ``vae_celeba`` (3 x 64 x 64), as trained by YannDubs/disentangling-vae.
    """

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.encode = VaeEncoder.of(file)
        self.weights = load_file(file)
        self.names = [n for n in ("convT_64", "convT1", "convT2", "convT3") if self._has(f"decoder.{n}")]

    def decode(self, z: Tensor) -> Tensor:
        """Codes to pictures in [0, 1]."""
        for name in ("lin1", "lin2", "lin3"):
            z = functional.linear(z, *self._of(f"decoder.{name}")).relu()
        z = z.reshape(-1, 32, 4, 4)
        for name in self.names:
            z = functional.conv_transpose2d(z, *self._of(f"decoder.{name}"), stride=2, padding=1)
            z = z.sigmoid() if name == self.names[-1] else z.relu()
        return z

    def _has(self, name: str) -> bool:
        return f"{name}.weight" in self.weights

    def _of(self, name: str) -> tuple[Tensor, Tensor]:
        return self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]


class _Block(nn.Module):
    """Three convolutions beside a skip; in the middle of the network a normalized branch is added before."""

    def __init__(self, pooled: bool) -> None:
        super().__init__()
        steps: list[nn.Module] = []
        for _ in range(3):
            steps += [nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()]
        self.conv = nn.Sequential(*steps[:-1])
        self.pool = (
            nn.Sequential(
                nn.Conv2d(64, 256, 1, bias=False),
                nn.GroupNorm(4, 256),
                nn.ReLU(),
                nn.Conv2d(256, 64, 1, bias=False),
            )
            if pooled
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.pool is None else x + self.pool(x)
        return torch.relu(self.conv(x) + x)


class _Bounded(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return 3 * torch.tanh(z / 3)


class Taef2(nn.Module):
    """TAEF2 (madebyollin/taesd, variant flux_2): 3 x 8 h x 8 w pixels to 32 x h x w latents, codes flattened.

    Parameters
    ----------
    folder
        Holds ``taef2_encoder.safetensors`` and ``taef2_decoder.safetensors``.
    size
        Pixels on a side, a multiple of 8.
    """

    def __init__(self, folder: Path, size: int) -> None:
        super().__init__()
        self.side = size // 8
        down: list[nn.Module] = [nn.Conv2d(3, 64, 3, padding=1), _Block(False)]
        up: list[nn.Module] = [_Bounded(), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU()]
        for stage in range(3):
            down.append(nn.Conv2d(64, 64, 3, stride=2, padding=1, bias=False))
            down += [_Block(stage == 2) for _ in range(3)]
            up += [_Block(stage == 0) for _ in range(3)]
            up += [nn.Upsample(scale_factor=2), nn.Conv2d(64, 64, 3, padding=1, bias=False)]
        self.encoder = nn.Sequential(*down, nn.Conv2d(64, 32, 3, padding=1))
        self.decoder = nn.Sequential(*up, _Block(False), nn.Conv2d(64, 3, 3, padding=1))
        for name in ("encoder", "decoder"):
            state = load_file(str(folder / f"taef2_{name}.safetensors"))
            getattr(self, name).load_state_dict({key: value.float() for key, value in state.items()})
        self.eval().requires_grad_(False)

    def encode(self, x: Tensor) -> Tensor:
        """Pictures in [0, 1] to codes, ``(N, 32 h w)``."""
        found: Tensor = self.encoder(x)
        return found.flatten(1)

    def decode(self, z: Tensor) -> Tensor:
        """Codes to pictures."""
        found: Tensor = self.decoder(z.reshape(-1, 32, self.side, self.side))
        return found


def padded_digits(split: str, count: int) -> Tensor:
    """MNIST at 32 pixels, bilinear, as the VAEs were trained on it, ``(N, 1, 32, 32)`` in [0, 1]."""
    x = torch.from_numpy(labeled_digits("mnist", split)[0][:count]).float()[:, None] / 255
    return functional.interpolate(x, size=32, mode="bilinear", align_corners=False)


def cifar(split: str, count: int) -> Tensor:
    """CIFAR-10 from its JPEG copies, ``(N, 3, 32, 32)`` in [0, 1], drawn evenly over the classes."""
    opened = jpegs(data("images", "cifar10_jpeg.npz"), f"_{split}", count, evenly=True)
    return torch.from_numpy(np.stack(list(map(np.asarray, opened)))).permute(0, 3, 1, 2).float() / 255
