"""A mixture of Gaussians in place of a bank: its fit, its posterior mean, and the fields that it gives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.mixture import GaussianMixture
from torch import Tensor

import repdyn
from repdyn.artifacts import load_artifact, save_artifact
from repdyn.errors import RepdynError
from repdyn.fields import EnergyField, EnergyWarning, LatentField
from repdyn.fields.mixture import fit_mixture
from repdyn.fields.settings import ENERGY

pytestmark = pytest.mark.filterwarnings("ignore::repdyn.fields.EnergyWarning")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def clusters(n: int, d: int, k: int, apart: float = 4.0) -> tuple[Tensor, Tensor]:
    """Clusters that are long in one direction, and the cluster of each point."""
    label = torch.arange(n) % k
    shape = (
        torch.diag(torch.linspace(0.2, 1.0, d, dtype=torch.float64))
        @ torch.linalg.qr(normal(d, d, seed=9))[0]
    )
    return apart * normal(k, d, seed=7)[label] + normal(n, d) @ shape, label


def equal(points: Tensor) -> Tensor:
    return torch.full((len(points),), 1 / len(points), dtype=points.dtype)


KINDS = {
    "clusters": clusters(300, 6, 5)[0],
    "one cloud": normal(300, 4),
    "heavy tails": normal(300, 4) / normal(300, 1, seed=3).abs().clamp_min(0.05),
    "flat": normal(200, 3) @ normal(3, 8, seed=1),
    "outlier coordinate": normal(200, 4) * torch.tensor([1.0, 1.0, 1.0, 2000.0]),
    "far from the origin": normal(200, 3) + 1e4,
    "tiny units": 1e-9 * normal(200, 3),
    "integers": (2 * normal(300, 2)).round(),
}


class TestFit:
    @pytest.mark.parametrize("kind", ["clusters", "one cloud", "heavy tails"])
    def test_it_is_a_maximum_for_scikit_learn_too(self, kind: str) -> None:
        x = KINDS[kind]
        own = fit_mixture(x, equal(x), 5)
        peer = GaussianMixture(
            len(own.means), covariance_type="tied", means_init=own.means.numpy(),
            weights_init=own.weights.numpy(), precisions_init=torch.linalg.inv(own.covariance).numpy(),
            tol=1e-6, max_iter=500,
        ).fit(x.numpy())  # fmt: skip
        density = sum(
            w * multivariate_normal(m, own.covariance.numpy()).pdf(x.numpy())
            for w, m in zip(own.weights.numpy(), own.means.numpy())
        )
        # Expectation-maximization ends at a gain of .001 a step, so that little is left to gain.
        assert float(np.log(density).mean()) > peer.score(x.numpy()) - 0.05

    def test_planted_clusters_and_their_covariance_are_recovered(self) -> None:
        x, label = clusters(4000, 5, 4, apart=8.0)
        found = fit_mixture(x, equal(x), 4)
        centers = torch.stack([x[label == k].mean(dim=0) for k in range(4)])
        distance, beside = torch.cdist(centers, found.means).min(dim=1)
        assert sorted(beside.tolist()) == [0, 1, 2, 3]
        assert float(distance.max()) < 1e-3
        inside = x - centers[label]
        torch.testing.assert_close(found.covariance, inside.T @ inside / len(x), rtol=0, atol=1e-2)
        torch.testing.assert_close(found.weights, torch.full((4,), 0.25, dtype=x.dtype), rtol=0, atol=1e-6)

    def test_a_weight_is_a_number_of_copies(self) -> None:
        x = KINDS["clusters"][:60]
        weights = torch.ones(60, dtype=x.dtype)
        weights[:10] = 4
        found = fit_mixture(x, weights / weights.sum(), 1)
        copied = torch.cat([x, x[:10].repeat(3, 1)])
        torch.testing.assert_close(found.means[0], copied.mean(dim=0))
        ridge = ENERGY.covariance_floor * copied.var(dim=0, correction=0).mean() * torch.eye(6, dtype=x.dtype)
        torch.testing.assert_close(found.covariance, copied.T.cov(correction=0) + ridge)

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("count", [1, 7, 10_000])
    def test_every_kind_of_bank_has_a_mixture(self, kind: str, count: int) -> None:
        x = KINDS[kind]
        found = fit_mixture(x, equal(x), count)
        assert 1 <= len(found.means) <= min(count, len(x))
        assert bool(torch.isfinite(found.means).all())
        assert bool((found.weights > 0).all())
        assert abs(float(found.weights.sum()) - 1) < 1e-9
        assert float(torch.linalg.eigvalsh(found.covariance)[0]) > 0
        # The mean of a mixture at a maximum of the likelihood is that of the points.
        torch.testing.assert_close(
            found.weights @ found.means, x.mean(dim=0), rtol=1e-6, atol=1e-6 * float(x.std())
        )


@pytest.fixture
def few_scales(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "repdyn.fields.mean_shift.ENERGY", replace(ENERGY, levels=4, log_step=1.0, halvings=1)
    )


@pytest.mark.usefixtures("few_scales")
class TestField:
    def test_its_map_is_the_posterior_mean_of_its_mixture(self) -> None:
        x = KINDS["clusters"]
        field = EnergyField(0.8, components=None, atoms=5).fit(x)
        assert field.variances_ is not None
        mixture = fit_mixture(
            field.encode(x), equal(x), 5
        )  # the coordinates are a rotation of those of the fit
        noisy = mixture.covariance + 0.8**2 * torch.eye(6, dtype=x.dtype)
        z = normal(40, 6, seed=4) * 3

        def density(points: np.ndarray) -> np.ndarray:
            return sum(
                w * multivariate_normal(m, noisy.numpy()).pdf(points)
                for w, m in zip(mixture.weights.numpy(), mixture.means.numpy())
            )

        # Tweedie's formula, the gradient by differences.
        steps = 1e-5 * np.eye(6)
        score = np.stack(
            [(np.log(density(z.numpy() + h)) - np.log(density(z.numpy() - h))) / 2e-5 for h in steps], axis=1
        )
        np.testing.assert_allclose(field.displacement(z).numpy(), 0.8**2 * score, atol=1e-4)
        energy = -(0.8**2) * np.log(density(z.numpy()))
        np.testing.assert_allclose(np.ptp(field.energy(z).numpy() - energy), 0, atol=1e-6)

    @pytest.mark.parametrize("kind", KINDS)
    def test_every_step_lowers_the_energy_and_starts_arrive(self, kind: str) -> None:
        field = EnergyField(components=None, atoms=9).fit(KINDS[kind])
        generator = torch.Generator().manual_seed(1)
        coordinates = field.encode(KINDS[kind])
        chosen = torch.randint(len(coordinates), (1000,), generator=generator)
        reach = torch.linspace(0, 4, 1000, dtype=torch.float64)[:, None] * field.spread_
        away = torch.nn.functional.normalize(normal(1000, coordinates.shape[1], seed=2))
        z = coordinates[chosen] + reach * away
        for sigma in (field.spacing_ or 0.3 * field.spread_, field.sigma_):
            at, now = field.at(sigma), z
            rounding = 1e-9 * (sigma**2 + field.spread_**2)
            for _ in range(10):
                moved = at(now)
                fall = at.energy(now) - at.energy(moved)
                assert bool((fall >= 0.5 * (moved - now).square().sum(dim=1) - rounding).all())
                now = moved
        if kind == "flat":
            return  # the noise is a tenth of the atoms' width: a step goes a hundredth of the way
        ends = field.settle(z[::5])
        assert bool((field.displacement(ends).norm(dim=1) <= 1e-2 * field.sigma_).all())

    def test_as_many_atoms_as_points_are_the_bank(self) -> None:
        x = clusters(40, 3, 4, apart=10.0)[0]
        own, bank = (EnergyField(1.0, components=None, atoms=k).fit(x) for k in (40, None))
        # Their covariance is the floor alone, which is small beside the noise.
        z = own.decode(own.settle(own.encode(x)))
        assert float((z - bank.decode(bank.settle(bank.encode(x)))).norm(dim=1).max()) < 0.2

    def test_unseen_points_are_denoised_better_than_by_the_bank(self) -> None:
        x, _ = clusters(1200, 10, 6)
        bank, unseen = x[:600], x[600:]
        errors = []
        for atoms in (None, 12):
            field = EnergyField(1.0, components=None, atoms=atoms).fit(bank)
            z = field.encode(unseen)
            left = [
                float((field.at(s).step(z + s * normal(600, 10, seed=5)) - z).square().mean()) / s**2
                for s in (0.2, 0.4)
            ]
            errors.append(left)
        assert errors[1][0] < 0.9 * errors[0][0]
        assert errors[1][1] < 0.9 * errors[0][1]

    def test_classes_are_basins_at_the_noise_that_is_chosen(self) -> None:
        x, label = clusters(400, 8, 5, apart=3.0)
        field = EnergyField(components=None, atoms=40).fit(x[:300])
        basin = torch.from_numpy(field.basins(field.encode(x[300:]))[0])
        pure = sum(int(torch.bincount(label[300:][basin == b]).max()) for b in basin.unique())
        assert pure >= 95
        assert len(basin.unique()) <= 12

    def test_a_cloud_without_parts_is_said_not_to_replicate(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("repdyn.fields.mean_shift.ENERGY", ENERGY)
        field = EnergyField(atoms=40).fit(normal(400, 8))
        assert len(field.notes_) == 1
        assert any(word in field.notes_[0] for word in ("agree to", "share one mode"))

    def test_that_every_atom_is_a_mode_is_said(self) -> None:
        with pytest.warns(EnergyWarning, match="4 of 4 sampled atoms are modes of their own"):
            EnergyField(0.01, components=None, atoms=4).fit(clusters(200, 5, 4, apart=20.0)[0])

    def test_rows_are_the_points_beside_the_atoms(self) -> None:
        x, label = clusters(200, 5, 4, apart=20.0)
        field = EnergyField(1.0, components=None, atoms=4).fit(torch.cat([x, x[:40]]))
        assert sorted(label[torch.from_numpy(field.rows_)].tolist()) == [0, 1, 2, 3]
        beside = field.nearest(field.encode(x))[:, 0]
        assert bool((label[torch.from_numpy(beside)] == label).all())

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
    def test_precision_follows_the_bank(self, dtype: torch.dtype) -> None:
        field = EnergyField(1.0, atoms=4).fit(clusters(100, 4, 4)[0].to(dtype))
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        assert field.variances_ is not None
        assert {field.bank_.dtype, field.weights_.dtype, field.variances_.dtype, field.axes_.dtype} == {wide}

    def test_a_projected_map_diverges_only_if_it_expands_more_than_the_projection_shrinks(self) -> None:
        field = EnergyField(1.0, components=None, atoms=5).fit(KINDS["clusters"])
        assert field.variances_ is not None
        kept = float(field.variances_.max() / (field.variances_.max() + 1))
        z = field.encode(KINDS["clusters"])[:40]
        for expansion, diverges in ((0.9 / kept, False), (1.1 / kept, True)):
            now = z
            for _ in range(300):
                now = field.projected(LatentField(lambda x, by=expansion: by * x), 1)(now)
            assert bool((now.norm(dim=1) > 100 * field.spread_).all()) == diverges

    def test_bad_parameters(self) -> None:
        with pytest.raises(RepdynError, match="atoms: must be at least 1"):
            EnergyField(atoms=0).fit(normal(30, 3))
        for name in ("atoms", "components", "neighbors"):
            with pytest.raises(RepdynError, match=f"{name}: expected a whole number, got 2.5"):
                EnergyField(**{name: 2.5}).fit(normal(30, 3))
        with pytest.raises(RepdynError, match="neighbors: is for a field of the bank itself"):
            EnergyField(atoms=5, neighbors=10).fit(normal(30, 3))

    def test_the_same_seed_gives_the_same_numbers(self) -> None:
        x = KINDS["clusters"].float()
        one, two = (EnergyField(atoms=8, seed=3).fit(x) for _ in range(2))
        assert torch.equal(one.bank_, two.bank_)
        assert one.sigma_ == two.sigma_


@pytest.mark.usefixtures("few_scales")
class TestSaving:
    def test_round_trip(self, tmp_path: Path) -> None:
        field = EnergyField(components=4, unit_length=True, atoms=6).fit(clusters(200, 6, 4)[0].float())
        field.save_pretrained(tmp_path / "field")
        again = repdyn.load_result(tmp_path / "field")
        assert isinstance(again, EnergyField)
        assert repr(again) == repr(field)
        assert again.atoms == 6
        x = normal(20, 6, seed=4).float()
        assert torch.equal(again.settle(again.encode(x)), field.settle(field.encode(x)))
        np.testing.assert_array_equal(again.nearest(again.encode(x)), field.nearest(field.encode(x)))
        assert torch.equal(again.at(0.2).energy(again.encode(x)), field.at(0.2).energy(field.encode(x)))

    def test_negative_variances_are_refused(self, tmp_path: Path) -> None:
        field = EnergyField(1.0, atoms=4).fit(normal(60, 3))
        assert field.variances_ is not None
        field.variances_ = -field.variances_
        field.save_pretrained(tmp_path / "field")
        with pytest.raises(RepdynError):
            EnergyField.from_pretrained(tmp_path / "field")

    def test_a_folder_from_before_there_were_atoms_is_read(self, tmp_path: Path) -> None:
        field = EnergyField(1.0).fit(normal(60, 3))
        field.save_pretrained(tmp_path / "field")
        artifact = load_artifact(tmp_path / "field", "energy field")
        del artifact.config["field"]["atoms"]
        save_artifact(tmp_path / "before", "energy field", dict(artifact.config), dict(artifact.tensors))
        again = EnergyField.from_pretrained(tmp_path / "before")
        z = normal(9, 3, seed=2)
        assert torch.equal(again.settle(z), field.settle(z))
