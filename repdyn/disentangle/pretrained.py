"""A fitted SKD or SSM-SKD as plain values and arrays, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

from numpy.typing import NDArray

from repdyn.conformity import check_sizes, check_types, check_values
from repdyn.disentangle.losses import Weights
from repdyn.errors import RepdynError
from repdyn.koopman.networks import load_weights
from repdyn.reading import as_array

if TYPE_CHECKING:
    from repdyn.disentangle.structured import StructuredKoopman

__all__ = ["describe", "restore"]

_SAVED: dict[str, Any] = {
    "static_dim": int,
    "latent_dim": int,
    "hidden": int,
    "channels": list[int] | None,
    "extraction": str,
    "threshold": float,
    "weights": dict[str, float],
    "frame": list[int],
    "widths": list[list[Any]] | None,
    "history": dict[str, list[float]],
    "best_epoch": int,
}
M = TypeVar("M", bound="StructuredKoopman")


def describe(model: StructuredKoopman) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Settings and weights of a fitted model: JSON values, and named arrays."""
    config = {
        "model": type(model).__name__,
        "static_dim": model.static_dim,
        "latent_dim": model.latent_dim,
        "hidden": model.hidden,
        "channels": None if model.channels is None else list(model.channels),
        "extraction": model.extraction,
        "threshold": model.threshold,
        "weights": asdict(model.weights),
        "frame": list(model.frame_),
        "widths": None if model.frames_ is None else list(model.frames_.widths.items()),
        "history": model.history_,
        "best_epoch": model.best_epoch_,
    }
    return config, {name: as_array(value) for name, value in model.state_dict().items()}


def restore(kind: type[M], config: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]], path: Any) -> M:
    """The model that :func:`describe` described.

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
        If they are another model's, or do not fit one another.
    """
    if config.get("model") != kind.__name__:
        raise RepdynError(f"{path}: holds a {config.get('model')!r}; load it with that class")
    try:
        check_values(config, **_SAVED)
        weights, widths = Weights(**config["weights"]), config["widths"]
        check_types(weights)
        own = None if widths is None else dict(widths)
        check_values({"widths": own}, widths=dict[str, int] | None)
        check_sizes(
            tensors,
            latent_dim=config["latent_dim"],
            hidden=config["hidden"],
            channels=config["channels"],
            widths=None if own is None else list(own.values()),
        )
        model = kind(
            static_dim=config["static_dim"],
            latent_dim=config["latent_dim"],
            hidden=config["hidden"],
            channels=config["channels"],
            extraction=config["extraction"],
            threshold=config["threshold"],
            weights=weights,
        )
        model.build(config["frame"], own, seed=0)
        model.history_, model.best_epoch_ = config["history"], config["best_epoch"]
    except (KeyError, TypeError, ValueError) as error:
        raise RepdynError(f"{path}: its config.json is not that of a {kind.__name__} ({error})") from None
    load_weights(model, tensors, path)
    return model.eval()
