"""Similarities agree with definitions written out and with known answers, and chance is told as chance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import procrustes
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestNeighbors

import repdyn
from repdyn.comparison import (
    Comparison,
    mutual_neighbors,
    neighbor_table,
    procrustes_distance,
    unbiased_gram,
)
from repdyn.comparison.similarity import Permuted, jackknife_alignment
from repdyn.errors import NotFiniteError, RepdynError
from repdyn.paths import RepresentationPaths


def hsic(k: np.ndarray, m: np.ndarray) -> float:
    """The unbiased estimator as its authors write it (Song et al. 2012, equation 5)."""
    n = len(k)
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    one = np.ones(n)
    trace = (
        np.trace(k @ m)
        + one @ k @ one * (one @ m @ one) / ((n - 1) * (n - 2))
        - 2 / (n - 2) * one @ k @ m @ one
    )
    return trace / (n * (n - 3))


def test_alignment_is_the_ratio_of_unbiased_hsic() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(40, 5)) + 3
    y = x @ generator.normal(size=(5, 7)) + generator.normal(size=(40, 7))
    k, m = ((z - z.mean(0)) @ (z - z.mean(0)).T for z in (x, y))
    expected = hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))
    assert (unbiased_gram(x) * unbiased_gram(y)).sum() == pytest.approx(expected, rel=1e-4)


def test_alignment_of_independent_samples_does_not_grow_with_width() -> None:
    generator = np.random.default_rng(1)
    found = [
        (unbiased_gram(x) * unbiased_gram(y)).sum()
        for x, y in (generator.normal(size=(2, 40, 2000)) for _ in range(20))
    ]
    assert abs(np.mean(found)) < 4 * np.std(found) / np.sqrt(20)
    assert max(found) < 0.2  # the biased estimate is above 0.9 here


def test_neighbors_are_those_of_scikit_learn() -> None:
    x = np.random.default_rng(2).normal(size=(60, 4)) + 5
    centered = x - x.mean(0)
    unit = centered / np.linalg.norm(centered, axis=1, keepdims=True)
    nearest = NearestNeighbors(n_neighbors=5).fit(unit).kneighbors(return_distance=False)
    assert np.array_equal(np.sort(neighbor_table(x, 5), 1), np.sort(nearest, 1))
    y = x @ np.diag([1, 2, 3, 4])
    one, other = neighbor_table(x, 5), neighbor_table(y, 5)
    by_hand = [len(set(a) & set(b)) / 5 for a, b in zip(one.tolist(), other.tolist())]
    np.testing.assert_allclose(mutual_neighbors(one, other), by_hand)


def test_procrustes_is_scipys() -> None:
    x, y = np.random.default_rng(3).normal(size=(2, 30, 4))
    *_, disparity = procrustes(x, y)  # 1 - s^2, for s the sum of singular values
    assert procrustes_distance(x, y) == pytest.approx(np.sqrt(2 - 2 * np.sqrt(1 - disparity)))


def test_permutations_rename_the_samples() -> None:
    """The matrices of a permuted copy are those of the samples taken in that order."""
    generator = np.random.default_rng(4)
    x, y = generator.normal(size=(2, 30, 3))
    null = Permuted([x], [y], 4, 3, seed=7)
    order = [np.random.default_rng(7).permutation(30)][0]
    moved = x[order]
    assert null.chance_alignment[0, 0, 0] == pytest.approx(
        float((unbiased_gram(moved) * unbiased_gram(y)).sum()), abs=1e-5
    )
    assert Permuted([moved], [y], 4, 1, 0).alignment[0, 0] == pytest.approx(
        null.chance_alignment[0, 0, 0], abs=1e-5
    )
    back = np.argsort(
        order
    )  # which sample of the copy is which: the neighbors are renamed the other way around
    shared = mutual_neighbors(neighbor_table(x[back], 4), neighbor_table(y, 4)).mean()
    assert null.chance_neighbors[0, 0, 0] == pytest.approx(shared)


def test_the_interval_of_alignment_covers() -> None:
    """Of a Gaussian with known covariance the alignment of the population is known."""
    generator = np.random.default_rng(5)
    mixing = generator.normal(size=(4, 6))
    cov_xy, cov_x, cov_y = mixing, np.eye(4), mixing.T @ mixing + 0.5 * np.eye(6)
    truth = np.linalg.norm(cov_xy) ** 2 / (np.linalg.norm(cov_x) * np.linalg.norm(cov_y))
    hits, runs = 0, 150
    for _ in range(runs):
        x = generator.normal(size=(120, 4))
        y = x @ mixing + np.sqrt(0.5) * generator.normal(size=(120, 6))
        one, other = unbiased_gram(x), unbiased_gram(y)
        error = jackknife_alignment(one, other)
        hits += abs(float((one * other).sum()) - truth) <= 1.96 * error
    assert hits / runs > 0.88


def test_two_views_of_one_latent_are_found_and_shuffled_ones_are_not() -> None:
    generator = np.random.default_rng(6)
    z = generator.normal(size=(200, 5))
    a = {
        f"{k}": np.tanh(z @ generator.normal(size=(5, 30))) + 0.1 * generator.normal(size=(200, 30))
        for k in range(3)
    }
    b = {f"{k}": z @ generator.normal(size=(5, 300)) for k in range(2)}
    found = repdyn.compare(a, b)
    assert found.verdict == "found"
    assert found.samples == 200
    assert found.depths["CKA"].values.shape == (3, 2)
    for measure in found.measures.values():
        assert measure.p <= 0.05
        assert measure.value.low < measure.value.value < measure.value.high
        assert 0 < measure.calibrated <= 1
    order = generator.permutation(200)
    shuffled = repdyn.compare({k: x[order] for k, x in a.items()}, b)
    assert shuffled.verdict == "not found"
    assert max(one.calibrated for one in shuffled.measures.values()) < 0.1


def test_false_findings_are_as_rare_as_the_level_says() -> None:
    """Independent clouds, wide and of several depths: the best pair is compared with the best by chance."""
    verdicts = []
    for seed in range(40):
        generator = np.random.default_rng(seed)
        a, b = ({str(k): generator.normal(size=(50, 100)) for k in range(3)} for _ in "ab")
        depths = Permuted(list(a.values()), list(b.values()), 5, 60, seed)
        best, chance = depths.neighbors.max(), depths.chance_neighbors.max((1, 2))
        verdicts.append((1 + (chance >= best).sum()) / 61 <= 0.05)
    assert sum(verdicts) <= 6  # of 40 at 5 %: more has a probability of 1 %


def test_pixels_and_their_projection_agree_in_part() -> None:
    """Real data: digits against eight random projections of them, and against another digit's picture."""
    pixels, labels = load_digits(return_X_y=True)
    generator = np.random.default_rng(8)
    projected = pixels @ generator.normal(size=(64, 8))
    found = repdyn.compare(pixels, projected)
    assert found.verdict == "found"
    assert 0.2 < found.measures["mutual neighbors"].value.value < 0.9
    # Another picture of the same class: the classes agree, neighbors hardly do.
    partner = np.array([generator.choice(np.flatnonzero(labels == label)) for label in labels])
    other = repdyn.compare(pixels, pixels[partner])
    assert other.measures["CKA"].p <= 0.05
    assert other.measures["mutual neighbors"].value.value < found.measures["mutual neighbors"].value.value


