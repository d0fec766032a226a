"""Training SKD and SSM-SKD: Adam, a plateau schedule, clipped gradients; all data on the device."""

from __future__ import annotations

import copy
import logging
from typing import Any

import torch
from torch import Tensor

from repdyn.arguments import whole
from repdyn.devices import device_of, double, to
from repdyn.disentangle.losses import (
    drop_latents,
    exchange_static,
    forward_operators,
    motion_loss,
    sequence_losses,
)
from repdyn.disentangle.sequence_autoencoder import SequenceAutoencoder
from repdyn.disentangle.sequences import Sequences, read_sequences, warn_of_few_transitions
from repdyn.disentangle.settings import TRAINING, TrainingSettings
from repdyn.disentangle.spectral import operators_of
from repdyn.errors import RepdynError
from repdyn.koopman.frames import PointFrames
from repdyn.koopman.states import read_points
from repdyn.paths import RepresentationPaths
from repdyn.progress import track

__all__ = ["batch_losses", "fit"]

_log = logging.getLogger(__name__)


def fit(
    model: SequenceAutoencoder,
    sequences: Any,
    *,
    epochs: int,
    seed: int,
    batch_size: int,
    learning_rate: float,
    validation: Any,
    device: str | torch.device | None,
    settings: TrainingSettings = TRAINING,
) -> None:
    """Fit a model in place; the arguments are those of ``StructuredKoopman.fit``."""
    frames = _frames_of(sequences)
    data = read_sequences(sequences, frames)
    epochs, batch_size = whole("epochs", epochs), whole("batch_size", batch_size)
    if epochs < 1 or batch_size < 2 or not learning_rate > 0:
        raise RepdynError(
            "epochs must be at least 1, batch_size at least 2 and learning_rate positive, "
            f"got {epochs}, {batch_size} and {learning_rate}"
        )
    if len(data) < 2:
        raise RepdynError(f"sequences: expected at least two, to fit and to validate, got {len(data)}")
    here = device_of(model)  # building makes new networks, on the CPU
    model.build(data.frame, None if frames is None else frames.widths, seed)
    if frames is not None:
        model.frames_ = frames
    warn_of_few_transitions(model.latent_dim, data, model.operator == "sequence")
    generator = torch.Generator().manual_seed(seed)
    training, held_out = _parts(data, validation, frames, generator, settings.validation_part)
    _set_scale(model, training, settings.least_spread)
    to(model, device or here)
    training, held_out = (
        Sequences(to(part.values, model.device), to(part.mask, model.device)) for part in (training, held_out)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=settings.plateau_factor, patience=settings.plateau_patience
    )
    history: dict[str, list[float]] = {}
    best, best_state, best_epoch = float("inf"), copy.deepcopy(model.state_dict()), 0
    for epoch in track(range(epochs), f"fitting {type(model).__name__}", epochs):
        model.train()
        sums: dict[str, float] = {}
        order = torch.randperm(len(training), generator=generator)
        # Batch norm needs more than one sequence, so a last batch of one is left out.
        batches = [rows for rows in torch.split(order, batch_size) if len(rows) > 1]
        for rows in batches:
            losses = batch_losses(model, training.take(to(rows, model.device)), generator)
            total = torch.stack(list(losses.values())).sum()
            if not total.isfinite():
                raise RepdynError(f"the loss is no longer finite in epoch {epoch + 1}; lower learning_rate")
            optimizer.zero_grad()
            torch.autograd.backward(total)
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings.gradient_norm)
            optimizer.step()
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach()) / len(batches)
        validation_loss = _validation_loss(model, held_out, batch_size)
        for name, mean in {**sums, "validation": validation_loss}.items():
            history.setdefault(name, []).append(mean)
        if validation_loss < best:
            best, best_state, best_epoch = validation_loss, copy.deepcopy(model.state_dict()), epoch
        rate = optimizer.param_groups[0]["lr"]
        schedule.step(validation_loss)
        if optimizer.param_groups[0]["lr"] < rate:
            # A smaller rate does not undo the damage of a larger one: continue from the best weights.
            model.load_state_dict(best_state)
    model.load_state_dict(best_state)
    model.eval()
    model.history_, model.best_epoch_ = history, best_epoch
    _set_operator(model, training, batch_size)
    _log.info("%s: best epoch %d of %d, validation %.4g", type(model).__name__, best_epoch + 1, epochs, best)


