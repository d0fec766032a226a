"""One coordinate far wider than the rest, any unit, a mean far from zero, repeated samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from repdyn.koopman import KoopmanAutoencoder, controls
from repdyn.koopman.controls import held_out_rows
from repdyn.koopman.frames import PointFrames
from repdyn.koopman.readout import LinearProbe
from repdyn.koopman.resdmd import condition_number
from repdyn.koopman.spectrum import decompose
from repdyn.paths import RepresentationPaths

RP = RepresentationPaths.from_arrays


def unexplained(found: np.ndarray, true: np.ndarray) -> float:
    return float(np.square(found - true).sum() / np.square(true - true.mean(0)).sum())


def linear_path(wide: float, everywhere: bool = False) -> dict[str, np.ndarray]:
    g = np.random.default_rng(0)
    x = g.normal(size=(1200, 16))
    steps = [
        np.eye(16),
        np.eye(16) + 0.2 * g.normal(size=(16, 16)),
        np.eye(16) + 0.2 * g.normal(size=(16, 16)),
    ]
    found = {"a": x, "b": x @ steps[1], "c": x @ steps[1] @ steps[2]}
    for number, own in enumerate(found.values()):
        if number == 0 or everywhere:
            own[:, 0] *= wide
    return found


def cut(arrays: dict[str, np.ndarray], rows: slice) -> RepresentationPaths:
    return RP({point: x[rows] for point, x in arrays.items()})


@pytest.mark.parametrize("wide", [1e2, 1e4, 1e6])
@pytest.mark.parametrize("everywhere", [False, True])
def test_linear_controls_explain_an_exactly_linear_path(wide, everywhere):
    path = linear_path(wide, everywhere)
    fitted, x = controls(cut(path, slice(800))), path["a"][800:]
    ordinary = np.linalg.lstsq(path["a"][:800], path["c"][:800], rcond=None)[0]
    assert unexplained(x @ ordinary, path["c"][800:]) < 1e-10
    for name in ("affine", "per-step affine", "random features"):
        assert unexplained(fitted[name](x)[1], path["c"][800:]) < 1e-6, name


@pytest.mark.parametrize("wide", [1e2, 1e4])
def test_an_autoencoder_learns_beside_a_wide_coordinate(wide):
    for everywhere in (False, True):
        path = linear_path(wide, everywhere)
        kae = KoopmanAutoencoder(16, (), operator="per_step").fit(cut(path, slice(800)), epochs=40)
        assert unexplained(kae.propagate(path["a"][800:], "a", "c"), path["c"][800:]) < 0.05


@pytest.mark.parametrize("wide", [1e3, 1e6])
def test_a_probe_is_as_good_beside_a_wide_coordinate(wide):
    g = np.random.default_rng(1)
    x = g.normal(size=(1500, 20))
    y = (x @ g.normal(size=20) > 0).astype(int)
    plain = (LinearProbe().fit(x[:1000], y[:1000]).predict(x[1000:]) == y[1000:]).mean()
    x[:, 3] *= wide
    assert (LinearProbe().fit(x[:1000], y[:1000]).predict(x[1000:]) == y[1000:]).mean() >= plain - 0.005


@pytest.mark.parametrize("scale", [1e-20, 1e-8, 1e8])
def test_no_unit_makes_a_point_constant(scale):
    path = {point: x * scale for point, x in linear_path(1.0).items()}
    fitted = controls(cut(path, slice(800)))
    assert unexplained(fitted["affine"](path["a"][800:])[1], path["c"][800:]) < 1e-8


def test_a_mean_far_from_zero_in_double_precision():
    path = {point: x + 1e8 for point, x in linear_path(1.0).items()}
    train = cut(path, slice(800))
    assert unexplained(controls(train)["affine"](path["a"][800:])[1], path["c"][800:]) < 1e-8
    near = KoopmanAutoencoder(16, (), operator="per_step").fit(cut(linear_path(1.0), slice(800)), epochs=20)
    far = KoopmanAutoencoder(16, (), operator="per_step").fit(train, epochs=20)
    expected = unexplained(near.propagate(path["a"][800:] - 1e8, "a", "c"), path["c"][800:] - 1e8)
    assert unexplained(far.propagate(path["a"][800:], "a", "c"), path["c"][800:]) < 1.5 * expected + 1e-4


def test_frames_invert_with_wide_coordinates_and_read_old_weights():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(200, 6, generator=g)
    x[:, 2] *= 1e4
    frames = PointFrames({"a": 6, "b": 6}).fit([x, torch.randn(200, 6, generator=g)])
    torch.testing.assert_close(frames.lower(frames.lift(x, 0), 0), x, rtol=1e-4, atol=1e-3)
    assert frames.lift(x, 0).std(dim=0).max() < 5 * frames.lift(x, 0).std(dim=0).median()
    old = {k: v for k, v in frames.state_dict().items() if not k.startswith(("rest_", "wide_"))}
    again = PointFrames({"a": 6, "b": 6})
    again.load_state_dict(old)
    assert (again.wide_0 == 1).all()


def observables(size: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    g = np.random.default_rng(seed)
    operator = np.diag([0.922, 0.6, 0.3, 0.1])
    z = [g.normal(size=(2000, 4))]
    for _ in range(4):
        z.append(z[-1] @ operator)
    return np.stack(z) * size, operator


@pytest.mark.parametrize("span", [1e4, 1e6, 1e8])
def test_eigenvalues_of_observables_of_unequal_size(span):
    z, operator = observables(np.array([1 / span, 1.0, span, 1e-3]))
    found = decompose(z)
    np.testing.assert_allclose(np.sort(found.eigenvalues.real), np.sort(np.diag(operator)), rtol=1e-6)
    assert found.certified.all()
    equal = decompose(observables(np.ones(4))[0])
    assert condition_number(found.gram) == pytest.approx(condition_number(equal.gram), rel=1e-3)
    places = np.array([0.922, 0.5 + 0.1j])
    np.testing.assert_allclose(found.pseudospectrum(places), equal.pseudospectrum(places), atol=1e-5)


def test_repeated_samples_are_on_one_side():
    g = np.random.default_rng(2)
    groups = np.repeat(np.arange(50), 4)[g.permutation(200)]
    held = held_out_rows(200, torch.Generator().manual_seed(0), groups).numpy()
    assert all(len(np.unique(held[groups == k])) == 1 for k in range(50))
    # Labels of noise that a copy would give away: a probe of 60 coordinates and 50 samples, four times each.
    x, y = np.repeat(g.normal(size=(50, 60)), 4, axis=0), np.repeat(g.integers(2, size=50), 4)
    fresh = LinearProbe().fit(x, y)
    once = LinearProbe().fit(x[::4], y[::4])
    assert np.abs(fresh._weight).max() < 3 * np.abs(once._weight).max() + 1e-3
