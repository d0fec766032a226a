from dataclasses import replace

import numpy as np
import pytest

from repdyn.translation.coordinates import Cloud, unit_rows
from repdyn.translation.trees.assignment import quadratic_assignment
from repdyn.translation.unpaired import map_search, replication
from repdyn.translation.unpaired.map_search import ProposedMap, Search
from repdyn.translation.unpaired.nodes import GeometricNodes
from repdyn.translation.unpaired.proposals import guided_gain
from repdyn.translation.unpaired.refine import nearest_orthogonal, retrieval
from repdyn.translation.unpaired.replication import replicate
from repdyn.translation.unpaired.settings import GROWTH

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


def blurred(count: int, seed: int, width: int = 140) -> np.ndarray:
    """Points without clusters: independent skewed coordinates of falling spread."""
    generator = np.random.default_rng(seed)
    return (generator.gamma(2.0, size=(count, width)) - 2) / np.sqrt(np.arange(1, width + 1))


def test_a_guide_of_right_directions_gives_matchings_with_more_right_directions() -> None:
    turn = np.linalg.qr(np.random.default_rng(9).normal(size=(140, 140)))[0]
    x, y = blurred(1200, 0), blurred(1200, 1)
    a, b = Cloud.of(x), Cloud.of(y @ turn)
    # The oracle is the Procrustes map of paired rows of A and their images, in the coordinates of both.
    images = unit_rows((x @ turn - b.offset) @ b.into)
    truth = nearest_orthogonal(a.points.T @ images)[:64, :64]
    search = Search([a], [b], NO_PAIRS, seed=0)

    def beyond(maps: list[list[np.ndarray]]) -> float:
        mean, own = (m[4:16] for m in (np.sum([m[0] for m in maps], axis=0), truth))
        return float((mean * own).sum() / np.linalg.norm(mean) / np.linalg.norm(own))

    guide = truth.copy()
    guide[4:] = 0
    guided, alone = ([search._matched(0, 60, 0.8, g)[0] for _ in range(4)] for g in ([guide], None))
    assert beyond(guided) > 1.5 * abs(beyond(alone))
    assert beyond(guided) > 0.1


def test_matchings_with_a_right_guide_align_better_than_with_a_wrong_one() -> None:
    turn = np.linalg.qr(np.random.default_rng(9).normal(size=(140, 140)))[0]
    centers = blurred(60, 7)
    number = np.random.default_rng(6).integers(60, size=2400)
    points = centers[number] + 0.3 * blurred(2400, 0)
    x, y = points[:1200], points[1200:]
    a, b = Cloud.of(x), Cloud.of(y @ turn)
    truth = nearest_orthogonal(a.points.T @ unit_rows((x @ turn - b.offset) @ b.into))[:64, :64]
    wrong = np.linalg.qr(np.random.default_rng(8).normal(size=(64, 64)))[0].astype(np.float32)
    search = Search([a], [b], NO_PAIRS, seed=0)
    assert search._step([truth], 12, 60)[0] > search._step([wrong], 12, 60)[0] + 0.05


def test_the_alignment_of_a_matching_is_the_cosine_of_the_gram_matrices(monkeypatch) -> None:
    search = Search([Cloud.of(blurred(400, 0))], [Cloud.of(blurred(400, 1))], NO_PAIRS, seed=0)
    seen = []

    def matched(a, b, *arguments):
        permutations, objectives = quadratic_assignment(a, b, *arguments)
        seen.append((a, b, permutations[0]))
        return permutations, objectives

    monkeypatch.setattr(map_search, "quadratic_assignment", matched)
    _, alignment = search._matched(0, 20, 0.8)
    (a,), (b,), order = seen[0]
    pairs = [(a[i, j], b[order[i], order[j]]) for i in range(len(a)) for j in range(len(a))]
    left, right = np.array(pairs).T
    assert alignment == pytest.approx(left @ right / np.sqrt(left @ left) / np.sqrt(right @ right))


def test_starts_whose_matchings_align_best_go_on(monkeypatch) -> None:
    schedule = ((4, 30, 4), (6, 40, 2), (8, 50, 1))
    monkeypatch.setattr(map_search, "GROWTH", replace(GROWTH, first=12, schedule=schedule))
    search = Search([Cloud.of(blurred(300, 0))], [Cloud.of(blurred(300, 1))], NO_PAIRS, seed=0)
    marks = iter([0.1, 0.4, 0.3, 0.2, 0.5, 0.6, 0.7])
    seen = []

    def step(moment, rank, nodes):
        seen.append((nodes, float(moment[0][0, 0])))
        mark = next(marks)
        return mark, [np.full_like(moment[0], mark)]

    monkeypatch.setattr(search, "_step", step)
    search.grow()
    assert [nodes for nodes, _ in seen] == [30] * 4 + [40] * 2 + [50]
    assert [mark for _, mark in seen[4:]] == pytest.approx([0.4, 0.3, 0.6])


