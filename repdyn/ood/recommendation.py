"""Which detector to use, judged on in-distribution data alone: held-out parts of it play the foreign."""

from __future__ import annotations

import copy
import inspect
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from repdyn.errors import RepdynError
from repdyn.intervals import Estimate
from repdyn.ood.comparison import MEAN, compare
from repdyn.ood.detector import Detector, equal_paths
from repdyn.ood.detectors import PathDetector
from repdyn.ood.evaluation import OODEvaluation, judged, score_all
from repdyn.ood.guidance import GuidedEnergyDetector
from repdyn.ood.rehearsal import FEWEST, FEWEST_GROUPS, groups, rehearse, some
from repdyn.ood.union import UnionDetector
from repdyn.progress import track

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from repdyn.paths import RepresentationPaths

__all__ = ["Recommendation", "recommend"]

DRAWS = 2  # ways to hold groups out
PATH, UNION = "path", "union"


@dataclass(frozen=True, eq=False)
class Recommendation:
    """A detector, and what the others scored.

    Attributes
    ----------
    best
        The name of the recommended detector, one of ``table``.
    detector
        It, not fitted.
    table
        ``{detector: {trial: Estimate}}`` of AUROC, mean over the draws of value and interval ends;
        ``"mean of sets"`` among the trials decides.
    groups
        What was held out: ``"labels"`` or ``"clusters"``.
    verdict
        ``"found"``: in every draw it beats every other detector, intervals apart; ``"inconclusive"``
        otherwise: the choice is then one of several that do as well here.
    evaluation
        The first draw in full.
    """

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

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for ``--json``."""
        return {
            "best": self.best,
            "groups": self.groups,
            "verdict": self.verdict,
            "table": {n: {t: e.to_dict() for t, e in row.items()} for n, row in self.table.items()},
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the first draw's evaluation as a folder; see :meth:`OODEvaluation.save`."""
        self.evaluation.save(path)


def recommend(
    paths: RepresentationPaths, candidates: Mapping[str, Detector] | None = None, *, seed: int = 0
) -> Recommendation:
    """Compare detectors by how well they tell held-out parts of in-distribution data from the rest.

    Foreign data are made of what is there: groups (classes, or clusters of the last point where there are no
    labels) of which no detector has seen a member, which is *near*; and samples of which every coordinate, or
    a tenth of them, comes from another sample, which keeps all marginals and breaks what holds them together,
    which is *far*. The best mean AUROC is recommended. No out-of-distribution data is looked at.

    A head that was trained on the held-out groups knows them. So the guided energy is judged too hard on the
    near set, and the union by its other members alone; where there are logits, the union is recommended
    unless another beats it, intervals apart, in every draw.

    Parameters
    ----------
    paths
        In-distribution paths; at most 3000 of them are used.
    candidates
        Unfitted detectors by name. Unless given: the path detector, the union, its other members and controls
        (nearest neighbours, Mahalanobis, with labels the relative ones, with logits the guided energy).
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
    if len(paths) < FEWEST:
        raise RepdynError(f"recommend: needs at least {FEWEST} paths to compare detectors, got {len(paths)}")
    if candidates is not None and len(candidates) < 2:
        raise RepdynError(f"candidates: comparing takes at least 2 detectors, got {len(candidates)}")
    generator = np.random.default_rng(seed)
    paths = some(paths, generator)
    group, kind = groups(paths, seed)
    count = len(np.unique(group))
    if count < FEWEST_GROUPS:
        raise RepdynError(f"recommend: needs at least 5 groups to hold some out, got {count} {kind}")
    trials = []
    for _ in track(range(DRAWS), "comparing detectors on held-out groups"):
        trial = rehearse(paths, group, generator)
        trials.append((_fitted(trial.fit, candidates, seed), trial.sets))
    scores = [score_all(fitted, sets, seed=seed) for fitted, sets in trials]
    for own, (fitted, _) in zip(scores, trials):
        for name in own.keys() - fitted.keys():  # energy alone is no candidate
            del own[name]
    alike = [{name: equal_paths(own, own.points) for name, own in sets.items()} for _, sets in trials]
    found = [
        compare(own, groups=equal, seed=seed + draw) for draw, (own, equal) in enumerate(zip(scores, alike))
    ]
    tables = [comparison.table() for comparison in found]
    table = {
        name: {trial: _mean([t[name][trial]["auroc"] for t in tables]) for trial in row}
        for name, row in tables[0].items()
    }
    best = max(table, key=lambda name: table[name][MEAN].value)
    # What the head adds to the union could not be judged: it stands back only for what clearly beats it.
    unheard = candidates is None and paths.logits_width is not None and best != UNION
    if unheard and any(c.judge(best, [UNION]).verdict[MEAN] != "found" for c in found):
        best = UNION
    rivals = [name for name in table if name != best]
    beats = bool(rivals) and all(c.judge(best, rivals).verdict[MEAN] == "found" for c in found)
    fitted, sets = trials[0]
    detector = candidates[best] if candidates is not None else _unfitted(best, fitted[best], seed)
    evaluation = judged(best, fitted[best], sets, scores[0], found[0], "id")
    return Recommendation(best, detector, table, kind, "found" if beats else "inconclusive", evaluation)


def _fitted(
    paths: RepresentationPaths, candidates: Mapping[str, Detector] | None, seed: int
) -> dict[str, Detector]:
    if candidates is not None:
        return {name: copy.deepcopy(detector).fit(paths) for name, detector in candidates.items()}
    # The head was trained on the held-out groups and knows them: the union is judged by what else it asks.
    union = UnionDetector(seed=seed).fit(_headless(paths))
    found: dict[str, Detector] = {**union.controls_, UNION: union}  # it holds the others
    if paths.logits_width is not None:
        found["guided energy"] = GuidedEnergyDetector(seed=seed).fit(paths)
    return found


def _headless(paths: RepresentationPaths) -> RepresentationPaths:
    from repdyn.paths import RepresentationPaths

    arrays = {point: np.asarray(paths[point]) for point in paths.points}
    return RepresentationPaths.from_arrays(arrays, labels=paths.labels, meta=paths.meta)


def _unfitted(name: str, fitted: Detector, seed: int) -> Detector:
    if name == UNION:
        return UnionDetector(seed=seed)
    kind = PathDetector if name == PATH else type(fitted)
    takes = "seed" in inspect.signature(kind).parameters
    return kind(**({"seed": seed} if takes else {}))


def _mean(estimates: list[Estimate]) -> Estimate:
    value, low, high = np.mean([[e.value, e.low, e.high] for e in estimates], axis=0)
    return Estimate(float(value), float(low), float(high), estimates[0].level)
