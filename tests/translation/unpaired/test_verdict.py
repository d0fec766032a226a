"""Three tests behind one verdict, and clouds on which the honest answer is not "found"."""

import numpy as np
import pytest

from repdyn.paths import RepresentationPaths
from repdyn.translation import LinearTranslation, translate
from repdyn.translation.unpaired.rivals import Composition, Rival, excess_distance
from repdyn.translation.unpaired.settings import TranslationVerdictSettings
from repdyn.translation.unpaired.verdict import agreed_directions, far_and_unshared, judge

WIDTH = 8
STEADY = Composition(stability=0.95, lead=6.0)
LEVEL = Composition(stability=0.95, lead=0.5)


def rotation(seed: int, width: int = WIDTH) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(width, width)))[0]


def rival(excess: float, agreement: float, same_cluster: float = 0.0) -> Rival:
    return Rival([np.eye(2, dtype=np.float32)], excess, agreement, same_cluster, "planned")


def clusters(count: int, seed: int, centers: np.ndarray, noise: float = 0.15) -> np.ndarray:
    generator = np.random.default_rng(seed)
    wide = np.zeros((len(centers), WIDTH))
    wide[:, : centers.shape[1]] = centers
    return wide[generator.integers(len(wide), size=count)] + noise * generator.normal(size=(count, WIDTH))


def translated(x: np.ndarray, y: np.ndarray, seed: int = 0) -> LinearTranslation:
    a, b = (RepresentationPaths.from_arrays({"x": v}) for v in (x, y))
    return translate(a, b, candidates=8, seed=seed)


def polygon(corners: int) -> np.ndarray:
    turn = 2 * np.pi * np.arange(corners) / corners
    return np.stack([np.cos(turn), np.sin(turn)], axis=1)


# The parts


def test_excess_distance_is_one_for_two_samples_of_one_cloud_and_more_beside_it() -> None:
    generator = np.random.default_rng(0)
    x, y = (generator.normal(size=(1500, 12)) * np.linspace(2, 0.1, 12) for _ in range(2))
    turn = rotation(1, 12)
    right = excess_distance(x @ turn.T, y, turn, 700)
    wrong = excess_distance(x @ turn.T, y, rotation(2, 12), 700)
    assert right == pytest.approx((1, 1), abs=0.1)
    assert min(wrong) > 1.5


def test_a_map_without_near_rivals_is_found_and_one_with_a_tied_rival_is_ambiguous() -> None:
    own = rival(1.05, 1.0, 1.0)
    assert judge(0.9, own, [rival(1.4, 0.1)], STEADY).verdict == "found"
    tied = judge(0.9, own, [rival(1.055, 0.1), rival(1.5, 0.0)], LEVEL)
    assert tied.verdict == "ambiguous"
    assert len(tied.tied) == 1
    assert tied.figures.margin == pytest.approx(1.055 / 1.05 - 1)
    assert tied.confidence.value < 0.6


def test_rivals_that_differ_within_clusters_only_leave_neighborhoods() -> None:
    own = rival(1.05, 1.0, 1.0)
    assert judge(0.3, own, [rival(1.055, 0.2, 0.95), rival(1.4, 0.0, 0.2)], STEADY).verdict == "neighborhoods"


@pytest.mark.parametrize(
    ("stability", "near", "expected"),
    [
        (0.4, 1.055, "ambiguous"),
        (0.6, 1.055, "neighborhoods"),
        (0.4, 1.1, "inconclusive"),
        (0.6, 1.1, "neighborhoods"),
    ],
)
def test_clusters_are_settled_only_if_other_compositions_translate_alike(stability, near, expected) -> None:
    """Disjoint intents: one match of clusters has a margin, but not on samples that lack some of them."""
    own, others = rival(1.05, 1.0, 1.0), [rival(near, 0.2, 0.95), rival(1.06, 0.6, 1.0), rival(1.4, 0.0, 0.2)]
    assert judge(0.3, own, others, Composition(stability=stability, lead=1.4)).verdict == expected


def test_items_that_turned_minor_axes_leave_open_are_not_found() -> None:
    own = rival(1.02, 1.0, 1.0)
    turned = [rival(1.02, 0.55, 1.0), rival(1.021, 0.6, 1.0)]
    assert judge(0.9, own, [*turned, rival(1.5, 0.1)], STEADY).verdict == "neighborhoods"


def test_a_small_margin_will_do_where_it_is_far_beyond_the_noise() -> None:
    """Documentation strings of two encoders: points near borders change cluster, and the margin is 3.4 %."""
    own, others = rival(1.21, 1.0, 1.0), [rival(1.21 * 1.034, 0.75, 0.78), rival(2.5, 0.1)]
    clear = judge(0.97, own, others, Composition(stability=0.8, lead=12.0))
    assert clear.verdict == "found"
    assert "3.4% larger" in clear.reason
    assert judge(0.97, own, others, Composition(stability=0.8, lead=1.0)).verdict == "ambiguous"


def test_a_margin_within_the_error_of_the_clusters_is_inconclusive() -> None:
    own, others = rival(1.05, 1.0, 1.0), [rival(1.4, 0.1)]
    unsure = judge(0.9, own, others, Composition(stability=0.95, lead=1.0))
    sure = judge(0.9, own, others, STEADY)
    assert (unsure.verdict, sure.verdict) == ("inconclusive", "found")
    assert unsure.confidence.value < sure.confidence.value


def test_points_beside_the_real_ones_are_not_found_although_halves_agree() -> None:
    assert judge(0.9, rival(2.5, 1.0, 1.0), [rival(2.52, 0.2)], STEADY).verdict == "not found"


