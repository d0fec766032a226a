"""Training SKD and SSM-SKD: data resident on the device, Adam, a plateau schedule, clipped gradients."""

from __future__ import annotations

import copy
import logging
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from repdyn.devices import device_of, double, to
from repdyn.disentangle.checks import check_plan
from repdyn.disentangle.losses import (
    drop_latents,
    exchange_static,
    forward_operators,
    motion_loss,
    operators_of,
    sequence_losses,
)
from repdyn.disentangle.sequences import Sequences, read_sequences, warn_of_few_transitions
from repdyn.errors import RepdynError
from repdyn.koopman.frames import PointFrames
from repdyn.koopman.states import read_points
from repdyn.paths import RepresentationPaths
from repdyn.progress import track

if TYPE_CHECKING:
    from repdyn.disentangle.structured import StructuredKoopman

__all__ = ["batch_losses", "fit"]

_GRADIENT_NORM = 5.0
_PLATEAU_FACTOR = 0.5623  # as published: the fourth root of a tenth
_PLATEAU_PATIENCE = 10
_VALIDATION_SHARE = 10  # a tenth is set aside
_CONSTANT = 1e-7  # a spread this small beside the mean's size is rounding

_log = logging.getLogger(__name__)


def fit(
    model: StructuredKoopman,
    sequences: Any,
    *,
    epochs: int,
    seed: int,
    batch_size: int,
    learning_rate: float,
    validation: Any,
    device: str | torch.device | None,
) -> None:
    """Fit in place; see ``StructuredKoopman.fit``."""
    frames = _frames_of(sequences)
    found = read_sequences(sequences, frames)
    check_plan(epochs, batch_size, learning_rate, len(found))
    here = device_of(model)
    model.build(found.frame, None if frames is None else frames.widths, seed)
    if frames is not None:
        model.frames_ = frames
    warn_of_few_transitions(model.latent_dim, found, model.operator == "sequence")
    generator = torch.Generator().manual_seed(seed)
    training, held_out = _parts(found, validation, frames, generator)
    _set_scale(model, training)
    to(model, device or here)
    training, held_out = (_placed(part, model) for part in (training, held_out))
    optimiser = torch.optim.Adam(model.parameters(), lr=learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimiser, factor=_PLATEAU_FACTOR, patience=_PLATEAU_PATIENCE
    )
    history: dict[str, list[float]] = {}
    best, best_state, best_epoch = float("inf"), copy.deepcopy(model.state_dict()), 0
    for epoch in track(range(epochs), f"fitting {type(model).__name__}", epochs):
        model.train()
        sums: dict[str, float] = {}
        order = torch.randperm(len(training), generator=generator)
        # A last batch of one sequence would give batch norm next to nothing to work with.
        batches = [rows for rows in torch.split(order, batch_size) if len(rows) > 1]
        for rows in batches:
            found_losses = batch_losses(model, training.take(rows.to(model.place)), generator)
            total = torch.stack(list(found_losses.values())).sum()
            if not total.isfinite():
                raise RepdynError(f"the loss is no longer finite in epoch {epoch + 1}; lower learning_rate")
            optimiser.zero_grad()
            torch.autograd.backward(total)
            torch.nn.utils.clip_grad_norm_(model.parameters(), _GRADIENT_NORM)
            optimiser.step()
            for name, value in found_losses.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach()) / len(batches)
        judged = _judge(model, held_out, batch_size)
        for name, mean in {**sums, "validation": judged}.items():
            history.setdefault(name, []).append(mean)
        if judged < best:
            best, best_state, best_epoch = judged, copy.deepcopy(model.state_dict()), epoch
        rate = optimiser.param_groups[0]["lr"]
        schedule.step(judged)
        if optimiser.param_groups[0]["lr"] < rate:
            # What a rate too large has spoilt, a small one does not mend.
            model.load_state_dict(best_state)
    model.load_state_dict(best_state)
    model.eval()
    model.history_, model.best_epoch_ = history, best_epoch
    _set_operator(model, training, batch_size)
    _log.info("%s: best epoch %d of %d, validation %.4g", type(model).__name__, best_epoch + 1, epochs, best)


