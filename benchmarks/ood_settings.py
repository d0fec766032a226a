"""The settings of the out-of-distribution benchmark, by letter, and E: classes of the others, held out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from ood_pictures import (
    IMAGENET_MODELS,
    cifar,
    cifar_split,
    digits,
    head_of,
    imagenet,
    imagenet_sample,
    picture_model,
)
from ood_samples import Array, Drawn, Setting, Traced, drawn
from ood_texts import SENTENCE_ENCODERS, clinc, queries, traced_texts

__all__ = ["animals", "settings"]

FEW = 1000
"""Samples of a held-out part, setting E, at most."""


def settings(letter: str, cache: Path, sizes: Mapping[str, int]) -> list[Setting]:
    """The models of one setting, traced (or found in the cache)."""
    makers = {"A": imagenet, "B": cifar, "C": clinc, "D": digits, "E": _near}
    return makers[letter](cache, sizes)


def _near(cache: Path, sizes: Mapping[str, int]) -> list[Setting]:
    """Animals against other ImageNet classes, six CIFAR classes against four, 100 intents against 50."""
    found = [animals(cache, name) for name in IMAGENET_MODELS]
    train = cifar_split(cache, "efficientnet-lite0", 96, "_train", None)
    head = head_of(picture_model("efficientnet-lite0", 96))
    found.append(Setting("E CIFAR classes, efficientnet-lite0", _random_classes(train, 6, head)))
    texts = queries()["train"]
    for name in SENTENCE_ENCODERS:
        traced = traced_texts(name, "train", texts, cache)
        found.append(Setting(f"E CLINC150 intents, {name}", _random_classes(traced, 100, None)))
    return found


def animals(cache: Path, name: str) -> Setting:
    """Animals of the ImageNet sample against its other classes."""
    inside = imagenet_sample(cache, name, 160)
    known, head = np.asarray(inside.paths.labels) < 398, head_of(picture_model(name, 160))
    return Setting(f"E ImageNet animals, {name}", _classes_drawer(inside, lambda _: known, head))


def _random_classes(traced: Traced, known: int, head: tuple[Array, Array] | None) -> Callable[[int], Drawn]:
    labels = np.asarray(traced.paths.labels)

    def choose(seed: int) -> Array:
        kept = np.random.default_rng(seed).permutation(np.unique(labels))[:known]
        return np.isin(labels, kept)

    return _classes_drawer(traced, choose, head)


def _classes_drawer(
    traced: Traced, choose: Callable[[int], Array], head: tuple[Array, Array] | None
) -> Callable[[int], Drawn]:
    def draw(seed: int) -> Drawn:
        known = choose(seed)
        order = np.random.default_rng(seed).permutation(np.flatnonzero(known))
        parts = np.split(order, [int(0.6 * len(order)), int(0.75 * len(order))])
        held_out = np.random.default_rng(seed).permutation(np.flatnonzero(~known))[:FEW]
        foreign = {"held-out classes": traced.take(held_out)}
        fit, calibration, test = (traced.take(part) for part in (parts[0], parts[1][:FEW], parts[2][:FEW]))
        return drawn(fit, calibration, test, foreign, head)

    return draw
