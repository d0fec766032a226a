from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score

from repdyn.errors import RepdynError
from repdyn.intervals import (
    Estimate,
    bootstrap,
    bootstrap_mean,
    bounded_interval,
    difference_interval,
    mean_of_groups,
    ratio_interval,
    share_interval,
)
from repdyn.ranking import _normal_precision_variance, auroc_interval, passing_interval, precision_interval


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


@pytest.mark.parametrize(("n", "truth"), [(20, 0.5), (20, 0.99), (100, 0.95), (1000, 0.995), (5000, 0.999)])
def test_shares_hold_the_truth_as_often_as_they_say(n: int, truth: float) -> None:
    # Exactly, by summing over all outcomes.
    found = [share_interval(np.arange(n) < k) for k in range(n + 1)] if n <= 1000 else None
    outcomes = np.arange(n + 1)
    if found is None:
        outcomes = np.arange(n - 60, n + 1)
        found = [share_interval(np.arange(n) < k) for k in outcomes]
    inside = np.array([e.low <= truth <= e.high for e in found])
    coverage = float(stats.binom.pmf(outcomes, n, truth)[inside].sum())
    assert 0.94 < coverage <= 1
    assert all(e.high > e.low for e in found)
    assert all(e.low <= e.value <= e.high for e in found)


def test_means_of_zero_and_one_are_shares() -> None:
    flags = np.arange(50) < 49
    assert bootstrap_mean(flags) == share_interval(flags)
    assert bootstrap_mean(np.ones(30)).low < 0.95


def test_mirrored_shares_have_mirrored_ends() -> None:
    a, b = share_interval(np.arange(80) < 3), share_interval(np.arange(80) >= 3)
    assert (a.low, a.high) == pytest.approx((1 - b.high, 1 - b.low))


@pytest.mark.parametrize(("truth", "spread"), [(0.7, 1.0), (0.95, 3.0), (0.99, 1.0)])
def test_auroc_intervals_cover(truth: float, spread: float) -> None:
    hits, shift = 0, stats.norm.ppf(truth) * np.hypot(1, spread)
    for seed in range(400):
        g = np.random.default_rng(seed)
        x, y = g.normal(size=60) + shift, spread * g.normal(size=60)
        found = auroc_interval(x, y)
        assert found.value == pytest.approx(roc_auc_score(np.repeat([1, 0], 60), np.concatenate([x, y])))
        assert found.low < found.high
        hits += found.low <= truth <= found.high
    assert hits / 400 > 0.91


def test_auroc_at_the_border_and_of_ties() -> None:
    apart = auroc_interval(np.arange(30) + 100, np.arange(30))
    assert apart.value == apart.high == 1
    assert 0.85 < apart.low < 0.97
    swapped = auroc_interval(np.arange(30), np.arange(30) + 100)
    assert swapped.high == pytest.approx(1 - apart.low)
    assert auroc_interval(np.zeros(9), np.zeros(9)).value == 0.5
    with pytest.raises(RepdynError, match="both samples"):
        auroc_interval(np.zeros(0), np.zeros(3))


@pytest.mark.parametrize("heavy", [False, True])
def test_ratios_cover_under_normal_and_heavy_errors(heavy: bool) -> None:
    hits = 0
    for seed in range(300):
        g = np.random.default_rng(seed)
        error = np.exp(g.normal(size=60) - 0.5) if heavy else np.square(g.normal(size=(60, 4))).mean(axis=1)
        found = ratio_interval(0.2 * error, np.square(g.normal(size=(60, 8))).mean(axis=1), resamples=400)
        hits += found.low <= 0.2 <= found.high
    assert hits / 300 > 0.9


