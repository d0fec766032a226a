"""Attractors that a search reached, the status of each start, and the basins of new points."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from repdyn.arguments import fraction
from repdyn.artifacts import Artifact
from repdyn.conformity import check_arrays
from repdyn.devices import as_given
from repdyn.errors import RepdynError
from repdyn.fields.classification import CHAOTIC, CIRCLE, CYCLE, FAMILY, STATUSES, UNFINISHED
from repdyn.fields.iteration import picard
from repdyn.fields.map import SelfMap, check_starts, geometry_of, widened
from repdyn.fields.settings import SEARCH, SearchSettings
from repdyn.intervals import Estimate
from repdyn.reading import as_array
from repdyn.results import Result

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = ["Attractors", "assign_basins", "upgraded_record"]

Column = NDArray[np.float64]
Arrows = tuple[Column, Column, Column, Column]

_AXES = {
    "points": "A d",
    "period": "A",
    "radius": "A",
    "supported": "A",
    "point_residual": "A",
    "multipliers": "A k",
    "observed": "A",
    "lyapunov": "A 3",
    "saddles": "S d",
    "basin": "N",
    "residual": "N",
    "steps": "N",
    "starts": "N d",
    "ends": "N d",
    "counts": "T 2",
}


_OLD_STATUS = {"budget spent": UNFINISHED}
"""Statuses of results that version 0.1 saved, under their present names."""


@dataclass(frozen=True, eq=False)
class Attractors(Result, kind="attractors"):
    r"""Attractors of a latent field, as reached from a set of starts.

    An attractor is a fixed point whose multipliers (eigenvalues of the Jacobian of the map there) are all
    below one in modulus, a cycle of which the same holds, an attracting invariant circle, or a chaotic set.
    A family of cycles, none of which attracts although the family does, is one attractor. A point that only
    moves slowly is not an attractor.

    Attributes
    ----------
    points
        A point on each attractor, shape ``(A, d)``, float64; largest basin first.
    kind
        Kind of each attractor: ``"fixed point"``, ``"cycle"``, ``"family of cycles"``, ``"invariant
        circle"``, ``"chaotic"``.
    period
        Of each attractor, shape ``(A,)``; 0 where there is none.
    radius
        Root mean square distance of each attractor's orbit from its mean, shape ``(A,)``.
    supported
        Whether each lies within the range of the starts, shape ``(A,)``. Others are extrapolation.
    point_residual
        Length of the step at each point (after polishing; over a whole cycle), shape ``(A,)``.
    multipliers
        Leading multipliers, largest first, shape ``(A, k)``, complex; of the whole turn for a cycle, NaN for
        circles and chaotic sets.
    observed
        Measured factor by which a step of plain iteration (a whole turn of a cycle) shrinks the distance to
        each attractor, shape ``(A,)``. The modulus of the leading multiplier predicts it. NaN where there is
        no multiplier.
    lyapunov
        Leading Lyapunov exponent with its interval, shape ``(A, 3)``.
    saddles
        Unstable fixed points that some starts ended on, shape ``(S, d)``. Not attractors.
    basin
        Index of the attractor each start reached, or -1, shape ``(N,)``.
    status
        Status of each start: one of :data:`repdyn.fields.STATUSES`, shape ``(N,)``.
    residual, steps
        Length of the last plain step of each start, and its number of plain steps, shape ``(N,)``.
    starts, ends
        First and last points, shape ``(N, d)``.
    counts
        Pairs of merge tolerance (relative to ``scale``) and number of attractors at it, shape ``(T, 2)``.
        Points and cycles are merged by distance; the other attractors count once at every tolerance.
    scale
        Root mean square distance of the starts from their mean: the unit of all tolerances.
    evaluations
        Evaluations of the map on single samples, checks included. A Jacobian-vector product counts as one.
    tolerance, max_steps, solver
        Arguments of the search.
    notes
        Warnings that apply to the figures.
    verdict
        ``"found"``: at least half of the starts reached an attractor; ``"inconclusive"``: fewer did;
        ``"not found"``: none did.
    """

    points: NDArray[np.float64]
    kind: tuple[str, ...]
    period: NDArray[np.int64]
    radius: NDArray[np.float64]
    supported: NDArray[np.bool_]
    point_residual: NDArray[np.float64]
    multipliers: NDArray[np.complex128]
    observed: NDArray[np.float64]
    lyapunov: NDArray[np.float64]
    saddles: NDArray[np.float64]
    basin: NDArray[np.int64]
    status: NDArray[np.str_]
    residual: NDArray[np.float64]
    steps: NDArray[np.int64]
    starts: NDArray[np.float64]
    ends: NDArray[np.float64]
    counts: NDArray[np.float64]
    scale: float
    evaluations: int
    tolerance: float
    max_steps: int
    solver: str
    notes: tuple[str, ...]
    verdict: str

    def __len__(self) -> int:
        return len(self.points)

    @property
    def basin_share(self) -> NDArray[np.float64]:
        """Share of the starts that each attractor holds, shape ``(A,)``."""
        held = self.basin[self.basin >= 0]
        return np.bincount(held, minlength=len(self)) / len(self.basin)

    def basin_volumes(self, level: float = 0.95) -> tuple[Estimate, ...]:
        r"""Share of the starts' distribution in the basin of each attractor, with Wilson's interval.

        .. math:: \frac{p + z^2/2n \pm z\sqrt{p(1-p)/n + z^2/4n^2}}{1 + z^2/n}

        Starts must be independent draws for the interval to hold.

        References
        ----------
        Wilson (1927). Probable inference, the law of succession, and statistical inference. JASA 22.
        """
        n = len(self.basin)
        z = NormalDist().inv_cdf(0.5 + fraction("level", level) / 2)
        p = self.basin_share
        middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
        margin = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
        return tuple(
            Estimate(float(v), float(max(0, m - w)), float(min(1, m + w)), level)
            for v, m, w in zip(p, middle, margin)
        )

    def assign(self, field: SelfMap, z: Any) -> NDArray[np.int64]:
        """The attractor that each new point reaches, or -1; see :func:`repdyn.fields.assign_basins`."""
        return assign_basins(field, self, z)

    def status_counts(self) -> dict[str, int]:
        """Number of starts of each status; statuses without starts are left out."""
        return {name: int((self.status == name).sum()) for name in STATUSES if (self.status == name).any()}

    def __repr__(self) -> str:
        n = len(self.status)
        lines = [
            f"Attractors: {len(self)} from {n} starts in {self.starts.shape[1]} dimensions ({self.verdict})",
            "  starts: " + ", ".join(f"{k} {v / n:.0%}" for k, v in self.status_counts().items()),
            "  count by merge tolerance: " + ", ".join(f"{t:.0e} {int(c)}" for t, c in self.counts),
            f"  {self.evaluations / n:.0f} evaluations a start, tolerance {self.tolerance:g} of scale "
            f"{self.scale:.3g}, at most {self.max_steps} steps ({self.solver})",
        ]
        if len(self):
            lines.append("     basin  kind                 leading |multiplier|  observed rate  residual")
        for a in range(min(len(self), 8)):
            leading = abs(self.multipliers[a, 0]) if self.multipliers.shape[1] else np.nan
            kind = f"{self.kind[a]} ({self.period[a]})" if self.kind[a] in (CYCLE, FAMILY) else self.kind[a]
            outside = "" if self.supported[a] else "  outside the data"
            figure = f"exponent {self.lyapunov[a, 0]:+.3f}" if np.isnan(leading) else f"{leading:.4f}"
            rate = "" if np.isnan(self.observed[a]) else f"{self.observed[a]:.4f}"
            lines.append(
                f"  {self.basin_share[a]:7.1%}  {kind:<20} {figure:<21} {rate:<14} "
                f"{self.point_residual[a]:.1e}{outside}"
            )
        if len(self) > 8:
            lines.append(f"  … and {len(self) - 8} more")
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])

    def plot(self, field: SelfMap | None = None) -> Figure:
        """Starts, ends, attractors and saddles in the plane of most variance, which is stated.

        Parameters
        ----------
        field
            The field that was searched. Adds trajectories of some starts, and in two dimensions the velocity.
        """
        # plotly is slow to import.
        from repdyn.views.field import field as picture

        mean, plane, explained = _plane(self.starts, self.ends, self.points)
        marked = np.concatenate([self.points, self.saddles])
        planar = self.starts.shape[1] <= 2
        orbits = None if field is None else (_orbits(field, self.starts) - mean) @ plane
        return picture(
            starts2d=(self.starts - mean) @ plane,
            ends2d=(self.ends - mean) @ plane,
            attractors2d=(marked - mean) @ plane,
            basin=self.basin,
            status=[*self.kind, *(["fixed point"] * len(self.saddles))],
            stable=np.arange(len(marked)) < len(self),
            explained=explained,
            trajectories2d=orbits,
            velocity=_arrows(field, self.starts) if planar and field is not None else None,
            planar=planar,
        )

    def to_dict(self) -> dict[str, Any]:
        """The figures, as plain values for ``--json``; no coordinates."""
        return {
            "attractors": len(self),
            "verdict": self.verdict,
            "notes": list(self.notes),
            "starts": len(self.status),
            "status": self.status_counts(),
            "kind": list(self.kind),
            "period": self.period.tolist(),
            "basin_volumes": [volume.to_dict() for volume in self.basin_volumes()],
            "supported": self.supported.tolist(),
            "leading_multiplier": [
                None if np.isnan(m) else float(m) for m in np.abs(self.multipliers[:, :1]).ravel()
            ],
            "observed_rate": [None if np.isnan(rate) else float(rate) for rate in self.observed],
            "lyapunov": self.lyapunov.tolist(),
            "saddles": len(self.saddles),
            "counts": {f"{t:g}": int(c) for t, c in self.counts},
            "scale": self.scale,
            "evaluations": self.evaluations,
            "tolerance": self.tolerance,
            "max_steps": self.max_steps,
            "solver": self.solver,
        }

    def __post_init__(self) -> None:
        """Check that the arrays agree; a damaged or hand-made result is refused here."""
        check_arrays({name: getattr(self, name) for name in _AXES}, **_AXES)
        if len(self.kind) != len(self.points) or self.status.shape != self.basin.shape:
            raise ValueError(
                f"{len(self.points)} attractors of {len(self.kind)} kinds, {self.status.size} statuses"
            )
        if self.basin.size and not -1 <= self.basin.min() <= self.basin.max() < len(self.kind):
            raise ValueError(f"basin holds {self.basin.max()}, with {len(self.kind)} attractors")

    @classmethod
    def _upgrade(cls, artifact: Artifact, path: Path) -> Artifact:
        """Version 0.1 nested the values, and stacked real and imaginary parts of the multipliers."""
        config, tensors = upgraded_record(artifact.config["attractors"], artifact.tensors)
        return replace(artifact, config=config, tensors=tensors)


def upgraded_record(
    config: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]], prefix: str = "", to: str = ""
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Attractors that version 0.1 saved, in the layout of fields.

    Parameters
    ----------
    config
        Their values.
    tensors
        Arrays of the folder, of which only those of attractors with this prefix are used.
    prefix, to
        Start of the names of their arrays in version 0.1, and now.
    """
    status = {"strings": [_OLD_STATUS.get(name, name) for name in config["status"]]}
    arrays = {to + name: tensors[prefix + name] for name in _AXES if name != "multipliers"}
    real, imaginary = tensors[prefix + "multipliers"]
    arrays |= {f"{to}multipliers.real": real, f"{to}multipliers.imag": imaginary}
    return {**config, "status": status}, arrays


