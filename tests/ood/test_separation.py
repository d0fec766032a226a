"""AUROC, AUPR and FPR@95 against hand counts, scikit-learn and a closed form."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from repdyn.errors import RepdynError
from repdyn.ood.comparison import separation

whole = st.lists(st.integers(-3, 3), min_size=1, max_size=30)


def first_fpr(truth, score):
    false, true, _ = roc_curve(truth, score, drop_intermediate=False)
    return false[np.argmax(true >= 0.95 - 1e-12)]


@settings(max_examples=60, deadline=None)
@given(whole, whole)
def test_agrees_with_scikit_learn_with_ties(inside, outside):
    truth = np.r_[np.ones(len(inside)), np.zeros(len(outside))]
    score = np.r_[inside, outside].astype(float)
    normal, foreign = separation(inside, outside, "id"), separation(inside, outside, "ood")
    assert normal.auroc[0] == pytest.approx(roc_auc_score(truth, score))
    assert foreign.auroc[0] == pytest.approx(normal.auroc[0])
    assert normal.aupr[0] == pytest.approx(average_precision_score(truth, score))
    assert foreign.aupr[0] == pytest.approx(average_precision_score(1 - truth, -score))
    assert normal.fpr95[0] == pytest.approx(first_fpr(truth, score))
    assert foreign.fpr95[0] == pytest.approx(first_fpr(1 - truth, -score))


def test_counted_by_hand():
    inside = np.arange(20.0)  # 95 % of 20 are the 19 highest: the threshold is 1
    found = separation(inside, [0.5, 1.0, 1.5, -3.0], "id")
    assert found.fpr95[0] == 0.5  # 1.0 and 1.5 pass
    # 95 % of 4 foreign samples are all 4: the threshold is 1.5, and 0 and 1 are flagged
    assert separation(inside, [0.5, 1.0, 1.5, -3.0], "ood").fpr95[0] == 0.1


def test_conventions_differ_on_lopsided_scores():
    inside, outside = np.r_[np.zeros(5), np.full(95, 10.0)], np.r_[np.full(90, -1.0), np.full(10, 5.0)]
    assert separation(inside, outside, "id").fpr95[0] == 0.0
    assert separation(inside, outside, "ood").fpr95[0] == 0.05


def test_gaussian_closed_form():
    generator = np.random.default_rng(0)
    found = separation(generator.normal(1.5, 1, 40_000), generator.normal(0, 1, 40_000))
    assert found.auroc[0] == pytest.approx(norm.cdf(1.5 / np.sqrt(2)), abs=0.005)
    assert found.fpr95[0] == pytest.approx(norm.sf(norm.ppf(0.05) + 1.5), abs=0.01)


def test_replicates_are_the_resampled_samples():
    generator = np.random.default_rng(1)
    inside, outside = generator.normal(1, 1, 50).round(1), generator.normal(0, 1, 30).round(1)
    i, o = generator.integers(50, size=50), generator.integers(30, size=30)
    counts = np.bincount(i, minlength=50)[None], np.bincount(o, minlength=30)[None]
    for positive in ("id", "ood"):
        weighted = separation(inside, outside, positive, *counts)
        drawn = separation(inside[i], outside[o], positive)
        for metric in ("auroc", "aupr", "fpr95"):
            assert getattr(weighted, metric)[0] == pytest.approx(getattr(drawn, metric)[0])


@pytest.mark.parametrize(
    ("inside", "outside", "positive", "words"),
    [
        ([], [1.0], "id", "id_scores"),
        ([1.0], [np.nan], "id", "non-finite"),
        ([1.0], [0.0], "neither", "positive"),
    ],
)
def test_faults(inside, outside, positive, words):
    with pytest.raises(RepdynError, match=words):
        separation(inside, outside, positive)
