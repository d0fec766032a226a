"""Continua of cycles: one finding each, counted once, and named the same in header, sweep and files."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from repdyn.fields import Attractors, LatentField


def starts(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn((n, d), generator=torch.Generator().manual_seed(seed))


def onto_sphere(z: Tensor) -> Tensor:
    """Every orbit has period two, and all lie on the unit sphere."""
    radius = z.norm(dim=1, keepdim=True)
    return -z * (1 + 0.5 * (radius - 1)) / radius


def onto_circle_by(period: int, turns: int = 1) -> Callable[[Tensor], Tensor]:
    angle = 2 * math.pi * turns / period
    matrix = [[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]

    def step(z: Tensor) -> Tensor:
        turned = z @ torch.tensor(matrix, dtype=torch.float64).to(z)
        return turned * (1 + 0.5 * (1 / z.norm(dim=1, keepdim=True) - 1))

    return step


def onto_two_circles(z: Tensor) -> Tensor:
    radius = z.norm(dim=1, keepdim=True)
    nearer = torch.where(radius < 2, torch.ones_like(radius), 3 * torch.ones_like(radius))
    return -z / radius * (nearer + 0.5 * (radius - nearer))


def turned(z: Tensor, angle: float) -> Tensor:
    c, s = math.cos(angle), math.sin(angle)
    return (z @ torch.tensor([[c, s], [-s, c]]).to(z)) * (1 + 0.5 * (1 / z.norm(dim=1, keepdim=True) - 1))


def counts(found: Attractors) -> set[float]:
    return set(found.counts[:, 1].tolist())


class TestFamilies:
    @pytest.mark.parametrize("d", [2, 3, 8])
    def test_a_sphere_of_orbits_of_period_two_is_one_family(self, d: int) -> None:
        found = LatentField(onto_sphere).attractors(starts(200, d))
        assert found.kind == ("family of cycles",)
        assert found.period.tolist() == [2]
        assert set(found.status) == {"family of cycles"}
        assert counts(found) == {1.0}
        assert found.radius[0] == pytest.approx(1, abs=0.05)
        assert np.abs(found.multipliers[0, 0]) == pytest.approx(1, abs=1e-6)

    @pytest.mark.parametrize(("period", "turns"), [(2, 1), (4, 1), (5, 2), (150, 47)])
    @pytest.mark.parametrize("solver", ["picard", "trapping"])
    def test_a_turn_by_a_fraction_of_the_circle_is_one_family(
        self, period: int, turns: int, solver: str
    ) -> None:
        field = LatentField(onto_circle_by(period, turns))
        found = field.attractors(starts(150, 2), solver=solver, max_steps=500)
        assert (found.kind, found.period.tolist(), counts(found)) == (("family of cycles",), [period], {1.0})
        assert (found.assign(field, starts(20, 2, seed=1)) == 0).all()

    def test_two_circles_are_two_families(self) -> None:
        z = 3 * starts(200, 2)
        found = LatentField(onto_two_circles).attractors(z)
        assert found.kind == ("family of cycles",) * 2
        outer = z.norm(dim=1).numpy() >= 2
        assert len(set(found.basin[outer])) == len(set(found.basin[~outer])) == 1
        assert found.basin[outer][0] != found.basin[~outer][0]
        assert counts(found) == {2.0}

    @pytest.mark.parametrize("n", [3, 12])
    def test_few_starts_on_two_circles_are_kept_apart(self, n: int) -> None:
        z = torch.cat([starts(n, 2), 4 * torch.nn.functional.normalize(starts(n, 2, seed=1))])
        z[:n] /= z[:n].norm(dim=1, keepdim=True)
        assert len(LatentField(onto_two_circles).attractors(z)) == 2

    def test_a_line_of_orbits_of_period_two_is_one_family(self) -> None:
        # Along the line the starts are sparse at its ends: gaps there are no boundaries.
        found = LatentField(lambda z: z * torch.tensor([-1.0, 0.5]).to(z)).attractors(starts(60, 2))
        assert (found.kind, counts(found)) == (("family of cycles",), {1.0})

    def test_half_a_turn_attracts_nothing(self) -> None:
        found = LatentField(lambda z: -z).attractors(starts(40, 3))
        assert (len(found), found.verdict) == (0, "not found")
        assert set(found.status) == {"family of cycles"}
        assert any("continuum of cycles" in note for note in found.notes)

    def test_a_family_beside_a_fixed_point(self) -> None:
        def step(z: Tensor) -> Tensor:
            near = z.norm(dim=1, keepdim=True) < 3
            well = z.new_tensor([10.0, 0.0])
            return torch.where(near, onto_sphere(z), well + 0.5 * (z - well))

        z = torch.cat([starts(40, 2), torch.tensor([[9.0, 1.0], [11.0, 2.0]])])
        found = LatentField(step).attractors(z[z.norm(dim=1) > 0.01])
        assert sorted(found.kind) == ["family of cycles", "fixed point"]
        assert counts(found) == {2.0}


class TestHeaderAndSweep:
    def test_circles_and_chaotic_sets_are_in_the_sweep(self) -> None:
        fixed = LatentField(onto_circle_by(1))  # every point of the circle is fixed
        assert counts(fixed.attractors(starts(20, 2))) == {0.0}
        circle = LatentField(lambda z: turned(z, 1.0)).attractors(starts(20, 2), max_steps=300)
        assert (circle.kind, counts(circle)) == (("invariant circle",), {1.0})
        chaos = LatentField(lambda z: 3.99 * z * (1 - z))
        found = chaos.attractors(torch.linspace(0.05, 0.95, 20, dtype=torch.float64)[:, None], max_steps=200)
        assert counts(found) == {float(len(found))}

    def test_wells_closer_than_the_coarse_tolerances_merge_in_the_sweep_only(self) -> None:
        wells = torch.tensor([[0.0], [0.02], [5.0]], dtype=torch.float64)

        def step(z: Tensor) -> Tensor:
            nearest = wells[torch.cdist(z, wells).argmin(dim=1)]
            return nearest + 0.3 * (z - nearest)

        z = torch.cat([wells, wells + 0.004, wells - 0.004])
        found = LatentField(step).attractors(z)
        at = dict(found.counts)
        assert len(found) == at[1e-3] == at[1e-6] == 3
        assert at[1e-2] == 2

    def test_what_is_saved_and_drawn_names_the_family(self, tmp_path: Path) -> None:
        found = LatentField(onto_sphere).attractors(starts(50, 2))
        found.save(tmp_path / "found")
        again = Attractors.load(tmp_path / "found")
        assert repr(again) == repr(found)
        assert "family of cycles (2)" in repr(again)
        assert again.to_dict()["counts"] == {f"{t:g}": 1 for t in found.counts[:, 0]}
        caption = str(again.plot().to_dict())
        assert "1 family of cycles" in caption
