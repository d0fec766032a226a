"""The study of the Koopman autoencoder paper, with the controls and the losses it does not report.

    python benchmarks/koopman_paper.py --cache FOLDER --data yin-yang [--seeds 5] [--published]
    REPDYN_DATA=… python benchmarks/koopman_paper.py --cache FOLDER --data mnist [--seeds 3] [--published]

Trains the paper's residual networks (Yin-Yang: 5 blocks, width 10; MNIST: 4 blocks, width 784, batch
normalization) and a Koopman autoencoder on each one's representation paths. Prints macro test accuracy
through the network's own head beside the published figures and the controls, the path's unexplained variance
point by point, and, for every class, what `forget` leaves of it and what the other classes lose. Every
finished stage is kept in the cache, so an interrupted run continues where it was.

`--published` trains as the paper does: Yin-Yang on 5 000 points, MNIST without augmentation, the
autoencoder supervised by the last point alone with the published widths and epochs. Without it the networks
see fresh points (Yin-Yang is generated) or shifted digits, fewer epochs, and all points supervise.

References
----------
Aswani and Jabari (2025), Koopman Autoencoders Learn Neural Representation Dynamics, arXiv 2505.12809.
Kriener, Göltz and Petrovici (2021), The Yin-Yang dataset, arXiv 2102.08211.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import once_json, over_seeds, parser_of
from koopman_networks import (
    Draw,
    Recipe,
    ResidualNetworks,
    paths_of,
    pixels,
    shifted,
    trained,
    yin_yang,
)
from numpy.typing import NDArray
from stored_pictures import labeled_digits
from torch import Tensor

from repdyn.koopman import KoopmanAutoencoder, controls
from repdyn.koopman.edited import EditedKoopman
from repdyn.koopman.readout import KOOPMAN, unexplained
from repdyn.paths import RepresentationPaths, open_paths

Labeled = tuple[NDArray[np.float32], NDArray[np.int64]]


@dataclass(frozen=True)
class Study:
    """One data set: its network, its autoencoder, its splits and what was published."""

    title: str
    classes: tuple[str, ...]
    recipe: Recipe
    autoencoder: dict[str, Any]
    fit: dict[str, Any]
    network_accuracy: float
    accuracy: float
    edits: dict[str, tuple[float, float]]
    draw: Callable[[int], Draw]
    splits: Callable[[int], tuple[Labeled, Labeled, Labeled]]
    """From a seed to what the autoencoder is fitted on, what it is edited with, and what it is tested on."""
    together: bool
    """Whether the networks of all seeds are trained side by side: small ones are."""


def yin_yang_study(published: bool) -> Study:
    """Yin-Yang: 3 classes in the plane."""
    points = 5000 if published else 100_000

    def draw(seeds: int) -> Draw:
        sets = [yin_yang(points, seed) for seed in range(seeds)]
        x = torch.from_numpy(np.stack([x for x, _ in sets]))
        y = torch.from_numpy(np.stack([y for _, y in sets]))

        def batch(rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
            chosen = torch.randint(points, (rows,), generator=generator)
            return x[:, chosen], y[:, chosen]

        return batch

    def splits(seed: int) -> tuple[Labeled, Labeled, Labeled]:
        fitted = yin_yang(5000 if published else 20_000, seed)
        return fitted, yin_yang(5000, 1000 + seed), yin_yang(10_000, 10_000 + seed)

    ours = {"latent_dim": 64, "hidden": (256,)}
    theirs = {"latent_dim": 20, "hidden": (30,), "supervise": "last"}
    return Study(
        "Yin-Yang",
        ("yin", "yang", "dots"),
        Recipe(2, 10, 5, 3, 20_000, 512, 1e-2, 5e-4, 0.2)
        if published
        else Recipe(2, 10, 5, 3, 12_000, 512, 2e-1, 1e-5, 0.2, last_steps=2000),
        theirs if published else ours,
        {"epochs": 1000, "batch_size": 1024, "learning_rate": 1e-2, "patience": 1000}
        if published
        else {"epochs": 200, "batch_size": 512, "learning_rate": 1e-2},
        99.31,
        98.75,
        {"yin": (98.78, 85.01), "yang": (98.27, 78.88), "dots": (99.97, 62.52)},
        draw,
        splits,
        together=True,
    )


SOURCES = ("benchmarks/koopman_paper.py", "repdyn/koopman")
_FITTED_ON = 40_000  # of MNIST's training digits, by autoencoder and controls; edits are made with the others


def mnist_study(published: bool) -> Study:
    """MNIST: 10 digits of 784 pixels."""
    (images, labels), (tested, answers) = (labeled_digits("mnist", part) for part in ("train", "test"))
    batch, steps = (128, 30 * 469) if published else (256, 12 * 235)

    def draw(_: int) -> Draw:
        def batch(rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
            chosen = torch.randint(len(images), (rows,), generator=generator)
            seen = torch.from_numpy(images)[chosen] if published else shifted(images, chosen, generator)
            return pixels(seen)[None], torch.from_numpy(labels)[chosen][None]

        return batch

    def splits(seed: int) -> tuple[Labeled, Labeled, Labeled]:
        fitted, edited = np.split(np.random.default_rng(seed).permutation(len(images)), [_FITTED_ON])
        found = [(pixels(images[rows]).numpy(), labels[rows]) for rows in (fitted, edited)]
        return found[0], found[1], (pixels(tested).numpy(), answers)

    ours = {"latent_dim": 256, "hidden": (1000,)}
    theirs = {"latent_dim": 800, "hidden": (1000,), "supervise": "last", "isometry": 1e-3}
    return Study(
        "MNIST",
        tuple(str(digit) for digit in range(10)),
        Recipe(784, 784, 4, 10, steps, batch, 0.1, 5e-4, 0.2, half_precision=not published),
        theirs if published else ours,
        {"epochs": 100 if published else 20, "batch_size": 512, "learning_rate": 5e-3 if published else 2e-3},
        99.03,
        98.53,
        {"1": (99.23, 0.0), "4": (98.29, 0.0), "7": (98.01, 0.0)},
        draw,
        splits,
        together=False,
    )


STUDIES = {"yin-yang": yin_yang_study, "mnist": mnist_study}


def network_of(study: Study, seed: int, seeds: int, cache: Path) -> tuple[ResidualNetworks, int]:
    """The network of a seed, as a stack of networks and its number there."""
    if study.together:
        file = cache / f"networks-{seeds}.safetensors"
        return trained(study.recipe, seeds, study.draw(seeds), file), seed
    return trained(study.recipe, 1, study.draw(1), cache / f"network-{seed}.safetensors", seed), 0


def autoencoder_of(study: Study, paths: RepresentationPaths, seed: int, cache: Path) -> KoopmanAutoencoder:
    """The autoencoder of a seed, fitted or read."""
    folder = cache / f"kae-{seed}"
    if folder.is_dir():
        return KoopmanAutoencoder.from_pretrained(folder)
    kae = KoopmanAutoencoder(**study.autoencoder)
    fabric = None
    if study.recipe.half_precision:
        from lightning_fabric import Fabric

        fabric = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    part = cache / f"kae-{seed}.part"
    kae.fit(paths, seed=seed, checkpoint=part, fabric=fabric, **study.fit)
    kae.save_pretrained(folder)
    part.unlink()
    return kae


def edit_of(
    kae: KoopmanAutoencoder,
    paths: RepresentationPaths,
    target: int,
    redirect: str,
    head: Callable[[Tensor], Tensor],
    seed: int,
    cache: Path,
) -> EditedKoopman:
    """The autoencoder without a class, edited or read."""
    folder = cache / f"edit-{seed}-{target}-{redirect}"
    if not folder.is_dir():
        kae.forget(paths, label=target, redirect=redirect, head=head, seed=seed).save(folder)
    return EditedKoopman.load(folder)


def figures_of(study: Study, seed: int, seeds: int, cache: Path) -> dict[str, Any]:
    """All figures of one seed; what is found once is kept."""
    fitted, edited_with, tested = study.splits(seed)
    model, member = network_of(study, seed, seeds, cache)
    training = cache / f"training-{seed}.paths"
    if not training.exists():
        paths_of(model, member, *fitted).save(training)
    kae = autoencoder_of(study, open_paths(training), seed, cache)
    test = paths_of(model, member, *tested)
    weight, bias = model.head[member].detach(), model.head_bias[member].detach()
    first, *later = test.points
    source, true = np.asarray(test[first]), [np.asarray(test[p], dtype=np.float64) for p in later]

    def head(x: Tensor) -> Tensor:
        return x @ weight + bias

    def by_class(x: NDArray[Any]) -> list[float]:
        """Accuracy in percent."""
        right = head(torch.as_tensor(np.asarray(x, dtype=np.float32))).argmax(dim=1).numpy() == test.labels
        return [100 * float(right[test.labels == k].mean()) for k in range(len(study.classes))]

    def judged(predicted: list[NDArray[Any]]) -> dict[str, list[float]]:
        fvu = [unexplained(x, y, seed).value for x, y in zip(predicted, true)]
        return {"accuracy": by_class(predicted[-1]), "fvu": fvu}

    def of_controls() -> dict[str, dict[str, list[float]]]:
        found = controls(open_paths(training), seed=seed)
        return {name: judged(predict(source)) for name, predict in found.items()}

    def of_edit(number: int) -> list[float]:
        paths = paths_of(model, member, *edited_with)
        return by_class(edit_of(kae, paths, number, "mean", head, seed, cache).predict(source))

    ours = judged([kae.propagate(source, first, point) for point in later])
    predicted = {KOOPMAN: ours, **once_json(cache / f"controls-{seed}.json", of_controls, SOURCES)}
    edits = {
        name: once_json(cache / f"forget-{seed}-{name}.json", lambda number=number: of_edit(number), SOURCES)
        for number, name in enumerate(study.classes)
    }
    return {
        "network": by_class(true[-1]),
        "predicted": {name: found["accuracy"] for name, found in predicted.items()},
        "fvu": {name: found["fvu"] for name, found in predicted.items()},
        "edits": edits,
    }


def show(values: Sequence[float]) -> str:
    found = over_seeds(values)
    if len(values) < 2:
        return f"{found.value:6.2f}" + " " * 17
    return f"{found.value:6.2f} [{found.low:6.2f}, {found.high:6.2f}]"


def table(study: Study, seeds: list[dict[str, Any]]) -> str:
    """The study as text."""
    network = [float(np.mean(s["network"])) for s in seeds]
    lines = [
        f"{study.title}, {len(seeds)} networks, 10 000 test points each; percent, mean and 95 % interval",
        "",
        f"{'macro test accuracy':24}{'published':>12}  here",
        f"{'network':24}{study.network_accuracy:12.2f}  {show(network)}",
    ]
    gaps: dict[str, list[float]] = {}
    for name in seeds[0]["predicted"]:
        reached = [float(np.mean(s["predicted"][name])) for s in seeds]
        gaps[name] = [a - b for a, b in zip(network, reached)]
        published = f"{study.accuracy:12.2f}" if name == KOOPMAN else " " * 12
        lines.append(f"{name:24}{published}  {show(reached)}")
    lines += ["", f"{'network minus':24}"]
    lines += [f"  {name:22}{'':12}  {show(values)}" for name, values in gaps.items()]
    ours, others = gaps[KOOPMAN], {n: v for n, v in gaps.items() if n != KOOPMAN}
    best = min(others, key=lambda name: float(np.mean(others[name])))
    difference = [b - a for a, b in zip(ours, others[best])]
    interval = over_seeds(difference)
    if len(seeds) < 2:
        verdict = f"one network has no interval; against the best control, {best}"
    elif interval.high < 0:
        verdict = f"the autoencoder is BELOW the best control, {best}"
    elif interval.low > 0:
        verdict = f"the autoencoder is above the best control, {best}"
    else:
        verdict = f"the autoencoder and the best control, {best}, cannot be distinguished"
    lines.append(f"  {verdict}: {show(difference)}")
    lines += ["", "fraction of variance unexplained, by depth"]
    for name in seeds[0]["fvu"]:
        row = np.mean([s["fvu"][name] for s in seeds], axis=0)
        lines.append(f"  {name:22}" + "".join(f"{value:9.4f}" for value in row))
    lines += [
        "",
        f"{'forgetting':12}{'published':>18}{'target before':>26}{'target after':>26}"
        f"{'others before':>26}{'others after':>26}",
    ]
    for number, name in enumerate(study.classes):

        def others_of(figures: list[float], target: int = number) -> float:
            return float(np.mean([a for k, a in enumerate(figures) if k != target]))

        published = "{:.2f} -> {:.2f}".format(*study.edits[name]) if name in study.edits else ""
        unedited, edited = [s["predicted"][KOOPMAN] for s in seeds], [s["edits"][name] for s in seeds]
        lines.append(
            f"{name:12}{published:>18}{show([f[number] for f in unedited]):>26}"
            f"{show([f[number] for f in edited]):>26}{show([others_of(f) for f in unedited]):>26}"
            f"{show([others_of(f) for f in edited]):>26}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = parser_of(__doc__, "cache", seeds=5)
    parser.add_argument("--data", choices=sorted(STUDIES), default="yin-yang")
    parser.add_argument("--published", action="store_true", help="the paper's training settings")
    given = parser.parse_args()
    cache = given.cache / (f"{given.data}-published" if given.published else given.data)
    cache.mkdir(parents=True, exist_ok=True)
    study = STUDIES[given.data](given.published)
    seeds = [figures_of(study, seed, given.seeds, cache) for seed in range(given.seeds)]
    (cache / "figures.json").write_text(json.dumps({"data": given.data, "seeds": seeds}))
    print(table(study, seeds))


if __name__ == "__main__":
    main()
