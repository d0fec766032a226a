"""Fitting a Koopman autoencoder to paths: reading, frames, the start, and training."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from repdyn.devices import device_of
from repdyn.koopman.checks import check_long_enough, check_settings
from repdyn.koopman.networks import start_at_principal_components
from repdyn.koopman.reading import read_points
from repdyn.koopman.states import Held, States, Streamed, lifted_bytes, some_rows, survey
from repdyn.koopman.training import Plan, Weights, train
from repdyn.paths import RepresentationPaths, nearby
from repdyn.reading import as_array
from repdyn.repeats import groups_of_equal_rows

if TYPE_CHECKING:
    from repdyn.koopman.autoencoder import KoopmanAutoencoder

__all__ = ["fit"]

_SMALLEST_BATCH, _LARGEST_BATCH = 32, 512
_VALIDATION = 0.1  # of the training paths, for early stopping


def fit(
    kae: KoopmanAutoencoder,
    paths: RepresentationPaths,
    *,
    epochs: int,
    seed: int,
    batch_size: int | None,
    learning_rate: float,
    schedule: str,
    patience: int | None,
    checkpoint: str | os.PathLike[str] | None,
    fabric: Any,
    device: str | torch.device | None,
) -> KoopmanAutoencoder:
    """Fit in place and return the same; the arguments are those of ``KoopmanAutoencoder.fit``."""
    plan = Plan(
        epochs=epochs,
        batch_size=batch_size or min(max(len(paths) // 8, _SMALLEST_BATCH), _LARGEST_BATCH),
        learning_rate=learning_rate,
        schedule=schedule,
        supervise=kae.supervise,
        patience=patience,
    )
    check_settings(kae, plan, fabric)
    check_long_enough(paths)
    here = device_of(kae)
    paths_given, paths = paths, nearby(paths, plan.memory)
    kae.build({point: paths.widths[point] for point in paths.points}, seed)
    held = lifted_bytes(paths, kae.frames_.width) <= plan.memory
    where = device or (here if fabric is None else fabric.device)
    lifted, groups = (_held if held else _streamed)(kae, paths, where)
    different = int(groups.max()) + 1
    where = lifted.device
    generator = torch.Generator().manual_seed(seed)
    start_at_principal_components(kae.encoder_, kae.decoder_, lifted, generator)
    judged = max(1, min(max(2, round(_VALIDATION * different)), different - 1))
    held_out = torch.zeros(different, dtype=torch.bool)
    held_out[torch.randperm(different, generator=generator)[:judged]] = True
    held_out = held_out[torch.from_numpy(groups)]  # equal samples are on one side
    kae.train()
    kae.history_, kae.best_epoch_ = train(
        kae.encoder_,
        kae.decoder_,
        kae.operator_,
        lifted,
        held_out.to(where),
        Weights(isometry=kae.isometry),
        plan,
        generator=generator,
        checkpoint=checkpoint,
        fabric=fabric,
    )
    kae.training_paths_ = paths_given
    kae.eval()
    return kae


def _held(
    kae: KoopmanAutoencoder, paths: RepresentationPaths, device: torch.device | str
) -> tuple[States, NDArray[np.int64]]:
    """All states on the device, after the frames are fitted to them, and equal samples."""
    states = read_points(paths)
    kae.frames_.fit(states)
    kae.to(device)
    where = kae.frames_.scale.device
    lifted = torch.stack([kae.frames_.lift(x.to(where), n) for n, x in enumerate(states)])
    return Held(lifted), groups_of_equal_rows(as_array(states[0]))


def _streamed(
    kae: KoopmanAutoencoder, paths: RepresentationPaths, device: torch.device | str
) -> tuple[States, NDArray[np.int64]]:
    """The same of paths that are not held."""
    spread = survey(paths)
    kae.frames_.fit_to(spread.moments, some_rows(paths), len(paths))
    kae.to(device)
    return Streamed(paths, kae.frames_), spread.groups
