"""Device cases of repdyn.ood."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import repdyn
from repdyn import devices, ood
from repdyn.paths import RepresentationPaths
from tests.device_cases.shared import case, network, normal, some_paths


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
    "MixtureDetector": lambda: ood.MixtureDetector(4),
    "EnergyTrajectoryDetector": lambda: ood.EnergyTrajectoryDetector(),
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
    "UnionDetector.from_autoencoder",
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
    batch = {point: torch.as_tensor(np.asarray(data[point])).to(device) for point in data.points}
    union = ood.UnionDetector.from_autoencoder(encode, decode, data.points, "p1").fit(data)
    scores.append(union.score_samples(data))
    return scores, detector.as_module().to(device)(batch), union.as_module().to(device)(batch)


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
