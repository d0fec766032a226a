"""Fitting a Koopman autoencoder: frames, initialization, training with early stopping, checkpoints."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from repdyn.devices import CPU, to
from repdyn.errors import RepdynError, nearest_names
from repdyn.koopman import optimization
from repdyn.koopman.frames import Lift, PointFrames
from repdyn.koopman.operators import Direct, LeastSquares, Operator, advance, full_precision
from repdyn.koopman.settings import FitSettings
from repdyn.koopman.start import Solved, rows_to_start, start
from repdyn.koopman.states import Held, States, Streamed, frame_rows, lifted_bytes, read_points, survey
from repdyn.paths import RepresentationPaths
from repdyn.progress import track
from repdyn.reading import as_array
from repdyn.repeats import groups_of_equal_rows
from repdyn.writing import whole_file

__all__ = ["Plan", "Weights", "check_paths_to_fit", "fit", "train"]

_LOSSES = ("reconstruction", "linearity", "state", "isometry")
_CHECKPOINT = "repdyn koopman fit"  # kind of the file

_DEFAULT = FitSettings()
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
    """Arguments of a fit; see ``KoopmanAutoencoder.fit``."""

    epochs: int
    batch_size: int
    learning_rate: float
    schedule: str = "cosine"
    supervise: str = "all"
    patience: int | None = None
    memory: int = 2**29
    """Bytes of lifted representations (float32) that are held. Above it, batches are read from the paths."""

    def check(self) -> None:
        """Raise :class:`RepdynError` for values out of range."""
        if self.schedule not in optimization.SCHEDULES:
            raise RepdynError(
                f"there is no schedule {self.schedule!r}; "
                f"{nearest_names(self.schedule, optimization.SCHEDULES)}"
            )
        if self.epochs < 1 or self.batch_size < 2 or not self.learning_rate > 0:
            raise RepdynError(
                "epochs must be at least 1, batch_size at least 2 and learning_rate positive, "
                f"got {self.epochs}, {self.batch_size} and {self.learning_rate}"
            )
        if self.patience is not None and self.patience < 1:
            raise RepdynError(f"patience must be at least one epoch, got {self.patience}")


def fit(
    frames: PointFrames,
    encoder: Lift,
    decoder: Lift,
    operators: Sequence[Operator],
    paths: RepresentationPaths,
    weights: Weights,
    plan: Plan,
    *,
    seed: int,
    device: torch.device | str,
    checkpoint: str | os.PathLike[str] | None = None,
    fabric: Any = None,
    widths: Sequence[int] = (),
    settings: FitSettings = _DEFAULT,
) -> tuple[Operator, Mapping[str, list[float]], int]:
    """Fit the modules of an autoencoder to paths, in place: in closed form, then by gradient.

    Parameters
    ----------
    frames, encoder, decoder, operators
        Modules, moved to the device. One of the operators is chosen by the closed-form solution.
    paths
        Training paths, checked by :func:`check_paths_to_fit`.
    weights, plan, settings
        Weights of the losses, arguments of the fit, tuned numbers.
    seed
        Seed of the initial components, the validation part and the batches.
    device
        Where to train.
    checkpoint, fabric
        As in :func:`train`.
    widths
        As in :func:`repdyn.koopman.start.start`.

    Returns
    -------
    tuple
        The chosen operator, losses by epoch, and the best epoch.
    """
    modules = (frames, encoder, decoder, *operators)
    held = lifted_bytes(paths, frames.width) <= plan.memory
    states, groups = (_hold if held else _stream)(modules, paths, device)
    distinct = int(groups.max()) + 1
    generator = torch.Generator().manual_seed(seed)
    count = max(1, min(max(2, round(settings.validation * distinct)), distinct - 1))
    held_out = torch.zeros(distinct, dtype=torch.bool)
    held_out[torch.randperm(distinct, generator=generator)[:count]] = True
    held_out = held_out[torch.from_numpy(groups)]  # equal samples are in the same part
    held_out = to(held_out, states.device)
    parts = ((~held_out).nonzero().squeeze(1), held_out.nonzero().squeeze(1))
    solved_on = {"start_samples": [float(min(len(parts[0]), rows_to_start(states.points, settings)))]}
    left, solved = start(
        encoder, decoder, operators, states, *parts, generator, settings, widths, plan.supervise
    )
    operator = next((one for one in operators if not isinstance(one, Direct)), None)

    def simpler(error: float) -> bool:
        """Whether one generator is preferred to direct maps."""
        return solved is None or error <= solved.left * (1 + settings.simpler) + settings.exact

    wide = encoder.linear.out_features > settings.trained
    if solved is not None and (operator is None or (wide and not simpler(left))):
        return _install(solved, encoder, decoder, {name: [] for name in (*_LOSSES, "validation")} | solved_on)
    assert operator is not None
    for module in modules:
        module.train()
    history, best = train(
        encoder,
        decoder,
        operator,
        states,
        held_out,
        weights,
        plan,
        generator=generator,
        checkpoint=checkpoint,
        fabric=fabric,
        settings=settings,
    )
    history = {**history, **solved_on}
    if solved is not None and not simpler(min(history["start"] + history["validation"])):
        return _install(solved, encoder, decoder, history)
    return operator, history, best


def _install(
    solved: Solved, encoder: Lift, decoder: Lift, history: Mapping[str, list[float]]
) -> tuple[Operator, Mapping[str, list[float]], int]:
    """Use direct maps, whose solution is now completed with the validation part."""
    solved.complete()
    for module, own in ((encoder, solved.encoder), (decoder, solved.decoder)):
        module.linear, module.network = own.linear, own.network
    return solved.operator, {**history, "start": [solved.left]}, -1


def check_paths_to_fit(paths: RepresentationPaths, settings: FitSettings = _DEFAULT) -> None:
    """Raise :class:`RepdynError` for one point, too few samples, or more points than samples."""
    if len(paths.points) < 2:
        raise RepdynError(
            f"the path has one point, {paths.points[0]!r}; a Koopman autoencoder needs at least two"
        )
    if len(paths) < settings.min_samples:
        raise RepdynError(
            f"{len(paths)} samples are too few to fit and to validate; at least {settings.min_samples} "
            "are needed"
        )
    if len(paths) < len(paths.points):
        raise RepdynError(
            f"the path has {len(paths.points)} points but only {len(paths)} samples; trace more samples, or "
            "fewer points (each point is an array of samples by width)"
        )


def _hold(
    modules: tuple[nn.Module, ...], paths: RepresentationPaths, device: torch.device | str
) -> tuple[States, NDArray[np.int64]]:
    """Fit the frames, move the modules, lift all states; also groups of equal samples, ``(N,)``."""
    frames = modules[0]
    assert isinstance(frames, PointFrames)
    rows = read_points(paths)
    frames.fit(rows)
    for module in modules:
        to(module, device)
    where = frames.scale.device
    lifted = torch.stack([frames.lift(to(x, where), number) for number, x in enumerate(rows)])
    return Held(lifted), groups_of_equal_rows(as_array(rows[0]))


def _stream(
    modules: tuple[nn.Module, ...], paths: RepresentationPaths, device: torch.device | str
) -> tuple[States, NDArray[np.int64]]:
    """The same for paths that are read batch by batch."""
    frames = modules[0]
    assert isinstance(frames, PointFrames)
    result = survey(paths)
    frames.fit_to(result.moments, frame_rows(paths), len(paths))
    for module in modules:
        to(module, device)
    return Streamed(paths, frames), result.groups


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
    settings: FitSettings = _DEFAULT,
) -> tuple[Mapping[str, list[float]], int]:
    """Minimize the four losses over all points of all training paths.

    In a batch, every sample is paired with one later point: the observables of its first point are propagated
    to that depth and compared there. Each depth has the same number of samples in every batch. The cost of an
    epoch is thus independent of the number of points, and every depth contributes supervision.

    Parameters
    ----------
    encoder, decoder, operator
        Trained in place; the state with the best validation loss is kept.
    states
        Lifted representations: a tensor ``(points, N, width)`` on the device, or :class:`States`.
    held_out
        Boolean, shape ``(N,)``: samples for early stopping.
    weights, plan, settings
        Weights of the losses, arguments of the fit, tuned numbers.
    generator
        Random generator of the batches, on the CPU.
    checkpoint
        File to resume from. It is written at each evaluation of the validation part.
    fabric
        A launched ``lightning_fabric.Fabric``: each process takes its share of every batch.

    Returns
    -------
    tuple
        Losses by epoch (the validation loss at the epochs that computed it), and the best epoch.

    Raises
    ------
    RepdynError
        If a loss is not finite, or the checkpoint belongs to another fit.
    """
    states = Held(states) if isinstance(states, Tensor) else states
    run = _Run(encoder, decoder, operator, states, held_out, weights, plan, generator, fabric, settings)
    if checkpoint is not None:
        # ``memory`` decides how the data are held and changes numbers in their last digits only.
        arguments = {name: value for name, value in asdict(plan).items() if name != "memory"}
        # Defaults are left out: checkpoints of version 0.1 have no settings.
        default = asdict(_DEFAULT)
        arguments |= {name: value for name, value in asdict(settings).items() if value != default[name]}
        of = fingerprint(states, {**arguments, **asdict(weights), "parameters": len(run.flat.vector)})
        saved = read_checkpoint(checkpoint, of)
        if saved is not None:
            run.restore(*saved)
    epochs = range(run.done, plan.epochs)
    for epoch in track(epochs, "fitting the Koopman autoencoder", plan.epochs, run.done, detail=run.latest):
        if run.stopped:
            break
        run.epoch()
        if (epoch + 1) % settings.validate_every == 0 or epoch == plan.epochs - 1:
            run.validate()
            if checkpoint is not None and (fabric is None or fabric.is_global_zero):
                write_checkpoint(checkpoint, of, *run.state())
    return run.finish()


class _Run:
    """State of a running fit, which a checkpoint can store and restore."""

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
        settings: FitSettings,
    ) -> None:
        self.encoder, self.decoder, self.operator = encoder, decoder, operator
        self.plan, self.generator, self.fabric = plan, generator, fabric
        self.settings = settings
        self.states, points, self.device = states, states.points, states.device
        self.variance = states.variance
        self.fit_rows = (~held_out).nonzero().squeeze(1)
        self.validation_rows = held_out.nonzero().squeeze(1)
        self.weights = to(torch.tensor([getattr(weights, name) for name in _LOSSES]), self.device)
        # Sorted depths with equal counts make the propagation one batched product.
        self.depths = [points - 1] if plan.supervise == "last" else list(range(1, points))
        self.rank = 0 if fabric is None else int(fabric.global_rank)
        self.share = 1 if fabric is None else int(fabric.world_size)
        per_depth = max(1, min(plan.batch_size, len(self.fit_rows)) // len(self.depths))
        self.per_depth = math.ceil(per_depth / self.share) * self.share
        self.batches = math.ceil(len(self.fit_rows) / (self.per_depth * len(self.depths)))
        self.modules = nn.ModuleList([encoder, decoder, operator])
        self.flat = optimization.FlatParameters(self.modules)
        self.origin = self.flat.vector.detach().clone()
        self.schedule = optimization.SCHEDULES[plan.schedule](plan.learning_rate, plan.epochs * self.batches)
        self.patience = plan.patience or max(10, plan.epochs // 4)
        self.history: dict[str, list[float]] = {name: [] for name in (*_LOSSES, "validation")}
        self.done, self.best_epoch, self.stopped = 0, -1, False
        # Patience counts from the best epoch of training: a high rate first leads away from the start.
        self.reached, self.reached_epoch = math.inf, -1
        self.best = self.unexplained()
        self.history["start"] = [self.best]
        self.kept = self._weights()

    def epoch(self) -> None:
        """Train on all batches of one epoch."""
        order = self.states.shuffled(self.fit_rows, self.generator)
        # The last batch is completed with samples from the front, so that all batches have one size.
        size = self.per_depth * len(self.depths)
        order = order[torch.arange(self.batches * size, device=self.device) % len(order)]
        order = order.view(self.batches, len(self.depths), self.per_depth)[..., self.rank :: self.share]
        depths = to(torch.tensor(self.depths), self.device).repeat_interleave(order.shape[-1])
        unit = torch.stack([self.variance[0].expand(len(depths)), self.variance[depths]])
        sums = torch.zeros(len(_LOSSES), device=self.device)
        before = isinstance(self.operator, LeastSquares)
        for batch, (both, earlier) in enumerate(self.states.batches(order.flatten(1), depths, before)):
            rate = self.schedule.rate(self.done * self.batches + batch)
            with self._autocast():
                parts = self._losses(both, earlier, unit)
            self.flat.gradient.zero_()
            (self.weights @ parts).backward()  # type: ignore[no-untyped-call]
            if self.share > 1:
                self.flat.gradient.copy_(self.fabric.all_reduce(self.flat.gradient, reduce_op="mean"))
            self.flat.clip(self.settings.max_gradient_norm)
            self.flat.vector.data.lerp_(self.origin, rate * self.settings.weight_decay)
            self.flat.step(rate)
            sums += parts.detach()
        if self.share > 1:
            sums = self.fabric.all_reduce(sums, reduce_op="mean")
        for name, value in zip(_LOSSES, as_array(sums / self.batches).tolist()):
            if not math.isfinite(value):
                raise RepdynError(
                    f"training diverged at epoch {self.done}: the {name} loss is {value}; check the "
                    "representations for outliers, or lower learning_rate"
                )
            self.history[name].append(value)
        self.done += 1

    def latest(self) -> str:
        """The four losses of the last epoch, for the progress bar."""
        return ", ".join(f"{name} {self.history[name][-1]:.3g}" for name in _LOSSES if self.history[name])

    def _losses(self, both: Tensor, earlier: Tensor | None, unit: Tensor) -> Tensor:
        """The four losses ``(4,)`` of a batch of :meth:`States.batches`, with variances ``(2, n)``."""
        count = len(both) // 2
        z = self.encoder(both).float()
        z_first, z_later = z.split(count)
        if isinstance(self.operator, LeastSquares) and earlier is not None:
            before, after = (
                z.view(len(self.depths), -1, z.shape[-1]) for z in (self.encoder(earlier).float(), z_later)
            )
            self.operator.solve(before, after)
        propagated = advance(z_first.view(len(self.depths), -1, z.shape[1]), self._propagators())
        propagated = propagated.flatten(0, 1).float()
        decoded = self.decoder(torch.cat([z, propagated])).float().view(3, count, -1)
        target = both.view(2, count, -1)
        return torch.stack(
            [
                optimization.reconstruction(decoded[:2], target, unit),
                optimization.linearity(
                    propagated.view(len(self.depths), -1, z.shape[-1]),
                    z_later.view(len(self.depths), -1, z.shape[-1]),
                    self.variance[self.depths[0] :],
                ),
                optimization.state(decoded[2], target[1], unit[1]),
                optimization.isometry(target, z.view(2, count, -1), unit),
            ]
        )

    def _propagators(self) -> Tensor:
        """Flows from the first point to each supervised depth, shape ``(depths, d + 1, d)``."""
        with full_precision(self.device):
            # Supervised are all later points or the last one.
            return self.operator.from_first()[self.depths[0] - 1 :]

    @torch.no_grad()
    def validate(self) -> None:
        """Evaluate the validation part: keep the best weights, and stop after ``patience`` epochs without."""
        value = self.unexplained()
        self.history["validation"].append(value)
        if value < self.best:
            self.best, self.best_epoch, self.kept = value, self.done - 1, self._weights()
        improved = value < self.reached
        if improved:
            self.reached, self.reached_epoch = value, self.done - 1
        self.stopped = self.done - 1 - self.reached_epoch >= self.patience
        self.schedule.validated(improved)
        latest = ", ".join(f"{name} {self.history[name][-1]:.4g}" for name in self.history)
        _log.info("epoch %d of %d: %s", self.done, self.plan.epochs, latest)

    @torch.no_grad()
    def unexplained(self) -> float:
        """Share of the variance of the validation part that predictions from the first point leave."""
        self._solve()
        flows = self.operator.from_first()
        parts: list[tuple[int, float]] = []
        for block in self.states.blocks(self.validation_rows):
            z, by_depth = self.encoder(block[0]), []
            for depth in self.depths:
                reached = self.decoder(advance(z, flows[depth - 1]))
                by_depth.append(float(optimization.state(reached, block[depth], self.variance[depth])))
            parts.append((block.shape[1], sum(by_depth) / len(by_depth)))
        value = parts[0][1]
        if len(parts) > 1:
            value = sum(count * mean for count, mean in parts) / len(self.validation_rows)
        return value

    def _solve(self) -> None:
        """Solve for an operator that is not trained, on the part that is fitted."""
        operator = self.operator
        if not isinstance(operator, LeastSquares):
            return
        if isinstance(self.states, Held):
            z = self.encoder(self.states.all(self.fit_rows))
            operator.solve(z[:-1], z[1:])
            return
        gram = cross = first = last = torch.zeros((), dtype=torch.float64, device=self.device)
        for block in self.states.blocks(self.fit_rows):
            z = self.encoder(block).to(gram.dtype)
            before, after = z[:-1].flatten(0, 1), z[1:].flatten(0, 1)
            gram, cross = gram + before.T @ before, cross + before.T @ after
            first, last = first + z[:-1].sum(dim=1), last + z[1:].sum(dim=1)
        operator.solve_sums(gram, cross, (first, last), len(self.fit_rows))

    def finish(self) -> tuple[Mapping[str, list[float]], int]:
        """Load the best weights; losses by epoch and the best epoch."""
        self.flat.release()
        self.modules.load_state_dict(self.kept)
        return self.history, self.best_epoch

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """JSON values and tensors from which :meth:`restore` resumes the fit bit for bit."""
        progress = {
            "done": self.done,
            "best": self.best,
            "best_epoch": self.best_epoch,
            "reached": self.reached,
            "reached_epoch": self.reached_epoch,
            "stopped": self.stopped,
            "history": self.history,
            "schedule": self.schedule.state(),
        }
        tensors = {f"kept.{name}": value for name, value in self.kept.items()}
        tensors |= {f"now.{name}": value for name, value in self._weights().items()}
        tensors |= {f"optimiser.{name}": value for name, value in self.flat.moments.items()}
        return progress, {**tensors, "generator": self.generator.get_state()}

    def restore(self, progress: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Resume from the values of :meth:`state`."""

        def group(name: str) -> dict[str, Tensor]:
            return {key.removeprefix(name): t for key, t in tensors.items() if key.startswith(name)}

        self.done, self.best, self.best_epoch = progress["done"], progress["best"], progress["best_epoch"]
        self.reached, self.reached_epoch = progress["reached"], progress["reached_epoch"]
        self.stopped, self.history = progress["stopped"], progress["history"]
        self.schedule.restore(progress["schedule"])
        self.kept = {name: to(value, self.device) for name, value in group("kept.").items()}
        # load_state_dict copies in place, so the parameters stay views of one vector.
        self.modules.load_state_dict(group("now."))
        self.flat.moments = {name: to(value, self.device) for name, value in group("optimiser.").items()}
        self.generator.set_state(tensors["generator"])

    def _weights(self) -> dict[str, Tensor]:
        """A copy of all weights."""
        return {name: value.detach().clone() for name, value in self.modules.state_dict().items()}

    def _autocast(self) -> AbstractContextManager[Any]:
        """Fabric's precision, if there is one."""
        return nullcontext() if self.fabric is None else self.fabric.autocast()