def assign_basins(
    field: SelfMap, attractors: Attractors, z: Any, *, settings: SearchSettings = SEARCH
) -> NDArray[np.int64]:
    """The attractor that each new point reaches by plain iteration, by the protocol of the search.

    A point that converged or recurs belongs to the attractor on whose orbit it ends. A point that still moves
    after ``max_steps`` belongs to an invariant circle or a chaotic set if it moves along that set, and to no
    attractor otherwise. Basins are never extended to the nearest attractor.

    Parameters
    ----------
    field
        The map that was searched.
    attractors
        Result of the search, whose tolerance and ``max_steps`` are used.
    z
        New points, shape ``(N, d)``.
    settings
        Those of the search.

    Returns
    -------
    NDArray
        Index of each point's attractor, or -1, shape ``(N,)``.

    Raises
    ------
    RepdynError
        On points that are not finite, not ``(N, d)``, or of another width than the attractors.

    Examples
    --------
    >>> import torch
    >>> from repdyn.fields import LatentField
    >>> field = LatentField(lambda z: torch.tanh(3 * z))
    >>> attractors = field.attractors(torch.tensor([[0.5], [0.7], [-0.2]]))
    >>> attractors.assign(field, torch.tensor([[2.0], [-3.0]])).tolist()
    [0, 1]
    """
    new = widened(field, check_starts(field, z, attractors.tolerance, attractors.max_steps))
    width = attractors.starts.shape[1]
    if new.shape[1] != width:
        raise RepdynError(
            f"z: got points of {new.shape[1]} dimensions, expected {width}, as the attractors have"
        )
    assigned = np.full(len(new), -1, dtype=np.int64)
    if not len(attractors):
        return assigned
    center, _, reach = geometry_of(as_given(attractors.starts, new))
    run = picard(
        field,
        new,
        tolerance=attractors.tolerance * attractors.scale,
        max_steps=attractors.max_steps,
        center=center,
        escape=settings.escape_factor * max(reach, float((new - center).norm(dim=1).max())),
        max_period=settings.max_period,
        settings=settings,
    )
    ends = as_array(run.z, np.float64)
    best = np.full(len(new), np.inf)
    for a in range(len(attractors)):
        distance, allowed = _distance(field, attractors, a, ends, new, settings)
        nearer = (distance <= allowed) & (distance < best)
        assigned[nearer], best[nearer] = a, distance[nearer]
    return assigned


