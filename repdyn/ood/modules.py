"""Fitted detectors as torch modules: buffers only, to run beside the model and to be exported with it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Self, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn.functional import normalize

from repdyn.devices import double
from repdyn.ood.calibration import tail
from repdyn.ood.crossfit import Density, RelativeDensity, TwofoldDensity
from repdyn.ood.detector import LOWEST
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

TINY = 1e-30  # added under roots, so that a gradient at distance 0 is finite


class ScoreModule(nn.Module):
    """What all share: inputs that no score is meant for score −10³⁰, ``{point: (n, D)} -> (n,)``.

    Such are rows that are not finite, or of a length far outside of that fitted: of a layer that died or
    exploded.
    """

    limits: Tensor

    def guarded(self, limits: Mapping[str, tuple[float, float]]) -> Self:
        """Note the lengths allowed at every point."""
        self.guarded_points = tuple(limits)
        largest = torch.finfo(torch.float32).max
        self.register_buffer("limits", _tensor(list(limits.values())).clamp_max(largest))
        return self

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Score of each row, higher is more normal."""
        sound, kept = [], dict(features)
        numbers = {point: number for number, point in enumerate(self.guarded_points)}
        for points in _alike(features, self.guarded_points):
            x = torch.stack([features[point] for point in points])
            ends = torch.stack([self.limits[numbers[point]] for point in points])
            least, most = ends[:, :1], ends[:, 1:]
            own = _length(x.to(self.limits.dtype))
            usual = (own >= least) & (own <= most)  # false for NaN
            kept.update(zip(points, torch.where(usual.unsqueeze(-1), x, torch.ones_like(x)).unbind()))
            sound.append(usual.all(dim=0))
        scores = self._score(kept)
        usual = torch.stack(sound).all(dim=0) & scores.isfinite()
        return torch.where(usual, scores, torch.full_like(scores, LOWEST))

    def _score(self, features: Mapping[str, Tensor]) -> Tensor:
        raise NotImplementedError


class DensityModule(nn.Module):
    """Distance of a vector's direction, plain or relative to the background or both, ``(n, D) -> (n,)``.

    Both covariances are diagonal in one basis: with Wᵦ the whitener of the background and W_c that of the
    classes, Wᵦ⁻¹ W_c = U diag(s) Vᵀ, the background distance is ‖z‖ with z = (x − c) Wᵦ U, and a class
    distance is that of z scaled by s. So one matrix product serves both, and their difference is

        d_rel = Σ_j (s_j² − 1) z_j² + min_c (‖m_c‖² − 2 Σ_j s_j m_cj z_j).

    All that does not depend on x is worked out here, once.
    """

    whitener: Tensor
    centre: Tensor
    centre_rest: Tensor
    curvature: Tensor
    slopes: Tensor
    offsets: Tensor

    def __init__(self, density: Density) -> None:
        super().__init__()
        self.spread, unit = None, 1.0
        if isinstance(density, TwofoldDensity):
            (self.spread, unit), density = density.spread, density.relative
        self.relative = isinstance(density, RelativeDensity)
        if isinstance(density, RelativeDensity):
            whitener, near = density.background.whitener, density.conditional
            left, scale, right = np.linalg.svd(np.linalg.solve(whitener, near.whitener))
            whitener, means = whitener @ left, near.means @ right.T
            curvature = scale**2 - 1
        else:
            near, whitener, means = density, density.whitener, density.means
            scale = curvature = np.ones(len(whitener))
        parts = {
            "whitener": whitener,
            "curvature": curvature / unit,
            "slopes": -2 * (scale * means).T / unit,
            "offsets": (means * means).sum(axis=1) / unit,
        }
        for name, array in parts.items():
            self.register_buffer(name, _tensor(array))
        _register_centre(self, near.centre)

    def forward(self, x: Tensor) -> Tensor:
        """Distance of each row."""
        return self.of_direction(_direction(x, self.centre, self.centre_rest))

    def of_direction(self, direction: Tensor) -> Tensor:
        """Distance of each row, given as a unit vector less the centre."""
        z = direction.to(self.whitener.dtype) @ self.whitener
        squares = z.square()
        nearest = torch.addmm(self.offsets, z, self.slopes).amin(-1)
        if not self.relative:
            return ((squares.sum(-1) + nearest).clamp_min(0) + TINY).sqrt()
        ratio = squares @ self.curvature + nearest
        if self.spread is None:
            return ratio
        return (squares.sum(-1) + TINY).sqrt() / self.spread + ratio


class PathModule(ScoreModule):
    """Minus the mean standardised distance over depth, ``{point: (n, D)} -> (n,)``."""

    weight: Tensor
    shift: Tensor
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
        weight = -1 / (np.asarray(spread) * len(self.points))
        self.register_buffer("weight", _tensor(weight))
        self.register_buffer("shift", _tensor(-weight @ np.asarray(location)))
        self.register_buffer("threshold", torch.tensor(threshold))

    def _score(self, features: Mapping[str, Tensor]) -> Tensor:
        """Score of each row, higher is more normal."""
        densities = {point: cast(DensityModule, part) for point, part in zip(self.points, self.densities)}
        distances: dict[str, Tensor] = {}
        for points in _alike(features, self.points):
            own = [densities[point] for point in points]
            centre, rest = (torch.stack(parts).unsqueeze(1) for parts in (
                [part.centre for part in own], [part.centre_rest for part in own]
            ))  # fmt: skip
            directions = _direction(torch.stack([features[point] for point in points]), centre, rest)
            for point, part, direction in zip(points, own, directions.unbind()):
                distances[point] = part.of_direction(direction)
        return torch.stack([distances[point] for point in self.points], dim=-1) @ self.weight + self.shift


