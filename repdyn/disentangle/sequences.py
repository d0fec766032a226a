"""Sequences of all accepted forms as one padded tensor with a mask, checked before training."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from repdyn.devices import to
from repdyn.errors import RepdynError
from repdyn.koopman.frames import PointFrames
from repdyn.koopman.states import read_points
from repdyn.paths import RepresentationPaths
from repdyn.reading import as_array

__all__ = ["Sequences", "read_sequences", "warn_of_few_transitions"]

_FEWEST_FRAMES = 2  # an operator needs a transition


@dataclass(frozen=True, eq=False)
class Sequences:
    """Sequences of frames, padded to the longest.

    Attributes
    ----------
    values
        Shape ``(N, T, …)``, float32: pixels in [0, 1], or vectors.
    mask
        Which frames are real, shape ``(N, T)``.
    """

    values: Tensor
    mask: Tensor

    def __len__(self) -> int:
        return len(self.values)

    @property
    def frame(self) -> tuple[int, ...]:
        """Shape of a frame."""
        return tuple(self.values.shape[2:])

    @cached_property
    def full(self) -> bool:
        """Whether all are of one length."""
        return bool(self.mask.all())

    def take(self, rows: Any) -> Sequences:
        """The selected sequences."""
        taken = Sequences(self.values[rows], self.mask[rows])
        if self.full:  # known without reading the mask: on a GPU that would wait for all work before it
            taken.__dict__["full"] = True
        return taken


def read_sequences(sequences: Any, frames: PointFrames | None = None) -> Sequences:
    """Sequences from arrays, tensors, lists or paths.

    Parameters
    ----------
    sequences
        An array or tensor ``(N, T, width)`` or ``(N, T, channels, height, width)``; a list of such sequences
        without the first axis, of any lengths; or pooled representation paths, with depth as time. Integers
        are pixels of 0 to 255.
    frames
        For paths: fitted maps of every point to one space.

    Returns
    -------
    Sequences

    Raises
    ------
    RepdynError
        On a sequence of one frame, frames of different shapes, another number of axes, or values that are not
        finite (named by sequence and frame).
    """
    if isinstance(sequences, Sequences):
        return sequences
    if isinstance(sequences, RepresentationPaths):
        return _of_paths(sequences, frames)
    if isinstance(sequences, (list, tuple)):
        return _of_list(sequences)
    values = _floats(sequences)
    if values.ndim not in (3, 5):
        raise RepdynError(
            f"sequences have shape {tuple(values.shape)}; expected (N, T, width), (N, T, channels, height, "
            "width), or a list of sequences without the first axis"
        )
    if 0 in values.shape:
        raise RepdynError(f"sequences: expected at least one value, got shape {tuple(values.shape)}")
    return _checked(values, torch.ones(values.shape[:2], dtype=torch.bool))


def warn_of_few_transitions(latent_dim: int, data: Sequences, per_sequence: bool) -> None:
    """Warn if an operator has fewer transitions than rows, so that the ridge determines the rest."""
    counts = data.mask.sum(dim=1) - 1
    transitions = int(counts.min() if per_sequence else counts.sum())
    if latent_dim > transitions:
        warnings.warn(
            f"latent_dim={latent_dim} is more than the {transitions} transitions an operator is solved from: "
            "the ridge determines the other directions, and their eigenvalues are zero",
            stacklevel=4,
        )


def _of_paths(paths: RepresentationPaths, frames: PointFrames | None) -> Sequences:
    """Pooled paths, with depth as time, in one space ``(N, points, width)``."""
    if len(paths.points) < _FEWEST_FRAMES:
        raise RepdynError(f"the path has one point, {paths.points[0]!r}; depth as time needs at least two")
    states = read_points(paths)
    if frames is None:
        frames = PointFrames({point: x.shape[1] for point, x in zip(paths.points, states)}).fit(states)
    known = {point: x.shape[1] for point, x in zip(paths.points, states)}
    if known != frames.widths:
        raise RepdynError(
            f"the paths have points and widths {known}, this model was fitted to {frames.widths}: "
            "they are those of another model"
        )
    lifted = torch.stack([frames.lift(x, number) for number, x in enumerate(states)], dim=1)
    return _checked(lifted.float(), torch.ones(lifted.shape[:2], dtype=torch.bool))


def _of_list(sequences: Sequence[Any]) -> Sequences:
    """Sequences of different lengths, padded to the longest."""
    if not sequences:
        raise RepdynError("there is no sequence; give at least two")
    parts = [_floats(sequence) for sequence in sequences]
    shapes = {tuple(part.shape[1:]) for part in parts}
    if len(shapes) > 1 or parts[0].ndim not in (2, 4):
        raise RepdynError(
            f"frames of the sequences have shapes {sorted(shapes)}; expected one shape for all, (width,) or "
            "(channels, height, width)"
        )
    longest = max(len(part) for part in parts)
    values = torch.zeros(len(parts), longest, *parts[0].shape[1:])
    mask = torch.zeros(len(parts), longest, dtype=torch.bool)
    for row, part in enumerate(parts):
        values[row, : len(part)], mask[row, : len(part)] = part, True
    return _checked(values, mask)


def _floats(x: Any) -> Tensor:
    """Values as float32 on the CPU; integers are pixels and divided by 255."""
    array = x if isinstance(x, Tensor) else np.ascontiguousarray(as_array(x))
    if isinstance(array, np.ndarray) and array.dtype.kind not in "biufc":
        raise RepdynError(
            f"sequences: expected numbers, got an array of type {array.dtype}; give sequences of differing "
            "lengths as a list"
        )
    values = to(array.detach(), "cpu") if isinstance(array, Tensor) else torch.from_numpy(array)
    if values.is_complex() or values.dtype == torch.bool:
        raise RepdynError(f"sequences: expected real numbers, got type {values.dtype}")
    return values.float() if values.is_floating_point() else values.float() / 255


def _checked(values: Tensor, mask: Tensor) -> Sequences:
    """Sequences, or an error that names the first one that is too short, not finite, or out of range."""
    lengths = mask.sum(dim=1)
    if int(lengths.min()) < _FEWEST_FRAMES:
        row = int(lengths.argmin())
        raise RepdynError(
            f"sequence {row} has length {int(lengths[row])}; dynamics need at least {_FEWEST_FRAMES} frames: "
            "leave such sequences out"
        )
    finite = values.isfinite().flatten(2).all(dim=2)
    if not finite.all():
        row, frame = (int(i) for i in (~finite).nonzero()[0])
        raise RepdynError(
            f"sequence {row}, frame {frame}: a value is not finite "
            f"({int((~finite.all(dim=1)).sum())} sequences in all); leave such sequences out"
        )
    if values.ndim == 5 and (float(values.min()) < 0 or float(values.max()) > 1):
        raise RepdynError(
            f"pixels reach from {float(values.min()):g} to {float(values.max()):g}; expected floats in "
            "[0, 1], or integers of 0 to 255"
        )
    return Sequences(values, mask)
