"""What SKD and SSM-SKD refuse before they start to work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from repdyn.disentangle.networks import smallest_side
from repdyn.errors import RepdynError, nearest_names

if TYPE_CHECKING:
    from repdyn.disentangle.structured import StructuredKoopman

__all__ = ["EXTRACTIONS", "check_fitted", "check_plan", "check_settings"]

EXTRACTIONS = ("eigenvector", "coordinate")
_CHANNELS = 4  # convolutions of a clip's encoder by default


def check_settings(model: StructuredKoopman, frame: Sequence[int]) -> None:
    """Refuse settings that make no sense, each by its name."""
    if model.latent_dim < 1 or model.hidden < 1 or any(width < 1 for width in model.channels or ()):
        raise RepdynError(
            f"latent_dim, hidden and channels must be positive, got {model.latent_dim}, {model.hidden} and "
            f"{model.channels}"
        )
    if not 1 <= model.static_dim <= model.latent_dim:
        raise RepdynError(
            f"static_dim={model.static_dim} must be from 1 to latent_dim={model.latent_dim}: there are no "
            "more eigenvalues than that"
        )
    if model.extraction not in EXTRACTIONS:
        raise RepdynError(
            f"there is no extraction {model.extraction!r}; {nearest_names(model.extraction, EXTRACTIONS)}"
        )
    if model.weights.constancy and model.static_dim != 1:
        raise RepdynError(
            f"the constancy loss follows one static mode, and static_dim is {model.static_dim}; set it to 1, "
            "or the loss's weight to 0"
        )
    if len(frame) == 3:
        step = smallest_side(model.channels or (0,) * _CHANNELS)
        if frame[1] % step or frame[2] % step:
            raise RepdynError(
                f"frames are {frame[1]}×{frame[2]} pixels; {step} must divide both, because each convolution "
                "halves them: resize the clips, or give fewer channels"
            )


def check_plan(epochs: int, batch_size: int, learning_rate: float, count: int) -> None:
    """Refuse a training plan that makes no sense."""
    if epochs < 1 or batch_size < 2 or not learning_rate > 0:
        raise RepdynError(
            "epochs must be at least 1, batch_size at least 2 and learning_rate positive, "
            f"got {epochs}, {batch_size} and {learning_rate}"
        )
    if count < 2:
        raise RepdynError(f"{count} sequence is too few to fit and to validate; at least two are needed")


def check_fitted(model: StructuredKoopman) -> None:
    """Refuse a model that is not fitted."""
    if not hasattr(model, "frame_"):
        raise RepdynError(f"this {type(model).__name__} is not fitted yet; call fit(sequences) first")
