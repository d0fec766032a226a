"""Recommendation of a detector by pseudo-OOD validation, on in-distribution data alone."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from repdyn.errors import RepdynError
from repdyn.intervals import Estimate
from repdyn.ood.comparison import MEAN, compare
from repdyn.ood.detector import Detector, equal_paths
from repdyn.ood.detectors import DensityDetector, PathDetector
from repdyn.ood.evaluation import OODEvaluation, evaluation_of, score_all
from repdyn.ood.neighbor_detectors import GuidedEnergyDetector
from repdyn.ood.pseudo_ood import draw_paths, find_groups, split_pseudo_ood
from repdyn.ood.records import from_settings
from repdyn.ood.settings import PSEUDO_OOD
from repdyn.ood.union import UnionDetector
from repdyn.paths import PathsLike, RepresentationPaths, as_paths
from repdyn.progress import track
from repdyn.results import Result

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["Recommendation", "recommend"]

PATH, RELATIVE, UNION = "path", "relative path", "union"


@dataclass(frozen=True, eq=False)
class Recommendation(Result, kind="recommendation"):
    """A recommended detector, and the scores of all candidates.

    Attributes
    ----------
    best
        The name of the recommended detector, one of ``table``.
    detector
        The recommended detector, not fitted.
    table
        ``{detector: {set: Estimate}}`` of AUROC, mean over the draws of value and interval ends. The
        recommendation is decided by the set ``"mean of sets"``.
    groups
        Kind of the groups that were held out: ``"labels"`` or ``"clusters"``.
    verdict
        ``"found"``: in every draw the detector beats every other one, and the interval of the difference is
        above 0. ``"inconclusive"``: otherwise; the differences to other candidates may be chance.
    evaluation
        The first draw in full.
    """

    figures: ClassVar = ("best", "groups", "verdict", "table")

    best: str
    detector: Detector
    table: dict[str, dict[str, Estimate]]
    groups: str
    verdict: str
    evaluation: OODEvaluation

    def __repr__(self) -> str:
        width = max(len(name) for name in self.table)
        lines = [f"Recommendation: {self.best} ({self.verdict}); AUROC, with {self.groups} held out"]
        for name in sorted(self.table, key=lambda name: -self.table[name][MEAN].value):
            row = self.table[name]
            lines.append(f"  {name:<{width}}  " + "  ".join(f"{t} {e}" for t, e in row.items()))
        return "\n".join(lines)

    def plot(self) -> go.Figure:
        """Scores of the recommended detector in the first draw, and the table."""
        return self.evaluation.plot()

    def _record(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        config, tensors = super()._record()
        config["detector"] = _settings_of(self.detector)
        return config, tensors

    @classmethod
    def _revive(cls, config: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> Self:
        loaded = super()._revive({**config, "detector": {}}, tensors)
        return replace(loaded, detector=from_settings(**config["detector"]))


def recommend(
    paths: PathsLike, candidates: Mapping[str, Detector] | None = None, *, seed: int = 0
) -> Recommendation:
    """Recommend the detector that best separates pseudo-OOD sets from in-distribution data.

    The pseudo-OOD sets are made of in-distribution paths (:mod:`repdyn.ood.pseudo_ood`). The *near* set holds
    groups (classes, or clusters of the last point where there are no labels) that no detector was fitted on.
    The *far* sets hold samples with all, or a tenth, of their coordinates permuted over samples, which keeps
    all marginals and breaks their dependence. The candidate with the highest mean AUROC is recommended. No
    out-of-distribution data is used.

    A head was trained on the held-out groups. The AUROC of the guided energy on the near set is therefore too
    low, and the union is validated without energies. Where it has energies, the union is recommended unless
    another candidate beats it in every draw, with the interval of the difference above 0.

    With fewer than about 350 paths, the union that is compared was fitted to fewer than 200, and has the
    members of so few; the one that is recommended has those of all paths.

    Parameters
    ----------
    paths
        In-distribution paths, or what :func:`repdyn.paths.as_paths` takes; at most 3000 of them are used.
    candidates
        Unfitted detectors by name. Default: the path detector, the union, its other members and controls
        (nearest neighbors, Mahalanobis, with labels the relative ones, with logits the guided energy).
    seed
        Draws paths, groups, and shuffles.

    Raises
    ------
    RepdynError
        On fewer than 200 paths, fewer than 5 groups, or fewer than 2 candidates.

    Examples
    --------
    >>> import numpy as np
    >>> from repdyn.ood import KNNDetector, MahalanobisDetector
    >>> from repdyn.paths import RepresentationPaths
    >>> generator = np.random.default_rng(0)
    >>> labels = np.arange(400) % 8
    >>> x = generator.normal(size=(400, 6)) * 0.1 + generator.normal(size=(8, 6))[labels]
    >>> paths = RepresentationPaths.from_arrays({"x": x}, labels=labels)
    >>> recommend(paths, {"kNN": KNNDetector(), "Mahalanobis": MahalanobisDetector()}).groups
    'labels'
    """
    paths = as_paths(paths, "paths")
    least = PSEUDO_OOD.min_paths
    if len(paths) < least:
        raise RepdynError(f"recommend: needs at least {least} paths to compare detectors, got {len(paths)}")
    if candidates is not None and len(candidates) < 2:
        raise RepdynError(f"candidates: comparing takes at least 2 detectors, got {len(candidates)}")
    generator = np.random.default_rng(seed)
    paths = draw_paths(paths, generator)
    group, kind = find_groups(paths, seed)
    count, needed = len(np.unique(group)), PSEUDO_OOD.min_groups
    if count < needed:
        raise RepdynError(f"recommend: needs at least {needed} groups to hold some out, got {count} {kind}")
    trials = []
    for _ in track(range(PSEUDO_OOD.draws), "comparing detectors on held-out groups"):
        split = split_pseudo_ood(paths, group, generator)
        trials.append((_fitted(split.fit, candidates, seed), split.sets))
    scores = [score_all(fitted, sets, seed=seed) for fitted, sets in trials]
    for own, (fitted, _) in zip(scores, trials):
        for name in own.keys() - fitted.keys():  # energy alone is no candidate
            del own[name]
    equal = [{name: equal_paths(own, own.points) for name, own in sets.items()} for _, sets in trials]
    comparisons = [
        compare(own, groups=groups, seed=seed + draw) for draw, (own, groups) in enumerate(zip(scores, equal))
    ]
    tables = [comparison.table() for comparison in comparisons]
    table = {
        name: {trial: _mean([t[name][trial]["auroc"] for t in tables]) for trial in row}
        for name, row in tables[0].items()
    }
    best = max(table, key=lambda name: table[name][MEAN].value)
    # The contribution of the head to the union was not validated: the union is kept unless clearly beaten.
    has_energies = paths.logits_width is not None and RELATIVE not in table
    unvalidated = candidates is None and has_energies and best != UNION
    if unvalidated and any(c.against(best, [UNION]).verdict[MEAN] != "found" for c in comparisons):
        best = UNION
    rivals = [name for name in table if name != best]
    beats = bool(rivals) and all(c.against(best, rivals).verdict[MEAN] == "found" for c in comparisons)
    fitted, sets = trials[0]
    detector = candidates[best] if candidates is not None else _unfitted(best, fitted[best], seed)
    shown = fitted[best]
    profile = None
    if isinstance(shown, DensityDetector):
        profile = {name: shown.profile(own) for name, own in sets.items()}
    evaluation = evaluation_of(best, shown, profile, scores[0], comparisons[0], "id")
    return Recommendation(best, detector, table, kind, "found" if beats else "inconclusive", evaluation)


def _fitted(
    paths: RepresentationPaths, candidates: Mapping[str, Detector] | None, seed: int
) -> dict[str, Detector]:
    """Candidates by name, fitted on paths: copies of those given, or the default ones."""
    if candidates is not None:
        return {name: copy.deepcopy(detector).fit(paths) for name, detector in candidates.items()}
    # The head was trained on the held-out groups: the union is validated without its energies.
    union = UnionDetector(seed=seed).fit(_without_logits(paths))
    fitted: dict[str, Detector] = {**union.controls_, UNION: union}  # the union holds the others
    if paths.logits_width is not None:
        fitted["guided energy"] = GuidedEnergyDetector(seed=seed).fit(paths)
    return fitted


def _without_logits(paths: RepresentationPaths) -> RepresentationPaths:
    arrays = {point: np.asarray(paths[point]) for point in paths.points}
    return RepresentationPaths.from_arrays(arrays, labels=paths.labels, meta=paths.meta)


def _unfitted(name: str, fitted: Detector, seed: int) -> Detector:
    """A new detector of the kind of a fitted one, with the seed if it takes one."""
    if name == UNION:
        return UnionDetector(seed=seed)
    kind = PathDetector if name == PATH else type(fitted)
    takes = "seed" in inspect.signature(kind).parameters
    return kind(**({"seed": seed} if takes else {}))


def _settings_of(detector: Detector) -> dict[str, Any]:
    """Class and constructor arguments of a detector that is not fitted, as JSON values."""
    given = {name: getattr(detector, name) for name in inspect.signature(type(detector)).parameters}
    for name, value in given.items():
        if not (value is None or isinstance(value, int | float | str | tuple)):
            raise RepdynError(
                f"{type(detector).__name__}: its {name} cannot be saved; save the evaluation, or fit the "
                "detector and save that"
            )
    return {"name": type(detector).__name__, "settings": given}


def _mean(estimates: list[Estimate]) -> Estimate:
    """Mean of values and of interval ends."""
    value, low, high = np.mean([[e.value, e.low, e.high] for e in estimates], axis=0)
    return Estimate(float(value), float(low), float(high), estimates[0].level)
