"""Evaluation of a detector on known out-of-distribution sets, always together with its controls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repdyn.artifacts import Artifact
from repdyn.errors import RepdynError
from repdyn.intervals import Estimate
from repdyn.ood.comparison import IN_DISTRIBUTION, MEAN, Comparison, Positive, compare
from repdyn.ood.crossfit import draw_folds
from repdyn.ood.detector import Detector, equal_paths, scorer_of
from repdyn.ood.detectors import DensityDetector
from repdyn.ood.gaussian import fit_gaussian
from repdyn.ood.inputs import Given, paths_of
from repdyn.ood.neighbor_detectors import energy
from repdyn.ood.path_chunks import HELD, LOGITS, Chunk, read_chunks
from repdyn.ood.settings import FIT
from repdyn.paths import nearby
from repdyn.reading import as_array
from repdyn.repeats import groups_of_equal_rows
from repdyn.results import Result

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from repdyn.paths import RepresentationPaths

__all__ = ["OODEvaluation", "evaluate", "evaluation_of", "score_all", "statistics_scores"]

Array = NDArray[np.float64]

PROFILE = "profile"  # owner of the depth profiles among the arrays of version 0.1


@dataclass(frozen=True, eq=False)
class OODEvaluation(Result, kind="ood"):
    """A detector and its controls on several out-of-distribution sets.

    Attributes
    ----------
    detector
        Its name; the first key of ``table``, the controls follow.
    positive
        Which class is positive in FPR@95 and AUPR, see :func:`repdyn.ood.comparison.separation`.
    table
        ``{detector: {set: {"auroc": Estimate, "aupr": …, "fpr95": …}}}``; with several sets also their
        mean, ``"mean of sets"``.
    difference
        ``{set: Estimate}``: AUROC of the detector minus that of the best control, from one resampling of
        the same samples for both; the best control is chosen again in each replicate.
    best_control
        ``{set: name}``.
    verdict
        ``{set: verdict}``. ``"found"``: the detector beats every control (interval above 0). ``"not found"``:
        a control beats it (interval below 0). ``"inconclusive"``: neither.
    scores
        ``{detector: {set: (N,)}}``, with the in-distribution scores under ``"in-distribution"``.
    threshold
        The detector's threshold.
    profile
        ``{set: (N, L)}``: standardized distance of each path at each depth (0 is typical), or ``None`` where
        the detector has no profile.
    points
        Names of those depths.
    """

    figures: ClassVar = (
        "detector",
        "positive",
        "threshold",
        "table",
        "difference",
        "best_control",
        "verdict",
        "points",
    )

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
        """Plain values for ``--json``; scores are left out, and the profile is averaged over samples."""
        means = {name: _mean_profile(rows) for name, rows in (self.profile or {}).items()}
        return {**super().to_dict(), "mean_profile": means}

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

    @classmethod
    def _revive(cls, config: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> Self:
        loaded = super()._revive(config, tensors)
        sets = set(loaded.scores[loaded.detector])
        if loaded.profile is not None and set(loaded.profile) != sets:
            raise ValueError(f"profiles are of {sorted(loaded.profile)}, scores of {sorted(sets)}")
        return loaded

    @classmethod
    def _upgrade(cls, artifact: Artifact, path: Path) -> Artifact:
        """Version 0.1 named arrays ``detector|set``, and those of the profile ``profile|set``."""
        owners = {_key_of_0_1(detector): detector for detector in artifact.config["table"]}
        by_owner: dict[str, dict[str, Any]] = {key: {} for key in [*owners, PROFILE]}
        for key in artifact.tensors:
            owner, name = key.split("|", 1)
            by_owner[owner][name] = {"tensor": key}
        profile = by_owner.pop(PROFILE) or None
        scores = {owners[key]: row for key, row in by_owner.items()}
        return replace(artifact, config={**artifact.config, "scores": scores, "profile": profile})


def _key_of_0_1(detector: str) -> str:
    """A detector's name among the arrays of version 0.1: without a bar, and different from ``"profile"``."""
    name = detector.replace("%", "%25").replace("|", "%7C")
    return f"%{name}" if name == PROFILE else name


