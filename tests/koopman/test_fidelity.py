"""Fidelity: figures beside their controls, through probe and head, saved and drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import RidgeClassifier

from repdyn.errors import RepdynError
from repdyn.intervals import Estimate
from repdyn.koopman import Fidelity, KoopmanAutoencoder
from repdyn.koopman.readout import KOOPMAN, TRUE, LinearProbe
from repdyn.koopman.settings import ControlSettings
from repdyn.paths import RepresentationPaths, open_paths


@pytest.fixture(scope="module")
def found(train, test) -> Fidelity:
    kae = KoopmanAutoencoder(latent_dim=8, hidden=(16,)).fit(train, epochs=40, batch_size=64)
    weight = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    return kae.fidelity(test, head=lambda x: x @ weight)


def test_every_figure_has_its_controls_and_an_interval(found) -> None:
    assert found.points == ("layer1", "layer2", "layer3")
    assert next(iter(found.fvu)) == KOOPMAN
    assert set(found.fvu) == {
        KOOPMAN,
        "identity",
        "affine",
        "shared affine",
        "per-step affine",
        "random features",
    }
    for row in found.fvu.values():
        assert all(e.low <= e.value <= e.high for e in row)
    assert found.fvu[KOOPMAN][-1].value < 0.1
    assert found.fvu["affine"][-1].value < 1e-3
    assert found.best_control in {"affine", "per-step affine", "random features"}


@pytest.mark.parametrize(
    ("ours", "control", "verdict"),
    [
        ((0.3, 0.2, 0.4), (0.6, 0.5, 0.7), "found"),
        ((0.6, 0.5, 0.7), (0.3, 0.2, 0.4), "not found"),
        ((0.5, 0.4, 0.6), (0.55, 0.45, 0.65), "inconclusive"),
        ((1.3, 1.2, 1.4), (1.6, 1.5, 1.7), "not found"),  # less wrong than the control, worse than the mean
        ((0.95, 0.9, 1.05), (1.6, 1.5, 1.7), "inconclusive"),
    ],
)
def test_the_verdict_compares_with_the_best_control_and_with_the_mean(ours, control, verdict) -> None:
    fvu = {
        KOOPMAN: (Estimate(0.1, 0.0, 0.2), Estimate(*ours)),
        "identity": (Estimate(2.0, 1.9, 2.1), Estimate(2.0, 1.9, 2.1)),
        "affine": (Estimate(0.05, 0.04, 0.06), Estimate(*control)),
    }
    found = Fidelity(("b", "c"), 10, fvu, None, None, {})
    assert found.best_control == "affine"
    assert found.verdict == verdict == found.to_dict()["verdict"]
    assert f"at c: {verdict} (best control: affine)" in repr(found)


def test_probe_on_a_perfect_prediction_reaches_the_ceiling(found) -> None:
    assert found.accuracy is not None
    assert found.accuracy["affine"][-1].value == pytest.approx(found.accuracy[TRUE][-1].value, abs=0.03)
    assert found.accuracy[TRUE][-1].value > 0.8


def test_head_agrees_with_itself(found) -> None:
    assert found.head is not None
    assert found.head["affine"]["agreement"].value > 0.97
    assert 0 <= found.head["affine"]["kl"].value < 1e-3 < found.head["identity"]["kl"].value
    assert set(found.head[TRUE]) == {"accuracy"}


def test_without_labels_and_head_there_are_no_accuracies(train, test) -> None:
    bare = RepresentationPaths.from_arrays({p: test[p] for p in test.points})
    kae = KoopmanAutoencoder(4, ()).fit(train, epochs=1)
    found = kae.fidelity(bare)
    assert found.accuracy is None
    assert found.head is None
    assert "probe" not in repr(found)


def test_figures_do_not_depend_on_the_blocks_that_are_read(train, test, monkeypatch, tmp_path) -> None:
    kae = KoopmanAutoencoder(latent_dim=8, hidden=(16,)).fit(train, epochs=2, batch_size=64)
    weight = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    whole = kae.fidelity(test, head=lambda x: x @ weight).to_dict()
    test.save(tmp_path / "test.paths")
    read = []
    iterate = RepresentationPaths.iterate
    monkeypatch.setattr(
        RepresentationPaths,
        "iterate",
        lambda self, points=None, size=None: read.append(size) or iterate(self, points, size),
    )
    monkeypatch.setattr("repdyn.koopman.readout._BLOCK_BYTES", 8 * 24 * 7)  # seven samples
    parts = kae.fidelity(open_paths(tmp_path / "test.paths"), head=lambda x: x @ weight).to_dict()
    assert 7 in read

    def compare(one, other) -> None:
        if isinstance(one, dict):
            assert one.keys() == other.keys()
            for key in one:
                compare(one[key], other[key])
        elif isinstance(one, list):
            for a, b in zip(one, other, strict=True):
                compare(a, b)
        else:
            assert one == (pytest.approx(other, rel=1e-4, abs=1e-6) if isinstance(one, float) else other)

    compare(whole, parts)


def test_unexplained_variance_is_that_of_the_formula(found, test, train) -> None:
    from repdyn.koopman import controls

    predicted = controls(train)["affine"](np.asarray(test["layer0"]))
    for number, point in enumerate(found.points):
        x = np.asarray(test[point], np.float64)
        expected = ((predicted[number] - x) ** 2).sum() / ((x - x.mean(axis=0)) ** 2).sum()
        assert found.fvu["affine"][number].value == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_probes_of_many_samples_are_fitted_on_some_and_it_is_said(train, test, monkeypatch) -> None:
    kae = KoopmanAutoencoder(4, ()).fit(train, epochs=1)
    every = kae.fidelity(test)
    assert every.probed == (400, 400)
    assert "training samples" not in repr(every)
    monkeypatch.setattr("repdyn.koopman.readout._SETTINGS", ControlSettings(probe_rows=120))
    some = kae.fidelity(test)
    assert some.probed == (120, 400)
    assert "probe accuracy, probes fitted on 120 of 400 training samples" in repr(some)
    assert some.accuracy[TRUE][-1].value == pytest.approx(every.accuracy[TRUE][-1].value, abs=0.1)
    assert some.to_dict()["probed"] == [120, 400]


def test_saved_drawn_and_shown(found, tmp_path) -> None:
    found.save(tmp_path / "fidelity")
    assert Fidelity.load(tmp_path / "fidelity").to_dict() == found.to_dict()
    assert KOOPMAN in repr(found)
    drawn = {trace.name for trace in found.plot().data}
    assert all(any(name in str(label) for label in drawn) for name in (KOOPMAN, "affine", "random features"))
    with pytest.raises(RepdynError, match="expected a 'koopman'"):
        KoopmanAutoencoder.from_pretrained(tmp_path / "fidelity")


def test_probe_is_as_good_as_scikit_learns() -> None:
    draw = np.random.default_rng(0)
    centres = draw.standard_normal((5, 10))
    y = draw.integers(5, size=600)
    x = centres[y] + 0.8 * draw.standard_normal((600, 10))
    names = np.array(["a", "b", "c", "d", "e"])[y]
    ours = (LinearProbe().fit(x[:300], names[:300]).predict(x[300:]) == names[300:]).mean()
    peer = RidgeClassifier().fit(x[:300], names[:300]).score(x[300:], names[300:])
    assert ours == pytest.approx(peer, abs=0.03)


def test_a_probe_needs_two_classes() -> None:
    with pytest.raises(RepdynError, match="two classes"):
        LinearProbe().fit(np.eye(4), np.zeros(4))
