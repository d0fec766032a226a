import numpy as np
import pytest

from repdyn.errors import RepdynError
from repdyn.topology import LevelSetTree
from repdyn.translation import match_trees
from repdyn.translation.trees.pairing import consistent_pairs, log_distances


def two_sides(shared: int, own: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places that both sides have, rotated, scaled, moved and in another order, and some of their own."""
    generator = np.random.default_rng(seed)
    common = generator.normal(size=(shared, 12))
    a, b = (np.concatenate([common, generator.normal(size=(own, 12))]) for _ in range(2))
    turn, _ = np.linalg.qr(generator.normal(size=(12, 12)))
    order = generator.permutation(len(b))
    return a, (3 * b @ turn + 7)[order], np.argsort(order)


def test_shared_places_are_paired_and_the_others_are_not() -> None:
    a, b, place = two_sides(9, 4, seed=0)
    score, pairs = consistent_pairs(log_distances(a), log_distances(b), tolerance=0.05)
    assert np.array_equal(pairs[np.argsort(pairs[:, 0])], np.column_stack([np.arange(9), place[:9]]))
    assert score == pytest.approx(9 * 8 / (13 * 12), abs=1e-3)


def test_sides_of_different_size_leave_the_rest_unpaired() -> None:
    a, b, place = two_sides(8, 5, seed=1)
    _, pairs = consistent_pairs(log_distances(a[:8]), log_distances(b), tolerance=0.05)
    assert np.array_equal(pairs, np.column_stack([np.arange(8), place[:8]]))


def test_unrelated_places_agree_little() -> None:
    a, b, _ = two_sides(0, 13, seed=2)
    assert consistent_pairs(log_distances(a), log_distances(b), tolerance=0.05)[0] < 0.3


def test_distances_know_no_place_and_no_unit() -> None:
    a = np.random.default_rng(0).normal(size=(7, 3))
    turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
    assert np.allclose(log_distances(a), log_distances(5 * a @ turn - 2), atol=1e-9)
    assert np.isfinite(log_distances(np.ones((4, 2)))).all()


def test_one_leaf_is_told() -> None:
    with pytest.raises(RepdynError, match="two or more"):
        consistent_pairs(np.zeros((1, 1)), np.zeros((3, 3)), 0.05)


@pytest.mark.slow
def test_trees_that_share_a_part_are_matched_in_that_part(planted) -> None:
    centres, mass, spread = planted.world(101, 0, classes=18)
    sides, classes = [], []
    for seed, kept in ((1, np.arange(14)), (2, np.arange(4, 18))):
        generator = np.random.default_rng(seed)
        label = generator.choice(kept, size=1400, p=mass[kept] / mass[kept].sum())
        sides.append(centres[label] + spread[label] * generator.normal(size=(1400, 24)))
        classes.append(label)
    x, y = sides[0], 3 * sides[1] @ planted.rotation(24, 5) + 2
    trees = LevelSetTree.fit(x), LevelSetTree.fit(y)
    match = match_trees(*trees, x, y, seed=0)
    named = [
        np.array([np.bincount(own[tree.assignment == leaf]).argmax() for leaf in tree.leaves])
        for tree, own in zip(trees, classes)
    ]
    leaves = match.pairs[(match.pairs < [len(n) for n in named]).all(1)]
    assert match.verdict == "found"
    assert "of 14 and" in match.reason or "of 13 and" in match.reason
    right = named[0][leaves[:, 0]] == named[1][leaves[:, 1]]
    assert 6 <= len(leaves) <= 11
    assert right.mean() > 0.8
