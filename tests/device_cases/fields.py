"""Device cases of repdyn.fields."""

from __future__ import annotations

import tempfile
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from repdyn import devices, fields
from repdyn.fields import LatentField, SurrogateAutoencoder
from repdyn.fields.settings import ENERGY, ClassificationSettings, SearchSettings
from tests.device_cases.shared import autoencoder, bistable, case, normal, some_paths


@case("LatentField.velocity", "LatentField.trajectory", "LatentField.power")
def steps_of_a_field(device: str) -> Any:
    field, z = bistable(device), normal(7, 3).to(device)
    return field(z), field.velocity(z), field.trajectory(z, 5), field.power(3)(z)


@case("LatentField.jvp", "LatentField.linearize", "LatentField.divergence", "LatentField.lyapunov")
def derivatives_of_a_field(device: str) -> Any:
    field, z = bistable(device), normal(7, 3).to(device)
    v = normal(7, 3, seed=1).to(device)
    return (
        field.jvp(z, v),
        field.linearize(z)[1](v),
        field.divergence(z),
        field.divergence(z, probes=2),
        field.lyapunov(z, 32),
    )


@case("LatentField.as_float64", "LatentField.double", tolerance=1e-6)
def a_field_in_double(device: str) -> Any:
    z = normal(7, 3).to(device)
    found = bistable(device).as_float64(z)
    assert (found is None) == (devices.widest(z.device) == torch.float32)
    return [] if found is None else [found(devices.double(z)).dtype == torch.float64]


@case("LatentField.on_device", "LatentField.from_autoencoder", "LatentField.place")
def where_a_field_is(device: str) -> Any:
    field = autoencoder(device)
    assert field.device.type == device
    assert LatentField(lambda z: z / 2).device.type == "cpu"
    return field.on_device(np.ones((2, 3), dtype=np.float32)), field.on_device(torch.ones(2, 3))


@case("find_attractors", "LatentField.attractors", "Attractors.assign", "assign_basins", tolerance=1e-3)
def attractors_of_a_field(device: str) -> Any:
    field, starts = bistable(device), normal(60, 3)
    found = field.attractors(starts.to(device))
    # Starts of the host are moved, once.
    again = field.attractors(starts.numpy())
    new = normal(9, 3, seed=5)
    order = np.argsort(found.points[:, 0])
    return (
        found.points[order],
        again.points[np.argsort(again.points[:, 0])],
        found.status.tolist(),
        np.abs(found.multipliers[order]),
        found.points[found.assign(field, new.to(device))],
        found.points[fields.assign_basins(field, found, new)],
    )


@case("Attractors.plot")
def a_picture_of_attractors(device: str) -> Any:
    field = LatentField(nn.Sequential(nn.Linear(2, 2)).requires_grad_(False).to(device))
    with torch.no_grad():
        field.step[0].weight.copy_(torch.eye(2) / 2)
        field.step[0].bias.zero_()
    figure = field.attractors(normal(12, 2).to(device)).plot(field)
    return len(figure.data)


@case("leading_multipliers")
def multipliers(device: str) -> Any:
    return fields.leading_multipliers(bistable(device), torch.zeros(1, 3).to(device)).abs().float()


def turning(device: str) -> LatentField:
    """A circle that attracts: what no fixed point ends."""

    def step(z: Tensor) -> Tensor:
        angle = torch.tensor(0.7, dtype=z.dtype)
        x, y = z[:, 0], z[:, 1]
        radius = (x * x + y * y).sqrt().clamp_min(1e-6)
        grown = torch.tanh(2 * radius) / radius
        return (
            torch.stack([x * angle.cos() - y * angle.sin(), x * angle.sin() + y * angle.cos()], 1)
            * grown[:, None]
        )

    return LatentField(step)


@case("AttractorTracker.update", "AttractorHistory.counts", "AttractorHistory.shares")
def attractors_through_training(device: str) -> Any:
    tracker = fields.AttractorTracker(normal(20, 3).to(device), max_steps=300)
    for step in range(2):
        tracker.update(step, bistable(device))
    return tracker.history().counts(), tracker.history().shares()


