"""Vietoris-Rips persistence of points, or of every point of a path, and its controls.

:func:`persistence` measures; :class:`Persistence` and :class:`PathPersistence` hold the results and verdicts.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repdyn.arguments import whole
from repdyn.artifacts import Artifact
from repdyn.conformity import check_arrays
from repdyn.errors import RepdynError
from repdyn.intervals import Estimate
from repdyn.paths import RepresentationPaths, drawn_rows, nearby
from repdyn.paths.columns import VectorColumn
from repdyn.progress import track
from repdyn.reading import as_array
from repdyn.repeats import groups_of_equal_rows
from repdyn.results import Result
from repdyn.topology.homology import (
    betti_curve,
    bottleneck_distance,
    covering_radius,
    gaussian_null,
    longest_is_noise,
    of_landmarks,
    shuffled_null,
    vietoris_rips,
)
from repdyn.topology.neighbors import as_points
from repdyn.topology.settings import PERSISTENCE

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = ["PathPersistence", "Persistence", "persistence", "spread"]

Array = NDArray[np.float64]

GRID = np.linspace(0.0, 1.0, 101)


@overload
def persistence(
    x: RepresentationPaths, max_dim: int = ..., landmarks: int = ..., resamples: int = ..., seed: int = ...
) -> PathPersistence:
    """Measure every point of a path."""


@overload
def persistence(
    x: ArrayLike, max_dim: int = ..., landmarks: int = ..., resamples: int = ..., seed: int = ...
) -> Persistence:
    """Measure one set of points."""


def persistence(
    x: RepresentationPaths | ArrayLike,
    max_dim: int = 1,
    landmarks: int = 200,
    resamples: int = 8,
    seed: int = 0,
) -> Persistence | PathPersistence:
    """Vietoris-Rips persistence of points, or of every point of a path, with controls.

    Parameters
    ----------
    x
        Points ``(N, D)``, or a :class:`~repdyn.paths.RepresentationPaths` of such. Of paths, or of a point of
        a store, with more than 128 MiB per point in float64, as many samples as fit are drawn. The covering
        radius is that of all samples, and the result reports the number drawn.
    max_dim
        Highest homology dimension: 0 components, 1 loops, 2 voids.
    landmarks
        Number of landmarks that replace the points. The result has the error bound.
    resamples
        Number of half samples, and of draws of each control. A half sample has at most 2000 points; the
        result reports its size.
    seed
        Of samples and controls.

    Returns
    -------
    Persistence or PathPersistence
        The second for a path.

    Raises
    ------
    RepdynError
        On a wrong shape or values that are not finite.

    Examples
    --------
    >>> import numpy as np
    >>> angle = np.random.default_rng(0).uniform(0, 2 * np.pi, 200)
    >>> persistence(np.column_stack([np.cos(angle), np.sin(angle)]), landmarks=60).verdicts[1]
    'found'
    """
    max_dim, resamples = whole("persistence: max_dim", max_dim), whole("persistence: resamples", resamples)
    if resamples < 2:
        raise RepdynError(f"persistence: resamples={resamples}; expected 2 or more, for the intervals")
    if isinstance(x, RepresentationPaths):
        return PathPersistence(_through_depth(x, max_dim, landmarks, resamples, seed))
    if isinstance(x, VectorColumn) and (rows := _drawn(len(x), x.width, seed)) is not None:
        measured, chosen = _measure(x.take(rows), max_dim, landmarks, resamples, seed)
        blocks = (x[start : start + PERSISTENCE.block] for start in range(0, len(x), PERSISTENCE.block))
        radius = max(covering_radius(block, chosen) for block in blocks)
        return _of_all(measured, radius, len(rows), len(x))
    return _measure(x, max_dim, landmarks, resamples, seed)[0]


def _through_depth(
    paths: RepresentationPaths, max_dim: int, landmarks: int, resamples: int, seed: int
) -> dict[str, Persistence]:
    """Persistence of every point of paths, by name."""
    rows = _drawn(len(paths), max(paths.widths.values()), seed)
    drawn = paths if rows is None else paths.subset(rows)
    drawn = nearby(drawn, PERSISTENCE.fetched_bytes)
    measured, chosen = {}, {}
    for name in track(paths.points, "persistent homology"):
        measured[name], chosen[name] = _measure(drawn[name], max_dim, landmarks, resamples, seed)
    if rows is None:
        return measured
    radius = dict.fromkeys(paths.points, 0.0)
    for block in track(paths.iterate(), "measuring the covering radius"):
        for name, x in block.items():
            radius[name] = max(radius[name], covering_radius(x, chosen[name]))
    return {name: _of_all(one, radius[name], len(rows), len(paths)) for name, one in measured.items()}


def _drawn(size: int, width: int, seed: int) -> NDArray[np.int64] | None:
    """Indices of samples that fit into memory, or None if all do."""
    return drawn_rows(size, max(PERSISTENCE.sample_points, PERSISTENCE.held_bytes // (8 * width)), seed)


def _of_all(one: Persistence, radius: float, drawn: int, total: int) -> Persistence:
    """The result of drawn samples, with the covering radius of all samples."""
    scaled = radius / one.scale if one.scale else 0.0
    return replace(one, radius=max(one.radius, scaled), drawn=drawn, total=total)


def _measure(
    x: ArrayLike, max_dim: int, landmarks: int, resamples: int, seed: int
) -> tuple[Persistence, Array]:
    """Persistence with its controls, and the landmarks."""
    points = as_points(x, "persistence")
    # Equal points are one. Otherwise half samples have fewer different points than their nulls, and longer
    # bars.
    points = points[np.unique(groups_of_equal_rows(points), return_index=True)[1]]
    diagrams, chosen, radius, scale = of_landmarks(points, max_dim, landmarks)
    radius = radius / scale if scale else 0.0
    landmark_points = points[chosen]
    generator = np.random.default_rng(seed)
    size = min(PERSISTENCE.sample_points, max(len(points) // 2, 1))
    drawn: dict[str, list[tuple[Array, ...]]] = {"own": [], "shuffled": [], "gaussian": []}
    for _ in range(resamples):
        half = points[generator.permutation(len(points))[:size]]
        sets = {
            "own": half,
            "shuffled": shuffled_null(half, generator),
            "gaussian": gaussian_null(half, generator),
        }
        for name, sample in sets.items():
            drawn[name].append(vietoris_rips(sample, max_dim, landmarks)[0])
    longest = {
        name: tuple(spread([_longest(one[d]) for one in samples]) for d in range(max_dim + 1))
        for name, samples in drawn.items()
    }
    own = longest.pop("own")
    measured = Persistence(
        diagrams,
        radius,
        scale,
        own,
        longest,
        tuple(drawn["own"]),
        different=len(points),
        landmarks=len(chosen),
        sample_size=size,
    )
    return measured, landmark_points


def _longest(diagram: Array) -> float:
    """Length of the longest bar of a diagram ``(n, 2)``; 0 without bars."""
    return float((diagram[:, 1] - diagram[:, 0]).max(initial=0.0))


@dataclass(frozen=True, eq=False)
class Persistence(Result):
    """Persistent homology of one set of points, independent of scale, with its controls.

    Attributes
    ----------
    diagrams
        Birth and death ``(n, 2)`` for each homology dimension, divided by ``scale``.
    radius
        Covering radius of the landmarks divided by ``scale``; the bottleneck distance to the diagrams
        of all points is at most ``2 * radius``.
    scale
        Largest distance between landmarks.
    longest
        For each homology dimension the longest bar, median and interval over half samples.
    controls
        The same for ``"shuffled"`` (each column by itself) and ``"gaussian"`` (equal covariance) points.
    samples
        Diagrams of each half sample, by homology dimension, from which the intervals are computed.
    drawn, total
        Number of samples that were drawn, and of all, if not all were used. ``radius`` is that of all.
    different, landmarks, sample_size
        Number of different points, of landmarks among them, and of points in each half sample and control.
        None in results of version 0.1.
    """

    diagrams: tuple[Array, ...]
    radius: float
    scale: float
    longest: tuple[Estimate, ...]
    controls: Mapping[str, tuple[Estimate, ...]]
    samples: tuple[tuple[Array, ...], ...]
    drawn: int | None = None
    total: int | None = None
    different: int | None = None
    landmarks: int | None = None
    sample_size: int | None = None

    @property
    def verdicts(self) -> tuple[str, ...]:
        """For each homology dimension, whether the longest bar is longer than by chance.

        ``"found"``: the interval lies above the intervals of both controls; and for loops and voids the bar
        is longer than twice ``radius``, or an outlier among the other bars, so that it is no noise of the
        landmarks. ``"inconclusive"``: only the median lies above, or the bar may be noise. ``"not found"``:
        otherwise.
        """
        return tuple(self._verdict(dimension) for dimension in range(len(self.longest)))

    def _verdict(self, dimension: int) -> str:
        """The verdict of a homology dimension."""
        chance = max(control[dimension].high for control in self.controls.values())
        verdict = _verdict(self.longest[dimension], chance)
        # The surface of a sphere has loops of landmarks that are longer than those of a Gaussian.
        noise = dimension > 0 and longest_is_noise(self.diagrams[dimension], self.radius)
        return "inconclusive" if verdict == "found" and noise else verdict

    def betti_curves(self, grid: ArrayLike = GRID) -> NDArray[np.int64]:
        """Number of features alive at each scale-free distance, shape ``(max_dim + 1, G)``."""
        at = as_array(grid, dtype=np.float64)
        return np.stack([betti_curve(diagram, at) for diagram in self.diagrams])

    def plot(self) -> Figure:
        """Draw the diagrams."""
        from repdyn.views.persistence import persistence  # plotly is slow to import

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
            **({} if self.landmarks is None else self._counts()),
        }

    def _counts(self) -> dict[str, int | None]:
        """Numbers of points, of landmarks, and of points in a sample."""
        return {"different": self.different, "landmarks": self.landmarks, "sample_size": self.sample_size}

    def __post_init__(self) -> None:
        """Check the diagrams; a damaged result is refused here."""
        for diagrams in (self.diagrams, *self.samples):
            if len(diagrams) != len(self.longest):
                raise ValueError(f"{len(diagrams)} diagrams, but {len(self.longest)} longest bars")
            for diagram in diagrams:
                check_arrays({"diagram": diagram}, diagram="n 2")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to a folder, of kind ``"persistence"``: a path of one point without a name."""
        PathPersistence({"": self}).save(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Persistence:
        """Read what :meth:`save` wrote.

        Raises
        ------
        RepdynError
            If the folder is missing or damaged, or holds persistence through depth.
        """
        loaded = PathPersistence.load(path)
        if list(loaded.points) != [""]:
            raise RepdynError(f"{path}: holds persistence through depth; use PathPersistence.load")
        return loaded.points[""]

    def __repr__(self) -> str:
        lines = [
            f"Persistence, scale-free (scale {self.scale:.3g}, landmarks within {self.radius:.3f})"
            f"{_counted(self)}"
        ]
        for dimension, (own, verdict) in enumerate(zip(self.longest, self.verdicts)):
            chance = ", ".join(f"{name} {c[dimension]}" for name, c in self.controls.items())
            lines.append(
                f"  H{dimension}: {len(self.diagrams[dimension])} features, "
                f"longest bar {own}, controls: {chance}: {verdict}"
            )
        return "\n".join(lines)


@dataclass(frozen=True, eq=False)
class PathPersistence(Result, kind="persistence"):
    """Persistent homology at every point of a representation path.

    Attributes
    ----------
    points
        :class:`Persistence` by the name of the point, in order of depth.
    """

    points: Mapping[str, Persistence]

    @cached_property
    def changes(self) -> dict[str, tuple[Estimate, ...]]:
        """Bottleneck distance to the previous point, for each point but the first and each homology
        dimension.

        Median and interval over pairs of half samples of the two.
        """
        steps = pairwise(self.points.items())
        return {name: _distances(before, after) for (_, before), (name, after) in steps}

    @cached_property
    def noise(self) -> dict[str, tuple[Estimate, ...]]:
        """Bottleneck distance between half samples of one point, for each point: the value without a
        change."""
        return {name: _distances(own, own) for name, own in self.points.items()}

    @cached_property
    def verdicts(self) -> dict[str, tuple[str, ...]]:
        """Whether the topology changes from the previous point, by homology dimension, without the first
        point.

        ``"found"``: the interval of the change lies above the noise of both points. ``"inconclusive"``: only
        the median does. ``"not found"``: otherwise.
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
        from repdyn.views.persistence import persistence  # plotly is slow to import

        return persistence({name: list(one.diagrams) for name, one in self.points.items()})

    def to_dict(self) -> dict[str, Any]:
        """Plain values for ``--json``."""
        return {
            "points": {name: one.to_dict() for name, one in self.points.items()},
            "changes": {name: [e.to_dict() for e in change] for name, change in self.changes.items()},
            "noise": {name: [e.to_dict() for e in own] for name, own in self.noise.items()},
            "verdicts": {name: list(verdicts) for name, verdicts in self.verdicts.items()},
        }

    @classmethod
    def _upgrade(cls, artifact: Artifact, path: Path) -> Artifact:
        """Version 0.1 numbered the points, and their diagrams by sample and dimension."""
        points = {}
        for number, held in enumerate(artifact.config["points"]):
            own, *samples = (
                [{"tensor": f"{number}.{sample}.{d}"} for d in range(len(held["longest"]))]
                for sample in range(held["samples"] + 1)
            )
            points[held["name"]] = {**held, "diagrams": own, "samples": samples}
        return replace(artifact, config={"points": points})

    def __repr__(self) -> str:
        counted = _counted(next(iter(self.points.values()), None))
        lines = [f"PathPersistence over {len(self.points)} points{counted}, scale-free; longest bars"]
        verdicts = self.verdicts
        for name, one in self.points.items():
            bars = "  ".join(
                f"H{d} {own} {verdict}" for d, (own, verdict) in enumerate(zip(one.longest, one.verdicts))
            )
            change = (
                f"; change from the previous point: {', '.join(verdicts[name])}" if name in verdicts else ""
            )
            lines.append(f"  {name}: {bars}{change}")
        return "\n".join(lines)


def _counted(one: Persistence | None) -> str:
    """Words for what was drawn: samples, landmarks and half samples; empty where nothing is known of it."""
    if one is None:
        return ""
    words = "" if one.total is None else f", {one.drawn} samples drawn from {one.total}"
    if one.landmarks is not None:
        words += (
            f", {one.landmarks} landmarks of {one.different} points, "
            f"intervals from {len(one.samples)} samples of {one.sample_size}"
        )
    return words


def _verdict(own: Estimate, chance: float) -> str:
    """Verdict for an interval and the upper end of its controls."""
    if own.low > chance:
        return "found"
    return "inconclusive" if own.value > chance else "not found"


def spread(values: list[float]) -> Estimate:
    """Median of repeated measurements, and the interval with 95 % of them."""
    low, middle, high = np.quantile(values, [(1 - PERSISTENCE.level) / 2, 0.5, (1 + PERSISTENCE.level) / 2])
    return Estimate(float(middle), float(low), float(high), PERSISTENCE.level)


def _distances(one: Persistence, other: Persistence) -> tuple[Estimate, ...]:
    """Bottleneck distances between half samples of two points, never between a sample and itself."""
    count = min(len(one.samples), len(other.samples))
    pairs = [(i, (i + 1) % count) for i in range(count)]
    return tuple(
        spread([bottleneck_distance(one.samples[i][d], other.samples[j][d]) for i, j in pairs])
        for d in range(len(one.diagrams))
    )
