"""Device cases of repdyn.topology."""

from __future__ import annotations

from typing import Any

import torch

from repdyn import devices
from repdyn.topology import FlowAutoencoder, LevelSetTree
from tests.device_cases.shared import case, normal


@case(
    "FlowAutoencoder.fit",
    "FlowAutoencoder.encode",
    "FlowAutoencoder.decode",
    "FlowAutoencoder.noise",
    "FlowAutoencoder.log_density",
    "FlowAutoencoder.latent_log_density",
    "FlowAutoencoder.sample_latents",
    "FlowAutoencoder.tree",
    tolerance=2e-2,
)
def a_flow(device: str) -> Any:
    x = normal(120, 3) * torch.tensor([3.0, 2.0, 0.1])
    for prior in ("free", "mixture", "gaussian"):
        found = FlowAutoencoder(2, prior, layers=2, hidden=(8,), components=3).fit(
            x.to(device), steps=3, start_steps=3, batch_size=64
        )
        assert devices.device_of(found._network_).type == device
    assert isinstance(found.tree(samples=100), LevelSetTree)
    u = found.encode(x.to(device))
    return (
        u,
        found.decode(u),
        found.noise(x.to(device)),
        found.encode(x.double().numpy()),
        found.log_density(x),
        found.latent_log_density(u),
        found.sample_latents(10),
    )
