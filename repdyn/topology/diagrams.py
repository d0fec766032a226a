"""What persistent homology finds at one point and through depth, beside what chance gives."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repdyn.artifacts import load_artifact, refuses_damage, save_artifact
from repdyn.conformity import check_arrays
from repdyn.errors import RepdynError
from repdyn.intervals import Estimate
from repdyn.reading import as_array
from repdyn.topology.homology import betti_curve, bottleneck_distance

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = ["PathPersistence", "Persistence", "spread"]

Array = NDArray[np.float64]

LEVEL = 0.95
GRID = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True, eq=False)
class Persistence:
    """Persistent homology of one set of points, scale-free, with its controls.

    Attributes
    ----------
    diagrams
        Birth and death ``(n, 2)`` for each homology dimension, divided by ``scale``.
    radius
        Covering radius of the landmarks divided by ``scale``; the diagrams of all points are within
        ``2 * radius`` in bottleneck distance.
    scale
        Largest distance between landmarks.
    longest
        For each homology dimension the longest bar, median and interval over half samples.
    controls
        The same for ``"shuffled"`` (each column by itself) and ``"gaussian"`` (equal covariance) points.
    samples
        Diagrams of each half sample, per homology dimension: what the intervals come from.
    drawn, total
        How many of how many samples it was measured on, where not all were taken; ``radius`` is of all.
    """

    diagrams: tuple[Array, ...]
    radius: float
    scale: float
    longest: tuple[Estimate, ...]
    controls: Mapping[str, tuple[Estimate, ...]]
    samples: tuple[tuple[Array, ...], ...]
    drawn: int | None = None
    total: int | None = None

    @property
    def verdicts(self) -> tuple[str, ...]:
        """For each homology dimension, whether a bar is longer than chance makes it.

        ``"found"`` where the whole interval is above both controls' intervals, ``"inconclusive"`` where
        only its middle is, else ``"not found"``.
        """
        return tuple(
            _verdict(own, max(control[dimension].high for control in self.controls.values()))
            for dimension, own in enumerate(self.longest)
        )

    def betti_curves(self, grid: ArrayLike = GRID) -> NDArray[np.int64]:
        """Number of features alive at each scale-free distance, shape ``(max_dim + 1, G)``."""
        at = as_array(grid, dtype=np.float64)
        return np.stack([betti_curve(diagram, at) for diagram in self.diagrams])

    def plot(self) -> Figure:
        """Draw the diagrams."""
        from repdyn.views.persistence import persistence  # imported here: plotly only when drawing

        return persistence({"all points": list(self.diagrams)})

    def to_dict(self) -> dict[str, Any]:
        """Plain values for ``--json``."""
        return {
            "radius": self.radius,
            "scale": self.scale,
            "verdicts": list(self.verdicts),
            "longest": [estimate.to_dict() for estimate in self.longest],
            "controls": {name: [e.to_dict() for e in c] for name, c in self.controls.items()},
            "diagrams": [diagram.tolist() for diagram in self.diagrams],
            **({} if self.total is None else {"drawn": self.drawn, "total": self.total}),
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to a folder (kind ``"persistence"``)."""
        PathPersistence({"": self}).save(path)

    @classmethod
    @refuses_damage
    def load(cls, path: str | os.PathLike[str]) -> Persistence:
        """Read what :meth:`save` wrote."""
        held = PathPersistence.load(path)
        if list(held.points) != [""]:
            raise RepdynError(f"{path}: holds persistence through depth; use PathPersistence.load")
        return held.points[""]

    def __repr__(self) -> str:
        lines = [
            f"Persistence, scale-free (scale {self.scale:.3g}, landmarks within {self.radius:.3f})"
            f"{_counted(self)}"
        ]
        for dimension, (own, verdict) in enumerate(zip(self.longest, self.verdicts)):
            chance = ", ".join(f"{name} {c[dimension]}" for name, c in self.controls.items())
            lines.append(
                f"  H{dimension}: {len(self.diagrams[dimension])} features, "
                f"longest {own} against {chance}: {verdict}"
            )
        return "\n".join(lines)


