"""The Yin-Yang study of the Koopman autoencoder paper, with the controls and the losses it does not report.

    python benchmarks/koopman_paper.py --cache FOLDER [--seeds 5]

Trains the paper's residual network (5 blocks, width 10) and a Koopman autoencoder on its representation
paths, five seeds each; prints macro test accuracy through the network's own head beside the published
figures and the controls, the path's unexplained variance point by point, and, for every class, what
`forget` leaves of it and what the other classes lose. Every finished stage is kept in the cache, so an
interrupted run continues where it was. About ten minutes on one idle core.

References
----------
Aswani and Jabari (2025), Koopman Autoencoders Learn Neural Representation Dynamics, arXiv 2505.12809.
Kriener, Göltz and Petrovici (2021), The Yin-Yang dataset, arXiv 2102.08211.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from scipy.stats import t as student
from torch import Tensor, nn

from repdyn.intervals import Estimate
from repdyn.koopman import KoopmanAutoencoder, controls
from repdyn.paths import RepresentationPaths
from repdyn.progress import track

CLASSES = ("yin", "yang", "dots")
TRAIN, VALIDATION, TEST = 5000, 5000, 10_000
NETWORK = {"width": 10, "blocks": 5, "epochs": 1000, "batch": 512, "rate": 5e-2, "decay": 5e-4}
AUTOENCODER = {"latent_dim": 20, "hidden": (128,), "epochs": 150, "batch": 256, "rate": 1e-2}
PUBLISHED = {
    "network": 99.31,
    "Koopman autoencoder": 98.75,
    "yin": (98.78, 85.01),
    "yang": (98.27, 78.88),
    "dots": (99.97, 62.52),
}


def yin_yang(samples: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Points of the Yin-Yang symbol in a disc of radius 0.5 about (0.5, 0.5), classes equally frequent."""
    draw = np.random.default_rng(seed)
    wanted = draw.integers(3, size=samples)
    x = np.empty((samples, 2))
    open_ = np.arange(samples)
    # A candidate is taken where it lies in the disc and has the class that its place in the set wants.
    while len(open_):
        candidate = draw.random((len(open_), 2))
        taken = _class_of(candidate) == wanted[open_]
        x[open_[taken]] = candidate[taken]
        open_ = open_[~taken]
    return x.astype(np.float32), wanted


def _class_of(x: NDArray[np.float64]) -> NDArray[np.int64]:
    big, small = 0.5, 0.1
    right = np.hypot(x[:, 0] - 1.5 * big, x[:, 1] - big)
    left = np.hypot(x[:, 0] - 0.5 * big, x[:, 1] - big)
    inside = np.hypot(x[:, 0] - big, x[:, 1] - big) <= big
    yang = (right <= small) | ((left > small) & (left <= 0.5 * big)) | ((x[:, 1] > big) & (right > 0.5 * big))
    found = np.where((right < small) | (left < small), 2, yang.astype(np.int64))
    return np.where(inside, found, -1)


class Affine(nn.Module):
    """A linear layer and batch normalisation for several networks at once, ``(S, B, inputs)`` rows."""

    def __init__(self, members: int, inputs: int, outputs: int, generator: torch.Generator) -> None:
        super().__init__()
        bound = inputs**-0.5
        self.weight = nn.Parameter(
            torch.empty(members, inputs, outputs).uniform_(-bound, bound, generator=generator)
        )
        self.gain = nn.Parameter(torch.ones(members, 1, outputs))
        self.bias = nn.Parameter(torch.zeros(members, 1, outputs))
        self.register_buffer("mean", torch.zeros(members, 1, outputs))
        self.register_buffer("variance", torch.ones(members, 1, outputs))

    def forward(self, x: Tensor) -> Tensor:
        x = x @ self.weight
        mean, variance = self.mean, self.variance
        if self.training:
            variance, mean = torch.var_mean(x, dim=1, correction=0, keepdim=True)
            with torch.no_grad():
                self.mean.lerp_(mean, 0.1)
                self.variance.lerp_(variance, 0.1)
        return (x - mean) * (self.gain * torch.rsqrt(variance + 1e-5)) + self.bias


