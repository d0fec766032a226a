"""Forgetting with a Koopman autoencoder: every class, what the others lose, and whether an attack undoes it.

    python benchmarks/koopman_editing.py --cache FOLDER [--data yin-yang] [--seeds 5]

Networks and autoencoders are those of koopman_paper.py, shared through the cache. `forget` edits each
autoencoder on paths of its own, and everything printed is of test inputs: accuracy on the class to forget and
macro accuracy on the others through the network's own head, before and after; drift on the others; whether
the edited path can be interpolated; and two attacks (a linear probe on the last observables, fine-tuning the
head on 1 % of the data) on the unedited autoencoder, on the edited one and, on Yin-Yang, on a network that
was trained in the same way and never saw the class: what is as hard to recover from the edit as from that
network is gone.

Figures are means over seeds with 95 % intervals by Student's t; the goal lines say for how many of seeds
times classes the target is at most 1 % and the others lose at most 1.5 points. Every finished stage is kept
in the cache. From nothing about twenty minutes on one idle core for Yin-Yang and ten for `--data mnist-narrow
--seeds 3`, a small network; `--data mnist --seeds 3` takes ten minutes once koopman_paper.py has trained the
full one. MNIST is found by `REPDYN_DATA`.

References
----------
Aswani and Jabari (2025), Koopman Autoencoders Learn Neural Representation Dynamics, arXiv 2505.12809.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import over_seeds, parser_of
from koopman_networks import ResidualNetworks, paths_of, trained
from koopman_paper import STUDIES, Study, autoencoder_of, edit_of, network_of
from koopman_paper import show as shown
from numpy.typing import NDArray
from torch import Tensor, nn

from repdyn.koopman.attack import EDITED, UNEDITED, attack
from repdyn.progress import track

REDIRECTS = ("mean", "nearest")
RETRAINED = "network without it"
GONE, LOST = 0.01, 0.015  # the goals: target accuracy, and what the others may lose


def narrow_mnist(published: bool) -> Study:
    """MNIST through a network 64 wide, trained for two epochs: for machines without hours to spare."""
    study = STUDIES["mnist"](published)
    return replace(
        study,
        title="MNIST, network 64 wide",
        recipe=replace(study.recipe, width=64, steps=500, half_precision=False),
        autoencoder={"latent_dim": 128, "hidden": (256,)},
        fit={"epochs": 6, "batch_size": 512, "learning_rate": 5e-3},
    )


EDITED_STUDIES = {**STUDIES, "mnist-narrow": narrow_mnist}


def networks_without(study: Study, seeds: int, cache: Path) -> ResidualNetworks:
    """For every class in turn the networks of all seeds that never see it, side by side.

    Trained as the others were, for half as many steps: there is less to learn.
    """
    whole, classes = study.draw(seeds), range(len(study.classes))

    def draw(rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        # A third of the points is of a class: twice as many hold enough of the others.
        x, y = whole(2 * rows, generator)
        members = [
            (a, b, torch.nonzero(b != target).flatten()[:rows]) for target in classes for a, b in zip(x, y)
        ]
        return torch.stack([a[some] for a, _, some in members]), torch.stack(
            [b[some] for _, b, some in members]
        )

    recipe = replace(study.recipe, steps=study.recipe.steps // 2)
    return trained(recipe, seeds * len(study.classes), draw, cache / f"networks-{seeds}-without.safetensors")


def head_of(model: ResidualNetworks, member: int) -> nn.Linear:
    """The network's own head, as a layer that an attacker may train further."""
    head = nn.Linear(*model.head[member].shape)
    with torch.no_grad():
        head.weight.copy_(model.head[member].T)
        head.bias.copy_(model.head_bias[member, 0])
    return head


