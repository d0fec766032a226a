"""Recommendation of a detector by pseudo-OOD validation, on in-distribution data alone."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from repdyn.errors import RepdynError
from repdyn.intervals import Estimate
from repdyn.ood.comparison import IN_DISTRIBUTION, MEAN, Comparison, compare
from repdyn.ood.detector import Detector, equal_paths
from repdyn.ood.detectors import DensityDetector, PathDetector
from repdyn.ood.evaluation import OODEvaluation, evaluation_of, score_all
from repdyn.ood.neighbor_detectors import GuidedEnergyDetector
from repdyn.ood.pseudo_ood import CONTRACTED, contracted, draw_paths, find_groups, split_pseudo_ood
from repdyn.ood.records import from_settings
from repdyn.ood.settings import PSEUDO_OOD
from repdyn.ood.trajectories import Map
from repdyn.ood.union import LATER_PATHS, UnionDetector
from repdyn.paths import PathsLike, RepresentationPaths, as_paths
from repdyn.progress import track
from repdyn.results import Result

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["Recommendation", "recommend"]

PATH, UNION = "path", "union"


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
        ``{detector: {set: Estimate}}`` of AUROC, mean over the draws of value and interval ends. The set
        ``"contracted"`` is no part of ``"mean of sets"``.
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
    paths: PathsLike,
    candidates: Mapping[str, Detector] | None = None,
    *,
    autoencoder: tuple[Map, Map] | None = None,
    point: str | None = None,
    seed: int = 0,
) -> Recommendation:
    """Recommend the detector that best separates pseudo-OOD sets from in-distribution data.

    The pseudo-OOD sets are made of in-distribution paths (:mod:`repdyn.ood.pseudo_ood`). The *near* set holds
    groups (classes, or clusters of the last point where there are no labels) that no detector was fitted on.
    The *far* sets hold samples with all, or a tenth, of their coordinates permuted over samples, which keeps
    all marginals and breaks their dependence. No out-of-distribution data is used.

    A union is recommended if there is one (of several, the one with the highest mean AUROC), unless another
    candidate

    - has the highest mean AUROC, and beats the union in every draw with the interval of the difference above
      0, and
    - is not beaten by the union in the same way on *contracted* samples, which lie halfway to the mean. They
      stand for inputs that are too likely, such as blurred pictures, which a distance alone does not find.

    Without a union among the candidates the one with the highest mean AUROC is recommended.

    A head was trained on the held-out groups. The AUROC of the guided energy on the near set is therefore too
    low, and the union is validated without energies.

    With fewer than about 350 paths, the union that is compared was fitted to fewer than 200, and has the
    members of so few; the one that is recommended has those of all paths.

    Parameters
    ----------
    paths
        In-distribution paths, or what :func:`repdyn.paths.as_paths` takes; at most 3000 of them are used.
    candidates
        Unfitted detectors by name. Default: the path detector, the union, its other members and controls
        (nearest neighbors, Mahalanobis, with labels the relative ones, with logits the guided energy).
    autoencoder
        Encoder and decoder of an auto-encoder at a point, ``(n, D) -> (n, d)`` and back. The candidates are
        then those of :meth:`UnionDetector.from_autoencoder`, its members and the union, beside those given.
        An auto-encoder that was trained on the groups that are held out does not find them unusual, so that
        its trajectory is rated too low.
    point
        The encoded point. Default: the last one.
    seed
        Draws paths, groups, and shuffles.

    Raises
    ------
    RepdynError
        On fewer than 200 paths, fewer than 5 groups, fewer than 2 candidates, or an auto-encoder that is not
        an encoder and a decoder.

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
    if autoencoder is not None:
        if not isinstance(autoencoder, tuple | list) or len(autoencoder) != 2:
            raise RepdynError(f"autoencoder: expected (encode, decode), got {autoencoder!r:.100}")
        union = UnionDetector.from_autoencoder(*autoencoder, paths.points, point, seed)
        candidates = {**(candidates or {}), **(union.members or {}), UNION: union}
    elif point is not None:
        raise RepdynError(f"point {point!r}: is the one that an autoencoder encodes, and none is given")
    if candidates is not None and len(candidates) < 2:
        raise RepdynError(f"candidates: comparing takes at least 2 detectors, got {len(candidates)}")
    generator = np.random.default_rng(seed)
    paths = draw_paths(paths, generator)
    group, kind = find_groups(paths, seed)
    count, needed = len(np.unique(group)), PSEUDO_OOD.min_groups
    if count < needed:
        raise RepdynError(f"recommend: needs at least {needed} groups to hold some out, got {count} {kind}")
    drawn = []
    for draw in track(range(PSEUDO_OOD.draws), "comparing detectors on held-out groups"):
        split = split_pseudo_ood(paths, group, generator)
        drawn.append(_compared(_fitted(split.fit, candidates, seed), split.sets, seed + draw))
    tables = [each.table() for each in drawn]
    # Class means may help in one draw and not in another.
    names = [name for name in tables[0] if all(name in each for each in tables)]
    table = {
        name: {trial: _mean([each[name][trial]["auroc"] for each in tables]) for trial in tables[0][name]}
        for name in names
    }
    best = _best(table, drawn)
    rivals = [name for name in table if name != best]
    beats = bool(rivals) and all(each.pseudo.against(best, rivals).verdict[MEAN] == "found" for each in drawn)
    first = drawn[0]
    shown = first.fitted[best]
    detector = candidates[best] if candidates is not None else _unfitted(best, shown, seed)
    profile = None
    if isinstance(shown, DensityDetector):
        profile = {name: shown.profile(own) for name, own in first.sets.items()}
    evaluation = evaluation_of(best, shown, profile, first.scores, first.pseudo, "id")
    return Recommendation(best, detector, table, kind, "found" if beats else "inconclusive", evaluation)


