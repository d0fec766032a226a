"""Data and networks of the Koopman autoencoder paper: Yin-Yang and MNIST, residual networks on both.

Imported by the benchmarks of the Koopman room; run `koopman_paper.py`.

References
----------
Aswani and Jabari (2025), Koopman Autoencoders Learn Neural Representation Dynamics, arXiv 2505.12809.
Kriener, Göltz and Petrovici (2021), The Yin-Yang dataset, arXiv 2102.08211.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from repdyn.paths import RepresentationPaths
from repdyn.progress import track

Draw = Callable[[int, torch.Generator], tuple[Tensor, Tensor]]
"""From a number of rows to inputs ``(members, rows, D)`` and labels ``(members, rows)``."""

_SAVE_EVERY = 60.0  # seconds
_LAST_RATE = 3e-3  # of Adam, where statistics are held fixed
_SHIFT = 2  # pixels at most, each way: MNIST digits are centered only to about that


@dataclass(frozen=True)
class Recipe:
    """How a residual network is laid out and trained: SGD with momentum and a triangular schedule.

    The last steps, where there are any, go on with Adam and with the statistics of batch normalization held
    fixed: in a network ten wide their noise is what blurs the class boundaries.
    """

    inputs: int
    width: int
    blocks: int
    classes: int
    steps: int
    batch: int
    rate: float
    decay: float
    warm_up: float
    half_precision: bool = False
    last_steps: int = 0


class Affine(nn.Module):
    """A linear layer and batch normalization for several networks at once, ``(S, B, inputs)`` rows."""

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
        # One network alone is a plain product, which is twice as fast in half precision.
        x = ((x[0] @ self.weight[0])[None] if len(self.weight) == 1 else x @ self.weight).float()
        mean, variance = self.mean, self.variance
        if self.training:
            variance, mean = torch.var_mean(x, dim=1, correction=0, keepdim=True)
            with torch.no_grad():
                self.mean.lerp_(mean, 0.1)
                self.variance.lerp_(variance, 0.1)
        return (x - mean) * (self.gain * torch.rsqrt(variance + 1e-5)) + self.bias


class ResidualNetworks(nn.Module):
    """The paper's network, one for each seed, side by side: small matrices are trained in one product."""

    def __init__(self, members: int, recipe: Recipe, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        width = recipe.width
        self.stem = Affine(members, recipe.inputs, width, generator)
        self.inner = nn.ModuleList(Affine(members, width, width, generator) for _ in range(recipe.blocks))
        self.outer = nn.ModuleList(Affine(members, width, width, generator) for _ in range(recipe.blocks))
        self.head = nn.Parameter(
            torch.randn(members, width, recipe.classes, generator=generator) * width**-0.5
        )
        self.head_bias = nn.Parameter(torch.zeros(members, 1, recipe.classes))

    def path(self, x: Tensor) -> list[Tensor]:
        """Representations after the input block and after each residual block."""
        states = [torch.relu(self.stem(x))]
        for inner, outer in zip(self.inner, self.outer):
            states.append(torch.relu(states[-1] + outer(torch.relu(inner(states[-1])))))
        return states

    def forward(self, x: Tensor) -> Tensor:
        return self.path(x)[-1] @ self.head + self.head_bias


def trained(recipe: Recipe, members: int, draw: Draw, file: Path, seed: int = 0) -> ResidualNetworks:
    """Networks trained on what ``draw`` gives, or those that the file holds already."""
    model = ResidualNetworks(members, recipe, seed)
    if file.is_file():
        model.load_state_dict(load_file(file))
        return model.eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=recipe.rate, momentum=0.9, weight_decay=recipe.decay)
    generator = torch.Generator().manual_seed(seed)
    part, done, saved = file.with_suffix(".part"), 0, time.monotonic()
    if part.is_file():
        done = _resume(part, model, optimizer, generator)
    up = recipe.warm_up * recipe.steps
    for step in track(range(done, recipe.steps), "training the networks", total=recipe.steps, start=done):
        rate = recipe.rate * min((step + 1) / up, (recipe.steps - step) / (recipe.steps - up))
        optimizer.param_groups[0]["lr"] = rate
        x, y = draw(recipe.batch, generator)
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.half_precision):
            logits = model(x).float()
        # A sum over networks: each sees the gradient of its own loss.
        loss = members * nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if time.monotonic() - saved > _SAVE_EVERY:
            _pause(part, model, optimizer, generator, step + 1)
            saved = time.monotonic()
    _finish(model.eval(), recipe, draw, torch.Generator().manual_seed(seed + 1))
    save_file(model.state_dict(), file)
    part.unlink(missing_ok=True)
    return model


