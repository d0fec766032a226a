"""Training a Koopman autoencoder: data resident on the device, whole batches indexed, no loader."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from repdyn.errors import RepdynError
from repdyn.koopman import losses
from repdyn.koopman.networks import Lift
from repdyn.koopman.operators import LeastSquares, Operator
from repdyn.progress import track

__all__ = ["Weights", "train"]

_WEIGHT_DECAY = 1e-2
_WARM_UP = 0.2  # of the steps, as in the published schedule
_GRADIENT_NORM = 1.0
_CHECK_EVERY = 2  # epochs between looks at the validation part


@dataclass(frozen=True)
class Weights:
    """Weights of the four losses, each of which is in units of its target's variance."""

    reconstruction: float = 1.0
    linearity: float = 1.0
    state: float = 1.0
    isometry: float = 1.0


def train(
    encoder: Lift,
    decoder: Lift,
    operator: Operator,
    states: Tensor,
    held_out: Tensor,
    weights: Weights,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    generator: torch.Generator,
) -> tuple[Mapping[str, list[float]], int]:
    """Minimise the four losses over all points of all training paths.

    In each batch every sample meets one later point, drawn at random: the first point's observables are
    propagated to that depth and compared there. An epoch so costs the same for any depth of the path, and
    all points supervise, each at its own depth.

    Parameters
    ----------
    encoder, decoder, operator
        Trained in place; the state with the best validation loss is kept.
    states
        Lifted representations, shape ``(points, N, width)``, on the device.
    held_out
        Boolean, shape ``(N,)``: samples for early stopping.
    weights
        Weights of the losses.
    epochs, batch_size, learning_rate
        At most so many epochs; the one-cycle schedule spans them and reaches the learning rate.
    generator
        Randomness of the batches (on the CPU).

    Returns
    -------
    tuple
        Losses by epoch (and the validation loss where it was computed), and the best epoch.
    """
    points, _, _ = states.shape
    variance = torch.stack([losses.total_variance(x) for x in states])
    fit = (~held_out).nonzero().squeeze(1)
    judge = states[:, held_out]
    modules = nn.ModuleList([encoder, decoder, operator])
    batch_size = min(batch_size, len(fit))
    batches = math.ceil(len(fit) / batch_size)
    optimiser = torch.optim.AdamW(modules.parameters(), lr=learning_rate, weight_decay=_WEIGHT_DECAY)
    # One step of warm-up is a division by zero in torch's schedule; a shorter run stops within the cycle.
    total = max(epochs * batches, math.ceil(1 / _WARM_UP) + 1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=learning_rate, total_steps=total, pct_start=_WARM_UP
    )
    patience = max(10, epochs // 4)
    history: dict[str, list[float]] = {
        name: [] for name in ("reconstruction", "linearity", "state", "isometry", "validation")
    }
    best, best_epoch, kept = math.inf, 0, _copy(modules)

    for epoch in track(range(epochs), "fitting the Koopman autoencoder"):
        order = fit[torch.randperm(len(fit), generator=generator).to(fit.device)]
        sums = torch.zeros(4, device=states.device)
        for rows in order.chunk(batches):
            targets = torch.randint(1, points, (len(rows),), generator=generator).sort().values
            parts = _batch_losses(encoder, decoder, operator, states, rows, targets, variance)
            loss = (
                weights.reconstruction * parts[0]
                + weights.linearity * parts[1]
                + weights.state * parts[2]
                + weights.isometry * parts[3]
            )
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(modules.parameters(), _GRADIENT_NORM)
            optimiser.step()
            schedule.step()
            sums += torch.stack(parts).detach()
        means = (sums / batches).tolist()
        for name, value in zip(history, means):
            history[name].append(value)
        if not all(math.isfinite(value) for value in means):
            raise RepdynError(f"training diverged at epoch {epoch}; look for outliers in the representations")
        if (epoch + 1) % _CHECK_EVERY == 0 or epoch == epochs - 1:
            _settle(encoder, operator, states[:, fit])
            found = _validation(encoder, decoder, operator, judge, variance)
            history["validation"].append(found)
            if found < best:
                best, best_epoch, kept = found, epoch, _copy(modules)
            elif epoch - best_epoch >= patience:
                break
    modules.load_state_dict(kept)
    return history, best_epoch


def _batch_losses(
    encoder: Lift,
    decoder: Lift,
    operator: Operator,
    states: Tensor,
    rows: Tensor,
    targets: Tensor,
    variance: Tensor,
) -> list[Tensor]:
    first, later = states[0, rows], states[targets.to(rows.device), rows]
    z_first, z_later = encoder(torch.cat([first, later])).split(len(rows))
    if isinstance(operator, LeastSquares):
        operator.solve(encoder(states[targets.to(rows.device) - 1, rows]), z_later)
    # Targets are sorted: after l steps, the rows that are due at depth l are the next ones in line.
    remaining, arrived = z_first, []
    due = torch.bincount(targets, minlength=len(states)).tolist()
    for step, count in zip(operator.steps(), due[1:]):
        remaining = remaining @ step
        arrived.append(remaining[:count])
        remaining = remaining[count:]
    propagated = torch.cat(arrived)
    decoded = decoder(torch.cat([z_first, z_later, propagated]))
    d_first, d_later, d_state = decoded.split(len(rows))
    unit = variance[targets.to(rows.device)]
    rebuilt = losses.reconstruction(d_first, first, variance[0]) + losses.reconstruction(d_later, later, unit)
    kept = losses.isometry(first, z_first) + losses.isometry(later, z_later)
    return [
        rebuilt / 2,
        losses.linearity(propagated, z_later),
        losses.state(d_state, later, unit),
        kept / 2,
    ]


@torch.no_grad()
def _settle(encoder: Lift, operator: Operator, states: Tensor) -> None:
    """Solve for the operator on all training paths, where it is solved for."""
    if isinstance(operator, LeastSquares):
        z = encoder(states)
        operator.solve(z[:-1].flatten(0, 1), z[1:].flatten(0, 1))


@torch.no_grad()
def _validation(encoder: Lift, decoder: Lift, operator: Operator, states: Tensor, variance: Tensor) -> float:
    """Mean over later points of the fraction of variance unexplained, predicted from the first."""
    z, total = encoder(states[0]), 0.0
    for depth, step in enumerate(operator.steps(), 1):
        z = z @ step
        total += float(losses.state(decoder(z), states[depth], variance[depth]))
    return total / (len(states) - 1)


def _copy(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}
