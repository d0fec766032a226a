"""Which single static factors carry which factor of the data: greedy, and by brute force."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repdyn.disentangle.factors import Factors
from repdyn.disentangle.swaps import resample
from repdyn.errors import RepdynError
from repdyn.progress import track
from repdyn.reading import as_array

__all__ = ["Exploration", "Judged", "brute_force", "explore"]

Judged = Callable[[NDArray[np.float32]], Mapping[str, NDArray[Any]]]
"""Latents ``(N, T, k)`` to what a judge calls each of their decoded sequences, ``{factor: (N,)}``."""

_MOST_FACTORS = 12  # 2^12 decodings of the data are where brute force ends


@dataclass(frozen=True, eq=False, repr=False)
class Exploration:
    """Single static factors, by the factor of the data that each carries.

    Attributes
    ----------
    groups
        ``{factor of the data: numbers of single static factors}``.
    rest
        Numbers that carry none.
    accuracy
        Accuracy of each factor of the data (columns, in the order of ``groups``) where everything is replaced
        but one set of single factors: none in the first row, then one row for each set that was tried.
    tried
        Those sets.
    """

    groups: Mapping[str, tuple[int, ...]]
    rest: tuple[int, ...]
    accuracy: NDArray[np.float64]
    tried: tuple[tuple[int, ...], ...]

    @property
    def evaluations(self) -> int:
        """How many times the data were decoded and judged."""
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
                f"  none: {list(self.rest)}",
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
    """Give each single static factor to the factor of the data that it alone restores most.

    Everything is replaced by mixes of other sequences; then one single static factor at a time is kept, and
    goes to the factor of the data whose accuracy it raises most above the baseline. With s factors, s + 1
    evaluations instead of 2^s.

    Parameters
    ----------
    parts
        Of sequences of one length, from a validation split.
    judge
        Decodes and judges latents.
    labels
        True labels of the static factors of the data, ``{factor: (N,)}``.
    seed
        Of the mixes; the same mixes in every evaluation.
    passes
        How many draws of the mixes to average over.

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
    """The best set of single static factors for each factor of the data, of all 2^s: the greedy's oracle.

    The best keeps its own factor's accuracy near one and every other static factor's near chance (least sum
    of absolute distances; of equals the smallest). Sets of different factors may overlap.

    Parameters
    ----------
    parts, judge, labels, seed, passes
        As in :func:`explore`.

    Raises
    ------
    RepdynError
        With more than twelve single factors.
    """
    if parts.count > _MOST_FACTORS:
        raise RepdynError(
            f"brute force tries 2^{parts.count} sets; it stops at {_MOST_FACTORS} factors: use explore"
        )
    tried = [subset for size in range(parts.count + 1) for subset in combinations(range(parts.count), size)]
    table = _accuracies(parts, judge, labels, tried, seed, passes)
    chance = np.array([1 / len(np.unique(as_array(wanted))) for wanted in labels.values()])
    groups = {}
    for column, name in enumerate(labels):
        target = chance.copy()
        target[column] = 1
        groups[name] = tried[int(np.abs(table - target).sum(axis=1).argmin())]
    used = set().union(*groups.values())
    return Exploration(groups, tuple(n for n in range(parts.count) if n not in used), table, tuple(tried))


def _accuracies(
    parts: Factors,
    judge: Judged,
    labels: Mapping[str, ArrayLike],
    tried: Sequence[tuple[int, ...]],
    seed: int,
    passes: int,
) -> NDArray[np.float64]:
    if not labels:
        raise RepdynError("there are no labels; exploration needs those of the static factors of the data")
    for name, wanted in labels.items():
        if len(as_array(wanted)) != len(parts):
            raise RepdynError(
                f"labels {name!r} are {len(as_array(wanted))}, but there are {len(parts)} sequences"
            )
    table = np.zeros((len(tried), len(labels)))
    for row, kept in enumerate(track(tried, "exploring static factors")):
        for offset in range(passes):
            called = judge(resample(parts, None, kept=kept, seed=seed + offset))
            table[row] += [
                float((as_array(called[name]) == as_array(wanted)).mean()) / passes
                for name, wanted in labels.items()
            ]
    return table
