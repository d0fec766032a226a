"""Fitted detectors as torch modules: buffers only, to run beside the model and to be exported with it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn.functional import normalize

from repdyn.ood.calibration import tail
from repdyn.ood.crossfit import Density, RelativeDensity, TwofoldDensity
from repdyn.ood.gaussian import ShrunkGaussian
from repdyn.ood.orbits import orbit_features

__all__ = [
    "DensityModule",
    "EnergyModule",
    "GuidedEnergyModule",
    "NeighboursModule",
    "PathModule",
    "TrajectoryModule",
    "UnionModule",
]

TINY = 1e-12  # added under roots, so that a gradient at distance 0 is finite


class DensityModule(nn.Module):
    """Distance of a vector's direction, plain or relative to the background or both, ``(n, D) -> (n,)``.

    Both covariances are diagonal in one basis: with Wᵦ the whitener of the background and W_c that of the
    classes, Wᵦ⁻¹ W_c = U diag(s) Vᵀ, the background distance is ‖(x − c) Wᵦ U‖ and a class distance the
    same vector scaled by s. So one matrix product serves both.
    """

    whitener: Tensor
    centre: Tensor
    scale: Tensor
    means: Tensor

    def __init__(self, density: Density) -> None:
        super().__init__()
        self.spread = density.spread if isinstance(density, TwofoldDensity) else None
        if isinstance(density, TwofoldDensity):
            density = density.relative
        self.relative = isinstance(density, RelativeDensity)
        if isinstance(density, RelativeDensity):
            whitener, near = density.background.whitener, density.conditional
            left, scale, right = np.linalg.svd(np.linalg.solve(whitener, near.whitener))
            whitener, means = whitener @ left, near.means @ right.T
        else:
            near, whitener, means = density, density.whitener, density.means
            scale = np.ones(len(whitener))
        for name, array in (("whitener", whitener), ("scale", scale), ("means", means)):
            self.register_buffer(name, _tensor(array))
        self.register_buffer("centre", _tensor(near.centre))

    def forward(self, x: Tensor) -> Tensor:
        """Distance of each row."""
        white = (normalize(x.to(self.whitener.dtype), dim=-1) - self.centre) @ self.whitener
        z = white * self.scale if self.relative else white
        squared = z.square().sum(-1, keepdim=True) - 2 * z @ self.means.T + self.means.square().sum(-1)
        near = squared.amin(-1).clamp_min(0)
        if not self.relative:
            return (near + TINY).sqrt()
        whole = white.square().sum(-1)
        if self.spread is None:
            return near - whole
        return (whole + TINY).sqrt() / self.spread[0] + (near - whole) / self.spread[1]


class PathModule(nn.Module):
    """Minus the mean standardised distance over depth, ``{point: (n, D)} -> (n,)``."""

    location: Tensor
    spread: Tensor
    threshold: Tensor

    def __init__(
        self,
        points: Sequence[str],
        densities: Sequence[Density],
        location: ArrayLike,
        spread: ArrayLike,
        threshold: float,
    ) -> None:
        super().__init__()
        self.points = tuple(points)
        self.densities = nn.ModuleList(DensityModule(gaussian) for gaussian in densities)
        self.register_buffer("location", _tensor(location))
        self.register_buffer("spread", _tensor(spread))
        self.register_buffer("threshold", torch.tensor(threshold))

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Score of each row, higher is more normal."""
        distances = [density(features[point]) for point, density in zip(self.points, self.densities)]
        return -((torch.stack(distances, dim=-1) - self.location) / self.spread).mean(-1)


