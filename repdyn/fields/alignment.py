"""Fields and attractors compared: two fields on the same data, and one field through training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from repdyn.artifacts import Artifact
from repdyn.devices import as_given
from repdyn.errors import RepdynError
from repdyn.fields.attractors import Attractors, assign_basins, upgraded_record
from repdyn.fields.field import LatentField
from repdyn.fields.map import as_tensor, check_starts, widened
from repdyn.fields.settings import VERDICTS
from repdyn.intervals import Estimate, difference_interval, ratio_interval
from repdyn.linalg import procrustes
from repdyn.reading import as_array
from repdyn.repeats import groups_of_equal_rows, parted_by_group, sums_by_group
from repdyn.results import Result

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = ["AttractorHistory", "AttractorTracker", "FieldAlignment", "align_fields"]


STEPS = (0, 1, 2, 4, 8, 16, 32, 64)
"""Iterations at which fields are compared by default. Most of the movement is early."""


@dataclass(frozen=True, eq=False)
class FieldAlignment(Result, kind="field alignment"):
    """Variance of one field that another explains, along the iteration, and corresponding attractors.

    Attributes
    ----------
    steps
        Iterations at which the fields were compared, shape ``(T,)``.
    states
        Fraction of variance explained of B's held-out points by A's, through the best orthogonal map and
        scale at that iteration. The map is fitted on the other half of the samples.
    first_map
        The same through the map fitted before any iteration.
    velocities
        The same for the next step, :math:`V_B(z)`, through the linear part of the map of ``states``.
    shuffled
        The control of ``states``: the map is fitted on shuffled pairs.
    decay
        Difference of ``states`` between the first and the last iteration.
    pairs
        Corresponding attractors, by the largest overlap of the samples in their basins, shape ``(P, 2)``.
        Attractors without common samples stay unmatched.
    overlap
        Intersection over union of each pair's basins, shape ``(P,)``.
    agreement, p_value
        Adjusted mutual information of the two assignments to basins, and the share of random relabelings that
        reach it.
    attractors_a, attractors_b
        The two searches.
    verdict
        Whether basins are shared, by a permutation test: ``"found"`` for a p-value up to .002, ``"not
        found"`` from .05 on. ``"inconclusive"`` between the two, and where a field has fewer than two
        attractors or fewer than half of the samples reached one in both fields.
    """

    figures: ClassVar = (
        "verdict", "agreement", "p_value", "decays", "decay", "steps", "states", "first_map", "velocities",
        "shuffled", "pairs", "overlap",
    )  # fmt: skip

    steps: NDArray[np.int64]
    states: tuple[Estimate, ...]
    first_map: tuple[Estimate, ...]
    velocities: tuple[Estimate, ...]
    shuffled: tuple[Estimate, ...]
    decay: Estimate
    pairs: NDArray[np.int64]
    overlap: NDArray[np.float64]
    agreement: float
    p_value: float
    attractors_a: Attractors
    attractors_b: Attractors
    verdict: str

    @property
    def decays(self) -> str:
        """Whether alignment decays with iteration: ``"yes"``, ``"no"`` (it grows), or ``"inconclusive"``."""
        return "yes" if self.decay.low > 0 else "no" if self.decay.high < 0 else "inconclusive"

    def __repr__(self) -> str:
        lines = [
            f"FieldAlignment: shared basins {self.verdict} (agreement {self.agreement:.3f}, "
            f"p = {self.p_value:.3f}); alignment decays with iteration: {self.decays}",
            "  iteration  states                map before iteration  velocities            shuffled pairs",
        ]
        rows = zip(self.steps, self.states, self.first_map, self.velocities, self.shuffled)
        lines += [f"  {row[0]:9d}  " + "  ".join(f"{entry!r:<20}" for entry in row[1:]) for row in rows]
        lines.append(
            f"  attractors: {len(self.attractors_a)} and {len(self.attractors_b)}, {len(self.pairs)} matched"
        )
        return "\n".join(lines)

    def plot(self) -> Figure:
        """Alignment along the iteration, and its control."""
        # plotly is slow to import.
        from repdyn.views.alignment import alignment

        return alignment(
            self.steps,
            {
                "states, map refitted": self.states,
                "states, map before iteration": self.first_map,
                "velocities": self.velocities,
            },
            self.shuffled,
        )

    @classmethod
    def _upgrade(cls, artifact: Artifact, path: Path) -> Artifact:
        """Version 0.1 stacked real and imaginary parts of the multipliers of either side."""
        config = dict(artifact.config)
        tensors = {name: artifact.tensors[name] for name in ("pairs", "overlap")}
        for side in ("attractors_a", "attractors_b"):
            config[side], arrays = upgraded_record(config[side], artifact.tensors, f"{side}.", f"{side}.")
            tensors |= arrays
        return replace(artifact, config=config, tensors=tensors)


def align_fields(
    field_a: LatentField,
    field_b: LatentField,
    codes_a: Any,
    codes_b: Any,
    *,
    steps: Sequence[int] = STEPS,
    max_steps: int = 1000,
    seed: int = 0,
) -> FieldAlignment:
    r"""Compare two latent fields on the same samples.

    Let :math:`z_t` be the points after t iterations, and :math:`Q_t, s_t, b_t` the least-squares orthogonal
    map, scale and shift on one half of the samples. On the other half, the fraction of variance explained is

    .. math:: 1 - \frac{\sum_i \lVert z^B_t - (s_t Q_t z^A_t + b_t) \rVert^2}
                       {\sum_i \lVert z^B_t - \bar z^B_t \rVert^2}

    (Procrustes with a held-out half). Attractors are matched by the samples in their basins, without a map.

    Parameters
    ----------
    field_a, field_b
        The maps.
    codes_a, codes_b
        The same samples in both latent spaces, shapes ``(N, d_a)`` and ``(N, d_b)``; widths may differ.
    steps
        Iterations to compare at, increasing.
    max_steps
        Plain steps allowed in the search for attractors.
    seed
        Of the halves, the shuffles and the bootstrap.

    Returns
    -------
    FieldAlignment

    Raises
    ------
    RepdynError
        On codes of different number, fewer than eight samples, or steps that do not increase from 0 or more.

    References
    ----------
    Schönemann (1966). A generalized solution of the orthogonal Procrustes problem. Psychometrika 31.
    Vinh, Epps, Bailey (2010). Information theoretic measures for clusterings comparison. JMLR 11.
    """
    a, b = check_starts(field_a, codes_a, 1.0, 1), check_starts(field_b, codes_b, 1.0, 1)
    a, b = widened(field_a, a), widened(field_b, b)
    if len(a) != len(b) or len(a) < 8:
        raise RepdynError(f"codes: expected the same samples in both, at least 8, got {len(a)} and {len(b)}")
    steps = list(steps)
    if not steps or steps[0] < 0 or any(later <= earlier for earlier, later in pairwise(steps)):
        raise RepdynError(f"steps: must increase from 0 or more, got {steps}")
    generator = np.random.default_rng(seed)
    # Pairs that are equal in both spaces stay on one side, and count once in intervals and permutation test.
    groups = groups_of_equal_rows(np.stack([groups_of_equal_rows(_double(z)) for z in (a, b)], axis=1), 0)
    fit, held = parted_by_group(groups, len(a) // 2, generator)
    shuffled_fit = generator.permutation(fit)
    rows: dict[str, list[Estimate]] = {"states": [], "first_map": [], "velocities": [], "shuffled": []}
    influences: list[NDArray[np.float64]] = []
    first: _Map | None = None
    done = 0
    for t in steps:
        for _ in range(t - done):
            a, b = field_a(a), field_b(b)
        done = t
        x, y, next_x, next_y = (_double(z) for z in (a, b, field_a(a), field_b(b)))
        if not all(np.isfinite(z).all() for z in (x, y, next_x, next_y)):
            raise RepdynError(f"field: points are no longer finite after {t} iterations: compare fewer steps")
        v, w = next_x - x, next_y - y
        best = _Map(x[fit], y[fit])
        first = first or best
        control = _Map(x[shuffled_fit], y[fit])
        total = ((y[held] - y[held].mean(axis=0)) ** 2).sum(axis=1)
        errors = {
            "states": ((y[held] - best(x[held])) ** 2).sum(axis=1),
            "first_map": ((y[held] - first(x[held])) ** 2).sum(axis=1),
            "shuffled": ((y[held] - control(x[held])) ** 2).sum(axis=1),
        }
        for name, error in errors.items():
            rows[name].append(_explained(error, total, groups[held], seed))
        moved = ((w[held] - best.linear(v[held])) ** 2).sum(axis=1)
        rows["velocities"].append(_explained(moved, (w[held] ** 2).sum(axis=1), groups[held], seed))
        influences.append(sums_by_group(groups[held], _influence(errors["states"], total)))
    decay = difference_interval(
        rows["states"][0], rows["states"][-1], _correlation(influences[0], influences[-1])
    )
    attractors_a = field_a.attractors(codes_a, max_steps=max_steps, seed=seed)
    attractors_b = field_b.attractors(codes_b, max_steps=max_steps, seed=seed)
    pairs, overlap = _match(attractors_a.basin, attractors_b.basin)
    agreement, p_value, verdict = _shared(attractors_a, attractors_b, groups, generator)
    return FieldAlignment(
        steps=np.array(steps),
        decay=decay,
        pairs=pairs,
        overlap=overlap,
        agreement=agreement,
        p_value=p_value,
        attractors_a=attractors_a,
        attractors_b=attractors_b,
        verdict=verdict,
        **{name: tuple(values) for name, values in rows.items()},
    )


class _Map:
    """Orthogonal map (with orthonormal rows or columns where widths differ), scale and shift.

    Parameters
    ----------
    x, y
        Paired rows, shapes ``(n, d_a)`` and ``(n, d_b)``.
    """

    def __init__(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> None:
        self.mean_x: NDArray[np.float64] = x.mean(axis=0)
        self.mean_y: NDArray[np.float64] = y.mean(axis=0)
        x = x - self.mean_x
        rotation, scale = procrustes(x, y - self.mean_y)
        # Equal rows, as after all trajectories have converged to one point, determine no map.
        self.matrix: NDArray[np.float64] = rotation * (scale if (x @ rotation).any() else 0.0)

    def linear(self, v: NDArray[np.float64]) -> NDArray[np.float64]:
        """The linear part, for differences ``(n, d_a)``."""
        image: NDArray[np.float64] = v @ self.matrix
        return image

    def __call__(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Images ``(n, d_b)`` of points ``(n, d_a)``."""
        return self.linear(x - self.mean_x) + self.mean_y


