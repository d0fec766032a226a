"""Everything public that takes a model, a tensor or a field, on a device: the same numbers, and there.

Each case runs on the CPU and on another device. Tensors of the answer must be on that device and of the same
type as on the CPU, and all numbers equal those of the CPU, which are the oracle. The device is a stand-in that
refuses what a GPU would refuse (:mod:`tests.stand_in`), the same without float64, as Apple's MPS, and a GPU
where there is one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import repdyn
from repdyn import devices, disentangle, fields, koopman, ood, paths, topology, tracing, translation
from repdyn.disentangle import SKD, SSMSKD, Factors, Judge
from repdyn.fields import LatentField, SurrogateAutoencoder
from repdyn.koopman import KoopmanAutoencoder
from repdyn.paths import RepresentationPaths
from repdyn.topology import FlowAutoencoder, LevelSetTree
from repdyn.translation import LinearTranslation
from tests.stand_in import NAME, on_stand_in

ROOMS = (repdyn, paths, tracing, koopman, fields, ood, topology, translation, disentangle)


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
    for before, after in zip(widths, widths[1:]):
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


# --- fields ---------------------------------------------------------------------------------------------------


@case("LatentField.__call__", "LatentField.velocity", "LatentField.trajectory", "LatentField.power")
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


@case("LatentField.double", tolerance=1e-6)
def a_field_in_double(device: str) -> Any:
    z = normal(7, 3).to(device)
    found = bistable(device).double(z)
    return None if found is None else found(devices.double(z)).float()


@case("LatentField.device", "LatentField.place", "LatentField.from_autoencoder")
def where_a_field_is(device: str) -> Any:
    field = autoencoder(device)
    assert field.device.type == device
    assert LatentField(lambda z: z / 2).device.type == "cpu"
    return field.place(np.ones((2, 3), dtype=np.float32)), field.place(torch.ones(2, 3))


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
        return torch.stack([x * angle.cos() - y * angle.sin(), x * angle.sin() + y * angle.cos()], 1) * grown[
            :, None
        ]

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
    found = fields.probe_without_data(
        field, field.decode, normal(30, 3).to(device), starts=40, max_steps=300
    )
    return found.verdict, found.sizes


@case("align_fields", tolerance=1e-3)
def aligned_fields(device: str) -> Any:
    z = normal(40, 3)
    found = fields.align_fields(bistable(device), bistable(device), z.to(device), z.to(device), steps=(0, 1, 2))
    return [e.value for e in found.states], found.verdict


@case(
    "SurrogateAutoencoder.fit",
    "SurrogateAutoencoder.encode",
    "SurrogateAutoencoder.decode",
    "SurrogateAutoencoder.residual",
    "SurrogateAutoencoder.field",
    tolerance=2e-2,
)
@pytest.mark.filterwarnings("ignore::repdyn.fields.SurrogateWarning")
def a_surrogate(device: str) -> Any:
    import warnings

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


@case("SurrogateAutoencoder.load", "SurrogateAutoencoder.save")
def a_saved_surrogate(device: str, tmp_path_factory: Any = None) -> Any:
    return None


# --- koopman --------------------------------------------------------------------------------------------------


@case("KoopmanAutoencoder.fit", tolerance=2e-2)
def a_koopman_fit(device: str) -> Any:
    found = KoopmanAutoencoder(latent_dim=6, hidden=(6,)).fit(some_paths(), epochs=2, device=device)
    assert devices.device_of(found).type == device
    again = found.fit(some_paths(), epochs=2)
    assert devices.device_of(again).type == device  # without device= it stays where it is
    return again.history_["validation"]


@case("KoopmanAutoencoder.encode", "KoopmanAutoencoder.decode", "KoopmanAutoencoder.propagate")
def through_a_koopman_autoencoder(device: str) -> Any:
    kae, x = fitted_koopman(device), torch.as_tensor(np.asarray(some_paths()["p0"]))[:9]
    here = kae.encode(x, "p0")
    assert here.device.type == "cpu"
    z = kae.encode(x.to(device), "p0")
    half = kae.encode(x.to(device, torch.bfloat16), "p0")
    assert half.dtype == torch.bfloat16
    return (
        here,
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
    double = field.double(z)
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


# --- topology -------------------------------------------------------------------------------------------------


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


# --- disentangle ----------------------------------------------------------------------------------------------


def clips(count: int = 24) -> Tensor:
    return torch.rand((count, 5, 1, 16, 16), generator=torch.Generator().manual_seed(0))


@case(
    "SKD.fit", "SKD.encode", "SKD.decode", "SKD.reconstruct", "SKD.predict", "SKD.factors", "SKD.swap",
    "SKD.sample", "SKD.read", "SKD.operators", "SKD.standardise", "SKD.restore_scale", "swap_grid",
    tolerance=2e-2,
)  # fmt: skip
def a_structured_koopman_autoencoder(device: str) -> Any:
    x = normal(24, 5, 4)
    found = SKD(latent_dim=4, static_dim=1, hidden=8).fit(x, epochs=2, device=device)
    assert found.place.type == device
    z = found.encode(x.to(device))
    found.factors(x)
    assert found.place.type == device  # reading leaves the model where it is
    operators = found.operators(z.double(), torch.ones(24, 5, dtype=torch.bool).to(device)) if device == "cpu" else 0
    del operators
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
    model = SKD(latent_dim=4, static_dim=1, hidden=8).fit(some_paths(), epochs=2, device=device)
    found = disentangle.depth_factors(model, some_paths(), some_paths(), lambda x: x[:, :3])
    assert model.place.type == device
    return sorted(found.to_dict())


# --- translation, tracing, detectors ---------------------------------------------------------------------------


@case("LinearTranslation.__call__")
def a_translation(device: str) -> Any:
    t = LinearTranslation(2 * np.eye(3), np.zeros(3), np.ones(3))
    x = normal(4, 3).to(device)
    assert t(x.bfloat16()).dtype == torch.bfloat16
    return t(x), t.inverse()(x)


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


DETECTORS = {
    "PathDetector": lambda: ood.PathDetector(),
    "RelativePathDetector": lambda: ood.RelativePathDetector(),
    "MahalanobisDetector": lambda: ood.MahalanobisDetector(),
    "RelativeMahalanobisDetector": lambda: ood.RelativeMahalanobisDetector(),
    "KNNDetector": lambda: ood.KNNDetector(k=3),
}


@case(*(f"{name}.as_module" for name in DETECTORS), tolerance=1e-3)
def detectors_as_modules(device: str) -> Any:
    data = some_paths()
    batch = {p: torch.as_tensor(np.asarray(data[p])).to(device) for p in data.points}
    return [make().fit(data).as_module().to(device)(batch) for make in DETECTORS.values()]


# --- the test -------------------------------------------------------------------------------------------------


@pytest.fixture(params=["standin", "standin without float64", "cuda"])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("there is no GPU")
        yield "cuda"
        return
    if request.param.endswith("float64"):
        monkeypatch.setattr(devices, "WITHOUT_DOUBLE", {NAME})
    with on_stand_in() as name:
        yield name


@pytest.mark.parametrize("name", CASES)
def test_on_a_device_numbers_are_those_of_the_cpu_and_tensors_are_there(name: str, device: str) -> None:
    expected, found = CASES[name].run("cpu"), CASES[name].run(device)
    compare(found, expected, device, CASES[name].tolerance)


def compare(found: Any, expected: Any, device: str, tolerance: float) -> None:
    assert type(found) is type(expected) or isinstance(found, Tensor)
    if isinstance(expected, Tensor):
        assert found.dtype == expected.dtype
        assert found.device.type in (device, "cpu")
        close(found.detach().cpu().double().numpy(), expected.detach().double().numpy(), tolerance)
    elif isinstance(expected, np.ndarray | float):
        close(np.asarray(found), np.asarray(expected), tolerance)
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            compare(found[key], expected[key], device, tolerance)
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected):
            compare(one, other, device, tolerance)
    else:
        assert found == expected


def close(found: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    scale = float(np.nanmax(np.abs(expected), initial=1e-12)) if expected.dtype.kind == "f" else 1.0
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * scale)
