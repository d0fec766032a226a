"""Attractors through training: births, deaths and mergers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from repdyn.artifacts import Artifact
from repdyn.errors import RepdynError
from repdyn.fields.attractors import Attractors, assign_basins, upgraded_record
from repdyn.fields.field import LatentField
from repdyn.fields.map import as_tensor, widened
from repdyn.results import Result

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = ["AttractorHistory", "AttractorTracker"]


@dataclass(frozen=True, eq=False)
class AttractorHistory(Result, kind="attractor history"):
    """Attractors at each checkpoint, and their continuations.

    Attributes
    ----------
    steps
        Training step of each checkpoint, shape ``(T,)``.
    attractors
        Attractors of each checkpoint.
    identity
        A number for each attractor of each checkpoint, which its continuations keep: T arrays ``(A_t,)``.
    events
        Rows ``(step, event, identity, other)``: ``"birth"``, ``"death"`` (other is -1), or ``"merger"``
        (other is the identity that it merged into).
    """

    steps: NDArray[np.int64]
    attractors: tuple[Attractors, ...]
    identity: tuple[NDArray[np.int64], ...]
    events: tuple[tuple[int, str, int, int], ...]

    def counts(self) -> NDArray[np.int64]:
        """Attractors, births, deaths and mergers at each checkpoint, shape ``(T, 4)``."""
        table = np.zeros((len(self.steps), 4), dtype=np.int64)
        table[:, 0] = [len(attractors) for attractors in self.attractors]
        row = {int(step): t for t, step in enumerate(self.steps)}
        for step, event, _, _ in self.events:
            table[row[step], 1 + ("birth", "death", "merger").index(event)] += 1
        return table

    def shares(self) -> NDArray[np.float64]:
        """Share of the starts in the basin of each identity, shape ``(T, identities)``; 0 where it does not
        exist."""
        known = 1 + max((int(names.max()) for names in self.identity if len(names)), default=-1)
        table = np.zeros((len(self.steps), known))
        for t, (attractors, names) in enumerate(zip(self.attractors, self.identity)):
            table[t, names] = attractors.basin_share
        return table

    def __repr__(self) -> str:
        lines = [
            f"AttractorHistory: {len(self.steps)} checkpoints, {self.shares().shape[1]} attractors in all",
            "      step  attractors  births  deaths  mergers  in a basin",
        ]
        shown = range(len(self.steps))
        for t in shown if len(shown) <= 16 else [*shown[:8], *shown[-8:]]:
            count, births, deaths, mergers = self.counts()[t]
            share = self.attractors[t].basin_share.sum()
            lines.append(
                f"  {self.steps[t]:8d}  {count:10d}  {births:6d}  {deaths:6d}  {mergers:7d}  {share:10.0%}"
            )
        if len(shown) > 16:
            lines.insert(10, f"  … {len(shown) - 16} more")
        return "\n".join(lines)

    def plot(self) -> Figure:
        """Basin shares of the attractors through training, with births, deaths and mergers below."""
        # plotly is slow to import.
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

    @classmethod
    def _upgrade(cls, artifact: Artifact, path: Path) -> Artifact:
        """Version 0.1 numbered the arrays of each checkpoint."""
        count = len(artifact.config["steps"])
        config, tensors = dict(artifact.config), dict[str, NDArray[Any]]()
        records = list(config["attractors"])
        for t in range(count):
            records[t], arrays = upgraded_record(records[t], artifact.tensors, f"{t}.", f"attractors.{t}.")
            tensors |= arrays | {f"identity.{t}": artifact.tensors[f"identity.{t}"]}
        config["attractors"] = records
        config["identity"] = [{"tensor": f"identity.{t}"} for t in range(count)]
        return replace(artifact, config=config, tensors=tensors)


class AttractorTracker:
    """Follow the attractors of a network while it trains.

    Each checkpoint is searched from the same starts. Each attractor of the previous checkpoint is also
    iterated by the new map. The attractor that it reaches is its continuation. If several reach one
    attractor, the nearest is continued and the others have merged into it. An attractor that reaches none has
    died. A new attractor that none reaches is a birth.

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
    mode. A symmetric split, as in the example, leaves the old attractor at its center, which is unstable now,
    so two attractors are born: iteration from an unstable fixed point does not leave it.

    References
    ----------
    Fumero et al. (2025), arXiv 2505.22785, appendix on training; Datseris, Rossi, Wagemakers (2023).
    Framework for global stability analysis of dynamical systems. Chaos 33 (continuation of attractors).
    """

    def __init__(self, starts: Any, *, max_steps: int = 1000, seed: int = 0) -> None:
        self.starts, self.max_steps, self.seed = as_tensor(starts), max_steps, seed
        self._steps: list[int] = []
        self._attractors: list[Attractors] = []
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
            The map at this step. It is not changed.

        Raises
        ------
        RepdynError
            If the step is not later than the last one.
        """
        if self._steps and step <= self._steps[-1]:
            raise RepdynError(
                f"step: expected a step after the last checkpoint, {self._steps[-1]}, got {step}"
            )
        attractors = field.attractors(self._codes(field), max_steps=self.max_steps, seed=self.seed)
        identity = np.full(len(attractors), -1, dtype=np.int64)
        if self._attractors and len(self._attractors[-1]):
            self._continue(step, field, attractors, identity)
        for a in np.flatnonzero(identity < 0):
            identity[a] = self._known
            self._events.append((step, "birth", self._known, -1))
            self._known += 1
        self._steps.append(step)
        self._attractors.append(attractors)
        self._identity.append(identity)

    def history(self) -> AttractorHistory:
        """The history of all checkpoints so far.

        Raises
        ------
        RepdynError
            If there was no checkpoint.
        """
        if not self._steps:
            raise RepdynError("tracker: there is no checkpoint yet; call update(step, field) while training")
        return AttractorHistory(
            np.array(self._steps), tuple(self._attractors), tuple(self._identity), tuple(self._events)
        )

    def _codes(self, field: LatentField) -> Tensor:
        """Codes ``(N, d)`` of the starts by the encoder of this checkpoint."""
        if field.encode is None:
            return widened(field, field.on_device(self.starts))
        with torch.no_grad():
            return field.encode(widened(field.encode, field.on_device(self.starts)))

    def _continue(
        self, step: int, field: LatentField, attractors: Attractors, identity: NDArray[np.int64]
    ) -> None:
        """Give continued attractors their identity ``(A,)``, in place, and record deaths and mergers."""
        before, old = self._attractors[-1], self._identity[-1]
        like = self._codes(field)
        target = assign_basins(field, attractors, torch.from_numpy(before.points).to(like))
        moved = (
            np.linalg.norm(before.points - attractors.points[target], axis=1) if len(attractors) else target
        )
        # The nearest comes first and keeps its identity: an attractor moves little between checkpoints.
        for b in np.argsort(moved, kind="stable"):
            a = int(target[b])
            if a < 0:
                self._events.append((step, "death", int(old[b]), -1))
            elif identity[a] < 0:
                identity[a] = old[b]
            else:
                self._events.append((step, "merger", int(old[b]), int(identity[a])))
