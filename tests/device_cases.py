"""Everything public that takes a model, a tensor or a field, as cases that can run on any device."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

import repdyn
from repdyn import devices, disentangle, fields, koopman, ood, topology, translation
from repdyn.disentangle import SKD, SSMSKD, Judge
from repdyn.fields import LatentField, SurrogateAutoencoder
from repdyn.koopman import KoopmanAutoencoder
from repdyn.koopman.training import Plan
from repdyn.paths import RepresentationPaths
from repdyn.topology import FlowAutoencoder, LevelSetTree
from repdyn.translation import LinearTranslation


@dataclass(frozen=True)
class Case:
    run: Callable[[str], Any]
    covers: tuple[str, ...]
    tolerance: float


CASES: dict[str, Case] = {}


def case(*covers: str, tolerance: float = 1e-4) -> Callable[[Callable[[str], Any]], Callable[[str], Any]]:
    def add(run: Callable[[str], Any]) -> Callable[[str], Any]:
        CASES[run.__name__] = Case(run, covers, tolerance)
        return run

    return add


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def network(*widths: int, seed: int = 0) -> nn.Sequential:
    """Linear layers with a hyperbolic tangent between them, a contraction: its fields converge."""
    layers: list[nn.Module] = []
    generator = torch.Generator().manual_seed(seed)
    for before, after in pairwise(widths):
        layer = nn.Linear(before, after)
        with torch.no_grad():
            layer.weight.copy_(torch.randn(after, before, generator=generator) / before**0.5)
            layer.bias.copy_(0.1 * torch.randn(after, generator=generator))
        layers += [layer, nn.Tanh()]
    return nn.Sequential(*layers[:-1]).eval()


class Bistable(nn.Module):
    """Two attractors, at one and minus one along the first axis."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor([2.0, 0.4, 0.3]))

    def forward(self, z: Tensor) -> Tensor:
        return torch.tanh(self.gain * z)


def bistable(device: str) -> LatentField:
    return LatentField(Bistable().to(device))


def autoencoder(device: str) -> LatentField:
    return LatentField.from_autoencoder(
        network(6, 8, 3, seed=1).to(device), network(3, 8, 6, seed=2).to(device)
    )


def some_paths(samples: int = 120, width: int = 5, points: int = 3) -> RepresentationPaths:
    generator = np.random.default_rng(0)
    labels = generator.integers(3, size=samples)
    x = generator.standard_normal((samples, width)) + 3 * np.eye(3, width)[labels]
    turn = np.linalg.qr(generator.standard_normal((width, width)))[0]
    found = {}
    for number in range(points):
        found[f"p{number}"] = x.astype(np.float32)
        x = np.tanh(x @ turn)
    return RepresentationPaths.from_arrays(found, labels=labels)


def fitted_koopman(device: str) -> KoopmanAutoencoder:
    """Fitted on the CPU, so that all devices begin with the same weights."""
    kae = KoopmanAutoencoder(latent_dim=8, hidden=(8,)).fit(some_paths(), epochs=3)
    return kae.to(device)


# --- fields


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
    found = turning(device).attractors(normal(20, 2).to(device), max_steps=600)
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
    tolerance=1e-3,
)  # fmt: skip
def the_field_of_a_bank(device: str) -> Any:
    bank = 5 * normal(4, 3, seed=7).repeat(10, 1) + 0.2 * normal(40, 3)
    field = fields.EnergyField(0.7).fit(bank.to(device))
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
    )


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


# --- koopman


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


class _Renamed:
    """A model whose last block stands for the last point of a path."""

    def __init__(self, model: Any) -> None:
        self.model, self.device = model, model.device

    def run_from(self, point: str, x: Tensor, *inputs: Any) -> Any:
        assert point == "p2"
        return self.model.run_from("1", x, torch.zeros(len(x), 5).to(self.device))


# --- topology


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


# --- disentangle


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


# --- translation, tracing, detectors


@case("LinearTranslation.pull", "LinearTranslation.push")
def a_translation(device: str) -> Any:
    t = LinearTranslation(2 * np.eye(3), np.zeros(3), np.ones(3))
    x = normal(4, 3).to(device)
    assert t(x.bfloat16()).dtype == torch.bfloat16
    assert t.push(x.bfloat16()).dtype == torch.bfloat16
    return t(x), t.inverse(x), t.push(x), t.pull(x)


@case("trace", "wrap", "TracedModel.run_from", "TracedModel.patched")
def a_traced_model(device: str) -> Any:
    model = repdyn.wrap(network(4, 5, 6, 3).to(device))
    found = repdyn.trace(model, list(normal(9, 4)))
    point = found.points[0]
    x = torch.as_tensor(np.asarray(found[point])).to(device)
    inputs = model.prepare(list(normal(9, 4)))
    return (
        *(np.asarray(found[p]) for p in found.points),
        model.run_from(point, x, devices.to(inputs, device)),
        model.patched({point: torch.zeros_like})(devices.to(inputs, device)),
    )


