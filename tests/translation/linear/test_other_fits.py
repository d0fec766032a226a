import numpy as np
import pytest

from repdyn.errors import RepdynError
from repdyn.translation import fit_cca, fit_low_rank, fit_ridge, relative_representation


def pairs(count: int = 400, noise: float = 0.1, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(count, 8)) + 3
    shared = np.random.default_rng(9).normal(size=(8, 2)) @ np.random.default_rng(8).normal(size=(2, 6))
    return x, x @ shared + noise * generator.normal(size=(count, 6)) - 1


def test_a_relation_of_rank_two_needs_two_and_no_more() -> None:
    x, y = pairs()
    errors = [((fit_low_rank(x, y, rank=r)(x) - y) ** 2).mean() for r in (1, 2, 6)]
    assert errors[0] > 10 * errors[1]
    assert errors[1] == pytest.approx(errors[2], rel=0.05)
    assert np.linalg.matrix_rank(fit_low_rank(x, y, rank=2).matrix) == 2
    assert np.allclose(fit_low_rank(x, y, rank=6).matrix, fit_ridge(x, y).matrix)


def test_canonical_variates_find_the_shared_part() -> None:
    x, y = pairs()
    held_x, held_y = pairs(seed=1)
    for rank in (2, None):
        left = fit_cca(x, y, rank=rank)(held_x) - held_y
        assert (left**2).mean() < 0.02 * ((held_y - y.mean(0)) ** 2).mean()
    assert np.linalg.matrix_rank(fit_cca(x, y, rank=2).matrix) == 2


def test_canonical_variates_survive_fewer_pairs_than_columns_and_constant_columns() -> None:
    x, y = (v[:5].copy() for v in pairs())
    x[:, 2] = 1
    assert np.isfinite(fit_cca(x, y).matrix).all()


def test_relative_representations_do_not_depend_on_the_basis() -> None:
    generator = np.random.default_rng(0)
    x, anchors = generator.normal(size=(20, 5)), generator.normal(size=(7, 5))
    q = np.linalg.qr(generator.normal(size=(5, 5)))[0]
    here = relative_representation(x, anchors)
    there = relative_representation(3 * x @ q + 2, 3 * anchors @ q + 2)
    assert here.shape == (20, 7)
    assert np.allclose(here, there)


def test_bad_input_is_told() -> None:
    x, y = pairs(20)
    for rank in (0, 7):
        with pytest.raises(RepdynError, match="rank"):
            fit_low_rank(x, y, rank=rank)
        with pytest.raises(RepdynError, match="rank"):
            fit_cca(x, y, rank=rank)
    with pytest.raises(RepdynError, match="one width"):
        relative_representation(x, y)
    with pytest.raises(RepdynError, match="finite"):
        relative_representation(x * np.nan, x)
    with pytest.raises(RepdynError, match="one N"):
        fit_cca(x, y[:3])
