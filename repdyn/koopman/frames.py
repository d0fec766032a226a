"""From representations to observables and back: fixed frames of the points, then encoder and decoder.

:class:`PointFrames` maps every point of a path into one state space. Points of one width share one frame: one
mean, one scale, no rotation. Points whose widths differ have a frame each: a mean, a scale and a partial
isometry onto the last point. Frames are fitted before training and then fixed. A map that is learned freely
at each point could represent any linear step, and the operator would be trivial. :class:`Lift`, the encoder
or decoder of states, is a linear map that starts as PCA, plus a network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from repdyn.devices import CPU, double, to
from repdyn.errors import RepdynError
from repdyn.koopman.settings import FrameSettings
from repdyn.linalg import polar
from repdyn.reading import as_array

__all__ = [
    "Lift",
    "PointDecoder",
    "PointEncoder",
    "PointFrames",
    "load_weights",
    "principal_axes",
    "wide_coordinates",
]

_SETTINGS = FrameSettings()


class PointFrames(nn.Module):
    """Map every point into one space: by one frame for all points, or by one frame for each.

    ``u = ((x - m) / w) B / s``. With ``common=True``, ``m``, ``w`` and ``s`` are the same at all points and
    ``B`` is the identity, so that eigenvalues of ``u_l -> u_(l+1)`` are those of ``x_l -> x_(l+1)``. Else:

    - ``m`` is the mean and ``s`` the root of the total variance.
    - ``w`` is one, except for coordinates whose spread exceeds four times the median. It reduces their spread
      to that limit. Single coordinates of language models are a thousand times wider than the rest and would
      dominate every loss.
    - ``B`` is the identity at the last point. At other points it is the partial isometry that is nearest to
      the last point (orthogonal Procrustes).

    The space is as wide as the widest point, so every frame is exactly invertible. Points wider than 1024 and
    than the last point are reduced to their leading principal components; ``explained`` is the share of their
    variance that is kept. Such frames take their own rotation and scale out of the dynamics between points:
    eigenvalues are then relative to the frames (:attr:`relative`), see :meth:`rotations`.

    Parameters
    ----------
    widths
        Width of each point, in order of depth.
    settings
        Limits; see :class:`~repdyn.koopman.settings.FrameSettings`.
    common
        Whether all points share one frame, which needs points of one width.

    Attributes
    ----------
    variance
        Total variance of the lifted training representations at each point, ``(points,)``.
    """

    def __init__(
        self, widths: Mapping[str, int], settings: FrameSettings = _SETTINGS, common: bool = False
    ) -> None:
        super().__init__()
        if common and len(set(widths.values())) > 1:
            raise RepdynError(
                f"points of widths {sorted(set(widths.values()))} cannot share one frame; use common=False"
            )
        self.settings = settings
        self.common = common
        self.widths = dict(widths)
        self.points = tuple(widths)
        last = self.widths[self.points[-1]]
        self.width = max(last, min(max(self.widths.values()), settings.max_width))
        for number, point in enumerate(self.points):
            self.register_buffer(f"mean_{number}", torch.zeros(self.widths[point]))
            self.register_buffer(f"rest_{number}", torch.zeros(self.widths[point]))
            self.register_buffer(f"wide_{number}", torch.ones(self.widths[point]))
            self.register_buffer(f"basis_{number}", torch.eye(self.widths[point], self.width))
        self.register_buffer("scale", torch.ones(len(self.points)))
        self.register_buffer("explained", torch.ones(len(self.points)))
        self.register_buffer("variance", torch.ones(len(self.points)))

    scale: Tensor
    explained: Tensor
    variance: Tensor

    @property
    def relative(self) -> bool:
        """Whether eigenvalues of the lifted dynamics are relative to frames that differ between points."""
        return not self.common and len(self.points) > 1

    def rotations(self) -> NDArray[np.float64]:
        """Mean rotation, in turns, that the frames take out of each step, shape ``(points - 1,)``.

        The mean of ``|arg λ| / 2π`` over the eigenvalues of ``B_l B_(l+1)'``; not a number where the widths
        of the two points differ, because their coordinates then have no relation.
        """
        found = np.full(len(self.points) - 1, np.nan)
        for number in range(len(self.points) - 1):
            one, other = (to(self.get_buffer(f"basis_{n}"), CPU, torch.float64) for n in (number, number + 1))
            if one.shape == other.shape:
                angles = np.angle(np.linalg.eigvals(as_array(one @ other.T)))
                found[number] = np.abs(angles).mean() / (2 * np.pi)
        return found

    @torch.no_grad()
    def fit(self, states: list[Tensor]) -> PointFrames:
        """Fit the frames to training representations.

        Parameters
        ----------
        states
            For each point its rows, shape ``(N, width)``.

        Raises
        ------
        RepdynError
            If a point does not vary.
        """
        every = max(1, len(states[0]) // self.settings.fit_rows)
        moments = (torch.var_mean(double(x), dim=0, correction=0) for x in states)
        return self.fit_to(list(moments), lambda number: states[number][::every], len(states[0]))

    @torch.no_grad()
    def fit_to(
        self, moments: list[tuple[Tensor, Tensor]], rows_at: Callable[[int], Tensor], samples: int
    ) -> PointFrames:
        """Fit the frames to moments of all rows and to some of the rows.

        Parameters
        ----------
        moments
            Variance and mean of every coordinate, for each point.
        rows_at
            Returns rows of a point by its number, ``(n, width)``, of the same samples for every point.
        samples
            Number of samples that the moments are of.

        Raises
        ------
        RepdynError
            If a point does not vary.
        """
        for number, (variance, mean) in enumerate(moments):
            single = rows_at(number).dtype != torch.float64
            rounding = self.settings.constant if single else self.settings.constant_double
            if not variance.sum().sqrt() > rounding * mean.norm():
                raise RepdynError(
                    f"point {self.points[number]!r} is constant over the {samples} samples, so it cannot be "
                    "predicted; leave it out of the path"
                )
        if self.common:
            return self._share(moments)
        last = double(rows_at(len(moments) - 1))
        last = last - last.mean(dim=0)
        last = last / wide_coordinates(moments[-1][0].sqrt(), self.settings.wide)
        last = last @ double(self.get_buffer(f"basis_{len(moments) - 1}"))
        for number, (variance, mean) in enumerate(moments):
            width = len(mean)
            # Principal components of a point that is reduced are computed in its own coordinates.
            cut = width > self.width
            wide = torch.ones_like(mean) if cut else wide_coordinates(variance.sqrt(), self.settings.wide)
            scale = (variance.sqrt() / wide).square().sum().sqrt()
            if number < len(moments) - 1:
                rows = (double(rows_at(number)) - mean) / wide
                basis = _nearest_isometry(rows, last, self.width)
                self.get_buffer(f"basis_{number}").copy_(basis)
                if width > self.width:
                    self.explained[number] = (rows @ basis).square().sum() / rows.square().sum()
            self._set(number, mean, wide, scale)
        # A frame divides by the root of the total variance; only a reduced point loses part of it.
        self.variance.copy_(self.explained)
        return self

    def _share(self, moments: list[tuple[Tensor, Tensor]]) -> PointFrames:
        """Fit one frame to moments of all points, each of which counts alike."""
        variances, means = (torch.stack(values) for values in zip(*moments))
        mean = means.mean(dim=0)
        # Where a coordinate moves with depth, its spread over points counts as well.
        spread = (variances + (means - mean).square()).mean(dim=0).sqrt()
        wide = wide_coordinates(spread, self.settings.wide)
        totals = (variances / wide.square()).sum(dim=1)
        for number in range(len(moments)):
            self._set(number, mean, wide, totals.mean().sqrt())
        self.variance.copy_(totals / totals.mean())
        return self

    def _set(self, number: int, mean: Tensor, wide: Tensor, scale: Tensor) -> None:
        """Store the frame of one point."""
        # The mean is stored as a float32 value and its remainder: a large mean would lose digits.
        single = self.get_buffer(f"mean_{number}").copy_(mean)
        self.get_buffer(f"rest_{number}").copy_(mean - double(single))
        self.get_buffer(f"wide_{number}").copy_(wide)
        self.scale[number] = scale

    def lift(self, x: Tensor, number: int) -> Tensor:
        """Map representations at point ``number``, shape ``(…, width)``, to the shared space ``(…, w)``."""
        basis = self.get_buffer(f"basis_{number}")
        centered = (x - self.get_buffer(f"mean_{number}").to(x.dtype)) - self.get_buffer(f"rest_{number}")
        u: Tensor = (
            (centered.to(basis.dtype) / self.get_buffer(f"wide_{number}")) @ basis / self.scale[number]
        )
        return u

    def lower(self, u: Tensor, number: int, dtype: torch.dtype | None = None) -> Tensor:
        """Map states ``(…, w)`` to representations ``(…, width)``: the inverse of :meth:`lift`."""
        basis = self.get_buffer(f"basis_{number}")
        x: Tensor = self.scale[number] * u @ basis.T * self.get_buffer(f"wide_{number}")
        if dtype is not None:
            x = x.to(dtype)
        restored: Tensor = (x + self.get_buffer(f"rest_{number}")) + self.get_buffer(f"mean_{number}")
        return restored

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        """Load weights, also those of version 0.1, which lack the buffers that were added since."""
        for name, value in self._buffers.items():
            if name.startswith(("rest_", "wide_")) and value is not None:
                state_dict.setdefault(prefix + name, value)
        state_dict.setdefault(prefix + "variance", state_dict.get(prefix + "explained", self.explained))
        super()._load_from_state_dict(state_dict, prefix, *rest)


def wide_coordinates(spread: Tensor, limit: float = _SETTINGS.wide) -> Tensor:
    """Divisor of each coordinate, ``(width,)``: 1, or more where its spread exceeds ``limit`` medians."""
    varying = spread[spread > 0]
    if not len(varying):
        return torch.ones_like(spread)
    return (spread / (limit * varying.median())).clamp_min(1.0)


def _nearest_isometry(x: Tensor, last: Tensor, width: int) -> Tensor:
    """The partial isometry ``(p, w)`` that maps rows ``(n, p)`` nearest to last-point rows ``(n, w)``."""
    if x.shape[1] > width:
        axes = principal_axes(x, width)
        return axes @ polar((x @ axes).T @ last)
    return polar(x.T @ last)


def principal_axes(x: Tensor, count: int) -> Tensor:
    """Leading right singular vectors of centered rows ``(n, p)``: orthonormal columns ``(p, count)``.

    With fewer rows than columns they are computed from the smaller Gram matrix, and completed to ``count``
    columns by a QR decomposition.
    """
    rows, columns = x.shape
    if columns <= rows:
        _, vectors = torch.linalg.eigh(x.T @ x)
        leading: Tensor = vectors.flip(1)[:, :count]
        return leading
    values, vectors = torch.linalg.eigh(x @ x.T)
    # Eigenvalues below rounding belong to directions that the rows do not span.
    rank = min(count, int((values > values[-1] * 1e-12).sum()))
    axes = x.T @ vectors.flip(1)[:, :rank]
    filling = torch.eye(columns, dtype=x.dtype, device=x.device)[:, : count - rank]
    orthonormal: Tensor = torch.linalg.qr(torch.cat([axes, filling], dim=1)).Q
    return orthonormal


class Lift(nn.Module):
    """``f(u) = u S + mlp(u)``.

    The linear part starts at the leading principal components and the network near zero, or at the nonlinear
    observables of :mod:`repdyn.koopman.start`.

    Parameters
    ----------
    inputs, outputs
        Widths.
    hidden
        Widths of the hidden layers. An empty sequence gives a linear map.
    """

    def __init__(self, inputs: int, outputs: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        sizes = (inputs, *hidden, outputs)
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.LeakyReLU()]
        self.network = nn.Sequential(*layers[:-1]) if hidden else None

    @torch.no_grad()
    def start(self, weight: Tensor, scale: float) -> None:
        """Set the linear part to ``u -> u S``, ``(inputs, outputs)``, and scale the network's last layer."""
        self.linear.weight.copy_(weight.T)
        self.linear.bias.zero_()
        if self.network is not None:
            final = self.network[-1]
            assert isinstance(final, nn.Linear)
            final.weight.mul_(scale)
            final.bias.zero_()

    @torch.no_grad()
    def narrow(self, width: int) -> None:
        """Keep the first ``width`` units of the only hidden layer."""
        assert self.network is not None
        first, _, final = self.network
        assert isinstance(first, nn.Linear)
        assert isinstance(final, nn.Linear)
        first.weight, first.bias = nn.Parameter(first.weight[:width]), nn.Parameter(first.bias[:width])
        final.weight = nn.Parameter(final.weight[:, :width].contiguous())
        first.out_features = final.in_features = width

    def forward(self, u: Tensor) -> Tensor:
        """Shape ``(…, inputs)`` to ``(…, outputs)``."""
        linear: Tensor = self.linear(u)
        return linear if self.network is None else linear + self.network(u)


