"""Training a Koopman autoencoder: whole batches, of data on the device or read from a store."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from repdyn.errors import RepdynError
from repdyn.koopman import losses
from repdyn.koopman.checkpoints import fingerprint, read_checkpoint, write_checkpoint
from repdyn.koopman.exponential import full_precision
from repdyn.koopman.flat import FlatParameters
from repdyn.koopman.networks import Lift
from repdyn.koopman.operators import LeastSquares, Operator
from repdyn.koopman.schedules import SCHEDULES
from repdyn.koopman.states import Held, States
from repdyn.progress import track
from repdyn.reading import as_array

__all__ = ["Plan", "Weights", "train"]

_WEIGHT_DECAY = 1e-2
_GRADIENT_NORM = 1.0
_CHECK_EVERY = 2  # epochs between looks at the validation part
_LOSSES = ("reconstruction", "linearity", "state", "isometry")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Weights:
    """Weights of the four losses, each of which is in units of its target's variance."""

    reconstruction: float = 1.0
    linearity: float = 1.0
    state: float = 1.0
    isometry: float = 1.0


@dataclass(frozen=True)
class Plan:
    """How to train: see ``KoopmanAutoencoder.fit``."""

    epochs: int
    batch_size: int
    learning_rate: float
    schedule: str = "cosine"
    supervise: str = "all"
    patience: int | None = None
    memory: int = 2**29
    """Bytes of lifted representations (float32) that are held; of more, batches are read from the paths."""


def train(
    encoder: Lift,
    decoder: Lift,
    operator: Operator,
    states: Tensor | States,
    held_out: Tensor,
    weights: Weights,
    plan: Plan,
    *,
    generator: torch.Generator,
    checkpoint: str | os.PathLike[str] | None = None,
    fabric: Any = None,
) -> tuple[Mapping[str, list[float]], int]:
    """Minimise the four losses over all points of all training paths.

    In each batch every sample meets one later point: the first point's observables are propagated to that
    depth and compared there. Each depth has the same number of samples in every batch. An epoch so costs
    the same for any depth of the path, and all points supervise, each at its own depth.

    Parameters
    ----------
    encoder, decoder, operator
        Trained in place; the state with the best validation loss is kept.
    states
        Lifted representations; a tensor ``(points, N, width)`` on the device, or what reads them.
    held_out
        Boolean, shape ``(N,)``: samples for early stopping.
    weights
        Weights of the losses.
    plan
        Epochs, batches, learning rate and what supervises.
    generator
        Randomness of the batches (on the CPU).
    checkpoint
        File to resume from and to write to at each look at the validation part.
    fabric
        A launched ``lightning_fabric.Fabric``: each process takes its share of every batch.

    Returns
    -------
    tuple
        Losses by epoch (and the validation loss where it was computed), and the best epoch.

    Raises
    ------
    RepdynError
        If a loss is no longer finite, or the checkpoint is not one of this fit.
    """
    states = Held(states) if isinstance(states, Tensor) else states
    run = _Run(encoder, decoder, operator, states, held_out, weights, plan, generator, fabric)
    if checkpoint is not None:
        # How the data were held changes no number but in its last digits.
        settings = {name: value for name, value in asdict(plan).items() if name != "memory"}
        of = fingerprint(states, {**settings, **asdict(weights), "parameters": len(run.flat.vector)})
        found = read_checkpoint(checkpoint, of)
        if found is not None:
            run.restore(*found)
    epochs = range(run.done, plan.epochs)
    for epoch in track(epochs, "fitting the Koopman autoencoder", plan.epochs, run.done, detail=run.told):
        if run.stopped:
            break
        run.epoch()
        if (epoch + 1) % _CHECK_EVERY == 0 or epoch == plan.epochs - 1:
            run.judge()
            if checkpoint is not None and (fabric is None or fabric.is_global_zero):
                write_checkpoint(checkpoint, of, *run.state())
    return run.finish()


