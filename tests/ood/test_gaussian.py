"""Shrinkage against scikit-learn, densities against SciPy, and when class means are taken."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.covariance import ledoit_wolf as reference

from repdyn.ood.gaussian import cross_fit, fit_gaussian, ledoit_wolf, unit


@pytest.mark.parametrize(("count", "width"), [(200, 10), (20, 50)])
def test_ledoit_wolf_is_scikit_learns(count, width):
    x = np.random.default_rng(0).normal(size=(count, width)) * np.linspace(0.1, 3, width)
    c = x - x.mean(axis=0)
    covariance, intensity = ledoit_wolf(c.T @ c, float(((c * c).sum(axis=1) ** 2).sum()), count)
    expected, expected_intensity = reference(x)
    np.testing.assert_allclose(covariance, expected, atol=1e-12)
    assert intensity == pytest.approx(expected_intensity)


def test_distance_and_likelihood_of_a_mixture():
    generator = np.random.default_rng(1)
    labels = np.repeat([0, 1, 2], [30, 60, 90])
    x = generator.normal(size=(180, 4)) + 4 * np.eye(4)[labels]
    gaussian = fit_gaussian(x, labels)
    residual = x - np.stack([x[labels == k].mean(axis=0) for k in range(3)])[labels]
    scatter = residual.T @ residual
    covariance, _ = ledoit_wolf(scatter, float(((residual**2).sum(axis=1) ** 2).sum()), 180, 178)
    means = [x[labels == k].mean(axis=0) for k in range(3)]
    inverse = np.linalg.inv(covariance)
    new = generator.normal(size=(20, 4))
    squared = np.stack([np.einsum("nd,de,ne->n", new - m, inverse, new - m) for m in means], axis=1)
    np.testing.assert_allclose(gaussian.distance(new), np.sqrt(squared.min(axis=1)), rtol=1e-6)
    density = np.stack([multivariate_normal(m, covariance).logpdf(new) for m in means], axis=1)
    expected = logsumexp(density + np.log([1 / 6, 1 / 3, 1 / 2]), axis=1)
    np.testing.assert_allclose(gaussian.log_likelihood(new), expected, rtol=1e-6)


def test_unit_keeps_a_zero_row():
    np.testing.assert_array_equal(unit(np.array([[3.0, 4.0], [0.0, 0.0]])), [[0.6, 0.8], [0, 0]])


def test_class_means_only_where_they_describe_unseen_samples():
    generator = np.random.default_rng(2)
    labels, fold = np.arange(300) % 3, np.arange(300) % 5
    noise = generator.normal(size=(300, 5))
    apart = noise + 5 * np.eye(5)[labels]
    assert len(cross_fit(apart, labels, fold).gaussian.means) == 3
    assert len(cross_fit(noise, labels, fold).gaussian.means) == 1
    assert len(cross_fit(apart, np.arange(300), fold).gaussian.means) == 1  # a class for each sample
    assert len(cross_fit(apart, None, fold).gaussian.means) == 1


def test_held_out_distances_are_those_of_unseen_samples():
    # Fewer samples than dimensions: fitted samples look far more central than new ones.
    generator = np.random.default_rng(3)
    mix = generator.normal(size=(10, 100))
    draw = lambda n: generator.normal(size=(n, 10)) @ mix + 0.1 * generator.normal(size=(n, 100))  # noqa: E731
    x, new = draw(60), draw(2000)
    found = cross_fit(x, None, np.arange(60) % 5)
    own, unseen = found.gaussian.distance(x).mean(), found.gaussian.distance(new).mean()
    assert own < found.distances.mean()
    assert abs(found.distances.mean() - unseen) < 0.5 * abs(own - unseen)


def test_constant_samples_have_no_density():
    assert cross_fit(np.ones((30, 4)), None, np.arange(30) % 5).gaussian is None
