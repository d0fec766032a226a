"""The whole chain on a device beside the CPU: the same numbers, how much faster, and what reading costs.

    python benchmarks/device.py [--device cuda] [--size small|full] [--json device.json]

Models are laid out from configurations, with random weights: nothing is downloaded. Each step runs on the
CPU and on the device; a row holds both times (wall, synchronized, the second of two runs), their ratio, and
the largest difference of the answers, in units of their spread. Then, on the device, the cost of the reader
and of a monitored model beside the bare forward pass: medians over pairs that take turns. Without an
accelerator, ``--device cpu --size small`` runs every line of it. ``full`` has not been run on a GPU yet.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from harness import keep, parser_of
from reader_cost import BATCH, LENGTHS, noise_paths, passes, token_inputs
from torch import Tensor, nn

import repdyn
from repdyn import devices
from repdyn.disentangle import SKD
from repdyn.fields import LatentField, SurrogateAutoencoder, SurrogateWarning
from repdyn.koopman import KoopmanAutoencoder
from repdyn.ood import KNNDetector, PathDetector
from repdyn.reading import as_array
from repdyn.topology import FlowAutoencoder
from repdyn.translation import LinearTranslation

SIZES = {
    "small": {"samples": 200, "width": 32, "layers": 2, "epochs": 2, "starts": 50, "steps": 10, "pairs": 5},
    "full": {
        "samples": 8000,
        "width": 768,
        "layers": 12,
        "epochs": 20,
        "starts": 4000,
        "steps": 200,
        "pairs": 40,
    },
}


def language_model(size: dict[str, int]) -> repdyn.TracedModel:
    """BERT with random weights; bfloat16 comes with ``.bfloat16()``."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=size["width"],
        num_hidden_layers=size["layers"],
        num_attention_heads=max(1, size["width"] // 64),
        intermediate_size=4 * size["width"],
    )
    return repdyn.wrap(BertModel(config).eval())


