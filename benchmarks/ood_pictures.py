"""Pictures for the out-of-distribution benchmark, settings A, B and D.

Every picture of a setting is cropped to a square, resized to the same side and written as JPEG by the same
coder before any model sees it, and where in-distribution pictures have been enlarged, foreign ones are first
made as small: image files from different sources differ in codec and sharpness, and detectors find that
first. The score of such statistics alone stands in every table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cifar_networks import cifar_resnet
from harness import data
from ood_maps import read_maps
from ood_samples import Array, Drawn, Setting, Traced, drawn, in_memory
from PIL import Image, ImageFilter
from small_networks import trained
from stored_pictures import (
    digit_pictures,
    jpegs,
    labeled_digits,
    rows,
    shuffled,
    smooth_noise,
    square,
    through_jpeg,
)
from torch import nn

import repdyn
from repdyn.paths import RepresentationPaths

__all__ = [
    "IMAGENET_MODELS",
    "cifar",
    "cifar_split",
    "digits",
    "head_of",
    "imagenet",
    "imagenet_sample",
    "picture_model",
]

DIGITS = 15_000
"""Digits that an auto-encoder is trained on, setting D."""
IMAGENET_MODELS = ("efficientnet-lite0", "mobilenetv2")
MAPPED = {("efficientnet-lite0", 160), ("mobilenetv2", 160), ("efficientnet-lite0", 96)}
MAPPED |= {("cifar-resnet20", 32), ("cifar-resnet44", 32)}
"""Models and sides whose feature maps are read too: it takes four times as long as the path."""


# A: ImageNet pictures through ImageNet models.


def imagenet(cache: Path, sizes: Mapping[str, int]) -> list[Setting]:
    """Setting A: the ImageNet sample through two models of ImageNet."""
    found = []
    for name in IMAGENET_MODELS:
        inside = imagenet_sample(cache, name, 160)
        foreign = _foreign_pictures(cache, name, 160, sizes["foreign"], cifar=True, native=160)
        broken = _traced_pictures(
            cache, name, "imagenet-shuffled", 160, lambda: shuffled(_imagenet_pictures(), 160)
        )
        head = head_of(picture_model(name, 160))
        found.append(Setting(f"A {name}", _drawer(inside, foreign, head, broken)))
    return found


def _drawer(
    inside: Traced, foreign: dict[str, Traced], head: tuple[Array, Array] | None, shuffled: Traced
) -> Callable[[int], Drawn]:
    def draw(seed: int) -> Drawn:
        order = np.random.default_rng(seed).permutation(len(inside.paths))
        fit, calibration, test = np.split(order, [int(0.6 * len(order)), int(0.7 * len(order))])
        sets = {**foreign, "patches shuffled": shuffled.take(test)}
        return drawn(inside.take(fit), inside.take(calibration), inside.take(test), sets, head)

    return draw


def _imagenet_pictures() -> list[Image.Image]:
    return jpegs(data("images", "imagenet_sample_160.npz"))


def imagenet_sample(cache: Path, model: str, side: int) -> Traced:
    """The sample itself, with its labels."""
    with np.load(data("images", "imagenet_sample_160.npz")) as file:
        labels = file["label"]
    return _traced_pictures(cache, model, "imagenet", side, lambda: _imagenet_pictures(), labels)


def _foreign_pictures(
    cache: Path, model: str, side: int, count: int, *, cifar: bool, native: int
) -> dict[str, Traced]:
    """Foreign sets, no sharper than ``native`` by ``native`` pixels, as the in-distribution pictures are."""
    sources: dict[str, Callable[[], list[Image.Image]]] = {
        "textures": lambda: jpegs(data("images", "textures_dtd10_160.npz"), count=count),
        "KMNIST": lambda: digit_pictures("kmnist_test", count),
        "smooth noise": lambda: smooth_noise(min(count, 300), 160),
    }
    if cifar:
        sources["CIFAR-10"] = lambda: jpegs(data("images", "cifar10_jpeg.npz"), "_test", count)
    else:
        sources["ImageNet"] = lambda: _imagenet_pictures()[:count]
        sources["Fashion-MNIST"] = lambda: digit_pictures("fashion_mnist", count)
    found = {}
    for name, make in sources.items():
        source = name.lower().replace(" ", "-")
        if native < side:
            source, make = f"{source}-of-{native}", partial(_shrunk, make, native)
        found[name] = _traced_pictures(cache, model, source, side, make)
    return found


def _shrunk(make: Callable[[], list[Image.Image]], side: int) -> list[Image.Image]:
    return [square(picture, side) for picture in make()]


# B: CIFAR-10 pictures through an ImageNet model and through networks trained on them.


def cifar(cache: Path, sizes: Mapping[str, int]) -> list[Setting]:
    """Setting B: CIFAR-10 through a model of ImageNet and two that were trained on it."""
    found = []
    for name, side in (("efficientnet-lite0", 96), ("cifar-resnet20", 32), ("cifar-resnet44", 32)):
        train = cifar_split(cache, name, side, "_train", None)
        test = cifar_split(cache, name, side, "_test", 2 * sizes["test"])
        foreign = _foreign_pictures(cache, name, side, sizes["foreign"], cifar=False, native=32)
        foreign["patches shuffled"] = _traced_pictures(
            cache,
            name,
            "cifar-shuffled",
            side,
            lambda: shuffled(jpegs(data("images", "cifar10_jpeg.npz"), "_test", sizes["foreign"]), 32),
        )
        head = head_of(picture_model(name, side))
        found.append(Setting(f"B {name}", _split_drawer(train, test, foreign, head, sizes["test"])))
    return found


def _split_drawer(
    train: Traced,
    test: Traced,
    foreign: dict[str, Traced],
    head: tuple[Array, Array] | None,
    count: int,
) -> Callable[[int], Drawn]:
    """Fit and calibrate on the training split (80 and 20 %), score the test split."""

    def draw(seed: int) -> Drawn:
        generator = np.random.default_rng(seed)
        order, scored = generator.permutation(len(train.paths)), generator.permutation(len(test.paths))
        fit, calibration = np.split(order, [int(0.8 * len(order))])
        return drawn(train.take(fit), train.take(calibration), test.take(scored[:count]), foreign, head)

    return draw


def cifar_split(cache: Path, model: str, side: int, split: str, count: int | None) -> Traced:
    """One split, or ``count`` of its pictures."""
    file = data("images", "cifar10_jpeg.npz")
    with np.load(file) as stored:
        labels = stored[f"label{split}"]
    return _traced_pictures(
        cache,
        model,
        f"cifar{split}",
        side,
        lambda: jpegs(file, split, count),
        labels[rows(len(labels), count)],
    )


# D: digits through an auto-encoder.


def digits(cache: Path, sizes: Mapping[str, int]) -> list[Setting]:
    """Setting D: digits through an auto-encoder."""
    # The auto-encoder has seen none of what a detector is fitted or calibrated on.
    train, rest = np.split(labeled_digits("mnist", "train")[0][: 2 * DIGITS], [DIGITS])
    test = labeled_digits("mnist", "test")[0][: sizes["test"]]
    count = sizes["foreign"]
    foreign = {
        "Fashion-MNIST": labeled_digits("fashion_mnist", "test")[0][:count],
        "KMNIST": labeled_digits("kmnist_test", "test")[0][:count],
        "inverted": 255 - test[:count],
        "rotated": np.rot90(test[:count], axes=(1, 2)),
        "blurred": np.stack(
            [np.asarray(Image.fromarray(x).filter(ImageFilter.GaussianBlur(2))) for x in test[:count]]
        ),
    }
    found = []
    for width in (16, 128):

        def draw(seed: int, width: int = width) -> Drawn:
            pixels = torch.from_numpy(train.reshape(len(train), -1)).float() / 255
            networks = trained(pixels, width, 15, seed, cache=cache / f"digits-{width}-{seed}.safetensors")
            fit, most = sizes["fit"], round(1.2 * sizes["fit"])
            order = np.random.default_rng(seed).permutation(len(rest))[:most]
            traced = {
                "fit": _coded(rest[order[:fit]], networks[0]),
                "calibration": _coded(rest[order[fit:]], networks[0]),
                "test": _coded(test, networks[0]),
            }
            sets = {name: _coded(x, networks[0]) for name, x in foreign.items()}
            return drawn(traced["fit"], traced["calibration"], traced["test"], sets, autoencoder=networks)

        found.append(Setting(f"D auto-encoder, {width} wide", draw))
    return found


def _coded(pictures: Array, encoder: nn.Module) -> Traced:
    x = torch.from_numpy(np.ascontiguousarray(pictures).reshape(len(pictures), -1)).float() / 255
    arrays, h = {"pixels": x.numpy()}, x
    layers = list(encoder.children())
    for number, layer in enumerate(layers):
        h = layer(h)
        if number % 2 == 1 or number == len(layers) - 1:
            arrays["code" if number == len(layers) - 1 else f"hidden {number // 2}"] = h.numpy()
    edges = np.abs(np.diff(pictures.astype(float), axis=2)).mean((1, 2))
    statistics = np.stack([pictures.mean((1, 2)), pictures.std((1, 2)), edges], axis=1)
    return Traced(RepresentationPaths.from_arrays(arrays, meta={"model": "digits"}), statistics)


# Pictures.


def _traced_pictures(
    cache: Path,
    name: str,
    source: str,
    side: int,
    make: Callable[[], list[Image.Image]],
    labels: Array | None = None,
) -> Traced:
    """Paths of one set through one model; kept, and an interrupted trace goes on."""
    statistics = cache / f"{name}-{source}-{side}.npy"
    out = cache / f"{name}-{source}-{side}.paths"
    done = cache / f"{name}-{source}-{side}.done"
    if not done.is_file():
        coded = [through_jpeg(picture, side) for picture in make()]
        np.save(statistics, np.array([row for _, row in coded]))
        model = picture_model(name, side)
        repdyn.trace(model, [picture for picture, _ in coded], labels=labels, out=out, batch_size=32)
        done.touch()
    paths, maps = repdyn.open_paths(out), {}
    if (name, side) in MAPPED:
        kept = cache / f"{name}-{source}-{side}-maps.npz"
        pictures = [] if kept.is_file() else [through_jpeg(picture, side)[0] for picture in make()]
        maps = read_maps(picture_model(name, side), pictures, kept)
    return Traced(in_memory(paths, labels), np.load(statistics), maps)


# Models.


def picture_model(name: str, side: int) -> Any:
    """A model that takes pictures of ``side`` by ``side`` pixels as they are, at its own mean and spread."""
    if name.startswith("cifar-"):
        return cifar_resnet(int(name.removeprefix("cifar-resnet")))
    from timm.data import resolve_model_data_config
    from torchvision.transforms.functional import normalize, to_tensor

    model = repdyn.load(f"packaged:{name}")
    scale = resolve_model_data_config(model.module)

    def prepare(pictures: Sequence[Image.Image]) -> torch.Tensor:
        return torch.stack([normalize(to_tensor(x), scale["mean"], scale["std"]) for x in pictures])

    return replace(model, prepare=prepare, preprocessing=f"{side} x {side}, as they are")


def head_of(model: Any) -> tuple[Array, Array] | None:
    """Weights ``(C, D)`` and bias ``(C,)`` of a linear head, which ViM and NNGuide need."""
    linear = [part for part in model.module.modules() if isinstance(part, nn.Linear)]
    if not linear:
        return None
    return linear[-1].weight.detach().numpy(), linear[-1].bias.detach().numpy()
