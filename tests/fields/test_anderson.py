from __future__ import annotations

import numpy as np
import pytest
import torch

from repdyn.fields import LatentField
from repdyn.fields.verification import anderson, measure_decay


@pytest.fixture(scope="module")
def linear() -> tuple[LatentField, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    q = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64))[0]
    matrix = q @ torch.diag(torch.tensor([0.97, 0.9, 0.7, 0.5, 0.2, 0.0], dtype=torch.float64)) @ q.T
    point = torch.ones(6, dtype=torch.float64)
    return LatentField(lambda z: point + (z - point) @ matrix.T), point


def wells(z: torch.Tensor) -> torch.Tensor:
    """Gradient descent on (z² - 1)² a coordinate: a fixed point at each corner of a cube, saddles between."""
    return z - 0.05 * 4 * z * (z**2 - 1)


def test_a_linear_map_is_solved_in_as_many_steps_as_it_has_rates(linear):
    field, point = linear
    z, residual, steps, converged = anderson(
        field, point + torch.eye(6, dtype=torch.float64), torch.full((6,), 1e3), tolerance=1e-9, max_steps=60
    )
    assert converged.all()
    assert torch.allclose(z, point.expand_as(z), atol=1e-6)
    assert (residual <= 1e-9).all()
    plain = np.log(1e-9) / np.log(0.97)
    assert int(steps.max()) < plain / 10


def test_nobody_goes_further_than_allowed(linear):
    field, point = linear
    start = point + torch.eye(6, dtype=torch.float64)
    z, _, _, converged = anderson(field, start, torch.full((6,), 1e-3), tolerance=1e-9, max_steps=60)
    assert not converged.any()
    assert torch.equal(z, start)


def test_decay_says_how_far_a_geometric_series_goes():
    field = LatentField(lambda z: 0.5 * z)
    z, residual, reach = measure_decay(field, torch.tensor([[1.0, 0.0]]))
    assert z[0, 0] == pytest.approx(0.5**8)
    assert residual[0] == pytest.approx(0.5**9)
    assert reach[0] == pytest.approx(2 * 0.5**9)
    assert measure_decay(LatentField(lambda z: 1.1 * z), torch.ones(1, 2))[2][0] == 0


def test_destinations_are_those_of_plain_iteration():
    starts = torch.from_numpy(np.random.default_rng(0).uniform(-1.4, 1.4, (300, 3)))
    field = LatentField(wells)
    plain = field.attractors(starts)
    fast = field.attractors(starts, solver="anderson")
    assert len(plain) == len(fast) == 8
    moved = np.linalg.norm(plain.points[plain.basin] - fast.points[fast.basin], axis=1)
    assert (moved < 1e-3).mean() >= 0.99
    assert fast.solver == "anderson"


def test_a_rotation_is_not_mistaken_for_a_fixed_point():
    angle = 0.7
    turn = torch.tensor([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])

    def circle(z: torch.Tensor) -> torch.Tensor:  # attracted to the unit circle, turning on it
        return (z / z.norm(dim=1, keepdim=True).clamp_min(1e-9)) @ turn.T

    starts = torch.from_numpy(np.random.default_rng(1).normal(size=(40, 2)))
    found = LatentField(circle).attractors(starts, solver="anderson", max_steps=400)
    assert "fixed point" not in found.kind