class Chain:
    """Every step as a function of the device, each with an answer that can be compared."""

    def __init__(self, size: dict[str, int]) -> None:
        self.size = size
        generator = np.random.default_rng(0)
        labels = generator.integers(10, size=size["samples"])
        width = size["width"]
        x = generator.standard_normal((size["samples"], width)) + 2 * np.eye(10, width)[labels]
        turn = np.linalg.qr(generator.standard_normal((width, width)))[0]
        points = {}
        for number in range(4):
            points[f"p{number}"] = x.astype(np.float32)
            x = np.tanh(x @ turn)
        self.paths = repdyn.RepresentationPaths.from_arrays(points, labels=labels)
        self.last = torch.as_tensor(points["p3"])
        self.kae = KoopmanAutoencoder(latent_dim=2 * min(width, 128)).fit(self.paths, epochs=1)

    def read(self, device: torch.device) -> Any:
        """The reader over one batch of texts."""
        model = language_model(self.size).to(device)
        with model.reader() as read, torch.no_grad():
            found = read.prepared(token_inputs(LENGTHS[0], device), BATCH)
        return list(found.values())[-1]

    def koopman_fit(self, device: torch.device) -> Any:
        """A Koopman autoencoder."""
        kae = KoopmanAutoencoder(latent_dim=64).fit(self.paths, epochs=self.size["epochs"], device=device)
        return np.array(kae.history_["validation"][-1:])

    def koopman_propagate(self, device: torch.device) -> Any:
        """First points to last ones."""
        first = torch.as_tensor(np.asarray(self.paths["p0"]))
        return self.kae.to(device).propagate(first.to(device), "p0", "p3").detach()

    def attractors(self, device: torch.device) -> Any:
        """A contraction with two attractors, followed from many starts."""
        field = LatentField(_Bistable(16).to(device))
        starts = torch.randn(self.size["starts"], 16, generator=torch.Generator().manual_seed(0))
        found = field.attractors(starts.to(device))
        return np.sort(found.points[:, 0])

    def surrogate(self, device: torch.device) -> Any:
        """An auto-encoder with a gain penalty."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SurrogateWarning)
            made = SurrogateAutoencoder(8, (64,), penalty=0.1, epochs=self.size["epochs"])
            return np.array([made.fit(self.paths, "p3", device=device).reconstruction_.value])

    def flow(self, device: torch.device) -> Any:
        """A flow auto-encoder of eight coordinates."""
        x = self.last[:, :8].to(device)
        made = FlowAutoencoder(2, layers=2).fit(x, steps=self.size["steps"], start_steps=self.size["steps"])
        return made.log_density(x[:50])

    def structured(self, device: torch.device) -> Any:
        """SKD on the paths."""
        made = SKD(latent_dim=8, static_dim=2, hidden=64)
        made.fit(self.paths, epochs=self.size["epochs"], device=device)
        return np.array([made.history_["validation"][-1]])

    def detectors(self, device: torch.device) -> Any:
        """Two detectors as modules."""
        batch = {
            point: torch.as_tensor(np.asarray(self.paths[point])).to(device) for point in self.paths.points
        }
        made = [PathDetector().fit(self.paths), KNNDetector().fit(self.paths)]
        return torch.stack([detector.as_module().to(device)(batch) for detector in made])

    def translation(self, device: torch.device) -> Any:
        """A linear translation of tensors."""
        width = self.last.shape[1]
        t = LinearTranslation(np.eye(width)[::-1].copy(), np.zeros(width), np.ones(width))
        return t.as_module().to(device)(self.last.to(device))


STEPS: tuple[str, ...] = (
    "read", "koopman_propagate", "koopman_fit", "attractors", "surrogate", "flow", "structured", "detectors",
    "translation",
)  # fmt: skip


class _Bistable(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.cat([torch.tensor([2.0]), torch.linspace(0.2, 0.6, width - 1)]))

    def forward(self, z: Tensor) -> Tensor:
        return torch.tanh(self.gain * z)


def synchronized(device: torch.device) -> float:
    """Wall seconds, once the device's work is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def timed(run: Callable[[torch.device], Any], device: torch.device) -> tuple[float, np.ndarray]:
    """Seconds of the second of two runs, and its answer."""
    run(device)
    begun = synchronized(device)
    answer = run(device)
    return synchronized(device) - begun, as_array(answer, np.float64)


def costs(size: dict[str, int], device: torch.device) -> dict[str, Any]:
    """Ratios to the bare forward pass of the reader and of a monitored model."""
    model = language_model(size).to(device)
    found: dict[str, Any] = {}
    for tokens in LENGTHS:
        inputs = token_inputs(tokens, device)
        detector = PathDetector().fit(noise_paths(model, inputs, BATCH, 256, 1))
        found |= passes(f"{tokens} tokens", model, detector, inputs, BATCH, size["pairs"])
    return {name: row["value"] for name, row in found.items()}


def main() -> None:
    """Run all steps on both, print one line each."""
    parser = parser_of(__doc__, "json")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--size", choices=SIZES, default="small")
    options = parser.parse_args()
    device = devices.check_device(options.device)
    size = SIZES[options.size]
    chain, rows = Chain(size), {}
    print(f"{'step':<20}{'CPU s':>10}{device.type + ' s':>10}{'ratio':>8}{'difference':>12}")
    for name in STEPS:
        run = getattr(chain, name)
        (host, expected), (there, found) = timed(run, torch.device("cpu")), timed(run, device)
        apart = float(np.abs(found - expected).max() / (expected.std() or np.abs(expected).max() or 1.0))
        rows[name] = {"cpu": host, "device": there, "ratio": host / there, "difference": apart}
        print(f"{name:<20}{host:>10.2f}{there:>10.2f}{host / there:>8.1f}{apart:>12.1e}", flush=True)
    for name, ratio in costs(size, device).items():
        rows[name] = {"ratio to the bare pass": ratio}
        print(f"{name:<40}{ratio:>8.3f} times the bare pass", flush=True)
    keep(options.json, {"device": str(device), "size": size, **rows})


if __name__ == "__main__":
    main()