def test_a_rival_that_is_the_same_map_does_not_count() -> None:
    assert (
        judge(0.9, rival(1.05, 1.0, 1.0), [rival(1.05, 0.97, 1.0), rival(1.4, 0.1)], STEADY).verdict
        == "found"
    )


def test_the_agreed_directions_holds_the_axes_on_which_all_agree() -> None:
    own = np.eye(5, dtype=np.float32)
    reflected = np.diag([1, 1, 1, -1, -1]).astype(np.float32)
    part, directions = agreed_directions(own, [Rival([reflected], 1.0, 0.1, 0.1, "planned")])
    assert directions == 3
    assert np.allclose(part, np.diag([1, 1, 1, 0, 0]), atol=1e-6)


# Clouds


def test_a_cloud_against_itself_rotated_is_found_exactly() -> None:
    x = clusters(600, 0, np.random.default_rng(5).normal(size=(9, WIDTH)), 0.3)
    t = translated(x, 3 * x @ rotation(1) + 2)
    assert t.verdict == "found", t.reason
    assert np.allclose(t(x), 3 * x @ rotation(1) + 2, atol=0.3)


@pytest.mark.parametrize("corners", [2, 5])
def test_regular_polygons_are_ambiguous(corners: int) -> None:
    centers = polygon(corners)
    t = translated(clusters(700, 1, centers), clusters(700, 2, centers) @ rotation(3))
    assert t.verdict == "ambiguous", t.reason
    assert t.evidence["different maps that fit as well"] >= 1


def test_a_gaussian_against_a_gaussian_is_ambiguous() -> None:
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(2, 700, WIDTH))
    assert translated(x, y).verdict in ("ambiguous", "not found")


def test_a_mirrored_cloud_is_not_found() -> None:
    """Its halves are each other's mirror image: two maps are exact."""
    generator = np.random.default_rng(0)
    centers = np.random.default_rng(5).normal(size=(7, WIDTH))
    x, y = (clusters(700, seed, centers) for seed in (1, 2))
    for points in (x, y):
        points[:, 0] = np.abs(points[:, 0]) * np.where(generator.uniform(size=len(points)) < 0.5, 1, -1)
    assert translated(x, y @ rotation(3)).verdict != "found"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_disjoint_clusters_are_not_found(seed: int) -> None:
    """Five clusters against five others: one matching of the 120 always fits best, and replicates."""
    centers = np.random.default_rng(seed).normal(size=(10, WIDTH))
    x, y = clusters(700, 1, centers[:5], 0.3), clusters(700, 2, centers[5:], 0.3) @ rotation(3)
    t = translated(x, y, seed)
    assert t.verdict != "found", t.reason
    assert t.confidence < 0.6


def test_one_dimension_is_not_found() -> None:
    generator = np.random.default_rng(0)
    x, y = generator.exponential(size=(2, 400, 1))
    assert translated(x, y).verdict != "found"


def test_repeated_rows_do_not_make_a_wrong_map_replicate() -> None:
    generator = np.random.default_rng(0)
    x, y = (np.repeat(generator.normal(size=(220, WIDTH)), 4, 0) for _ in range(2))
    assert translated(x, y).verdict != "found"


def test_nothing_beyond_the_compared_components_is_settled() -> None:
    wide, tied = np.eye(6, dtype=np.float32), Rival([np.eye(4, dtype=np.float32)], 1.0, 0.0, 0.0, "planned")
    part, directions = agreed_directions(wide, [tied])
    assert directions == 4
    np.testing.assert_allclose(part, np.diag([1, 1, 1, 1, 0, 0]), atol=1e-6)


def known_turn(spoil, seed: int = 0) -> tuple[LinearTranslation, np.ndarray, np.ndarray]:
    """Shaped clusters and a turned second sample of them; both models have the same fault."""
    centers = np.random.default_rng(5).normal(size=(14, WIDTH))
    turn = rotation(3)
    x, y, held = (spoil(clusters(n, k + seed, centers, 0.2), k) for k, n in ((0, 1200), (1, 1200), (2, 400)))
    return translated(x, y @ turn), held, held @ turn


def retrieved(moved: np.ndarray, real: np.ndarray) -> float:
    return float((((moved[:, None] - real) ** 2).sum(2).argmin(1) == np.arange(len(real))).mean())


def test_one_coordinate_a_thousand_times_as_wide_leaves_the_others_to_be_matched() -> None:
    wide = np.array([1e3, *[1.0] * (WIDTH - 1)])

    def spoil(x: np.ndarray, _: int) -> np.ndarray:
        return x * wide

    t, held, _ = known_turn(spoil)
    assert t.verdict == "found"
    assert retrieved(t(held) @ rotation(3).T / wide, held / wide) > 0.5


def test_a_few_rows_ten_thousand_times_as_long_do_not_decide_the_map() -> None:
    def spoil(x: np.ndarray, seed: int) -> np.ndarray:
        far = np.random.default_rng(seed + 50).random(len(x)) < 0.02
        return np.where(far[:, None], 1e4 * x, x)

    t, held, real = known_turn(spoil)
    assert t.verdict == "found"
    ordinary = np.linalg.norm(held, axis=1) < 100
    assert retrieved(t(held[ordinary]), real[ordinary]) > 0.5


def test_the_confidence_of_what_is_not_found_is_the_mean_of_such_maps():
    least = TranslationVerdictSettings().least_confidence
    far = far_and_unshared(0.0, 3.0).confidence
    level = judge(0.0, rival(3.0, 1.0), [rival(3.0, 0.0)], Composition(stability=0.0, lead=-2.0)).confidence
    assert far.value == level.value == least
    assert far.low == level.low == 0
    found = judge(1.0, rival(1.0, 1.0), [rival(1.5, 0.0)], STEADY).confidence
    assert found.value > 10 * least
