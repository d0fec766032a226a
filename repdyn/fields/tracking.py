"""Attractors through training: which are born, which die, which merge."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from repdyn.artifacts import load_artifact, refuses_damage, save_artifact
from repdyn.errors import RepdynError
from repdyn.fields.assignment import assign_basins
from repdyn.fields.attractors import Attractors, starting_with
from repdyn.fields.field import LatentField
from repdyn.fields.starts import as_tensor, widened

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = ["AttractorHistory", "AttractorTracker"]


@dataclass(frozen=True, eq=False)
class AttractorHistory:
    """Attractors at each checkpoint, and who became whom.

    Attributes
    ----------
    steps
        Training step of each checkpoint, shape ``(T,)``.
    attractors
        What the search found at each.
    identity
        A name for each attractor of each checkpoint, kept along its continuation: T arrays ``(A_t,)``.
    events
        Rows ``(step, event, identity, other)``: ``"birth"``, ``"death"`` (other is -1), or ``"merger"``
        (other is the identity that took it over).
    """

    steps: NDArray[np.int64]
    attractors: tuple[Attractors, ...]
    identity: tuple[NDArray[np.int64], ...]
    events: tuple[tuple[int, str, int, int], ...]

    def counts(self) -> NDArray[np.int64]:
        """Attractors, births, deaths and mergers at each checkpoint, shape ``(T, 4)``."""
        table = np.zeros((len(self.steps), 4), dtype=np.int64)
        table[:, 0] = [len(found) for found in self.attractors]
        row = {int(step): t for t, step in enumerate(self.steps)}
        for step, event, _, _ in self.events:
            table[row[step], 1 + ("birth", "death", "merger").index(event)] += 1
        return table

    def shares(self) -> NDArray[np.float64]:
        """Share of the starts that each identity holds, shape ``(T, identities)``; 0 where it is not."""
        known = 1 + max((int(names.max()) for names in self.identity if len(names)), default=-1)
        table = np.zeros((len(self.steps), known))
        for t, (found, names) in enumerate(zip(self.attractors, self.identity)):
            table[t, names] = found.basin_share
        return table

    def __repr__(self) -> str:
        lines = [
            f"AttractorHistory: {len(self.steps)} checkpoints, {self.shares().shape[1]} attractors in all",
            "      step  attractors  births  deaths  mergers  starts settled",
        ]
        shown = range(len(self.steps))
        for t in shown if len(shown) <= 16 else [*shown[:8], *shown[-8:]]:
            count, births, deaths, mergers = self.counts()[t]
            settled = self.attractors[t].basin_share.sum()
            lines.append(
                f"  {self.steps[t]:8d}  {count:10d}  {births:6d}  {deaths:6d}  {mergers:7d}  {settled:14.0%}"
            )
        if len(shown) > 16:
            lines.insert(10, f"  … {len(shown) - 16} more")
        return "\n".join(lines)

    def plot(self) -> Figure:
        """Basin shares of the attractors through training, with births, deaths and mergers below."""
        # plotly is slow to import: here, not with the room.
        from repdyn.views.tracking import tracking

        return tracking(self.steps, self.shares(), self.counts())

    def to_dict(self) -> dict[str, Any]:
        """The figures, as plain values for ``--json``."""
        return {
            "steps": self.steps.tolist(),
            "counts": [
                dict(zip(("attractors", "births", "deaths", "mergers"), row))
                for row in self.counts().tolist()
            ],
            "events": [list(event) for event in self.events],
            "shares": self.shares().tolist(),
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to a folder, of kind ``"attractor history"``."""
        configs, tensors = [], dict[str, NDArray[Any]]()
        for t, (found, names) in enumerate(zip(self.attractors, self.identity)):
            config, arrays = found.record()
            configs.append(config)
            tensors |= {f"{t}.{name}": array for name, array in arrays.items()} | {f"identity.{t}": names}
        config = {
            "steps": self.steps.tolist(),
            "events": [list(e) for e in self.events],
            "attractors": configs,
        }
        save_artifact(path, "attractor history", config, tensors)

    @classmethod
    @refuses_damage
    def load(cls, path: str | os.PathLike[str]) -> AttractorHistory:
        """Read what :meth:`save` wrote."""
        artifact = load_artifact(path, "attractor history")
        config, tensors = artifact.config, artifact.tensors
        return cls(
            steps=np.array(config["steps"], dtype=np.int64),
            attractors=tuple(
                Attractors.revive(found, starting_with(f"{t}.", tensors))
                for t, found in enumerate(config["attractors"])
            ),
            identity=tuple(tensors[f"identity.{t}"] for t in range(len(config["steps"]))),
            events=tuple((step, event, name, other) for step, event, name, other in config["events"]),
        )


