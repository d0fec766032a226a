"""Device cases of repdyn.koopman."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import repdyn
from repdyn import devices, koopman
from repdyn.koopman import KoopmanAutoencoder
from repdyn.koopman.training import Plan
from tests.device_cases.shared import case, fitted_koopman, network, normal, some_paths


@case("KoopmanAutoencoder.fit", tolerance=2e-2)
def a_koopman_fit(device: str) -> Any:
    found = KoopmanAutoencoder(latent_dim=6, hidden=(6,)).fit(some_paths(), epochs=2, device=device)
    assert devices.device_of(found).type == device
    again = found.fit(some_paths(), epochs=2)
    assert devices.device_of(again).type == device  # without device= it stays where it is
    return again.history_["validation"]


@case(tolerance=2e-2)
def a_koopman_fit_from_a_store(device: str) -> Any:
    """Batches are read from the store where data are larger than the memory of the plan."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("repdyn.koopman.autoencoder.Plan", partial(Plan, memory=0))
        found = KoopmanAutoencoder(latent_dim=6, hidden=(6,)).fit(some_paths(), epochs=2, device=device)
    assert devices.device_of(found).type == device
    return found.history_["validation"]


@case("KoopmanAutoencoder.encode", "KoopmanAutoencoder.decode", "KoopmanAutoencoder.propagate")
def through_a_koopman_autoencoder(device: str) -> Any:
    kae, x = fitted_koopman(device), torch.as_tensor(np.asarray(some_paths()["p0"]))[:9]
    here = kae.encode(x, "p0")
    assert here.device.type == "cpu"
    z = kae.encode(x.to(device), "p0")
    half = kae.encode(x.to(device, torch.bfloat16), "p0")
    assert half.dtype == torch.bfloat16
    return (
        here.detach().numpy(),
        z,
        kae.decode(z, "p2"),
        kae.propagate(x.to(device), "p0", "p2"),
        kae.propagate(x.to(device), "p0", 0.5, reencode_every=0.25),
        kae.encode(x.numpy(), "p0"),
    )


@case("KoopmanAutoencoder.field", tolerance=1e-3)
def the_field_of_a_koopman_autoencoder(device: str) -> Any:
    field = fitted_koopman(device).field("p1")
    z = normal(9, 8).to(device)
    double = field.as_float64(z)
    assert (double is None) == (devices.widest(torch.device(device)) == torch.float32)
    return field(z), field.encode(torch.as_tensor(np.asarray(some_paths()["p1"])).to(device))


@case("KoopmanAutoencoder.fidelity", tolerance=1e-3)
def fidelity(device: str) -> Any:
    kae, head = fitted_koopman(device), network(5, 3, seed=4).to(device)
    found = kae.fidelity(some_paths(), head=head, train=some_paths())
    by_function = kae.fidelity(some_paths(), head=lambda x: head(x), train=some_paths())
    return {n: {k: e.value for k, e in row.items()} for n, row in found.head.items()}, {
        n: {k: e.value for k, e in row.items()} for n, row in by_function.head.items()
    }


@case("KoopmanAutoencoder.spectrum", "KoopmanSpectrum.eigenfunctions", "excitation", tolerance=1e-3)
def a_spectrum(device: str) -> Any:
    kae = fitted_koopman(device)
    found = kae.spectrum(some_paths(), resamples=5)
    excited = koopman.excitation(found, kae, some_paths())
    z = kae.encode(torch.as_tensor(np.asarray(some_paths()["p0"])).to(device), "p0")
    return np.sort(np.abs(found.eigenvalues)), np.abs(found.eigenfunctions(z)).shape, len(excited.to_dict())


@case(
    "KoopmanAutoencoder.forget",
    "EditedKoopman.observables",
    "EditedKoopman.predict",
    "EditedKoopman.propagate",
    "EditedKoopman.run",
    "EditedKoopman.drift",
    "attack",
    tolerance=1e-2,
)
def an_edit(device: str) -> Any:
    kae, head = fitted_koopman(device), network(5, 3, seed=4).to(device)
    edited = kae.forget(some_paths(), label=1, head=head)
    x = torch.as_tensor(np.asarray(some_paths()["p0"]))[:9].to(device)
    attacked = koopman.attack(edited, some_paths(), 1, head=head, fraction=0.2)
    own = koopman.attack(edited, some_paths(), 1, fraction=0.2)
    module = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 3))
    with torch.no_grad():
        for part in module:
            part.weight.copy_(torch.ones_like(part.weight) / 5)
            part.bias.zero_()
    model = repdyn.wrap(module.to(device))
    return (
        edited.observables(x),
        edited.predict(x),
        edited.propagate(x, "p2"),
        edited.run(_Renamed(model), x),
        edited.drift(some_paths()).value,
        sorted(attacked.to_dict()),
        sorted(own.to_dict()),
    )


@case("EditedKoopman.intervene", tolerance=1e-3)
def an_edit_inside_its_model(device: str) -> Any:
    points, x = ["0", "2"], normal(60, 4)
    labels = (x[:, 0] > 0).int().numpy()
    cpu = repdyn.trace(repdyn.wrap(network(4, 4, 4, 4)), x, points=points, labels=labels)
    kae = KoopmanAutoencoder(latent_dim=4, hidden=()).fit(cpu, epochs=2)
    edited = kae.forget(cpu, label=1)
    devices.to(kae, device)
    return edited.intervene(repdyn.wrap(network(4, 4, 4, 4).to(device)), x[:9])


class _Renamed:
    """A model whose last block stands for the last point of a path."""

    def __init__(self, model: Any) -> None:
        self.model, self.device = model, model.device

    def run_from(self, point: str, x: Tensor, *inputs: Any) -> Any:
        assert point == "p2"
        return self.model.run_from("1", x, torch.zeros(len(x), 5).to(self.device))


@case("gain", tolerance=1e-3)
def a_gain(device: str) -> Any:
    model = repdyn.wrap(network(4, 4, 4, 4).to(device))
    paths = repdyn.trace(model, normal(200, 4))
    found = koopman.gain(model, paths, normal(9, 4, seed=1))
    return found.fitted, [own.value for own in found.true]
