"""Attractors that differ in a coordinate far narrower than another."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from repdyn.fields import LatentField


def planted(z: torch.Tensor) -> torch.Tensor:
    """Contracts the first coordinate; the second has the roots of z = tanh(3 z)."""
    return torch.stack([z[:, 0] / 2, torch.tanh(3 * z[:, 1])], dim=1)


class Planted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.5, 3.0]))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return torch.stack([z[:, 0] * self.weight[0], torch.tanh(self.weight[1] * z[:, 1])], dim=1)


@pytest.mark.parametrize("wide", [1.0, 1e2, 1e4, 1e6])
@pytest.mark.parametrize("solver", ["picard", "trapping", "anderson"])
@pytest.mark.parametrize("step", [planted, Planted()])
def test_two_attractors_are_two_whatever_the_width(wide, solver, step):
    z = np.random.default_rng(0).normal(size=(200, 2)).astype(np.float32)
    z[:, 0] *= wide
    found = LatentField(step).attractors(torch.tensor(z), solver=solver)
    root = 0.9949  # of z = tanh(3 z)
    assert found.verdict == "found"
    assert len(found) == 2
    np.testing.assert_allclose(np.sort(found.points[:, 1]), [-root, root], atol=1e-3)
    np.testing.assert_allclose(found.points[:, 0], 0, atol=1e-3 * wide)
    assert ((found.points[found.basin, 1] > 0) == (z[:, 1] > 0)).mean() > 0.98
    np.testing.assert_allclose(found.starts, z, rtol=1e-6)
    assert (found.counts[found.counts[:, 0] <= 1e-2, 1] == 2).all()


def test_a_narrow_coordinate_among_wide_ones():
    z = np.random.default_rng(1).normal(size=(120, 3))
    z[:, :2] *= 1e5

    def step(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x[:, 0] / 2, x[:, 1] / 3, torch.tanh(3 * x[:, 2])], dim=1)

    assert len(LatentField(step).attractors(torch.tensor(z))) == 2


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_a_common_unit_changes_no_count(scale):
    z = torch.tensor(np.random.default_rng(2).normal(size=(100, 2)) * scale)
    found = LatentField(lambda x: scale * planted(x / scale)).attractors(z)
    assert len(found) == 2
