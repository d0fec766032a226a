"""Fields with known attractors: all found, none invented."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from repdyn.errors import RepdynError
from repdyn.fields import Attractors, LatentField
from repdyn.fields.classification import AttractorCandidate, merge_cycles
from repdyn.fields.cycles import _turn, period_of, polish_cycle


def starts(n: int, d: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn((n, d), generator=torch.Generator().manual_seed(seed), dtype=dtype)


def turn(z: Tensor, angle: float) -> Tensor:
    c, s = math.cos(angle), math.sin(angle)
    return z @ torch.tensor([[c, s], [-s, c]], dtype=z.dtype)


def onto_circle(z: Tensor, angle: float) -> Tensor:
    radius = z.norm(dim=1, keepdim=True)
    return turn(z / radius * (1 + 0.5 * (radius - 1)), angle)


def double_well(z: Tensor) -> Tensor:
    return z + 0.1 * torch.stack([z[:, 0] - z[:, 0] ** 3, -z[:, 1]], dim=1)


def duffing(z: Tensor) -> Tensor:
    """A damped Duffing oscillator, symplectic Euler: wells at (-1, 0) and (1, 0), a saddle at the origin."""
    speed = 0.9 * z[:, 1] + 0.1 * (z[:, 0] - z[:, 0] ** 3)
    return torch.stack([z[:, 0] + 0.1 * speed, speed], dim=1)


class TestFixedPoints:
    def test_double_well_has_its_two_attractors_and_basins(self) -> None:
        z = starts(200, 2)
        found = LatentField(double_well).attractors(z)
        assert found.verdict == "found"
        order = np.argsort(found.points[:, 0])
        np.testing.assert_allclose(found.points[order], [[-1, 0], [1, 0]], atol=1e-9)
        np.testing.assert_array_equal(np.sign(found.points[found.basin, 0]), np.sign(z[:, 0].numpy()))
        # f'(1) = 1 - 0.2 along x, 0.9 along y
        np.testing.assert_allclose(np.abs(found.multipliers[:, :2]), [[0.9, 0.8]] * 2, atol=1e-6)

    def test_a_start_on_a_saddle_is_a_fixed_point_but_no_attractor(self) -> None:
        found = LatentField(double_well).attractors(torch.tensor([[0.0, 0.0], [0.0, 2.0], [1.5, 0.3]]))
        np.testing.assert_allclose(found.points, [[1, 0]], atol=1e-9)
        np.testing.assert_allclose(found.saddles, [[0, 0]], atol=1e-6)
        assert found.basin.tolist() == [-1, -1, 0]
        assert found.status.tolist() == ["fixed point"] * 3

    def test_duffing(self) -> None:
        found = LatentField(duffing).attractors(starts(60, 2))
        assert len(found) == 2
        np.testing.assert_allclose(np.sort(found.points[:, 0]), [-1, 1], atol=1e-8)
        assert (np.abs(found.multipliers[:, 0].imag) > 0.01).all()

    @pytest.mark.parametrize("seed", range(20))
    def test_hopfield_memory_keeps_its_patterns(self, seed: int) -> None:
        patterns = torch.sign(starts(3, 40, seed))
        noisy = torch.cat([patterns + 0.3 * starts(3, 40, seed + 100 + k) for k in range(5)])

        def recall(z: Tensor) -> Tensor:
            # Modern Hopfield retrieval: one softmax over stored patterns.
            return torch.softmax(0.5 * z @ patterns.T.to(z), dim=1) @ patterns.to(z)

        found = LatentField(recall).attractors(noisy)
        assert len(found) == 3
        assert (np.sign(found.points) == patterns.numpy()[found_order(found, patterns)]).all()
        np.testing.assert_array_equal(found.basin.reshape(5, 3), np.tile(found.basin[:3], (5, 1)))

    def test_slow_and_expanding_directions_decide(self) -> None:
        gains = torch.tensor([0.5, -0.7, 0.2])
        found = LatentField(lambda z: z * gains.to(z) + 1).attractors(starts(30, 3))
        np.testing.assert_allclose(found.multipliers[0].real, [-0.7, 0.5, 0.2], atol=1e-6)
        np.testing.assert_allclose(found.points, [1 / (1 - gains.numpy())], rtol=1e-6)

    def test_the_observed_rate_is_the_leading_multiplier(self) -> None:
        for field, z in ((double_well, starts(60, 2)), (duffing, starts(60, 2))):
            found = LatentField(field).attractors(z)
            # The two wells of the Duffing map are approached in spirals: distances swing around the rate.
            np.testing.assert_allclose(found.observed, np.abs(found.multipliers[:, 0]), atol=0.02)
        cycle = LatentField(lambda z: 3.2 * z * (1 - z)).attractors(
            torch.linspace(0.1, 0.9, 9).double()[:, None]
        )
        np.testing.assert_allclose(cycle.observed, np.abs(cycle.multipliers[:, 0]), atol=1e-3)
        assert np.isnan(LatentField(lambda z: onto_circle(z, 1.0)).attractors(starts(5, 2)).observed).all()

    def test_scale_of_the_data_does_not_matter(self) -> None:
        z = starts(50, 2)
        for unit in (1e-4, 1e4):
            found = LatentField(lambda z, u=unit: double_well(z / u) * u).attractors(z * unit)
            assert len(found) == 2
            np.testing.assert_allclose(np.sort(found.points[:, 0]) / unit, [-1, 1], atol=1e-6)


class TestTrapping:
    def test_destinations_and_attractors_are_those_of_plain_iteration(self) -> None:
        z = starts(300, 2)
        plain, trapping = (LatentField(duffing).attractors(z, solver=s) for s in ("picard", "trapping"))
        assert trapping.steps.sum() < 0.8 * plain.steps.sum()
        matched = np.argmin(np.linalg.norm(trapping.points[:, None] - plain.points, axis=2), axis=1)
        assert (matched[trapping.basin] == plain.basin).mean() >= 0.99
        np.testing.assert_allclose(trapping.points, plain.points[matched], atol=1e-8)

    def test_starts_that_join_an_orbit_on_a_long_way_are_not_named_after_it(self) -> None:
        # A bottleneck at x = 0 takes all steps of those left of it; what joins them there is soon through.
        def step(z: Tensor) -> Tensor:
            x, y = z[:, :1], z[:, 1:]
            return torch.cat([x + 0.05 * (0.004 + x**2) * (2 - x), 0.5 * y], 1)

        z = torch.rand(1000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        z = z * torch.tensor([3.0, 1.0]) - torch.tensor([1.0, 0.5])
        plain, trapping = (
            LatentField(step).attractors(z, solver=s, max_steps=300) for s in ("picard", "trapping")
        )
        assert len(plain) == len(trapping) == 1
        assert (trapping.basin[plain.basin == 0] == 0).all()
        assert (plain.basin == 0).mean() > 0.9

    def test_a_region_that_absorbed_trajectories_leave_is_shrunk(self) -> None:
        # An attracting point beside an unstable one, nearer than a trap's radius along one of 24 axes only:
        # what comes in beyond it is on its way to the third, far off.
        def step(z: Tensor) -> Tensor:
            u = z[:, :1]
            along = torch.where(u < 0.02, 0.9 * u, torch.minimum(u + 0.1 * (u - 0.018), 3 - 0.5 * (3 - u)))
            return torch.cat([along, 0.7 * z[:, 1:]], dim=1)

        z = 0.2 * starts(1500, 24)
        z[:, 0] = 0.08 * starts(1500, 1, seed=1)[:, 0]
        plain, trapping = (LatentField(step).attractors(z, solver=s) for s in ("picard", "trapping"))
        assert len(plain) == len(trapping) == 2
        assert (np.sign(plain.points[plain.basin, 0] - 1) == np.sign(z[:, 0].numpy() - 0.02)).mean() > 0.9
        matched = np.argmin(np.linalg.norm(trapping.points[:, None] - plain.points, axis=2), axis=1)
        assert (matched[trapping.basin] == plain.basin).mean() >= 0.99
        assert trapping.steps.sum() < plain.steps.sum()

    def test_unknown_solver_names_the_known(self) -> None:
        with pytest.raises(RepdynError, match="picard"):
            LatentField(duffing).attractors(starts(3, 2), solver="picrad")


def found_order(found: Attractors, patterns: Tensor) -> list[int]:
    return [int(np.argmax(patterns.numpy() @ p)) for p in found.points]


class TestNoAttractor:
    def test_identity_is_said_to_be_one(self) -> None:
        found = LatentField(lambda z: z).attractors(starts(40, 3))
        assert (len(found), found.verdict) == (0, "not found")
        assert set(found.status) == {"fixed point"}
        assert any("identity" in note for note in found.notes)

    def test_line_of_fixed_points_is_no_attractor(self) -> None:
        found = LatentField(lambda z: z * torch.tensor([1.0, 0.5]).to(z)).attractors(starts(40, 2))
        assert len(found) == 0
        assert any("continuum" in note for note in found.notes)

    def test_expanding_map_diverges_in_bounded_time(self) -> None:
        found = LatentField(lambda z: 1.5 * z).attractors(starts(40, 3), max_steps=3000)
        assert set(found.status) == {"diverged"}
        assert found.steps.max() < 50
        assert np.isfinite(found.ends).all()

    def test_creeping_is_never_an_attractor(self) -> None:
        # Steps of 1e-7 of the scale, for ever: the residual alone would call each end a fixed point.
        found = LatentField(lambda z: z + 1e-7).attractors(starts(40, 2, dtype=torch.float64), max_steps=200)
        assert len(found) == 0
        assert set(found.status) == {"slow point"}

    def test_drift_is_budget_spent(self) -> None:
        found = LatentField(lambda z: z + 0.01).attractors(starts(20, 2), max_steps=100)
        assert set(found.status) == {"max_steps reached"}
        assert found.verdict == "not found"

    def test_pure_rotation_attracts_nothing(self) -> None:
        found = LatentField(lambda z: turn(z, 0.7)).attractors(starts(10, 2), max_steps=300)
        assert len(found) == 0
        assert set(found.status) == {"invariant circle"}

    @pytest.mark.parametrize("gain", [0.998, 0.9999])
    def test_slow_spiral_is_no_circle(self, gain: float) -> None:
        found = LatentField(lambda z: gain * turn(z, 0.7)).attractors(starts(10, 2), max_steps=300)
        assert len(found) == 0
        assert "invariant circle" not in found.status
        assert "cycle" not in found.status


class TestOtherAttractors:
    def test_spiral_settles(self) -> None:
        found = LatentField(lambda z: 0.99 * turn(z, 0.7)).attractors(starts(40, 2))
        assert (len(found), set(found.status)) == (1, {"fixed point"})
        assert abs(found.multipliers[0, 0]) == pytest.approx(0.99, abs=1e-6)

    def test_contracting_rotation_is_one_circle(self) -> None:
        found = LatentField(lambda z: onto_circle(z, math.sqrt(2))).attractors(starts(20, 2), max_steps=300)
        assert found.kind == ("invariant circle",)
        assert set(found.basin) == {0}
        assert found.radius[0] == pytest.approx(1, abs=0.01)

    @pytest.mark.parametrize(("r", "period"), [(3.2, 2), (3.5, 4), (3.55, 8), (3.83, 3)])
    def test_logistic_cycles(self, r: float, period: int) -> None:
        z = torch.linspace(0.05, 0.95, 23, dtype=torch.float64)[:, None]
        found = LatentField(lambda z: r * z * (1 - z)).attractors(z)
        assert found.kind == ("cycle",)
        assert found.period.tolist() == [period]
        assert found.point_residual[0] < 1e-12

    def test_two_cycles_that_mirror_each_other_stay_apart(self) -> None:
        # Odd in x: a 2-cycle of the logistic map at r = 3.2 on either side of zero.
        found = LatentField(lambda z: torch.sign(z) * 3.2 * z.abs() * (1 - z.abs())).attractors(
            torch.linspace(-0.9, 0.9, 20, dtype=torch.float64)[:, None]
        )
        assert len(found) == 2
        np.testing.assert_allclose(found.basin_share, [0.5, 0.5])

    def test_logistic_chaos_has_its_exponent(self) -> None:
        z = torch.linspace(0.05, 0.95, 40, dtype=torch.float64)[:, None]
        found = LatentField(lambda z: 3.99 * z * (1 - z)).attractors(z, max_steps=200)
        assert set(found.status) == {"chaotic"}
        assert found.kind[0] == "chaotic"
        value, low, high = found.lyapunov[0]
        assert low < 0.64 < high or value == pytest.approx(0.64, abs=0.08)


@pytest.fixture(scope="module")
def found() -> Attractors:
    return LatentField(double_well).attractors(starts(50, 2))


class TestResult:
    def test_round_trip(self, found: Attractors, tmp_path_factory: pytest.TempPathFactory) -> None:
        path = tmp_path_factory.mktemp("a") / "found"
        found.save(path)
        again = Attractors.load(path)
        assert repr(again) == repr(found)
        assert again.to_dict() == found.to_dict()
        np.testing.assert_array_equal(again.points, found.points)
        np.testing.assert_array_equal(again.multipliers, found.multipliers)

    def test_picture_has_starts_and_attractors(self, found: Attractors) -> None:
        figure = found.plot()
        assert len(figure.data) >= 2
        LatentField(lambda z: z).attractors(starts(5, 4)).plot()

    def test_same_seed_same_numbers(self, found: Attractors) -> None:
        again = LatentField(double_well).attractors(starts(50, 2))
        np.testing.assert_array_equal(again.points, found.points)
        np.testing.assert_array_equal(again.basin, found.basin)

    def test_repr_fits_one_screen_and_says_what_is_there(self, found: Attractors) -> None:
        text = repr(found)
        assert "Attractors: 2 from 50 starts" in text
        assert len(text.splitlines()) < 20

    def test_basin_volumes_bracket_their_shares(self, found: Attractors) -> None:
        volumes = found.basin_volumes()
        assert sum(v.value for v in volumes) == pytest.approx(1)
        assert all(v.low < 0.5 < v.high for v in volumes)
        # Wilson's interval for 25 of 50 at 95 %.
        assert found.basin_volumes()[0].high - found.basin_volumes()[0].low == pytest.approx(0.267, abs=0.01)

    def test_counts_over_the_sweep_do_not_hang_on_the_tolerance(self, found: Attractors) -> None:
        assert set(found.counts[:, 1]) == {2.0}

    def test_every_evaluation_is_counted(self) -> None:
        calls = [0]

        def step(z: Tensor) -> Tensor:
            calls[0] += len(z)
            return double_well(z)

        found = LatentField(step).attractors(starts(50, 2), max_steps=200)
        # Besides what the map is asked, Jacobian-vector products are counted; the trial in float64 is not.
        assert found.evaluations >= calls[0] - 2
        assert found.evaluations < 3 * calls[0]

    def test_finished_samples_leave_the_batch(self) -> None:
        sizes: list[int] = []

        def step(z: Tensor) -> Tensor:
            sizes.append(len(z))
            return double_well(z)

        far = torch.cat([torch.tensor([[1.0, 0.0]]).repeat(50, 1), torch.tensor([[0.01, 1.0]])])
        LatentField(step).attractors(far + 1e-9)
        assert sizes.count(1) > 30

    def test_attractors_beyond_the_starts_are_flagged(self) -> None:
        # Halfway to a point ten times as far out as any start, or to the nearest of two among the starts.
        targets = torch.tensor([[1.0, 0.0], [-30.0, 0.0]])
        field = LatentField(lambda z: 0.5 * z + 0.5 * targets.to(z)[(z[:, 0] < 0).long()])
        found = field.attractors(starts(60, 2))
        order = np.argsort(found.points[:, 0])
        assert found.supported[order].tolist() == [False, True]
        assert any("unsupported by data" in note for note in found.notes)
        assert "outside the data" in repr(found)


class TestBadInput:
    def test_starts_must_be_finite(self) -> None:
        z = starts(5, 2)
        z[3, 1] = float("nan")
        with pytest.raises(RepdynError, match="start 3 is not finite"):
            LatentField(double_well).attractors(z)

    @pytest.mark.parametrize("shape", [(3,), (0, 2), (2, 3, 4)])
    def test_starts_must_be_rows(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(RepdynError, match="shape"):
            LatentField(double_well).attractors(torch.zeros(shape))

    def test_map_that_gives_nan_everywhere(self) -> None:
        with pytest.raises(RepdynError, match="no finite value"):
            LatentField(lambda z: z * float("nan")).attractors(starts(5, 2))

    def test_map_that_gives_nan_somewhere_diverges_there_only(self) -> None:
        z = torch.tensor([[1.0, 0.1], [-1.0, 0.1], [-0.9, 0.1]])
        found = LatentField(lambda z: torch.sqrt(z)).attractors(z)
        assert found.status.tolist() == ["fixed point", "diverged", "diverged"]

    def test_map_must_keep_the_shape(self) -> None:
        with pytest.raises(RepdynError, match="same shape"):
            LatentField(lambda z: z[:, :1]).attractors(starts(5, 2))

    def test_map_with_dropout_is_refused(self) -> None:
        network = nn.Sequential(nn.Linear(4, 64), nn.Dropout(0.5), nn.Linear(64, 4))
        with pytest.raises(RepdynError, match="evaluation mode"):
            LatentField(network).attractors(starts(5, 4))
        network.eval()
        LatentField(network).attractors(starts(5, 4), max_steps=20)

    def test_one_start_will_do(self) -> None:
        found = LatentField(double_well).attractors(torch.tensor([[0.7, 0.2]]))
        np.testing.assert_allclose(found.points, [[1, 0]], atol=1e-9)


def locked(period: int, turns: int) -> tuple[float, float]:
    """Angle and pull of a circle map with an attracting cycle: every orbit locks to ``period`` points."""
    return 2 * math.pi * turns / period, 0.3 / period


class TestLongCycles:
    """Circles whose orbits close after more steps than recurrence is watched for."""

    @staticmethod
    def step(z: Tensor, period: int = 200, turns: int = 47) -> Tensor:
        angle, pull = locked(period, turns)
        radius = z.norm(dim=1, keepdim=True)
        phase = torch.atan2(z[:, 1], z[:, 0])
        # The pull has the symmetry of the cycle: its points are where the sine of ``period`` angles is zero.
        phase = phase + angle - pull * torch.sin(period * phase)
        radius = 1 + 0.5 * (radius[:, 0] - 1)
        return torch.stack([radius * phase.cos(), radius * phase.sin()], dim=1)

    def test_a_cycle_longer_than_recurrence_is_watched_for_is_a_cycle(self) -> None:
        found = LatentField(self.step).attractors(starts(12, 2, dtype=torch.float64), max_steps=500)
        assert found.kind == ("cycle",)
        assert found.period.tolist() == [200]
        assert set(found.status) == {"cycle"}
        # Over a turn the pull contracts the angle 200 times by 1 - 0.3.
        assert abs(found.multipliers[0, 0]) < 1e-6

    def test_orbits_polished_to_one_cycle_are_one_attractor(self) -> None:
        def place(kind: str, x: float, *members: int) -> AttractorCandidate:
            return AttractorCandidate(
                np.array([x, 0.0]), kind, np.array(members), np.zeros(3), 1.0, period=144
            )

        merged = merge_cycles(
            [place("cycle", 1.0, 0, 1), place("chaotic", 1.0, 2), place("cycle", 1 + 1e-9, 3)], 1.0
        )
        assert [(p.kind, p.members.tolist()) for p in merged] == [("chaotic", [2]), ("cycle", [0, 1, 3])]

    def test_an_irrational_turn_is_no_cycle(self) -> None:
        found = LatentField(lambda z: onto_circle(z, 1.0)).attractors(starts(12, 2), max_steps=500)
        assert found.kind == ("invariant circle",)

    def test_period_of_sees_the_shortest_return_and_no_slow_drift(self) -> None:
        orbit = torch.stack([torch.arange(64.0) % 5, torch.arange(64.0) % 2], dim=1)
        assert period_of(orbit, 1.0) == 10
        assert period_of(1e-6 * torch.arange(64.0)[:, None], 1.0) == 0

    def test_the_jacobian_of_a_turn_is_the_product_along_it(self) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = nn.Sequential(nn.Linear(4, 9), nn.Tanh(), nn.Linear(9, 4)).double()
        field, point = LatentField(network), starts(1, 4, dtype=torch.float64)[0]
        for period in (1, 5, 150):  # the last in more than one block
            image, jacobian = _turn(field, point, period)
            power = field.power(period).step
            torch.testing.assert_close(image, power(point[None])[0].detach())
            expected = torch.autograd.functional.jacobian(lambda z, f=power: f(z[None])[0], point)
            torch.testing.assert_close(jacobian, expected)

    def test_polish_refuses_a_multiple_of_the_period_and_a_repelling_cycle(self) -> None:
        swap = LatentField(lambda z: -z + 0.25 * z * (z * z - 1))  # 1 and -1 change places
        near = torch.tensor([1.001], dtype=torch.float64)
        cycle = polish_cycle(swap, near, 2, 1.0)
        assert cycle is not None
        assert float(cycle.point) == pytest.approx(1, abs=1e-12)
        np.testing.assert_allclose(cycle.multipliers, [0.25])
        assert polish_cycle(swap, near, 4, 1.0) is None
        assert polish_cycle(LatentField(lambda z: -z - 0.25 * z * (z * z - 1)), near, 2, 1.0) is None


class TestSharedOrbits:
    def test_a_circle_absorbs_trajectories_which_inherit_its_name(self) -> None:
        z = torch.cat([starts(300, 2), 1e-3 * starts(5, 2)])
        field = LatentField(lambda z: onto_circle(z, math.sqrt(2)))
        plain, trapping = (field.attractors(z, solver=s, max_steps=600) for s in ("picard", "trapping"))
        for found in (plain, trapping):
            assert found.kind == ("invariant circle",)
            assert (found.basin == 0).all()
        assert trapping.evaluations < 0.5 * plain.evaluations

    def test_two_circles_have_two_trapping_regions(self) -> None:
        def step(z: Tensor) -> Tensor:
            side = torch.sign(z[:, 2:])
            return torch.cat([onto_circle(z[:, :2], 1.0), side * (1 + 0.5 * (z[:, 2:].abs() - 1))], dim=1)

        z = starts(300, 3)
        found = LatentField(step).attractors(z, solver="trapping", max_steps=400)
        assert found.kind == ("invariant circle",) * 2
        assert (np.sign(found.points[found.basin, 2]) == np.sign(z[:, 2].numpy())).all()

    def test_a_drift_is_not_shared_as_an_attractor(self) -> None:
        found = LatentField(lambda z: z + 0.01).attractors(starts(200, 2), max_steps=100, solver="trapping")
        assert len(found) == 0
        assert set(found.status) == {"max_steps reached"}

    def test_orbits_that_leave_only_after_the_budget_spent_it(self) -> None:
        # 1.02 to the 16th is 1.4: nothing has escaped yet; followed for longer, the second map's orbits do.
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = LatentField(lambda z: 1.02 * z).attractors(starts(5, 2).abs(), max_steps=16)
            beyond = LatentField(lambda z: z + z * z).attractors(
                0.05 + 0.01 * starts(9, 2).abs(), max_steps=16
            )
        assert set(found.status) == {"max_steps reached"}
        assert set(beyond.status) <= {"max_steps reached", "diverged"}
