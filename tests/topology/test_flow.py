"""The flow auto-encoder: invertible, of exact density, with the planted tree where its prior allows it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from repdyn.datasets import PLANTED
from repdyn.errors import RepdynError
from repdyn.topology import FlowAutoencoder, LevelSetTree
from repdyn.topology.flow_network import FlowNetwork, neighbor_log_density


def bent(n=600, seed=0):
    """A flat Gaussian of two dimensions on a bent sheet with thin noise: its density is known."""
    rng = np.random.default_rng(seed)
    flat = rng.normal(size=(n, 2))
    noise = 0.05 * rng.normal(size=n)
    x = np.column_stack([flat, 0.5 * flat[:, 0] ** 2 + noise])
    truth = -(flat**2).sum(1) / 2 - np.log(2 * np.pi) - (noise / 0.05) ** 2 / 2
    return x, truth - np.log(0.05) - 0.5 * np.log(2 * np.pi)


@pytest.mark.parametrize("augmented", [False, True])
@pytest.mark.parametrize("volume", ["preserved", "tracked"])
def test_network_is_invertible_and_its_volume_is_the_jacobians(volume, augmented):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = FlowNetwork(4, 2, "gaussian", volume, 1, 4, (16,), augmented)
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        x = torch.randn(5, 4 + network.padding)
    network.requires_grad_(False)
    latents, noise, log_volume = network.split(x)
    assert latents.shape == (5, 2)
    torch.testing.assert_close(network.inverse(torch.cat([latents, noise], 1)), x, atol=1e-4, rtol=1e-4)
    for row, log_det in zip(x, log_volume):
        jacobian = torch.autograd.functional.jacobian(
            lambda v: torch.cat(network.split(v[None])[:2], 1)[0], row
        )
        assert float(torch.linalg.slogdet(jacobian)[1]) == pytest.approx(float(log_det), abs=1e-3)
    if volume == "preserved":
        torch.testing.assert_close(log_volume, torch.zeros(5), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("volume", "augmented"), [("preserved", True), ("tracked", True), ("tracked", False)]
)
def test_density_integrates_to_one(volume, augmented):
    x = bent(300)[0][:, [0, 2]]
    model = FlowAutoencoder(
        1, prior="mixture", volume=volume, components=3, hidden=(16,), layers=4, augmented=augmented
    ).fit(x, steps=30, start_steps=30)
    axis = np.linspace(-9, 9, 121)
    grid = np.stack(np.meshgrid(axis, axis + 2), -1).reshape(-1, 2)
    total = np.exp(model.log_density(grid)).sum() * (axis[1] - axis[0]) ** 2
    assert total == pytest.approx(1.0, abs=0.03)
    line = np.linspace(-30, 30, 6001)[:, None]
    assert np.exp(model.latent_log_density(line)).sum() * 0.01 == pytest.approx(1.0, abs=0.01)


def test_neighbor_density_is_a_density():
    generator = torch.Generator().manual_seed(0)
    u = torch.rand(2000, 2, generator=generator)
    inside = ((u > 0.1) & (u < 0.9)).all(1)
    assert abs(float(neighbor_log_density(u)[inside].mean())) < 0.05
    fresh = 0.1 + 0.8 * torch.rand(500, 2, generator=generator)
    assert abs(float(neighbor_log_density(fresh, u).mean())) < 0.05


SMALL = {"components": 4, "hidden": (48,)}
SHORT = {"start_steps": 120, "steps": 80}


@pytest.fixture(scope="module")
def fitted():
    x, truth = bent()
    return FlowAutoencoder(2, prior="mixture", **SMALL).fit(x, **SHORT), x, truth


@pytest.mark.parametrize("augmented", [False, True])
def test_learns_a_bent_sheet_and_its_density(augmented):
    x, _ = bent()
    fresh, fresh_truth = bent(400, seed=1)
    settings = {"prior": "mixture", "components": 4, "augmented": augmented}
    settings |= {"hidden": (48,)} if augmented else {"layers": 6, "hidden": (32,)}
    model = FlowAutoencoder(2, **settings).fit(x, steps=150 if augmented else 250, start_steps=120)
    flat = FlowAutoencoder(2, **settings).fit(x, steps=0, start_steps=0)
    gaps = [(fresh_truth - m.log_density(fresh)).mean() for m in (model, flat)]
    assert gaps[0] < 0.6 < gaps[1]
    errors = [np.sqrt(((x - m.decode(m.encode(x))) ** 2).sum(1)).mean() for m in (model, flat)]
    assert errors[0] < 0.6 * errors[1]


def test_is_a_latent_field_whose_points_stay(fitted):
    from repdyn.fields import LatentField

    model, x, _ = fitted
    latents = model.encode(torch.from_numpy(x))
    field = LatentField.from_autoencoder(model.encode, model.decode)
    apart = field.velocity(latents).norm(dim=1).median() / latents.std()
    assert apart < 0.1
    plain = FlowAutoencoder(2, layers=4, augmented=False).fit(x, steps=5)
    latents = plain.encode(torch.from_numpy(x))
    # An invertible map without added noise codes its decoding back exactly: every latent is fixed.
    moved = LatentField.from_autoencoder(plain.encode, plain.decode).velocity(latents)
    torch.testing.assert_close(moved, torch.zeros_like(moved), atol=1e-4, rtol=0)


def test_keeps_types_and_survives_the_disk(fitted, tmp_path):
    model, x, _ = fitted
    assert model.encode(torch.from_numpy(x[:7])).dtype == torch.float64
    model.save_pretrained(tmp_path / "flow")
    loaded = FlowAutoencoder.from_pretrained(tmp_path / "flow")
    np.testing.assert_array_equal(loaded.encode(x), model.encode(x))
    np.testing.assert_array_equal(loaded.decode(loaded.encode(x)), model.decode(model.encode(x)))
    np.testing.assert_array_equal(loaded.log_density(x[:9]), model.log_density(x[:9]))
    assert repr(loaded) == repr(model)


def test_same_seed_same_model_and_no_global_randomness():
    x, _ = bent(200)
    state = torch.get_rng_state()
    one, other = (FlowAutoencoder(1).fit(x, steps=5, start_steps=5, seed=3).encode(x) for _ in range(2))
    np.testing.assert_array_equal(one, other)
    assert torch.equal(state, torch.get_rng_state())


def test_one_gaussian_fails_where_a_free_latent_keeps_the_tree():
    x = PLANTED["three nested clusters"].sample(900, 0)
    free = FlowAutoencoder(2, **SMALL).fit(x, **SHORT)
    assert len(free.tree(persistence=1.0).leaves) == 3
    control = FlowAutoencoder(2, prior="gaussian", **SMALL).fit(x, **SHORT)
    assert len(control.tree().leaves) == 1


@pytest.mark.slow
def test_a_knot_comes_undone_in_two_dimensions():
    from repdyn.topology import alpha_persistence

    x = PLANTED["trefoil tube"].sample(1500, 100)
    model = FlowAutoencoder(2).fit(x)
    assert len(model.tree(neighbors=50, persistence=1.0).leaves) == 1
    born, dies = alpha_persistence(model.encode(x))[1].T
    assert (dies > 4 * born).sum() == 1
    # A projection of the knot crosses itself, and each crossing closes a loop more.
    axes = np.linalg.svd(x - x.mean(0), full_matrices=False)[2][:2]
    born, dies = alpha_persistence(x @ axes.T)[1].T
    assert (dies > 4 * born).sum() != 1


@pytest.mark.slow
def test_number_of_informative_dimensions_is_found():
    rng = np.random.default_rng(0)
    x = np.pad(bent(800)[0], ((0, 0), (0, 2))) + 0.05 * rng.normal(size=(800, 5))
    model = FlowAutoencoder(hidden=(64,)).fit(x @ np.linalg.qr(rng.normal(size=(5, 5)))[0])
    assert model.latent_dim_ == 2
    assert set(model.held_out_) == {1, 2, 3}


def test_planted_sets_are_what_they_say():
    for planted in PLANTED.values():
        x = planted.sample(500, 0)
        assert x.shape == (500, 3)
        np.testing.assert_array_equal(x, planted.sample(500, 0))
    x = PLANTED["ring pair"].sample(1500, 0)
    assert len(LevelSetTree.fit(x, neighbors=30, persistence=1.0).leaves) == 2


def test_bad_input():
    with pytest.raises(RepdynError, match="not fitted"):
        FlowAutoencoder().encode(np.zeros((3, 2)))
    for settings, match in (
        ({"latent_dim": 3}, "1 to 2"),
        ({"prior": "none"}, "prior"),
        ({"volume": "x"}, "volume"),
    ):
        with pytest.raises(RepdynError, match=match):
            FlowAutoencoder(**settings).fit(np.zeros((30, 3)))
    with pytest.raises(RepdynError, match="20 points"):
        FlowAutoencoder().fit(np.zeros((5, 3)))
    with pytest.raises(RepdynError, match="row 2"):
        FlowAutoencoder().fit(np.where(np.arange(60).reshape(20, 3) == 6, np.inf, 0.0))
    constant = np.concatenate([bent(60)[0], np.ones((60, 1))], axis=1)
    assert np.isfinite(FlowAutoencoder(2).fit(constant, steps=5, start_steps=5).log_density(constant)).all()
    short = {"steps": 3, "start_steps": 3}
    for odd in (np.ones((40, 3)), np.repeat(bent(4)[0], 20, axis=0), bent(30)[0] @ np.ones((3, 50))):
        model = FlowAutoencoder(2).fit(odd, **short)  # one point, duplicates, fewer points than dimensions
        assert np.isfinite(model.encode(odd)).all()
        assert np.isfinite(model.log_density(odd)).all()
        assert len(model.tree().leaves) >= 1