def _distance(
    field: SelfMap,
    attractors: Attractors,
    a: int,
    ends: NDArray[np.float64],
    like: Tensor,
    settings: SearchSettings,
) -> tuple[NDArray[np.float64], float]:
    """Distance ``(N,)`` of end points ``(N, d)`` from the orbit of attractor ``a``, and the largest accepted
    one.

    The orbit is computed in the precision and on the device of ``like``.
    """
    # scipy takes half a second to import.
    from scipy.spatial import cKDTree

    allowed = settings.assign_tolerance * attractors.scale
    if attractors.kind[a] == FAMILY:
        # One cycle does not represent its family; the ends of the starts that reached it do.
        own = attractors.ends[attractors.basin == a]
        phases = field.trajectory(as_given(own, like), int(attractors.period[a]) - 1)
        cloud = as_array(phases, np.float64).reshape(-1, own.shape[1])
        if len(cloud) > 1:
            # Three usual gaps: single gaps between the ends of random starts are larger than the usual one.
            allowed = max(allowed, 3 * float(np.quantile(cKDTree(cloud).query(cloud, k=2)[0][:, 1], 0.9)))
        return np.asarray(cKDTree(cloud).query(ends)[0], dtype=np.float64), allowed
    filled = attractors.kind[a] in (CIRCLE, CHAOTIC)
    turns = settings.circle_points if filled else max(1, int(attractors.period[a]))
    start = as_given(attractors.points[a : a + 1], like)
    orbit = as_array(field.trajectory(start, turns - 1), np.float64)[:, 0]
    distance = cKDTree(orbit).query(ends)[0]
    if filled:
        # The orbit samples the set with gaps: the accepted distance is a multiple of the usual gap.
        gaps = cKDTree(orbit).query(orbit, k=2)[0][:, 1]
        allowed = max(allowed, 3 * float(np.quantile(gaps, 0.9)))
    return np.asarray(distance, dtype=np.float64), allowed


