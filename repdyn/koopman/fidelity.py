"""How faithfully a Koopman autoencoder predicts a path from its first point, beside its controls."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from repdyn.artifacts import load_artifact, refuses_damage, save_artifact
from repdyn.devices import device_of
from repdyn.errors import RepdynError
from repdyn.intervals import Estimate, mean_of_groups, ratio_interval
from repdyn.koopman.controls import controls
from repdyn.koopman.judging import read_by_head
from repdyn.koopman.probes import LinearProbe
from repdyn.paths import RepresentationPaths
from repdyn.reading import as_array
from repdyn.repeats import groups_of_equal_rows, sums_by_group

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from repdyn.koopman.autoencoder import KoopmanAutoencoder

__all__ = ["KOOPMAN", "TRUE", "Fidelity", "measure", "unexplained"]

KOOPMAN = "Koopman autoencoder"
TRUE = "true representation"

Series = dict[str, tuple[Estimate, ...]]


@dataclass(frozen=True, eq=False)
class Fidelity:
    """Predictions of the later points from the first, on test paths.

    Attributes
    ----------
    points
        The later points, in order of depth: what is predicted.
    samples
        Test samples.
    fvu
        Fraction of variance unexplained: for the Koopman autoencoder (first) and each control, one estimate
        for each point.
    accuracy
        Accuracy of linear probes, likewise; each point's probe was fitted to the true representations of the
        training paths at that point, and ``"true representation"`` is what it reaches there. ``None``
        without labels, and where all are of one class.
    head
        Through the network's own head, at the last point: for each predictor ``accuracy`` (with integer
        labels), ``agreement`` with the network's own decisions, and ``kl``, the divergence in nats from the
        network's own distribution. ``None`` without a head.
    reconstruction
        FVU of encoding and decoding alone, for every point from the first on.
    """

    points: tuple[str, ...]
    samples: int
    fvu: Series
    accuracy: Series | None
    head: dict[str, dict[str, Estimate]] | None
    reconstruction: dict[str, Estimate]

    @property
    def best_control(self) -> str:
        """The control with the least unexplained variance at the last point."""
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
            for name, found in self.head.items():
                figures = ", ".join(f"{what} {estimate}" for what, estimate in found.items())
                lines.append("  " + name.ljust(name_width) + figures)
        return "\n".join(lines)

    def plot(self) -> go.Figure:
        """FVU and probe accuracy through depth, one line for each predictor."""
        # plotly is slow to import and not everyone plots.
        from repdyn.views.fidelity import fidelity

        as_dicts = {name: [e.to_dict() for e in values] for name, values in self.fvu.items()}
        accuracy = None
        if self.accuracy is not None:
            accuracy = {name: [e.to_dict() for e in values] for name, values in self.accuracy.items()}
        return fidelity(self.points, as_dicts, accuracy)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for ``--json``."""

        def series(found: Series | None) -> dict[str, list[dict[str, float]]] | None:
            if found is None:
                return None
            return {name: [e.to_dict() for e in values] for name, values in found.items()}

        return {
            "points": list(self.points),
            "samples": self.samples,
            "fvu": series(self.fvu),
            "accuracy": series(self.accuracy),
            "head": self.head
            and {n: {what: e.to_dict() for what, e in found.items()} for n, found in self.head.items()},
            "reconstruction": {point: e.to_dict() for point, e in self.reconstruction.items()},
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the figures to a folder."""
        values = np.array([[e.value for e in row] for row in self.fvu.values()])
        save_artifact(path, "fidelity", self.to_dict(), {"fvu": values})

    @classmethod
    @refuses_damage
    def load(cls, path: str | os.PathLike[str]) -> Fidelity:
        """Read what :meth:`save` wrote.

        Raises
        ------
        RepdynError
            If the folder holds something else.
        """
        found = load_artifact(path, "fidelity").config

        def series(read: Mapping[str, Any] | None) -> Series | None:
            return None if read is None else {n: tuple(Estimate(**e) for e in row) for n, row in read.items()}

        try:
            head = found["head"] and {
                name: {what: Estimate(**e) for what, e in row.items()} for name, row in found["head"].items()
            }
            return cls(
                tuple(found["points"]),
                int(found["samples"]),
                series(found["fvu"]) or {},
                series(found["accuracy"]),
                head,
                {point: Estimate(**e) for point, e in found["reconstruction"].items()},
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise RepdynError(f"{path}: its config.json is not that of a fidelity ({error})") from None


def measure(
    kae: KoopmanAutoencoder,
    paths: RepresentationPaths,
    train: RepresentationPaths,
    *,
    head: Callable[[Any], Any] | None = None,
    seed: int = 0,
) -> Fidelity:
    """Predict every later point from the first and compare, beside the controls.

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
        Maps last-point representations ``(N, D)``, a float32 tensor, to logits ``(N, C)``. It is called where
        its weights are; a function without weights, where the autoencoder is.
    seed
        Of the controls and the bootstrap.

    Returns
    -------
    Fidelity

    Raises
    ------
    RepdynError
        If test or training paths are those of another model.
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
    # Of one class there is nothing to tell apart.
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
        # The autoencoder leads every table; the ceiling comes second.
        accuracy = {KOOPMAN: accuracy.pop(KOOPMAN), **accuracy}
    through = None
    if head is not None:
        last = {TRUE: later[-1], **{name: predicted[-1] for name, predicted in predictions.items()}}
        through = _through_head(head, last, paths.labels, seed, groups, device_of(kae))
    return Fidelity(points, len(paths), fvu, accuracy, through, reconstruction)


def unexplained(
    predicted: NDArray[Any], true: NDArray[Any], seed: int, groups: NDArray[np.int64] | None = None
) -> Estimate:
    """Fraction of variance unexplained, of predictions ``(N, D)`` of ``(N, D)``, with its interval.

    Rows of one of ``groups`` are equal, by default those of one value, and are resampled as one.
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
    logs = {}
    for name, x in last.items():
        logits = read_by_head(head, x, device)
        logs[name] = as_array(torch.log_softmax(logits.cpu().double(), dim=-1))
    own = logs[TRUE]
    found: dict[str, dict[str, Estimate]] = {}
    for name, log in logs.items():
        row: dict[str, Estimate] = {}
        decisions = log.argmax(axis=1)
        if labels is not None and np.asarray(labels).dtype.kind in "iu":
            row["accuracy"] = mean_of_groups(decisions == labels, groups, seed=seed)
        if name != TRUE:
            row["agreement"] = mean_of_groups(decisions == own.argmax(axis=1), groups, seed=seed)
            row["kl"] = mean_of_groups((np.exp(own) * (own - log)).sum(axis=1), groups, seed=seed)
        if row:
            found[name] = row
    return found
