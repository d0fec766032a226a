"""Detectors compared by one resampling: a difference of equals is none, a clear one is found."""

from __future__ import annotations

import numpy as np
import pytest

from repdyn.ood.comparison import IN_DISTRIBUTION, MEAN, compare, separation
from repdyn.ranking import auroc_influence


def test_judged_against_chosen_rivals() -> None:
    generator = np.random.default_rng(0)
    inside, foreign = generator.normal(size=300), {k: generator.normal(size=200) for k in "ab"}
    scores = {
        name: {IN_DISTRIBUTION: inside + shift, **foreign}
        for name, shift in {"weak": 0.1, "middle": 1.0, "copy": 1.0, "strong": 3.0}.items()
    }
    found = compare(scores, seed=0)
    table = found.table()
    exact = [separation(inside + 1, foreign[k]).auroc[0] for k in "ab"]
    assert table["middle"]["a"]["auroc"].value == exact[0]
    assert table["middle"][MEAN]["auroc"].value == np.mean(exact)
    assert found.against("strong", ["weak", "middle"]).verdict == {"a": "found", "b": "found", MEAN: "found"}
    equal = found.against("copy", ["weak", "middle"])
    assert equal.best_control["a"] == "middle"
    assert equal.difference["a"].low == equal.difference["a"].high == 0
    assert set(equal.verdict.values()) == {"inconclusive"}
    assert found.against("middle", ["strong"]).verdict[MEAN] == "not found"


@pytest.mark.parametrize("rounded", [False, True])
def test_the_influence_of_samples_is_delongs_variance_and_covariance(rounded) -> None:
    """From the matrix of all pairs, and against resampled scores."""
    g = np.random.default_rng(1)
    inside, foreign = g.normal(size=150) + 1.5, g.normal(size=90)
    other = inside + 0.8 * g.normal(size=150), foreign + 0.8 * g.normal(size=90)
    pairs = [(inside, foreign), other]
    if rounded:
        pairs = [(x.round(), y.round()) for x, y in pairs]
    kernels = [np.heaviside(x[:, None] - y, 0.5) for x, y in pairs]
    rows, columns = (np.cov([k.mean(axis=axis) for k in kernels]) for axis in (1, 0))
    found = [auroc_influence(*pair) for pair in pairs]
    expected = rows / 150 + columns / 90
    np.testing.assert_allclose(np.array(found) @ np.array(found).T, expected)
    drawn = []
    for _ in range(1500):
        i, j = g.integers(150, size=150), g.integers(90, size=90)
        drawn.append([k[np.ix_(i, j)].mean() for k in kernels])
    correlation = expected[0, 1] / np.sqrt(expected[0, 0] * expected[1, 1])
    assert np.corrcoef(np.array(drawn).T)[0, 1] == pytest.approx(correlation, abs=0.07)


def test_two_scores_of_one_set_differ_by_the_same_interval_with_and_without_replicates() -> None:
    g = np.random.default_rng(2)
    inside, foreign = g.normal(size=400) + 1, g.normal(size=300)
    one = {IN_DISTRIBUTION: inside, "a": foreign}
    two = {IN_DISTRIBUTION: inside + g.normal(size=400), "a": foreign + g.normal(size=300)}
    alone = compare({"one": one, "two": two}).against("one", ["two"])
    with_third = compare({"one": one, "two": two, "third": {k: -v for k, v in one.items()}})
    with_third = with_third.against("one", ["two", "third"])
    gap, other = alone.difference["a"], with_third.difference["a"]
    assert gap.value == other.value
    assert (gap.low, gap.high) == pytest.approx((other.low, other.high), abs=0.1 * (gap.high - gap.low))
    same = compare({"one": one, "copy": one}).against("one", ["copy"]).difference["a"]
    assert (same.low, same.value, same.high) == (0, 0, 0)


def test_scores_that_differ_but_err_on_the_same_samples_have_no_certain_difference() -> None:
    inside, foreign = np.arange(20.0) + 10, np.append(np.arange(19.0) - 20, 10.5)
    one = {IN_DISTRIBUTION: inside, "a": foreign}
    other = {IN_DISTRIBUTION: inside, "a": foreign[::-1].copy()}  # another order below, the same AUROC
    other["a"][[0, 19]] = other["a"][[19, 0]]
    gap = compare({"one": one, "other": other}).against("one", ["other"]).difference["a"]
    assert gap.value == 0
    assert gap.low < -0.005 < 0.005 < gap.high
    scaled = {name: 3 * values + 1 for name, values in one.items()}
    same = compare({"one": one, "scaled": scaled}).against("one", ["scaled"]).difference["a"]
    assert same.low == same.high == 0
