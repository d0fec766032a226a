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
    """Has the true map from the candidate numbered ``lucky`` on, and a wrong one of its own before."""

    lucky: float
    own: np.ndarray
    true_fit: float = 0.7
    asked: list[int] = field(default_factory=list)

    def explore(self, number: int) -> None:
        self.asked.append(number)

    def fit(self, maps: list[np.ndarray]) -> float:
        return self.true_fit if np.array_equal(maps[0], TRUTH) else 0.6 * np.array_equal(maps[0], self.own)

    @property
    def best(self) -> Candidate:
        found = TRUTH if len(self.asked) > self.lucky else self.own
        return Candidate(self.fit([found]), [found])


def explored(*lucky: float, true_fit: float = 0.7, candidates: int = 10) -> list[PlannedSearch]:
    halves = [PlannedSearch(at, wrong(k), true_fit) for k, at in enumerate(lucky)]
    _explored(halves, PROBES, candidates)
    return halves


def test_both_stop_where_they_agree() -> None:
    one, other = explored(2, 6)
    assert one.asked == other.asked == list(range(7))


@pytest.mark.parametrize("late", [0, 1])
def test_the_half_that_missed_it_goes_on_alone_until_they_agree(late: int) -> None:
    halves = explored(*((37, 3) if late == 0 else (3, 37)))
    assert halves[late].asked == list(range(38))
    assert halves[1 - late].asked == list(range(10))


def test_it_gives_up_in_the_end() -> None:
    one, other = explored(3, np.inf)
    assert len(one.asked) == 10
    assert len(other.asked) == (1 + AGAIN) * 10


def test_nobody_goes_on_where_there_is_nothing_to_miss() -> None:
    assert [len(half.asked) for half in explored(np.inf, np.inf)] == [10, 10]
    barely = explored(3, np.inf, true_fit=0.6 + SURPASSED / 2)
    assert [len(half.asked) for half in barely] == [10, 10]
