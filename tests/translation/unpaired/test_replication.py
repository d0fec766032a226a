"""How long either half explores, with searches whose luck is planned."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from repdyn.paths import RepresentationPaths
from repdyn.translation import translate
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
    excess: float = 1.0
    known: tuple[int, ...] = ()
    asked: list[int] = field(default_factory=list)

    def explore(self, number: int) -> None:
        self.asked.append(number)

    def fit(self, maps: list[np.ndarray]) -> float:
        return self.true_fit if np.array_equal(maps[0], TRUTH) else 0.6 * np.array_equal(maps[0], self.own)

    @property
    def best(self) -> ProposedMap:
        found = TRUTH if len(self.asked) > self.lucky else self.own
        return ProposedMap(self.fit([found]), [found])


def explored(
    one: float,
    other: float,
    excess: tuple[float, float] = (1.0, 1.0),
    known: tuple[int, ...] = (),
    candidates: int = 10,
) -> tuple[list[PlannedSearch], list[np.ndarray]]:
    halves = [PlannedSearch(at, wrong(k), excess=excess[k], known=known) for k, at in enumerate((one, other))]
    found = _explored(halves, PROBES, candidates)
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


@pytest.mark.parametrize(
    ("one", "excess", "known", "count"),
    [
        (np.inf, (2.0, 1.8), (), 8),
        (np.inf, (2.0, 1.2), (), 10),  # one half lies near
        (np.inf, (2.0, 1.8), (0,), 10),  # known pairs, which a distance says nothing about
        (5, (2.0, 1.8), (), 8),  # one half alone has a map, and it lies far
    ],
)
def test_a_search_that_stays_far_in_both_halves_ends_early(one, excess, known, count) -> None:
    halves, _ = explored(one, np.inf, excess, known)
    assert [len(half.asked) for half in halves] == [count, count]


@pytest.mark.parametrize(("excess", "count"), [(1.65, 12), (1.75, 8), (1.55, 14)])
def test_the_distance_at_which_a_search_ends_falls_with_the_candidates(excess, count) -> None:
    halves, _ = explored(np.inf, np.inf, (excess, excess + 0.01), candidates=14)
    assert [len(half.asked) for half in halves] == [count, count]


def test_halves_that_agree_late_are_not_ended_by_the_distance() -> None:
    halves, maps = explored(6, 7, (2.5, 2.5))
    assert [len(half.asked) for half in halves] == [8, 8]
    assert all(np.array_equal(m, TRUTH) for m in maps)


def tight(g: np.random.Generator, centers: np.ndarray, count: int = 1200) -> RepresentationPaths:
    points = centers[g.integers(len(centers), size=count)]
    return RepresentationPaths.from_arrays({"x": points + 0.05 * g.normal(size=points.shape)})


def test_clusters_in_other_places_are_not_found_without_rivals() -> None:
    g = np.random.default_rng(0)
    a, b = (tight(g, g.normal(size=(25, 12))) for _ in range(2))
    t = translate(a, b)
    assert t.verdict == "not found"
    assert set(t.evidence) == {"retrieval between halves", "excess distance"}
    assert t.confidence < 0.1
    # The distance by definition, from the map as it is given: translated points lie far from all real ones.
    x, y = (np.asarray(paths["x"]) for paths in (a, b))
    moved, real = (z - z.mean(0) for z in (t(x), y))
    moved, real = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (moved, real))
    across = (1 - (moved[:600] @ real[:600].T).max(1)).mean()
    within = (1 - (real[600:] @ real[:600].T).max(1)).mean()
    assert across > 1.7 * within


def test_the_same_clusters_turned_are_found() -> None:
    g = np.random.default_rng(0)
    centers, turn = g.normal(size=(25, 12)), np.linalg.qr(g.normal(size=(12, 12)))[0]
    t = translate(tight(g, centers), tight(g, centers @ turn))
    assert t.verdict == "found"
    assert np.abs(t.matrix - turn).max() < 0.1