def _orbits(field: SelfMap, starts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Trajectories of 40 starts, ``(40, 61, d)``: enough to see the flow, few enough to follow each by
    eye."""
    orbit = field.trajectory(field.on_device(starts[:40].astype(np.float32)), steps=60)
    points = as_array(orbit, np.float64).transpose(1, 0, 2)
    # An escaping trajectory would stretch the axes, so it is drawn only until it has left.
    away = np.abs(points - starts.mean(axis=0)).max(axis=2) > 4 * np.abs(starts - starts.mean(axis=0)).max()
    gone = np.logical_or.accumulate(away | ~np.isfinite(points).all(axis=2), axis=1)
    return np.where(gone[..., None], np.nan, points)


def _arrows(field: SelfMap, starts: NDArray[np.float64]) -> Arrows:
    """Points on a grid around the starts, and the velocity there: ``(x, y, u, v)``, shape ``(G,)`` each."""
    axes = [np.linspace(low, high, 18) for low, high in zip(starts.min(axis=0), starts.max(axis=0))]
    grid = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, starts.shape[1])
    moved = as_array(field.velocity(field.on_device(grid.astype(np.float32))), np.float64)
    flat = [np.concatenate([x, np.zeros((len(x), 2 - x.shape[1]))], axis=1) for x in (grid, moved)]
    return flat[0][:, 0], flat[0][:, 1], flat[1][:, 0], flat[1][:, 1]


def _plane(*clouds: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Mean, two leading principal directions (d, 2) of the starts, and their share of variance."""
    starts = clouds[0]
    mean = starts.mean(axis=0)
    d = starts.shape[1]
    if d <= 2:
        return np.zeros(d), np.eye(d, 2), 1.0
    # One or two starts span no plane; then ends and attractors are used as well.
    cloud = starts if len(starts) > 2 else np.concatenate(clouds)
    values, vectors = np.linalg.eigh((cloud - cloud.mean(axis=0)).T @ (cloud - cloud.mean(axis=0)))
    total = float(values.sum())
    return mean, vectors[:, ::-1][:, :2], float(values[-2:].sum() / total) if total > 0 else 1.0
