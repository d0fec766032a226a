"""How well interventions change what they should, and nothing else: published scores and strict ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repdyn.disentangle.exploration import Judged
from repdyn.disentangle.factors import Factors
from repdyn.disentangle.swaps import resample
from repdyn.errors import RepdynError
from repdyn.intervals import Estimate, bootstrap_mean, bounded_interval
from repdyn.reading import as_array

__all__ = [
    "Consistency",
    "SwapTable",
    "frame_consistency",
    "multifactor_table",
    "published_score",
    "static_dynamic_table",
    "strict_score",
]

_RESAMPLES = 500


@dataclass(frozen=True, eq=False, repr=False)
class SwapTable:
    """What a judge still recognizes after each intervention.

    Attributes
    ----------
    interventions
        Names of the rows.
    factors
        Names of the columns: factors of the data.
    correct
        Shape ``(N, rows, columns)``: how often (over passes) the judge's answer is the original label.
    kept
        Shape ``(rows, columns)``: which factors the intervention should leave as they are. The others should
        be as likely right as by chance.
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
        found: NDArray[np.float64] = self.correct.mean(axis=0)
        return found

    def score(self, seed: int = 0) -> Estimate:
        """:func:`published_score`, with its interval over sequences.

        A distance from chance that is measured is larger than the true one by the error of the accuracy, most
        where the true one is 0. The upper end is that of the score without this.
        """
        found = self._estimate(published_score, seed)
        noise = self.correct.var(axis=0) / max(len(self.correct) - 1, 1)
        chance = np.broadcast_to(1 / np.array(self.classes), self.kept.shape)
        away = self.accuracy - chance
        nearer = chance + np.sign(away) * np.sqrt(np.maximum(away**2 - noise, 0.0))
        moved = np.where(self.kept, self.accuracy, nearer) - self.accuracy

        def corrected(accuracy: Any, kept: Any, classes: Any) -> float:
            return published_score(np.clip(accuracy + moved, 0, 1), kept, classes)

        apart = self._estimate(corrected, seed)
        return Estimate(found.value, found.low, max(found.high, apart.high), found.level)

    def strict(self, seed: int = 0) -> Estimate:
        """:func:`strict_score`, with its interval over sequences."""
        return self._estimate(strict_score, seed)

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
                f"SwapTable of {len(self.correct)} sequences (* should stay, others should be at chance)",
                *lines,
                f"  score {self.score()}, strict {self.strict()}",
            ]
        )

    def _estimate(self, statistic: Any, seed: int) -> Estimate:
        classes, count = np.array(self.classes), len(self.correct)
        generator = np.random.default_rng(seed)
        samples = [np.arange(count), *(generator.integers(count, size=count) for _ in range(_RESAMPLES))]
        found = [statistic(self.correct[rows].mean(axis=0), self.kept, classes) for rows in samples]
        return bounded_interval(found[0], np.array(found[1:]), count)


def published_score(accuracy: ArrayLike, kept: ArrayLike, classes: ArrayLike) -> float:
    r"""``D_sd`` or ``D_mf``: one minus the mean distance from where the accuracies should be.

    :math:`D = 1 - \frac12 \left( \mathrm{mean}_{kept} |1 - a| + \mathrm{mean}_{replaced} |1/C - a| \right)`.
    On the table of static and dynamic swaps it is D_sd, where both means have as many terms; on one row for
    each factor it is D_mf.

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
        1 where each intervention does what it should. A factor at chance where it should be kept takes off
        less than half of its share.

    Examples
    --------
    >>> published_score([[1.0, 0.25]], [[True, False]], [3, 4])
    1.0
    >>> published_score([[1.0, 1.0]], [[True, False]], [3, 4])
    0.625

    References
    ----------
    Barami, T. et al. (2025). Disentanglement beyond static vs. dynamic. NeurIPS datasets and benchmarks,
    arXiv 2510.17313: the intervention score.
    """
    found, stay, chance = _table(accuracy, kept, classes)
    on, off = np.abs(1 - found)[stay], np.abs(chance - found)[~stay]
    parts = [errors.mean() for errors in (on, off) if len(errors)]
    return float(1 - np.mean(parts))