def _explained(
    error: NDArray[np.float64], total: NDArray[np.float64], groups: NDArray[np.int64], seed: int
) -> Estimate:
    """Fraction of variance explained, from squared errors and squared deviations ``(M,)`` of each sample."""
    left = ratio_interval(sums_by_group(groups, error), sums_by_group(groups, total), seed=seed)
    return Estimate(1 - left.value, 1 - left.high, 1 - left.low, left.level)


def _influence(error: NDArray[np.float64], total: NDArray[np.float64]) -> NDArray[np.float64]:
    """Influence ``(M,)`` of each sample on the fraction of variance unexplained, up to a factor."""
    whole = float(total.sum())
    return error - float(error.sum()) / whole * total if whole > 0 else np.zeros(len(error))


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Correlation of two vectors ``(M,)`` around zero; 0 if one of them is zero."""
    peaks = float(np.abs(a).max()), float(np.abs(b).max())
    if min(peaks) == 0:
        return 0.0
    a, b = a / peaks[0], b / peaks[1]  # so that no square leaves the number format
    return float(np.clip(a @ b / np.sqrt((a @ a) * (b @ b)), -1, 1))


def _double(z: torch.Tensor) -> NDArray[np.float64]:
    """Points ``(N, d)`` as a float64 array of their own."""
    return as_array(z).astype(np.float64)


def _match(
    basin_a: NDArray[np.int64], basin_b: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Pairs ``(P, 2)`` of attractors with the largest total overlap of basins ``(N,)``, and each overlap
    ``(P,)``."""
    from scipy.optimize import linear_sum_assignment  # takes half a second to import

    both = (basin_a >= 0) & (basin_b >= 0)
    if not both.any():
        return np.zeros((0, 2), dtype=np.int64), np.zeros(0)
    shared = np.zeros((basin_a.max() + 1, basin_b.max() + 1))
    np.add.at(shared, (basin_a[both], basin_b[both]), 1)
    union = shared.sum(axis=1)[:, None] + shared.sum(axis=0)[None] - shared
    ratio = shared / np.maximum(union, 1)
    rows, columns = linear_sum_assignment(-ratio)
    kept = shared[rows, columns] > 0
    return np.stack([rows[kept], columns[kept]], axis=1), ratio[rows[kept], columns[kept]]


