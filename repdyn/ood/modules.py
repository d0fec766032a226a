"""Fitted detectors as torch modules with buffers only, to run next to a model and to be exported with it.

The modules take parts of a detector (arrays, densities, functions), not the detector itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Self, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn.functional import normalize

from repdyn.devices import double
from repdyn.ood.calibration import tail
from repdyn.ood.crossfit import Density, RelativeDensity, TwofoldDensity
from repdyn.ood.gaussian import ShrunkGaussian
from repdyn.ood.path_chunks import LOGITS, LOWEST

__all__ = [
    "DensityModule",
    "EnergyModule",
    "EnergyTrajectoryModule",
    "GuidedEnergyModule",
    "MixtureModule",
    "NeighborsModule",
    "PathModule",
    "TrajectoryModule",
    "UnionModule",
]

TINY = 1e-30  # added under square roots, so that the gradient at distance 0 is finite


class ScoreModule(nn.Module):
    """Base of all modules, ``{point: (n, D)} -> (n,)``: invalid rows score −10³⁰.

    A row is invalid if it is not finite, or its norm is far outside of the range fitted, as after a layer
    that died or exploded.
    """

    limits: Tensor

    def guarded(self, limits: Mapping[str, tuple[float, float]]) -> Self:
        """Store the limits of norms at every point, and return the module."""
        self.guarded_points = tuple(limits)
        largest = torch.finfo(torch.float32).max
        self.register_buffer("limits", _tensor(list(limits.values())).clamp_max(largest))
        return self

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Score of each row, higher is more normal."""
        kept, valid = self._guard(features)
        return self._accepted(self._score(kept), valid)

    def _guard(self, features: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """Features with ones instead of invalid rows, and whether each is valid at each point ``(n, P)``."""
        valid: dict[str, Tensor] = {}
        kept = dict(features)
        numbers = {point: number for number, point in enumerate(self.guarded_points)}
        for points in _by_shape(features, self.guarded_points):
            x = torch.stack([features[point] for point in points])
            ends = torch.stack([self.limits[numbers[point]] for point in points])
            least, most = ends[:, :1], ends[:, 1:]
            norms = _norm(x.to(self.limits.dtype))
            inside = (norms >= least) & (norms <= most)  # false for NaN
            kept.update(zip(points, torch.where(inside.unsqueeze(-1), x, torch.ones_like(x)).unbind()))
            valid.update(zip(points, inside.unbind()))
        return kept, torch.stack([valid[point] for point in self.guarded_points], dim=-1)

    @staticmethod
    def _accepted(scores: Tensor, valid: Tensor) -> Tensor:
        """Scores ``(n,)`` with the lowest one for rows that are invalid at a point, ``(n, P)``."""
        accepted = valid.all(dim=-1) & scores.isfinite()
        return torch.where(accepted, scores, torch.full_like(scores, LOWEST))

    def _score(self, features: Mapping[str, Tensor]) -> Tensor:
        """Scores ``(n,)`` of valid rows; invalid ones were replaced by ones."""
        raise NotImplementedError


class DensityModule(nn.Module):
    """Distance of a vector's direction, plain or relative to the background or both, ``(n, D) -> (n,)``.

    Both covariances are diagonal in one basis: with Wᵦ the whitener of the background and W_c that of the
    classes, Wᵦ⁻¹ W_c = U diag(s) Vᵀ, the background distance is ‖z‖ with z = (x − c) Wᵦ U, and a class
    distance is that of z scaled by s. One matrix product therefore suffices for both, and their difference is

        d_rel = Σ_j (s_j² − 1) z_j² + min_c (‖m_c‖² − 2 Σ_j s_j m_cj z_j).

    Everything that does not depend on x is computed once, when the module is built.
    """

    whitener: Tensor
    center: Tensor
    center_rest: Tensor
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
        self.centered = not self.relative and not means.any()  # one class, whose mean is the center
        _register_center(self, near.center)

    def forward(self, x: Tensor) -> Tensor:
        """Distance of each row."""
        return self.of_direction(_direction(x, self.center, self.center_rest))

    def of_direction(self, direction: Tensor) -> Tensor:
        """Distance of each row, given as a unit vector less the center."""
        z = direction.to(self.whitener.dtype) @ self.whitener
        if self.centered:
            distance: Tensor = torch.linalg.vector_norm(z, dim=-1)
            return distance
        squares = z.square()
        nearest = torch.addmm(self.offsets, z, self.slopes).amin(-1)
        if not self.relative:
            return ((squares.sum(-1) + nearest).clamp_min(0) + TINY).sqrt()
        ratio = squares @ self.curvature + nearest
        if self.spread is None:
            return ratio
        return (squares.sum(-1) + TINY).sqrt() / self.spread + ratio


class PathModule(ScoreModule):
    """Minus the mean standardized distance over depth, ``{point: (n, D)} -> (n,)``."""

    location: Tensor
    spread: Tensor
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
        for name, array in (("location", location), ("spread", spread)):
            self.register_buffer(name, _tensor(array), persistent=False)
        weight = -1 / (np.asarray(spread) * len(self.points))
        self.register_buffer("weight", _tensor(weight))
        self.register_buffer("shift", _tensor(-weight @ np.asarray(location)))
        self.register_buffer("threshold", torch.tensor(threshold))

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Score of each row, higher is more normal."""
        distances, valid = self._measured(features)
        return self._accepted(distances @ self.weight + self.shift, valid)

    def scored_profile(self, features: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Scores ``(n,)``, and the standardized distance at each depth ``(n, L)``, from one computation.

        Infinite at a depth where a row is not finite or its norm is far outside of the range fitted.
        """
        distances, valid = self._measured(features)
        scores = self._accepted(distances @ self.weight + self.shift, valid)
        profile = (distances - self.location) / self.spread
        return scores, torch.where(valid, profile, torch.full_like(profile, math.inf))

    def _measured(self, features: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Distance of each row at each depth, and whether the row is valid there, ``(n, L)``.

        Norms are computed once, for the limits and for the directions.
        """
        densities = {point: cast(DensityModule, part) for point, part in zip(self.points, self.densities)}
        limits = dict(zip(self.guarded_points, self.limits.unbind()))
        distances: dict[str, Tensor] = {}
        valid: dict[str, Tensor] = {}
        for points in _by_shape(features, self.points):
            own = [densities[point] for point in points]
            center, rest, ends = (torch.stack(parts).unsqueeze(1) for parts in (
                [part.center for part in own], [part.center_rest for part in own],
                [limits[point] for point in points],
            ))  # fmt: skip
            kept, length, inside = _within(torch.stack([features[point] for point in points]), ends)
            exact = kept / length.unsqueeze(-1) - (double(center) + double(rest))
            directions = exact.to(own[0].whitener.dtype).unbind()
            if all(part.centered for part in own):
                white = torch.stack([x @ part.whitener for part, x in zip(own, directions)])
                found = torch.linalg.vector_norm(white, dim=-1).unbind()
            else:
                found = tuple(part.of_direction(x) for part, x in zip(own, directions))
            distances.update(zip(points, found))
            valid.update(zip(points, inside.unbind()))
        measured, inside = (
            torch.stack([held[point] for point in self.points], dim=-1) for held in (distances, valid)
        )
        return measured, inside


class NeighborsModule(ScoreModule):
    """Minus the distance of a unit vector to its k-th nearest kept sample, ``{point: (n, D)} -> (n,)``."""

    neighbors: Tensor
    center: Tensor
    center_rest: Tensor
    threshold: Tensor

    def __init__(
        self,
        point: str,
        neighbors: NDArray[np.floating],
        center: NDArray[np.float64],
        k: int,
        threshold: float,
    ) -> None:
        super().__init__()
        self.point = point
        self.k = k
        self.register_buffer("neighbors", _tensor(neighbors))
        _register_center(self, center)
        self.register_buffer("threshold", torch.tensor(threshold))

    def _score(self, features: Mapping[str, Tensor]) -> Tensor:
        """Score of each row, higher is more normal."""
        x = _direction(features[self.point], self.center, self.center_rest).to(self.neighbors.dtype)
        nearness = 2 * x @ self.neighbors.T - self.neighbors.square().sum(dim=-1)
        kth = nearness.topk(self.k, dim=-1).indices[..., -1]
        # From differences: a product would lose a small distance to cancellation.
        return -((x - self.neighbors[kth]).square().sum(dim=-1) + TINY).sqrt()


class MixtureModule(ScoreModule):
    """Log-density of a unit vector under a mixture of Gaussians, ``{point: (n, D)} -> (n,)``."""

    whitener: Tensor
    means: Tensor
    offsets: Tensor
    center: Tensor
    center_rest: Tensor
    threshold: Tensor

    def __init__(
        self,
        point: str,
        center: NDArray[np.float64],
        whitener: NDArray[np.float64],
        means: NDArray[np.float64],
        offsets: NDArray[np.float64],
        threshold: float,
    ) -> None:
        super().__init__()
        self.point = point
        _register_center(self, center)
        self.register_buffer("whitener", _tensor(whitener))
        self.register_buffer("means", _tensor(means))
        self.register_buffer("offsets", _tensor(offsets - 0.5 * np.square(means).sum(axis=1)))
        self.register_buffer("threshold", torch.tensor(threshold))

    def _score(self, features: Mapping[str, Tensor]) -> Tensor:
        """Score of each row, higher is more normal."""
        x = _direction(features[self.point], self.center, self.center_rest).to(self.whitener.dtype)
        z = x @ self.whitener
        likely: Tensor = torch.addmm(self.offsets, z, self.means.T).logsumexp(-1)
        return likely - 0.5 * z.square().sum(-1)


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
        return features[LOGITS].to(guidance.dtype).logsumexp(-1) * guidance


class EnergyModule(ScoreModule):
    """Log-sum-exp of ``"logits"``, ``{point: (n, D)} -> (n,)``."""

    threshold: Tensor

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.register_buffer("threshold", torch.tensor(threshold))

    def _score(self, features: Mapping[str, Tensor]) -> Tensor:
        """Score of each row, higher is more normal."""
        return features[LOGITS].to(self.threshold.dtype).logsumexp(-1)


class TrajectoryModule(ScoreModule):
    """Minus the Mahalanobis distance of an orbit's features; the auto-encoder is part of the module.

    Parameters
    ----------
    encode, decode
        The auto-encoder.
    point
        The point that is encoded.
    features
        Maps ``(encode, decode, x)`` to the features ``(n, F)`` of the orbits, with gradients.
    standard
        Density of the standardized features, their mean and their standard deviation ``(F,)``.
    threshold
        Of the detector.
    """

    location: Tensor
    scale: Tensor
    whitener: Tensor
    center: Tensor
    threshold: Tensor

    def __init__(
        self,
        encode: nn.Module,
        decode: nn.Module,
        point: str,
        features: Callable[[nn.Module, nn.Module, Tensor], Tensor],
        standard: tuple[ShrunkGaussian, ArrayLike, ArrayLike],
        threshold: float,
    ) -> None:
        super().__init__()
        self.encode = encode
        self.decode = decode
        self.point, self.features = point, features
        gaussian, location, scale = standard
        for name, array in (("location", location), ("scale", scale)):
            self.register_buffer(name, _tensor(array))
        self.register_buffer("whitener", _tensor(gaussian.whitener))
        self.register_buffer("center", _tensor(gaussian.center))
        self.register_buffer("threshold", torch.tensor(threshold))

    def _score(self, features: Mapping[str, Tensor]) -> Tensor:
        """Score of each row, higher is more normal."""
        x = features[self.point]
        orbit = self.features(self.encode, self.decode, x)
        standard = (orbit.to(self.scale.dtype) - self.location) / self.scale
        white: Tensor = (standard - self.center) @ self.whitener
        return -(white.square().sum(dim=-1) + TINY).sqrt()


class EnergyTrajectoryModule(ScoreModule):
    """Minus the Mahalanobis distance of how a point moves under energy fields, ``{point: (n, D)} -> (n,)``.

    Parameters
    ----------
    point
        The point.
    coordinates
        Divisors ``(D,)``, center ``(D,)`` and axes ``(D, d)`` of principal coordinates, and the smallest
        distance ``(1,)`` from their subspace.
    bank
        The bank in these coordinates, shape ``(M, d)``.
    features
        Maps coordinates ``(n, d)``, the distance from their subspace ``(n,)`` and the bank to ``(n, F)``.
    standard
        As in :class:`TrajectoryModule`.
    threshold
        Of the detector.
    """

    units: Tensor
    center: Tensor
    center_rest: Tensor
    axes: Tensor
    least: Tensor
    bank: Tensor
    location: Tensor
    scale: Tensor
    whitener: Tensor
    middle: Tensor
    threshold: Tensor

    def __init__(
        self,
        point: str,
        coordinates: tuple[ArrayLike, ArrayLike, ArrayLike, ArrayLike],
        bank: ArrayLike,
        features: Callable[[Tensor, Tensor, Tensor], Tensor],
        standard: tuple[ShrunkGaussian, ArrayLike, ArrayLike],
        threshold: float,
    ) -> None:
        super().__init__()
        self.point, self.features = point, features
        units, center, axes, least = coordinates
        gaussian, location, scale = standard
        _register_center(self, center)
        parts = {"units": units, "axes": axes, "least": least, "bank": bank}
        for name, array in {
            **parts,
            "location": location,
            "scale": scale,
            "whitener": gaussian.whitener,
            "middle": gaussian.center,
        }.items():
            self.register_buffer(name, _tensor(array))
        self.register_buffer("threshold", torch.tensor(threshold))

    def _score(self, features: Mapping[str, Tensor]) -> Tensor:
        """Score of each row, higher is more normal."""
        x = double(features[self.point]) / double(self.units)
        # Differences from the center in float64, where the device has it; they may be small.
        centered = (x - (double(self.center) + double(self.center_rest))).to(self.axes.dtype)
        z = centered @ self.axes
        rest = (centered - z @ self.axes.T).square().sum(dim=-1).add(TINY).sqrt().maximum(self.least)
        standard = (self.features(z, rest, self.bank) - self.location) / self.scale
        white: Tensor = (standard - self.middle) @ self.whitener
        return -(white.square().sum(dim=-1) + TINY).sqrt()


class UnionModule(ScoreModule):
    """Weighted sum of the members' log p-values, ``{point: (n, D)} -> (n,)``.

    Within the range of the calibration scores a p-value is a step function of the score: gradients come from
    the tail.
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
            rank = _rank(reference, scores.detach())
            inside = ((1 + rank).to(scores.dtype) / (len(reference) + 1)).log()
            outside = math.log(share) - (edge - scores) / scale
            parts.append(self.weights[number] * torch.where(scores < edge, outside, inside))
        return torch.stack(parts, dim=-1).sum(-1)


def _rank(reference: Tensor, scores: Tensor) -> Tensor:
    """How many of the sorted reference values ``(M,)`` are at most each score, ``(n,)``."""
    if torch.compiler.is_compiling():  # ONNX has no search in sorted values
        return (reference <= scores.unsqueeze(-1)).sum(-1)
    return torch.searchsorted(reference, scores, right=True)


def _by_shape(features: Mapping[str, Tensor], points: Sequence[str]) -> list[list[str]]:
    """Points grouped by width and type: those of one group are stacked, for fewer and larger operations."""
    groups: dict[tuple[int, torch.dtype], list[str]] = {}
    for point in points:
        groups.setdefault((features[point].shape[-1], features[point].dtype), []).append(point)
    return list(groups.values())


def _norm(x: Tensor) -> Tensor:
    """Euclidean norm without overflow or underflow; NaN where an entry is not finite."""
    largest = x.abs().amax(dim=-1)
    scaled = x / largest.clamp_min(torch.finfo(x.dtype).tiny).unsqueeze(-1)
    norm: Tensor = largest * scaled.norm(dim=-1)
    return norm


def _within(x: Tensor, ends: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows ``(P, n, D)``, their lengths, and whether their norms are within limits ``(P, 1, 2)``.

    Returns
    -------
    rows, lengths, inside
        In the widest type, with their lengths ``(P, n)`` and whether each row is within the limits. Of a row
        that is not, nothing else may be used: where gradients flow it is replaced by ones, so that they stay
        finite, and otherwise it stays as it is.
    """
    wide = double(x)
    # In float64 no square of a smaller type overflows or vanishes.
    measure = _norm if wide.dtype == x.dtype else partial(torch.linalg.vector_norm, dim=-1)
    norms = measure(wide.detach())
    known = norms.to(ends.dtype)
    inside = (known >= ends[..., 0]) & (known <= ends[..., 1])  # false for NaN
    kept, lengths = wide, norms
    if wide.requires_grad:
        kept = torch.where(inside.unsqueeze(-1), wide, torch.ones_like(wide))
        lengths = measure(kept)
    return kept, lengths.clamp_min(torch.finfo(wide.dtype).tiny), inside


def _unit(x: Tensor) -> Tensor:
    """Unit vectors without overflow or underflow; zero stays zero."""
    largest = x.detach().abs().amax(dim=-1, keepdim=True)
    return normalize(x / largest.clamp_min(torch.finfo(x.dtype).tiny), dim=-1)


def _register_center(module: nn.Module, center: ArrayLike) -> None:
    """Register a center as two float32 parts, whose sum has float64 precision on devices without float64."""
    whole = np.asarray(center, dtype=np.float64)
    module.register_buffer("center", _tensor(whole))
    rest = _tensor(whole - whole.astype(np.float32))
    module.register_buffer("center_rest", rest, persistent=False)


def _direction(x: Tensor, center: Tensor, rest: Tensor) -> Tensor:
    """Unit vectors minus their center, in float64 where the device has it: differences may be very small."""
    return _unit(double(x)) - (double(center) + double(rest))


def _tensor(array: ArrayLike) -> Tensor:
    return torch.tensor(np.asarray(array), dtype=torch.float32)