def test_samples_are_matched_by_id_and_copies_count_once() -> None:
    generator = np.random.default_rng(9)
    x = generator.normal(size=(120, 6))
    order = generator.permutation(120)[:90]
    ids = [f"s{k}" for k in range(120)]
    a = RepresentationPaths.from_arrays({"last": x}, ids=ids)
    b = RepresentationPaths.from_arrays({"last": 2 * x[order] + 1}, ids=[ids[k] for k in order])
    found = repdyn.compare(a, b)
    assert found.samples == 90
    assert found.measures["CKA"].value.value == pytest.approx(1, abs=1e-5)
    assert found.measures["Procrustes distance"].value.value == pytest.approx(0, abs=1e-5)
    copies = np.repeat(generator.normal(size=(30, 6)), 10, axis=0)
    few = repdyn.compare(copies, copies)
    assert few.verdict == "inconclusive"
    assert few.samples == 30


def test_other_samples_leave_the_trees() -> None:
    generator = np.random.default_rng(10)
    centers = 6 * generator.normal(size=(4, 3))
    x = centers[generator.integers(4, size=300)] + generator.normal(size=(300, 3))
    y = (centers[generator.integers(4, size=260)] + generator.normal(size=(260, 3))) @ np.linalg.qr(
        generator.normal(size=(3, 3))
    )[0]
    found = repdyn.compare(x, y)
    assert found.verdict == "inconclusive"
    assert not found.measures
    assert found.samples == 0
    flat = repdyn.compare(x, generator.normal(size=(260, 3)))
    assert flat.trees["A to B"].value > found.trees["A to B"].value  # one peak against four


def test_a_coordinate_a_thousand_times_as_large_does_not_decide() -> None:
    generator = np.random.default_rng(11)
    x, y = generator.normal(size=(2, 150, 20))
    shared = 3000 * generator.normal(size=(150, 1))
    loud = repdyn.compare(np.hstack([x, shared]), np.hstack([y, shared]))
    # As it is, the coordinate alone decides who is near: all but 2 of 10 neighbors would be shared.
    assert loud.measures["mutual neighbors"].value.value < 0.5


def test_it_saves_draws_and_prints(tmp_path: Path) -> None:
    generator = np.random.default_rng(12)
    z = generator.normal(size=(150, 4))
    found = repdyn.compare({"a": z, "b": z**3}, {"c": z[:, :2]}, translation=True)
    found.save(tmp_path / "c")
    again = repdyn.load_result(tmp_path / "c")
    assert isinstance(again, Comparison)
    assert repr(again) == repr(found)
    assert str(again.to_dict()) == str(found.to_dict())
    assert again.translation is not None
    assert len(again.plot().data) == 2
    single = repdyn.compare(z, z[:, :2])
    assert "by chance" in single.plot().layout.meta["alt"]
    repdyn.report([found, single], tmp_path / "r.html")
    assert "How alike two models are" in (tmp_path / "r.html").read_text()


def test_bad_input_is_named() -> None:
    x = np.random.default_rng(0).normal(size=(60, 3))
    twice = RepresentationPaths.from_arrays({"last": x}, ids=["a", "a", *map(str, range(58))])
    with pytest.raises(RepdynError, match="a: id 'a' is there 2 times"):
        repdyn.compare(twice, twice)
    with pytest.raises(RepdynError, match="nearest: 'vectors'"):
        repdyn.compare(x, x, points=("vector", "vectors"))
    with pytest.raises(NotFiniteError, match="b: "):
        repdyn.compare(x, np.where(x > 2, np.nan, x))
    tokens = RepresentationPaths.from_arrays({"t": np.ones((60, 2, 3))})
    with pytest.raises(RepdynError, match="keeps tokens"):
        repdyn.compare(tokens, x)
    assert repdyn.compare(x[:20], x[:20]).verdict == "inconclusive"
    constant = repdyn.compare(x, np.ones((60, 3)))
    assert constant.verdict in ("not found", "inconclusive")