@dataclass(frozen=True, eq=False)
class PathPersistence:
    """Persistent homology at every point of a representation path.

    Attributes
    ----------
    points
        :class:`Persistence` by the name of the point, in order of depth.
    """

    points: Mapping[str, Persistence]

    @cached_property
    def changes(self) -> dict[str, tuple[Estimate, ...]]:
        """For each point but the first, and homology dimension, the bottleneck distance to the one before.

        Median and interval over pairs of half samples of the two.
        """
        steps = pairwise(self.points.items())
        return {name: _distances(before, after) for (_, before), (name, after) in steps}

    @cached_property
    def noise(self) -> dict[str, tuple[Estimate, ...]]:
        """For each point, the bottleneck distance between its own half samples: what no change looks like."""
        return {name: _distances(own, own) for name, own in self.points.items()}

    @cached_property
    def verdicts(self) -> dict[str, tuple[str, ...]]:
        """For each point but the first, and per homology dimension, whether the topology changes there.

        ``"found"`` where the whole interval of the change is above the noise of both points,
        ``"inconclusive"`` where only its middle is, else ``"not found"``.
        """
        noise = self.noise
        return {
            name: tuple(
                _verdict(own, max(noise[before][d].high, noise[name][d].high))
                for d, own in enumerate(self.changes[name])
            )
            for before, name in pairwise(self.points)
        }

    def betti_curves(self, grid: ArrayLike = GRID) -> NDArray[np.int64]:
        """Features alive at each scale-free distance, shape ``(points, max_dim + 1, G)``."""
        return np.stack([one.betti_curves(grid) for one in self.points.values()])

    def plot(self) -> Figure:
        """Draw the diagrams through depth."""
        from repdyn.views.persistence import persistence  # imported here: plotly only when drawing

        return persistence({name: list(one.diagrams) for name, one in self.points.items()})

    def to_dict(self) -> dict[str, Any]:
        """Plain values for ``--json``."""
        return {
            "points": {name: one.to_dict() for name, one in self.points.items()},
            "changes": {name: [e.to_dict() for e in change] for name, change in self.changes.items()},
            "noise": {name: [e.to_dict() for e in own] for name, own in self.noise.items()},
            "verdicts": {name: list(told) for name, told in self.verdicts.items()},
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to a folder (kind ``"persistence"``)."""
        config: list[dict[str, Any]] = []
        tensors: dict[str, NDArray[Any]] = {}
        for number, (name, one) in enumerate(self.points.items()):
            told = one.to_dict()
            config.append({"name": name, "samples": len(one.samples)})
            kept = ("radius", "scale", "longest", "controls", "drawn", "total")
            config[-1] |= {key: told[key] for key in kept if key in told}
            for sample, diagrams in enumerate((one.diagrams, *one.samples)):
                for dimension, diagram in enumerate(diagrams):
                    tensors[f"{number}.{sample}.{dimension}"] = diagram
        save_artifact(path, "persistence", {"points": config}, tensors)

    @classmethod
    @refuses_damage
    def load(cls, path: str | os.PathLike[str]) -> PathPersistence:
        """Read what :meth:`save` wrote."""
        artifact = load_artifact(path, "persistence")
        points = {}
        try:
            for number, held in enumerate(artifact.config["points"]):
                longest = tuple(Estimate(**estimate) for estimate in held["longest"])
                controls = {n: tuple(Estimate(**e) for e in c) for n, c in held["controls"].items()}
                own, *samples = (
                    tuple(artifact.tensors[f"{number}.{sample}.{d}"] for d in range(len(longest)))
                    for sample in range(held["samples"] + 1)
                )
                for diagram in (part for sample in (own, *samples) for part in sample):
                    check_arrays({"diagram": diagram}, diagram="n 2")
                counts = (held.get("drawn"), held.get("total"))
                if any(count is not None and type(count) is not int for count in counts):
                    raise ValueError(f"drawn and total are {counts}, expected whole numbers")
                points[held["name"]] = Persistence(
                    own, held["radius"], held["scale"], longest, controls, tuple(samples), *counts
                )
        except KeyError as missing:
            raise RepdynError(f"{path}: is not whole, {missing} is missing; save it again") from None
        return cls(points)

    def __repr__(self) -> str:
        counted = _counted(next(iter(self.points.values()), None))
        lines = [f"PathPersistence over {len(self.points)} points{counted}, scale-free; longest bars"]
        verdicts = self.verdicts
        for name, one in self.points.items():
            bars = "  ".join(
                f"H{d} {own} {told}" for d, (own, told) in enumerate(zip(one.longest, one.verdicts))
            )
            change = (
                f"; change from the point before: {', '.join(verdicts[name])}" if name in verdicts else ""
            )
            lines.append(f"  {name}: {bars}{change}")
        return "\n".join(lines)


def _counted(one: Persistence | None) -> str:
    return "" if one is None or one.total is None else f", {one.drawn} samples drawn from {one.total}"


def _verdict(own: Estimate, chance: float) -> str:
    if own.low > chance:
        return "found"
    return "inconclusive" if own.value > chance else "not found"


def spread(values: list[float]) -> Estimate:
    """Median of repeated measurements, and the interval that 95 % of them lie in."""
    low, middle, high = np.quantile(values, [(1 - LEVEL) / 2, 0.5, (1 + LEVEL) / 2])
    return Estimate(float(middle), float(low), float(high), LEVEL)


def _distances(one: Persistence, other: Persistence) -> tuple[Estimate, ...]:
    """Bottleneck distances between half samples of two points, never of a sample from itself."""
    count = min(len(one.samples), len(other.samples))
    pairs = [(i, (i + 1) % count) for i in range(count)]
    return tuple(
        spread([bottleneck_distance(one.samples[i][d], other.samples[j][d]) for i, j in pairs])
        for d in range(len(one.diagrams))
    )
