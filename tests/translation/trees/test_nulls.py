import numpy as np
import pytest

from repdyn.translation.trees.matching import highest_by_chance
from repdyn.translation.trees.nulls import coarse_surrogate, groups_of, random_surrogate, shuffled_surrogate


def grouped() -> tuple[np.ndarray, np.ndarray]:
    """Twelve leaves in three groups."""
    generator = np.random.default_rng(0)
    form = np.repeat(5 * generator.normal(size=(3, 8)), 4, axis=0) + generator.normal(size=(12, 8))
    return np.full(12, 1 / 12), form


def test_a_coarse_surrogate_keeps_the_groups_and_not_the_leaves() -> None:
    mass, form = grouped()
    made = coarse_surrogate(mass, form, np.random.default_rng(1))
    centred = form - form.mean(0)
    means, others = (v.reshape(3, 4, -1).mean(1) for v in (centred, made))
    assert np.allclose(means @ means.T, others @ others.T)
    assert not np.allclose(centred @ centred.T, made @ made.T, atol=0.5)


def test_a_random_surrogate_keeps_how_far_out_leaves_lie_and_not_where() -> None:
    _, form = grouped()
    made = random_surrogate(form, np.random.default_rng(1))
    centred = form - form.mean(0)
    assert np.allclose(np.linalg.norm(centred, axis=1), np.linalg.norm(made, axis=1))
    assert not np.allclose(centred @ centred.T, made @ made.T, atol=0.5)


def test_leaves_at_right_angles_stay_so() -> None:
    """Nothing but their distance from the mean tells them apart, and that stays."""
    radii = np.linspace(1, 2, 8)
    form = np.concatenate([np.diag(radii), -np.diag(radii)])
    made = random_surrogate(form, np.random.default_rng(0))
    assert np.allclose(np.linalg.norm(made, axis=1), np.concatenate([radii, radii]))
    simplex = np.eye(9)
    made = random_surrogate(simplex, np.random.default_rng(0))
    centred = simplex - simplex.mean(0)
    assert np.allclose(made @ made.T, centred @ centred.T)


def test_shuffling_keeps_what_lies_between_two_groups() -> None:
    mass, form = grouped()
    groups = groups_of(mass, form)
    assert len(np.unique(groups)) == 3
    matrix = form @ form.T
    made = shuffled_surrogate(matrix, groups, np.random.default_rng(0))
    assert np.array_equal(made, made.T)
    assert np.array_equal(np.diag(made), np.diag(matrix))
    assert not np.array_equal(made, matrix)
    for g in np.unique(groups):
        for h in np.unique(groups):
            block = np.ix_(groups == g, groups == h)
            assert np.allclose(np.sort(made[block], axis=None), np.sort(matrix[block], axis=None))


def test_the_best_of_several_is_held_against_the_best_by_chance() -> None:
    drawn = np.random.default_rng(0).normal(size=(2, 199, 6)) * [1, 10, 100, 1, 1, 1]
    above, p_value = highest_by_chance(np.array([5.0, 0, 0, 0, 0, 0]), drawn, 200)
    assert above.argmax() == 0
    assert p_value == pytest.approx(1 / 200)
    # 2.2 standard deviations: rare for one, not for the best of six.
    score = np.array([2.2, 0, 0, 0, 0, 0])
    assert highest_by_chance(score[:1], drawn[:, :, :1], 200)[1] < 0.05
    assert highest_by_chance(score, drawn, 200)[1] > 0.05


def test_pooling_several_candidates_finds_no_more_than_the_level_by_chance() -> None:
    generator = np.random.default_rng(0)
    values = [
        highest_by_chance(generator.normal(size=5), generator.normal(size=(1, 39, 5)), 40)[1]
        for _ in range(400)
    ]
    assert np.mean(np.array(values) <= 0.1) == pytest.approx(0.1, abs=0.045)
