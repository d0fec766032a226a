"""Real encode-decode pairs as fields: published auto-encoders, Koopman autoencoders, surrogates of paths."""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from repdyn.fields import (
    STATUSES,
    LatentField,
    SurrogateAutoencoder,
    SurrogateWarning,
    leading_multipliers,
    memorization,
)
from repdyn.koopman import KoopmanAutoencoder
from repdyn.paths import RepresentationPaths

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("REPDYN_DATA", ROOT.parent / "shared" / "data"))
NEEDED = [
    f"models/{name}.safetensors" for name in ("vae_mnist", "btcvae_mnist", "taef2_encoder", "taef2_decoder")
]
needs_data = pytest.mark.skipif(
    not all((DATA / name).is_file() for name in [*NEEDED, "images/mnist.npz"]),
    reason="REPDYN_DATA holds no VAEs, TAEF2 and digits of MNIST",
)


def published() -> ModuleType:
    """The module that the benchmarks share: benchmarks are scripts, no package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        return importlib.import_module("pretrained_autoencoders")


def of_vae(name: str) -> tuple[LatentField, Tensor]:
    vae = published().BurgessVAE(DATA / "models" / f"{name}.safetensors")
    return LatentField.from_autoencoder(vae.encode, vae.decode), vae.encode(
        published().padded_digits("test", 3)
    )


def of_taef2() -> tuple[LatentField, Tensor]:
    taef2 = published().Taef2(DATA / "models", 16)
    pictures = torch.rand((3, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    codes = taef2.encode(pictures)
    assert codes.shape == (3, 128)
    return LatentField.from_autoencoder(taef2.encode, taef2.decode), codes


def paths() -> RepresentationPaths:
    x = np.random.default_rng(0).standard_normal((60, 12)).astype(np.float32)
    return RepresentationPaths.from_arrays({"in": x, "out": np.tanh(x)})


def of_koopman() -> tuple[LatentField, Tensor]:
    kae = KoopmanAutoencoder(latent_dim=5, hidden=(16,)).fit(paths(), epochs=2, seed=0)
    with torch.no_grad():
        return kae.field("out"), kae.encode(torch.from_numpy(np.asarray(paths()["out"][:3])), "out")


def of_surrogate() -> tuple[LatentField, Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SurrogateWarning)
        surrogate = SurrogateAutoencoder(4, (16,), penalty=0.1, epochs=2).fit(paths(), "out")
    return surrogate.field(), surrogate.encode(np.asarray(paths()["out"][:3]))


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: of_vae("vae_mnist"), id="vae", marks=needs_data),
        pytest.param(lambda: of_vae("btcvae_mnist"), id="btcvae", marks=needs_data),
        pytest.param(of_taef2, id="taef2", marks=[needs_data, pytest.mark.slow]),
        pytest.param(of_koopman, id="koopman"),
        pytest.param(of_surrogate, id="surrogate"),
    ],
)
def test_everything_a_field_says_is_batched(make: Callable[[], tuple[LatentField, Tensor]]) -> None:
    field, z = make()
    z = z.detach()
    n, d = z.shape
    direction = torch.randn(z.shape, generator=torch.Generator().manual_seed(1))
    direction = direction / direction.norm(dim=1, keepdim=True)
    orbit, (image, product) = field.trajectory(z, steps=2), field.jvp(z, direction)
    torch.testing.assert_close(orbit[1] - z, field.velocity(z), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(image, orbit[1], rtol=1e-3, atol=1e-4)
    # Samples do not know of one another.
    torch.testing.assert_close(field.jvp(z[1:2], direction[1:2])[1], product[1:2], rtol=1e-3, atol=1e-4)
    # The Jacobian is that of central differences.
    width = 1e-2 * float(z.norm(dim=1).mean())
    slope = (field(z + width * direction) - field(z - width * direction)) / (2 * width)
    cosine = torch.nn.functional.cosine_similarity(slope.flatten(), product.flatten(), dim=0)
    assert float(cosine) > 0.95
    value, error = field.divergence(z, probes=4)
    assert value.shape == error.shape == (n,)
    assert bool(torch.isfinite(value).all())
    multipliers = leading_multipliers(field, z)
    assert multipliers.shape == (n, min(6, d))
    assert bool((multipliers.abs().diff(dim=1) <= 1e-9).all())
    exponents = field.lyapunov(z, steps=16)
    assert exponents.shape == (n, min(2, d), 3)
    assert np.isfinite(exponents).all()


@needs_data
@pytest.mark.slow
def test_vae_rebuilds_digits_and_its_attractors_are_verified() -> None:
    vae = published().BurgessVAE(DATA / "models" / "vae_mnist.safetensors")
    x = published().padded_digits("test", 25)
    with torch.no_grad():
        codes = vae.encode(x)
        assert float((vae.decode(codes) - x).square().mean()) < 0.03
    field = LatentField.from_autoencoder(vae.encode, vae.decode)
    found = field.attractors(codes, max_steps=150)
    assert set(found.status) <= set(STATUSES)
    # Plain iteration from near each attracting fixed point comes back to it.
    fixed = [a for a in range(len(found)) if found.kind[a] == "fixed point"]
    assert fixed
    assert (np.abs(found.multipliers[fixed, 0]) < 1).all()
    points = torch.from_numpy(found.points[fixed]).float()
    near = points + 1e-3 * found.scale / 10**0.5
    moved = field.trajectory(near, 200)[-1]
    assert ((moved - points).norm(dim=1) < (near - points).norm(dim=1)).all()


@needs_data
def test_memorization_of_the_vae_stands_beside_its_null() -> None:
    vae = published().BurgessVAE(DATA / "models" / "vae_mnist.safetensors")
    field = LatentField.from_autoencoder(vae.encode, vae.decode)
    train, test = (published().padded_digits(split, 100) for split in ("train", "test"))
    found = memorization(field, train, test, max_starts=12, max_steps=60)
    assert 0.5 < found.null.value < 1
    assert found.test_error.value < 0.5
