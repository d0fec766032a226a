"""Detectors over a latent field: planted fields with known orbits, divergence, disk, faults."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from repdyn.errors import RepdynError
from repdyn.ood import (
    AttractorDetector,
    ReconstructionDetector,
    ResidualDetector,
    TrajectoryDetector,
    UnionDetector,
    evaluate,
    load_detector,
)
from repdyn.ood.comparison import separation
from repdyn.paths import RepresentationPaths

ALL = [AttractorDetector, ReconstructionDetector, ResidualDetector, TrajectoryDetector]


def paths_of(x):
    return RepresentationPaths.from_arrays({"x": np.asarray(x, dtype=np.float32)})


class Encode(nn.Module):
    """Projects onto the first two of six coordinates and pulls towards the nearer of (±1, 0)."""

    def forward(self, x):
        z = x[:, :2]
        target = torch.stack([torch.sign(z[:, 0]), torch.zeros_like(z[:, 0])], dim=1)
        return target + 0.5 * (z - target)


class Decode(nn.Module):
    """Back into six coordinates."""

    def forward(self, z):
        return torch.nn.functional.pad(z, (0, 4))


def two_wells(count, seed=0, spread=0.2, off=0.0):
    generator = np.random.default_rng(seed)
    x = np.zeros((count, 6))
    x[:, 0] = generator.choice([-1, 1], count)
    x[:, :2] += spread * generator.normal(size=(count, 2))
    x[:, 2:] += 0.05 * generator.normal(size=(count, 4)) + off
    return paths_of(x)


def test_scores_of_the_parts_in_closed_form():
    fit, test = two_wells(100), two_wells(20, seed=1)
    x = np.asarray(test["x"], dtype=np.float64)
    target = np.stack([np.sign(x[:, 0]), np.zeros(20)], axis=1)
    code = target + 0.5 * (x[:, :2] - target)
    gap = np.linalg.norm(code - target, axis=1)
    back = np.concatenate([x[:, :2] - code, x[:, 2:]], axis=1)
    expected = {ReconstructionDetector: np.linalg.norm(back, axis=1), ResidualDetector: 0.5 * gap}
    for kind, error in expected.items():
        scores = kind(Encode(), Decode()).fit(fit).score_samples(test)
        np.testing.assert_allclose(scores, -error, rtol=1e-4)


def test_attractor_score_in_closed_form():
    # The orbit halves its distance g to the well until the step, half of it, is below 1e-3.
    test = two_wells(20, seed=1)
    detector = AttractorDetector(Encode(), Decode()).fit(two_wells(100))
    assert len(detector.attractors_) == 2
    x = np.asarray(test["x"], dtype=np.float64)[:, :2]
    gap = 0.5 * np.linalg.norm(x - np.stack([np.sign(x[:, 0]), np.zeros(20)], axis=1), axis=1)
    steps = np.array([next(k for k in range(99) if g * 0.5 ** (k + 1) < 1e-3) + 1 for g in gap])
    expected = np.array([np.mean(g * 0.5 ** np.arange(n)) for g, n in zip(gap, steps)])
    np.testing.assert_allclose(detector.score_samples(test), -expected, atol=2e-3)


def test_orbit_tells_what_reconstruction_cannot():
    # Foreign samples lie as near to the plane as others and between the wells: only their orbits are long.
    generator = np.random.default_rng(3)
    x = np.zeros((300, 6))
    x[:, 0] = generator.uniform(-0.2, 0.2, 300)
    x[:, 2:] = 0.05 * generator.normal(size=(300, 4))
    detector = TrajectoryDetector(Encode(), Decode()).fit(two_wells(500))
    result = evaluate(detector, two_wells(300, seed=1), {"between": paths_of(x)})
    assert result.table["TrajectoryDetector"]["between"]["auroc"].value > 0.97
    assert list(result.table)[1:] == ["reconstruction", "first residual", "attractor trajectory"]


@pytest.mark.parametrize("kind", ALL)
def test_diverging_orbits_get_finite_low_scores(kind):
    encode = nn.Sequential(Expand())
    generator = np.random.default_rng(0)
    fit = paths_of(0.1 * generator.normal(size=(60, 3)))
    detector = kind(encode, nn.Identity()).fit(fit)
    scores = detector.score_samples(paths_of(50 + generator.normal(size=(20, 3))))
    assert np.isfinite(scores).all()
    assert scores.max() < detector.score_samples(fit).min()


class Expand(nn.Module):
    """z ↦ z + z³ / 2: contracts nowhere far out, leaves for infinity in a few steps."""

    def forward(self, z):
        return torch.where(z.abs() < 1, 0.5 * z, z**3)


@pytest.mark.parametrize("kind", ALL)
def test_saved_loaded_bound(kind, tmp_path):
    detector, test = kind(Encode(), Decode()).fit(two_wells(60)), two_wells(20, seed=1)
    detector.save(tmp_path / "d")
    again = load_detector(tmp_path / "d")
    with pytest.raises(RepdynError, match="bind"):
        again.score_samples(test)
    with pytest.raises(RepdynError, match="not the one"):
        again.bind(nn.Sequential(Encode(), nn.Tanh()), Decode())
    again.bind(Encode(), Decode())
    np.testing.assert_allclose(again.score_samples(test), detector.score_samples(test), rtol=1e-6)
    for name, control in getattr(again, "controls_", {}).items():
        np.testing.assert_allclose(
            control.score_samples(test), detector.controls_[name].score_samples(test), rtol=1e-6
        )


def test_threshold_holds_on_fresh_samples_after_calibration():
    detector = TrajectoryDetector(Encode(), Decode()).fit(two_wells(200)).calibrate(two_wells(999, seed=5))
    assert np.mean(detector.predict(two_wells(2000, seed=6)) == -1) == pytest.approx(0.05, abs=0.025)


def test_module_says_the_same_and_exports():
    detector, test = TrajectoryDetector(Encode(), Decode()).fit(two_wells(100)), two_wells(30, seed=1)
    module, features = detector.as_module(), {"x": torch.as_tensor(np.asarray(test["x"]))}
    np.testing.assert_allclose(module(features).numpy(), detector.score_samples(test), atol=1e-3)
    program = torch.export.export(module, (features,))
    torch.testing.assert_close(program.module()(features), module(features))
    with pytest.raises(RepdynError, match=r"must be nn\.Modules"):
        TrajectoryDetector(lambda x: x[:, :2] / 2, Decode()).fit(two_wells(40)).as_module()
    with pytest.raises(RepdynError, match="cannot run as a module"):
        AttractorDetector(Encode(), Decode()).fit(two_wells(40)).as_module()


def test_in_a_union_with_others():
    members = {
        "orbit": TrajectoryDetector(Encode(), Decode()),
        "residual": ResidualDetector(Encode(), Decode()),
    }
    union = UnionDetector(members).fit(two_wells(100))
    inside, foreign = (
        union.score_samples(two_wells(50, seed=1)),
        union.score_samples(two_wells(50, 2, off=1.0)),
    )
    assert separation(inside, foreign).auroc[0] > 0.95


def test_chunks_change_nothing(monkeypatch):
    detector, test = TrajectoryDetector(Encode(), Decode()).fit(two_wells(60)), two_wells(50, seed=1)
    whole = detector.score_samples(test)
    monkeypatch.setattr("repdyn.ood.path_chunks.ROWS", 7)
    np.testing.assert_allclose(detector.score_samples(test), whole, rtol=1e-5)


def test_faults():
    with pytest.raises(RepdynError, match="has no auto-encoder"):
        TrajectoryDetector().fit(two_wells(40))
    with pytest.raises(RepdynError, match="decode: gave shape"):
        TrajectoryDetector(Encode(), nn.Identity()).fit(two_wells(40))
    with pytest.raises(RepdynError, match="too few"):
        ResidualDetector(Encode(), Decode()).fit(two_wells(10))
    with pytest.raises(RepdynError, match="steps"):
        TrajectoryDetector(Encode(), Decode(), steps=1).fit(two_wells(40))
    with pytest.raises(RepdynError, match="non-finite codes"):
        ResidualDetector(lambda x: x[:, :2] / 0, Decode()).fit(two_wells(40))
