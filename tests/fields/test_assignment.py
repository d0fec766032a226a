"""New points go where iteration takes them, or nowhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from repdyn.errors import RepdynError
from repdyn.fields import LatentField


def normal(n: int, d: int, seed: int) -> Tensor:
    return torch.randn((n, d), generator=torch.Generator().manual_seed(seed))


def wells(z: Tensor) -> Tensor:
    return torch.tanh(3 * z)


def test_new_points_reach_what_the_search_would_have_given_them() -> None:
    field = LatentField(wells)
    found = field.attractors(normal(300, 2, 0))
    new = normal(200, 2, 1)
    again = field.attractors(torch.cat([torch.from_numpy(found.starts).float(), new]))
    assigned = found.assign(field, new)
    np.testing.assert_allclose(found.points[assigned], again.points[again.basin[300:]], atol=1e-4)
    assert set(assigned.tolist()) == {0, 1, 2, 3}


def test_every_phase_of_a_cycle_and_of_a_circle_belongs_to_it() -> None:
    def turn(angle: float) -> LatentField:
        c, s = np.cos(angle), np.sin(angle)
        rotation = torch.tensor([[c, s], [-s, c]])

        def step(z: Tensor) -> Tensor:
            radius = z.norm(dim=1, keepdim=True)
            return z / radius * (1 + 0.5 * (radius - 1)) @ rotation.to(z)

        return LatentField(step)

    for field in (turn(2 * np.pi * (np.sqrt(5) - 1) / 2), LatentField(lambda z: -torch.tanh(3 * z))):
        found = field.attractors(normal(50, 2, 0), max_steps=500)
        assigned = found.assign(field, normal(30, 2, 1))
        assert (assigned >= 0).all()
        assert len(set(assigned.tolist())) == len(set(found.basin.tolist()))


def test_what_escapes_or_ends_elsewhere_belongs_to_nothing() -> None:
    field = LatentField(lambda z: torch.where(z.abs() > 2, 3 * z, torch.tanh(3 * z)))
    found = field.attractors(torch.tensor([[0.5], [1.0]]))
    assert len(found) == 1
    assert found.assign(field, torch.tensor([[0.2], [5.0], [-0.5]])).tolist() == [0, -1, -1]


def test_a_point_of_another_width_is_refused() -> None:
    field = LatentField(wells)
    found = field.attractors(normal(5, 2, 0))
    with pytest.raises(RepdynError, match="3 dimensions, expected 2"):
        found.assign(field, normal(5, 3, 0))
