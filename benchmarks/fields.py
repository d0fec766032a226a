"""What a latent field says of its auto-encoder: memories, births and deaths, dictionaries, alignment.

    python benchmarks/fields.py STUDY --cache FOLDER [--samples 300] [--seeds 3] [--json fields.json]

memorisation  Attractors against training pictures, by width of the code, number of training pictures, weight
              decay and noise: the coefficient beside its null, with the error on unseen pictures.
tracking      Births, deaths and mergers of attractors while an auto-encoder trains.
probing       Unseen codes rebuilt from few attractors that were reached from noise, beside the controls.
alignment     How much of one field another explains, trained on the same digits from another seed, before
              any iteration and along it.

All on MNIST auto-encoders trained here (``mnist_autoencoder``), probing also on published ones
(``pretrained_autoencoders``); networks are kept in the cache with every finished run, so a killed study goes
on. ``--data`` or ``REPDYN_DATA`` says where digits and weights are.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mnist_autoencoder import digits, trained
from pretrained_autoencoders import BurgessVAE, Taef2, cifar, padded_digits
from torch import Tensor, nn
from torch.nn import functional

from repdyn.fields import AttractorTracker, LatentField, align_fields, memorization, probe_without_data

EPOCHS = 15
MOST = 20_000
"""Training pictures, unless their number is what is varied."""

VARIED: dict[str, dict[str, Any]] = {
    "as it is, 16 wide": {},
    "2 wide": {"width": 2},
    "64 wide": {"width": 64},
    "100 training pictures": {"count": 100, "epochs": 1500},
    "1000 training pictures": {"count": 1000, "epochs": 150},
    "weight decay 1e-5": {"decay": 1e-5},
    "weight decay 1e-4": {"decay": 1e-4},
    "noise 0.3": {"noise": 0.3},
}
"""One thing changed at a time; small sets train for as many steps as large ones, or nearly."""


def autoencoder(
    data: Path,
    cache: Path,
    seed: int,
    *,
    width: int = 16,
    count: int = MOST,
    epochs: int = EPOCHS,
    **how: Any,
) -> tuple[nn.Module, nn.Module]:
    told = "-".join(f"{key}{value:g}" for key, value in sorted(how.items()))
    file = cache / f"fields-{width}-{count}-{epochs}-{told}-{seed}.pt"
    return trained(digits(data, "train", count), width, epochs, seed, cache=file, **how)


def memorisation(data: Path, cache: Path, seed: int, samples: int) -> dict[str, Any]:
    # As many unseen pictures as there are memories at the most: the more, the nearer is the nearest.
    test = digits(data, "test", 5000)
    found = {}
    for name, change in VARIED.items():
        file = cache / f"memorisation-{samples}-{seed}-{'-'.join(name.split())}.json"
        if file.is_file():
            found[name] = json.loads(file.read_text())
            continue
        field = LatentField.from_autoencoder(*autoencoder(data, cache, seed, **change))
        train = digits(data, "train", change.get("count", MOST))[:5000]
        result = memorization(field, train, test, max_starts=samples, max_steps=1500, seed=seed)
        print(f"{name}:\n{result}", flush=True)
        found[name] = result.to_dict()
        file.write_text(json.dumps(found[name], default=_plain))
    return found


def tracking(data: Path, cache: Path, seed: int, samples: int) -> dict[str, Any]:
    tracker = AttractorTracker(digits(data, "test", samples), max_steps=1000, seed=seed)

    def watch(epoch: int, encoder: nn.Module, decoder: nn.Module) -> None:
        if epoch in (0, 1, 2, 4, 8, 15):
            tracker.update(epoch, LatentField.from_autoencoder(encoder, decoder))

    trained(digits(data, "train", MOST), 16, EPOCHS, seed, watch=watch)
    print(tracker.history(), flush=True)
    return tracker.history().to_dict()


def probing(data: Path, cache: Path, seed: int, samples: int) -> dict[str, Any]:
    read: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], Tensor, int, int]] = {}
    for width in (16, 64):
        pair = autoencoder(data, cache, seed, width=width)
        read[f"trained here, {width} wide"] = (*pair, digits(data, "test", 1000), 2 * samples, 1000)
    # Convolutions: the map takes tens of times longer, so starts are fewer, and followed more briefly.
    for name in ("vae", "btcvae"):
        vae = BurgessVAE(data / "models" / f"{name}_mnist.safetensors")
        read[f"{name}, 10 wide"] = (
            vae.encode,
            vae.decode,
            padded_digits(data, "test", 1000),
            samples // 3,
            300,
        )
    taef2 = Taef2(data / "models", 16)
    small = functional.avg_pool2d(cifar(data, "test", 400), 2)
    read["TAEF2 on CIFAR-10, 128 wide"] = taef2.encode, taef2.decode, small, samples // 12, 100
    found = {}
    for name, (encode, decode, pictures, starts, steps) in read.items():
        file = cache / f"probing-{samples}-{seed}-{'-'.join(name.split())}.json"
        if file.is_file():
            found[name] = json.loads(file.read_text())
            continue
        field = LatentField.from_autoencoder(encode, decode)
        with torch.no_grad():
            targets = encode(pictures)
        result = probe_without_data(field, decode, targets, starts=starts, max_steps=steps, seed=seed)
        print(f"{name}, {starts} starts of {steps} steps:\n{result}\n{result.attractors}", flush=True)
        found[name] = result.to_dict()
        file.write_text(json.dumps(found[name], default=_plain))
    return found


def alignment(data: Path, cache: Path, seed: int, samples: int) -> dict[str, Any]:
    pictures = digits(data, "test", 4 * samples)
    pair = [autoencoder(data, cache, s) for s in (2 * seed, 2 * seed + 1)]
    fields = [LatentField.from_autoencoder(*networks) for networks in pair]
    codes = [encoder(pictures) for encoder, _ in pair]
    found = align_fields(*fields, *codes, max_steps=1000, seed=seed)
    print(found, flush=True)
    return found.to_dict()


STUDIES: dict[str, Callable[[Path, Path, int, int], dict[str, Any]]] = {
    "memorisation": memorisation,
    "tracking": tracking,
    "probing": probing,
    "alignment": alignment,
}


def memories(results: list[dict[str, Any]]) -> list[str]:
    lines = [
        f"{'':24}{'attractors':>12}  {'cosine to training':22}{'null':22}{'nearer by':24}{'unexplained':22}"
        "verdicts"
    ]
    for name in results[0]:
        own = [result[name] for result in results]
        counts = ", ".join(str(one["attractors"]["attractors"]) for one in own)
        told = [over_seeds([one[key] for one in own]) for key in ("coefficient", "null", "preference")]
        error = over_seeds([one["test_error"] for one in own])
        verdicts = ", ".join(one["verdict"] for one in own)
        lines.append(f"{name:24}{counts:>12}  {told[0]:22}{told[1]:22}{told[2]:24}{error:22}{verdicts}")
    return lines


def history(results: list[dict[str, Any]]) -> list[str]:
    lines = ["epoch  attractors, births, deaths, mergers of each seed"]
    for t, step in enumerate(results[0]["steps"]):
        rows = [result["counts"][t].values() for result in results]
        lines.append(f"{step:5d}  " + "   ".join("".join(f"{x:4d}" for x in row) for row in rows))
    return lines


def dictionaries(results: list[dict[str, Any]]) -> list[str]:
    lines = []
    for name in results[0]:
        own = [result[name] for result in results]
        counts = ", ".join(str(one["attractors"]["attractors"]) for one in own)
        atoms = [k for k in own[0]["atoms"] if all(k in one["atoms"] for one in own)]
        verdicts = ", ".join(one["verdict"] for one in own)
        lines.append(f"{name}: {counts} attractors; {verdicts}")
        lines.append(f"  {'atoms':30}" + "".join(f"{k:<22}" for k in atoms))
        for kind in own[0]["error"]:
            told = [over_seeds([one["error"][kind][one["atoms"].index(k)] for one in own]) for k in atoms]
            lines.append(f"  {kind:30}" + "".join(f"{entry:22}" for entry in told))
    return lines


def along(results: list[dict[str, Any]]) -> list[str]:
    curves = ("states", "first_map", "velocities", "shuffled")
    lines = [f"{'iteration':11}" + "".join(f"{name.replace('_', ' '):25}" for name in curves)]
    for t, step in enumerate(results[0]["steps"]):
        told = [over_seeds([result[name][t] for result in results]) for name in curves]
        lines.append(f"{step:<11d}" + "".join(f"{entry:25}" for entry in told))
    lines.append(f"decay {over_seeds([result['decay'] for result in results])}: ")
    lines[-1] += ", ".join(result["decays"] for result in results)
    shared = (f"{r['verdict']} ({r['agreement']:.2f}, p = {r['p_value']:.3f})" for r in results)
    lines.append("shared basins: " + ", ".join(shared))
    return lines


def over_seeds(estimates: list[dict[str, float]]) -> str:
    mean = np.mean([one["value"] for one in estimates])
    low, high = min(one["low"] for one in estimates), max(one["high"] for one in estimates)
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]"


TABLES: dict[str, Callable[[list[dict[str, Any]]], list[str]]] = {
    "memorisation": memories,
    "tracking": history,
    "probing": dictionaries,
    "alignment": along,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", choices=list(STUDIES))
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=300, help="starts that are followed")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("REPDYN_DATA", "../shared/data")))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    results = []
    for seed in range(options.seeds):
        file = options.cache / f"fields-{options.study}-{options.samples}-{seed}.json"
        print(f"\n{options.study}, seed {seed}", flush=True)
        if not file.is_file():
            found = STUDIES[options.study](options.data, options.cache, seed, options.samples)
            file.write_text(json.dumps(found, indent=1, default=_plain))
        results.append(json.loads(file.read_text()))
    print(
        f"\n{options.study}, {options.seeds} seeds: mean, and the lowest and highest end of their intervals"
    )
    print("\n".join(TABLES[options.study](results)))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)


if __name__ == "__main__":
    main()
