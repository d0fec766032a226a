"""One linear frame for each point, so that points of any width share one state space.

A frame is a mean, one scale and a partial isometry. It is fitted before training and then fixed: a lift
that is learned freely for each point could absorb any linear step and would leave the operator nothing to
explain.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from repdyn.errors import RepdynError

__all__ = ["FRAME_ROWS", "PointFrames", "wide_coordinates"]

_WIDEST = 1024  # a point wider than this and than the last keeps its leading principal components
FRAME_ROWS = 20_000  # are enough to find a rotation by; mean and scale are those of all rows
# A spread this small beside the mean's size is rounding of the type that the data came in, not variation.
_CONSTANT, _CONSTANT_DOUBLE = 1e-7, 1e-14
_WIDE = 4.0  # times the median spread: what a coordinate's spread is brought down to where it exceeds that


class PointFrames(nn.Module):
    """Centre, scale and rotate every point into one space, as near to the last point as a rotation brings it.

    ``u = ((x - m) / w) B / s`` with ``s`` the root of the total variance. ``w`` is one, but at coordinates
    whose spread is over four times the median one, which it brings down to that: single coordinates of
    language models are a thousand times wider than the rest, and would be all that is learned. ``B`` is the
    identity at the last point; elsewhere it is the partial isometry that brings the point nearest to the last
    (orthogonal Procrustes). The space is as wide as the widest point, so every point is embedded and its
    frame exactly invertible; only points wider than 1024 (and than the last) are cut to their leading
    principal components, and ``explained`` says how much of their variance is kept.

    Parameters
    ----------
    widths
        Width of each point, in order of depth.
    """

    def __init__(self, widths: Mapping[str, int]) -> None:
        super().__init__()
        self.widths = dict(widths)
        self.points = tuple(widths)
        last = self.widths[self.points[-1]]
        self.width = max(last, min(max(self.widths.values()), _WIDEST))
        for number, point in enumerate(self.points):
            self.register_buffer(f"mean_{number}", torch.zeros(self.widths[point]))
            self.register_buffer(f"rest_{number}", torch.zeros(self.widths[point]))
            self.register_buffer(f"wide_{number}", torch.ones(self.widths[point]))
            self.register_buffer(f"basis_{number}", torch.eye(self.widths[point], self.width))
        self.register_buffer("scale", torch.ones(len(self.points)))
        self.register_buffer("explained", torch.ones(len(self.points)))

    scale: Tensor
    explained: Tensor

    @torch.no_grad()
    def fit(self, states: list[Tensor]) -> PointFrames:
        """Learn the frames from training representations.

        Parameters
        ----------
        states
            For each point its rows, shape ``(N, width)``.

        Raises
        ------
        RepdynError
            If a point does not vary.
        """
        every = max(1, len(states[0]) // FRAME_ROWS)
        moments = (torch.var_mean(x.double(), dim=0, correction=0) for x in states)
        return self.fit_to(list(moments), lambda number: states[number][::every], len(states[0]))

    @torch.no_grad()
    def fit_to(
        self, moments: list[tuple[Tensor, Tensor]], rows_at: Callable[[int], Tensor], samples: int
    ) -> PointFrames:
        """The same, from what is known of all rows and from some of them.

        Parameters
        ----------
        moments
            Variance and mean of every coordinate, for each point.
        rows_at
            Gives rows of a point ``(n, width)``, of the same samples for each.
        samples
            How many there are in all.

        Raises
        ------
        RepdynError
            If a point does not vary.
        """
        last = rows_at(len(moments) - 1).double()
        last = last - last.mean(dim=0)
        last = last / wide_coordinates(moments[-1][0].sqrt())
        last = last @ self.get_buffer(f"basis_{len(moments) - 1}").double()
        for number, (variance, mean) in enumerate(moments):
            point, width = self.points[number], len(mean)
            # Where a point is cut to its principal components, these are of its own coordinates.
            cut = width > self.width
            wide = torch.ones_like(mean) if cut else wide_coordinates(variance.sqrt())
            scale = (variance.sqrt() / wide).square().sum().sqrt()
            x = rows_at(number)
            rounding = _CONSTANT_DOUBLE if x.dtype == torch.float64 else _CONSTANT
            if not variance.sum().sqrt() > rounding * mean.norm():
                raise RepdynError(
                    f"point {point!r} is constant over the {samples} samples: there is nothing to predict; "
                    "leave it out of the path"
                )
            if number < len(moments) - 1:
                rows = (x.double() - mean) / wide
                basis = _nearest_isometry(rows, last, self.width)
                self.get_buffer(f"basis_{number}").copy_(basis)
                if width > self.width:
                    self.explained[number] = (rows @ basis).square().sum() / rows.square().sum()
            # In two parts, so that a mean far from zero loses nothing in single precision.
            held = self.get_buffer(f"mean_{number}").copy_(mean)
            self.get_buffer(f"rest_{number}").copy_(mean - held.double())
            self.get_buffer(f"wide_{number}").copy_(wide)
            self.scale[number] = scale
        return self

    def lift(self, x: Tensor, number: int) -> Tensor:
        """Representations at point ``number``, shape ``(…, width)``, in the shared space ``(…, w)``."""
        basis = self.get_buffer(f"basis_{number}")
        centred = (x - self.get_buffer(f"mean_{number}").to(x.dtype)) - self.get_buffer(f"rest_{number}")
        u: Tensor = (centred.to(basis.dtype) / self.get_buffer(f"wide_{number}")) @ basis / self.scale[number]
        return u

    def lower(self, u: Tensor, number: int, dtype: torch.dtype | None = None) -> Tensor:
        """Back to the point's own coordinates; the inverse of :meth:`lift` on its image."""
        basis = self.get_buffer(f"basis_{number}")
        x: Tensor = self.scale[number] * u @ basis.T * self.get_buffer(f"wide_{number}")
        if dtype is not None:
            x = x.to(dtype)
        moved: Tensor = (x + self.get_buffer(f"rest_{number}")) + self.get_buffer(f"mean_{number}")
        return moved

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        """Read what version 0.1 wrote too: it knew neither wide coordinates nor a mean in two parts."""
        for name, value in self._buffers.items():
            if name.startswith(("rest_", "wide_")) and value is not None:
                state_dict.setdefault(prefix + name, value)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def wide_coordinates(spread: Tensor) -> Tensor:
    """What each coordinate is divided by: 1, but where its spread is over four times the median of all."""
    varying = spread[spread > 0]
    if not len(varying):
        return torch.ones_like(spread)
    return (spread / (_WIDE * varying.median())).clamp_min(1.0)


