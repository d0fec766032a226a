"""Prediction error on test paths, and what a model's head or a linear probe reads from predictions.

:func:`measure` compares predictions of every later point from the first, of a Koopman autoencoder and its
controls. :func:`autonomy` compares one-step predictions by a shared affine map with those by one map for each
step. :class:`LinearProbe` and :func:`readout_of` give classes of representations.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from repdyn.devices import CPU, call, device_of, to
from repdyn.errors import RepdynError
from repdyn.intervals import Estimate, mean_of_groups, ratio_interval
from repdyn.koopman.controls import controls, held_out_rows, ridge_by_validation
from repdyn.koopman.frames import wide_coordinates
from repdyn.koopman.interfaces import FittedAutoencoder
from repdyn.koopman.settings import ControlSettings
from repdyn.paths import RepresentationPaths, drawn_rows, nearby
from repdyn.paths.columns import equal_rows
from repdyn.reading import as_array
from repdyn.repeats import groups_of_equal_rows, sums_by_group
from repdyn.results import Result

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = [
    "KOOPMAN",
    "TRUE",
    "Autonomy",
    "Fidelity",
    "LinearProbe",
    "Readout",
    "autonomy",
    "head_logits",
    "measure",
    "readout_of",
    "unexplained",
]

KOOPMAN = "Koopman autoencoder"
TRUE = "true representation"
_SETTINGS = ControlSettings()
_BLOCK_BYTES = 2**28  # of the test samples that are predicted at a time, in float64
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
    probed
        Training samples that the probes were fitted on, drawn where there are more than 50 000, and training
        samples in all. ``None`` without probes, and in results of version 0.1.
    """

    points: tuple[str, ...]
    samples: int
    fvu: Series
    accuracy: Series | None
    head: dict[str, dict[str, Estimate]] | None
    reconstruction: dict[str, Estimate]
    probed: tuple[int, int] | None = None

    figures: ClassVar[tuple[str, ...]] = (
        "points",
        "samples",
        "fvu",
        "accuracy",
        "head",
        "reconstruction",
        "probed",
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
            drawn = ""
            if self.probed is not None and self.probed[0] < self.probed[1]:
                drawn = f", probes fitted on {self.probed[0]} of {self.probed[1]} training samples"
            lines += ["probe accuracy" + drawn, *rows(self.accuracy)]
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
    paths, points = nearby(paths), paths.points[1:]
    groups = equal_rows(paths.column(paths.points[0]))
    predictors: dict[str, Callable[[NDArray[Any]], list[NDArray[Any]]]] = {
        KOOPMAN: lambda x: [kae.propagate(x, paths.points[0], point) for point in points]
    }
    predictors |= controls(train, seed=seed)
    probes, probed = _probes(paths, train, seed)
    # Squared errors, deviations and readouts of single samples: all that is kept of a block.
    kept: dict[tuple[str, ...], list[NDArray[Any]]] = defaultdict(list)
    center = _means(paths)
    for block in paths.iterate(size=_block_rows(paths)):
        true = {point: block[point].astype(np.float64) for point in paths.points}
        for point, x in true.items():
            kept["spread", point].append(np.square(x - center[point]).sum(axis=1))
            again = kae.decode(kae.encode(x, point), point)
            kept["reconstruction", point].append(np.square(again - x).sum(axis=1))
        own = None
        for name in (TRUE, *predictors):
            found = [true[p] for p in points] if name == TRUE else predictors[name](block[paths.points[0]])
            for point, x in zip(points, found):
                if name != TRUE:
                    kept["error", name, point].append(np.square(x - true[point]).sum(axis=1))
                if probes is not None:
                    correct = probes[point].predict(x) == np.asarray(paths.labels)[block.rows]
                    kept["accuracy", name, point].append(correct)
            if head is not None:
                log = _log_probabilities(head, found[-1], device_of(kae))
                own = log if own is None else own
                kept["decision", name].append(log.argmax(axis=1))
                kept["kl", name].append((np.exp(own) * (own - log)).sum(axis=1))
    whole = {key: np.concatenate(parts) for key, parts in kept.items()}

    def share(error: NDArray[Any], point: str) -> Estimate:
        return _unexplained(error, whole["spread", point], groups, seed)

    # The autoencoder is the first row of every table, the accuracy on true representations the second.
    accuracy = None
    if probes is not None:
        accuracy = {
            name: tuple(mean_of_groups(whole["accuracy", name, p], groups, seed=seed) for p in points)
            for name in (KOOPMAN, TRUE, *list(predictors)[1:])
        }
    return Fidelity(
        points,
        len(paths),
        {name: tuple(share(whole["error", name, p], p) for p in points) for name in predictors},
        accuracy,
        None if head is None else _through_head(whole, (TRUE, *predictors), paths.labels, seed, groups),
        {point: share(whole["reconstruction", point], point) for point in paths.points},
        probed,
    )


def _means(paths: RepresentationPaths) -> dict[str, NDArray[np.float64]]:
    """Mean of every point, in one pass."""
    total: dict[str, Any] = dict.fromkeys(paths.points, 0.0)
    for block in paths.iterate(size=_block_rows(paths)):
        for point, x in block.items():
            total[point] = total[point] + x.sum(axis=0, dtype=np.float64)
    return {point: sums / len(paths) for point, sums in total.items()}


def _block_rows(paths: RepresentationPaths) -> int:
    """Samples that are predicted at a time."""
    return max(1, _BLOCK_BYTES // (8 * sum(paths.widths.values())))


def _probes(
    paths: RepresentationPaths, train: RepresentationPaths, seed: int
) -> tuple[dict[str, LinearProbe] | None, tuple[int, int] | None]:
    """A probe for each later point if there are labels to predict, and the samples that it was fitted on."""
    if paths.labels is None or train.labels is None or len(np.unique(train.labels)) < 2:
        return None, None
    chosen = drawn_rows(len(train), _SETTINGS.probe_rows, seed)
    some = train if chosen is None else train.subset(chosen)
    labels = np.asarray(some.labels)
    probes = {p: LinearProbe().fit(np.asarray(some[p]), labels, seed=seed) for p in paths.points[1:]}
    return probes, (len(some), len(train))


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
    return _unexplained(error, spread, groups_of_equal_rows(true) if groups is None else groups, seed)


def _unexplained(error: NDArray[Any], spread: NDArray[Any], groups: NDArray[np.int64], seed: int) -> Estimate:
    """:func:`unexplained` from the squared errors and deviations of the samples, ``(N,)``."""
    if not spread.sum() > 0:
        return Estimate(float("nan"), float("nan"), float("nan"))
    return ratio_interval(sums_by_group(groups, error), sums_by_group(groups, spread), seed=seed)


@torch.no_grad()
def _log_probabilities(
    head: Callable[[Any], Any], x: NDArray[Any], device: torch.device
) -> NDArray[np.float64]:
    """Logarithms of the head's class probabilities ``(n, C)`` for last-point representations ``(n, D)``."""
    logits = head_logits(head, x, device)
    return np.asarray(as_array(torch.log_softmax(to(logits, CPU, torch.float64), dim=-1)))


def _through_head(
    whole: Mapping[tuple[str, ...], NDArray[Any]],
    names: tuple[str, ...],
    labels: NDArray[Any] | None,
    seed: int,
    groups: NDArray[np.int64],
) -> dict[str, dict[str, Estimate]]:
    """Accuracy, agreement and divergence of the head's outputs for each predictor's last point."""
    own = whole["decision", TRUE]
    figures: dict[str, dict[str, Estimate]] = {}
    for name in names:
        row: dict[str, Estimate] = {}
        decisions = whole["decision", name]
        if labels is not None and np.asarray(labels).dtype.kind in "iu":
            row["accuracy"] = mean_of_groups(decisions == labels, groups, seed=seed)
        if name != TRUE:
            row["agreement"] = mean_of_groups(decisions == own, groups, seed=seed)
            row["kl"] = mean_of_groups(whole["kl", name], groups, seed=seed)
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
    fitted, paths = controls(train, seed=seed), nearby(paths)
    center, kept = _means(paths), defaultdict(list)
    for block in paths.iterate(size=_block_rows(paths)):
        for number, (first, point) in enumerate(pairwise(paths.points)):
            after = block[point].astype(np.float64)
            kept["spread", point].append(np.square(after - center[point]).sum(axis=1))
            for name in ("per-step affine", "shared affine"):
                error = fitted.step(name, block[first], number) - after
                kept[name, point].append(np.square(error).sum(axis=1))
    whole = {key: np.concatenate(parts) for key, parts in kept.items()}
    groups = {point: equal_rows(paths.column(point)) for point in paths.points[1:]}
    own, shared = (
        tuple(_unexplained(whole[name, p], whole["spread", p], groups[p], seed) for p in paths.points[1:])
        for name in ("per-step affine", "shared affine")
    )
    return Autonomy(paths.points[1:], own, shared, fitted.relative)


class LinearProbe:
    """Ridge regression onto indicator vectors of the classes; the largest output is the prediction.

    The penalty is chosen on a held-out part of the training data. The solution is in closed form, so the same
    data give the same probe.

    Attributes
    ----------
    classes_ : ndarray
        The labels, sorted.
    width_ : int
        Width of the representations.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).standard_normal((100, 2))
    >>> y = (x[:, 0] > 0).astype(int)
    >>> bool((LinearProbe().fit(x, y).predict(x) == y).mean() > 0.9)
    True
    """

    def fit(self, x: NDArray[Any], labels: NDArray[Any], *, seed: int = 0) -> LinearProbe:
        """Fit to representations ``(N, D)`` and labels ``(N,)`` of at least two classes.

        Raises
        ------
        RepdynError
            If all labels are equal.
        """
        x = as_array(x, dtype=np.float64)
        self.classes_, code = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise RepdynError(f"a probe needs at least two classes, the labels hold {len(self.classes_)}")
        self.width_ = x.shape[1]
        self._mean = x.mean(axis=0)
        # One penalty suits all coordinates only if their spreads are comparable.
        spread = torch.from_numpy(x - self._mean).square().mean(dim=0).sqrt()
        wide = wide_coordinates(spread)
        indicator = np.eye(len(self.classes_))[code]
        self._share = indicator.mean(axis=0)
        held_out = held_out_rows(len(x), torch.Generator().manual_seed(seed), groups_of_equal_rows(x))
        (weight,), _ = ridge_by_validation(
            torch.from_numpy(x - self._mean) / wide, [torch.from_numpy(indicator - self._share)], held_out
        )
        self._weight = as_array(weight / wide[:, None])
        return self

    def decision_function(self, x: NDArray[Any]) -> NDArray[np.float64]:
        """Fitted indicators ``(N, classes)`` of representations ``(N, D)``."""
        scores: NDArray[np.float64] = (
            as_array(x, dtype=np.float64) - self._mean
        ) @ self._weight + self._share
        return scores

    def predict(self, x: NDArray[Any]) -> NDArray[Any]:
        """Predicted labels ``(N,)`` of representations ``(N, D)``."""
        labels: NDArray[Any] = self.classes_[self.decision_function(x).argmax(axis=1)]
        return labels


@dataclass(frozen=True, eq=False)
class Readout:
    """A classifier of last-point representations.

    Attributes
    ----------
    scores
        Function from representations ``(N, width)`` to one score per class, ``(N, C)``.
    classes
        The labels of the scores, sorted, shape ``(C,)``.
    """

    scores: Callable[[NDArray[Any]], NDArray[Any]]
    classes: NDArray[Any]

    def correct(self, x: NDArray[Any], names: NDArray[Any]) -> NDArray[np.bool_]:
        """Whether each of ``x`` is predicted to be of its class, shape ``(N,)``."""
        return np.asarray(self.classes[self.scores(x).argmax(axis=1)] == names)

    def margins(self, x: NDArray[Any], names: NDArray[Any]) -> NDArray[np.float64]:
        """Score of the true class minus the best other score, shape ``(N,)``: positive if correct."""
        scores = self.scores(x).astype(np.float64)
        own = np.searchsorted(self.classes, names)[:, None]
        true = np.take_along_axis(scores, own, axis=1)[:, 0]
        np.put_along_axis(scores, own, -np.inf, axis=1)
        margin: NDArray[np.float64] = true - scores.max(axis=1)
        return margin


def head_logits(head: Callable[[Any], Any], x: NDArray[Any], device: torch.device) -> Tensor:
    """Logits ``(N, C)`` of representations ``(N, width)``, computed on the head's device.

    Parameters
    ----------
    head
        A module or a function, called with float32 values.
    x
        Representations.
    device
        Device for a head that has no weights.
    """
    rows = to(torch.as_tensor(np.asarray(x, dtype=np.float32)), device_of(head, device))
    with torch.no_grad():
        return torch.as_tensor(call(head, rows))


def readout_of(
    head: Callable[[Any], Any] | None,
    x: NDArray[Any],
    names: NDArray[Any],
    seed: int,
    device: torch.device,
) -> Readout:
    """The model's own head if given, else a linear probe fitted to the true representations.

    Parameters
    ----------
    head
        From a tensor ``(N, width)`` to logits ``(N, C)``, called on the device of its weights.
    x, names
        Last-point representations ``(N, width)`` and their classes ``(N,)``, for the probe.
    seed
        Seed of the probe's held-out part.
    device
        Device for a head that has no weights.

    Raises
    ------
    RepdynError
        If the labels are not the numbers of the head's classes.
    """
    if head is None:
        probe = LinearProbe().fit(x, names, seed=seed)
        return Readout(probe.decision_function, probe.classes_)

    def scores(x: NDArray[Any]) -> NDArray[Any]:
        return as_array(head_logits(head, x, device))

    if names.dtype.kind not in "iu":
        raise RepdynError(
            "head returns logits of class numbers, so the labels must be integers; "
            f"got labels of type {names.dtype}"
        )
    count = scores(x[:1]).shape[1]
    if names.min() < 0 or names.max() >= count:
        raise RepdynError(
            f"labels run from {names.min()} to {names.max()}, but the head has classes 0 to {count - 1}"
        )
    return Readout(scores, np.arange(count))
