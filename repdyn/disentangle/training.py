"""Training SKD and SSM-SKD: Adam, a plateau schedule, clipped gradients; all data on the device."""

from __future__ import annotations

import copy
import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from repdyn.arguments import whole
from repdyn.devices import device_of, double, to, widest
from repdyn.disentangle.checkpoints import Checkpoint, TrainingState, plan_of
from repdyn.disentangle.losses import (
    cycle_loss,
    drop_latents,
    dropout_masks,
    exchange_static,
    forward_operators,
    motion_loss,
    sequence_losses,
)
from repdyn.disentangle.sequence_autoencoder import SequenceAutoencoder
from repdyn.disentangle.sequences import Sequences, read_sequences, warn_of_few_transitions
from repdyn.disentangle.settings import TRAINING, TrainingSettings
from repdyn.disentangle.spectral import operators_of, real_schur
from repdyn.errors import RepdynError, nearest_names
from repdyn.koopman.frames import PointFrames
from repdyn.koopman.states import read_points
from repdyn.paths import RepresentationPaths
from repdyn.progress import track

__all__ = ["PRECISIONS", "batch_losses", "fit"]

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
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
    precision: str = "float32",
    compiled: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    settings: TrainingSettings = TRAINING,
) -> None:
    """Fit a model in place; the arguments are those of ``StructuredKoopman.fit``.

    Within an epoch, the device is waited for only where Schur forms are computed, on the CPU.
    """
    frames = _frames_of(sequences)
    data = read_sequences(sequences, frames)
    epochs, batch_size = whole("epochs", epochs), whole("batch_size", batch_size)
    if epochs < 1 or batch_size < 2 or not learning_rate > 0:
        raise RepdynError(
            "epochs must be at least 1, batch_size at least 2 and learning_rate positive, "
            f"got {epochs}, {batch_size} and {learning_rate}"
        )
    if precision not in PRECISIONS:
        raise RepdynError(f"there is no precision {precision!r}; {nearest_names(precision, PRECISIONS)}")
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
    state = TrainingState(model, optimizer, schedule, generator, copy.deepcopy(model.state_dict()))
    kept = None
    if checkpoint is not None:
        named = {"seed": seed, "batch_size": batch_size, "rate": learning_rate, "precision": precision}
        plan = plan_of(model, training, held_out, named)
        kept = Checkpoint(checkpoint, plan, settings.checkpoint_seconds)
        kept.load(state)
    remaining = range(state.epoch, epochs)
    with _compiling(model, compiled):
        for _ in track(
            remaining,
            f"fitting {type(model).__name__}",
            epochs,
            start=state.epoch,
            detail=lambda: f"validation {state.history['validation'][-1]:.4g}, best {state.best:.4g}",
        ):
            _run_epoch(state, training, held_out, batch_size, settings.gradient_norm, precision)
            if kept is not None:
                kept.save(state, last=state.epoch == epochs)
    model.load_state_dict(state.best_weights)
    model.eval()
    model.history_, model.best_epoch_ = state.history, state.best_epoch
    _set_operator(model, training, batch_size)
    _log.info(
        "%s: best epoch %d of %d, validation %.4g",
        type(model).__name__, state.best_epoch + 1, state.epoch, state.best,
    )  # fmt: skip


