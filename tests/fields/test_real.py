"""A published variational auto-encoder on MNIST: real weights, real digits."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from repdyn.fields import STATUSES, LatentField, memorization

DATA = Path(os.environ.get("REPDYN_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
WEIGHTS, DIGITS = DATA / "models" / "vae_mnist.safetensors", DATA / "images" / "mnist.npz"

pytestmark = pytest.mark.skipif(
    not (WEIGHTS.is_file() and DIGITS.is_file()), reason="REPDYN_DATA holds no VAE and digits of MNIST"
)


class Burgess:
    """The 32 x 32 auto-encoder of Burgess et al. (2018) with 10 latents; the code is the posterior's mean."""

    def __init__(self) -> None:
        from safetensors.torch import load_file

        self.w = load_file(WEIGHTS)

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return functional.linear(x, self.w[f"{name}.weight"], self.w[f"{name}.bias"])

    def encode(self, x: Tensor) -> Tensor:
        for i in (1, 2, 3):
            name = f"encoder.conv{i}"
            x = functional.conv2d(
                x, self.w[f"{name}.weight"], self.w[f"{name}.bias"], stride=2, padding=1
            ).relu()
        x = x.flatten(1)
        for i in (1, 2):
            x = self._linear(f"encoder.lin{i}", x).relu()
        return self._linear("encoder.mu_logvar_gen", x).reshape(-1, 10, 2)[:, :, 0]

    def decode(self, z: Tensor) -> Tensor:
        for i in (1, 2, 3):
            z = self._linear(f"decoder.lin{i}", z).relu()
        z = z.reshape(-1, 32, 4, 4)
        for i in (1, 2, 3):
            name = f"decoder.convT{i}"
            z = functional.conv_transpose2d(
                z, self.w[f"{name}.weight"], self.w[f"{name}.bias"], stride=2, padding=1
            )
            z = z.relu() if i < 3 else z.sigmoid()
        return z


def digits(split: str, n: int) -> Tensor:
    x = torch.from_numpy(np.load(DIGITS)[f"x_{split}"][:n]).float()[:, None] / 255
    return functional.interpolate(x, size=32, mode="bilinear", align_corners=False)


@pytest.mark.slow
def test_vae_rebuilds_digits_and_its_attractors_are_verified() -> None:
    vae = Burgess()
    x = digits("test", 25)
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


def test_memorization_of_the_vae_stands_beside_its_null() -> None:
    vae = Burgess()
    field = LatentField.from_autoencoder(vae.encode, vae.decode)
    found = memorization(field, digits("train", 100), digits("test", 100), max_starts=12, max_steps=60)
    assert 0.5 < found.null.value < 1
    assert found.test_error.value < 0.5