def _finish(model: ResidualNetworks, recipe: Recipe, draw: Draw, generator: torch.Generator) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=_LAST_RATE)
    for step in track(range(recipe.last_steps), "training the networks, statistics held fixed"):
        optimizer.param_groups[0]["lr"] = _LAST_RATE * min((step + 1) / 50, 1 - step / recipe.last_steps)
        x, y = draw(recipe.batch, generator)
        loss = len(model.head) * nn.functional.cross_entropy(model(x).flatten(0, 1), y.flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()


def _pause(
    part: Path, model: nn.Module, optimizer: torch.optim.Optimizer, generator: torch.Generator, step: int
) -> None:
    momenta = [optimizer.state[p]["momentum_buffer"] for p in model.parameters()]
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    state |= {f"momentum.{n}": value for n, value in enumerate(momenta)}
    state |= {"generator": generator.get_state(), "step": torch.tensor(step)}
    save_file(state, part.with_suffix(".new"))
    part.with_suffix(".new").replace(part)


def _resume(
    part: Path, model: nn.Module, optimizer: torch.optim.Optimizer, generator: torch.Generator
) -> int:
    state = load_file(part)
    model.load_state_dict(
        {name.removeprefix("model."): value for name, value in state.items() if name.startswith("model.")}
    )
    for n, parameter in enumerate(model.parameters()):
        optimizer.state[parameter]["momentum_buffer"] = state[f"momentum.{n}"]
    generator.set_state(state["generator"])
    return int(state["step"])


@torch.no_grad()
def paths_of(
    model: ResidualNetworks, member: int, x: NDArray[np.float32], y: NDArray[np.int64]
) -> RepresentationPaths:
    """Representation paths of inputs ``(N, D)`` through one of the networks."""
    members = len(model.head)
    parts = [
        [state[member].numpy() for state in model.path(rows.expand(members, -1, -1))]
        for rows in torch.from_numpy(x).split(5000)
    ]
    names = ["stem", *(f"block{n}" for n in range(1, len(parts[0])))]
    return RepresentationPaths.from_arrays(
        {name: np.concatenate([part[n] for part in parts]) for n, name in enumerate(names)}, labels=y
    )


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


def pixels(images: NDArray[np.uint8] | Tensor) -> Tensor:
    """Flat and normalized by MNIST's mean and standard deviation, ``(N, 784)`` float32."""
    return (torch.as_tensor(images).flatten(-2).float() / 255 - 0.1307) / 0.3081


def shifted(images: NDArray[np.uint8], rows: Tensor, generator: torch.Generator) -> Tensor:
    """These rows of the images, each moved by up to two pixels each way, ``(rows, 28, 28)``."""
    padded = torch.nn.functional.pad(torch.from_numpy(images)[rows], (_SHIFT,) * 4)
    size = images.shape[-1]
    windows = padded.unfold(1, size, 1).unfold(2, size, 1)
    down, right = torch.randint(2 * _SHIFT + 1, (2, len(rows)), generator=generator)
    moved: Tensor = windows[torch.arange(len(rows)), down, right]
    return moved