def _shared(
    a: Attractors, b: Attractors, groups: NDArray[np.int64], generator: np.random.Generator
) -> tuple[float, float, str]:
    """Agreement of the basins, its p-value and the verdict; equal samples, by ``groups`` ``(N,)``, count
    once."""
    from sklearn.metrics import adjusted_mutual_info_score  # slow to import

    once = np.unique(groups, return_index=True)[1]
    basin_a, basin_b = a.basin[once], b.basin[once]
    both = (basin_a >= 0) & (basin_b >= 0)
    labels_a, labels_b = basin_a[both], basin_b[both]
    if (
        len(set(labels_a.tolist())) < 2
        or len(set(labels_b.tolist())) < 2
        or both.mean() < VERDICTS.min_in_basins
    ):
        return float("nan"), float("nan"), "inconclusive"
    agreement = float(adjusted_mutual_info_score(labels_a, labels_b))
    # The adjustment depends only on the sizes of the basins, which relabelings preserve.
    observed = _information(labels_a, labels_b)
    chance = np.array(
        [_information(generator.permutation(labels_a), labels_b) for _ in range(VERDICTS.n_relabelings)]
    )
    # Equal tables can differ by rounding; they count as reaching the observed value.
    p_value = float((1 + np.sum(chance >= observed - 1e-9)) / (1 + VERDICTS.n_relabelings))
    if p_value <= VERDICTS.shared_basins_p:
        return agreement, p_value, "found"
    return agreement, p_value, "inconclusive" if p_value < VERDICTS.unshared_basins_p else "not found"


def _information(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    """Mutual information of labels ``(N,)`` in nats per sample, up to a term that depends only on their
    counts."""
    shared = np.bincount(a * (int(b.max()) + 1) + b)
    shared = shared[shared > 0]
    return float((shared * np.log(shared)).sum() / len(a))


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
        target = assign_basins(field, attractors, as_given(before.points, like))
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