class _Draw(NamedTuple):
    """One draw of pseudo-OOD sets: the fitted candidates, and how they compare.

    Attributes
    ----------
    fitted
        Candidates by name.
    sets
        The pseudo-OOD sets, and in-distribution samples.
    scores
        ``{candidate: {set: (N,)}}`` of these.
    pseudo, likely
        Comparison on the sets, and on contracted samples.
    """

    fitted: dict[str, Detector]
    sets: dict[str, RepresentationPaths]
    scores: dict[str, dict[str, NDArray[Any]]]
    pseudo: Comparison
    likely: Comparison

    def table(self) -> dict[str, dict[str, dict[str, Estimate]]]:
        """Figures of both comparisons, ``{candidate: {set: {metric: Estimate}}}``."""
        likely = self.likely.table()
        return {name: {**row, **likely[name]} for name, row in self.pseudo.table().items()}


def _compared(fitted: dict[str, Detector], sets: dict[str, RepresentationPaths], seed: int) -> _Draw:
    given = {**sets, CONTRACTED: contracted(sets[IN_DISTRIBUTION])}
    scores = score_all(fitted, given, seed=seed)
    groups = {name: equal_paths(own, own.points) for name, own in given.items()}

    def on(*names: str) -> tuple[dict[str, dict[str, NDArray[Any]]], Comparison]:
        # The energy alone, which is scored too, is no candidate.
        own = {name: {which: scores[name][which] for which in names} for name in fitted}
        return own, compare(own, groups=groups, seed=seed)

    _, likely = on(IN_DISTRIBUTION, CONTRACTED)
    return _Draw(fitted, sets, *on(*sets), likely)


def _best(table: Mapping[str, Mapping[str, Estimate]], drawn: Sequence[_Draw]) -> str:
    """The name that is recommended: a union, unless another candidate is clearly better."""
    order = sorted(table, key=lambda name: -table[name][MEAN].value)
    best, fitted = order[0], drawn[0].fitted
    union = next((name for name in order if isinstance(fitted[name], UnionDetector)), best)
    if best == union:
        return best
    better = all(each.pseudo.against(best, [union]).verdict[MEAN] == "found" for each in drawn)
    blind = all(each.likely.against(union, [best]).verdict[CONTRACTED] == "found" for each in drawn)
    return best if better and not blind else union


def _fitted(
    paths: RepresentationPaths, candidates: Mapping[str, Detector] | None, seed: int
) -> dict[str, Detector]:
    """Candidates by name, fitted on paths: copies of those given, or the default ones."""
    if candidates is not None:
        return {name: copy.deepcopy(detector).fit(paths) for name, detector in candidates.items()}
    # The head was trained on the held-out groups: the union is validated without its energies.
    union = UnionDetector(seed=seed).fit(_without_logits(paths))
    fitted: dict[str, Detector] = {**union.controls_, UNION: union}  # the union holds the others
    for name in LATER_PATHS:  # what the split leaves may be too few for the usual members
        fitted.pop(name, None)
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
