"""What `Attractors.plot` draws once it knows the field: arrows and orbits, never as if in a plane."""

from __future__ import annotations

import numpy as np
import torch

from repdyn.fields import LatentField


def towards(points: torch.Tensor) -> LatentField:
    """Three attractors."""
    return LatentField(lambda z: 0.7 * z + 0.3 * (torch.softmax(-(torch.cdist(z, points) ** 2), 1) @ points))


def kinds(figure) -> list[str]:
    return [trace.name or trace.type for trace in figure.data]


def test_in_a_plane_there_are_arrows_basins_and_trajectories() -> None:
    points = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])
    field = towards(points)
    found = field.attractors(torch.randn(60, 2, generator=torch.Generator().manual_seed(0)) * 3, seed=0)
    assert {"velocity", "trajectories", "stable", "heatmap"} <= set(kinds(found.plot(field)))
    assert "velocity" not in kinds(found.plot())
    arrows = next(trace for trace in found.plot(field).data if trace.name == "velocity")
    at = torch.tensor(np.stack([arrows.x, arrows.y], axis=1), dtype=torch.float32)
    u, v = field.velocity(at).T.numpy()
    np.testing.assert_allclose(np.arctan2(arrows.v, arrows.u), np.arctan2(v, u), atol=1e-3)


def test_outside_of_a_plane_there_are_projected_orbits_and_no_arrow() -> None:
    field = towards(4 * torch.eye(3, 5))
    found = field.attractors(torch.randn(60, 5, generator=torch.Generator().manual_seed(0)), seed=0)
    names = kinds(found.plot(field))
    assert "trajectories (projected)" in names
    assert "velocity" not in names


def test_an_orbit_that_leaves_is_drawn_until_it_has_left() -> None:
    field = LatentField(lambda z: 1.5 * z)
    found = field.attractors(torch.randn(20, 2, generator=torch.Generator().manual_seed(0)), seed=0)
    orbits = next(trace for trace in found.plot(field).data if trace.name == "trajectories")
    assert np.nanmax(np.abs(orbits.x)) < 5 * np.abs(found.starts).max()


def test_starts_are_drawn_where_they_were_and_the_callers_tensor_is_left_alone() -> None:
    points = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])  # float32: this map works in nothing else
    z = torch.randn(20, 2, generator=torch.Generator().manual_seed(0)) * 3
    given = z.clone()
    found = towards(points).attractors(z, seed=0)
    assert torch.equal(z, given)
    np.testing.assert_allclose(found.starts, given.numpy(), atol=1e-6)
