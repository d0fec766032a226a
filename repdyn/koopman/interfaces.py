"""What the analyses of this room need of a fitted autoencoder.

Evaluation, spectra and edits are typed on this protocol. The class that implements it,
:class:`repdyn.koopman.KoopmanAutoencoder`, imports them, and no import runs back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, Self, runtime_checkable

import torch

from repdyn.koopman.frames import PointFrames
from repdyn.koopman.operators import Operator
from repdyn.paths import RepresentationPaths

__all__ = ["AUTOENCODERS", "FittedAutoencoder"]


@runtime_checkable
class FittedAutoencoder(Protocol):
    """A fitted autoencoder with a linear operator on its observables."""

    points_: tuple[str, ...]
    widths_: dict[str, int]
    latent_dim_: int
    operator_: Operator
    phase_starts_: tuple[int, ...]
    frames_: PointFrames

    def encode(self, x: Any, point: str) -> Any:
        """Observables ``(…, latent_dim)`` of representations ``(…, width)`` at a point."""

    def decode(self, z: Any, point: str) -> Any:
        """Representations ``(…, width)`` at a point from observables ``(…, latent_dim)``."""

    def propagate(
        self, x: Any, source: str | float, target: str | float, *, reencode_every: float | None = None
    ) -> Any:
        """Representations at another depth, ``D(E(x) K^(target - source))``."""

    def check_paths(self, paths: RepresentationPaths) -> None:
        """Raise :class:`~repdyn.errors.RepdynError` if the paths have other points or widths."""

    def describe(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Settings as JSON values, and weights as named arrays."""

    @classmethod
    def restore(cls, config: Mapping[str, Any], tensors: Mapping[str, Any], path: Any) -> Self:
        """The autoencoder from the values of :meth:`describe`, read from ``path``."""

    def to(self, device: torch.device | str | None) -> Self:
        """Move the weights to a device."""


AUTOENCODERS: dict[str, type[FittedAutoencoder]] = {}
"""Autoencoder classes by the kind of their saved folder. A class registers itself when it is defined."""
