"""The closed-form start: a fit is not behind its controls, whatever the training does."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from repdyn.koopman import KoopmanAutoencoder, controls
from repdyn.koopman.frames import Lift
from repdyn.koopman.operators import Direct
from repdyn.koopman.settings import FitSettings
from repdyn.koopman.start import start
from repdyn.koopman.states import Held
from repdyn.paths import RepresentationPaths


def bent(samples: int, wide: float = 1.0, seed: int = 0, width: int = 12) -> RepresentationPaths:
    """Residual blocks of random tanh layers: nonlinear, and another map at each step."""
    maps = np.random.default_rng(9).standard_normal((3, 2, width, width)) / width**0.5
    draw = np.random.default_rng(seed)
    x, arrays = draw.standard_normal((samples, width)), {}
    for number in range(4):
        own = x.copy()
        own[:, 0] *= wide
        arrays[f"p{number}"] = own.astype(np.float32)
        if number < 3:
            x = x + np.tanh(2 * x @ maps[number, 0]) @ maps[number, 1]
    return RepresentationPaths.from_arrays(arrays)


def unexplained(found: np.ndarray, true: np.ndarray) -> float:
    return float(np.square(found - true).sum() / np.square(true - true.mean(axis=0)).sum())


@pytest.mark.parametrize("wide", [1.0, 1000.0])
def test_a_default_fit_is_ahead_of_every_control_where_depth_is_nonlinear(wide: float) -> None:
    train, test = bent(1500, wide), bent(500, wide, seed=1)
    kae = KoopmanAutoencoder().fit(train, epochs=6, seed=0)
    # Every coordinate counts alike: the wide one alone would decide the fraction of variance.
    scale = np.asarray(test["p3"]).std(axis=0)
    true = np.asarray(test["p3"]) / scale
    ours = unexplained(kae.propagate(test["p0"], "p0", "p3") / scale, true)
    fitted = controls(train)
    assert ours < min(unexplained(fitted[name](test["p0"])[-1] / scale, true) for name in fitted)


@pytest.mark.parametrize("operator", ["auto", "generator", "per_step", "low_rank", "direct"])
def test_training_that_ruins_the_weights_keeps_the_start(operator: str) -> None:
    paths = bent(400)
    kae = KoopmanAutoencoder(16, (64,), operator=operator).fit(paths, epochs=2, learning_rate=0.3, seed=0)
    assert kae.best_epoch_ == -1
    (start,) = kae.history_["start"]
    assert start < min(kae.history_["validation"], default=1.0)
    assert start < 1


def test_the_width_of_the_encoder_is_chosen_and_saved(tmp_path) -> None:
    kae = KoopmanAutoencoder().fit(bent(1200), epochs=1, seed=0)
    assert kae.encoder_.network is not None
    assert kae.encoder_.network[0].out_features in (256, 1024, 2048)
    kae.save_pretrained(tmp_path / "kae")
    again = KoopmanAutoencoder.from_pretrained(tmp_path / "kae")
    few = KoopmanAutoencoder(latent_dim=4).fit(bent(100), epochs=1, seed=0)  # no room for nonlinear ones
    assert few.encoder_.network is not None
    assert few.encoder_.network[0].out_features == 256
    x = np.asarray(bent(5)["p0"])
    assert np.array_equal(again.propagate(x, "p0", "p3"), kae.propagate(x, "p0", "p3"))
    assert again.chosen_ == kae.chosen_


def test_states_wider_than_the_observables_leave_room_for_nonlinear_ones() -> None:
    draw = np.random.default_rng(3)
    x = draw.standard_normal((900, 4))
    y = np.tanh(2 * x @ draw.standard_normal((4, 20))) @ draw.standard_normal((20, 4))
    turn = np.linalg.qr(draw.standard_normal((30, 8)))[0]
    wide = np.stack([x @ turn[:, :4].T, y / y.std() @ turn[:, 4:].T])  # 30 wide, the same 8 directions
    states = Held(torch.from_numpy(wide).float())
    fit, judged = torch.arange(700), torch.arange(700, 900)
    encoder, decoder = Lift(30, 24, (64,)), Lift(24, 30, (8,))
    _, solved = start(
        encoder,
        decoder,
        [Direct(24, 1)],
        states,
        fit,
        judged,
        torch.Generator().manual_seed(0),
        FitSettings(max_linear=10),
    )
    one = np.concatenate([x, np.ones((900, 1))], axis=1)
    affine = one @ np.linalg.lstsq(one[:700], y[:700], rcond=None)[0]
    assert solved is not None
    assert solved.left < 0.7 * unexplained(affine[700:], y[700:])


def test_one_generator_is_kept_where_depth_is_autonomous_and_not_elsewhere() -> None:
    draw = np.random.default_rng(0)
    x = draw.standard_normal((400, 5))
    step = 0.9 * np.linalg.qr(draw.standard_normal((5, 5)))[0] + 0.1 * np.eye(5)
    arrays = {}
    for number in range(5):
        arrays[f"p{number}"] = x
        x = x @ step
    same = RepresentationPaths.from_arrays(arrays)
    assert KoopmanAutoencoder(5, ()).fit(same, epochs=1).chosen_ == "generator"
    assert KoopmanAutoencoder(12, (32,)).fit(bent(400), epochs=1).chosen_ == "direct"


def test_direct_maps_compose_and_have_values_between_points() -> None:
    paths = bent(600)
    kae = KoopmanAutoencoder(24, (64,), operator="direct").fit(paths, epochs=1, seed=0)
    x = np.asarray(paths["p0"])
    here, there = (kae.propagate(x, "p0", depth) for depth in (1.0, 2.0))
    between = kae.propagate(x, "p0", 1.4)
    assert np.allclose(kae.propagate(x, "p0", 1.0 + 1e-6), here, atol=1e-3)
    assert unexplained(between, 0.6 * here + 0.4 * there) < 0.05
    back = kae.propagate(kae.propagate(x, "p0", "p1"), "p1", "p0")
    assert unexplained(back, x) < 0.2


def test_few_samples_get_fewer_observables() -> None:
    draw = np.random.default_rng(0)
    x = draw.standard_normal((40, 100))
    kae = KoopmanAutoencoder().fit(RepresentationPaths.from_arrays({"a": x, "b": x + 1}), epochs=1)
    assert kae.latent_dim_ == 10
    with pytest.raises(Exception, match="cannot certify"):
        KoopmanAutoencoder(60, ()).fit(
            RepresentationPaths.from_arrays({"a": x, "b": x + 1}), epochs=1
        ).spectrum(RepresentationPaths.from_arrays({"a": x, "b": x + 1}))
