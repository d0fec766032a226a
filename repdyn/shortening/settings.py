"""Tuned numbers of the shortening room."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ShortenSettings"]


@dataclass(frozen=True)
class ShortenSettings:
    """A fit of :func:`repdyn.shorten`."""

    parts: tuple[float, float, float] = (0.6, 0.2, 0.2)
    """Shares of the samples: to fit maps, to choose among them, to predict the loss."""

    min_samples: int = 20
    """Fewest samples: twelve to fit, four to choose, four to predict."""

    held_bytes: int = 2**29
    """Bytes of tokens (float32) that are held at a time; more are drawn from."""

    units: int = 2
    """Hidden units of a lifted map, in channels: it then computes less than half of a transformer's block.
    Not varied."""

    runs: int = 3
    """Runs whose maps are compared by the output of the whole network. Not varied."""

    slopes: tuple[float, float] = (0.5, 3.0)
    """Smallest and largest slope of a hidden unit, in standard deviations of the data. Not varied."""

    penalties: tuple[float, ...] = (1e-8, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
    """Ridge penalties, relative to the mean eigenvalue; chosen on unseen tokens."""

    batch: int = 32
    """Samples in a forward pass."""
