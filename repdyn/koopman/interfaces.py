"""A fitted autoencoder from outside: what the analyses of this room need of it, and what its folder holds.

Evaluation, spectra and edits are typed on :class:`FittedAutoencoder`. The class that implements it,
:class:`repdyn.koopman.KoopmanAutoencoder`, imports them, and no import runs back. :func:`described` and
:func:`restored` are the saved form: settings as JSON values, and weights as named arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol, Self, runtime_checkable

import torch
from numpy.typing import NDArray
from torch import nn

from repdyn.conformity import check_sizes, check_values
from repdyn.errors import RepdynError
from repdyn.koopman.frames import Lift, PointFrames, load_weights
from repdyn.koopman.operators import OPERATORS, Operator
from repdyn.paths import RepresentationPaths
from repdyn.reading import as_array

__all__ = ["AUTOENCODERS", "FittedAutoencoder", "described", "restored"]


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

_SAVED: dict[str, Any] = {
    "latent_dim": int | None,
    "hidden": list[int],
    "operator": Literal[tuple(OPERATORS)],
    "isometry": float,
    "supervise": Literal["all", "last"],
    "widths": list[list[Any]],
    "history": dict[str, list[float]],
    "best_epoch": int,
}
_ADDED: dict[str, Any] = {
    "decoder_hidden": list[int] | None,
    "common_frame": bool,
    "phase_starts": list[int],
}
_BEFORE: dict[str, Any] = {"decoder_hidden": None, "common_frame": False, "phase_starts": [0]}
# Entries that folders of version 0.1 lack, and what holds there.


def described(kae: Any) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Settings and weights of a fitted autoencoder.

    Parameters
    ----------
    kae
        A :class:`~repdyn.koopman.KoopmanAutoencoder`.
    """
    config = {
        "latent_dim": kae.latent_dim_,
        "hidden": _hidden_of(kae.encoder_),
        "decoder_hidden": _hidden_of(kae.decoder_),
        "operator": kae.chosen_,
        "phase_starts": list(kae.phase_starts_),
        "common_frame": kae.frames_.common,
        "isometry": kae.isometry,
        "supervise": kae.supervise,
        "widths": [[point, width] for point, width in kae.widths_.items()],
        "history": kae.history_,
        "best_epoch": kae.best_epoch_,
    }
    return config, {name: as_array(value) for name, value in kae.state_dict().items()}


def restored(
    create: Callable[..., Any], config: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]], path: Any
) -> Any:
    """The autoencoder from the values of :func:`described`.

    Parameters
    ----------
    create
        The class, :class:`~repdyn.koopman.KoopmanAutoencoder`.
    config, tensors
        Settings and weights.
    path
        Folder that they were read from, for the error message.

    Raises
    ------
    RepdynError
        If the values belong to something else, or do not match each other.
    """
    try:
        check_values(config, **_SAVED)
        added = {name: config.get(name, value) for name, value in _BEFORE.items()}
        check_values(added, **_ADDED)
        widths = dict(config["widths"])
        check_values({"widths": widths}, widths=dict[str, int])
        check_sizes(
            tensors,
            latent_dim=config["latent_dim"],
            hidden=config["hidden"],
            decoder_hidden=added["decoder_hidden"] or [],
            widths=list(widths.values()),
        )
        kae = create(config["latent_dim"], config["hidden"], config["operator"], config["isometry"])
        kae.supervise = config["supervise"]
        # A folder of version 0.1 with the default number of observables does not name it.
        observables = len(tensors["encoder_.linear.bias"])
        kae.latent_dim = kae.latent_dim or observables
        kae.build(
            widths,
            0,
            config["hidden"],
            added["decoder_hidden"],
            config["operator"],
            observables,
            added["common_frame"],
            added["phase_starts"],
        )
        kae.history_, kae.best_epoch_ = config["history"], config["best_epoch"]
    except (KeyError, TypeError, ValueError) as error:
        raise RepdynError(f"{path}: its config.json is not that of a Koopman autoencoder ({error})") from None
    load_weights(kae, tensors, path)
    return kae.eval()


def _hidden_of(lift: Lift) -> list[int]:
    """Widths of the hidden layers of an encoder or decoder."""
    layers = [] if lift.network is None else [one for one in lift.network if isinstance(one, nn.Linear)]
    return [one.out_features for one in layers[:-1]]
