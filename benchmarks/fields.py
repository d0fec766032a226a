"""Latent fields of auto-encoders: memorization, births and deaths of attractors, dictionaries, alignment.

    python benchmarks/fields.py STUDY --cache FOLDER [--samples 300] [--seeds 3] [--json fields.json]

memorization  Attractors against training pictures, by width of the code, number of training pictures, weight
              decay and noise: the coefficient beside its null, with the error on unseen pictures.
memorization-scales
              The same of the noised training codes, instead of the network's own map, as the noise falls: of
              networks that were fitted to few and many pictures, and of one while it trains.
tracking      Births, deaths and mergers of attractors while an auto-encoder trains.
tracking-scales
              The same of the modes of its noised training codes, at half of their spacing, with few pictures.
probing       Unseen codes rebuilt from few attractors that were reached from noise, beside the controls.
alignment     How much of one field another explains, trained on the same digits from another seed, before
              any iteration and along it.
surrogate     The sweep by which a surrogate of a frozen network chooses its penalty: a small sentence encoder
              (extra ``demo``) on queries, after its first layer and its last.
surrogate-pictures
              The same of a ResNet-20 on CIFAR-10, after its second stage and its last.
models        Alignment of two such surrogates, of two sentence encoders, on queries that neither has seen.

All but the last three on MNIST auto-encoders trained here (``small_networks``), probing also on published
ones (``pretrained_autoencoders``); networks are kept in the cache with every finished run, so a killed study
goes on. ``REPDYN_DATA`` is the folder of digits and weights.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cifar_networks import cifar_resnet
from fields_tables import TABLES
from harness import data, keep, once_json, parser_of
from pretrained_autoencoders import BurgessVAE, Taef2, cifar, padded_digits
from small_networks import digits, trained
from stored_texts import queries
from torch import Tensor, nn
from torch.nn import functional

import repdyn
from repdyn.fields import (
    AttractorTracker,
    EnergyField,
    EnergyWarning,
    LatentField,
    SurrogateAutoencoder,
    SurrogateWarning,
    align_fields,
    memorization,
    probe_without_data,
)
from repdyn.paths import RepresentationPaths

SOURCES = ("benchmarks/fields.py", "repdyn/fields")
EPOCHS = 15
MOST = 20_000
"""Training pictures, unless their number is what is varied."""
BANK = 3000
"""Training pictures whose codes are a bank, at most."""
EPOCHS_WATCHED = (0, 1, 3, 10, 30, 150)
"""Epochs of a training with 1000 pictures."""
SCALES = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
"""Noises of a bank, in units of its spacing."""

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
    cache: Path,
    seed: int,
    *,
    width: int = 16,
    count: int = MOST,
    epochs: int = EPOCHS,
    **how: Any,
) -> tuple[nn.Module, nn.Module]:
    changed = "-".join(f"{key}{value:g}" for key, value in sorted(how.items()))
    file = cache / f"fields-{width}-{count}-{epochs}-{changed}-{seed}.safetensors"
    return trained(digits("train", count), width, epochs, seed, cache=file, **how)


def memories(cache: Path, seed: int, samples: int) -> dict[str, Any]:
    # As many unseen pictures as there are memories at the most: the more, the nearer is the nearest.
    test = digits("test", 5000)
    found = {}
    for name, change in VARIED.items():

        def measure(name: str = name, change: dict[str, Any] = change) -> dict[str, Any]:
            field = LatentField.from_autoencoder(*autoencoder(cache, seed, **change))
            train = digits("train", change.get("count", MOST))[:5000]
            result = memorization(field, train, test, max_starts=samples, max_steps=1500, seed=seed)
            print(f"{name}:\n{result}", flush=True)
            return result.to_dict()

        file = cache / f"memorization-{samples}-{seed}-{'-'.join(name.split())}.json"
        found[name] = once_json(file, measure, SOURCES, _plain)
    return found


def memories_by_scale(cache: Path, seed: int, samples: int) -> dict[str, Any]:
    found = {}
    for name in ("100 training pictures", "1000 training pictures", "as it is, 16 wide"):
        pictures = digits("train", VARIED[name].get("count", MOST))[:BANK]
        found[name] = by_scale(*autoencoder(cache, seed, **VARIED[name]), pictures, samples, seed)
        print(name, found[name], flush=True)

    def watch(epoch: int, encoder: nn.Module, decoder: nn.Module) -> None:
        if epoch in EPOCHS_WATCHED:
            found[f"1000 pictures, epoch {epoch}"] = by_scale(encoder, decoder, pictures, samples, seed)

    pictures = digits("train", 1000)
    trained(pictures, 16, 150, seed, watch=watch)
    return found


def by_scale(
    encoder: nn.Module, decoder: nn.Module, pictures: Tensor, samples: int, seed: int
) -> list[dict[str, Any]]:
    """Memorization of the bank of training codes, in units of their spacing, and through a tenth of atoms."""
    test = digits("test", min(len(pictures), 5000))
    with torch.no_grad():
        codes = encoder(pictures)
    rows = []
    for atoms in (None, len(pictures) // 10):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", EnergyWarning)
            bank = EnergyField(1.0, components=None, atoms=atoms, seed=seed).fit(codes)
        for scale in SCALES:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", EnergyWarning)
                noised = bank.at(scale * bank.spacing_)
            field = LatentField(noised.step)
            field.encode = lambda x, own=noised: own.encode(encoder(x))
            field.decode = lambda z, own=noised: decoder(own.decode(z))
            result = memorization(field, pictures, test, max_starts=samples, max_steps=1500, seed=seed)
            rows.append({"atoms": atoms is not None, "scale": scale, **result.to_dict()})
    return rows


def tracking(cache: Path, seed: int, samples: int) -> dict[str, Any]:
    tracker = AttractorTracker(digits("test", samples), max_steps=1000, seed=seed)

    def watch(epoch: int, encoder: nn.Module, decoder: nn.Module) -> None:
        if epoch in (0, 1, 2, 4, 8, 15):
            tracker.update(epoch, LatentField.from_autoencoder(encoder, decoder))

    trained(digits("train", MOST), 16, EPOCHS, seed, watch=watch)
    print(tracker.history(), flush=True)
    return tracker.history().to_dict()


def tracking_scales(cache: Path, seed: int, samples: int) -> dict[str, Any]:
    pictures = digits("train", 1000)
    tracker = AttractorTracker(digits("test", samples), max_steps=1500, seed=seed)

    def watch(epoch: int, encoder: nn.Module, decoder: nn.Module) -> None:
        if epoch not in EPOCHS_WATCHED:
            return
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore", EnergyWarning)
            bank = EnergyField(1.0, components=None, seed=seed).fit(encoder(pictures))
            own = bank.at(0.5 * bank.spacing_)
        # On the codes themselves: the principal axes differ between checkpoints.
        field = LatentField(lambda z: own.decode(own.step(own.encode(z))))
        field.encode = encoder
        tracker.update(epoch, field)

    trained(pictures, 16, 150, seed, watch=watch)
    print(tracker.history(), flush=True)
    return tracker.history().to_dict()


def probing(cache: Path, seed: int, samples: int) -> dict[str, Any]:
    read: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], Tensor, int, int]] = {}
    for width in (16, 64):
        pair = autoencoder(cache, seed, width=width)
        read[f"trained here, {width} wide"] = (*pair, digits("test", 1000), 2 * samples, 1000)
    # Convolutions: the map takes tens of times longer, so starts are fewer, and followed more briefly.
    for name in ("vae", "btcvae"):
        vae = BurgessVAE(data("models", f"{name}_mnist.safetensors"))
        read[f"{name}, 10 wide"] = (
            vae.encode,
            vae.decode,
            padded_digits("test", 1000),
            samples // 3,
            300,
        )
    taef2 = Taef2(data("models"), 16)
    small = functional.avg_pool2d(cifar("test", 400), 2)
    read["TAEF2 on CIFAR-10, 128 wide"] = taef2.encode, taef2.decode, small, samples // 12, 100
    found = {}
    for name in read:

        def measure(name: str = name, given: tuple[Any, ...] = read[name]) -> dict[str, Any]:
            encode, decode, pictures, starts, steps = given
            field = LatentField.from_autoencoder(encode, decode)
            with torch.no_grad():
                targets = encode(pictures)
            result = probe_without_data(field, decode, targets, starts=starts, max_steps=steps, seed=seed)
            print(f"{name}, {starts} starts of {steps} steps:\n{result}\n{result.attractors}", flush=True)
            return result.to_dict()

        file = cache / f"probing-{samples}-{seed}-{'-'.join(name.split())}.json"
        found[name] = once_json(file, measure, SOURCES, _plain)
    return found


def alignment(cache: Path, seed: int, samples: int) -> dict[str, Any]:
    pictures = digits("test", 4 * samples)
    pair = [autoencoder(cache, s) for s in (2 * seed, 2 * seed + 1)]
    fields = [LatentField.from_autoencoder(*networks) for networks in pair]
    codes = [encoder(pictures) for encoder, _ in pair]
    found = align_fields(*fields, *codes, max_steps=1000, seed=seed)
    print(found, flush=True)
    return found.to_dict()


def surrogate(cache: Path, seed: int, samples: int) -> dict[str, Any]:
    points = ["encoder.layer.0", "encoder.layer.2"]
    model = "paraphrase-MiniLM-L3-v2"
    paths = traced(cache, model, points, "train", 10 * samples)
    unseen = traced(cache, model, points, "test", 20 * samples)
    return {point: swept(paths, point, seed, unseen) for point in points}


def surrogate_pictures(cache: Path, seed: int, samples: int) -> dict[str, Any]:
    points, paths = ["layer2.2", "layer3"], []
    for split, count in (("train", 10 * samples), ("test", 20 * samples)):
        bytes_ = (255 * cifar(split, count)).round().byte().permute(0, 2, 3, 1).numpy()
        out = cache / f"fields-resnet20-{split}-{count}.paths"
        paths.append(repdyn.trace(cifar_resnet(20), list(bytes_), points=points, out=out, batch_size=64))
    return {point: swept(paths[0], point, seed, paths[1]) for point in points}


def swept(paths: RepresentationPaths, point: str, seed: int, unseen: RepresentationPaths) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SurrogateWarning)  # its notes are printed
        fitted = SurrogateAutoencoder(seed=seed).fit(paths, point)
    print(fitted, flush=True)
    # The sweep's own starts are too few to see one divergence in a thousand.
    codes = fitted.encode(unseen[point])
    found = fitted.field().attractors(codes, tol=1e-4, max_steps=500, seed=seed)
    print(found, flush=True)
    return {
        "taken": fitted.penalty_,
        "notes": list(fitted.notes_),
        "unexplained": fitted.reconstruction_.to_dict(),
        "sweep": [trial.to_dict() for trial in fitted.sweep_],
        "unseen": {
            "starts": len(codes),
            "diverged": int((found.status == "diverged").sum()),
            "attractors": len(found),
            "settled": float((found.basin >= 0).mean()),
        },
    }


def models(cache: Path, seed: int, samples: int) -> dict[str, Any]:
    fields, codes = [], []
    for name, point in (
        ("paraphrase-MiniLM-L3-v2", "encoder.layer.2"),
        ("all-MiniLM-L6-v2", "encoder.layer.5"),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SurrogateWarning)
            fitted = SurrogateAutoencoder(seed=seed).fit(
                traced(cache, name, [point], "train", 10 * samples), point
            )
        print(fitted, flush=True)
        fields.append(fitted.field())
        codes.append(fitted.encode(traced(cache, name, [point], "test", 4 * samples)[point]))
    found = align_fields(*fields, *codes, max_steps=1000, seed=seed)
    print(found, flush=True)
    return found.to_dict()


def traced(cache: Path, name: str, points: list[str], split: str, count: int) -> RepresentationPaths:
    out = cache / f"fields-{name}-{'-'.join(points)}-{split}-{count}.paths"
    encoder = repdyn.load(f"packaged:{name}")
    return repdyn.trace(encoder, queries(split, count), points=points, out=out, batch_size=64)


STUDIES: dict[str, Callable[[Path, int, int], dict[str, Any]]] = {
    "memorization": memories,
    "tracking": tracking,
    "tracking-scales": tracking_scales,
    "probing": probing,
    "alignment": alignment,
    "surrogate": surrogate,
    "surrogate-pictures": surrogate_pictures,
    "models": models,
    "memorization-scales": memories_by_scale,
}


def main() -> None:
    parser = parser_of(__doc__, "cache", "json", "seeds")
    parser.add_argument("study", choices=list(STUDIES))
    parser.add_argument("--samples", type=int, default=300, help="starts that are followed")
    options = parser.parse_args()
    results = []
    for seed in range(options.seeds):
        file = options.cache / f"fields-{options.study}-{options.samples}-{seed}.json"
        print(f"\n{options.study}, seed {seed}", flush=True)
        study = partial(STUDIES[options.study], options.cache, seed, options.samples)
        results.append(once_json(file, study, SOURCES, _plain))
    print(
        f"\n{options.study}, {options.seeds} seeds: mean, and the lowest and highest end of their intervals"
    )
    print("\n".join(TABLES[options.study](results)))
    keep(options.json, results)


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)


if __name__ == "__main__":
    main()
