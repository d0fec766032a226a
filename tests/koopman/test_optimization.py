"""Losses are in units of the target's variance and unmoved by scale and rotation."""

from __future__ import annotations

import torch

from repdyn.koopman import optimization as losses


def _rows(seed: int, rows: int = 64, width: int = 5) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_predicting_the_mean_costs_one() -> None:
    x = _rows(0)
    variance = losses.total_variance(x)
    mean = x.mean(dim=0).expand_as(x)
    assert torch.isclose(losses.reconstruction(mean, x, variance), torch.ones((), dtype=x.dtype))
    assert torch.isclose(losses.state(mean, x, variance), torch.ones((), dtype=x.dtype))
    assert torch.isclose(losses.linearity(mean, x), torch.ones((), dtype=x.dtype))


def test_scale_does_not_matter() -> None:
    x, z = _rows(0), _rows(1)
    assert torch.isclose(losses.linearity(x, z), losses.linearity(100 * x, 100 * z))
    assert torch.isclose(losses.isometry(x, z), losses.isometry(100 * x, 100 * z))


def test_isometry_vanishes_on_rotations_only() -> None:
    x = _rows(0)
    rotation = torch.linalg.qr(_rows(2, 5)).Q
    assert losses.isometry(x, x @ rotation + 3) < 1e-12
    assert losses.isometry(x, 2 * x) > 0.5


def test_isometry_has_a_gradient_where_rows_coincide() -> None:
    z = torch.zeros(4, 3, requires_grad=True)
    losses.isometry(torch.ones(4, 3), z).backward()
    assert z.grad is not None
    assert bool(z.grad.isfinite().all())


def test_the_unit_of_linearity_passes_no_gradient() -> None:
    z = _rows(0).requires_grad_()
    losses.linearity(torch.zeros_like(z), z).backward()
    # |0 - z|^2 / var: with the unit held fixed the gradient is 2 z / (B var), without it it would not be.
    expected = 2 * z.detach() / (len(z) * losses.total_variance(z.detach()))
    assert torch.allclose(z.grad, expected)