class NeighboursModule(nn.Module):
    """Minus the distance of a unit vector to its k-th nearest kept neighbour, ``{point: (n, D)} -> (n,)``."""

    neighbours: Tensor
    threshold: Tensor

    def __init__(self, point: str, neighbours: NDArray[np.float32], k: int, threshold: float) -> None:
        super().__init__()
        self.point = point
        self.k = k
        self.register_buffer("neighbours", _tensor(neighbours))
        self.register_buffer("threshold", torch.tensor(threshold))

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Score of each row, higher is more normal."""
        x = normalize(features[self.point].to(self.neighbours.dtype), dim=-1)
        kth = (x @ self.neighbours.T).topk(self.k, dim=-1).values[..., -1]
        return -((2 - 2 * kth).clamp_min(0) + TINY).sqrt()


class GuidedEnergyModule(nn.Module):
    """Energy times energy-weighted similarity to the nearest kept samples, ``{point: (n, D)} -> (n,)``."""

    weighted: Tensor
    threshold: Tensor

    def __init__(self, point: str, weighted: NDArray[np.float32], k: int, threshold: float) -> None:
        super().__init__()
        self.point = point
        self.k = k
        self.register_buffer("weighted", _tensor(weighted))
        self.register_buffer("threshold", torch.tensor(threshold))

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Score of each row, higher is more normal; ``features`` holds ``"logits"`` too."""
        similarity = normalize(features[self.point].to(self.weighted.dtype), dim=-1) @ self.weighted.T
        guidance = similarity.topk(self.k, dim=-1).values.mean(-1)
        return features["logits"].to(guidance.dtype).logsumexp(-1) * guidance


class EnergyModule(nn.Module):
    """Log-sum-exp of ``"logits"``, ``{point: (n, D)} -> (n,)``."""

    threshold: Tensor

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.register_buffer("threshold", torch.tensor(threshold))

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Score of each row, higher is more normal."""
        return features["logits"].to(self.threshold.dtype).logsumexp(-1)


class TrajectoryModule(nn.Module):
    """The auto-encoder and minus the Mahalanobis distance of its orbit's features."""

    location: Tensor
    scale: Tensor
    whitener: Tensor
    centre: Tensor
    threshold: Tensor

    def __init__(
        self,
        encode: nn.Module,
        decode: nn.Module,
        features: tuple[str, int, float],
        standard: tuple[ShrunkGaussian, ArrayLike, ArrayLike],
        threshold: float,
    ) -> None:
        super().__init__()
        self.encode = encode
        self.decode = decode
        self.point, self.steps, self.radius = features
        gaussian, location, scale = standard
        for name, array in (("location", location), ("scale", scale)):
            self.register_buffer(name, _tensor(array))
        self.register_buffer("whitener", _tensor(gaussian.whitener))
        self.register_buffer("centre", _tensor(gaussian.centre))
        self.register_buffer("threshold", torch.tensor(threshold))

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Score of each row, higher is more normal."""
        orbit = orbit_features(self.encode, self.decode, features[self.point], self.steps, self.radius)
        standard = (orbit.to(self.scale.dtype) - self.location) / self.scale
        white: Tensor = (standard - self.centre) @ self.whitener
        return -white.square().sum(dim=-1).sqrt()


class UnionModule(nn.Module):
    """Weighted sum of the members' log p-values, ``{point: (n, D)} -> (n,)``.

    Inside the calibration scores a p-value is a step function of the score: gradients come from the tail.
    """

    threshold: Tensor

    def __init__(
        self,
        members: Sequence[nn.Module],
        weights: Sequence[float],
        references: Sequence[NDArray[np.float64]],
        threshold: float,
    ) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.weights = tuple(weights)
        self.tails = [tail(reference) for reference in references]
        for number, reference in enumerate(references):
            self.register_buffer(f"reference{number}", _tensor(reference))
        self.register_buffer("threshold", torch.tensor(threshold))

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Score of each row, higher is more normal."""
        parts = []
        for number, (member, (edge, scale, share)) in enumerate(zip(self.members, self.tails)):
            scores = member(features)
            reference = self.get_buffer(f"reference{number}")
            rank = torch.searchsorted(reference, scores.detach(), right=True)
            inside = ((1 + rank).to(scores.dtype) / (len(reference) + 1)).log()
            outside = math.log(share) - (edge - scores) / scale
            parts.append(self.weights[number] * torch.where(scores < edge, outside, inside))
        return torch.stack(parts, dim=-1).sum(-1)


def _tensor(array: ArrayLike) -> Tensor:
    return torch.tensor(np.asarray(array), dtype=torch.float32)