@pytest.mark.parametrize("scale", [1e-200, 1e-20, 1e150])
def test_ratios_know_no_unit(scale: float) -> None:
    g = np.random.default_rng(0)
    a, b = g.exponential(size=50), g.exponential(size=50)
    plain, other = ratio_interval(a, b), ratio_interval(a * scale, b * scale)
    assert (other.value, other.low, other.high) == pytest.approx((plain.value, plain.low, plain.high))
    assert ratio_interval(np.zeros(5), np.ones(5)).high == 0
    assert np.isnan(ratio_interval(np.ones(5), np.zeros(5)).value)


def test_bounded_figures_have_width_at_the_border() -> None:
    found = bounded_interval(1.0, np.ones(500), 40)
    assert found.high == 1
    assert 0.85 < found.low < 0.97
    inner = bounded_interval(0.5, np.random.default_rng(0).normal(0.5, 0.02, size=2000), 600)
    assert inner.high - inner.low == pytest.approx(4 * 0.02, rel=0.1)


@pytest.mark.parametrize(("n", "truth"), [(20, 0.8), (50, 0.9), (200, 0.99)])
@pytest.mark.parametrize("spread", [1 / 3, 1.0, 3.0])
def test_passing_interval_holds_the_false_positive_rate_at_the_true_threshold(
    n: int, truth: float, spread: float
) -> None:
    # The share of foreign values above the true 5 % quantile, not above the one of the sample.
    shift = stats.norm.ppf(0.95) + spread * stats.norm.ppf(truth)
    held = 0
    for k in range(150):
        g = np.random.default_rng([11, k])
        found = passing_interval(g.normal(size=n) + shift, spread * g.normal(size=n))
        held += found.low <= 1 - truth <= found.high
        assert 0 <= found.low <= found.value <= found.high <= 1
        assert found.low < found.high
    assert held / 150 > 0.89


def test_passing_interval_of_a_few_samples_with_a_long_lower_tail() -> None:
    """The true threshold often lies below all 20, and further than that of normal values (.76 before)."""
    g = np.random.default_rng(5)
    threshold = np.log(0.05)  # of −E, E exponential
    shift = threshold - np.log(0.8)  # P(−E + shift ≥ threshold) = .2
    found = [passing_interval(-g.exponential(size=20), -g.exponential(size=20) + shift) for _ in range(300)]
    assert np.mean([f.low <= 0.2 <= f.high for f in found]) > 0.9


def test_passing_interval_is_a_function_of_order_and_relative_spread_and_reads_ties() -> None:
    g = np.random.default_rng(0)
    kept, judged = g.normal(size=60) + 1, g.normal(size=40)
    one, other = passing_interval(kept, judged), passing_interval(1e-9 * kept + 5, 1e-9 * judged + 5)
    assert (one.low, one.high) == pytest.approx((other.low, other.high), abs=1e-6)
    threshold = np.sort(kept)[3]  # 57 of 60 reach it
    assert one.value == pytest.approx((judged >= threshold).mean())
    tied = passing_interval(np.round(kept), np.round(judged))
    assert tied.value == (np.round(judged) >= np.sort(np.round(kept))[3]).mean()
    flat = passing_interval(np.ones(30), np.ones(30))
    assert flat.value == 1.0
    with pytest.raises(RepdynError, match="passing_interval"):
        passing_interval(np.empty(0), judged)


def test_auroc_of_a_small_sample_of_wide_spread_is_as_uncertain_as_it_is() -> None:
    # 20 foreign scores three times as spread: nearly a share of 20, whatever the number of others.
    held = 0
    for k in range(200):
        g = np.random.default_rng([12, k])
        found = auroc_interval(g.normal(size=1000) + stats.norm.ppf(0.9) * np.sqrt(10), 3 * g.normal(size=20))
        held += found.low <= 0.9 <= found.high
    assert held / 200 > 0.9  # .88 with the variance of equal spreads alone


