"""Prediction error on test paths: of a Koopman autoencoder and its controls, and of one map for all steps.

:func:`measure` compares predictions of every later point from the first. :func:`autonomy` compares one-step
predictions by a shared affine map with those by one map for each step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from repdyn.devices import device_of
from repdyn.errors import RepdynError
from repdyn.intervals import Estimate, mean_of_groups, ratio_interval
from repdyn.koopman.controls import controls
from repdyn.koopman.interfaces import FittedAutoencoder
from repdyn.koopman.readout import LinearProbe, head_logits
from repdyn.paths import RepresentationPaths
from repdyn.reading import as_array
from repdyn.repeats import groups_of_equal_rows, sums_by_group
from repdyn.results import Result

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["KOOPMAN", "TRUE", "Autonomy", "Fidelity", "autonomy", "measure", "unexplained"]

KOOPMAN = "Koopman autoencoder"
TRUE = "true representation"
_ROUNDING = 1e-12  # a fraction of variance below this is rounding, for either map of Autonomy

Series = dict[str, tuple[Estimate, ...]]


@dataclass(frozen=True, eq=False)
class Fidelity(Result, kind="fidelity"):
    """Predictions of the later points from the first, on test paths.

    Attributes
    ----------
    points
        The predicted points: all but the first, in order of depth.
    samples
        Number of test samples.
    fvu
        Fraction of variance unexplained, one estimate for each point: first of the Koopman autoencoder, then
        of each control.
    accuracy
        Accuracy of linear probes on the predictions, one estimate for each point. A point's probe is fitted
        to the true representations of the training paths at that point; ``"true representation"`` is its
        accuracy on those of the test paths. ``None`` without labels or with a single class.
    head
        Figures of the network's own head at the last point, for each predictor: ``accuracy`` (with integer
        labels), ``agreement`` with the network's own decisions, and ``kl``, the divergence from the network's
        own distribution in nats. ``None`` without a head.
    reconstruction
        FVU of encoding and decoding alone, for every point from the first on.
    """

    points: tuple[str, ...]
    samples: int
    fvu: Series
    accuracy: Series | None
    head: dict[str, dict[str, Estimate]] | None
    reconstruction: dict[str, Estimate]

    figures: ClassVar[tuple[str, ...]] = (
        "points",
        "samples",
        "fvu",
        "accuracy",
        "head",
        "reconstruction",
        "best_control",
        "verdict",
    )

    @property
    def verdict(self) -> str:
        """Whether the autoencoder explains the last point better than every control.

        ``"found"`` where its whole interval of FVU lies below 1 and below that of the best control, ``"not
        found"`` where it lies above one of them, else ``"inconclusive"``.
        """
        ours, best = self.fvu[KOOPMAN][-1], self.fvu[self.best_control][-1]
        if ours.high < min(best.low, 1.0):
            return "found"
        return "not found" if ours.low > min(best.high, 1.0) else "inconclusive"

    @property
    def best_control(self) -> str:
        """Name of the control with the least unexplained variance at the last point."""
        return min((name for name in self.fvu if name != KOOPMAN), key=lambda name: self.fvu[name][-1].value)

    def __repr__(self) -> str:
        name_width = max(len(name) for name in (*self.fvu, TRUE)) + 2
        columns = [max(len(point), 6) + 2 for point in self.points]

        def rows(series: Series) -> list[str]:
            return [
                "  "
                + name.ljust(name_width)
                + "".join(f"{e.value:.3f}".rjust(w) for e, w in zip(values, columns))
                for name, values in series.items()
            ]

        header = " " * (name_width + 2) + "".join(p.rjust(w) for p, w in zip(self.points, columns))
        lines = [
            f"Fidelity on {self.samples} samples, predicted from the first point",
            "FVU".ljust(4) + header[4:],
        ]
        lines += rows(self.fvu)
        if self.accuracy is not None:
            lines += ["probe accuracy", *rows(self.accuracy)]
        if self.head is not None:
            lines.append("through the head, at the last point")
            for name, row in self.head.items():
                figures = ", ".join(f"{what} {estimate}" for what, estimate in row.items())
                lines.append("  " + name.ljust(name_width) + figures)
        lines.append(
            f"better than every control at {self.points[-1]}: {self.verdict} "
            f"(best control: {self.best_control})"
        )
        return "\n".join(lines)

    def plot(self) -> go.Figure:
        """Plot FVU and probe accuracy against depth, one line for each predictor."""
        # plotly is slow to import and not everyone plots.
        from repdyn.views.fidelity import fidelity

        as_dicts = {name: [e.to_dict() for e in values] for name, values in self.fvu.items()}
        accuracy = None
        if self.accuracy is not None:
            accuracy = {name: [e.to_dict() for e in values] for name, values in self.accuracy.items()}
        return fidelity(self.points, as_dicts, accuracy)


def measure(
    kae: FittedAutoencoder,
    paths: RepresentationPaths,
    train: RepresentationPaths,
    *,
    head: Callable[[Any], Any] | None = None,
    seed: int = 0,
) -> Fidelity:
    """Predict every later point from the first, by the autoencoder and by each control.

    ``FVU = sum |x_l - x̂_l|^2 / sum |x_l - mean x_l|^2``, with 95 % bootstrap intervals over samples.

    Parameters
    ----------
    kae
        A fitted Koopman autoencoder.
    paths
        Test paths.
    train
        Training paths, for the controls and the probes.
    head
        Maps last-point representations ``(N, D)``, a float32 tensor, to logits ``(N, C)``. It is called on
        the device of its weights; a function without weights, on the device of the autoencoder.
    seed
        Seed of the controls and the bootstrap.

    Returns
    -------
    Fidelity

    Raises
    ------
    RepdynError
        If test or training paths have other points or widths than the autoencoder.
    """
    for given in (paths, train):
        kae.check_paths(given)
    first, *later = (np.asarray(paths[point], dtype=np.float64) for point in paths.points)
    points = paths.points[1:]
    source = np.asarray(paths[paths.points[0]])
    groups = groups_of_equal_rows(source)
    predictions: dict[str, list[NDArray[Any]]] = {
        KOOPMAN: [kae.propagate(source, paths.points[0], point) for point in points]
    }
    fitted = controls(train, seed=seed)
    predictions |= {name: predict(source) for name, predict in fitted.items()}

    fvu = {
        name: tuple(unexplained(x, y, seed, groups) for x, y in zip(predicted, later))
        for name, predicted in predictions.items()
    }
    reconstruction = {
        point: unexplained(kae.decode(kae.encode(x, point), point), x, seed, groups)
        for point, x in zip(paths.points, (first, *later))
    }
    accuracy = None
    if paths.labels is not None and train.labels is not None and len(np.unique(train.labels)) > 1:
        probes = [LinearProbe().fit(np.asarray(train[point]), train.labels, seed=seed) for point in points]
        truth = np.asarray(paths.labels)
        accuracy = {
            name: tuple(
                mean_of_groups(probe.predict(x) == truth, groups, seed=seed)
                for probe, x in zip(probes, predicted)
            )
            for name, predicted in {TRUE: later, **predictions}.items()
        }
        # The autoencoder is the first row of every table, the accuracy on true representations the second.
        accuracy = {KOOPMAN: accuracy.pop(KOOPMAN), **accuracy}
    through_head = None
    if head is not None:
        last = {TRUE: later[-1], **{name: predicted[-1] for name, predicted in predictions.items()}}
        through_head = _through_head(head, last, paths.labels, seed, groups, device_of(kae))
    return Fidelity(points, len(paths), fvu, accuracy, through_head, reconstruction)


def unexplained(
    predicted: NDArray[Any], true: NDArray[Any], seed: int, groups: NDArray[np.int64] | None = None
) -> Estimate:
    """Fraction of variance unexplained with its interval.

    Parameters
    ----------
    predicted, true
        Shape ``(N, D)``.
    seed
        Seed of the bootstrap.
    groups
        Group of each row, ``(N,)``, resampled together; default: groups of equal rows of ``true``.
    """
    error = np.square(predicted - true).sum(axis=1)
    spread = np.square(true - true.mean(axis=0)).sum(axis=1)
    if not spread.sum() > 0:
        return Estimate(float("nan"), float("nan"), float("nan"))
    groups = groups_of_equal_rows(true) if groups is None else groups
    return ratio_interval(sums_by_group(groups, error), sums_by_group(groups, spread), seed=seed)


@torch.no_grad()
def _through_head(
    head: Callable[[Any], Any],
    last: dict[str, NDArray[Any]],
    labels: NDArray[Any] | None,
    seed: int,
    groups: NDArray[np.int64],
    device: torch.device,
) -> dict[str, dict[str, Estimate]]:
    """Accuracy, agreement and divergence of the head's outputs for each predictor's last point ``(N, D)``."""
    logs = {}
    for name, x in last.items():
        logits = head_logits(head, x, device)
        logs[name] = as_array(torch.log_softmax(logits.cpu().double(), dim=-1))
    own = logs[TRUE]
    figures: dict[str, dict[str, Estimate]] = {}
    for name, log in logs.items():
        row: dict[str, Estimate] = {}
        decisions = log.argmax(axis=1)
        if labels is not None and np.asarray(labels).dtype.kind in "iu":
            row["accuracy"] = mean_of_groups(decisions == labels, groups, seed=seed)
        if name != TRUE:
            row["agreement"] = mean_of_groups(decisions == own.argmax(axis=1), groups, seed=seed)
            row["kl"] = mean_of_groups((np.exp(own) * (own - log)).sum(axis=1), groups, seed=seed)
        if row:
            figures[name] = row
    return figures


@dataclass(frozen=True, eq=False)
class Autonomy(Result, kind="autonomy"):
    """One-step predictions by a shared affine map and by each step's own, from true representations.

    Attributes
    ----------
    points
        Target point of each step, in order of depth.
    own, shared
        Fraction of variance unexplained at each of these points on test paths, by one map per step and by the
        shared map.
    relative
        Whether the shared map is one map only relative to frames that differ between points, because their
        widths differ (or because version 0.1 computed it).
    """

    points: tuple[str, ...]
    own: tuple[Estimate, ...]
    shared: tuple[Estimate, ...]
    relative: bool = True

    figures: ClassVar = ("points", "own", "shared", "gap", "relative")

    @property
    def gap(self) -> tuple[float, ...]:
        """Unexplained variance of the shared map over that of each step's map; 1 if depth is autonomous."""
        return tuple(max(s.value, _ROUNDING) / max(o.value, _ROUNDING) for o, s in zip(self.own, self.shared))

    def __repr__(self) -> str:
        width = max(len(point) for point in self.points) + 2
        lines = ["Autonomy of depth: FVU of one step from the true representation"]
        if self.relative:
            lines.append("  relative to frames: each point has its own rotation and scale")
        lines += [
            f"  {point:{width}} own map {own}   shared map {shared}   {gap:.1f} times"
            for point, own, shared, gap in zip(self.points, self.own, self.shared, self.gap)
        ]
        return "\n".join(lines)

    def plot(self) -> go.Figure:
        """Plot the unexplained variance of both maps against depth."""
        # plotly is slow to import and not everyone plots.
        from repdyn.views.fidelity import fidelity

        return fidelity(
            self.points,
            {
                "shared map": [e.to_dict() for e in self.shared],
                "each step's own map": [e.to_dict() for e in self.own],
            },
        )