class _Run:
    """A fit under way: what changes from epoch to epoch, and can be written down and taken up again."""

    def __init__(
        self,
        encoder: Lift,
        decoder: Lift,
        operator: Operator,
        states: States,
        held_out: Tensor,
        weights: Weights,
        plan: Plan,
        generator: torch.Generator,
        fabric: Any,
    ) -> None:
        self.encoder, self.decoder, self.operator = encoder, decoder, operator
        self.plan, self.generator, self.fabric = plan, generator, fabric
        self.states, points, self.device = states, states.points, states.device
        self.variance = states.variance
        self.fit, self.judged = (~held_out).nonzero().squeeze(1), held_out.nonzero().squeeze(1)
        self.weights = torch.tensor([getattr(weights, name) for name in _LOSSES], device=self.device)
        # Sorted depths, each as often as the others, make one batched product of the propagation.
        self.depths = [points - 1] if plan.supervise == "last" else list(range(1, points))
        self.rank = 0 if fabric is None else int(fabric.global_rank)
        self.share = 1 if fabric is None else int(fabric.world_size)
        per_depth = max(1, min(plan.batch_size, len(self.fit)) // len(self.depths))
        self.per_depth = math.ceil(per_depth / self.share) * self.share
        self.batches = math.ceil(len(self.fit) / (self.per_depth * len(self.depths)))
        self.modules = nn.ModuleList([encoder, decoder, operator])
        self.flat = FlatParameters(self.modules)
        self.optimiser = torch.optim.AdamW(
            [self.flat.vector], lr=plan.learning_rate, weight_decay=_WEIGHT_DECAY, fused=True
        )
        self.schedule = SCHEDULES[plan.schedule](plan.learning_rate, plan.epochs * self.batches)
        self.patience = plan.patience or max(10, plan.epochs // 4)
        self.history: dict[str, list[float]] = {name: [] for name in (*_LOSSES, "validation")}
        self.done, self.best, self.best_epoch, self.stopped = 0, math.inf, 0, False
        self.kept = self._weights()

    def epoch(self) -> None:
        """One pass over the training part."""
        order = self.states.shuffled(self.fit, self.generator)
        # The last batch is filled up from the front: all are of one size.
        size = self.per_depth * len(self.depths)
        order = order[torch.arange(self.batches * size, device=self.device) % len(order)]
        order = order.view(self.batches, len(self.depths), self.per_depth)[..., self.rank :: self.share]
        depths = torch.tensor(self.depths, device=self.device).repeat_interleave(order.shape[-1])
        unit = torch.stack([self.variance[0].expand(len(depths)), self.variance[depths]])
        sums = torch.zeros(len(_LOSSES), device=self.device)
        before = isinstance(self.operator, LeastSquares)
        for batch, (both, earlier) in enumerate(self.states.batches(order.flatten(1), depths, before)):
            self.optimiser.param_groups[0]["lr"] = self.schedule.rate(self.done * self.batches + batch)
            with self._autocast():
                parts = self._losses(both, earlier, unit)
            self.flat.gradient.zero_()
            (self.weights @ parts).backward()  # type: ignore[no-untyped-call]
            if self.share > 1:
                self.flat.gradient.copy_(self.fabric.all_reduce(self.flat.gradient, reduce_op="mean"))
            self.flat.clip(_GRADIENT_NORM)
            self.optimiser.step()
            sums += parts.detach()
        if self.share > 1:
            sums = self.fabric.all_reduce(sums, reduce_op="mean")
        for name, value in zip(_LOSSES, as_array(sums / self.batches).tolist()):
            if not math.isfinite(value):
                raise RepdynError(
                    f"training diverged at epoch {self.done}: the {name} loss is {value}; look for outliers "
                    "in the representations, or lower learning_rate"
                )
            self.history[name].append(value)
        self.done += 1

    def told(self) -> str:
        """The four losses of the last epoch."""
        return ", ".join(f"{name} {self.history[name][-1]:.3g}" for name in _LOSSES if self.history[name])

    def _losses(self, both: Tensor, earlier: Tensor | None, unit: Tensor) -> Tensor:
        count = len(both) // 2
        z = self.encoder(both).float()
        z_first, z_later = z.split(count)
        if isinstance(self.operator, LeastSquares) and earlier is not None:
            self.operator.solve(self.encoder(earlier).float(), z_later)
        arrived = z_first.view(len(self.depths), -1, z.shape[1]) @ self._propagators()
        propagated = arrived.flatten(0, 1).float()
        decoded = self.decoder(torch.cat([z, propagated])).float().view(3, count, -1)
        target = both.view(2, count, -1)
        return torch.stack(
            [
                losses.reconstruction(decoded[:2], target, unit),
                losses.linearity(propagated, z_later),
                losses.state(decoded[2], target[1], unit[1]),
                losses.isometry(target, z.view(2, count, -1)),
            ]
        )

    def _propagators(self) -> Tensor:
        """``K`` from the first point to each depth that supervises, shape ``(depths, d, d)``."""
        with full_precision(self.device):
            reached, found = None, []
            for step in self.operator.steps():
                reached = step if reached is None else reached @ step
                found.append(reached)
            return torch.stack([found[depth - 1] for depth in self.depths])

    @torch.no_grad()
    def judge(self) -> None:
        """Look at the validation part: keep the best state, and stop where there is none for long."""
        if isinstance(self.operator, LeastSquares):
            self._solve(self.operator)
        found: list[tuple[int, float]] = []
        for block in self.states.blocks(self.judged):
            z, own = self.encoder(block[0]), []
            for depth, step in enumerate(self.operator.steps(), 1):
                z = z @ step
                if depth in self.depths:
                    own.append(float(losses.state(self.decoder(z), block[depth], self.variance[depth])))
            found.append((block.shape[1], sum(own) / len(own)))
        value = found[0][1]
        if len(found) > 1:
            value = sum(count * own for count, own in found) / len(self.judged)
        self.history["validation"].append(value)
        improved = value < self.best
        if improved:
            self.best, self.best_epoch, self.kept = value, self.done - 1, self._weights()
        self.stopped = self.done - 1 - self.best_epoch >= self.patience
        self.schedule.judged(improved)
        latest = ", ".join(f"{name} {self.history[name][-1]:.4g}" for name in self.history)
        _log.info("epoch %d of %d: %s", self.done, self.plan.epochs, latest)

    def _solve(self, operator: LeastSquares) -> None:
        """The operator of all training paths."""
        if isinstance(self.states, Held):
            z = self.encoder(self.states.all(self.fit))
            operator.solve(z[:-1].flatten(0, 1), z[1:].flatten(0, 1))
            return
        gram = cross = torch.zeros((), dtype=torch.float64, device=self.device)
        for block in self.states.blocks(self.fit):
            z = self.encoder(block).to(gram.dtype)
            before, after = z[:-1].flatten(0, 1), z[1:].flatten(0, 1)
            gram, cross = gram + before.T @ before, cross + before.T @ after
        operator.solve_sums(gram, cross, (self.states.points - 1) * len(self.fit))

    def finish(self) -> tuple[Mapping[str, list[float]], int]:
        """Put the best weights in place."""
        self.flat.release()
        self.modules.load_state_dict(self.kept)
        return self.history, self.best_epoch

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Everything that :meth:`restore` needs to go on as if nothing had happened."""
        progress = {
            "done": self.done,
            "best": self.best,
            "best_epoch": self.best_epoch,
            "stopped": self.stopped,
            "history": self.history,
            "schedule": self.schedule.state(),
        }
        tensors = {f"kept.{name}": value for name, value in self.kept.items()}
        tensors |= {f"now.{name}": value for name, value in self._weights().items()}
        moments = self.optimiser.state[self.flat.vector]
        tensors |= {f"optimiser.{name}": value for name, value in moments.items()}
        return progress, {**tensors, "generator": self.generator.get_state()}

    def restore(self, progress: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Take up what :meth:`state` wrote down."""

        def group(name: str) -> dict[str, Tensor]:
            return {key.removeprefix(name): t for key, t in tensors.items() if key.startswith(name)}

        self.done, self.best, self.best_epoch = progress["done"], progress["best"], progress["best_epoch"]
        self.stopped, self.history = progress["stopped"], progress["history"]
        self.schedule.restore(progress["schedule"])
        self.kept = {name: value.to(self.device) for name, value in group("kept.").items()}
        # Copied in place: the parameters stay views of one vector.
        self.modules.load_state_dict(group("now."))
        moments = {name: value.to(self.device) for name, value in group("optimiser.").items()}
        self.optimiser.state[self.flat.vector] = moments
        self.generator.set_state(tensors["generator"])

    def _weights(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.modules.state_dict().items()}

    def _autocast(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.fabric is None else self.fabric.autocast()
