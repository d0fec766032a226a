"""A fitted autoencoder as plain values and arrays, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from repdyn.conformity import check_sizes, check_values
from repdyn.errors import RepdynError
from repdyn.koopman.operators import OPERATORS
from repdyn.reading import as_array

if TYPE_CHECKING:
    from repdyn.koopman.autoencoder import KoopmanAutoencoder

__all__ = ["describe", "load_weights", "restore"]


def describe(kae: KoopmanAutoencoder) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Settings and weights of a fitted autoencoder: JSON values, and named arrays."""
    config = {
        "latent_dim": kae.latent_dim,
        "hidden": list(kae.hidden),
        "operator": kae.operator,
        "isometry": kae.isometry,
        "supervise": kae.supervise,
        "widths": [[point, width] for point, width in kae.widths_.items()],
        "history": kae.history_,
        "best_epoch": kae.best_epoch_,
    }
    return config, {name: as_array(value) for name, value in kae.state_dict().items()}


def restore(
    kind: type[KoopmanAutoencoder], config: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]], path: Any
) -> KoopmanAutoencoder:
    """The autoencoder that :func:`describe` described.

    Parameters
    ----------
    kind
        Its class.
    config, tensors
        As :func:`describe` gave them.
    path
        Where they were read, for the error message.

    Raises
    ------
    RepdynError
        If they are something else's, or do not fit one another.
    """
    try:
        check_values(config, **_SAVED)
        widths = dict(config["widths"])
        check_values({"widths": widths}, widths=dict[str, int])
        check_sizes(
            tensors, latent_dim=config["latent_dim"], hidden=config["hidden"], widths=list(widths.values())
        )
        kae = kind(config["latent_dim"], config["hidden"], config["operator"], config["isometry"])
        kae.supervise = config["supervise"]
        kae.build(widths, seed=0)
        kae.history_, kae.best_epoch_ = config["history"], config["best_epoch"]
    except (KeyError, TypeError, ValueError) as error:
        raise RepdynError(f"{path}: its config.json is not that of a Koopman autoencoder ({error})") from None
    load_weights(kae, tensors, path)
    return kae.eval()


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


def load_weights(model: nn.Module, tensors: Mapping[str, NDArray[Any]], path: Any) -> None:
    """Give a network the arrays that were saved of it; ``path`` is named where they do not fit."""
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
