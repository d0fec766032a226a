"""The same data in other units: the same values and verdicts, with no absolute floor in the way."""

import warnings

import numpy as np
import pytest
import torch

from repdyn.disentangle import SKD
from repdyn.fields import SurrogateAutoencoder
from repdyn.fields.surrogate import SurrogateWarning
from repdyn.intervals import Estimate
from repdyn.koopman.attack import recovered_by_probe
from repdyn.koopman.operators import LeastSquares
from repdyn.koopman.readout import Autonomy
from repdyn.koopman.resdmd import left_vectors
from repdyn.koopman.spectrum import decompose
from repdyn.paths import RepresentationPaths
from repdyn.topology.flow_network import geodesic_coordinates

UNITS = (1e-60, 1e-20, 1e-10, 1e10, 1e60)


@pytest.mark.parametrize("unit", UNITS)
def test_a_probe_and_a_solved_operator_do_not_see_the_unit(unit: float) -> None:
    g = np.random.default_rng(0)
    x = g.normal(size=(200, 6))
    y = x[:, 0] + 0.3 * g.normal(size=200) > 0
    one, other = (recovered_by_probe(x[:100] * s, y[:100], x[100:] * s, y[100:], 0) for s in (1.0, unit))
    assert one.value == pytest.approx(other.value, abs=0.02)
    assert one.value > 0.8
    solved = LeastSquares(6, 1)
    turn = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(0)).double())[0]
    solved.solve(torch.tensor(x * unit), torch.tensor(x * unit) @ turn)
    torch.testing.assert_close(solved.weight, turn, atol=1e-3, rtol=0)


@pytest.mark.parametrize("unit", [1e-10, 1e10])
def test_geodesics_of_an_arc_are_its_angle_in_any_unit(unit: float) -> None:
    angle = np.linspace(0, 3, 120)
    points = torch.tensor(np.stack([np.cos(angle), np.sin(angle)], axis=1) * unit)
    found = geodesic_coordinates(points, 1)[:, 0].double().numpy()
    assert abs(np.corrcoef(found, angle)[0, 1]) > 0.9999
    assert found.std() / unit == pytest.approx(angle.std(), rel=0.02)


@pytest.mark.parametrize("unit", UNITS)
def test_a_surrogate_reads_directions_in_any_unit(unit: float) -> None:
    x = np.random.default_rng(0).normal(size=(60, 5))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SurrogateWarning)
        one, other = (
            SurrogateAutoencoder(2, (16,), epochs=3, penalty=0.1).fit(
                RepresentationPaths.from_arrays({"last": x * s}), "last"
            )
            for s in (1.0, unit)
        )
    assert one.reconstruction_.value == pytest.approx(other.reconstruction_.value, rel=1e-4)
    torch.testing.assert_close(one.encode(x), other.encode(x * unit), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("unit", [1e-20, 1e-8, 1e10])
def test_skd_of_paths_in_any_unit(unit: float) -> None:
    g = np.random.default_rng(0)
    x = g.normal(size=(60, 6))
    parts = []
    for s in (1.0, unit):
        arrays = {str(k): (np.cos(k) * x + np.sin(k) * x[:, ::-1]) * s for k in range(4)}
        paths = RepresentationPaths.from_arrays(arrays)
        model = SKD(latent_dim=4, static_dim=1)
        model.fit(paths, epochs=2, seed=0)
        parts.append(model.factors(paths))
    np.testing.assert_allclose(parts[0].static, parts[1].static, atol=1e-3)
    np.testing.assert_allclose(parts[0].dynamic, parts[1].dynamic, atol=1e-3)


@pytest.mark.parametrize("unit", [1e-100, 1e-17, 1e12])
def test_left_vectors_of_observables_of_unequal_size(unit: float) -> None:
    g = np.random.default_rng(0)
    vectors = g.normal(size=(5, 5)) + 1j * g.normal(size=(5, 5))
    size = np.array([1.0, unit, 1.0, unit, 1.0])
    # Oracle: the inverse of a product is known without any cut-off.
    expected = np.linalg.inv(vectors) / size
    np.testing.assert_allclose(left_vectors(vectors * size[:, None]), expected, rtol=1e-8)
    np.testing.assert_allclose(left_vectors(vectors), np.linalg.pinv(vectors), rtol=1e-8)


@pytest.mark.parametrize("unit", [1e-8, 1e8])
def test_modes_of_unequal_observables_give_back_the_state(unit: float) -> None:
    g = np.random.default_rng(0)
    matrix = np.array([[0.9, 0.1, 0.0], [0.0, 0.7, 0.2], [0.0, 0.0, 0.5]])
    states = [g.normal(size=(100, 3))]
    for _ in range(3):
        states.append(states[-1] @ matrix)
    size = np.array([1.0, unit, 1.0])
    z = np.stack(states) * size
    found = decompose(z, resamples=10)
    np.testing.assert_allclose(np.sort(np.abs(found.eigenvalues)), [0.5, 0.7, 0.9], atol=1e-5)
    back = (z[0] @ found.vectors @ found.modes).real
    np.testing.assert_allclose(back / size, states[0], atol=1e-6)


def test_two_exact_maps_are_autonomous_whatever_their_rounding() -> None:
    exact = tuple(Estimate(v, v, v) for v in (1e-16, 0.0, 0.1))
    shared = tuple(Estimate(v, v, v) for v in (1e-14, 0.0, 0.2))
    assert Autonomy(("a", "b", "c"), exact, shared).gap == pytest.approx((1, 1, 2))
