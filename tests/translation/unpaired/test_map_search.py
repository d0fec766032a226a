import numpy as np
import pytest

from repdyn.translation.coordinates import Cloud, unit_rows
from repdyn.translation.unpaired.map_search import ProposedMap, Search
from repdyn.translation.unpaired.nodes import GeometricNodes
from repdyn.translation.unpaired.proposals import guided_gain
from repdyn.translation.unpaired.refine import nearest_orthogonal, retrieval

NO_PAIRS = np.empty((0, 2), dtype=np.int64)


@pytest.fixture
def planted_search(planted) -> tuple[Search, np.ndarray]:
    """A search over two samples of one density in two bases, and the map between these."""
    turn = planted.rotation(24, 3)
    a = Cloud.of(planted.clusters(500, seed=1)[0])
    b = Cloud.of(planted.clusters(500, seed=2)[0] @ turn)
    return Search([a], [b], NO_PAIRS, seed=0), a.basis.T @ turn @ b.basis


def right(search: Search, m: np.ndarray, truth: np.ndarray) -> float:
    points = search.points_a[0]
    return retrieval(unit_rows(points @ m), unit_rows(points @ truth))


def test_maps_that_are_wrong_each_in_its_own_way_make_a_right_one_together(planted_search) -> None:
    search, truth = planted_search
    generator = np.random.default_rng(0)
    noisy = [nearest_orthogonal(truth + 0.6 * generator.normal(size=truth.shape)) for _ in range(8)]
    search._proposed = [ProposedMap(0.5, [m]) for m in noisy]
    pooled = search.pool()
    assert right(search, pooled.maps[0], truth) > max(right(search, m, truth) for m in noisy) + 0.2
    assert pooled.rounds == 1


def test_a_pool_holds_what_fits_best(planted_search) -> None:
    search, truth = planted_search
    good = ProposedMap(0.6, [truth.astype(np.float32)])
    bad = ProposedMap(0.1, [nearest_orthogonal(np.random.default_rng(1).normal(size=truth.shape))])
    search._proposed = [good] * 8 + [bad] * 30
    assert right(search, search.pool().maps[0], truth) > 0.5


def test_what_nearly_wrong_proposals_share_is_found_though_none_of_them_fits(planted_search) -> None:
    search, truth = planted_search
    generator = np.random.default_rng(0)
    search._unguided = [
        [nearest_orthogonal(0.9 * (k % 2) * truth + generator.normal(size=truth.shape))] for k in range(60)
    ]
    assert max(right(search, maps[0], truth) for maps in search._unguided) < 0.3
    shared = search.consensus()
    assert max(right(search, candidate.maps[0], truth) for candidate in shared) > 0.9


def test_free_proposals_alone_vote(planted_search) -> None:
    search, _ = planted_search
    for number in range(24):
        search.explore(number)
    assert len(search._proposed) == 8  # what a pool holds
    assert len(search._unguided) == 21  # numbers 15, 19 and 23 were guided
    assert len(search.found) > 24 + 6  # proposals, pools, and what is shared


def test_nodes_gain_where_a_guide_takes_them(planted) -> None:
    generator = np.random.default_rng(0)
    centroids, turn = generator.normal(size=(9, 24)), planted.rotation(24, 5)
    order = generator.permutation(9)
    mass = np.full(9, 1 / 9)
    a, b = GeometricNodes(mass, (centroids,)), GeometricNodes(mass, ((centroids @ turn)[order],))
    gain = guided_gain(a, b, [turn.astype(np.float32)], size=11)
    assert np.array_equal(order[gain[:9].argmax(1)], np.arange(9))
    assert gain[9:].max() == gain[:, 9:].max() == 0
    assert np.trace(gain[:9, :9][:, np.argsort(order)]) == pytest.approx(1, abs=1e-6)


def test_known_pairs_tell_a_right_map_from_one_that_fits_as_well(planted) -> None:
    """Both maps send clusters onto clusters; only the right one sends known points to their partners."""
    turn = planted.rotation(24, 3)
    x, _ = planted.clusters(500, seed=1)
    a, b = Cloud.of(x), Cloud.of(x @ turn)
    truth = (a.basis.T @ turn @ b.basis).astype(np.float32)
    wrong = nearest_orthogonal(np.random.default_rng(1).normal(size=truth.shape))
    known = np.column_stack([np.arange(10)] * 2)
    gaps = []
    for pairs in (NO_PAIRS, known):
        search = Search([a], [b], pairs, seed=0)
        gaps.append(search.fit([truth]) - search.fit([wrong]))
    assert gaps[1] > gaps[0] + 0.1


def test_two_pairs_weigh_less_than_the_fit_and_twenty_weigh_more(planted) -> None:
    """What known pairs say for the right map and against a wrong one grows with their number."""
    x, _ = planted.clusters(600, seed=1)
    y, _ = planted.clusters(600, seed=2)
    q = planted.rotation(x.shape[1], 3)
    a, b = Cloud.of(x), Cloud.of(np.concatenate([x[:20] @ q, y @ q]))
    right = (a.basis.T @ q @ b.basis).astype(np.float32)
    wrong = planted.rotation(x.shape[1], 9).astype(np.float32)
    gains = []
    for count in (2, 20):
        search = Search([a], [b], np.column_stack([np.arange(count)] * 2), seed=0)
        alone = Search([a], [b], NO_PAIRS, seed=0)
        gains.append([search.fit([m]) - alone.fit([m]) for m in (right, wrong)])
    (few_right, few_wrong), (many_right, many_wrong) = gains
    assert many_right - many_wrong > 2 * (few_right - few_wrong) > 0
