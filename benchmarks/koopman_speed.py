"""Epochs a second of `KoopmanAutoencoder.fit` against a DataLoader loop over the same model and losses.

    [REPDYN_DATA=…] python benchmarks/koopman_speed.py [--rounds 5] [--data yin-yang mnist]

Both train the same modules on the same paths with the same four losses, batch size and optimizer, each
sample meeting one later point at random. The loop is what one would write first: a `DataLoader` over a
`TensorDataset`, one operator for each step, `torch.linalg.matrix_exp`, AdamW and `clip_grad_norm_`; a
second one uses repdyn's exponential, so that what is left is the loop alone; and `fit` runs in half
precision too, as Fabric has it do in one word. Fits have ten epochs (MNIST: two) and their validation. Epochs
alternate and CPU time is compared, so that other work on the machine falls on all alike. Yin-Yang paths come
from an untrained network of the paper's shape: speed does not depend on what is learned.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from harness import parser_of
from koopman_networks import Recipe, ResidualNetworks, paths_of, pixels, yin_yang
from lightning_fabric import Fabric
from stored_pictures import labeled_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from repdyn.koopman import KoopmanAutoencoder
from repdyn.koopman import optimization as losses
from repdyn.koopman.operators import exponential
from repdyn.koopman.states import read_points
from repdyn.koopman.training import Plan, Weights, train
from repdyn.paths import RepresentationPaths


def yin_yang_paths() -> RepresentationPaths:
    recipe = Recipe(2, 10, 5, 3, 1, 512, 1e-2, 0.0, 0.2)
    return paths_of(ResidualNetworks(1, recipe).eval(), 0, *yin_yang(5000, 0))


def mnist_paths() -> RepresentationPaths:
    recipe = Recipe(784, 784, 4, 10, 1, 256, 1e-2, 0.0, 0.2)
    images, labels = labeled_digits("mnist", "train")
    few = slice(0, 3000)  # an epoch's time is proportional to its samples
    return paths_of(ResidualNetworks(1, recipe).eval(), 0, pixels(images[few]).numpy(), labels[few])


# Name: paths, latent_dim, hidden, batch size.
SETTINGS: dict[str, tuple[Callable[[], RepresentationPaths], int, tuple[int, ...], int]] = {
    "yin-yang": (yin_yang_paths, 20, (128,), 256),
    "yin-yang, published sizes": (yin_yang_paths, 20, (30,), 1024),
    "mnist": (mnist_paths, 256, (256,), 512),
    "mnist, published sizes": (mnist_paths, 800, (1000,), 512),
}


def prepared(paths: RepresentationPaths, latent_dim: int, hidden: tuple[int, ...]) -> tuple[Any, Tensor]:
    """An untrained autoencoder for these paths, and their lifted representations."""
    kae = KoopmanAutoencoder(latent_dim, hidden)
    states = read_points(paths)
    kae.build(dict(zip(paths.points, (x.shape[1] for x in states))), 0)
    kae.frames_.fit(states)
    return kae, torch.stack([kae.frames_.lift(x, n) for n, x in enumerate(states)])


def loop_epoch(
    kae: Any, loader: DataLoader[Any], optimizer: Any, variance: Tensor, power: Callable[[Tensor], Tensor]
) -> None:
    """One epoch as it would be written first."""
    modules = nn.ModuleList([kae.encoder_, kae.decoder_, kae.operator_])
    for batch in loader:
        points, rows = torch.stack(batch), len(batch[0])
        depth = torch.randint(1, len(points), (rows,))
        first, later = points[0], points[depth, torch.arange(rows)]
        z_first, z_later = kae.encoder_(first), kae.encoder_(later)
        step, reached, z = power(kae.operator_.weight), [], z_first
        for _ in range(1, len(points)):
            z = z @ step
            reached.append(z)
        propagated = torch.stack(reached)[depth - 1, torch.arange(rows)]
        unit = variance[depth]
        rebuilt = losses.reconstruction(kae.decoder_(z_first), first, variance[0])
        rebuilt = rebuilt + losses.reconstruction(kae.decoder_(z_later), later, unit)
        loss = (
            rebuilt / 2
            + losses.linearity(propagated, z_later)
            + losses.state(kae.decoder_(propagated), later, unit)
            + (losses.isometry(first, z_first) + losses.isometry(later, z_later)) / 2
        )
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(modules.parameters(), 1.0)
        optimizer.step()


def compare(name: str, rounds: int) -> str:
    make, latent_dim, hidden, batch_size = SETTINGS[name]
    paths = make()
    kae, states = prepared(paths, latent_dim, hidden)
    variance = torch.stack([losses.total_variance(x) for x in states])
    held_out = torch.zeros(states.shape[1], dtype=torch.bool)
    held_out[:2] = True
    loader = DataLoader(TensorDataset(*states), batch_size=batch_size, shuffle=True)
    modules = nn.ModuleList([kae.encoder_, kae.decoder_, kae.operator_])
    epochs = 10 if states.shape[2] < 100 else 2  # the start of a fit is part of its time
    plan = Plan(epochs=epochs, batch_size=batch_size, learning_rate=1e-3)

    def fit(fabric: Any = None) -> None:
        generator = torch.Generator().manual_seed(0)
        parts = kae.encoder_, kae.decoder_, kae.operator_
        train(*parts, states, held_out, Weights(), plan, generator=generator, fabric=fabric)

    half = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")

    def loop(power: Callable[[Tensor], Tensor]) -> Callable[[], None]:
        optimizer = torch.optim.AdamW(modules.parameters(), lr=1e-3, weight_decay=1e-2)

        def epochs() -> None:
            for _ in range(plan.epochs):
                loop_epoch(kae, loader, optimizer, variance, power)

        return epochs

    ways = {
        "fit": fit,
        "fit, bf16-mixed": lambda: fit(half),
        "DataLoader loop": loop(torch.linalg.matrix_exp),
        "DataLoader loop, repdyn's exponential": loop(exponential),
    }
    spent: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(rounds + 1):
        for way, run in ways.items():
            start = time.process_time()
            run()
            if turn > 0:  # the first warms up
                spent[way].append((time.process_time() - start) / plan.epochs)
    lines = [
        f"{name}: {states.shape[1]} samples, {len(states)} points, {states.shape[2]} wide, batch {batch_size}"
    ]
    for way, times in spent.items():
        line = f"  {way:38} {1 / np.median(times):8.2f} epochs/s of CPU"
        for ours in ("fit", "fit, bf16-mixed"):
            ratio = np.array(times) / np.array(spent[ours])
            if way.startswith("DataLoader"):
                line += (
                    f"   {ours} {np.median(ratio):.1f} times as fast ({ratio.min():.1f} to {ratio.max():.1f})"
                )
        lines.append(line)
    return "\n".join(lines)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name in given.data:
        print(compare(name, given.rounds), flush=True)


if __name__ == "__main__":
    main()
