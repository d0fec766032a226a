"""The CIFAR ResNets of He et al. (2015), traced models with the weights of the shared folder.

Shortcuts are of option A: every second pixel, channels padded with zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from harness import data
from torch import nn

import repdyn
from repdyn.tracing import TracedModel

__all__ = ["cifar_resnet"]

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def cifar_resnet(depth: int) -> TracedModel:
    """ResNet-20 or -44: its points are all blocks, its head the linear layer.

    Parameters
    ----------
    depth
        Layers, 6 n + 2; the weights are ``models/cifar_resnet{depth}.safetensors`` of the shared folder.
    """
    from safetensors.torch import load_file
    from torchvision.transforms.functional import normalize, to_tensor

    module = ResNet(depth)
    module.load_state_dict(load_file(data("models", f"cifar_resnet{depth}.safetensors")))

    def prepare(pictures: Sequence[Any]) -> torch.Tensor:
        """PIL images, or arrays ``(32, 32, 3)`` of bytes."""
        return torch.stack([normalize(to_tensor(picture), MEAN, STD) for picture in pictures])

    layers = [f"layer{n}.{k}" for n in (1, 2, 3) for k in range((depth - 2) // 6)]
    points = {**dict.fromkeys(layers, "NCHW"), "layer3": "NCHW"}
    name = f"cifar-resnet{depth}"
    traced = repdyn.wrap(module.eval(), prepare=prepare, head=module.linear, points=points)
    return replace(traced, name=name)


class ResNet(nn.Module):
    """Three stages of basic blocks, 16, 32 and 64 channels wide."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        wide = 16
        for number, width in enumerate((16, 32, 64), start=1):
            blocks = []
            for k in range((depth - 2) // 6):
                blocks.append(Block(wide, width, 2 if number > 1 and k == 0 else 1))
                wide = width
            setattr(self, f"layer{number}", nn.Sequential(*blocks))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


class Block(nn.Module):
    """A basic block; where it widens, its shortcut drops every second pixel and pads channels."""

    def __init__(self, wide_in: int, wide: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(wide_in, wide, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(wide)
        self.conv2 = nn.Conv2d(wide, wide, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(wide)
        self.stride, self.padding = stride, (wide - wide_in) // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        short = x[:, :, :: self.stride, :: self.stride]
        short = nn.functional.pad(short, (0, 0, 0, 0, self.padding, self.padding))
        return torch.relu(y + short)