class PointMap(nn.Module):
    """What the encoder and the decoder of one point share.

    Parameters
    ----------
    frames, network
        Modules of a Koopman autoencoder, shared with it.
    number
        Number of the point, in order of depth.
    """

    def __init__(self, frames: PointFrames, network: Lift, number: int) -> None:
        super().__init__()
        self.frames, self.network, self.number = frames, network, number


class PointEncoder(PointMap):
    """Encoder of one point: representations ``(…, width)`` to observables ``(…, latent_dim)``."""

    def forward(self, x: Tensor) -> Tensor:
        """Observables ``(…, latent_dim)``, in the dtype of the weights."""
        z: Tensor = self.network(self.frames.lift(x, self.number))
        return z


class PointDecoder(PointMap):
    """Decoder of one point: observables ``(…, latent_dim)`` to representations ``(…, width)``."""

    def forward(self, z: Tensor) -> Tensor:
        """Representations ``(…, width)``, in the dtype of the weights."""
        u: Tensor = self.network(z.to(self.frames.scale.dtype))
        return self.frames.lower(u, self.number)


def load_weights(model: nn.Module, tensors: Mapping[str, NDArray[Any]], path: Any) -> None:
    """Load saved arrays into a network.

    Parameters
    ----------
    model
        Set in place.
    tensors
        Arrays by the names of ``model.state_dict()``.
    path
        Folder that they were read from, for the error message.

    Raises
    ------
    RepdynError
        If a name, shape or type differs, or a value is not finite.
    """
    try:
        for name, own in model.state_dict().items():
            kind = np.asarray(tensors.get(name, 0.0)).dtype.kind
            if name in tensors and (kind == "f") != own.dtype.is_floating_point:
                raise RuntimeError(f"{name} holds {tensors[name].dtype}, expected {own.dtype}")
            if name in tensors and not np.isfinite(tensors[name]).all():
                raise RuntimeError(f"{name} holds values that are not finite")
        model.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in tensors.items()})
    except RuntimeError as error:
        raise RepdynError(
            f"{path}: the weights do not match config.json: {' '.join(str(error).split())}"
        ) from None