@case()
def a_circle_is_told(device: str) -> Any:
    # Short orbits: each step of a map on the stand-in costs a hundred times that of the CPU.
    short = SearchSettings(orbit_steps=192, classification=ClassificationSettings(max_extension=1))
    found = turning(device).attractors(normal(6, 2).to(device), max_steps=100, settings=short)
    assert set(found.kind) == {"invariant circle"}
    return sorted(set(found.kind))


@case("memorization", tolerance=1e-3)
def memories(device: str) -> Any:
    found = fields.memorization(
        autoencoder(device), normal(30, 6).to(device), normal(20, 6, seed=1).to(device), max_steps=300
    )
    return found.coefficient.value, found.null.value, found.verdict


@case("probe_without_data", tolerance=1e-3)
def probing(device: str) -> Any:
    field = autoencoder(device)
    found = fields.probe_without_data(field, field.decode, normal(30, 3).to(device), starts=40, max_steps=300)
    return found.verdict, found.sizes


@case("align_fields", tolerance=1e-3)
def aligned_fields(device: str) -> Any:
    z = normal(40, 3)
    found = fields.align_fields(
        bistable(device), bistable(device), z.to(device), z.to(device), steps=(0, 1, 2)
    )
    return [e.value for e in found.states], found.verdict


@case(
    "SurrogateAutoencoder.fit",
    "SurrogateAutoencoder.encode",
    "SurrogateAutoencoder.decode",
    "SurrogateAutoencoder.residual",
    "SurrogateAutoencoder.field",
    tolerance=2e-2,
)
def a_surrogate(device: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fields.SurrogateWarning)
        found = SurrogateAutoencoder(latent_dim=2, hidden=(8,), penalty=0.1, epochs=3).fit(
            some_paths(), "p1", device=device
        )
    x = torch.as_tensor(np.asarray(some_paths()["p1"]))
    assert found.field().device.type == device
    assert found.encode(x).device.type == "cpu"  # the model is elsewhere: moved there and back
    code = found.encode(x.to(device))
    return code, found.decode(code), found.residual(x.to(device))


@case(
    *(
        f"EnergyField.{name}"
        for name in (
            "fit", "at", "encode", "decode", "energy", "displacement", "settle", "basins", "nearest",
            "projected", "save_pretrained", "from_pretrained",
        )
    ),
    "mode_tree",
    tolerance=1e-3,
)  # fmt: skip
def the_field_of_a_bank(device: str) -> Any:
    return [answer for atoms in (None, 4) for answer in _answers_of_a_bank(device, atoms)]


def _answers_of_a_bank(device: str, atoms: int | None) -> tuple[Any, ...]:
    bank = 5 * normal(4, 3, seed=7).repeat(10, 1) + 0.2 * normal(40, 3)
    with pytest.MonkeyPatch.context() as patched, warnings.catch_warnings():
        # Each of the four atoms is a mode, which is said.
        warnings.simplefilter("ignore", fields.EnergyWarning)
        # Four scales, compared once: the default compares 60 scales five times.
        few = replace(ENERGY, levels=4, log_step=1.0, halvings=1)
        patched.setattr("repdyn.fields.mean_shift.ENERGY", few)
        field = fields.EnergyField(0.7, atoms=atoms).fit(bank.to(device))
    assert field.scales_ is not None
    assert len(field.scales_.sigmas) > 2
    z = field.encode(bank[:9].to(device))
    # Without ties of principal axes, signs alone differ between devices: answers are compared as latents.
    assert field.settle(field.encode(bank[:9])).device.type == "cpu"
    with tempfile.TemporaryDirectory() as folder:
        field.save_pretrained(f"{folder}/field")
        again = fields.EnergyField.from_pretrained(f"{folder}/field", device=device)
    assert again.bank_.device.type == device
    return (
        field.decode(field.settle(z)),
        field.at(0.9).energy(z),
        field.displacement(z).norm(dim=1),
        field.decode(field.projected(field, 2)(z)),
        field.basins(z)[0],
        again.nearest(z),
        fields.mode_tree(field, bank.to(device)).assignment,
    )
