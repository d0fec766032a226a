"""Equal rows in fits and in figures of translations, migrations, shortenings, gains and swaps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict
from torch import nn

import repdyn
from repdyn.disentangle import static_dynamic_table
from repdyn.disentangle.factors import Factors
from repdyn.koopman import gain
from repdyn.linalg import ridge_by_leave_one_out
from repdyn.migration import documents_found, migrate
from repdyn.shortening.outputs import DIVERGENCE, LOG_PERPLEXITY, UNEXPLAINED, Outputs, loss_between
from repdyn.translation import (
    LinearTranslation,
    cycle_consistency,
    evaluate_stitching,
    fit_affine,
    fit_low_rank,
    fit_orthogonal,
    fit_ridge,
    translate_path,
)

G = np.random.default_rng(0)


def copies(x, times, noise):
    """Every row several times, with a noise below that of single precision."""
    again = np.repeat(x, times, axis=0)
    return again + noise * x.std() * np.random.default_rng(7).normal(size=again.shape)


@pytest.mark.parametrize("penalty", [0.01, 0.3, 10.0])
def test_a_left_out_group_is_left_out_of_the_fit(penalty):
    """The closed form is the cross-validation of scikit-learn, with groups of unequal size."""
    groups = np.sort(np.random.default_rng(1).integers(12, size=40))
    x, y = (
        np.random.default_rng(2).normal(size=(12, 5))[groups],
        np.random.default_rng(3).normal(size=(40, 3)),
    )
    groups = np.unique(groups, return_inverse=True)[1]
    penalties = np.array([1e-3, penalty, 1e3])
    errors = []
    centered = x - x.mean(0)
    for one in penalties * (centered**2).sum() / 5:
        predicted = cross_val_predict(Ridge(alpha=one), x, y, groups=groups, cv=LeaveOneGroupOut())
        errors.append(((predicted - y) ** 2).mean())
    best = Ridge(alpha=penalties[np.argmin(errors)] * (centered**2).sum() / 5).fit(x, y)
    found = ridge_by_leave_one_out(centered, y - y.mean(0), penalties, groups)
    np.testing.assert_allclose(found, best.coef_.T, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("noise", [0.0, 1e-6])
@pytest.mark.parametrize("fit", [fit_ridge, fit_affine, lambda x, y: fit_low_rank(x, y, 10)])
@pytest.mark.parametrize("related", [True, False])
def test_a_fit_of_repeated_pairs_is_that_of_each_once(fit, related, noise):
    """Beside its copy a left-out pair is no test: unrelated sets were fitted to the last digit."""
    x = G.normal(size=(80, 60))
    y = x @ G.normal(size=(60, 50)) / 8 + G.normal(size=(80, 50)) if related else G.normal(size=(80, 50))
    once = fit(x, y)
    again = fit(copies(x, 4, noise), copies(y, 4, noise))
    np.testing.assert_allclose(again.matrix, once.matrix, atol=1e-4 * np.abs(once.matrix).max())


@pytest.mark.parametrize("noise", [0.0, 1e-6])
def test_unrelated_indexes_of_repeated_documents_are_not_migrated(noise):
    """It said 'migrate' for unrelated models: the copies of held-out documents were among the pairs."""
    x, y = (copies(G.normal(size=(110, 150)), 4, noise) for _ in "ab")
    found = migrate(x, y, pairs=np.stack([np.arange(440)] * 2, axis=1))
    assert found.decision == "embed again"
    once = migrate(x[::4], y[::4], pairs=np.stack([np.arange(110)] * 2, axis=1))
    for name in ("Procrustes", "affine", "ridge"):
        assert (found.found[name].low, found.found[name].high) == pytest.approx(
            (once.found[name].low, once.found[name].high), abs=0.06
        )


def test_related_indexes_of_repeated_documents_are_migrated():
    x = G.normal(size=(150, 20))
    y = x @ np.linalg.qr(G.normal(size=(20, 20)))[0] + 0.05 * G.normal(size=(150, 20))
    old, new = copies(x, 3, 1e-6), copies(y, 3, 1e-6)
    assert migrate(old, new, pairs=np.stack([np.arange(450)] * 2, axis=1)).decision == "migrate"
    assert documents_found(old, old[::3] + 1e-7, np.arange(0, 450, 3)).all()


def test_a_round_trip_to_a_copy_is_a_round_trip():
    x = G.normal(size=(60, 5))
    turn = LinearTranslation(np.linalg.qr(G.normal(size=(5, 5)))[0], np.zeros(5), np.zeros(5))
    once, again = (cycle_consistency([turn, turn.inverse], points) for points in (x, copies(x, 4, 0.0)))
    assert (again.value, again.low, again.high) == (1.0, once.low, once.high)


def test_a_ceiling_of_agreement_is_not_that_of_copies():
    """Unrelated points keep few neighbors from depth to depth; copies of themselves they would keep."""
    a, b = G.normal(size=(300, 8)), G.normal(size=(300, 8))
    times = 6
    x, y = (np.repeat(G.normal(size=(300, 8)), times, axis=0) for _ in "xy")
    paths = {"x": x, "y": y}
    pairs = np.stack([np.arange(len(x))] * 2, axis=1)
    again = translate_path(paths, paths, pairs=pairs)
    once = translate_path({"x": a, "y": b}, {"x": a, "y": b}, pairs=np.stack([np.arange(300)] * 2, axis=1))
    assert again.self_agreement[0] < once.self_agreement[0] + 0.1


@pytest.mark.parametrize("kind", [LOG_PERPLEXITY, DIVERGENCE, UNEXPLAINED])
def test_a_loss_of_repeated_samples_is_as_uncertain_as_of_each_once(kind):
    own, other = np.random.default_rng(4).normal(size=(2, 50, 3))
    if kind == LOG_PERPLEXITY:
        own, other = np.abs(own), np.abs(other) + 1
    if kind == DIVERGENCE:
        own, other = (x - np.log(np.exp(x).sum(1, keepdims=True)) for x in (own, other))
    groups = np.repeat(np.arange(50), 4)
    once = loss_between(Outputs(kind, own), Outputs(kind, other), 0)
    repeated = (Outputs(kind, np.repeat(x, 4, axis=0)) for x in (own, other))
    again = loss_between(*repeated, 0, groups)
    for one, two in zip(once, again, strict=True):
        if one is not None:
            assert (two.value, two.low, two.high) == pytest.approx((one.value, one.low, one.high), rel=1e-6)


def test_a_stitched_model_is_not_surer_of_repeated_inputs():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        body = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6))
        head = nn.Linear(6, 3)
        model = repdyn.wrap(body, head=head)
        x = torch.randn(60, 4)
    with torch.no_grad():
        labels = head(body(x)).argmax(1)
    labels[::3] = (labels[::3] + 1) % 3
    same = LinearTranslation(np.eye(6), np.zeros(6), np.zeros(6))
    once = evaluate_stitching(model, same, model, x, labels)
    again = evaluate_stitching(model, same, model, x.repeat(5, 1), labels.repeat(5))
    for name, estimate in once.accuracy.items():
        other = again.accuracy[name]
        assert (other.value, other.low, other.high) == pytest.approx(
            (estimate.value, estimate.low, estimate.high), abs=1e-6
        )


def test_gains_of_repeated_inputs_are_as_uncertain_as_of_each_once():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Tanh(), nn.Linear(4, 4)), nn.Linear(4, 4))
        x = torch.randn(80, 4)
    model = repdyn.wrap(module, points=["0", "1", "2"])
    paths = repdyn.trace(model, 3 * torch.randn(200, 4, generator=torch.Generator().manual_seed(1)))
    few = 3 * x[:12]
    weights = np.ones(4)  # of one output, so that no direction is drawn
    once, again = (gain(model, paths, inputs, readout=weights) for inputs in (few, few.repeat(8, 1)))
    for one, other in zip(once.true, again.true, strict=True):
        assert (other.value, other.low, other.high) == pytest.approx((one.value, one.low, one.high), rel=1e-5)


def test_swaps_of_repeated_sequences_are_as_uncertain_as_of_each_once():
    g = np.random.default_rng(0)
    color, speed = g.integers(3, size=(2, 80))
    static = np.repeat(np.eye(3, dtype=np.float32)[color][:, None], 4, axis=1)
    static = np.concatenate([static, np.zeros_like(static)], axis=2)
    moving = np.concatenate([np.zeros_like(static[..., :3]), static[..., :3] * 0], axis=2)
    moving[..., 3:] = np.eye(3, dtype=np.float32)[speed][:, None]
    static, moving = (x + 0.3 * g.normal(size=x.shape).astype(np.float32) for x in (static, moving))

    def judge(latents):
        mean = latents.mean(axis=1)
        return {"color": mean[:, :3].argmax(1), "speed": mean[:, 3:].argmax(1)}

    def table(times):
        rows = np.repeat(np.arange(80), times)
        parts = Factors(static[rows], moving[rows], np.ones((len(rows), 4), dtype=bool))
        return static_dynamic_table(parts, judge, {"color": color[rows]}, {"speed": speed[rows]}, passes=40)

    once, again = table(1).strict(), table(5).strict()
    assert again.value == pytest.approx(once.value, abs=0.1)
    assert again.high - again.low == pytest.approx(once.high - once.low, rel=0.3)


def test_procrustes_needs_no_groups():
    x, y = G.normal(size=(2, 30, 4))
    once, again = fit_orthogonal(x, y), fit_orthogonal(copies(x, 3, 0), copies(y, 3, 0))
    np.testing.assert_allclose(again.matrix, once.matrix, atol=1e-10)
