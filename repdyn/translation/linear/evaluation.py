"""Evaluation of translations: retrieval on held-out pairs against controls, and cycle consistency."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repdyn.artifacts import Artifact
from repdyn.errors import RepdynError
from repdyn.intervals import Estimate, bootstrap_mean
from repdyn.linalg import polar
from repdyn.paths import PathsLike, open_paths
from repdyn.reading import as_array
from repdyn.repeats import groups_of_equal_rows
from repdyn.results import Result
from repdyn.translation.coordinates import outlier_shrink, unit_rows
from repdyn.translation.linear.maps import LinearTranslation, fit_orthogonal, fit_ridge, present_words

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = ["TranslationEvaluation", "cycle_consistency", "evaluate_translation"]

Floats = NDArray[np.float64]

MOST_ITEMS = 10_000  # retrieval compares all items with all, in float64


@dataclass(frozen=True, eq=False)
class TranslationEvaluation(Result, kind="translation_evaluation"):
    """Retrieval and class agreement of a translation and of its controls, with 95 % intervals.

    Attributes
    ----------
    top1, top5
        By name: ``"translation"``, ``"random"`` (a random orthogonal map), ``"identity"`` where widths agree,
        ``"paired"`` (Procrustes) and ``"paired ridge"`` where pairs for the ceiling were given.
    class_agreement
        Share of items whose nearest translated neighbor (not the item itself) has their class, same names;
        ``"own space"`` is the same within B. Empty without labels.
    confusion
        Class of each item (row) against class of its nearest neighbor under the translation (column),
        ``(C, C)``, or None.
    classes
        Names of its rows, or None.
    verdict
        Of the translation, reached without these pairs.
    items
        Number of distinct held-out pairs: an input that is there several times is one.
    top10
        As ``top1``.
    mean_rank
        Mean rank of the true partner among all items, from 1.
    foscttm
        Fraction of samples closer than the true match, mean of both directions: 0 at best, .5 by chance.
    cosine
        Mean cosine of a translated item and its partner.

    References
    ----------
    Liu, J. et al. (2019). Jointly embedding multiple single-cell omics measurements. WABI (FOSCTTM).
    """

    top1: Mapping[str, Estimate]
    top5: Mapping[str, Estimate]
    class_agreement: Mapping[str, Estimate]
    confusion: NDArray[np.int64] | None
    classes: tuple[str, ...] | None
    verdict: str
    items: int
    top10: Mapping[str, Estimate] = field(default_factory=dict)
    mean_rank: Mapping[str, Estimate] = field(default_factory=dict)
    foscttm: Mapping[str, Estimate] = field(default_factory=dict)
    cosine: Mapping[str, Estimate] = field(default_factory=dict)

    def __repr__(self) -> str:
        lines = [f"TranslationEvaluation on {self.items} held-out pairs, verdict {self.verdict!r}"]
        for name, value in self.top1.items():
            classes = f"  classes {self.class_agreement[name]}" if name in self.class_agreement else ""
            lines.append(f"  {name:12s} top-1 {value}  top-5 {self.top5[name]}{classes}")
            if name in ("translation", "paired") and name in self.foscttm:
                lines.append(
                    f"  {'':12s} mean rank {self.mean_rank[name]}  FOSCTTM {self.foscttm[name]}  "
                    f"cosine {self.cosine[name]}"
                )
        if "own space" in self.class_agreement:
            lines.append(f"  {'own space':12s} classes {self.class_agreement['own space']}")
        return "\n".join(lines)

    def plot(self, stitching: Mapping[str, Estimate] | None = None) -> Figure:
        """Top-1 retrieval of the translation and its controls, and the confusion of classes.

        Parameters
        ----------
        stitching
            Accuracies of A's body, a map and B's head, by name, this translation's first; drawn below.
        """
        from repdyn.views.translation import translation  # loads plotly

        bars = {name: value.to_dict() for name, value in self.top1.items()}
        return translation(bars, self.confusion, self.classes, self.verdict, stitching)

    @classmethod
    def _upgrade(cls, artifact: Artifact, path: Path) -> Artifact:
        """Version 0.1 spelled a verdict otherwise."""
        return replace(artifact, config=present_words(artifact.config))

    def to_dict(self) -> dict[str, Any]:
        """``top1``, ``paired`` and ``random`` are top-1 retrievals; all else by name below."""
        figures = {name.replace(" ", "_"): value.to_dict() for name, value in self.top1.items()}
        return {
            "top1": figures.pop("translation"),
            **figures,
            **{
                figure: {name: value.to_dict() for name, value in getattr(self, figure).items()}
                for figure in ("top5", "top10", "mean_rank", "foscttm", "cosine")
            },
            "class_agreement": {name: value.to_dict() for name, value in self.class_agreement.items()},
            "verdict": self.verdict,
            "items": self.items,
        }


def evaluate_translation(
    t: LinearTranslation,
    x_a: PathsLike,
    x_b: PathsLike,
    labels: ArrayLike | None = None,
    ceiling: tuple[ArrayLike, ArrayLike] | None = None,
    seed: int = 0,
) -> TranslationEvaluation:
    r"""Retrieve each item among all by its translation; pairs are used for the evaluation only.

    .. math:: \text{top-}k = \frac1N \sum_i
              \big[\, \#\{j : \cos(\hat t(x_i), \hat y_j) > \cos(\hat t(x_i), \hat y_i)\} < k \,\big]

    where hats are centering over the items and division by length. Where few axes of B hold nearly all of the
    variance (outlier coordinates), they are first brought to the variance of the others.

    Parameters
    ----------
    t
        The translation.
    x_a, x_b
        The same held-out inputs read by A and by B, shapes ``(N, D_a)`` and ``(N, D_b)``; or paths, or
        the address of a store or of a file of vectors, of which the last points are taken.
    labels
        Classes, shape ``(N,)``; those of paths where not given.
    ceiling
        Other paired points ``(M, D_a)`` and ``(M, D_b)``, for fits with pairs. Pairs that are evaluation
        items are left out. The translation is not refitted.
    seed
        Of the random map and the intervals.

    Returns
    -------
    TranslationEvaluation

    Raises
    ------
    RepdynError
        On items that are not paired or not of the translation's widths, and on a ceiling that holds only
        evaluation items.
    """
    x_a, x_b = (open_paths(x) if isinstance(x, str | os.PathLike) else x for x in (x_a, x_b))
    if labels is None:
        labels = getattr(x_a, "labels", None)
    a, b = _points(x_a, "x_a"), _points(x_b, "x_b")
    _check(t, a, b)
    classes, numbers = _classes(labels, len(a))
    # Duplicate inputs are one item; retrieving the copy would not count as retrieval.
    _, distinct = np.unique(
        groups_of_equal_rows(np.concatenate([_typical(a), _typical(b)], 1)), return_index=True
    )
    if len(distinct) < 2:
        raise RepdynError("evaluate_translation: all items are the same; expected two distinct ones or more")
    a, b = a[distinct], b[distinct]
    numbers = None if numbers is None else numbers[distinct]
    same = groups_of_equal_rows(b)
    rival = same[:, None] != same[None, :]
    maps: dict[str, LinearTranslation | None] = {"translation": t, "random": _random(t, seed)}
    if a.shape[1] == b.shape[1]:
        maps["identity"] = None
    if ceiling is not None:
        fit_a, fit_b = _points(ceiling[0], "ceiling[0]"), _points(ceiling[1], "ceiling[1]")
        fit_a, fit_b = _disjoint(a, b, fit_a, fit_b)
        maps["paired"], maps["paired ridge"] = fit_orthogonal(fit_a, fit_b), fit_ridge(fit_a, fit_b)
    # With outlier coordinates all cosines would be one: see Cloud.
    shrink = outlier_shrink(_typical(b) - _typical(b).mean(0))
    frame = np.eye(b.shape[1]) if shrink is None else shrink
    target = unit_rows((b - b.mean(0)) @ frame)
    # One entry for each map, under the names of the fields.
    figures: dict[str, dict[str, Estimate]] = {
        figure: {} for figure in ("top1", "top5", "top10", "mean_rank", "foscttm", "cosine")
    }
    agreement, confusion = {}, None
    others = np.maximum(rival.sum(1), 1)
    for name, one in maps.items():
        moved = a if one is None else one(a)
        similarity = unit_rows((moved - moved.mean(0)) @ frame) @ target.T
        rank, back = _nearer(similarity, rival), _nearer(similarity.T, rival)
        for figure, most in (("top1", 1), ("top5", 5), ("top10", 10)):
            figures[figure][name] = bootstrap_mean(np.floor(rank) < most, seed=seed)
        figures["mean_rank"][name] = bootstrap_mean(1 + rank, seed=seed)
        figures["foscttm"][name] = bootstrap_mean((rank + back) / (2 * others), seed=seed)
        figures["cosine"][name] = bootstrap_mean(np.diag(similarity).copy(), seed=seed)
        if numbers is not None:
            np.fill_diagonal(similarity, -np.inf)
            nearest = numbers[similarity.argmax(1)]
            agreement[name] = bootstrap_mean(nearest == numbers, seed=seed)
            if name == "translation" and classes is not None:
                confusion = np.zeros((len(classes), len(classes)), dtype=np.int64)
                np.add.at(confusion, (numbers, nearest), 1)
    if numbers is not None:
        similarity = target @ target.T
        np.fill_diagonal(similarity, -np.inf)
        agreement["own space"] = bootstrap_mean(numbers[similarity.argmax(1)] == numbers, seed=seed)
    return TranslationEvaluation(
        class_agreement=agreement,
        confusion=confusion,
        classes=classes,
        verdict=t.verdict,
        items=len(a),
        **figures,
    )


def _nearer(similarity: Floats, rival: NDArray[np.bool_]) -> Floats:
    """Number of other items nearer to each row's item than its partner, ``(N,)``; ties count half.

    A constant map ties everywhere.
    """
    own = np.diag(similarity)[:, None]
    return np.asarray(((similarity > own) & rival).sum(1) + ((similarity == own) & rival).sum(1) / 2)


def _typical(x: Floats) -> Floats:
    """The points divided by their standard deviation, so that coordinates of two models are comparable."""
    spread = float(np.sqrt(((x - x.mean(0)) ** 2).mean()))
    return x / spread if spread > 0 else x


def _points(x: Any, name: str) -> Floats:
    """Finite points ``(N, D)`` in float64; of paths, the last point."""
    points = getattr(x, "points", None)
    raw = x[points[-1]] if isinstance(points, tuple) else x
    array = as_array(raw, np.float64)
    if array.ndim != 2 or not np.isfinite(array).all():
        raise RepdynError(
            f"evaluate_translation: {name} must be finite points (N, D), got shape {array.shape}"
        )
    return array


def _check(t: LinearTranslation, a: Floats, b: Floats) -> None:
    """Raise unless items are paired and of the translation's widths."""
    if len(a) != len(b) or not 2 <= len(a) <= MOST_ITEMS:
        raise RepdynError(
            f"evaluate_translation: x_a and x_b must be the same 2 to {MOST_ITEMS} inputs, "
            f"got {len(a)} and {len(b)}"
        )
    if (a.shape[1], b.shape[1]) != t.matrix.shape:
        raise RepdynError(
            f"evaluate_translation: the translation goes from {t.matrix.shape[0]} to {t.matrix.shape[1]}, "
            f"the points have {a.shape[1]} and {b.shape[1]}"
        )


def _disjoint(a: Floats, b: Floats, fit_a: Floats, fit_b: Floats) -> tuple[Floats, Floats]:
    """Pairs of the ceiling that are not evaluation items; corpora hold duplicate sentences."""
    if len(fit_a) != len(fit_b) or fit_a.shape[1] != a.shape[1] or fit_b.shape[1] != b.shape[1]:
        raise RepdynError(
            f"evaluate_translation: ceiling must be pairs of the items' widths, "
            f"got {fit_a.shape} and {fit_b.shape}"
        )
    held = {(x.tobytes(), y.tobytes()) for x, y in zip(a, b)}
    kept = np.array([(x.tobytes(), y.tobytes()) not in held for x, y in zip(fit_a, fit_b)], dtype=bool)
    if kept.sum() < 2:
        raise RepdynError(
            "evaluate_translation: the pairs of the ceiling are the evaluation items; give disjoint ones"
        )
    return fit_a[kept], fit_b[kept]


def _random(t: LinearTranslation, seed: int) -> LinearTranslation:
    """A random orthogonal map with the offsets of a translation."""
    a, b = t.matrix.shape
    noise = np.random.default_rng(seed).normal(size=(a, b))
    return LinearTranslation(polar(noise), t.offset_a, t.offset_b)


def _classes(labels: ArrayLike | None, count: int) -> tuple[tuple[str, ...] | None, NDArray[np.int64] | None]:
    """Names of the classes and the class number of each item ``(count,)``, or None without labels."""
    if labels is None:
        return None, None
    given = as_array(labels)
    if given.shape != (count,):
        raise RepdynError(f"evaluate_translation: labels must have shape ({count},), got {given.shape}")
    names, numbers = np.unique(given, return_inverse=True)
    return tuple(map(str, names)), numbers.astype(np.int64)


def cycle_consistency(cycle: Sequence[LinearTranslation], x: ArrayLike, seed: int = 0) -> Estimate:
    r"""Share of points whose round trip over several models is nearest to the point itself.

    .. math:: \frac1N \sum_i \big[\, i = \arg\max_j \cos\big(t_n \cdots t_1(x_i) - \bar x,\; x_j - \bar x\big)
              \,\big]

    No pairs are needed: correct translations A → B, B → C, C → A agree. Wrong ones that were found
    independently do not. Errors can cancel where maps come from one search: ``[t, t.inverse]`` is consistent
    for any t and is not evidence.

    Parameters
    ----------
    cycle
        In order; each ends where the next begins, the last where the first began.
    x
        Points of the first model ``(N, D)``, N at most 10 000; equal ones count once.
    seed
        Of the interval.

    Returns
    -------
    Estimate
        With its 95 % interval; chance is 1/N.

    Raises
    ------
    RepdynError
        If the translations do not form a cycle, or the points do not fit.

    References
    ----------
    Zhu, J. et al. (2017). Unpaired image-to-image translation using cycle-consistent adversarial networks.
    ICCV.

    Examples
    --------
    >>> turn = LinearTranslation(np.array([[0.0, 1.0], [-1.0, 0.0]]), np.zeros(2), np.zeros(2))
    >>> cycle_consistency([turn] * 4, np.random.default_rng(0).normal(size=(50, 2))).value
    1.0
    """
    if not cycle:
        raise RepdynError(
            "cycle_consistency: the cycle is empty; give translations A to B, B to C, …, back to A"
        )
    widths = [t.matrix.shape for t in cycle]
    if any(one[1] != other[0] for one, other in zip(widths, [*widths[1:], widths[0]])):
        raise RepdynError(f"cycle_consistency: these translations form no cycle, their widths are {widths}")
    points = as_array(x, np.float64)
    if points.ndim != 2 or points.shape[1] != widths[0][0] or not 2 <= len(points) <= MOST_ITEMS:
        raise RepdynError(
            f"cycle_consistency: x needs 2 to {MOST_ITEMS} points of width {widths[0][0]}, got {points.shape}"
        )
    if not np.isfinite(points).all():
        raise RepdynError("cycle_consistency: x must be finite")
    points = points[np.unique(groups_of_equal_rows(points), return_index=True)[1]]
    moved = points
    for t in cycle:
        moved = t(moved)
    center = points.mean(0)
    similarity = unit_rows(moved - moved.mean(0)) @ unit_rows(points - center).T
    return bootstrap_mean(similarity.argmax(1) == np.arange(len(points)), seed=seed)
