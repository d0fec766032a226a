"""How well a detector tells in- from out-of-distribution, never without the controls beside it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repdyn.artifacts import load_artifact, refuses_damage, save_artifact
from repdyn.errors import RepdynError
from repdyn.intervals import Estimate
from repdyn.ood.comparison import MEAN, Comparison, compare
from repdyn.ood.controls import IN_DISTRIBUTION, energy, statistics_scores
from repdyn.ood.detector import Detector, equal_paths
from repdyn.ood.detectors import PathDetector
from repdyn.ood.metrics import Positive

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from repdyn.paths import RepresentationPaths

__all__ = ["IN_DISTRIBUTION", "MEAN", "OODEvaluation", "evaluate", "judged", "score_all"]

Array = NDArray[np.float64]

PROFILE = "profile"  # the name of the depth profiles among the saved arrays


@dataclass(frozen=True, eq=False)
class OODEvaluation:
    """A detector and its controls on several out-of-distribution sets.

    Attributes
    ----------
    detector
        Its name; the first key of ``table``, the controls follow.
    positive
        Which class FPR@95 and AUPR call positive, see :func:`repdyn.ood.metrics.separation`.
    table
        ``{detector: {set: {"auroc": Estimate, "aupr": …, "fpr95": …}}}``; with several sets also their
        mean, ``"mean of sets"``.
    difference
        ``{set: Estimate}``: AUROC of the detector minus that of the best control, by one resampling of
        the same samples for both; the best control is chosen anew in each replicate.
    best_control
        ``{set: name}``.
    verdict
        ``{set: "found" | "not found" | "inconclusive"}``: whether the detector beats every control
        (interval above 0), loses to one (below 0), or neither.
    scores
        ``{detector: {set: (N,)}}``, with the in-distribution scores under ``"in-distribution"``.
    threshold
        The detector's threshold.
    profile
        ``{set: (N, L)}``: standardised distance of each path at each depth (0 is usual), or ``None`` where
        the detector has none.
    points
        Names of those depths.
    """

    detector: str
    positive: Positive
    table: dict[str, dict[str, dict[str, Estimate]]]
    difference: dict[str, Estimate]
    best_control: dict[str, str]
    verdict: dict[str, str]
    scores: dict[str, dict[str, Array]]
    threshold: float
    profile: dict[str, Array] | None
    points: tuple[str, ...]

    def __repr__(self) -> str:
        sets = list(self.difference)
        width = max(len(name) for name in self.table)
        lines = [f"OODEvaluation: AUROC | FPR@95 ({self.positive} positive)"]
        for name in sets:
            lines.append(f"  {name}: {self.verdict[name]}, difference to {self.best_control[name]}")
            lines[-1] += f" {self.difference[name]!r}"
            for detector, row in self.table.items():
                cell = row[name]
                lines.append(f"    {detector:<{width}}  {cell['auroc']!r} | {cell['fpr95']!r}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for ``--json``; the scores themselves are left out."""
        return {
            "detector": self.detector,
            "positive": self.positive,
            "threshold": self.threshold,
            "table": {
                detector: {
                    name: {metric: value.to_dict() for metric, value in cell.items()}
                    for name, cell in row.items()
                }
                for detector, row in self.table.items()
            },
            "difference": {name: value.to_dict() for name, value in self.difference.items()},
            "best_control": self.best_control,
            "verdict": self.verdict,
            "points": list(self.points),
            "mean_profile": {name: _mean_profile(rows) for name, rows in (self.profile or {}).items()},
        }

    def plot(self) -> go.Figure:
        """Score densities, the table, and the profile through depth."""
        from repdyn.views.ood import ood  # plotly is loaded only for a picture

        picture: dict[str, Any] | None = None
        if self.profile is not None:
            low, median, high = np.quantile(self.profile[IN_DISTRIBUTION], [0.05, 0.5, 0.95], axis=0)
            picture = {"points": list(self.points), "low": low, "median": median, "high": high}
            picture["samples"] = self.profile
        table = self.to_dict()["table"]
        return ood(self.scores[self.detector], IN_DISTRIBUTION, self.threshold, table, picture)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the evaluation as a folder (``config.json``, ``model.safetensors``)."""
        tensors = {
            f"{_key(d)}|{name}": array for d, row in self.scores.items() for name, array in row.items()
        }
        tensors.update({f"{PROFILE}|{name}": array for name, array in (self.profile or {}).items()})
        save_artifact(path, "ood", self.to_dict(), tensors)

    @classmethod
    @refuses_damage
    def load(cls, path: str | os.PathLike[str]) -> OODEvaluation:
        """Read an evaluation that :meth:`save` wrote."""
        artifact = load_artifact(path, "ood")
        config = artifact.config
        owners = {_key(detector): detector for detector in config["table"]}
        arrays: dict[str, dict[str, Array]] = {key: {} for key in [*owners, PROFILE]}
        for key, array in artifact.tensors.items():
            detector, name = key.split("|", 1)
            arrays[detector][name] = array
        profile = arrays.pop(PROFILE)
        arrays = {owners[key]: row for key, row in arrays.items()}
        if profile and set(profile) != set(arrays[config["detector"]]):
            raise ValueError(f"profiles of {sorted(profile)}, scores of {sorted(arrays[config['detector']])}")
        return cls(
            detector=config["detector"],
            positive=config["positive"],
            table={
                detector: {
                    name: {metric: Estimate(**value) for metric, value in cell.items()}
                    for name, cell in row.items()
                }
                for detector, row in config["table"].items()
            },
            difference={name: Estimate(**value) for name, value in config["difference"].items()},
            best_control=config["best_control"],
            verdict=config["verdict"],
            scores=arrays,
            threshold=config["threshold"],
            profile=profile or None,
            points=tuple(config["points"]),
        )


def _key(detector: str) -> str:
    """A detector's name among the saved arrays: without a bar, and never that of the profiles."""
    name = detector.replace("%", "%25").replace("|", "%7C")
    return f"%{name}" if name == PROFILE else name


