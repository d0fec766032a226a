"""Held-out distances, and when class means are taken."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from repdyn.ood.comparison import separation
from repdyn.ood.crossfit import RelativeDensity, cross_fit
from repdyn.ood.gaussian import fit_gaussian

FOLD = np.arange(300) % 5


def test_class_means_only_where_they_describe_unseen_samples():
    generator = np.random.default_rng(2)
    labels = np.arange(300) % 3
    noise = generator.normal(size=(300, 5))
    apart = noise + 5 * np.eye(5)[labels]
    fitted = cross_fit(apart, labels, FOLD)
    assert len(fitted.plain.density.means) == len(fitted.relative.density.conditional.means) == 3
    cases = [(noise, labels), (apart, np.arange(300)), (apart, None), (apart, np.zeros(300, dtype=int))]
    for x, given in cases:  # labels that say nothing, one class for each sample, none, one
        fitted = cross_fit(x, given, FOLD)
        assert len(fitted.plain.density.means) == 1
        assert fitted.relative is fitted.twofold is None


def test_held_out_distances_are_those_of_unseen_samples():
    # Fewer samples than dimensions: fitted samples look far more central than new ones.
    generator = np.random.default_rng(3)
    mix = generator.normal(size=(10, 100))

    def draw(count):
        return generator.normal(size=(count, 10)) @ mix + 0.1 * generator.normal(size=(count, 100))

    x, new = draw(60), draw(2000)
    found = cross_fit(x, None, np.arange(60) % 5).plain
    own, unseen = found.density.distance(x).mean(), found.density.distance(new).mean()
    assert own < found.distances.mean()
    assert abs(found.distances.mean() - unseen) < 0.5 * abs(own - unseen)


def test_relative_distance_is_twice_the_log_likelihood_ratio_but_for_a_constant():
    generator = np.random.default_rng(4)
    labels = np.arange(300) % 2
    x = generator.normal(size=(300, 3)) + 50 * np.eye(3)[labels]  # so far apart that one class counts
    conditional, background = fit_gaussian(x, labels), fit_gaussian(x, None)
    covariance = [np.linalg.inv(g.whitener @ g.whitener.T) for g in (conditional, background)]
    means = [x[labels == 0].mean(axis=0), x[labels == 1].mean(axis=0)]
    near = [multivariate_normal(mean, covariance[0]).logpdf(x) for mean in means]
    ratio = 2 * (multivariate_normal(x.mean(axis=0), covariance[1]).logpdf(x) - np.max(near, axis=0))
    difference = RelativeDensity(conditional, background).distance(x) - ratio
    np.testing.assert_allclose(difference, difference[0], rtol=1e-5)


def test_twofold_hears_what_either_distance_misses():
    generator = np.random.default_rng(5)
    labels = np.arange(3000) % 2

    def draw(count, axis):
        x = generator.normal(size=(count, 100))
        x[:, 0] += np.where(np.arange(count) % 2 == 0, -6, 6) if axis != 0 else 0
        if axis:
            x[:, axis] += 8  # a direction in which classes do not differ
        return x

    fitted = cross_fit(draw(3000, None), labels, np.arange(3000) % 5)
    new, between, aside = draw(600, None), draw(600, 0), draw(600, 5)

    def area(found, foreign):
        return separation(-found.density.distance(new), -found.density.distance(foreign)).auroc[0]

    assert area(fitted.plain, between) < 0.9 < area(fitted.twofold, between)
    assert area(fitted.relative, aside) < 0.8 < 0.95 < area(fitted.twofold, aside)


def test_nothing_far_out_is_called_normal():
    generator = np.random.default_rng(6)
    labels = np.arange(400) % 4
    x = generator.normal(size=(400, 20)) + 3 * np.eye(20)[labels]
    fitted = cross_fit(x, labels, np.arange(400) % 5)
    directions = generator.normal(size=(50, 20))
    for found in (fitted.plain, fitted.relative, fitted.twofold):
        near, far = (found.density.distance(scale * directions) for scale in (100.0, 200.0))
        assert (far > near).all()
    assert (fitted.twofold.density.distance(10 * directions) > fitted.twofold.distances.max()).all()


@pytest.mark.parametrize("x", [np.ones((30, 4)), np.ones((30, 4)) + 1e-9 * np.arange(30)[:, None]])
def test_constant_samples_have_no_density(x):
    assert cross_fit(x, None, np.arange(30) % 5) is None