def _run_epoch(
    state: TrainingState,
    training: Sequences,
    held_out: Sequences,
    batch_size: int,
    gradient_norm: float,
    precision: str,
) -> None:
    """One pass over the training sequences, the validation loss, and the schedule."""
    model, optimizer = state.model, state.optimizer
    model.train()
    sums: dict[str, Tensor] = {}
    order = torch.randperm(len(training), generator=state.generator)
    # Batch norm needs more than one sequence, so a last batch of one is left out.
    batches = [rows for rows in torch.split(order, batch_size) if len(rows) > 1]
    # One transfer for an epoch: what is drawn on the CPU for each batch would be waited for.
    shapes = [(len(rows), training.values.shape[1], model.latent_dim) for rows in batches]
    parts = 2 if model.weights.exchanges else 1
    drawn = torch.cat([dropout_masks(shape, parts, state.generator) for shape in shapes], dim=1)
    masks = torch.split(to(drawn, model.device), [shape[0] for shape in shapes], dim=1)
    lost = RepdynError(f"the loss is no longer finite in epoch {state.epoch + 1}; lower learning_rate")
    for rows, mask in zip(torch.split(to(order, model.device), batch_size), masks):
        try:
            losses = batch_losses(model, training.take(rows), mask, precision)
        except RepdynError as error:  # latents that are not finite have no operator
            raise lost from error
        optimizer.zero_grad()
        torch.autograd.backward(torch.stack(list(losses.values())).sum())
        torch.nn.utils.clip_grad_norm_(model.parameters(), gradient_norm)
        optimizer.step()
        for name, value in losses.items():
            mean = double(value.detach()) / len(batches)
            sums[name] = sums[name] + mean if name in sums else mean
    means = {name: float(value) for name, value in sums.items()}
    if not math.isfinite(sum(means.values())):
        raise lost
    try:
        validation_loss = _validation_loss(model, held_out, batch_size)
    except RepdynError as error:
        raise lost from error
    for name, loss in {**means, "validation": validation_loss}.items():
        state.history.setdefault(name, []).append(loss)
    if validation_loss < state.best:
        state.best, state.best_epoch = validation_loss, state.epoch
        state.best_weights = copy.deepcopy(model.state_dict())
    rate = optimizer.param_groups[0]["lr"]
    state.schedule.step(validation_loss)
    if optimizer.param_groups[0]["lr"] < rate:
        # A smaller rate does not undo the damage of a larger one: continue from the best weights.
        model.load_state_dict(state.best_weights)
    state.epoch += 1


@contextmanager
def _compiling(model: SequenceAutoencoder, compiled: bool) -> Iterator[None]:
    """Context in which the networks of frames are compiled, if asked for.

    The rest is of little use to compile: cuDNN's LSTM, and small solves in float64.
    """
    networks = [model.encoder_.frames, model.decoder_.frames] if compiled else []
    for network in networks:
        network.compile()
    try:
        yield
    finally:
        for network in networks:
            network._compiled_call_impl = None


def batch_losses(
    model: SequenceAutoencoder, batch: Sequences, kept: Tensor | None, precision: str = "float32"
) -> dict[str, Tensor]:
    """The weighted losses of a batch, by name; with dropout on the latents if masks are given.

    Parameters
    ----------
    model
        A model that was built.
    batch
        Sequences on its device.
    kept
        Which latents are kept when they are decoded, ``(1 or 2, B, T, k)``: those of the sequences, and with
        the loss on motion those after the exchange. None keeps all.
    precision
        Of the networks of frames.
    """
    lower = torch.autocast(model.device.type, PRECISIONS[precision], enabled=precision != "float32")
    x, mask = model.standardize(batch.values), batch.mask
    with lower:
        z = model.encoder_(x, None if batch.full else mask)
    operators, ahead = forward_operators(z, mask, model.operator)
    form = real_schur(operators.detach())
    latents, shared = [z], mask
    if model.weights.exchanges:
        exchanged, shared = exchange_static(z, mask, operators, model.static_dim, form)
        latents.append(exchanged)
    noisy = latents if kept is None else [drop_latents(*pair) for pair in zip(latents, kept)]
    # One decoder pass for all, so that the batch norms use common statistics.
    with lower:
        decoded, predicted, *swapped = model.decoder_(torch.cat([noisy[0], ahead, *noisy[1:]])).chunk(
            1 + len(latents)
        )
    losses = sequence_losses(
        x,
        z,
        mask,
        decoded,
        (ahead, predicted),
        operators,
        model.static_dim,
        model.threshold,
        model.weights,
        full=batch.full,
        form=form,
    )
    if model.weights.motion:
        losses["motion"] = model.weights.motion * motion_loss(swapped[0], x, shared)
    if model.weights.cycle:
        real = None if batch.full else shared
        with lower:
            losses["cycle"] = model.weights.cycle * cycle_loss(model.encoder_, swapped[0], exchanged, real)
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
    """Mean total loss of the held-out sequences, in float32."""
    model.eval()
    total = torch.zeros((), dtype=widest(model.device), device=model.device)
    for start in range(0, len(held_out), batch_size):
        part = held_out.take(slice(start, start + batch_size))
        losses = batch_losses(model, part, None)
        total += torch.stack(list(losses.values())).sum() * len(part)
    return float(total) / len(held_out)


@torch.no_grad()
def _set_operator(model: SequenceAutoencoder, training: Sequences, batch_size: int) -> None:
    """Set the operator of all training sequences."""
    parts = []
    for start in range(0, len(training), batch_size):
        part = training.take(slice(start, start + batch_size))
        parts.append(model.encoder_(model.standardize(part.values), None if part.full else part.mask))
    model.operator_.copy_(operators_of(torch.cat(parts), training.mask, "batch"))
