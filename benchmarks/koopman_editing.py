"""Forgetting with a Koopman autoencoder: every class, what the others lose, and whether an attack undoes it.

    python benchmarks/koopman_editing.py --cache FOLDER [--data yin-yang] [--seeds 5]

For every seed a residual network is trained (that of the paper: 5 blocks of width 10 on Yin-Yang, 4 blocks
on MNIST, here 128 wide), and beside it one network for every class that never saw that class. A Koopman
autoencoder is fitted to the first network's paths; `forget` edits it on other paths of its own, and
everything printed is of test inputs that neither saw: accuracy on the class to forget and macro accuracy on
the others through the network's own head, before and after; drift on the others; whether the edited path can
be interpolated; and two attacks (a linear probe on the last observables, fine-tuning the head on 1 % of the
data) on the unedited autoencoder, the edited one, and the network without the class.

Figures are means over seeds with 95 % intervals by Student's t; the goal lines say for how many of seeds
times classes the target is at most 1 % and the others lose at most 1.5 points. Every finished stage is kept
in the cache. About ten minutes on one idle core for Yin-Yang, half an hour for MNIST (`REPDYN_DATA`).

References
----------
Aswani and Jabari (2025), Koopman Autoencoders Learn Neural Representation Dynamics, arXiv 2505.12809.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from koopman_networks import Recipe, ResidualNetworks, mnist, paths_of, pixels, trained, yin_yang
from numpy.typing import NDArray
from scipy.stats import t as student
from torch import Tensor, nn

from repdyn.intervals import Estimate
from repdyn.koopman import KoopmanAutoencoder
from repdyn.koopman.attack import EDITED, UNEDITED, attack
from repdyn.paths import RepresentationPaths
from repdyn.progress import track

REDIRECTS = ("mean", "nearest")
RETRAINED = "network without it"
GONE, LOST = 0.01, 0.015  # the goals: target accuracy, and what the others may lose

Data = tuple[NDArray[np.float32], NDArray[np.int64]]


@dataclass(frozen=True)
class Setting:
    """What is forgotten, by what network and what autoencoder."""

    classes: tuple[str, ...]
    recipe: Recipe
    train: Callable[[int], Data]
    edit: Callable[[int], Data]
    test: Callable[[int], Data]
    latent_dim: int
    hidden: tuple[int, ...]
    fit: dict[str, Any]


def _digits(part: str, first: int, last: int) -> Callable[[int], Data]:
    def read(seed: int) -> Data:
        images, labels = mnist(part)
        rows = np.random.default_rng(0).permutation(len(images))[first:last]
        return pixels(images[rows]).numpy(), labels[rows]

    return read


SETTINGS = {
    "yin-yang": Setting(
        ("yin", "yang", "dots"),
        Recipe(2, 10, 5, 3, steps=10_000, batch=512, rate=5e-2, decay=5e-4, warm_up=0.2),
        lambda seed: yin_yang(5000, seed),
        lambda seed: yin_yang(5000, 1000 + seed),
        lambda seed: yin_yang(10_000, 10_000 + seed),
        20,
        (128,),
        {"epochs": 150, "batch_size": 256, "learning_rate": 1e-2},
    ),
    "mnist": Setting(
        tuple(str(k) for k in range(10)),
        Recipe(784, 128, 4, 10, steps=1500, batch=256, rate=1e-1, decay=5e-4, warm_up=0.2),
        _digits("train", 0, 50_000),
        _digits("train", 50_000, 60_000),
        _digits("test", 0, 10_000),
        256,
        (512,),
        {"epochs": 15, "batch_size": 512, "learning_rate": 3e-3},
    ),
}


def networks(name: str, seeds: int, cache: Path, without: int | None) -> ResidualNetworks:
    """One network for each seed, side by side; ``without`` is a class that they never see."""
    setting = SETTINGS[name]
    drawn = [setting.train(seed) for seed in range(seeds)]
    kept = [np.flatnonzero(y != without) for _, y in drawn]

    def draw(rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        chosen = [own[torch.randint(len(own), (rows,), generator=generator).numpy()] for own in kept]
        x = np.stack([x[some] for (x, _), some in zip(drawn, chosen)])
        return torch.from_numpy(x), torch.from_numpy(
            np.stack([y[some] for (_, y), some in zip(drawn, chosen)])
        )

    ending = "" if without is None else f"-without-{without}"
    return trained(setting.recipe, seeds, draw, cache / f"{name}-{seeds}{ending}.safetensors")


def head_of(model: ResidualNetworks, member: int) -> nn.Linear:
    """The network's own head, as a layer that an attacker may train further."""
    head = nn.Linear(*model.head[member].shape)
    with torch.no_grad():
        head.weight.copy_(model.head[member].T)
        head.bias.copy_(model.head_bias[member, 0])
    return head


def autoencoder(name: str, member: int, paths: RepresentationPaths, cache: Path) -> KoopmanAutoencoder:
    """Fitted once and kept."""
    setting, folder = SETTINGS[name], cache / f"{name}-kae-{member}"
    if folder.is_dir():
        return KoopmanAutoencoder.from_pretrained(folder)
    kae = KoopmanAutoencoder(setting.latent_dim, setting.hidden).fit(paths, seed=member, **setting.fit)
    kae.save_pretrained(folder)
    return kae