def batch_losses(
    model: SequenceAutoencoder, batch: Sequences, generator: torch.Generator | None
) -> dict[str, Tensor]:
    """The weighted losses of a batch, by name; with dropout on the latents if a generator is given."""
    x, mask = model.standardize(batch.values), batch.mask
    z = model.encoder_(x, mask)
    operators, ahead = forward_operators(z, mask, model.operator)
    latents, shared = [z], mask
    if model.weights.motion:
        exchanged, shared = exchange_static(z, mask, operators, model.static_dim)
        latents.append(exchanged)
    noisy = latents if generator is None else [drop_latents(part, generator) for part in latents]
    # One decoder pass for all, so that the batch norms use common statistics.
    decoded, predicted, *swapped = model.decoder_(torch.cat([noisy[0], ahead, *noisy[1:]])).chunk(
        1 + len(latents)
    )
    losses = sequence_losses(
        x, z, mask, decoded, (ahead, predicted), operators, model.static_dim, model.threshold, model.weights
    )
    if swapped:
        losses["motion"] = model.weights.motion * motion_loss(swapped[0], x, shared)
    return losses


def _frames_of(sequences: Any) -> PointFrames | None:
    """Maps of all points of paths to one space, fitted; None for other sequences."""
    if not isinstance(sequences, RepresentationPaths):
        return None
    if len(sequences.points) < 2:
        raise RepdynError(
            f"sequences: the path has one point, {sequences.points[0]!r}; depth as time needs at least two"
        )
    states = read_points(sequences)
    return PointFrames({point: x.shape[1] for point, x in zip(sequences.points, states)}).fit(states)


def _parts(
    data: Sequences, validation: Any, frames: PointFrames | None, generator: torch.Generator, part: int
) -> tuple[Sequences, Sequences]:
    """Training and validation part; the latter is given, or one sequence in ``part``, drawn at random."""
    if validation is not None:
        held_out = read_sequences(validation, frames)
        if held_out.frame != data.frame:
            raise RepdynError(f"validation: expected frames of shape {data.frame}, got {held_out.frame}")
        return data, held_out
    order = torch.randperm(len(data), generator=generator)
    aside = max(1, len(data) // part)
    kept = order[aside:] if len(data) - aside > 1 else order
    return data.take(kept), data.take(order[:aside])


def _set_scale(model: SequenceAutoencoder, training: Sequences, least_spread: float) -> None:
    """Set the mean and scale of vectors, over all frames; pixels keep their units."""
    if len(model.frame_) != 1:
        return
    rows = double(training.values[training.mask])
    mean, spread = rows.mean(dim=0), rows.var(dim=0, correction=0).mean().sqrt()
    model.mean_.copy_(mean)
    # Constant sequences keep their scale: dividing would amplify rounding errors.
    model.scale_.copy_(spread if spread > least_spread * mean.norm() else torch.ones(()))


@torch.no_grad()
def _validation_loss(model: SequenceAutoencoder, held_out: Sequences, batch_size: int) -> float:
    """Mean total loss of the held-out sequences."""
    model.eval()
    total = 0.0
    for start in range(0, len(held_out), batch_size):
        part = held_out.take(slice(start, start + batch_size))
        losses = batch_losses(model, part, None)
        total += float(torch.stack(list(losses.values())).sum()) * len(part)
    return total / len(held_out)


@torch.no_grad()
def _set_operator(model: SequenceAutoencoder, training: Sequences, batch_size: int) -> None:
    """Set the operator of all training sequences."""
    parts = []
    for start in range(0, len(training), batch_size):
        part = training.take(slice(start, start + batch_size))
        parts.append(model.encoder_(model.standardize(part.values), part.mask))
    model.operator_.copy_(operators_of(torch.cat(parts), training.mask, "batch"))
