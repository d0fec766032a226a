"""The register of cases, and the networks, fields and data that several rooms share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from repdyn.fields import LatentField
from repdyn.koopman import KoopmanAutoencoder
from repdyn.paths import RepresentationPaths


@dataclass(frozen=True)
class Case:
    run: Callable[[str], Any]
    covers: tuple[str, ...]
    tolerance: float


CASES: dict[str, Case] = {}


def case(*covers: str, tolerance: float = 1e-4) -> Callable[[Callable[[str], Any]], Callable[[str], Any]]:
    def add(run: Callable[[str], Any]) -> Callable[[str], Any]:
        CASES[run.__name__] = Case(run, covers, tolerance)
        return run

    return add


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def network(*widths: int, seed: int = 0) -> nn.Sequential:
    """Linear layers with a hyperbolic tangent between them, a contraction: its fields converge."""
    layers: list[nn.Module] = []
    generator = torch.Generator().manual_seed(seed)
    for before, after in pairwise(widths):
        layer = nn.Linear(before, after)
        with torch.no_grad():
            layer.weight.copy_(torch.randn(after, before, generator=generator) / before**0.5)
            layer.bias.copy_(0.1 * torch.randn(after, generator=generator))
        layers += [layer, nn.Tanh()]
    return nn.Sequential(*layers[:-1]).eval()


class Bistable(nn.Module):
    """Two attractors, at one and minus one along the first axis."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor([2.0, 0.4, 0.3]))

    def forward(self, z: Tensor) -> Tensor:
        return torch.tanh(self.gain * z)


def bistable(device: str) -> LatentField:
    return LatentField(Bistable().to(device))


def autoencoder(device: str) -> LatentField:
    return LatentField.from_autoencoder(
        network(6, 8, 3, seed=1).to(device), network(3, 8, 6, seed=2).to(device)
    )


def some_paths(samples: int = 120, width: int = 5, points: int = 3) -> RepresentationPaths:
    generator = np.random.default_rng(0)
    labels = generator.integers(3, size=samples)
    x = generator.standard_normal((samples, width)) + 3 * np.eye(3, width)[labels]
    turn = np.linalg.qr(generator.standard_normal((width, width)))[0]
    found = {}
    for number in range(points):
        found[f"p{number}"] = x.astype(np.float32)
        x = np.tanh(x @ turn)
    return RepresentationPaths.from_arrays(found, labels=labels)


def fitted_koopman(device: str) -> KoopmanAutoencoder:
    """Fitted on the CPU, so that all devices begin with the same weights."""
    kae = KoopmanAutoencoder(latent_dim=8, hidden=(8,)).fit(some_paths(), epochs=3)
    return kae.to(device)