def study(name: str, member: int, seeds: int, cache: Path) -> dict[str, Any]:
    """All figures of one seed."""
    setting = SETTINGS[name]
    file = cache / f"{name}-figures-{member}.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {"edits": {}}
    if len(found["edits"]) == len(setting.classes) * len(REDIRECTS):
        return found
    model = networks(name, seeds, cache, None)
    fitted_on, edited_on, test = (
        paths_of(model, member, *part(member)) for part in (setting.train, setting.edit, setting.test)
    )
    kae, head = autoencoder(name, member, fitted_on, cache), head_of(model, member)
    source, labels = np.asarray(test[test.points[0]]), np.asarray(test.labels)

    @torch.no_grad()
    def by_class(x: NDArray[Any]) -> list[float]:
        right = head(torch.as_tensor(np.asarray(x, dtype=np.float32))).argmax(dim=1).numpy() == labels
        return [float(right[labels == k].mean()) for k in range(len(setting.classes))]

    found["network"] = by_class(np.asarray(test[test.points[-1]]))
    found["before"] = by_class(kae.propagate(source, test.points[0], test.points[-1]))
    for target in track(range(len(setting.classes)), f"{name}, seed {member}: forgetting"):
        others = test.subset(np.flatnonzero(labels != target))
        for redirect in REDIRECTS:
            key = f"{target} {redirect}"
            if key in found["edits"]:
                continue
            edited = kae.forget(edited_on, label=target, redirect=redirect, head=head, seed=member)
            told: dict[str, Any] = {
                "after": by_class(edited.predict(source)),
                "drift": edited.drift(others).value,
                "root": edited.root is not None,
                "quantile": edited.quantile,
            }
            if redirect == REDIRECTS[0]:
                foreign = networks(name, seeds, cache, target)
                beside = paths_of(foreign, member, *setting.test(member))
                report = attack(
                    edited,
                    test,
                    target,
                    head=head,
                    beside={RETRAINED: (beside, head_of(foreign, member))},
                    seed=member,
                )
                told["attack"] = {
                    who: {what: e.value for what, e in row.items()} for who, row in report.figures.items()
                }
            found["edits"][key] = told
            file.write_text(json.dumps(found))
    return found


def over_seeds(values: list[float]) -> Estimate:
    """Mean and its 95 % interval by Student's t: seeds are few."""
    x = np.asarray(values, dtype=np.float64)
    if len(x) < 2:
        return Estimate(float(x.mean()), float("nan"), float("nan"))
    half = float(student.ppf(0.975, len(x) - 1) * x.std(ddof=1) / len(x) ** 0.5)
    return Estimate(float(x.mean()), float(x.mean()) - half, float(x.mean()) + half)


def show(values: list[float]) -> str:
    """In percent."""
    found = over_seeds([100 * value for value in values])
    return f"{found.value:6.2f} [{found.low:6.2f}, {found.high:6.2f}]"


def table(name: str, seeds: list[dict[str, Any]]) -> str:
    """The study as text."""
    setting = SETTINGS[name]
    count = len(setting.classes)

    def others(figures: list[float], target: int) -> float:
        return float(np.mean([value for k, value in enumerate(figures) if k != target]))

    lines = [
        f"{name}, {len(seeds)} seeds; percent of test inputs, mean and 95 % interval over seeds",
        f"network {show([float(np.mean(s['network'])) for s in seeds])}, "
        f"autoencoder {show([float(np.mean(s['before'])) for s in seeds])}",
        "",
    ]
    for redirect in REDIRECTS:
        lines += [
            f"redirected to {redirect}",
            f"{'class':8}{'target before':>26}{'target after':>26}{'others before':>26}{'others after':>26}"
            f"{'drift':>8}{'roots':>7}{'ball':>7}",
        ]
        met = 0
        for target, label in enumerate(setting.classes):
            edits = [s["edits"][f"{target} {redirect}"] for s in seeds]
            lost = [others(s["before"], target) - others(e["after"], target) for s, e in zip(seeds, edits)]
            met += sum(e["after"][target] <= GONE and loss <= LOST for e, loss in zip(edits, lost))
            lines.append(
                f"{label:8}{show([s['before'][target] for s in seeds]):>26}"
                f"{show([e['after'][target] for e in edits]):>26}"
                f"{show([others(s['before'], target) for s in seeds]):>26}"
                f"{show([others(e['after'], target) for e in edits]):>26}"
                f"{np.mean([e['drift'] for e in edits]):8.3f}{sum(e['root'] for e in edits):>5}/{len(seeds)}"
                f"{np.mean([e['quantile'] for e in edits]):7.2f}"
            )
        lines += [
            f"target at most {GONE:.0%} and the others at most {100 * LOST:g} points below the unedited "
            f"autoencoder: {met} of {count * len(seeds)}",
            "",
        ]
    lines += [
        "attacks on the edit that redirects to the mean, mean over classes and seeds",
        f"{'':22}{'probe':>10}{'head, target':>22}{'fine-tuned, target':>22}{'fine-tuned, others':>22}",
    ]
    for who in (UNEDITED, EDITED, RETRAINED):
        rows = [[s["edits"][f"{k} {REDIRECTS[0]}"]["attack"][who] for k in range(count)] for s in seeds]
        cells = [
            over_seeds([float(np.mean([one[what] for one in row])) for row in rows])
            for what in ("probe", "head, target", "fine-tuned, target", "fine-tuned, others")
        ]
        lines.append(
            f"{who:22}{cells[0].value:10.3f}" + "".join(f"{100 * cell.value:22.2f}" for cell in cells[1:])
        )
    lines.append(
        "The probe's figure is a balanced accuracy (a guess: 0.5). Where it is as high after the edit as "
        "before, the class is hidden from the head and not removed."
    )
    return "\n".join(lines)


def main() -> None:
    """Run what has not been run, then print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cache", type=Path, required=True, help="folder that keeps finished stages")
    parser.add_argument("--data", choices=list(SETTINGS), default="yin-yang")
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    given.cache.mkdir(parents=True, exist_ok=True)
    print(table(given.data, [study(given.data, k, given.seeds, given.cache) for k in range(given.seeds)]))


if __name__ == "__main__":
    main()
