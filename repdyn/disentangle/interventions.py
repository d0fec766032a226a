"""Interventions on latents, and scores of what they change.

:func:`explore` and :func:`brute_force` assign single static factors to factors of the data. The tables
(:func:`static_dynamic_table`, :func:`multifactor_table`) apply interventions and ask a judge, a classifier,
which factors it still recognizes; :func:`published_score` and :func:`strict_score` summarize a table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm

from repdyn.deprecation import warn_without_effect
from repdyn.disentangle.factors import Factors
from repdyn.disentangle.settings import EVALUATION
from repdyn.disentangle.swaps import resample
from repdyn.errors import RepdynError
from repdyn.intervals import Estimate, bootstrap_mean, variance_interval
from repdyn.progress import track
from repdyn.reading import as_array
from repdyn.repeats import groups_of_equal_rows, sums_by_group
from repdyn.results import Result

__all__ = [
    "Consistency",
    "Exploration",
    "Judged",
    "SwapTable",
    "brute_force",
    "explore",
    "frame_consistency",
    "multifactor_table",
    "published_score",
    "static_dynamic_table",
    "strict_score",
]

Array = NDArray[np.float64]
_Score = Callable[[Array, NDArray[np.bool_], Array], tuple[float, Array]]
Judged = Callable[[NDArray[np.float32]], Mapping[str, NDArray[Any]]]
"""Maps latents ``(N, T, k)`` to the classes that a judge predicts for the decoded sequences, ``{factor:
(N,)}``."""


@dataclass(frozen=True, eq=False, repr=False)
class Exploration(Result, kind="exploration"):
    """Single static factors, grouped by the factor of the data that each carries.

    Attributes
    ----------
    groups
        ``{factor of the data: numbers of single static factors}``.
    rest
        Numbers of single static factors that carry none.
    accuracy
        Accuracy of each factor of the data (columns, in the order of ``groups``) when all single factors are
        replaced except those of one set (rows). The first set is empty.
    tried
        The sets.
    """

    groups: Mapping[str, tuple[int, ...]]
    rest: tuple[int, ...]
    accuracy: NDArray[np.float64]
    tried: tuple[tuple[int, ...], ...]

    @property
    def evaluations(self) -> int:
        """Number of times that the data were decoded and judged."""
        return len(self.tried)

    def to_dict(self) -> dict[str, Any]:
        """Groups and rest, as lists."""
        return {"groups": {name: list(group) for name, group in self.groups.items()}, "rest": list(self.rest)}

    def __repr__(self) -> str:
        lines = [f"  {name}: {list(group)}" for name, group in self.groups.items()]
        return "\n".join(
            [
                f"Exploration of {self.evaluations} sets of static factors",
                *lines,
                f"  no factor: {list(self.rest)}",
            ]
        )


def explore(
    parts: Factors,
    judge: Judged,
    labels: Mapping[str, ArrayLike],
    *,
    seed: int = 0,
    passes: int = 1,
) -> Exploration:
    """Assign each single static factor to the factor of the data whose accuracy it raises most.

    All parts are replaced by mixes of other sequences, except one single static factor at a time. Accuracies
    are compared with a baseline in which all are replaced. With s factors this takes s + 1 evaluations, not
    2^s.

    Parameters
    ----------
    parts
        Parts of sequences of one length, from a validation split.
    judge
        Predicts factors of the data from latents.
    labels
        True labels of the static factors of the data, ``{factor: (N,)}``.
    seed
        Of the mixes, which are the same in every evaluation.
    passes
        Number of draws of the mixes.

    Returns
    -------
    Exploration

    References
    ----------
    Hason (2024), section on latent exploration.
    """
    tried = [(), *((number,) for number in range(parts.count))]
    table = _accuracies(parts, judge, labels, tried, seed, passes)
    gains = table[1:] - table[0]
    names = list(labels)
    winner = np.where(gains.max(axis=1) > 0, gains.argmax(axis=1), -1)
    groups = {
        name: tuple(int(n) for n in np.flatnonzero(winner == column)) for column, name in enumerate(names)
    }
    return Exploration(groups, tuple(int(n) for n in np.flatnonzero(winner == -1)), table, tuple(tried))


def brute_force(
    parts: Factors,
    judge: Judged,
    labels: Mapping[str, ArrayLike],
    *,
    seed: int = 0,
    passes: int = 1,
) -> Exploration:
    """The best of all 2^s sets of single static factors for each factor of the data.

    The best set keeps the accuracy of its factor near one and those of all other static factors near chance
    (least sum of absolute distances; among equal ones, the smallest set). Sets of different factors can
    overlap.

    Parameters
    ----------
    parts, judge, labels, seed, passes
        As in :func:`explore`.

    Raises
    ------
    RepdynError
        With more than twelve single factors.
    """
    if parts.count > EVALUATION.max_factors:
        raise RepdynError(
            f"brute_force: expected at most {EVALUATION.max_factors} static factors, got {parts.count} "
            f"(2^{parts.count} sets); use explore"
        )
    tried = [subset for size in range(parts.count + 1) for subset in combinations(range(parts.count), size)]
    table = _accuracies(parts, judge, labels, tried, seed, passes)
    chance = np.array([1 / len(np.unique(as_array(label))) for label in labels.values()])
    groups = {}
    for column, name in enumerate(labels):
        target = chance.copy()
        target[column] = 1
        groups[name] = tried[int(np.abs(table - target).sum(axis=1).argmin())]
    used = set().union(*groups.values())
    return Exploration(groups, tuple(n for n in range(parts.count) if n not in used), table, tuple(tried))


@dataclass(frozen=True, eq=False, repr=False)
class SwapTable(Result, kind="swap_table"):
    """Factors that a judge still recognizes after each intervention.

    Attributes
    ----------
    interventions
        Names of the rows.
    factors
        Names of the columns: factors of the data.
    correct
        Shape ``(N, rows, columns)``: share of passes in which the judge predicts the original label.
    kept
        Shape ``(rows, columns)``: factors that the intervention should not change. The accuracy of the others
        should be at chance.
    classes
        Number of classes of each factor.
    """

    interventions: tuple[str, ...]
    factors: tuple[str, ...]
    correct: NDArray[np.float64]
    kept: NDArray[np.bool_]
    classes: tuple[int, ...]

    @property
    def accuracy(self) -> NDArray[np.float64]:
        """Shape ``(rows, columns)``."""
        mean: NDArray[np.float64] = self.correct.mean(axis=0)
        return mean

    def score(self, seed: int | None = None) -> Estimate:
        """:func:`published_score`, with its interval over sequences.

        Parameters
        ----------
        seed
            Deprecated: the interval is computed without draws, so that the seed has no effect.
        """
        warn_without_effect("SwapTable.score", seed=seed)
        return self._estimate(_published)

    def strict(self, seed: int | None = None) -> Estimate:
        """:func:`strict_score`, with its interval over sequences.

        Parameters
        ----------
        seed
            Deprecated: the interval is computed without draws, so that the seed has no effect.
        """
        warn_without_effect("SwapTable.strict", seed=seed)
        return self._estimate(_strict)

    def to_dict(self) -> dict[str, Any]:
        """Accuracies and both scores."""
        return {
            "interventions": list(self.interventions),
            "factors": list(self.factors),
            "accuracy": self.accuracy.round(4).tolist(),
            "kept": self.kept.tolist(),
            "classes": list(self.classes),
            "score": self.score().to_dict(),
            "strict": self.strict().to_dict(),
        }

    def __repr__(self) -> str:
        width = max(len(name) for name in self.interventions)
        lines = [" " * (width + 2) + "".join(f"{name[:11]:>12}" for name in self.factors)]
        for name, row, kept in zip(self.interventions, self.accuracy, self.kept):
            cells = "".join(f"{value:>11.3f}{'*' if keep else ' '}" for value, keep in zip(row, kept))
            lines.append(f"  {name:<{width}}{cells}")
        chance = "".join(f"{1 / count:>11.3f} " for count in self.classes)
        lines.append(f"  {'chance':<{width}}{chance}")
        return "\n".join(
            [
                f"SwapTable of {len(self.correct)} sequences (* should be kept, others should be at chance)",
                *lines,
                f"  score {self.score()}, strict {self.strict()}",
            ]
        )

    def _estimate(self, score: _Score) -> Estimate:
        """A score of the table, with the interval of a share of as many sequences as give its variance.

        The error of the accuracy makes a measured distance from chance larger than the true one, most of all
        if the true one is 0: without a correction the interval lies below a true score of 1. For the upper
        end, replaced factors whose accuracy does not differ from chance (two-sided 2 %, Bonferroni over them)
        are set to chance.
        """
        chance = np.broadcast_to(1 / np.array(self.classes), self.kept.shape)
        measured = self._interval(score, chance, np.zeros_like(self.kept))
        error = self.correct.var(axis=0) / max(len(self.correct) - 1, 1)
        # Two-sided, at 2 % over all entries that should be at chance (Bonferroni).
        critical = norm.isf(0.01 / max(int((~self.kept).sum()), 1))
        at_chance = ~self.kept & ((self.accuracy - chance) ** 2 <= critical**2 * error)
        if not at_chance.any():
            return measured
        upper = self._interval(score, chance, at_chance).high
        return Estimate(measured.value, measured.low, max(measured.high, upper), measured.level)

    def _interval(self, score: _Score, chance: Array, at_chance: NDArray[np.bool_]) -> Estimate:
        """Interval of a score with some entries at chance, from the slope of the score in each of the others.

        The variance of an entry of which few answers differ is drawn to that of half a miss more. The sum of
        those variances is then scaled by what the entries' correlation makes of the measured ones.
        """
        count, accuracy = len(self.correct), self.accuracy
        value, slopes = score(np.where(at_chance, chance, accuracy), self.kept, chance)
        slopes = np.where(at_chance, 0.0, slopes)
        rest = max(count - 1, 1)
        own = self.correct.var(axis=0) / rest
        together = float((self.correct * slopes).sum(axis=(1, 2)).var()) / rest
        apart = float((slopes**2 * own).sum())
        correlated = float(np.clip(together / apart, 0.5, np.count_nonzero(slopes))) if apart > 0 else 1.0
        discordant = 2 * count * np.minimum(accuracy, 1 - accuracy)
        missed = (accuracy * count + 0.5) / (count + 1)
        own = (own * discordant + missed * (1 - missed) / rest) / (discordant + 1)
        variance = correlated * float((slopes**2 * own).sum())
        found = variance_interval(value, variance, float(discordant[slopes != 0].sum()), count, 0.95)
        if value > 0:
            return found
        # A strict score of 0 has no slope: its upper end is that of lost factors a little better recognized.
        target = np.where(self.kept, 1.0, chance)
        reach = np.minimum(norm.isf(0.025) * np.sqrt(own), np.abs(target - accuracy))
        better = np.where(at_chance, chance, accuracy + np.sign(target - accuracy) * reach)
        return Estimate(value, found.low, max(found.high, score(better, self.kept, chance)[0]), found.level)


def published_score(accuracy: ArrayLike, kept: ArrayLike, classes: ArrayLike) -> float:
    r"""``D_sd`` or ``D_mf``: one minus the mean distance of the accuracies from their targets.

    .. math:: D = 1 - \mathrm{mean}_{r, f} |t_{rf} - a_{rf}|, \qquad
              t_{rf} = 1 \text{ if factor } f \text{ is kept, else } 1 / C_f

    over all entries of the table. It is D_sd on a table of static and dynamic swaps, and D_mf on a table with
    one row for each factor that is kept alone.

    Parameters
    ----------
    accuracy
        Shape ``(rows, factors)``.
    kept
        Shape ``(rows, factors)``, boolean.
    classes
        Shape ``(factors,)``.

    Returns
    -------
    float
        1 if each intervention reaches its target. A table of D_mf has more replaced entries than kept
        ones, so that one kept factor at chance lowers the score little: read :func:`strict_score` too.

    Examples
    --------
    >>> published_score([[1.0, 0.25]], [[True, False]], [3, 4])
    1.0
    >>> published_score([[1.0, 1.0]], [[True, False]], [3, 4])
    0.625

    References
    ----------
    Hason, A. (2024). Thesis, swap tables of Moving dSprites: D_sd .8699 and D_mf .9348 by this form.
    Barami, T. et al. (2025). Disentanglement beyond static vs. dynamic. arXiv 2510.17313, gives kept and
    replaced entries equal weight; both forms agree where a table has as many of one kind as of the other, as
    that of D_sd has.
    """
    accuracies, stay, chance = _table(accuracy, kept, classes)
    return _published(accuracies, stay, chance)[0]


def strict_score(accuracy: ArrayLike, kept: ArrayLike, classes: ArrayLike) -> float:
    r"""Geometric mean of the entries, each on a scale that is 0 in the worst case.

    A kept factor scores :math:`(a - 1/C) / (1 - 1/C)`, which is 0 at chance and 1 if all labels are kept. A
    replaced one scores :math:`1 - |a - 1/C| / (1 - 1/C)`, which is 1 at chance and 0 if nothing was replaced.
    Both are clipped to [0, 1]. One lost factor makes the score 0.

    Parameters
    ----------
    accuracy, kept, classes
        As in :func:`published_score`.

    Examples
    --------
    >>> strict_score([[0.25, 1.0]], [[True, True]], [4, 4])
    0.0
    >>> strict_score([[1.0, 0.25]], [[True, False]], [4, 4])
    1.0
    """
    accuracies, stay, chance = _table(accuracy, kept, classes)
    return _strict(accuracies, stay, chance)[0]


def static_dynamic_table(
    parts: Factors,
    judge: Judged,
    static: Mapping[str, ArrayLike],
    dynamic: Mapping[str, ArrayLike],
    *,
    passes: int = 25,
    seed: int = 0,
) -> SwapTable:
    """Table of D_sd: the dynamic part, then the static part, is replaced by mixes of other sequences.

    Parameters
    ----------
    parts
        Parts of test sequences of one length. Equal sequences count once.
    judge
        Predicts factors of the data from latents.
    static, dynamic
        True labels, ``{factor: (N,)}``.
    passes
        Number of draws of the mixes; 25 as published.
    seed
        Of the mixes.
    """
    rows: dict[str, tuple[Any, Sequence[str]]] = {
        "dynamic replaced": ({"replaced": "dynamic"}, list(static)),
        "static replaced": ({"replaced": "static"}, list(dynamic)),
    }
    return _swap_table(parts, judge, {**static, **dynamic}, rows, passes, seed)


def multifactor_table(
    parts: Factors,
    judge: Judged,
    static: Mapping[str, ArrayLike],
    dynamic: Mapping[str, ArrayLike],
    groups: Mapping[str, Sequence[int]],
    *,
    passes: int = 25,
    seed: int = 0,
) -> SwapTable:
    """Table of D_mf: one factor at a time is kept, everything else is replaced.

    Parameters
    ----------
    parts, judge, static, dynamic, passes, seed
        As in :func:`static_dynamic_table`.
    groups
        Single static factors that carry each static factor of the data, determined on other sequences
        (:func:`explore`).
    """
    missing = set(static) - set(groups)
    if missing:
        raise RepdynError(f"groups: expected one for {sorted(missing)}, got those of {sorted(groups)}")
    rows: dict[str, tuple[Any, Sequence[str]]] = {
        f"{name} kept": ({"replaced": None, "kept": tuple(groups[name])}, [name]) for name in static
    }
    rows["dynamic kept"] = ({"replaced": "static"}, list(dynamic))
    return _swap_table(parts, judge, {**static, **dynamic}, rows, passes, seed)


@dataclass(frozen=True, eq=False, repr=False)
class Consistency(Result, kind="consistency"):
    """Agreement of single frames on a factor that should not change within a clip.

    Attributes
    ----------
    agreement
        Share of frames with the most frequent class of their clip.
    unanimous
        Share of clips in which all frames have the same class.
    """

    agreement: Estimate
    unanimous: Estimate


def frame_consistency(called: ArrayLike, seed: int = 0) -> Consistency:
    """Whether a static factor stays the same from frame to frame.

    Parameters
    ----------
    called
        Class that a judge predicts for each frame, shape ``(N, T)``.
    seed
        Of the intervals, over clips.

    Examples
    --------
    >>> frame_consistency([[1, 1, 1, 2], [0, 0, 0, 0]]).agreement.value
    0.875
    """
    answers = as_array(called)
    if answers.ndim != 2 or 0 in answers.shape:
        raise RepdynError(f"called: expected shape (clips, frames), got {answers.shape}")
    if answers.dtype.kind not in "iubUS" and not (answers == answers).all():
        raise RepdynError("called: the class of a frame is NaN; leave that clip out")
    most = (answers[:, :, None] == answers[:, None, :]).sum(axis=2).max(axis=1)
    share = most / answers.shape[1]
    return Consistency(bootstrap_mean(share, seed=seed), bootstrap_mean(share == 1, seed=seed))


def _swap_table(
    parts: Factors,
    judge: Judged,
    labels: Mapping[str, ArrayLike],
    rows: Mapping[str, tuple[Any, Sequence[str]]],
    passes: int,
    seed: int,
) -> SwapTable:
    """The table of interventions ``rows``: name, arguments of :func:`resample`, names of kept factors."""
    truth = {name: as_array(label) for name, label in labels.items()}
    for name, label in truth.items():
        if len(label) != len(parts):
            raise RepdynError(
                f"labels {name!r}: expected {len(parts)}, one for each sequence, got {len(label)}"
            )
    correct = np.zeros((len(parts), len(rows), len(truth)))
    kept = np.zeros((len(rows), len(truth)), dtype=bool)
    for row, (intervention, staying) in enumerate(rows.values()):
        kept[row] = [name in staying for name in truth]
        for offset in range(passes):
            # The same mixes for every row of the table, so that rows differ by the intervention alone.
            predicted = judge(resample(parts, seed=seed + offset, **intervention))
            for column, (name, label) in enumerate(truth.items()):
                correct[:, row, column] += (as_array(predicted[name]) == label) / passes
    equal = groups_of_equal_rows(parts.latents)
    flat = correct.reshape(len(correct), -1)
    once = np.stack([sums_by_group(equal, column) for column in flat.T], axis=1) / np.bincount(equal)[:, None]
    correct = once.reshape(len(once), *correct.shape[1:])
    classes = tuple(len(np.unique(label)) for label in truth.values())
    return SwapTable(tuple(rows), tuple(truth), correct, kept, classes)


def _published(accuracy: Array, kept: NDArray[np.bool_], chance: Array) -> tuple[float, Array]:
    """:func:`published_score` and its slope in each entry."""
    below = np.where(kept, 1.0, chance) - accuracy
    return float(1 - np.abs(below).mean()), np.sign(below) / below.size


def _strict(accuracy: Array, kept: NDArray[np.bool_], chance: Array) -> tuple[float, Array]:
    """:func:`strict_score` and its slope in each entry; none where it is 0."""
    above = (accuracy - chance) / (1 - chance)
    entries = np.where(kept, above, 1 - np.abs(above)).clip(0, 1)
    if entries.min() == 0:
        return 0.0, np.zeros_like(entries)
    value = float(np.exp(np.log(entries).mean()))
    return value, value * np.where(kept, 1.0, -np.sign(above)) / (entries.size * entries * (1 - chance))


def _table(
    accuracy: ArrayLike, kept: ArrayLike, classes: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]]:
    """Checked accuracies and kept factors ``(rows, factors)``, and accuracies by chance ``(factors,)``."""
    values, stay = as_array(accuracy, np.float64), as_array(kept, bool)
    count = as_array(classes)
    if values.shape != stay.shape or values.ndim != 2 or count.shape != values.shape[1:]:
        raise RepdynError(
            f"accuracy {values.shape}, kept {stay.shape} and classes {count.shape} do not match; "
            "expected shapes (rows, factors), (rows, factors) and (factors,)"
        )
    if count.min() < 2 or values.min() < 0 or values.max() > 1:
        raise RepdynError(
            "accuracy, classes: expected accuracies in [0, 1] and at least two classes for each factor"
        )
    return values, stay, 1 / count


def _accuracies(
    parts: Factors,
    judge: Judged,
    labels: Mapping[str, ArrayLike],
    tried: Sequence[tuple[int, ...]],
    seed: int,
    passes: int,
) -> NDArray[np.float64]:
    """Accuracy ``(sets, factors)`` when all parts are replaced except each of the sets ``tried``."""
    if not labels:
        raise RepdynError("labels: expected those of the static factors of the data, got none")
    for name, label in labels.items():
        if len(as_array(label)) != len(parts):
            raise RepdynError(
                f"labels {name!r}: expected {len(parts)}, one for each sequence, got {len(as_array(label))}"
            )
    table = np.zeros((len(tried), len(labels)))
    for row, kept in enumerate(track(tried, "exploring static factors")):
        for offset in range(passes):
            predicted = judge(resample(parts, None, kept=kept, seed=seed + offset))
            table[row] += [
                float((as_array(predicted[name]) == as_array(label)).mean()) / passes
                for name, label in labels.items()
            ]
    return table