class NeighboursModule(ScoreModule):
    """Minus the distance of a unit vector to its k-th nearest kept neighbour, ``{point: (n, D)} -> (n,)``."""

    neighbours: Tensor
    centre: Tensor
    centre_rest: Tensor
    threshold: Tensor

    def __init__(
        self,
        point: str,
        neighbours: NDArray[np.floating],
        centre: NDArray[np.float64],
        k: int,
        threshold: float,
    ) -> None:
        super().__init__()
        self.point = point
        self.k = k
        self.register_buffer("neighbours", _tensor(neighbours))
        _register_centre(self, centre)
        self.register_buffer("threshold", torch.tensor(threshold))

    def _score(self, features: Mapping[str, Tensor]) -> Tensor:
        """Score of each row, higher is more normal."""
        x = _direction(features[self.point], self.centre, self.centre_rest).to(self.neighbours.dtype)
        nearness = 2 * x @ self.neighbours.T - self.neighbours.square().sum(dim=-1)
        kth = nearness.topk(self.k, dim=-1).indices[..., -1]
        # By differences: what a product loses to cancellation would be the distance itself.
        return -((x - self.neighbours[kth]).square().sum(dim=-1) + TINY).sqrt()


class GuidedEnergyModule(ScoreModule):
    """Energy times energy-weighted similarity to the nearest kept samples, ``{point: (n, D)} -> (n,)``."""

    weighted: Tensor
    threshold: Tensor

    def __init__(self, point: str, weighted: NDArray[np.float32], k: int, threshold: float) -> None:
        super().__init__()
        self.point = point
        self.k = k
        self.register_buffer("weighted", _tensor(weighted))
        self.register_buffer("threshold", torch.tensor(threshold))

    def _score(self, features: Mapping[str, Tensor]) -> Tensor:
        """Score of each row, higher is more normal; ``features`` holds ``"logits"`` too."""
        similarity = _unit(features[self.point].to(self.weighted.dtype)) @ self.weighted.T
        guidance = similarity.topk(self.k, dim=-1).values.mean(-1)
        return features["logits"].to(guidance.dtype).logsumexp(-1) * guidance


class EnergyModule(ScoreModule):
    """Log-sum-exp of ``"logits"``, ``{point: (n, D)} -> (n,)``."""

    threshold: Tensor

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.register_buffer("threshold", torch.tensor(threshold))

    def _score(self, features: Mapping[str, Tensor]) -> Tensor:
        """Score of each row, higher is more normal."""
        return features["logits"].to(self.threshold.dtype).logsumexp(-1)


class TrajectoryModule(ScoreModule):
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

    def _score(self, features: Mapping[str, Tensor]) -> Tensor:
        """Score of each row, higher is more normal."""
        x = features[self.point]
        orbit = orbit_features(self.encode, self.decode, x, self.steps, self.radius, gradient=True)
        standard = (orbit.to(self.scale.dtype) - self.location) / self.scale
        white: Tensor = (standard - self.centre) @ self.whitener
        return -(white.square().sum(dim=-1) + TINY).sqrt()


class UnionModule(ScoreModule):
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

    def _score(self, features: Mapping[str, Tensor]) -> Tensor:
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


def _alike(features: Mapping[str, Tensor], points: Sequence[str]) -> list[list[str]]:
    """The points by width and type: those of one group are computed together, in fewer and larger steps."""
    found: dict[tuple[int, torch.dtype], list[str]] = {}
    for point in points:
        found.setdefault((features[point].shape[-1], features[point].dtype), []).append(point)
    return list(found.values())


def _length(x: Tensor) -> Tensor:
    """Euclidean norm whatever the magnitude; NaN where an entry is not finite."""
    largest = x.abs().amax(dim=-1)
    scaled = x / largest.clamp_min(torch.finfo(x.dtype).tiny).unsqueeze(-1)
    found: Tensor = largest * scaled.norm(dim=-1)
    return found


def _unit(x: Tensor) -> Tensor:
    """Unit vectors, whatever the magnitude; zero stays zero."""
    largest = x.detach().abs().amax(dim=-1, keepdim=True)
    return normalize(x / largest.clamp_min(torch.finfo(x.dtype).tiny), dim=-1)


def _register_centre(module: nn.Module, centre: ArrayLike) -> None:
    """A centre in two float32 parts, together as exact as float64, which not every device has."""
    whole = np.asarray(centre, dtype=np.float64)
    module.register_buffer("centre", _tensor(whole))
    rest = _tensor(whole - whole.astype(np.float32))
    module.register_buffer("centre_rest", rest, persistent=False)


def _direction(x: Tensor, centre: Tensor, rest: Tensor) -> Tensor:
    """Unit vectors less their centre, in float64 where there is one: the difference may be very small."""
    return _unit(double(x)) - (double(centre) + double(rest))


def _tensor(array: ArrayLike) -> Tensor:
    return torch.tensor(np.asarray(array), dtype=torch.float32)
