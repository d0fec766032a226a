"""What is saved on one device and read on another, of all rooms."""

from __future__ import annotations

import tempfile
import warnings
from typing import Any

import numpy as np
import torch

from repdyn import devices, fields, koopman
from repdyn.disentangle import SKD, SSMSKD
from repdyn.fields import SurrogateAutoencoder
from repdyn.koopman import KoopmanAutoencoder
from repdyn.topology import FlowAutoencoder
from tests.device_cases.shared import case, fitted_koopman, normal, some_paths


@case(
    "SurrogateAutoencoder.from_pretrained",
    "SurrogateAutoencoder.save_pretrained",
    "KoopmanAutoencoder.from_pretrained",
    "KoopmanAutoencoder.save_pretrained",
    "EditedKoopman.load",
    "EditedKoopman.save",
    "FlowAutoencoder.from_pretrained",
    "FlowAutoencoder.save_pretrained",
    "SKD.from_pretrained",
    "SKD.save_pretrained",
    "SSMSKD.from_pretrained",
    "SSMSKD.save_pretrained",
)
def saved_on_one_device_and_read_on_another(device: str) -> Any:
    x = torch.as_tensor(np.asarray(some_paths()["p1"]))
    kae = fitted_koopman(device)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", fields.SurrogateWarning)
        kae.save_pretrained(f"{folder}/kae")
        kae.forget(some_paths(), label=1).save(f"{folder}/edited")
        surrogate = SurrogateAutoencoder(2, (8,), penalty=0.1, epochs=1).fit(
            some_paths(), "p1", device=device
        )
        surrogate.save_pretrained(f"{folder}/surrogate")
        flow = FlowAutoencoder(2, layers=2, hidden=(8,)).fit(x.to(device), steps=1, start_steps=1)
        flow.save_pretrained(f"{folder}/flow")
        for made in (SKD(latent_dim=4, static_dim=1, hidden=8), SSMSKD(latent_dim=3, hidden=8)):
            made.fit(normal(24, 5, 4), epochs=1, device=device).save_pretrained(
                f"{folder}/{type(made).__name__}"
            )
        for where in ("cpu", device):
            again = KoopmanAutoencoder.from_pretrained(f"{folder}/kae", device=where)
            assert devices.device_of(again).type == where
            assert (
                devices.device_of(koopman.EditedKoopman.load(f"{folder}/edited", device=where).kae).type
                == where
            )
            assert (
                SurrogateAutoencoder.from_pretrained(f"{folder}/surrogate", device=where).field().device.type
                == where
            )
            assert (
                FlowAutoencoder.from_pretrained(f"{folder}/flow", device=where).encode(x).device.type == "cpu"
            )
            assert SKD.from_pretrained(f"{folder}/SKD", device=where).device.type == where
            assert SSMSKD.from_pretrained(f"{folder}/SSMSKD", device=where).device.type == where
            last = KoopmanAutoencoder.from_pretrained(f"{folder}/kae").encode(x, "p1")
    return last.detach().numpy(), again.encode(x.to(device), "p1")
