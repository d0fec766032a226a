"""How long either half explores, with searches whose luck is planned."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from repdyn.translation.refine import nearest_orthogonal
from repdyn.translation.replication import AGAIN, SURPASSED, _explored
from repdyn.translation.search import Candidate

PROBES = np.random.default_rng(0).normal(size=(100, 8)).astype(np.float32)
TRUTH = np.eye(8, dtype=np.float32)


def wrong(seed: int) -> np.ndarray:
    return nearest_orthogonal(np.random.default_rng(seed).normal(size=(8, 8)))


@dataclass
class PlannedSearch:
    """Has the true map from the candidate numbered ``lucky`` on, and a wrong one of its own before.

    Started again for the k-th time it has the k-th of the ``later`` ones' luck.
    """

    lucky: float
    own: np.ndarray
    true_fit: float = 0.7
    later: tuple[float, ...] = ()
    asked: list[int] = field(default_factory=list)
    others: list["PlannedSearch"] = field(default_factory=list)

    def restarted(self) -> "PlannedSearch":
        lucky = self.later[len(self.others)] if len(self.others) < len(self.later) else np.inf
        self.others.append(PlannedSearch(lucky, self.own, self.true_fit))
        return self.others[-1]

    def explore(self, number: int) -> None:
        self.asked.append(number)

    def fit(self, maps: list[np.ndarray]) -> float:
        return self.true_fit if np.array_equal(maps[0], TRUTH) else 0.6 * np.array_equal(maps[0], self.own)

    @property
    def best(self) -> Candidate:
        found = TRUTH if len(self.asked) > self.lucky else self.own
        return Candidate(self.fit([found]), [found])


def explored(
    one: float, other: float, later: tuple[float, ...] = (), true_fit: float = 0.7
) -> tuple[list[PlannedSearch], list[np.ndarray]]:
    halves = [PlannedSearch(at, wrong(k), true_fit, later) for k, at in enumerate((one, other))]
    found = _explored(halves, PROBES, 10)
    return halves, [maps[0] for maps in found]


def test_both_stop_where_they_agree() -> None:
    halves, maps = explored(2, 6)
    assert halves[0].asked == halves[1].asked == list(range(7))
    assert all(np.array_equal(m, TRUTH) for m in maps)


@pytest.mark.parametrize("late", [0, 1])
def test_the_half_that_missed_it_starts_again_alone_until_they_agree(late: int) -> None:
    halves, maps = explored(*((np.inf, 3) if late == 0 else (3, np.inf)), later=(np.inf, 4))
    assert halves[late].asked == halves[1 - late].asked == list(range(10))
    assert [len(again.asked) for again in halves[late].others] == [10, 5]
    assert not halves[1 - late].others
    assert all(np.array_equal(m, TRUTH) for m in maps)


def test_it_gives_up_in_the_end_and_keeps_what_it_had() -> None:
    halves, maps = explored(3, np.inf)
    assert [len(again.asked) for again in halves[1].others] == [10] * AGAIN
    assert np.array_equal(maps[0], TRUTH)
    assert np.array_equal(maps[1], wrong(1))


def test_nobody_starts_again_where_there_is_nothing_to_miss() -> None:
    for true_fit, luck in ((0.7, np.inf), (0.6 + SURPASSED / 2, 3)):
        halves, _ = explored(luck, np.inf, true_fit=true_fit)
        assert [len(half.asked) for half in halves] == [10, 10]
        assert not halves[0].others + halves[1].others