def with_logits() -> RepresentationPaths:
    data = some_paths()
    found = {p: np.asarray(data[p]) for p in data.points}
    return RepresentationPaths.from_arrays(found, labels=data.labels, logits=np.asarray(data["p2"])[:, :3])


DETECTORS = {
    "PathDetector": lambda: ood.PathDetector(),
    "RelativePathDetector": lambda: ood.RelativePathDetector(),
    "MahalanobisDetector": lambda: ood.MahalanobisDetector(),
    "RelativeMahalanobisDetector": lambda: ood.RelativeMahalanobisDetector(),
    "KNNDetector": lambda: ood.KNNDetector(k=3),
    "EnergyDetector": lambda: ood.EnergyDetector(),
    "GuidedEnergyDetector": lambda: ood.GuidedEnergyDetector(),
    "UnionDetector": lambda: ood.UnionDetector(),
}


@case(*(f"{name}.as_module" for name in DETECTORS), tolerance=1e-3)
def detectors_as_modules(device: str) -> Any:
    data = with_logits()
    batch = {p: torch.as_tensor(np.asarray(data[p])).to(device) for p in data.points}
    batch["logits"] = torch.as_tensor(np.asarray(data.logits)).to(device)
    return [make().fit(data).as_module().to(device)(batch) for make in DETECTORS.values()]


MAPPED = (ood.AttractorDetector, ood.ReconstructionDetector, ood.ResidualDetector, ood.TrajectoryDetector)


@case(
    *(f"{kind.__name__}.{name}" for kind in MAPPED for name in ("bind", "fit", "score_samples")),
    "TrajectoryDetector.as_module",
    tolerance=5e-3,
)
def detectors_of_an_autoencoder(device: str) -> Any:
    data = some_paths()
    encode, decode = network(5, 6, 2, seed=1).to(device), network(2, 6, 5, seed=2).to(device)
    scores = []
    for kind in MAPPED:
        detector = kind(encode, decode, point="p1").fit(data)
        scores.append(detector.score_samples(data))
        assert devices.device_of(encode).type == device
    x = torch.as_tensor(np.asarray(data["p1"])).to(device)
    return scores, detector.as_module().to(device)({"p1": x})


@case(
    "LinearTranslation.as_module",
    "StitchedModel.forward",
    "StitchedModel.predict",
    "StitchedModel.translate",
    "stitch",
)
def a_stitched_model(device: str) -> Any:
    a, b = (
        repdyn.wrap(network(4, 5, 5, 3, seed=s).to(device), head=network(3, 2, seed=s).to(device))
        for s in (1, 2)
    )
    model = repdyn.stitch(a, LinearTranslation(np.eye(3), np.zeros(3), np.ones(3)), b).to(device)
    x = normal(6, 4)
    own = LinearTranslation(np.eye(3), np.zeros(3), np.ones(3)).as_module().to(device)
    return model.predict(list(x)), model.translate(normal(2, 3).to(device)), own(normal(2, 3).to(device))


@case("TracedModel.read", "TracedModel.reader", "TracedModel.to", "Reader.prepared", "Reader.attached")
def a_reader(device: str) -> Any:
    model = repdyn.wrap(network(4, 5, 6, 3)).to(device)
    assert model.device.type == device
    x = normal(9, 4)
    with model.reader(grad=True) as read:
        found = read.prepared(x, 9)  # of the host: moved, once
        point = next(iter(found))
        (slope,) = torch.autograd.grad(found[point].sum(), model.module[0].bias)
    return {point: value.detach() for point, value in found.items()}, slope, dict(model.read(list(x)))


@case("gain", tolerance=1e-3)
def a_gain(device: str) -> Any:
    model = repdyn.wrap(network(4, 4, 4, 4).to(device))
    paths = repdyn.trace(model, normal(200, 4))
    found = koopman.gain(model, paths, normal(9, 4, seed=1))
    return found.fitted, [own.value for own in found.true]


@case("shorten", tolerance=1e-3)
def a_shortened_model(device: str) -> Any:
    module = nn.Sequential(*(nn.Sequential(network(4, 4, seed=s)) for s in range(4)))
    short = repdyn.shorten(repdyn.wrap(module.to(device)), normal(200, 4), remove=2)
    assert all(p.device.type == device for p in short.module.parameters())
    found = short.shortening
    return short.module(normal(9, 4).to(device)), found.expected.value, found.dropped.value


