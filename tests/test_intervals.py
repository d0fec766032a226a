from __future__ import annotations

import numpy as np
import pytest

from repdyn.errors import RepdynError
from repdyn.intervals import bootstrap, bootstrap_mean


def test_interval_of_a_mean_matches_the_normal_theory():
    values = np.random.default_rng(0).normal(size=4000)
    estimate = bootstrap_mean(values, seed=1, resamples=4000)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert estimate.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert estimate.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_nominal_coverage_is_about_met():
    covered = [
        (e := bootstrap_mean(np.random.default_rng(k).exponential(size=100), seed=k)).low <= 1 <= e.high
        for k in range(300)
    ]
    assert 0.89 <= np.mean(covered) <= 0.98  # skewed data and n = 100: slightly under 0.95 is expected


def test_general_bootstrap_agrees_with_the_vectorised_mean():
    values = np.random.default_rng(2).normal(size=200)
    general = bootstrap(lambda x: float(x.mean()), values, seed=0, resamples=2000)
    fast = bootstrap_mean(values, seed=0, resamples=2000)
    assert general.value == fast.value
    assert general.low == pytest.approx(fast.low, abs=0.02)


def test_unpaired_samples_may_differ_in_length_and_paired_may_not():
    a, b = np.ones(5), np.zeros(7)
    difference = bootstrap(lambda x, y: float(x.mean() - y.mean()), a, b, paired=False)
    assert (difference.low, difference.high) == (1.0, 1.0)
    with pytest.raises(RepdynError, match="one length"):
        bootstrap(lambda x, y: 0.0, a, b)


def test_same_seed_same_interval_and_no_sample_is_refused():
    values = np.arange(30.0)
    assert bootstrap_mean(values, seed=3) == bootstrap_mean(values, seed=3)
    assert bootstrap_mean(values, seed=3) != bootstrap_mean(values, seed=4)
    with pytest.raises(RepdynError, match="N > 0"):
        bootstrap_mean(np.empty(0))