def figures_of(study: Study, seed: int, seeds: int, cache: Path, redirects: list[str]) -> dict[str, Any]:
    """All figures of one seed."""
    file = cache / f"editing-{seed}.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {"edits": {}}
    wanted = [f"{target} {redirect}" for target in range(len(study.classes)) for redirect in redirects]
    if all(key in found["edits"] for key in wanted):
        return found
    model, member = network_of(study, seed, seeds, cache)
    fitted, edited_with, tested = study.splits(seed)
    edited_on, test = paths_of(model, member, *edited_with), paths_of(model, member, *tested)
    kae, head = autoencoder_of(study, paths_of(model, member, *fitted), seed, cache), head_of(model, member)
    source, labels = np.asarray(test[test.points[0]]), np.asarray(test.labels)

    @torch.no_grad()
    def by_class(x: NDArray[Any]) -> list[float]:
        right = head(torch.as_tensor(np.asarray(x, dtype=np.float32))).argmax(dim=1).numpy() == labels
        return [float(right[labels == k].mean()) for k in range(len(study.classes))]

    found["network"] = by_class(np.asarray(test[test.points[-1]]))
    found["before"] = by_class(kae.propagate(source, test.points[0], test.points[-1]))
    for target in track(range(len(study.classes)), f"{study.title}, seed {seed}: forgetting"):
        others = test.subset(np.flatnonzero(labels != target))
        for redirect in redirects:
            key = f"{target} {redirect}"
            if key in found["edits"]:
                continue
            edited = edit_of(kae, edited_on, target, redirect, head, seed, cache)
            edit: dict[str, Any] = {
                "after": by_class(edited.predict(source)),
                "drift": edited.drift(others).value,
                "root": edited.root is not None,
                "quantile": edited.quantile,
            }
            if redirect == REDIRECTS[0]:
                baselines = {}
                if study.together:
                    foreign, number = networks_without(study, seeds, cache), target * seeds + seed
                    baselines[RETRAINED] = (paths_of(foreign, number, *tested), head_of(foreign, number))
                report = attack(edited, test, target, head=head, baselines=baselines, seed=seed)
                edit["attack"] = {
                    who: {what: e.value for what, e in row.items()} for who, row in report.figures.items()
                }
            found["edits"][key] = edit
            file.write_text(json.dumps(found))
    return found


def show(shares: list[float]) -> str:
    """In percent."""
    return shown([100 * share for share in shares])


def table(study: Study, seeds: list[dict[str, Any]], redirects: list[str]) -> str:
    """The study as text."""
    count = len(study.classes)

    def others(figures: list[float], target: int) -> float:
        return float(np.mean([value for k, value in enumerate(figures) if k != target]))

    lines = [
        f"{study.title}, {len(seeds)} seeds; percent of test inputs, mean and 95 % interval over seeds",
        f"network {show([float(np.mean(s['network'])) for s in seeds])}, "
        f"autoencoder {show([float(np.mean(s['before'])) for s in seeds])}",
        "",
    ]
    for redirect in redirects:
        lines += [
            f"redirected to {redirect}",
            f"{'class':8}{'target before':>26}{'target after':>26}{'others before':>26}{'others after':>26}"
            f"{'drift':>8}{'roots':>7}{'ball':>7}",
        ]
        met = 0
        for target, label in enumerate(study.classes):
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
    if REDIRECTS[0] not in redirects:
        return "\n".join(lines)
    lines += [
        "attacks on the edit that redirects to the mean, mean over classes and seeds",
        f"{'':22}{'probe':>10}{'head, target':>22}{'fine-tuned, target':>22}{'fine-tuned, others':>22}",
    ]
    for who in (UNEDITED, EDITED, *([RETRAINED] if study.together else [])):
        rows = [[s["edits"][f"{k} {REDIRECTS[0]}"]["attack"][who] for k in range(count)] for s in seeds]
        cells = [
            over_seeds([float(np.mean([one[what] for one in row])) for row in rows])
            for what in ("probe", "head, target", "fine-tuned, target", "fine-tuned, others")
        ]
        lines.append(
            f"{who:22}{cells[0].value:10.3f}" + "".join(f"{100 * cell.value:22.2f}" for cell in cells[1:])
        )
    lines.append(
        "The probe's figure is a balanced accuracy (chance: 0.5). Where it is as high after the edit as "
        "before, the class is hidden from the head and not removed."
    )
    return "\n".join(lines)


def main() -> None:
    """Run what has not been run, then print the table."""
    parser = parser_of(__doc__, "cache", seeds=5)
    parser.add_argument("--data", choices=sorted(EDITED_STUDIES), default="yin-yang")
    parser.add_argument("--redirects", nargs="+", choices=REDIRECTS, default=list(REDIRECTS))
    given = parser.parse_args()
    cache = given.cache / given.data
    cache.mkdir(parents=True, exist_ok=True)
    study = EDITED_STUDIES[given.data](False)
    found = [figures_of(study, seed, given.seeds, cache, given.redirects) for seed in range(given.seeds)]
    print(table(study, found, given.redirects))


if __name__ == "__main__":
    main()