@case("MonitoredModel.forward", "MonitoredModel.prepared", "MonitoredModel.as_module")
def a_monitored_model(device: str) -> Any:
    module = network(4, 5, 6, 3)
    detector = ood.PathDetector().fit(repdyn.trace(repdyn.wrap(module), list(normal(200, 4, seed=7))))
    monitored = ood.MonitoredModel(repdyn.wrap(module.to(device)), detector)
    answer = monitored(list(normal(9, 4)))
    again = monitored.prepared(normal(9, 4).to(device))
    _, scores, flagged = monitored.as_module()(normal(9, 4).to(device))
    return answer.output, answer.scores, answer.flagged, again.scores, scores, flagged


def sequences(count: int, seed: int) -> list[list[int]]:
    """Random ids of 6 to 11 tokens."""
    generator = np.random.default_rng(seed)
    return [generator.integers(3, 32, size).tolist() for size in generator.integers(6, 12, count)]


@case(*(f"GenerationMonitor.{name}" for name in ("fit", "calibrate", "read", "generate")), tolerance=1e-3)
def a_monitored_generation(device: str) -> Any:
    config = LlamaConfig(
        vocab_size=32, hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = LlamaForCausalLM(config).eval()
    monitor = ood.GenerationMonitor(module.to(device), window=2).fit(sequences(40, 0))
    monitor.calibrate(sequences(30, 1))
    read = monitor.read(sequences(3, 2))
    prompts = {"input_ids": torch.tensor([sequences(1, 3)[0]] * 2)}  # on the host, as a tokenizer gives them
    found = monitor.generate(prompts, max_new_tokens=4, do_sample=False)
    assert all(weight.device.type == torch.device(device).type for weight in module.parameters())
    told = [(alarm.sequence, alarm.rate, alarm.position) for alarm in (*read.alarms, *found.alarms)]
    return monitor.thresholds_, read.scores, read.profile, found.output, found.scores, found.lowest, told


# --- what reads arrays
# A tensor of any device is read as an array; the answer is one.

ARRAYS: dict[str, Callable[[Any], Any]] = {
    "RepresentationPaths.from_arrays": lambda x: np.asarray(RepresentationPaths.from_arrays({"p": x})["p"]),
    "LevelSetTree.fit": lambda x: len(LevelSetTree.fit(x).to_dict()),
    "Controls.predict": lambda x: koopman.controls(some_paths()).predict("affine", x),
    "Controls.step": lambda x: koopman.controls(some_paths()).step("shared affine", x, 0),
    "alpha_persistence": lambda x: topology.alpha_persistence(x[:, :2]),
    "conformal_p_values": lambda x: ood.conformal_p_values(x[:, 0], x[:, 1]),
    "conformal_threshold": lambda x: ood.conformal_threshold(x[:, 0]),
    "cubical_persistence": lambda x: topology.cubical_persistence(x),
    "cycle_consistency": lambda x: (
        translation.cycle_consistency(
            [translation.fit_orthogonal(x, x), translation.fit_orthogonal(x, x)], x
        ).value
    ),
    "energy": lambda x: ood.energy(x),
    "evaluate_translation": lambda x: translation.evaluate_translation(
        translation.fit_orthogonal(x, x), x, x
    ).to_dict()["top1"],
    "farthest_points": lambda x: topology.farthest_points(x, 5)[0],
    "fit_affine": lambda x: translation.fit_affine(x, x).matrix,
    "fit_cca": lambda x: translation.fit_cca(x, x).matrix,
    "fit_low_rank": lambda x: translation.fit_low_rank(x, x, 2).matrix,
    "fit_orthogonal": lambda x: translation.fit_orthogonal(x, x).matrix,
    "fit_ridge": lambda x: translation.fit_ridge(x, x).matrix,
    "frame_consistency": lambda x: disentangle.frame_consistency(x > 0).to_dict(),
    "intrinsic_dimension": lambda x: topology.intrinsic_dimension(
        x.abs() + 1 if isinstance(x, Tensor) else abs(x) + 1
    ),
    "knn_density": lambda x: topology.knn_density(x),
    "leaf_support": lambda x: topology.leaf_support(LevelSetTree.fit(x), x, resamples=2),
    "lyapunov_exponents": lambda x: fields.lyapunov_exponents(x.reshape(len(x), -1, 1)),
    "match_trees": lambda x: translation.match_trees(LevelSetTree.fit(x), LevelSetTree.fit(x), x, x).verdict,
    "mixture_density": lambda x: topology.mixture_density(x, components=(1, 2))(x),
    "nearest_neighbors": lambda x: topology.nearest_neighbors(x, 3)[0],
    "node_attributes": lambda x: len(topology.node_attributes(LevelSetTree.fit(x), x).to_dict()),
    "persistence": lambda x: str(topology.persistence(x, landmarks=20, resamples=2)),
    "relative_representation": lambda x: translation.relative_representation(x, x[:5]),
    "sparse_persistence": lambda x: topology.sparse_persistence(x[:40]),
}