def _nearest_isometry(x: Tensor, last: Tensor, width: int) -> Tensor:
    if x.shape[1] > width:
        axes = principal_axes(x, width)
        return axes @ _procrustes((x @ axes).T @ last)
    return _procrustes(x.T @ last)


def _procrustes(cross: Tensor) -> Tensor:
    left, _, right = torch.linalg.svd(cross, full_matrices=False)
    isometry: Tensor = left @ right
    return isometry


def principal_axes(x: Tensor, count: int) -> Tensor:
    """Leading right singular vectors of centred rows, shape ``(p, count)``; orthonormal in any case.

    Where there are fewer rows than columns, they come from the smaller Gram matrix, and directions without
    variance are completed by the QR decomposition.
    """
    rows, columns = x.shape
    if columns <= rows:
        _, vectors = torch.linalg.eigh(x.T @ x)
        leading: Tensor = vectors.flip(1)[:, :count]
        return leading
    values, vectors = torch.linalg.eigh(x @ x.T)
    found = min(count, int((values > values[-1] * 1e-12).sum()))
    axes = x.T @ vectors.flip(1)[:, :found]
    filling = torch.eye(columns, dtype=x.dtype, device=x.device)[:, : count - found]
    orthonormal: Tensor = torch.linalg.qr(torch.cat([axes, filling], dim=1)).Q
    return orthonormal