def _unused(name: str, taken: Mapping[str, object]) -> str:
    """A name that no detector of the user has."""
    while name in taken:
        name += " (added)"
    return name


def evaluate(
    detector: Detector,
    id_paths: Given,
    ood_paths: Mapping[str, Given],
    *,
    controls: Mapping[str, Detector] | None = None,
    statistics: Mapping[str, ArrayLike] | None = None,
    positive: Positive = "id",
    seed: int = 0,
) -> OODEvaluation:
    """Score held-out in-distribution and out-of-distribution paths by a detector and by its controls.

    Parameters
    ----------
    detector
        Fitted on other paths than these.
    id_paths
        In-distribution paths that neither the detector nor a control was fitted on, or what
        :meth:`~repdyn.ood.detector.Detector.fit` takes.
    ood_paths
        ``{name: paths}`` of out-of-distribution sets, likewise.
    controls
        Fitted detectors to compare with. Default: ``controls_`` of the detector, for a
        :class:`PathDetector` nearest neighbors and Mahalanobis distance at the last point. Energy is added
        where all paths have logits.
    statistics
        Low-level statistics of the *inputs* (file size, brightness, length), ``(N, F)`` per set, the
        in-distribution ones under ``"in-distribution"``: a control that does not use the model. A detector
        that does not beat it may detect a file format instead of content.
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
    detector.check_fitted()
    given = {IN_DISTRIBUTION: id_paths, **ood_paths}
    sets = {name: nearby(paths_of(detector, paths), HELD) for name, paths in given.items()}
    main = type(detector).__name__
    while main in controls:  # a control may have this name
        main += " (evaluated)"
    profiles: dict[str, Array] | None = {} if isinstance(detector, DensityDetector) else None
    scores = score_all({main: detector, **controls}, sets, statistics, seed=seed, profiles=profiles)
    if len(scores) == 1:
        raise RepdynError("controls: there is none; give controls={'name': fitted detector}")
    groups = {name: equal_paths(paths, detector.points_) for name, paths in sets.items()}
    comparison = compare(scores, positive, groups=groups, seed=seed)
    return evaluation_of(main, detector, profiles, scores, comparison, positive)


def _mean_profile(rows: Array) -> list[float | None]:
    """Mean over the samples ``(N, L)`` that are finite at a depth, L values; None where there are none."""
    finite = np.isfinite(rows)
    count = finite.sum(axis=0)
    total = np.where(finite, rows, 0).sum(axis=0)
    return [float(t / c) if c else None for t, c in zip(total, count)]


def evaluation_of(
    name: str,
    detector: Detector,
    profile: dict[str, Array] | None,
    scores: dict[str, dict[str, Array]],
    comparison: Comparison,
    positive: Positive,
) -> OODEvaluation:
    """The evaluation of one of several compared detectors, with all others as controls.

    ``profile`` holds the depth profiles of the sets, ``{set: (N, L)}``, where the detector has them.
    """
    points = () if profile is None else detector.points_
    return OODEvaluation(
        detector=name,
        positive=positive,
        table=comparison.table(),
        **vars(comparison.against(name, [other for other in scores if other != name])),
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
    profiles: dict[str, Array] | None = None,
) -> dict[str, dict[str, Array]]:
    """Scores of all detectors on all sets, with energy and low-level statistics where they are available.

    Each set is read once, for all detectors.

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
    profiles
        Where given, the depth profiles of the first detector are entered, ``{set: (N, L)}``.

    Returns
    -------
    dict
        ``{detector: {set: (N,)}}``.
    """
    first = next(iter(detectors.values()), None)
    profiled = first if profiles is not None and isinstance(first, DensityDetector) else None
    columns: dict[str, dict[str, Array]] = {}
    for name, paths in sets.items():
        columns[name], profile = _read_once(detectors, paths, profiled)
        if profiles is not None and profile is not None:
            profiles[name] = profile
    everywhere = [
        name for name in next(iter(columns.values())) if all(name in own for own in columns.values())
    ]
    ordered = [*detectors, *(name for name in everywhere if name not in detectors)]
    scores = {detector: {name: own[detector] for name, own in columns.items()} for detector in ordered}
    if statistics is not None:
        sizes = {name: len(paths) for name, paths in sets.items()}
        scores[_unused("low-level statistics", scores)] = statistics_scores(statistics, sizes, seed)
    return scores


def _read_once(
    detectors: Mapping[str, Detector], paths: RepresentationPaths, profiled: DensityDetector | None
) -> tuple[dict[str, Array], Array | None]:
    """Scores ``(N,)`` of paths by every detector and by the energy, and the depth profile by one of them.

    A detector that has a ``score_samples`` of its own reads the paths by itself.
    """
    scores: dict[str, Array] = {}
    scorers: dict[str, Callable[[Chunk], Array]] = {}
    points: set[str] = set()
    for name, detector in detectors.items():
        if isinstance(detector, Detector) and type(detector).score_samples is Detector.score_samples:
            scorers[name] = scorer_of(detector, paths)
            points.update(detector.points_)
        else:
            scores[name] = detector.score_samples(paths)
    if LOGITS in paths.points and paths.logits is not None:  # a point has the name: a chunk holds the point
        scores[_unused("energy", detectors)] = energy(paths.logits)
    elif paths.logits_width is not None:
        scorers[_unused("energy", detectors)] = lambda chunk: energy(chunk[LOGITS])
        points.add(LOGITS)
    parts: dict[str, list[Array]] = {name: [] for name in scorers}
    profile = []
    ordered = tuple(point for point in dict.fromkeys((*paths.points, LOGITS)) if point in points)
    for chunk in read_chunks(paths, ordered, "scoring paths", allow_nonfinite=True) if ordered else ():
        for name, score in scorers.items():
            parts[name].append(score(chunk))
        if profiled is not None:
            profile.append(profiled.profile_chunk(chunk))
    scores.update({name: np.concatenate(own) for name, own in parts.items()})
    return scores, np.concatenate(profile) if profile else None


def statistics_scores(
    statistics: Mapping[str, ArrayLike], sizes: Mapping[str, int], seed: int
) -> dict[str, Array]:
    """Score inputs by low-level statistics alone, which a detector may respond to instead of content.

    Minus the Mahalanobis distance of the statistics, each divided by its standard deviation; every
    in-distribution sample is scored by a fit without it.

    Parameters
    ----------
    statistics
        ``{set: (N, F)}``, the in-distribution ones under ``"in-distribution"``.
    sizes
        ``{set: N}``, expected numbers of samples.
    seed
        Draws the folds.

    Returns
    -------
    dict
        ``{set: (N,)}``, higher is more normal.

    Raises
    ------
    RepdynError
        If a set is lacking, has another number of samples, or nothing varies.
    """
    given = {}
    for name, size in sizes.items():
        if name not in statistics:
            raise RepdynError(f"statistics: lack the set {name!r}; give an array (N, F) for each")
        array = as_array(statistics[name], dtype=np.float64)
        array = array[:, None] if array.ndim == 1 else array
        if array.ndim != 2 or len(array) != size or not np.isfinite(array).all():
            raise RepdynError(
                f"statistics: those of {name!r} have shape {array.shape}, expected ({size}, F), finite"
            )
        given[name] = array
    inside = given[IN_DISTRIBUTION]
    scale = inside.std(axis=0)
    given = {name: array[:, scale > 0] / scale[scale > 0] for name, array in given.items()}
    inside = given[IN_DISTRIBUTION]
    if inside.shape[1] == 0 or len(inside) < FIT.folds:
        raise RepdynError("statistics: those of the in-distribution samples do not vary")
    fold = draw_folds(groups_of_equal_rows(inside), seed)
    scores = {name: np.zeros(len(array)) for name, array in given.items()}
    for k in range(FIT.folds):
        gaussian = fit_gaussian(inside[fold != k], None)
        for name, array in given.items():
            if name == IN_DISTRIBUTION:
                scores[name][fold == k] = -gaussian.distance(array[fold == k])
            else:
                scores[name] -= gaussian.distance(array) / FIT.folds
    return scores
