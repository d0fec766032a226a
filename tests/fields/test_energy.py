"""Fields of a noised bank: the score of a density, whose steps lower an energy and end at its modes."""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import logsumexp
from torch import Tensor

import repdyn
from repdyn.errors import RepdynError
from repdyn.fields import EnergyField, EnergyWarning, LatentField, ScaleSpace
from repdyn.fields.mean_shift import PosteriorMean, _first_maximum, settled
from repdyn.fields.settings import ENERGY

pytestmark = pytest.mark.filterwarnings("ignore::repdyn.fields.EnergyWarning")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def clusters(n: int = 300, d: int = 6, k: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    label = torch.arange(n) % k
    return 4 * normal(k, d, seed=seed + 50)[label] + 0.3 * normal(n, d, seed=seed), label


def heavy(n: int, d: int) -> Tensor:
    return normal(n, d) / normal(n, 1, seed=3).abs().clamp_min(0.05)


def spirals(n: int) -> Tensor:
    t = torch.linspace(0.5, 12, n, dtype=torch.float64)
    return torch.stack([t * t.cos(), t * t.sin()], dim=1)


KINDS = {
    "gaussian": normal(200, 8),
    "clusters": clusters()[0],
    "spiral": spirals(50),
    "heavy tails": heavy(150, 4),
    "outlier coordinate": normal(150, 5) * torch.tensor([1.0, 1.0, 1.0, 1.0, 3000.0]),
    "far from the origin": normal(150, 3) + 1e4,
    "tiny units": 1e-9 * normal(150, 3),
    "repeated": clusters(40)[0].repeat(8, 1),
    "integers": (3 * normal(300, 2)).round(),
    "wide": normal(60, 500),
}


FEW = replace(ENERGY, levels=4, log_step=1.0, halvings=1)
"""Four scales, compared once, where a test is not about scales: by default sixty, compared five times."""


@pytest.fixture
def few_scales(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repdyn.fields.mean_shift.ENERGY", FEW)


@cache
def field_of(kind: str, neighbors: int | None) -> EnergyField:
    """The field of a kind of bank in all its coordinates, fitted once."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("repdyn.fields.mean_shift.ENERGY", FEW)
        return EnergyField(components=None, neighbors=neighbors).fit(KINDS[kind])


@pytest.fixture(scope="module")
def of_clusters() -> EnergyField:
    """The field of a bank of clusters with all scales, and the noise that it chooses."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("repdyn.fields.mean_shift.ENERGY", replace(ENERGY, halvings=1))
        return EnergyField().fit(clusters(300, 4)[0])


@pytest.fixture(scope="module")
def of_a_cloud() -> tuple[EnergyField, list[str]]:
    """The field of a cloud without parts with all scales, compared five times, and what it warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", EnergyWarning)
        field = EnergyField().fit(normal(400, 8))
    return field, [str(warning.message) for warning in caught]


@pytest.mark.usefixtures("few_scales")
class TestEnergy:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("neighbors", [None, 50])
    def test_every_step_lowers_it_by_half_its_square_and_starts_arrive(
        self, kind: str, neighbors: int | None
    ) -> None:
        # Ten kinds, a thousand starts each, from far outside to the bank itself.
        generator = torch.Generator().manual_seed(1)
        field, whole = field_of(kind, neighbors), field_of(kind, None)
        chosen = torch.randint(len(field.bank_), (1000,), generator=generator)
        reach = torch.linspace(0, 4, 1000, dtype=torch.float64)[:, None] * field.spread_
        z = field.bank_[chosen] + reach * torch.nn.functional.normalize(
            normal(1000, field.bank_.shape[1], seed=2)
        )
        for sigma in (field.spacing_, field.sigma_):
            at, now = field.at(sigma), z
            rounding = 1e-9 * (sigma**2 + field.spread_**2)
            for _ in range(10):
                moved = at(now)
                # Beside cells, the energy of the whole bank lies below that of the part which made the step.
                fall = at.energy(now) - whole.at(sigma).energy(moved)
                assert bool((fall >= 0.5 * (moved - now).square().sum(dim=1) - rounding).all())
                now = moved
        if kind == "spiral":
            return  # along a ridge of even height the steps are short for thousands of steps
        ends, _ = settled(field.step, z[::5], field.sigma_, 400)
        assert bool((field.displacement(ends).norm(dim=1) <= 1e-2 * field.sigma_).all())

    def test_the_step_is_minus_its_gradient(self) -> None:
        field = EnergyField(0.7, components=None).fit(normal(50, 4))
        z = normal(20, 4, seed=5).requires_grad_(True)
        points, weights = field.bank_, field.weights_
        own = -(0.7**2) * torch.logsumexp(-torch.cdist(z, points).square() / (2 * 0.7**2) + weights.log(), 1)
        (gradient,) = torch.autograd.grad(own.sum(), z)
        torch.testing.assert_close(field.displacement(z.detach()), -gradient)
        torch.testing.assert_close(field.energy(z.detach()), own.detach())

    def test_the_modes_are_the_minima_that_an_optimizer_finds(self) -> None:
        bank, label = clusters(60, 3)
        field = EnergyField(0.5, components=None).fit(bank)
        ends = field.settle(field.encode(bank)).numpy()
        points = field.bank_.numpy()

        def energy(z: np.ndarray) -> float:
            return -float(logsumexp(-((z - points) ** 2).sum(axis=1) / (2 * 0.5**2)))

        for i in (0, 1, 2, 3, 4):
            found = minimize(energy, ends[i] + 0.05, method="BFGS", options={"gtol": 1e-9}).x
            np.testing.assert_allclose(ends[i], found, atol=2e-3)
            assert int(label[i]) == i

    @pytest.mark.parametrize(("sigma", "modes"), [(0.9, 2), (0.99, 2), (1.01, 1), (1.5, 1)])
    def test_two_points_have_two_modes_up_to_half_their_distance(self, sigma: float, modes: int) -> None:
        field = EnergyField(sigma).fit(torch.tensor([[-1.0], [1.0]], dtype=torch.float64))
        basin, _ = field.basins(torch.tensor([[-0.9], [0.8], [3.0]], dtype=torch.float64))
        assert len(set(basin.tolist())) == modes

    def test_repeated_points_count_as_often_as_they_occur(self) -> None:
        bank = normal(30, 3)
        doubled = EnergyField(0.6, components=None).fit(torch.cat([bank, bank[:7], bank[:7]]))
        assert len(doubled.bank_) == 30
        z = normal(9, 3, seed=1)
        weights = torch.ones(30, dtype=torch.float64)
        weights[:7] = 3
        p = torch.softmax(weights.log() - torch.cdist(z, bank).square() / (2 * 0.6**2), dim=1)
        torch.testing.assert_close(doubled.decode(doubled(doubled.encode(z))), p @ bank)

    def test_destinations_are_those_of_plain_iteration(self) -> None:
        bank = torch.cat([clusters(600, 12, 20)[0], normal(100, 12)])
        z = bank.repeat(2, 1)[:1000] + 0.5 * normal(1000, 12, seed=9)
        field = EnergyField(0.6, components=None).fit(bank.float())
        now = field.encode(z.float())
        ends = field.settle(now)
        for _ in range(300):
            now = field(now)
        arrived = (field(now) - now).norm(dim=1) < 1e-4 * field.sigma_
        assert int(arrived.sum()) > 990
        assert float((ends - now)[arrived].norm(dim=1).max()) < 0.3 * field.sigma_

    @pytest.mark.parametrize("sigma", [0.95, 0.99])
    def test_starts_that_take_more_steps_than_there_are_modes_arrive_too(self, sigma: float) -> None:
        # Two modes are known from the first round. Starts between them take many steps, and the nearest to
        # the saddle take steps below the tolerance.
        bank = torch.cat([torch.full((50, 1), -1.0), torch.full((50, 1), 1.0)]).double()
        field = EnergyField(sigma).fit(bank)
        z = torch.linspace(-1, 1, 4001, dtype=torch.float64)[:, None] + 1e-5
        ends, steps = settled(field.step, z, field.sigma_)
        assert int(steps.max()) > 50
        modes = field.settle(torch.tensor([[-1.0], [1.0]], dtype=torch.float64))
        side = (z > 0).long()[:, 0]
        assert float((ends - modes[side]).abs().max()) < 0.2 * field.sigma_

    def test_a_saddle_is_no_mode(self) -> None:
        # Of a bank and its mirror image the origin is a saddle, by symmetry.
        cluster = 0.1 * normal(100, 8, seed=1)
        cluster[:, 0] += 1.5
        field = EnergyField(1.2, components=None).fit(torch.cat([cluster, -cluster]))
        saddle = field.encode(torch.zeros(1, 8, dtype=torch.float64))
        z = torch.cat([field.bank_, saddle + 1e-7 * normal(600, 8, seed=3)])
        basin, found = field.basins(z)
        assert len(found) == 2
        assert 100 < int((basin[200:] == 0).sum()) < 500

    def test_the_engine_verifies_the_same_attractors(self) -> None:
        bank, label = clusters()
        field = EnergyField(1.0, components=None).fit(bank)
        codes = field.encode(bank)
        found = field.attractors(codes)
        assert set(found.kind) == {"fixed point"}
        assert set(found.status) == {"fixed point"}
        basin, modes = field.basins(codes)
        assert len(modes) == len(found) == 5
        # A mode's Jacobian is a covariance over the noise variance: symmetric, between 0 and 1.
        assert np.abs(found.multipliers.imag).max() < 1e-6
        assert found.multipliers.real.min() > -1e-6
        assert all(len(set(basin[label.numpy() == k])) == 1 for k in range(5))


@pytest.mark.usefixtures("few_scales")
class TestNeighbors:
    def test_modes_are_those_of_the_whole_bank_where_clusters_are_apart(self) -> None:
        bank, _ = clusters(4000, 12, 20)
        whole, near = (EnergyField(1.0, neighbors=n).fit(bank.float()) for n in (None, 400))
        z = whole.encode(bank[:1000].float())
        np.testing.assert_array_equal(whole.basins(z)[0], near.basins(z)[0])
        torch.testing.assert_close(near(z), whole(z), atol=1e-3, rtol=1e-3)

    def test_only_points_of_cells_beside_are_compared(self) -> None:
        mean = PosteriorMean(normal(1000, 4), torch.full((1000,), 1e-3, dtype=torch.float64), 0.3, 50)
        assert tuple(mean.members.shape) == (32, 50)
        seen: list[int] = []
        mean._by_cell(normal(100, 4), lambda x, b, log_weights: (seen.append(len(b)), x)[1])
        assert set(seen) == {50}


class TestScales:
    def test_planted_clusters_are_found_without_labels(self) -> None:
        bank, _ = clusters(600, 8, 7)
        field = EnergyField().fit(bank)
        _, modes = field.basins(field.encode(clusters(300, 8, 7)[0]))
        assert len(modes) == 7
        assert field.scales_ is not None
        assert field.scales_.agreement.max() == pytest.approx(1)
        assert field.notes_ == ()

    def test_modes_only_merge_and_mass_is_kept(self, of_a_cloud: tuple[EnergyField, list[str]]) -> None:
        scales = of_a_cloud[0].scales_
        assert scales is not None
        assert (np.diff(scales.counts) <= 0).all()
        for s in range(len(scales.sigmas)):
            assert scales.mass[scales.level == s].sum() == pytest.approx(1)
        inner = scales.parent >= 0
        assert (scales.level[scales.parent[inner]] == scales.level[inner] + 1).all()
        assert len(scales.basins()) == len(scales.rows)

    def test_each_node_is_a_mode_at_its_scale(self, of_clusters: EnergyField) -> None:
        field = of_clusters
        scales = field.scales_
        assert scales is not None
        for s in (0, len(scales.sigmas) // 2, len(scales.sigmas) - 1):
            modes = torch.from_numpy(scales.modes[scales.level == s])
            step = field.at(float(scales.sigmas[s])).displacement(modes).norm(dim=1)
            assert float(step.max()) < 1e-2 * scales.sigmas[s]

    def test_the_first_maximum_is_before_the_first_clear_fall(self) -> None:
        assert _first_maximum(np.array([0.1, 0.5, 0.49, 0.6, 0.3, 0.9]), 1000) == 3
        assert _first_maximum(np.array([0.0, 0.2, 0.7, 0.7]), 1000) == 2
        assert _first_maximum(np.zeros(3), 1000) == 0
        # Of twenty starts, a fall by a tenth is noise.
        assert _first_maximum(np.array([0.5, 0.4, 0.8, 0.1]), 20) == 2

    def test_a_cloud_without_parts_is_said_not_to_replicate(
        self, of_a_cloud: tuple[EnergyField, list[str]]
    ) -> None:
        assert any("not reproducible" in warning for warning in of_a_cloud[1])

    @pytest.mark.usefixtures("few_scales")
    def test_a_given_scale_is_one_of_the_tree(self) -> None:
        field = EnergyField(0.77).fit(normal(200, 3))
        assert field.scales_ is not None
        assert 0.77 in field.scales_.sigmas
        assert field.scales_.sigma == field.sigma_ == 0.77

    def test_it_is_saved_and_drawn(self, tmp_path: Path, of_clusters: EnergyField) -> None:
        scales = of_clusters.scales_
        assert scales is not None
        scales.save(tmp_path / "scales")
        again = ScaleSpace.load(tmp_path / "scales")
        assert repr(again) == repr(scales)
        figure = again.plot([f"node {i}" for i in range(len(again.level))])
        assert "modes at the scale that is used" in str(figure.layout.meta)


@pytest.mark.usefixtures("few_scales")
class TestProjection:
    def test_a_map_that_expands_no_longer_diverges(self) -> None:
        bank = clusters(300, 6)[0].float()
        field = EnergyField(1.0, components=None).fit(bank)
        codes = field.encode(bank)
        expanding = LatentField(lambda z: 1.5 * z)
        assert set(expanding.attractors(codes).status) == {"diverged"}
        found = field.projected(expanding).attractors(codes)
        assert "diverged" not in found.status
        assert found.verdict == "found"
        reach = float(codes.norm(dim=1).max())
        assert np.linalg.norm(found.ends, axis=1).max() <= reach * (1 + 1e-5)

    def test_of_the_identity_it_is_the_power_of_the_field(self) -> None:
        field = EnergyField(1.0, components=None).fit(normal(40, 3))
        z = normal(5, 3, seed=1)
        torch.testing.assert_close(field.projected(LatentField(torch.nn.Identity()), 2)(z), field(field(z)))
        with pytest.raises(RepdynError, match="steps"):
            field.projected(field, 0)


class TestBadInput:
    @pytest.mark.usefixtures("few_scales")
    def test_noise_below_the_spacing_is_said(self) -> None:
        with pytest.warns(EnergyWarning, match="below the spacing"):
            EnergyField(0.01).fit(normal(100, 4))

    @pytest.mark.usefixtures("few_scales")
    def test_noise_above_the_spread_is_said(self) -> None:
        with pytest.warns(EnergyWarning, match="share one mode"):
            EnergyField(10.0).fit(normal(100, 4))

    @pytest.mark.usefixtures("few_scales")
    def test_a_useful_noise_warns_of_nothing(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            EnergyField(1.0).fit(clusters()[0])

    def test_one_point(self) -> None:
        field = EnergyField(1.0).fit(torch.ones(1, 3).repeat(30, 1))
        assert any("one distinct point" in note for note in field.notes_)
        torch.testing.assert_close(
            field.decode(field.settle(field.encode(torch.zeros(2, 3)))), torch.ones(2, 3)
        )
        with pytest.raises(RepdynError, match="give sigma"):
            EnergyField().fit(torch.ones(30, 3))

    def test_a_wide_coordinate_does_not_hide_the_others(self) -> None:
        bank, label = clusters(300, 6)
        bank = torch.cat([bank, 1e4 * normal(300, 1, seed=8)], dim=1)
        field = EnergyField(components=None).fit(bank)
        basin, _ = field.basins(field.encode(bank))
        pure = sum(
            int(torch.bincount(label[torch.from_numpy(basin) == b]).max()) for b in set(basin.tolist())
        )
        assert pure == 300

    @pytest.mark.usefixtures("few_scales")
    @pytest.mark.parametrize("components", [2, 6, 12])
    def test_decoded_coordinates_are_near_the_latents(self, components: int) -> None:
        # Of embeddings with a common direction, few components leave what principal components leave, and the
        # part that lengths had.
        x = torch.nn.functional.normalize(clusters(300, 12)[0] + 3, dim=1)
        field = EnergyField(0.5, components=components, unit_length=True).fit(x)
        total = (x - x.mean(dim=0)).square().sum()
        left = float((field.decode(field.encode(x)) - x).square().sum() / total)
        flat = field.encode(x) * 0 + field.encode(x).mean(dim=0)  # the best single point
        assert left < 1.3 * (1 - field.explained_) + 0.25
        assert left < 0.9 * float((field.decode(flat) - x).square().sum() / total)

    @pytest.mark.usefixtures("few_scales")
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    def test_precision_follows_the_bank_and_answers_follow_the_question(self, dtype: torch.dtype) -> None:
        field = EnergyField(1.0).fit(clusters(100, 4)[0].to(dtype))
        assert field.bank_.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        x = clusters(10, 4)[0].to(dtype)
        assert field.encode(x).dtype == dtype
        assert field.energy(field.encode(x)).dtype == dtype

    @pytest.mark.usefixtures("few_scales")
    def test_a_bank_on_another_device_refuses_nothing_and_moves_the_question(self) -> None:
        field = EnergyField(1.0, components=None).fit(normal(50, 3).float())
        for name in ("bank_", "weights_", "units_", "shift_", "axes_"):
            setattr(field, name, getattr(field, name).to("meta"))
        assert field._coordinates(normal(4, 3).float()).device.type == "meta"

    @pytest.mark.parametrize(
        ("bank", "match"),
        [
            (torch.zeros(5), "shape"),
            (torch.zeros(0, 3), "shape"),
            (torch.tensor([[1.0, float("nan")], [0.0, 1.0]]), "row 0 is not finite"),
            (np.array([["a", "b"]]), "bank: expected numbers"),
        ],
    )
    def test_what_is_no_bank(self, bank: object, match: str) -> None:
        with pytest.raises(RepdynError, match=match):
            EnergyField(1.0).fit(bank)

    @pytest.mark.usefixtures("few_scales")
    def test_parameters_out_of_range(self) -> None:
        for parameters in ({"sigma": 0.0}, {"sigma": float("nan")}, {"components": 0}, {"neighbors": 0}):
            with pytest.raises(RepdynError, match=next(iter(parameters))):
                EnergyField(**parameters).fit(normal(30, 3))

    @pytest.mark.usefixtures("few_scales")
    def test_not_fitted_and_other_widths(self) -> None:
        with pytest.raises(RepdynError, match="not fitted"):
            EnergyField(1.0).settle(normal(3, 3))
        field = EnergyField(1.0).fit(normal(30, 3))
        with pytest.raises(RepdynError, match=r"fitted on shape \(N, 3\)"):
            field.encode(normal(3, 4))
        with pytest.raises(RepdynError, match="expected coordinates"):
            field.settle(normal(3, 4))


class TestSaving:
    @pytest.mark.usefixtures("few_scales")
    @pytest.mark.parametrize("neighbors", [None, 30])
    def test_round_trip(self, tmp_path: Path, neighbors: int | None) -> None:
        field = EnergyField(components=4, unit_length=True, neighbors=neighbors).fit(
            clusters(200, 6)[0].float()
        )
        field.save_pretrained(tmp_path / "field")
        again = repdyn.load_result(tmp_path / "field")
        assert isinstance(again, EnergyField)
        assert repr(again) == repr(field)
        x = normal(20, 6, seed=4).float()
        torch.testing.assert_close(again.settle(again.encode(x)), field.settle(field.encode(x)))
        np.testing.assert_array_equal(again.nearest(again.encode(x)), field.nearest(field.encode(x)))

    @pytest.mark.usefixtures("few_scales")
    def test_same_seed_same_numbers(self) -> None:
        bank = normal(150, 4).float()
        first, second = (EnergyField(seed=3).fit(bank) for _ in range(2))
        assert first.sigma_ == second.sigma_
        assert first.scales_ is not None
        assert second.scales_ is not None
        np.testing.assert_array_equal(first.scales_.agreement, second.scales_.agreement)

    @pytest.mark.usefixtures("few_scales")
    def test_a_damaged_folder_is_refused(self, tmp_path: Path) -> None:
        field = EnergyField(1.0).fit(normal(30, 3))
        field.weights_ = -field.weights_
        field.save_pretrained(tmp_path / "field")
        with pytest.raises(RepdynError):
            EnergyField.from_pretrained(tmp_path / "field")