def batch_losses(
    model: StructuredKoopman, batch: Sequences, generator: torch.Generator | None
) -> dict[str, Tensor]:
    """Each weighted loss of a batch; dropout on the latents where a generator is given."""
    x, mask = model.standardise(batch.values), batch.mask
    z = model.encoder_(x, mask)
    operators, ahead = forward_operators(z, mask, model.operator)
    shown, shared = [z], mask
    if model.weights.motion:
        exchanged, shared = exchange_static(z, mask, operators, model.static_dim)
        shown.append(exchanged)
    noisy = shown if generator is None else [drop_latents(latents, generator) for latents in shown]
    # All are decoded at once: one pass of the LSTM, and one set of statistics for the batch norms.
    decoded, predicted, *swapped = model.decoder_(torch.cat([noisy[0], ahead, *noisy[1:]])).chunk(
        1 + len(shown)
    )
    losses = sequence_losses(
        x, z, mask, decoded, (ahead, predicted), operators, model.static_dim, model.threshold, model.weights
    )
    if swapped:
        losses["motion"] = model.weights.motion * motion_loss(swapped[0], x, shared)
    return losses


def _frames_of(sequences: Any) -> PointFrames | None:
    if not isinstance(sequences, RepresentationPaths):
        return None
    if len(sequences.points) < 2:
        raise RepdynError(
            f"the path has one point, {sequences.points[0]!r}; depth as time needs at least two"
        )
    states = read_points(sequences)
    return PointFrames({point: x.shape[1] for point, x in zip(sequences.points, states)}).fit(states)


def _parts(
    found: Sequences, validation: Any, frames: PointFrames | None, generator: torch.Generator
) -> tuple[Sequences, Sequences]:
    if validation is not None:
        held_out = read_sequences(validation, frames)
        if held_out.frame != found.frame:
            raise RepdynError(f"validation frames have shape {held_out.frame}, expected {found.frame}")
        return found, held_out
    order = torch.randperm(len(found), generator=generator)
    aside = max(1, len(found) // _VALIDATION_SHARE)
    kept = order[aside:] if len(found) - aside > 1 else order
    return found.take(kept), found.take(order[:aside])


def _set_scale(model: StructuredKoopman, training: Sequences) -> None:
    """Vectors are centred over all frames and divided by one number; pixels are left as they are."""
    if len(model.frame_) != 1:
        return
    rows = double(training.values[training.mask])
    mean, spread = rows.mean(dim=0), rows.var(dim=0, correction=0).mean().sqrt()
    model.mean_.copy_(mean)
    # Sequences that do not vary at all are left at their scale: they are constant in any.
    model.scale_.copy_(spread if spread > _CONSTANT * mean.norm() else torch.ones(()))


def _placed(part: Sequences, model: StructuredKoopman) -> Sequences:
    return Sequences(part.values.to(model.place), part.mask.to(model.place))


@torch.no_grad()
def _judge(model: StructuredKoopman, held_out: Sequences, batch_size: int) -> float:
    model.eval()
    total = 0.0
    for start in range(0, len(held_out), batch_size):
        part = held_out.take(slice(start, start + batch_size))
        losses = batch_losses(model, part, None)
        total += float(torch.stack(list(losses.values())).sum()) * len(part)
    return total / len(held_out)


@torch.no_grad()
def _set_operator(model: StructuredKoopman, training: Sequences, batch_size: int) -> None:
    parts = []
    for start in range(0, len(training), batch_size):
        part = training.take(slice(start, start + batch_size))
        parts.append(model.encoder_(model.standardise(part.values), part.mask))
    model.operator_.copy_(operators_of(torch.cat(parts), training.mask, "batch"))