def test_difference_of_two_figures_agrees_with_the_normal_theory() -> None:
    one, other = Estimate(0.5, 0.4, 0.6), Estimate(0.3, 0.2, 0.4)
    for correlation in (-0.5, 0.0, 0.9):
        half = np.sqrt(0.02 - 2 * correlation * 0.01)
        found = difference_interval(one, other, correlation)
        assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.2 - half, 0.2 + half))
    same = difference_interval(one, one, 1.0)
    assert (same.low, same.high) == (0, 0)


def test_aupr_is_that_of_scikit_learn_and_its_width_that_of_repeated_draws() -> None:
    g = np.random.default_rng(3)
    draws = [(g.normal(size=150) + 1, g.normal(size=100)) for _ in range(300)]
    found = [precision_interval(*pair) for pair in draws]
    truth = np.r_[np.ones(150), np.zeros(100)]
    values = [average_precision_score(truth, np.concatenate(pair)) for pair in draws]
    np.testing.assert_allclose([e.value for e in found], values)
    # What 1.96 negatives above all others would cost extends the lower margin.
    cost = [
        value
        - average_precision_score(
            np.r_[truth, 0], np.r_[np.concatenate(pair), 99], sample_weight=np.r_[np.ones(250), 1.96]
        )
        for value, pair in zip(values, draws)
    ]
    below = [np.sqrt((e.value - e.low) ** 2 - c**2) for e, c in zip(found, cost)]
    width = np.median([e.high - e.value + b for e, b in zip(found, below)])
    assert width == pytest.approx(2 * 1.96 * np.std(values), rel=0.15)