def fingerprint(states: States, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Identity of a fit: its settings and a digest of its data. A checkpoint stores it.

    Parameters
    ----------
    states
        Lifted representations.
    settings
        JSON values.
    """
    shape = [states.points, states.samples, states.width]
    return {**settings, "data": states.fingerprint(), "shape": shape}


def write_checkpoint(
    file: str | os.PathLike[str],
    of: Mapping[str, Any],
    progress: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
) -> None:
    """Replace the checkpoint in one rename: a killed process leaves the earlier one or the new one.

    Parameters
    ----------
    file
        Path of the checkpoint.
    of
        The :func:`fingerprint` of the fit.
    progress
        Progress of the fit, JSON values.
    tensors
        Weights, and moments of the optimizer.
    """
    from safetensors.torch import save

    target = Path(file)
    target.parent.mkdir(parents=True, exist_ok=True)
    header = {"kind": _CHECKPOINT, "fit": json.dumps(of), "progress": json.dumps(progress)}
    data = save({name: to(t.detach(), CPU).contiguous() for name, t in tensors.items()}, header)
    with whole_file(target) as scratch:
        scratch.write_bytes(data)


def read_checkpoint(
    file: str | os.PathLike[str], of: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Progress and tensors of a checkpoint, or ``None`` if there is no file.

    Parameters
    ----------
    file
        Path of the checkpoint.
    of
        The :func:`fingerprint` of the fit that resumes.

    Raises
    ------
    RepdynError
        If the file is damaged, not a checkpoint, or the checkpoint of another fit.
    """
    from safetensors import SafetensorError, safe_open

    source = Path(file)
    if not source.exists():
        return None
    try:
        with safe_open(source, framework="pt") as opened:
            header = opened.metadata() or {}
            tensors: dict[str, Tensor] = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        if header.get("kind") != _CHECKPOINT:
            raise RepdynError(f"{source}: is not the checkpoint of a Koopman fit; choose another file")
        saved_of, progress = json.loads(header["fit"]), json.loads(header["progress"])
    except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
        raise RepdynError(
            f"{source}: is not a readable checkpoint ({error}); delete it to start anew"
        ) from None
    differing = sorted(name for name in {*of, *saved_of} if of.get(name) != saved_of.get(name))
    if differing:
        first = differing[0]
        raise RepdynError(
            f"{source}: is the checkpoint of another fit, with other {', '.join(differing)} "
            f"({first} was {saved_of.get(first)!r}, now {of.get(first)!r}); give another file, or delete it"
        )
    return progress, tensors
