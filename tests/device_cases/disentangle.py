"""Device cases of repdyn.disentangle."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from repdyn import devices, disentangle
from repdyn.disentangle import SKD, SSMSKD, Judge
from tests.device_cases.shared import case, normal, some_paths


def clips(count: int = 24) -> Tensor:
    return torch.rand((count, 5, 1, 16, 16), generator=torch.Generator().manual_seed(0))


@case(
    "SKD.fit", "SKD.encode", "SKD.decode", "SKD.reconstruct", "SKD.predict", "SKD.factors", "SKD.swap",
    "SKD.sample", "SKD.read", "SKD.operators", "SKD.standardise",
    "SKD.standardize", "SKD.restore_scale", "swap_grid",
    tolerance=2e-2,
)  # fmt: skip
def a_structured_koopman_autoencoder(device: str) -> Any:
    x = normal(24, 5, 4)
    found = SKD(latent_dim=4, static_dim=1, hidden=8).fit(x, epochs=2, device=device)
    assert found.device.type == device
    z = found.encode(x.to(device))
    found.factors(x)
    assert found.device.type == device  # reading leaves the model where it is
    mask = torch.ones(24, 5, dtype=torch.bool).to(device)
    assert found.operators(devices.double(z), mask).device.type == device
    first, second = x[:3].to(device), x[3:6].to(device)
    return (
        z,
        found.decode(z),
        found.reconstruct(x.to(device)),
        found.predict(x.to(device)),
        found.factors(x.to(device)).static,
        sorted(found.swap(first, second).to_dict()),
        found.sample(x.to(device), 2),
        len(disentangle.swap_grid(found, first).to_dict()),
    )


@case("SSMSKD.fit", "SSMSKD.encode", "SSMSKD.decode", "SSMSKD.factors", tolerance=2e-2)
def a_single_static_mode(device: str) -> Any:
    x = normal(24, 8, 4)
    found = SSMSKD(latent_dim=3, hidden=8).fit(x, epochs=2, device=device)
    z = found.encode(x.to(device))
    return z, found.decode(z), found.factors(x.to(device)).static


@case("Judge.fit", "Judge.forward", "Judge.predict", "Judge.predict_frames", "Judge.accuracy", tolerance=5e-2)
def a_judge(device: str) -> Any:
    labels = {"kind": np.arange(24) % 2}
    judge = Judge(channels=(4,)).fit(clips().to(device), labels, static=("kind",), epochs=1)
    assert devices.device_of(judge).type == device
    judge.predict(clips()), judge.predict_frames(clips().to(device)), judge.accuracy(clips(), labels)
    return judge(clips().to(device))[0]["kind"]


@case("depth_factors", "depth_swaps", tolerance=5e-2)
def depth(device: str) -> Any:
    model = SKD(latent_dim=4, static_dim=2, hidden=8).fit(some_paths(), epochs=2, device=device)
    found = disentangle.depth_factors(
        model, some_paths(), some_paths(), lambda x: x[:, :3] - x[:, :3].mean(axis=0)
    )
    assert model.device.type == device
    return sorted(found.to_dict())
