"""The autoencoder: learns linear systems, is reproducible, saves exactly, refuses nonsense."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from repdyn.errors import RepdynError
from repdyn.koopman import KoopmanAutoencoder
from repdyn.paths import RepresentationPaths


@pytest.fixture(scope="module")
def kae(train):
    return KoopmanAutoencoder(latent_dim=8, hidden=(32,)).fit(train, epochs=60, seed=0, batch_size=64)


def _unexplained(found: np.ndarray, true: np.ndarray) -> float:
    return float(np.square(found - true).sum() / np.square(true - true.mean(0)).sum())


def test_a_linear_system_is_learned(kae, test) -> None:
    for point in test.points:
        assert _unexplained(kae.propagate(test["layer0"], "layer0", point), test[point]) < 0.05
    # Training starts near the closed-form solution, which is exact for a linear encoder.
    assert min(kae.history_["validation"] + kae.history_["start"]) < 1e-4


@pytest.mark.parametrize("operator", ["per_step", "low_rank", "least_squares"])
def test_every_operator_learns_it_and_is_saved(train, test, tmp_path, operator) -> None:
    kae = KoopmanAutoencoder(6, (), operator=operator).fit(train, epochs=30, batch_size=64)
    found = kae.propagate(test["layer0"], "layer0", "layer3")
    assert _unexplained(found, test["layer3"]) < 0.05
    kae.save_pretrained(tmp_path / "kae")
    again = KoopmanAutoencoder.from_pretrained(tmp_path / "kae")
    assert np.array_equal(again.propagate(test["layer0"], "layer0", "layer3"), found)
    there = kae.encode(test["layer0"], "layer0") @ kae.operator_.matrix(0, 2).detach().numpy()
    steps = kae.operator_.steps()
    both = kae.encode(test["layer0"], "layer0") @ (steps[0] @ steps[1]).detach().numpy()
    assert np.allclose(there, both, atol=1e-4)


def test_field_is_what_encoding_the_decoded_changes(kae, test) -> None:
    z = torch.from_numpy(kae.encode(test["layer3"], "layer3"))
    velocity = kae.field("layer3").velocity(z)
    again = kae.encode(kae.decode(z, "layer3"), "layer3")
    assert torch.allclose(torch.as_tensor(velocity), (again - z).detach(), atol=1e-5)
    with pytest.raises(RepdynError, match="no point"):
        kae.field("layer9")


def test_propagation_runs_backwards_and_stops_between(kae, test) -> None:
    assert _unexplained(kae.propagate(test["layer3"], "layer3", "layer1"), test["layer1"]) < 0.2
    here = kae.propagate(test["layer0"], "layer0", 1.0)
    assert np.allclose(here, kae.propagate(test["layer0"], "layer0", "layer1"))
    near = kae.propagate(test["layer0"], "layer0", 1.001)
    assert np.allclose(here, near, atol=0.05)
    assert not np.array_equal(here, near)


def test_encoding_keeps_distances(kae, test) -> None:
    x = test["layer3"]
    z = kae.encode(x, "layer3") * float(kae.frames_.scale[-1])
    true = np.linalg.norm(x[1:] - x[:-1], axis=1)
    assert np.corrcoef(true, np.linalg.norm(z[1:] - z[:-1], axis=1))[0, 1] > 0.97


def test_tensors_go_in_and_out_with_their_gradient(kae, test) -> None:
    x = torch.from_numpy(test["layer0"]).requires_grad_()
    kae.decode(kae.encode(x, "layer0"), "layer0").sum().backward()
    assert x.grad is not None
    assert isinstance(kae.encode(test["layer0"], "layer0"), np.ndarray)


def test_same_seed_same_numbers_and_the_global_stream_is_untouched(train, test) -> None:
    before = torch.random.get_rng_state()
    one, two = (KoopmanAutoencoder(4, (8,)).fit(train, epochs=2, seed=3) for _ in range(2))
    other = KoopmanAutoencoder(4, (8,)).fit(train, epochs=2, seed=4)
    assert torch.equal(torch.random.get_rng_state(), before)
    found = [k.propagate(test["layer0"], "layer0", "layer3") for k in (one, two, other)]
    assert np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


def test_a_saved_autoencoder_is_the_same(kae, test, tmp_path) -> None:
    kae.save_pretrained(tmp_path / "kae")
    again = KoopmanAutoencoder.from_pretrained(tmp_path / "kae")
    expected = kae.propagate(test["layer0"], "layer0", 2.5)
    assert np.array_equal(again.propagate(test["layer0"], "layer0", 2.5), expected)
    assert again.history_ == kae.history_
    with pytest.raises(RepdynError, match="train="):
        again.fidelity(test)


def test_a_folder_whose_weights_do_not_match_is_refused(kae, tmp_path) -> None:
    kae.save_pretrained(tmp_path / "kae")
    config = json.loads((tmp_path / "kae" / "config.json").read_text())
    config["latent_dim"] = 5
    del config["repdyn"]["sha256"]  # as in results of version 0.1; with it the change alone is refused
    (tmp_path / "kae" / "config.json").write_text(json.dumps(config))
    with pytest.raises(RepdynError, match="do not match"):
        KoopmanAutoencoder.from_pretrained(tmp_path / "kae")
    (tmp_path / "kae" / "config.json").write_text(json.dumps({"repdyn": config["repdyn"]}))
    with pytest.raises(RepdynError, match="not that of a Koopman autoencoder"):
        KoopmanAutoencoder.from_pretrained(tmp_path / "kae")


def test_paths_of_another_model_are_refused(kae) -> None:
    x = np.random.default_rng(0).standard_normal((20, 6))
    with pytest.raises(RepdynError, match="fitted to"):
        kae.fidelity(RepresentationPaths.from_arrays({"a": x, "b": x}))
    wide = RepresentationPaths.from_arrays({f"layer{n}": np.c_[x, x] for n in range(4)})
    with pytest.raises(RepdynError, match="another model"):
        kae.fidelity(wide)


def test_points_of_any_width_share_one_space() -> None:
    draw = np.random.default_rng(0)
    x = draw.standard_normal((200, 3))
    paths = RepresentationPaths.from_arrays(
        {"a": x, "b": x @ draw.standard_normal((3, 7)), "c": x[:, :2] + 4}
    )
    kae = KoopmanAutoencoder(4, (8,)).fit(paths, epochs=3)
    assert [kae.propagate(paths["a"], "a", point).shape[1] for point in paths.points] == [3, 7, 2]


def test_more_observables_than_samples_is_fine() -> None:
    x = np.random.default_rng(0).standard_normal((12, 40))
    paths = RepresentationPaths.from_arrays({"a": x, "b": x + 1, "c": 2 * x})
    kae = KoopmanAutoencoder(50, ()).fit(paths, epochs=3)
    assert np.isfinite(kae.propagate(x, "a", "c")).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"operator": "generatr"}, "nearest: 'generator'"),
        ({"latent_dim": 0}, "positive"),
        ({"isometry": -1.0}, "negative"),
    ],
)
def test_settings_that_make_no_sense(train, settings, message) -> None:
    with pytest.raises(RepdynError, match=message):
        KoopmanAutoencoder(**settings).fit(train)


def test_one_point_few_samples_and_constant_points_are_refused(train) -> None:
    x = np.random.default_rng(0).standard_normal((30, 3))
    with pytest.raises(RepdynError, match="one point"):
        KoopmanAutoencoder().fit(RepresentationPaths.from_arrays({"a": x}))
    with pytest.raises(RepdynError, match="too few"):
        KoopmanAutoencoder().fit(RepresentationPaths.from_arrays({"a": x[:5], "b": x[:5]}))
    with pytest.raises(RepdynError, match="'b' is constant"):
        KoopmanAutoencoder().fit(RepresentationPaths.from_arrays({"a": x, "b": np.ones((30, 3))}))
    with pytest.raises(RepdynError, match="pooling"):
        KoopmanAutoencoder().fit(RepresentationPaths.from_arrays({"a": x[:, None], "b": x[:, None]}))


def test_more_points_than_samples_and_values_that_are_not_finite_are_refused() -> None:
    x = np.random.default_rng(0).standard_normal((12, 3))
    with pytest.raises(RepdynError, match="13 points but only 12 samples"):
        KoopmanAutoencoder().fit(RepresentationPaths.from_arrays({f"p{n}": x + n for n in range(13)}))
    KoopmanAutoencoder(2, ()).fit(
        RepresentationPaths.from_arrays({f"p{n}": x + n for n in range(12)}), epochs=1
    )
    for wrong in (np.nan, np.inf):
        y = x.copy()
        y[7, 1] = wrong
        with pytest.raises(RepdynError, match="point 'b', sample '7'"):
            KoopmanAutoencoder().fit(RepresentationPaths.from_arrays({"a": x, "b": y, "c": x}))


def test_a_path_of_constants_is_refused_wherever_it_stands() -> None:
    x = np.random.default_rng(0).standard_normal((30, 3))
    same = np.full((30, 3), 4.0)
    for points in ({"a": same, "b": x}, {"a": x, "b": same, "c": x}, {"a": same, "b": same}):
        with pytest.raises(RepdynError, match="is constant over the 30 samples"):
            KoopmanAutoencoder().fit(RepresentationPaths.from_arrays(points))


def test_use_before_fit_and_wrong_places(kae, test) -> None:
    with pytest.raises(RepdynError, match="not fitted"):
        KoopmanAutoencoder().encode(test["layer0"], "layer0")
    with pytest.raises(RepdynError, match="nearest: 'layer3'"):
        kae.encode(test["layer0"], "layer33")
    with pytest.raises(RepdynError, match="between 0 and 3"):
        kae.propagate(test["layer0"], "layer0", 3.5)
    with pytest.raises(RepdynError, match="between points"):
        kae.propagate(test["layer0"], 0.5, "layer3")
    with pytest.raises(RepdynError, match="6 entries"):
        kae.encode(np.ones((2, 5)), "layer0")
