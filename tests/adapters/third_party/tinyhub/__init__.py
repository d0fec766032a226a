"""A model library that repdyn has never heard of: convolutional networks over small grey pictures."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["NAMES", "TinyNet", "pretrained"]

NAMES = {"two": 2, "three": 3}


class TinyNet(nn.Module):
    """A stem, some stages, a head."""

    def __init__(self, stages: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.stages = nn.ModuleList([nn.Sequential(nn.ReLU(), nn.Conv2d(8, 8, 3)) for _ in range(stages)])
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of ``(N, 1, H, W)`` pictures."""
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return self.head(x.mean(dim=(2, 3)))


def pretrained(name: str) -> TinyNet:
    """The network of a name, always with the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return TinyNet(NAMES[name]).eval()
