"""Groups of equal rows against plain computations."""

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster, linkage

from repdyn.errors import RepdynError
from repdyn.repeats import folds_by_group, groups_of_equal_rows


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(((a[:, None] == a) == (b[:, None] == b)).all())


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16, np.int64])
def test_equal_rows_are_the_groups_of_numpy_unique(kind: type) -> None:
    g = np.random.default_rng(0)
    x = (10 * g.normal(size=(60, 3))).astype(kind)[g.integers(60, size=400)]
    found = groups_of_equal_rows(x)
    expected = np.unique(x, axis=0, return_inverse=True)[1].reshape(-1)
    assert _same(found, expected)
    assert found.dtype == np.int64
    # Numbered by first appearance.
    assert [int(found[np.flatnonzero(found == k)[0]]) for k in range(found.max() + 1)] == list(
        range(found.max() + 1)
    )
    firsts = [int(np.flatnonzero(found == k)[0]) for k in range(found.max() + 1)]
    assert firsts == sorted(firsts)


@pytest.mark.parametrize("scale", [1.0, 1e-20, 1e20, 1e-300])
@pytest.mark.parametrize("noise", [1e-9, 1e-6, 3e-5])
def test_float_noise_is_seen_at_every_scale(scale: float, noise: float) -> None:
    g = np.random.default_rng(1)
    x = np.repeat(g.normal(size=(80, 40)), 5, axis=0)
    x = (x + noise * g.normal(size=x.shape)) * scale
    assert _same(groups_of_equal_rows(x), np.repeat(np.arange(80), 5))


def test_near_rows_are_the_clusters_of_single_linkage_where_these_are_apart() -> None:
    g = np.random.default_rng(2)
    x = np.repeat(g.normal(size=(70, 6)), g.integers(1, 8, size=70), axis=0)
    x = x[g.permutation(len(x))]
    x = x + 1e-6 * g.normal(size=x.shape)
    assert _same(groups_of_equal_rows(x), fcluster(linkage(x), 1e-4, criterion="distance"))


def test_a_wide_coordinate_a_shift_and_outliers_hide_no_difference() -> None:
    g = np.random.default_rng(3)
    x = g.normal(size=(300, 5))
    x[:, 0] *= 1e8
    x[:, 1] += 1e6
    x[0] = 1e30
    assert len(np.unique(groups_of_equal_rows(x))) == 300
    # One-hot rows differ in coordinates that are 0 nearly everywhere.
    rare = np.zeros((6000, 8))
    rare[np.arange(8) * 700 + 1, np.arange(8)] = 1e-5
    assert len(np.unique(groups_of_equal_rows(rare))) == 9


def test_single_precision_noise_far_from_zero() -> None:
    g = np.random.default_rng(4)
    x = np.repeat(g.normal(size=(50, 20)) + 1e4, 2, axis=0).astype(np.float32)
    up = np.nextafter(x[::2], np.float32(np.inf))
    x[::2] = np.where(g.random(up.shape) < 0.5, up, x[::2])
    assert _same(groups_of_equal_rows(x), np.repeat(np.arange(50), 2))


def test_dense_points_on_a_line_do_not_chain() -> None:
    x = np.linspace(0, 1, 200_001)[:, None]
    groups = groups_of_equal_rows(x)
    assert groups.max() > 1000
    spread = np.zeros(groups.max() + 1)
    np.maximum.at(spread, groups, x[:, 0])
    low = np.ones(groups.max() + 1)
    np.minimum.at(low, groups, x[:, 0])
    assert (spread - low).max() <= 2e-4


def test_zeros_of_both_signs_and_rows_that_are_not_finite() -> None:
    x = np.array([[0.0, np.nan], [-0.0, np.nan], [0.0, 1.0], [-0.0, 1.0], [0.0, np.inf], [3.0, 1.0]])
    assert groups_of_equal_rows(x).tolist() == [0, 0, 1, 1, 2, 3]


def test_empty_and_trailing_shapes() -> None:
    assert groups_of_equal_rows(np.zeros((0, 3))).shape == (0,)
    assert groups_of_equal_rows(np.zeros((4, 3))).tolist() == [0, 0, 0, 0]
    assert groups_of_equal_rows(np.arange(8.0).reshape(2, 2, 2)).tolist() == [0, 1]
    assert groups_of_equal_rows(np.array([1.0, 2.0, 1.0])).tolist() == [0, 1, 0]
    with pytest.raises(RepdynError, match="x must have shape"):
        groups_of_equal_rows(np.array(1.0))


def test_folds_keep_groups_together_and_are_even() -> None:
    g = np.random.default_rng(5)
    groups = groups_of_equal_rows(g.normal(size=(90, 3))[g.integers(90, size=1000)])
    fold = folds_by_group(groups, 5, np.random.default_rng(0))
    assert all(len(np.unique(fold[groups == k])) == 1 for k in range(groups.max() + 1))
    assert np.ptp(np.bincount(fold)) <= np.bincount(groups).max()
    alone = folds_by_group(np.arange(103), 5, np.random.default_rng(7))
    assert (alone == np.random.default_rng(7).permutation(103) % 5).all()
