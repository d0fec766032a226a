"""Conformal p-values: their definition, their guarantee, and what too few samples get."""

from __future__ import annotations

import numpy as np
import pytest

from repdyn.errors import RepdynError
from repdyn.ood import conformal_p_values, conformal_threshold, false_positive_interval


def test_threshold_flags_exactly_p_values_up_to_the_rate():
    generator = np.random.default_rng(0)
    calibration, scores = generator.normal(size=157).round(1), generator.normal(size=1000).round(1)
    for rate in (0.01, 0.05, 0.2, 0.5):
        flagged = scores < conformal_threshold(calibration, rate)
        np.testing.assert_array_equal(flagged, conformal_p_values(calibration, scores) <= rate)


@pytest.mark.parametrize("count", [19, 99, 100])
def test_false_positive_rate_holds_on_average_whatever_the_distribution(count):
    generator = np.random.default_rng(count)
    draws = generator.standard_cauchy((4000, count + 1))
    rate = np.mean([row[-1] < conformal_threshold(row[:-1], 0.05) for row in draws])
    expected = np.floor(0.05 * (count + 1) + 1e-9) / (count + 1)
    assert expected <= 0.05
    assert rate == pytest.approx(expected, abs=4 * np.sqrt(0.05 * 0.95 / 4000))


def test_interval_covers_the_rate_of_one_calibration_set():
    generator = np.random.default_rng(2)
    low, high = false_positive_interval(200, 0.1)
    rates = np.array([conformal_threshold(generator.uniform(size=200), 0.1) for _ in range(2000)])
    assert np.mean((rates >= low) & (rates <= high)) == pytest.approx(0.95, abs=0.02)


def test_too_few_samples_say_how_many_are_needed():
    conformal_threshold(np.arange(19.0), 0.05)
    with pytest.raises(RepdynError, match="at least 19"):
        conformal_threshold(np.arange(18.0), 0.05)


@pytest.mark.parametrize("count", [1, 2, 6, 9, 18, 98, 99, 1000])
def test_too_few_samples_say_the_smallest_rate_that_they_support(count):
    scores = np.arange(float(count))
    with pytest.raises(RepdynError, match="or allow a rate of at least") as told:
        conformal_threshold(scores, 0.9 / (count + 1))
    rate = float(str(told.value).rpartition(" ")[2])
    assert 1 / (count + 1) <= rate < 1.001 / (count + 1)
    assert conformal_threshold(scores, rate) == 0  # it is supported, and flags the lowest score alone


@pytest.mark.parametrize("rate", [0.0, 1.0, -1, float("nan")])
def test_rate_outside_the_interval(rate):
    with pytest.raises(RepdynError, match="false_positive_rate"):
        conformal_threshold(np.arange(100.0), rate)


@pytest.mark.parametrize("scores", [[], [[1.0]], [np.inf, 1.0]])
def test_bad_calibration_scores(scores):
    with pytest.raises(RepdynError, match="calibration_scores"):
        conformal_p_values(scores, [1.0])