def _free(name: str, taken: Mapping[str, object]) -> str:
    """A name that no detector of the user's has."""
    while name in taken:
        name += " (added)"
    return name


def evaluate(
    detector: Detector,
    id_paths: RepresentationPaths,
    ood_paths: Mapping[str, RepresentationPaths],
    *,
    controls: Mapping[str, Detector] | None = None,
    statistics: Mapping[str, ArrayLike] | None = None,
    positive: Positive = "id",
    seed: int = 0,
) -> OODEvaluation:
    """Score held-out in-distribution and foreign paths by a detector and by what it must beat.

    Parameters
    ----------
    detector
        Fitted, on other paths than these.
    id_paths
        In-distribution paths that nothing was fitted on.
    ood_paths
        ``{name: paths}`` of out-of-distribution sets.
    controls
        Fitted detectors beside it. Unless given, those a :class:`PathDetector` fitted on its own
        paths: nearest neighbours and Mahalanobis distance at the last point. Energy is added where all
        paths have logits.
    statistics
        Low-level statistics of the *inputs* (file size, brightness, length), ``(N, F)`` per set, the
        in-distribution ones under ``"in-distribution"``: a control that never sees the model. A detector
        that does not beat it may have found a codec.
    positive
        Which class is positive in FPR@95 and AUPR; libraries differ.
    seed
        Of the bootstrap.

    Returns
    -------
    OODEvaluation

    Raises
    ------
    RepdynError
        If there is no set or no control, or paths are of another model.

    Examples
    --------
    >>> import numpy as np
    >>> from repdyn.ood import PathDetector
    >>> from repdyn.paths import RepresentationPaths
    >>> x = np.random.default_rng(0).normal(size=(300, 8)) + 3
    >>> fit, test = RepresentationPaths.from_arrays({"last": x}).split((0.5, 0.5))
    >>> foreign = RepresentationPaths.from_arrays({"last": -x})
    >>> result = evaluate(PathDetector().fit(fit), test, {"opposite": foreign})
    >>> float(result.table["PathDetector"]["opposite"]["auroc"])
    1.0
    """
    if not ood_paths:
        raise RepdynError("ood_paths: there is no set; give {'name': paths}")
    for name in (IN_DISTRIBUTION, MEAN):
        if name in ood_paths:
            raise RepdynError(f"ood_paths: the name {name!r} is taken; choose another")
    controls = controls if controls is not None else getattr(detector, "controls_", {})
    sets = {IN_DISTRIBUTION: id_paths, **ood_paths}
    main = type(detector).__name__
    while main in controls:  # a control may be called so
        main += " (evaluated)"
    scores = score_all({main: detector, **controls}, sets, statistics, seed=seed)
    if len(scores) == 1:
        raise RepdynError("controls: there is none; give controls={'name': fitted detector}")
    groups = {name: equal_paths(paths, detector.points_) for name, paths in sets.items()}
    found = compare(scores, positive, groups=groups, seed=seed)
    return judged(main, detector, sets, scores, found, positive)


def _mean_profile(rows: Array) -> list[float | None]:
    """Mean over samples at each depth, of those that are finite there."""
    finite = np.isfinite(rows)
    count = finite.sum(axis=0)
    total = np.where(finite, rows, 0).sum(axis=0)
    return [float(t / c) if c else None for t, c in zip(total, count)]


def judged(
    name: str,
    detector: Detector,
    sets: Mapping[str, RepresentationPaths],
    scores: dict[str, dict[str, Array]],
    found: Comparison,
    positive: Positive,
) -> OODEvaluation:
    """The evaluation of one of several compared detectors beside all others."""
    profile: dict[str, Array] | None = None
    points: tuple[str, ...] = ()
    if isinstance(detector, PathDetector):
        points = detector.points_
        profile = {name: detector.profile(paths) for name, paths in sets.items()}
    return OODEvaluation(
        detector=name,
        positive=positive,
        table=found.table(),
        **vars(found.judge(name, [other for other in scores if other != name])),
        scores=scores,
        threshold=detector.threshold_,
        profile=profile,
        points=points,
    )


def score_all(
    detectors: Mapping[str, Detector],
    sets: Mapping[str, RepresentationPaths],
    statistics: Mapping[str, ArrayLike] | None = None,
    *,
    seed: int = 0,
) -> dict[str, dict[str, Array]]:
    """Scores of all detectors on all sets, with those of energy and of low-level statistics where they are.

    Parameters
    ----------
    detectors
        Fitted, by name.
    sets
        ``{name: paths}``, the in-distribution ones under ``"in-distribution"``.
    statistics
        As in :func:`evaluate`.
    seed
        Of the folds of the statistics.

    Returns
    -------
    dict
        ``{detector: {set: (N,)}}``.
    """
    scores = {
        detector: {name: fitted.score_samples(paths) for name, paths in sets.items()}
        for detector, fitted in detectors.items()
    }
    logits = {name: paths.logits for name, paths in sets.items()}
    if all(array is not None for array in logits.values()):
        free = _free("energy", scores)
        scores[free] = {name: energy(array) for name, array in logits.items() if array is not None}
    if statistics is not None:
        sizes = {name: len(paths) for name, paths in sets.items()}
        scores[_free("low-level statistics", scores)] = statistics_scores(statistics, sizes, seed)
    return scores
