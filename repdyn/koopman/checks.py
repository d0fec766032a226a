"""What a Koopman autoencoder refuses before it starts to work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from repdyn.errors import RepdynError, nearest_names
from repdyn.koopman.operators import OPERATORS
from repdyn.koopman.schedules import SCHEDULES
from repdyn.paths import RepresentationPaths

if TYPE_CHECKING:
    from repdyn.koopman.autoencoder import KoopmanAutoencoder
    from repdyn.koopman.training import Plan

__all__ = ["check_fitted", "check_long_enough", "check_same_model", "check_settings", "training_paths"]

_SUPERVISION = ("all", "last")
_FEWEST = 10  # samples: nine to fit and one to validate


def check_settings(kae: KoopmanAutoencoder, plan: Plan, fabric: Any = None) -> None:
    """Refuse settings that make no sense, each by its name."""
    if (kae.latent_dim is not None and kae.latent_dim < 1) or any(width < 1 for width in kae.hidden):
        raise RepdynError(
            f"latent_dim and hidden widths must be positive, got {kae.latent_dim} and {kae.hidden}"
        )
    if kae.operator not in OPERATORS:
        raise RepdynError(f"there is no operator {kae.operator!r}; {nearest_names(kae.operator, OPERATORS)}")
    if kae.supervise not in _SUPERVISION:
        raise RepdynError(f"supervise must be one of {_SUPERVISION}, got {kae.supervise!r}")
    if plan.schedule not in SCHEDULES:
        raise RepdynError(
            f"there is no schedule {plan.schedule!r}; {nearest_names(plan.schedule, SCHEDULES)}"
        )
    if not kae.isometry >= 0:
        raise RepdynError(f"isometry must not be negative, got {kae.isometry}")
    if plan.epochs < 1 or plan.batch_size < 2 or not plan.learning_rate > 0:
        raise RepdynError(
            "epochs must be at least 1, batch_size at least 2 and learning_rate positive, "
            f"got {plan.epochs}, {plan.batch_size} and {plan.learning_rate}"
        )
    if plan.patience is not None and plan.patience < 1:
        raise RepdynError(f"patience must be at least one epoch, got {plan.patience}")
    if kae.operator == "least_squares" and kae.supervise == "last":
        raise RepdynError(
            "operator='least_squares' is solved for on single steps, which supervise='last' leaves out; "
            "take operator='generator'"
        )
    if kae.operator == "least_squares" and fabric is not None and fabric.world_size > 1:
        raise RepdynError(
            "operator='least_squares' is solved for on whole batches and cannot be split over "
            f"{fabric.world_size} processes; take another operator, or one process"
        )


def check_long_enough(paths: RepresentationPaths) -> None:
    """Refuse paths of one point, of too few samples, or of more points than samples."""
    if len(paths.points) < 2:
        raise RepdynError(
            f"the path has one point, {paths.points[0]!r}; a Koopman autoencoder needs at least two"
        )
    if len(paths) < _FEWEST:
        raise RepdynError(
            f"{len(paths)} samples are too few to fit and to validate; at least {_FEWEST} are needed"
        )
    if len(paths) < len(paths.points):
        raise RepdynError(
            f"the path has {len(paths.points)} points but only {len(paths)} samples; trace more samples, or "
            "fewer points (each point is an array of samples by width)"
        )


def check_fitted(kae: KoopmanAutoencoder) -> tuple[str, ...]:
    """Refuse an autoencoder that is not fitted; its points otherwise."""
    if not hasattr(kae, "points_"):
        raise RepdynError("this KoopmanAutoencoder is not fitted yet; call fit(paths) first")
    return kae.points_


def check_same_model(kae: KoopmanAutoencoder, paths: RepresentationPaths) -> None:
    """Refuse paths of another model: other points, or other widths."""
    points = check_fitted(kae)
    if paths.points != points:
        raise RepdynError(f"the paths have points {paths.points}, this autoencoder was fitted to {points}")
    for point, width in kae.widths_.items():
        if paths.widths[point] != width:
            raise RepdynError(
                f"point {point!r} is {paths.widths[point]} wide, this autoencoder was fitted to {width}: "
                "the paths are those of another model"
            )


def training_paths(
    kae: KoopmanAutoencoder, given: RepresentationPaths | None, what: str
) -> RepresentationPaths:
    """The paths to fit controls and probes on: those given, else those that were fitted to."""
    check_fitted(kae)
    found = given if given is not None else kae.training_paths_
    if found is None:
        raise RepdynError(
            f"{what} fits controls and probes on the training paths, which a saved autoencoder does not "
            "hold; give them as train="
        )
    return found