class ResidualNetworks(nn.Module):
    """The paper's network, one for each seed, side by side: small matrices are trained in one product."""

    def __init__(self, members: int, inputs: int, width: int, blocks: int, classes: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.stem = Affine(members, inputs, width, generator)
        self.inner = nn.ModuleList(Affine(members, width, width, generator) for _ in range(blocks))
        self.outer = nn.ModuleList(Affine(members, width, width, generator) for _ in range(blocks))
        self.head = nn.Parameter(torch.randn(members, width, classes, generator=generator) * width**-0.5)
        self.head_bias = nn.Parameter(torch.zeros(members, 1, classes))

    def path(self, x: Tensor) -> list[Tensor]:
        """Representations after the input block and after each residual block."""
        states = [torch.relu(self.stem(x))]
        for inner, outer in zip(self.inner, self.outer):
            states.append(torch.relu(states[-1] + outer(torch.relu(inner(states[-1])))))
        return states

    def forward(self, x: Tensor) -> Tensor:
        return self.path(x)[-1] @ self.head + self.head_bias


def networks(seeds: int, cache: Path) -> ResidualNetworks:
    """The trained networks, each on training points of its own seed."""
    file = cache / f"networks-{seeds}.safetensors"
    model = ResidualNetworks(seeds, 2, NETWORK["width"], NETWORK["blocks"], len(CLASSES))
    if file.is_file():
        model.load_state_dict(load_file(file))
        return model.eval()
    drawn = [yin_yang(TRAIN, seed) for seed in range(seeds)]
    x = torch.from_numpy(np.stack([points for points, _ in drawn]))
    y = torch.from_numpy(np.stack([labels for _, labels in drawn]))
    batches = -(-TRAIN // NETWORK["batch"])
    steps = NETWORK["epochs"] * batches
    optimiser = torch.optim.SGD(
        model.parameters(), lr=NETWORK["rate"], momentum=0.9, weight_decay=NETWORK["decay"]
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / (0.2 * steps), (steps - step) / (0.8 * steps))
    )
    generator = torch.Generator().manual_seed(0)
    for _ in track(range(NETWORK["epochs"]), "training the networks"):
        for rows in torch.randperm(TRAIN, generator=generator).chunk(batches):
            # A sum over networks: each sees the gradient of its own loss.
            loss = seeds * nn.functional.cross_entropy(model(x[:, rows]).flatten(0, 1), y[:, rows].flatten())
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
    save_file(model.state_dict(), file)
    return model.eval()


@torch.no_grad()
def paths(model: ResidualNetworks, member: int, samples: int, seed: int) -> RepresentationPaths:
    """Representation paths of fresh points through one of the networks."""
    x, y = yin_yang(samples, seed)
    states = model.path(torch.from_numpy(x).expand(len(model.head), -1, -1))
    names = ["stem", *(f"block{n}" for n in range(1, len(states)))]
    return RepresentationPaths.from_arrays(
        {name: state[member].numpy() for name, state in zip(names, states)}, labels=y
    )


def study(model: ResidualNetworks, member: int, cache: Path) -> dict[str, Any]:
    """All figures of one seed; kept once they are there."""
    file = cache / f"figures-{member}.json"
    if file.is_file():
        return json.loads(file.read_text())
    fitted_on = paths(model, member, TRAIN, member)
    edited_on = paths(model, member, VALIDATION, 1000 + member)
    test = paths(model, member, TEST, 10_000 + member)
    weight, bias = model.head[member].detach(), model.head_bias[member].detach()

    def head(x: Tensor) -> Tensor:
        return x @ weight + bias

    def macro(x: NDArray[Any]) -> list[float]:
        """Accuracy in percent, by class."""
        right = head(torch.as_tensor(np.asarray(x, dtype=np.float32))).argmax(dim=1).numpy() == test.labels
        return [100 * float(right[test.labels == k].mean()) for k in range(len(CLASSES))]

    folder = cache / f"kae-{member}"
    if folder.is_dir():
        kae = KoopmanAutoencoder.from_pretrained(folder)
    else:
        kae = KoopmanAutoencoder(AUTOENCODER["latent_dim"], AUTOENCODER["hidden"])
        kae.fit(
            fitted_on,
            epochs=AUTOENCODER["epochs"],
            seed=member,
            batch_size=AUTOENCODER["batch"],
            learning_rate=AUTOENCODER["rate"],
        )
        kae.save_pretrained(folder)
    found = kae.fidelity(test, head=head, train=fitted_on)
    source, last = np.asarray(test[test.points[0]]), test.points[-1]
    predicted = {"Koopman autoencoder": kae.propagate(source, test.points[0], last)}
    predicted |= {name: predict(source)[-1] for name, predict in controls(fitted_on).items()}
    figures: dict[str, Any] = {
        "network": macro(np.asarray(test[last])),
        "predicted": {name: macro(x) for name, x in predicted.items()},
        "fvu": {name: [e.value for e in row] for name, row in found.fvu.items()},
        "edits": {},
    }
    for number, name in enumerate(CLASSES):
        for redirect in ("mean", "nearest"):
            edited = kae.forget(edited_on, label=number, redirect=redirect, head=head, seed=member)
            figures["edits"][f"{name} {redirect}"] = macro(edited.predict(source))
    file.write_text(json.dumps(figures))
    return figures


def over_seeds(values: list[float]) -> Estimate:
    """Mean and its 95 % interval by Student's t: seeds are few."""
    x = np.asarray(values, dtype=np.float64)
    if len(x) < 2:
        return Estimate(float(x.mean()), float("nan"), float("nan"))
    half = float(student.ppf(0.975, len(x) - 1) * x.std(ddof=1) / len(x) ** 0.5)
    return Estimate(float(x.mean()), float(x.mean()) - half, float(x.mean()) + half)


def table(seeds: list[dict[str, Any]]) -> str:
    """The study as text."""

    def show(values: list[float]) -> str:
        found = over_seeds(values)
        return f"{found.value:6.2f} [{found.low:6.2f}, {found.high:6.2f}]"

    network = [float(np.mean(s["network"])) for s in seeds]
    lines = [
        f"Yin-Yang, {len(seeds)} networks, {TEST} test points each; percent, mean and 95 % interval",
        "",
        f"{'macro test accuracy':24}{'published':>12}  here",
        f"{'network':24}{PUBLISHED['network']:12.2f}  {show(network)}",
    ]
    gaps: dict[str, list[float]] = {}
    for name in seeds[0]["predicted"]:
        reached = [float(np.mean(s["predicted"][name])) for s in seeds]
        gaps[name] = [a - b for a, b in zip(network, reached)]
        published = f"{PUBLISHED[name]:12.2f}" if name in PUBLISHED else " " * 12
        lines.append(f"{name:24}{published}  {show(reached)}")
    lines += ["", f"{'network minus':24}"]
    lines += [f"  {name:22}{'':12}  {show(values)}" for name, values in gaps.items()]
    ours, others = gaps["Koopman autoencoder"], {n: v for n, v in gaps.items() if n != "Koopman autoencoder"}
    best = min(others, key=lambda name: float(np.mean(others[name])))
    difference = over_seeds([b - a for a, b in zip(ours, others[best])])
    if difference.high < 0:
        verdict = f"the autoencoder is BELOW the best control, {best}"
    elif difference.low > 0:
        verdict = f"the autoencoder is above the best control, {best}"
    else:
        verdict = f"the autoencoder and the best control, {best}, cannot be told apart"
    lines.append(f"  {verdict}: {show([b - a for a, b in zip(ours, others[best])])}")
    lines += ["", "fraction of variance unexplained, by depth"]
    for name in seeds[0]["fvu"]:
        row = np.mean([s["fvu"][name] for s in seeds], axis=0)
        lines.append(f"  {name:22}" + "".join(f"{value:9.4f}" for value in row))
    lines += [
        "",
        f"{'forgetting':16}{'published':>18}{'target after':>26}{'others before':>26}{'others after':>26}",
    ]
    for edit in seeds[0]["edits"]:
        name = edit.split()[0]
        target = CLASSES.index(name)

        def others_of(figures: list[float], target: int = target) -> float:
            return float(np.mean([a for k, a in enumerate(figures) if k != target]))

        before, after = PUBLISHED[name]
        lines.append(
            f"{edit:16}{f'{before:.2f} -> {after:.2f}':>18}"
            f"{show([s['edits'][edit][target] for s in seeds]):>26}"
            f"{show([others_of(s['predicted']['Koopman autoencoder']) for s in seeds]):>26}"
            f"{show([others_of(s['edits'][edit]) for s in seeds]):>26}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="folder that keeps finished stages")
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    given.cache.mkdir(parents=True, exist_ok=True)
    model = networks(given.seeds, given.cache)
    print(table([study(model, member, given.cache) for member in range(given.seeds)]))


if __name__ == "__main__":
    main()