class AttractorTracker:
    """Follow the attractors of a network while it trains.

    At each checkpoint attractors are searched from the same starts, and those of the checkpoint before are
    continued: each is handed to the new map as a start. One that a continued attractor falls to is that
    attractor, moved. When several fall to one, the nearest goes on and the others have merged into it; one
    that falls to nothing has died; an attractor that none falls to has been born.

    Parameters
    ----------
    starts
        Data as the encoder takes it (coded anew by the map of each checkpoint), first axis the sample; or
        codes, shape ``(N, d)``, where the field has no encoder.
    max_steps
        Plain steps allowed for each start and checkpoint.
    seed
        Of every search.

    Examples
    --------
    >>> import torch
    >>> tracker = AttractorTracker(torch.linspace(-1, 1, 8)[:, None])
    >>> for step, gain in enumerate((0.5, 2.0)):
    ...     tracker.update(step, LatentField(lambda z, g=gain: torch.tanh(g * z)))
    >>> tracker.history().counts().tolist()
    [[1, 1, 0, 0], [2, 2, 1, 0]]

    Notes
    -----
    Call :meth:`update` from a training loop, or from a trainer's callback, with the network in evaluation
    mode. A symmetric split, as in the example, kills the attractor at its centre and bears two: continuation
    from an unstable point has no direction to fall.

    References
    ----------
    Fumero et al. (2025), arXiv 2505.22785, appendix on training; Datseris, Rossi, Wagemakers (2023).
    Framework for global stability analysis of dynamical systems. Chaos 33 (continuation of attractors).
    """

    def __init__(self, starts: Any, *, max_steps: int = 1000, seed: int = 0) -> None:
        self.starts, self.max_steps, self.seed = as_tensor(starts), max_steps, seed
        self._steps: list[int] = []
        self._found: list[Attractors] = []
        self._identity: list[NDArray[np.int64]] = []
        self._events: list[tuple[int, str, int, int]] = []
        self._known = 0

    def update(self, step: int, field: LatentField) -> None:
        """Search the map of one checkpoint and link it to the one before.

        Parameters
        ----------
        step
            Training step; later than the last.
        field
            The map at this step. It is only read.

        Raises
        ------
        RepdynError
            If the step does not come after the last one.
        """
        if self._steps and step <= self._steps[-1]:
            raise RepdynError(f"step: {step} does not come after the last checkpoint, {self._steps[-1]}")
        found = field.attractors(self._codes(field), max_steps=self.max_steps, seed=self.seed)
        names = np.full(len(found), -1, dtype=np.int64)
        if self._found and len(self._found[-1]):
            self._continue(step, field, found, names)
        for a in np.flatnonzero(names < 0):
            names[a] = self._known
            self._events.append((step, "birth", self._known, -1))
            self._known += 1
        self._steps.append(step)
        self._found.append(found)
        self._identity.append(names)

    def history(self) -> AttractorHistory:
        """What was seen until now.

        Raises
        ------
        RepdynError
            If no checkpoint was seen.
        """
        if not self._steps:
            raise RepdynError("tracker: no checkpoint seen yet; call update(step, field) while training")
        return AttractorHistory(
            np.array(self._steps), tuple(self._found), tuple(self._identity), tuple(self._events)
        )

    def _codes(self, field: LatentField) -> Tensor:
        if field.encode is None:
            return widened(field, field.place(self.starts))
        with torch.no_grad():
            return field.encode(widened(field.encode, field.place(self.starts)))

    def _continue(self, step: int, field: LatentField, found: Attractors, names: NDArray[np.int64]) -> None:
        before, old = self._found[-1], self._identity[-1]
        like = self._codes(field)
        target = assign_basins(field, found, torch.from_numpy(before.points).to(like))
        moved = np.linalg.norm(before.points - found.points[target], axis=1) if len(found) else target
        # The nearest comes first and keeps its name; an attractor moves little between checkpoints.
        for b in np.argsort(moved, kind="stable"):
            a = int(target[b])
            if a < 0:
                self._events.append((step, "death", int(old[b]), -1))
            elif names[a] < 0:
                names[a] = old[b]
            else:
                self._events.append((step, "merger", int(old[b]), int(names[a])))
