"""The state of a fit on disk, from which a fit that was killed goes on with the same numbers.

A checkpoint is a folder of :func:`repdyn.artifacts.save_artifact`, replaced as a whole: weights, the best
weights so far, the moments of Adam, the plateau schedule, the random stream, and what identifies the fit.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from repdyn.artifacts import load_artifact, refusing_damage, save_artifact
from repdyn.devices import to
from repdyn.disentangle.sequence_autoencoder import SequenceAutoencoder
from repdyn.disentangle.sequences import Sequences
from repdyn.errors import RepdynError
from repdyn.reading import as_array

__all__ = ["Checkpoint", "TrainingState", "plan_of"]

_KIND = "disentangle-training"


@dataclass
class TrainingState:
    """What a fit knows between two epochs.

    Attributes
    ----------
    model, optimizer, schedule, generator
        What is trained, and by what.
    epoch
        Epochs done.
    best, best_epoch, best_weights
        The smallest validation loss, its epoch, and the weights then.
    history
        Losses by epoch.
    """

    model: SequenceAutoencoder
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.ReduceLROnPlateau
    generator: torch.Generator
    best_weights: dict[str, Tensor]
    epoch: int = 0
    best: float = float("inf")
    best_epoch: int = 0
    history: dict[str, list[float]] = field(default_factory=dict)


def plan_of(
    model: SequenceAutoencoder, training: Sequences, held_out: Sequences, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """What identifies a fit. The number of epochs is no part of it: a finished fit can go on.

    Parameters
    ----------
    model
        A model that was built.
    training, held_out
        Its data, which enter by their number and their sum.
    settings
        Seed, batch size and so on.
    """
    sizes = (model.static_dim, model.latent_dim, model.hidden, *(model.channels or ()))
    data = {
        name: [len(part), float(part.values.sum(dtype=torch.float64))]
        for name, part in (("training", training), ("validation", held_out))
    }
    plan = {"model": type(model).__name__, "frame": model.frame_, "sizes": sizes, **settings}
    plan |= {"threshold": model.threshold, "weights": asdict(model.weights), **data}
    found: dict[str, Any] = json.loads(json.dumps(plan))
    return found


class Checkpoint:
    """A folder that holds the state of one fit.

    Parameters
    ----------
    folder
        Where.
    plan
        What identifies the fit (:func:`plan_of`).
    seconds
        Least time between two saves.
    """

    def __init__(self, folder: str | os.PathLike[str], plan: Mapping[str, Any], seconds: float) -> None:
        self.folder, self.plan, self.seconds = Path(folder), dict(plan), seconds
        self._saved = time.monotonic()

    def load(self, state: TrainingState) -> None:
        """Set a new state to what the folder holds, if it is there.

        Raises
        ------
        RepdynError
            If it is damaged, or belongs to another fit; the message names what differs.
        """
        if not self.folder.exists():
            return
        artifact = load_artifact(self.folder, _KIND)
        found = artifact.config["plan"]
        differs = [name for name in self.plan if found.get(name) != self.plan[name]]
        if differs:
            name = differs[0]
            raise RepdynError(
                f"checkpoint {self.folder}: belongs to another fit, whose {name} is {found.get(name)}, not "
                f"{self.plan[name]}; choose another folder, or remove it"
            )
        with refusing_damage(self.folder, "checkpoint"):
            _restore(state, artifact.config, {k: torch.from_numpy(v) for k, v in artifact.tensors.items()})

    def save(self, state: TrainingState, *, last: bool = False) -> None:
        """Write the state, unless the previous save was too short a time ago."""
        now = time.monotonic()
        if not last and now - self._saved < self.seconds:
            return
        moments = state.optimizer.state_dict()["state"]
        groups: dict[str, Mapping[str, Tensor]] = {
            "model": state.model.state_dict(),
            "best": state.best_weights,
            **{f"moments.{number}": parts for number, parts in moments.items()},
            "random": {"stream": state.generator.get_state()},
        }
        tensors = {
            f"{group}/{name}": as_array(x) for group, part in groups.items() for name, x in part.items()
        }
        schedule = {k: v for k, v in state.schedule.state_dict().items() if isinstance(v, float | int)}
        config = {
            "plan": self.plan,
            "epoch": state.epoch,
            "best": state.best,
            "best_epoch": state.best_epoch,
            "history": state.history,
            "rate": state.optimizer.param_groups[0]["lr"],
            "schedule": schedule,
        }
        save_artifact(self.folder, _KIND, config, tensors)
        self._saved = now


def _restore(state: TrainingState, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Set all parts of a state."""
    groups: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        group, _, name = key.partition("/")
        groups.setdefault(group, {})[name] = value
    state.model.load_state_dict(groups["model"])
    state.best_weights = to(groups["best"], state.model.device)
    moments = {int(key.partition(".")[2]): part for key, part in groups.items() if key.startswith("moments.")}
    described = state.optimizer.state_dict()["param_groups"]
    described[0]["lr"] = config["rate"]
    state.optimizer.load_state_dict({"state": moments, "param_groups": described})
    state.schedule.load_state_dict(config["schedule"])
    state.generator.set_state(groups["random"]["stream"])
    state.epoch, state.best, state.best_epoch = config["epoch"], config["best"], config["best_epoch"]
    state.history = {name: list(values) for name, values in config["history"].items()}