def autonomy(paths: RepresentationPaths, train: RepresentationPaths, *, seed: int = 0) -> Autonomy:
    """Compare one affine map for all steps with one for each, step by step.

    ``x_(l+1) ≈ x_l K + b_l`` with one ``K`` against ``x_(l+1) ≈ x_l K_l + b_l``, with the penalties of the
    controls. Where the widths of the points differ, ``K`` is one map relative to their frames only. The gap
    is variance that no single operator on these coordinates explains. A lift to more observables may close
    it; a fitted Koopman autoencoder shows whether it does.

    Parameters
    ----------
    paths
        Test paths.
    train
        Training paths of the same model.
    seed
        Seed of the held-out part and of the bootstrap.

    Returns
    -------
    Autonomy

    Raises
    ------
    RepdynError
        If the two have different points or widths.
    """
    if paths.points != train.points or paths.widths != train.widths:
        raise RepdynError(
            f"test paths have points {paths.points}, training paths {train.points}, or other widths"
        )
    fitted = controls(train, seed=seed)
    own, shared = [], []
    for number, point in enumerate(paths.points[1:]):
        before = np.asarray(paths[paths.points[number]])
        after = np.asarray(paths[point], dtype=np.float64)
        own.append(unexplained(fitted.step("per-step affine", before, number), after, seed))
        shared.append(unexplained(fitted.step("shared affine", before, number), after, seed))
    return Autonomy(paths.points[1:], tuple(own), tuple(shared), fitted.relative)
