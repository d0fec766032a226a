"""Pairs of models for the study of verdicts: true ones, disjoint classes, symmetric sets, unrelated clouds.

A pair is two sets of representation paths, and held-out inputs that both models have read, which serve
nothing but the evaluation. Pairs of the development half and of the final half share no network that is
trained here; Kuzushiji and the text corpus CLINC150 are read in the final half only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import made_once
from numpy.typing import NDArray
from small_networks import divergence, layers, minimize, sampled
from stored_pictures import labeled_digits
from torch import nn
from translation_data import read
from verdict_clouds import CLOUDS

Floats = NDArray[np.float64]
Points = dict[str, Floats]

HELD_OUT = 1000
MOST = 3000
"""Samples of either model."""


@dataclass(frozen=True)
class Pair:
    """What the two models read, and held-out pairs.

    Attributes
    ----------
    name, kind
        Kind: ``true``, ``shift``, ``disjoint``, ``symmetric``, ``unrelated``.
    a, b
        Points of either model, ``(N, D)`` each, by name.
    held_a, held_b
        Last point of either model on held-out pairs; none where there is no true counterpart.
    """

    name: str
    kind: str
    a: Points
    b: Points
    held_a: Floats | None
    held_b: Floats | None


def names(final: bool) -> list[str]:
    """All pairs of one half, in the order in which they run."""
    return list(_pairs(final))


def pair(name: str, final: bool, cache: Path) -> Pair:
    """One pair, made or read from the cache."""
    return _pairs(final)[name](cache)


def _pairs(final: bool) -> dict[str, Callable[[Path], Pair]]:
    seeds = (200, 201) if final else (100, 101)
    found: dict[str, Callable[[Path], Pair]] = {}

    def add(kind: str, name: str, make: Callable[..., Pair], *given: Any) -> None:
        found[f"{kind} | {name}"] = partial(make, kind, seeds, *given)

    corpora = ("mnist", "fashion", "kmnist") if final else ("mnist", "fashion")
    networks = ("ae32 ae32", "vae vae", "vae beta", "ae10 vae", "net net", "beta beta")
    for corpus in corpora:
        for both in networks:
            for points in ("all", "last"):
                add("true", f"{corpus}: {both}, {points}", _networks, corpus, both, points, "all")
            add("shift", f"{corpus}: {both}", _networks, corpus, both, "all", "shift")
            for count in (2, 5):
                add("disjoint", f"{corpus}: {both}, {count}", _networks, corpus, both, "all", count)
    for both in ("resnet20 resnet44", "resnet44 resnet20"):
        for points in ("all", "five", "last"):
            add("true", f"{both}, {points}", _traced, "cifar10", both, points, "all")
        add("shift", both, _traced, "cifar10", both, "all", "shift")
        for count in (2, 3, 4, 5):
            for points in ("all", "last"):
                add("disjoint", f"{both}, {count} {points}", _traced, "cifar10", both, points, count)
    text = "clinc150" if final else "banking77"
    for both in ("minilm-l6 minilm-l3", "minilm-l3 minilm-l6"):
        for points in ("all", "last"):
            add("true", f"{text}: {both}, {points}", _traced, text, both, points, "all")
        add("shift", f"{text}: {both}", _traced, text, both, "all", "shift")
        for count in (10, 30):
            add("disjoint", f"{text}: {both}, {count}", _traced, text, both, "all", count)
    for shape, kind in SHAPES.items():
        for noise in (0.1, 0.3):
            add(kind, f"{shape}, {noise}", _planted, shape, noise)
    for cloud, (kind, _, _) in CLOUDS.items():
        for seed in seeds:
            add(kind, f"cloud: {cloud}, {seed}", _cloud, cloud, seed)
    for both in ("mnist fashion", "fashion mnist"):
        for network in ("ae32", "vae", "net"):
            add("unrelated", f"{both} {network}", _unrelated, both, network)
    return found


# Networks trained here


def _pictures(corpus: str) -> tuple[Floats, NDArray[np.int64]]:
    name = {"mnist": "mnist", "fashion": "fashion_mnist", "kmnist": "kmnist_test"}[corpus]
    parts = [
        labeled_digits(name, split) for split in (("test",) if corpus == "kmnist" else ("train", "test"))
    ]
    pictures, labels = (np.concatenate(own)[:20_000] for own in zip(*parts))
    order = np.random.default_rng(0).permutation(len(pictures))
    return pictures[order].reshape(len(pictures), -1) / 255.0, labels[order]


def _network_points(corpus: str, network: str, seed: int, cache: Path) -> tuple[Points, NDArray[np.int64]]:
    """Hidden layers and latents of all pictures of a corpus under a network, trained now or before."""
    file = cache / f"verdict-{corpus}-{network}-{seed}.npz"
    pictures, labels = _pictures(corpus)
    made_once(file, lambda scratch: np.savez(scratch, **_trained(network, seed, pictures, labels)))
    with np.load(file, allow_pickle=False) as held:
        return {key: held[key].astype(np.float64) for key in held.files}, labels


def _trained(network: str, seed: int, pictures: Floats, labels: NDArray[np.int64]) -> Points:
    """An auto-encoder, a VAE, a β-VAE (β = 4) or a classifier of fully connected layers."""
    latents = {"ae32": 32, "ae10": 10, "vae": 10, "beta": 10, "net": 64}[network]
    variational = network in ("vae", "beta")
    x, y = torch.as_tensor(pictures, dtype=torch.float32), torch.as_tensor(labels)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        wide = 256 if seed % 2 else 320
        body = nn.Sequential(*layers(784, wide, 128), nn.ReLU())
        last = nn.Linear(128, 2 * latents if variational else latents)
        head = nn.Linear(latents, 10) if network == "net" else layers(latents, 128, wide, 784)

    def loss(rows: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
        z = last(body(x[rows]))
        if network == "net":
            return nn.functional.cross_entropy(head(torch.relu(z)), y[rows])
        if not variational:
            return nn.functional.mse_loss(head(z), x[rows])
        mean, spread = z.chunk(2, 1)
        apart = 0.5 * divergence(mean, spread).sum(1).mean() * (4 if network == "beta" else 1)
        rebuilt = head(sampled(mean, spread, draw))
        error = nn.functional.binary_cross_entropy_with_logits(rebuilt, x[rows], reduction="sum")
        return apart + error / len(rows)

    minimize((body, last, head), loss, len(x), 6 if network == "net" else 12, seed)
    with torch.no_grad():
        first = body[1](body[0](x))
        second = body(x)
        z = last(second)[:, :latents]
    points = {"first": first, "second": second, "latent": torch.relu(z) if network == "net" else z}
    return {key: value.numpy() for key, value in points.items()}


Seeds = tuple[int, int]


def _networks(
    kind: str, seeds: Seeds, corpus: str, both: str, points: str, classes: int | str, cache: Path
) -> Pair:
    (a, labels), (b, _) = (
        _network_points(corpus, network, seed, cache) for network, seed in zip(both.split(), seeds)
    )
    return _split(f"{corpus} {both}", kind, a, b, labels, points, classes, seeds[0])


def _traced(
    kind: str, seeds: Seeds, corpus: str, both: str, points: str, classes: int | str, cache: Path
) -> Pair:
    read_by = [read(model, corpus, cache) for model in both.split()]
    _, labels = np.unique(np.asarray(read_by[0].labels), return_inverse=True)
    a, b = ({p: np.asarray(paths[p], dtype=np.float64) for p in paths.points} for paths in read_by)
    return _split(f"{corpus} {both}", kind, a, b, labels, points, classes, seeds[0])


def _split(
    name: str,
    kind: str,
    a: Points,
    b: Points,
    labels: NDArray[np.int64],
    points: str,
    classes: int | str,
    seed: int,
) -> Pair:
    """Samples of either model that share no input, and held-out pairs."""
    generator = np.random.default_rng([seed, len(name)])
    order = generator.permutation(len(labels))
    held, rest = order[:HELD_OUT], order[HELD_OUT:]
    rows_a, rows_b = np.array_split(rest, 2)
    if isinstance(classes, int):
        chosen = generator.permutation(int(labels.max()) + 1)
        rows_a = rows_a[np.isin(labels[rows_a], chosen[:classes])]
        rows_b = rows_b[np.isin(labels[rows_b], chosen[classes : 2 * classes])]
    elif classes == "shift":
        # A class is up to ten times as frequent in one sample as in the other.
        share = 10.0 ** -generator.uniform(0, 1, size=int(labels.max()) + 1)
        rows_a = rows_a[generator.uniform(size=len(rows_a)) < share[labels[rows_a]]]
        rows_b = rows_b[
            generator.uniform(size=len(rows_b)) < (share.min() / share * 1.0)[labels[rows_b]] ** 0.5
        ]
    rows_a, rows_b = rows_a[:MOST], rows_b[:MOST]
    kept_a, kept_b = _kept(a, points), _kept(b, points)
    last_a, last_b = kept_a[-1], kept_b[-1]
    return Pair(
        name,
        kind,
        {key: a[key][rows_a] for key in kept_a},
        {key: b[key][rows_b] for key in kept_b},
        a[last_a][held],
        b[last_b][held],
    )


def _kept(points: Points, which: str) -> list[str]:
    keys = list(points)
    return keys[-1:] if which == "last" else keys[-5:] if which == "five" else keys


# Planted clouds


def _mixture(
    generator: np.random.Generator, centers: Floats, spread: float, count: int, shaped: bool
) -> Floats:
    """Clusters about given centers in 16 dimensions; shaped ones are each stretched in their own way."""
    k, d = centers.shape
    which = generator.integers(k, size=count)
    x = generator.normal(size=(count, d))
    if shaped:
        x = np.concatenate([x, x[:, :1] ** 2 - 1], axis=1)[:, :d]
        form = np.random.default_rng(int(abs(centers).sum() * 1e6) % 2**32)
        forms = form.normal(size=(k, d, d)) * np.exp(form.normal(size=(k, 1, d))) / np.sqrt(d)
        x = np.einsum("nd,nde->ne", x + 0.5 * (x**2 - 1), forms[which])
    return centers[which] * 1.0 + spread * x


def _centers(shape: str, seed: int) -> Floats:
    d = 16
    generator = np.random.default_rng([seed, 7])
    made = np.zeros((12, d))
    if shape.startswith("polygon"):
        k = int(shape.split()[1])
        turn = 2 * np.pi * np.arange(k) / k
        made = np.zeros((k, d))
        made[:, 0], made[:, 1] = np.cos(turn), np.sin(turn)
    elif shape.startswith("cube"):
        made = np.zeros((8, d))
        made[:, :3] = np.array([[i, j, k] for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)]) / np.sqrt(3)
    elif shape.startswith("simplex"):
        k = int(shape.split()[1])
        made = np.zeros((k, d))
        made[:, :k] = np.eye(k) - 1 / k
    elif shape.startswith("random"):
        k = int(shape.split()[1])
        made = generator.normal(size=(k, d)) / np.sqrt(d)
    return made


def _draw(shape: str, generator: np.random.Generator, count: int, seed: int) -> Floats:
    d = 16
    if shape == "product gaussian":
        return generator.normal(size=(count, d)) * np.linspace(1.5, 0.7, d)
    if shape == "ball":
        x = generator.normal(size=(count, d))
        return np.asarray(x)
    if shape == "mirrored":
        x = _mixture(generator, _centers("random 9", seed), 0.15, count, False)
        # Equal halves that are each other's mirror image through one hyperplane.
        x[:, 0] = np.where(generator.uniform(size=count) < 0.5, x[:, 0], -x[:, 0])
        return x
    if shape == "product":
        # Independent skewed coordinates of distinct shapes: no symmetry.
        u = generator.uniform(size=(count, d))
        return np.asarray((-np.log(u)) ** np.linspace(0.3, 1.6, d) * np.linspace(2, 0.8, d))
    shaped = shape.endswith("shaped")
    return _mixture(generator, _centers(shape.removesuffix(" shaped"), seed), 0.12, count, shaped)


SHAPES = {
    **dict.fromkeys(("polygon 5", "polygon 10", "cube", "simplex 4", "simplex 8"), "symmetric"),
    **dict.fromkeys(("product gaussian", "ball", "mirrored"), "symmetric"),
    **dict.fromkeys(("polygon 5 shaped", "simplex 8 shaped", "random 6 shaped"), "true"),
    **dict.fromkeys(("random 20", "random 40", "product"), "true"),
}
"""The kind of pair that each shape makes."""


def _planted(kind: str, seeds: Seeds, shape: str, noise: float, cache: Path) -> Pair:
    del cache
    generator = np.random.default_rng([seeds[0], len(shape), int(100 * noise)])
    turn = np.linalg.qr(generator.normal(size=(16, 16)))[0]
    x, y, held = (_draw(shape, generator, n, seeds[0]) for n in (MOST, MOST, HELD_OUT))
    spread = noise * held.std() * 0.3

    def other(z: Floats) -> Floats:
        return np.asarray(3.0 * (z + spread * generator.normal(size=z.shape)) @ turn + 5.0)

    return Pair(shape, kind, {"x": x}, {"x": other(y)}, held, other(held))


def _cloud(kind: str, seeds: Seeds, name: str, seed: int, cache: Path) -> Pair:
    """A sample of one cloud, and one of the other, turned, with a little noise."""
    del seeds, cache
    _, draw_a, draw_b = CLOUDS[name]
    a, b, held = (
        draw(np.random.default_rng(seed), np.random.default_rng([seed, k]), count)
        for k, (draw, count) in enumerate(((draw_a, MOST // 2), (draw_b, MOST // 2), (draw_a, HELD_OUT)))
    )
    generator = np.random.default_rng([seed, 3])
    turn = np.linalg.qr(generator.normal(size=(a.shape[1],) * 2))[0]
    size = 0.05 * float(np.median(np.abs(a - np.median(a, axis=0))))

    def turned(z: Floats) -> Floats:
        return np.asarray((z + size * generator.normal(size=z.shape)) @ turn)

    # Far rows have no direction of their own to be retrieved by.
    ordinary = np.linalg.norm(held, axis=1) < 1000 * np.median(np.linalg.norm(held, axis=1))
    return Pair(name, kind, {"x": a}, {"x": turned(b)}, held[ordinary], turned(held[ordinary]))


def _unrelated(kind: str, seeds: Seeds, corpora: str, network: str, cache: Path) -> Pair:
    (a, _), (b, _) = (
        _network_points(corpus, network, seed, cache) for corpus, seed in zip(corpora.split(), seeds)
    )
    first = [{key: x[:MOST] for key, x in points.items()} for points in (a, b)]
    return Pair(f"{corpora} {network}", kind, *first, None, None)
