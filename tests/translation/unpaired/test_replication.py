"""How long either half explores, with searches whose luck is planned."""

from dataclasses import dataclass, field

import numpy as np

from repdyn.translation.unpaired.map_search import ProposedMap
from repdyn.translation.unpaired.refine import nearest_orthogonal
from repdyn.translation.unpaired.replication import _explored

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
    def best(self) -> ProposedMap:
        found = TRUTH if len(self.asked) > self.lucky else self.own
        return ProposedMap(self.fit([found]), [found])


def explored(one: float, other: float) -> tuple[list[PlannedSearch], list[np.ndarray]]:
    halves = [PlannedSearch(at, wrong(k)) for k, at in enumerate((one, other))]
    found = _explored(halves, PROBES, 10)
    return halves, [maps[0] for maps in found]


def test_both_stop_where_they_agree() -> None:
    halves, maps = explored(2, 6)
    assert halves[0].asked == halves[1].asked == list(range(7))
    assert all(np.array_equal(m, TRUTH) for m in maps)


def test_all_candidates_are_explored_where_they_never_agree() -> None:
    halves, maps = explored(3, np.inf)
    assert [len(half.asked) for half in halves] == [10, 10]
    assert np.array_equal(maps[0], TRUTH)
    assert np.array_equal(maps[1], wrong(1))