@pytest.mark.parametrize("kind", ["Student's t", "exponential", "outliers", "log-normal"])
def test_an_aupr_of_scores_with_heavy_tails_covers_the_truth(kind: str) -> None:
    """At an AUROC of .99 to .995; the influence and normal tails held .59 to .89 of the truths (n = 200)."""

    def draw(g: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        if kind == "outliers":
            return g.normal(size=n) + 3.5, g.normal(size=n) + 12 * (g.random(n) < 0.002)
        drawn = {
            "Student's t": lambda: g.standard_t(3, size=n),
            "exponential": lambda: g.exponential(size=n),
            "log-normal": lambda: g.lognormal(size=n),
        }[kind]
        return drawn() + {"Student's t": 5.2, "exponential": 3.9, "log-normal": 8.0}[kind], drawn()

    g = np.random.default_rng(0)
    truth = average_precision_score(np.repeat([1, 0], 300_000), np.concatenate(draw(g, 300_000)))
    found = [precision_interval(*draw(g, 200)) for _ in range(300)]
    assert np.mean([f.low <= truth <= f.high for f in found]) > 0.93


@pytest.mark.parametrize(
    ("m", "n", "shift", "spread"),
    [(60, 60, 1.8, 1.0), (200, 50, 2.0, 3.0), (50, 300, 2.0, 0.5), (90, 90, 0.0, 1.0)],
)
def test_the_least_variance_of_an_aupr_is_that_of_simulated_normal_values(m, n, shift, spread) -> None:
    g = np.random.default_rng(0)
    drawn = [
        precision_interval(g.normal(size=m) + shift, spread * g.normal(size=n)).value for _ in range(600)
    ]
    theta = stats.norm.cdf(shift / np.hypot(1, spread))
    assert _normal_precision_variance(theta, 1 / spread, m, n) == pytest.approx(np.var(drawn), rel=0.2)


def test_an_aupr_of_widely_spread_negatives_covers_the_truth() -> None:
    """One wide negative in a hundred lowers the AUPR, and most samples of fifty do not hold it."""
    g = np.random.default_rng(0)
    shift = stats.norm.ppf(0.95) * np.sqrt(10)
    many = g.normal(size=200_000) + shift, 3 * g.normal(size=200_000)
    truth = average_precision_score(np.repeat([1, 0], 200_000), np.concatenate(many))
    found = [precision_interval(g.normal(size=50) + shift, 3 * g.normal(size=50)) for _ in range(200)]
    assert np.mean([f.low <= truth <= f.high for f in found]) > 0.92  # .80 by the influence alone


def test_the_aupr_of_small_samples_that_are_alike_is_held_by_its_interval() -> None:
    # The figure itself is .54 on average of 20 and 20 alike; an interval around it held .5 in 92 of 100.
    g = np.random.default_rng(4)
    found = [precision_interval(g.normal(size=20), g.normal(size=20)) for _ in range(400)]
    assert np.mean([e.value for e in found]) > 0.53
    above, below = (np.mean([f(e) for e in found]) for f in (lambda e: e.low > 0.5, lambda e: e.high < 0.5))
    assert above < 0.05
    assert below < 0.05
    ties = precision_interval(np.zeros(9), np.zeros(9))
    assert ties.value == 0.5
    assert 0 < ties.low < 0.5 < ties.high < 1
    assert precision_interval(np.ones(9), np.zeros(9)).low < 1
    with pytest.raises(RepdynError, match="shape"):
        precision_interval(np.ones(3), np.ones((3, 2)))


def test_a_mean_over_copies_has_the_interval_of_the_different_samples() -> None:
    g = np.random.default_rng(6)
    values, groups = g.exponential(size=40), np.arange(40)
    plain = bootstrap_mean(values, seed=2)
    assert mean_of_groups(values, groups, seed=2) == plain
    copied = mean_of_groups(np.repeat(values, 25), np.repeat(groups, 25), seed=2)
    assert (copied.low, copied.high) == pytest.approx((plain.low, plain.high))
    # Of repeated experiments with a truth of 1, the interval of single rows misses most.
    draws = [np.repeat(g.exponential(size=30), 25) for _ in range(200)]
    held = [mean_of_groups(x, np.repeat(np.arange(30), 25), seed=1) for x in draws]
    assert np.mean([e.low <= 1 <= e.high for e in held]) > 0.9
    assert np.mean([(e := bootstrap_mean(x, seed=1)).low <= 1 <= e.high for x in draws[:60]]) < 0.5
    share = mean_of_groups(np.repeat([True, False], [30, 10]), np.repeat(np.arange(4), 10))
    assert share.value == 0.75
    assert share.high - share.low > 0.5
    with pytest.raises(RepdynError, match="two arrays"):
        mean_of_groups(values, groups[:3])


@pytest.mark.parametrize("heavy", [False, True])
def test_intervals_of_heavy_tails_are_wider_by_students_quantiles(heavy):
    """The studentized bootstrap by hand, its ends moved out by as much as the variance is uncertain."""
    generator = np.random.default_rng(5)
    x = np.exp(generator.normal(size=60)) if heavy else generator.uniform(size=60)
    found = bootstrap_mean(x, seed=3, resamples=400)
    drawn = x[np.random.default_rng(3).integers(60, size=(400, 60))]
    error = x.std() / np.sqrt(59)
    t = (drawn.mean(axis=1) - x.mean()) / (drawn.std(axis=1) / np.sqrt(59))
    low, high = np.quantile(t, [0.025, 0.975])
    kurtosis = max(stats.kurtosis(x, bias=False), 0.0)
    factor = stats.t.ppf(0.975, 120 / (2 + kurtosis) - 1) / stats.t.ppf(0.975, 59)
    assert (factor > 1.02) == heavy
    np.testing.assert_allclose(
        [found.low, found.high],
        [x.mean() - factor * high * error, x.mean() - factor * low * error],
        rtol=1e-9,
    )


def test_the_studentized_bootstrap_of_a_ratio_is_that_of_its_replicates():
    """Each replicate drawn and studentized by hand, from rows instead of counts."""
    generator = np.random.default_rng(6)
    x, y = np.exp(generator.normal(size=70)), generator.exponential(size=70) + 0.1
    found = ratio_interval(x, y, seed=4, resamples=300)
    drawn = np.random.default_rng(4).integers(70, size=(300, 70))
    a, b = x[drawn], y[drawn]

    def statistic(a, b):
        part = a / a.mean(axis=-1, keepdims=True) - b / b.mean(axis=-1, keepdims=True)
        return np.log(a.mean(axis=-1) / b.mean(axis=-1)), part.std(axis=-1) / np.sqrt(69), part

    value, error, part = statistic(x, y)
    own, own_error, _ = statistic(a, b)
    low, high = np.quantile((own - value) / own_error, [0.025, 0.975])
    excess = max(stats.kurtosis(part, bias=False), 0.0)
    factor = stats.t.ppf(0.975, max(140 / (2 + excess) - 1, 2)) / stats.t.ppf(0.975, 69)
    expected = np.exp([value - factor * high * error, value - factor * low * error])
    np.testing.assert_allclose([found.low, found.high], expected, rtol=1e-9)


@pytest.mark.parametrize("scale", [1e-200, 1e-20, 1e200])
def test_means_know_no_unit(scale):
    x = np.random.default_rng(0).normal(size=40)
    plain, other = bootstrap_mean(x), bootstrap_mean(x * scale)
    assert (other.low / scale, other.high / scale) == pytest.approx((plain.low, plain.high))


def test_replicates_of_equal_samples_do_not_count():
    # Three in ten replicates hold one value alone: there is no error to divide by, whatever the rounding.
    x = np.array([0.3, 0.3, 0.3, 5.1])
    found = bootstrap_mean(x, resamples=1000, seed=2)
    drawn = x[np.random.default_rng(2).integers(4, size=(1000, 4))]
    drawn = drawn[np.ptp(drawn, axis=1) > 0]
    low, high = np.quantile((drawn.mean(axis=1) - x.mean()) / drawn.std(axis=1) * np.sqrt(3), [0.025, 0.975])
    assert 500 < len(drawn) < 900
    factor = stats.t.ppf(0.975, max(8 / (2 + stats.kurtosis(x, bias=False)) - 1, 2)) / stats.t.ppf(0.975, 3)
    expected = x.mean() - factor * np.array([high, low]) * x.std() / np.sqrt(3)
    assert (found.low, found.high) == pytest.approx(tuple(expected.clip(0.3, 5.1)))


@pytest.mark.parametrize("n", [1, 2, 7, 20, 60])
def test_shares_have_blakers_interval(n: int) -> None:
    """Against the test's definition, summed over outcomes on a grid, and two properties that he proved."""
    found = [share_interval(np.arange(n) < k) for k in range(n + 1)]
    ends = np.array([[e.low, e.high] for e in found])
    chance = np.unique(
        np.clip(np.concatenate([np.linspace(0, 1, 801), ends[:, 0] - 1e-7, ends[:, 1] + 1e-7]), 0, 1)
    )
    mass = stats.binom.pmf(np.arange(n + 1)[:, None], n, chance)
    tail = np.minimum(np.cumsum(mass, axis=0), np.cumsum(mass[::-1], axis=0)[::-1])
    accepted = np.array([(mass * (tail <= own * (1 + 1e-9))).sum(axis=0) > 0.05 for own in tail])
    for k, estimate in enumerate(found):
        inside = (chance >= estimate.low) & (chance <= estimate.high)
        assert inside[accepted[k]].all()  # everything acceptable is inside
        at_ends = [np.searchsorted(chance, np.clip(end, 0, 1)) for end in (estimate.low, estimate.high)]
        near = [accepted[k][max(at - 2, 0) : at + 3].any() for at in at_ends]
        assert all(near)  # and the ends touch what is
        lower = stats.beta.ppf(0.025, k, n - k + 1) if k else 0
        upper = stats.beta.ppf(0.975, k + 1, n - k) if k < n else 1
        assert lower - 1e-9 <= estimate.low < estimate.high <= upper + 1e-9
    held = sum(own * ((chance >= e.low) & (chance <= e.high)) for own, e in zip(mass, found))
    assert held.min() > 0.95 - 1e-6