def test_one_to_one_matchings_find_a_planted_rotation_of_blurred_clusters(monkeypatch) -> None:
    monkeypatch.setattr(map_search, "GROWTH", replace(GROWTH, first=10, rounds=6, repeated=1))
    turn = np.linalg.qr(np.random.default_rng(9).normal(size=(140, 140)))[0]
    number = np.random.default_rng(6).integers(60, size=2000)
    points = blurred(60, 7)[number] + 0.5 * blurred(2000, 0)
    x, y, held = points[:900], points[900:1800] @ turn, points[1800:]
    a, b = Cloud.of(x), Cloud.of(y)
    found = Search([a], [b], NO_PAIRS, seed=0).alternate()
    moved = unit_rows(unit_rows((held - a.offset) @ a.basis) @ found.maps[0])
    right = moved @ unit_rows((held @ turn - b.offset) @ b.basis).T
    assert (right.argmax(axis=1) == np.arange(len(held))).mean() > 0.9


@pytest.mark.parametrize(
    "kind", ["other counts and widths", "few distinct rows", "one wide coordinate", "two depths"]
)
def test_one_to_one_matchings_of_other_data_are_rotations(monkeypatch, kind) -> None:
    monkeypatch.setattr(map_search, "GROWTH", replace(GROWTH, first=3, rounds=2, repeated=0))
    a, b = [blurred(300, 0)], [blurred(300, 1)]
    if kind == "other counts and widths":
        b = [blurred(500, 1, 160)]
    elif kind == "few distinct rows":
        a, b = ([x[0][np.arange(300) % count]] for x, count in ((a, 12), (b, 5)))
    elif kind == "one wide coordinate":
        a = [a[0] * np.where(np.arange(140) == 7, 1000.0, 1.0)]
    else:
        a, b = [a[0], blurred(300, 2)], [b[0], blurred(300, 3)]
    found = Search([Cloud.of(x) for x in a], [Cloud.of(y) for y in b], NO_PAIRS, seed=0).alternate()
    for m, x, y in zip(found.maps, a, b, strict=True):
        assert m.shape == (x.shape[1], y.shape[1])
        singular = np.linalg.svd(m, compute_uv=False)
        # 1 in the directions that the data determine, 0 in the others.
        np.testing.assert_allclose(singular, singular.round(), atol=1e-4)
        assert singular[0] == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(("of_growth", "kept"), [(2.0, "grow"), (1.0, "alternate")])
def test_of_two_ways_the_better_one_is_kept_and_the_other_is_a_rival(monkeypatch, of_growth, kept) -> None:
    monkeypatch.setattr(replication, "GROWTH", replace(GROWTH, least_samples=300))
    grown = ProposedMap(of_growth, [np.eye(140, dtype=np.float32)])
    alternated = ProposedMap(1.5, [np.eye(140, dtype=np.float32)[::-1]])
    monkeypatch.setattr(Search, "grow", lambda _: grown)
    monkeypatch.setattr(Search, "alternate", lambda _: alternated)
    monkeypatch.setattr(Search, "final_refinement", lambda _, maps: maps)
    judged = []
    original = replication._judged

    def recorded(both, maps, others, recovered):
        judged.append((maps, others))
        return original(both, maps, others, recovered)

    monkeypatch.setattr(replication, "_judged", recorded)
    replicate([Cloud.of(blurred(300, 0))], [Cloud.of(blurred(300, 1))], NO_PAIRS, 1, seed=0)
    better, worse = (grown, alternated) if kept == "grow" else (alternated, grown)
    maps, others = judged[1]
    assert maps is better.maps
    assert any(other is worse.maps for other in others)


@pytest.mark.parametrize(("width", "least", "times"), [(16, 300, 0), (140, 300, 1), (140, 301, 0)])
def test_maps_are_grown_where_halves_disagree_models_are_wide_and_samples_many(
    monkeypatch, width, least, times
) -> None:
    monkeypatch.setattr(replication, "GROWTH", replace(GROWTH, least_samples=least))
    grown = []

    def grow(search: Search) -> ProposedMap:
        grown.append(search.width)
        return ProposedMap(-1.0, [np.eye(search.width, dtype=np.float32)])

    monkeypatch.setattr(Search, "grow", grow)
    monkeypatch.setattr(Search, "alternate", grow)
    a, b = Cloud.of(blurred(300, 0, width)), Cloud.of(blurred(300, 1, width))
    found = replicate([a], [b], NO_PAIRS, 1, seed=0)
    assert grown == [width] * 2 * times
    assert found.verdict != "found"