def strict_score(accuracy: ArrayLike, kept: ArrayLike, classes: ArrayLike) -> float:
    r"""The geometric mean of what each entry reaches, on a scale that is 0 at its worst.

    A kept factor scores :math:`(a - 1/C) / (1 - 1/C)`, which is 0 at chance and 1 when all is kept; a
    replaced one :math:`1 - |a - 1/C| / (1 - 1/C)`, which is 1 at chance and 0 where nothing was
    replaced; both are clipped to [0, 1]. One factor lost makes the whole 0.

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
    found, stay, chance = _table(accuracy, kept, classes)
    above = (found - chance) / (1 - chance)
    entries = np.where(stay, above, 1 - np.abs(above)).clip(0, 1)
    if entries.min() == 0:
        return 0.0
    return float(np.exp(np.log(entries).mean()))


def static_dynamic_table(
    parts: Factors,
    judge: Judged,
    static: Mapping[str, ArrayLike],
    dynamic: Mapping[str, ArrayLike],
    *,
    passes: int = 25,
    seed: int = 0,
) -> SwapTable:
    """Replace the dynamic part, then the static part, by mixes of other sequences: the table of D_sd.

    Parameters
    ----------
    parts
        Of test sequences of one length.
    judge
        Decodes and judges latents.
    static, dynamic
        True labels, ``{factor: (N,)}``.
    passes
        Draws of the mixes to average over; 25 as published.
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
    """Keep one factor at a time and replace all else: the table of D_mf.

    Parameters
    ----------
    parts, judge, static, dynamic, passes, seed
        As in :func:`static_dynamic_table`.
    groups
        Which single static factors carry each static factor of the data, found on other sequences
        (:func:`~repdyn.disentangle.exploration.explore`).
    """
    missing = set(static) - set(groups)
    if missing:
        raise RepdynError(f"there is no group for {sorted(missing)}; groups are those of {sorted(groups)}")
    rows: dict[str, tuple[Any, Sequence[str]]] = {
        f"{name} kept": ({"replaced": None, "kept": tuple(groups[name])}, [name]) for name in static
    }
    rows["dynamic kept"] = ({"replaced": "static"}, list(dynamic))
    return _swap_table(parts, judge, {**static, **dynamic}, rows, passes, seed)


@dataclass(frozen=True)
class Consistency:
    """How far single frames agree on a factor that should not change within a clip.

    Attributes
    ----------
    agreement
        Share of frames that say what most frames of their clip say.
    unanimous
        Share of clips in which all frames say the same.
    """

    agreement: Estimate
    unanimous: Estimate

    def to_dict(self) -> dict[str, Any]:
        """Both, with their intervals."""
        return {"agreement": self.agreement.to_dict(), "unanimous": self.unanimous.to_dict()}


def frame_consistency(called: ArrayLike, seed: int = 0) -> Consistency:
    """Whether a static factor stays the same from frame to frame.

    Parameters
    ----------
    called
        What a judge of single frames calls each, shape ``(N, T)``.
    seed
        Of the intervals, over clips.

    Examples
    --------
    >>> frame_consistency([[1, 1, 1, 2], [0, 0, 0, 0]]).agreement.value
    0.875
    """
    answers = as_array(called)
    if answers.ndim != 2 or 0 in answers.shape:
        raise RepdynError(f"called must have shape (clips, frames), got {answers.shape}")
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
    wanted = {name: as_array(label) for name, label in labels.items()}
    for name, label in wanted.items():
        if len(label) != len(parts):
            raise RepdynError(f"labels {name!r} are {len(label)}, but there are {len(parts)} sequences")
    correct = np.zeros((len(parts), len(rows), len(wanted)))
    kept = np.zeros((len(rows), len(wanted)), dtype=bool)
    for row, (how, staying) in enumerate(rows.values()):
        kept[row] = [name in staying for name in wanted]
        for offset in range(passes):
            called = judge(resample(parts, seed=seed + offset, **how))
            for column, (name, label) in enumerate(wanted.items()):
                correct[:, row, column] += (as_array(called[name]) == label) / passes
    classes = tuple(len(np.unique(label)) for label in wanted.values())
    return SwapTable(tuple(rows), tuple(wanted), correct, kept, classes)


def _table(
    accuracy: ArrayLike, kept: ArrayLike, classes: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]]:
    found, stay = as_array(accuracy, np.float64), as_array(kept, bool)
    count = as_array(classes)
    if found.shape != stay.shape or found.ndim != 2 or count.shape != found.shape[1:]:
        raise RepdynError(
            f"accuracy {found.shape}, kept {stay.shape} and classes {count.shape} do not belong together; "
            "expected (rows, factors) twice and (factors,)"
        )
    if count.min() < 2 or found.min() < 0 or found.max() > 1:
        raise RepdynError("accuracies must be within 0 and 1, and each factor have at least two classes")
    return found, stay, 1 / count
