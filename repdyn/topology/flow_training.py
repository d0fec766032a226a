"""How a flow auto-encoder learns: from geodesic coordinates, then by maximum likelihood."""

from __future__ import annotations

import math
import warnings

import numpy as np
import torch
from torch import Tensor

from repdyn.progress import track
from repdyn.reading import as_array
from repdyn.topology.flow_network import FlowNetwork

__all__ = ["geodesic_coordinates", "marginal_log_density", "pad", "start_at_geodesics", "train"]

# Standard deviation of the noise that points are augmented with, in units of the data's scale: the latent
# knows nothing finer, and adapts its own scale to it.
PADDING_NOISE = 0.05
# A point's density is the mean over so many draws of noise, so many times as wide: draws that are narrower
# than what they stand for give a mean that a few of them make.
DRAWS = 64
WIDER = 4.0
# Isomap costs the square of its points, and so many show which are near along the data.
GEODESIC_POINTS = 1000
GEODESIC_NEIGHBORS = 10
START_BATCH = 256
START_RATE = 1e-2


def pad(points: Tensor, dimensions: int, generator: torch.Generator) -> Tensor:
    """Put so many coordinates of noise before those of the points ``(n, D)``."""
    noise = PADDING_NOISE * torch.randn(len(points), dimensions, generator=generator).to(points)
    return torch.cat([noise, points], dim=1)


@torch.no_grad()
def marginal_log_density(network: FlowNetwork, points: Tensor, known: Tensor, seed: int) -> Tensor:
    """Log-density at points ``(n, D)``: the integral over the noise beside them, if there is any.

    Parameters
    ----------
    network, points
        A trained network, points without noise.
    known
        Points with noise, among which a free prior looks for neighbours.
    seed
        Of the draws.
    """
    generator = torch.Generator().manual_seed(seed)
    if network.padding == 0:
        return network.log_density(points, known)
    spread = WIDER * PADDING_NOISE
    drawn = []
    for _ in range(DRAWS):
        noise = torch.randn(len(points), network.padding, generator=generator).to(points)
        of_noise = -0.5 * noise**2 - math.log(spread) - 0.5 * math.log(2 * math.pi)
        padded = torch.cat([spread * noise, points], dim=1)
        drawn.append(network.log_density(padded, known) - of_noise.sum(dim=1))
    return torch.stack(drawn).logsumexp(dim=0) - math.log(DRAWS)


def geodesic_coordinates(points: Tensor, dimension: int) -> Tensor:
    """Coordinates whose distances are nearest to those along the data: Isomap ``(n, dimension)``.

    Components of the neighbour graph are joined where they are nearest.
    """
    from sklearn.manifold import Isomap  # imported here: heavy, and only this start needs it

    # Copies would be neighbours at distance 0, which a sparse graph takes for no edge.
    x = as_array(points, np.float64)
    spread = float(x.std()) or 1.0
    x = (x - x.mean(axis=0)) / spread + 1e-6 * np.random.default_rng(0).normal(size=x.shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it joins components is what is wanted
        neighbors = min(GEODESIC_NEIGHBORS, len(x) - 1)
        found = Isomap(n_neighbors=neighbors, n_components=dimension).fit_transform(x)
    return torch.from_numpy((np.nan_to_num(found) * spread).astype(np.float32)).to(points.device)


def start_at_geodesics(network: FlowNetwork, points: Tensor, steps: int, generator: torch.Generator) -> None:
    """Teach an augmented network geodesic coordinates as latents, and to leave nothing else in the noise."""
    if steps == 0:
        return
    chosen = points[torch.randperm(len(points), generator=generator)[:GEODESIC_POINTS]]
    target = geodesic_coordinates(chosen, network.dimension)
    optimizer = torch.optim.Adam(network.parameters(), lr=START_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in track(range(steps), "learning geodesic coordinates"):
        batch = torch.randperm(len(chosen), generator=generator)[:START_BATCH]
        latents, noise, _ = network.split(pad(chosen[batch], network.padding, generator))
        loss = ((latents - target[batch]) ** 2).sum(dim=1).mean() + (noise**2).sum(dim=1).mean()
        _step(network, loss, optimizer, schedule)
    network.start_noise(pad(points, network.padding, generator))


def train(
    network: FlowNetwork,
    points: Tensor,
    steps: int,
    batch_size: int,
    learning_rate: float,
    generator: torch.Generator,
) -> None:
    """Maximise the likelihood of points ``(n, D)``, with new noise beside them at every step."""
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    for _ in track(range(steps), f"fitting a flow with {network.dimension} free dimensions"):
        batch = points[torch.randperm(len(points), generator=generator)[:batch_size]]
        loss = -network.log_density(pad(batch, network.padding, generator)).mean()
        _step(network, loss, optimizer, schedule)


def _step(
    network: FlowNetwork,
    loss: Tensor,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> None:
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    # Two latents that nearly meet would pull without bound under the nearest-neighbour density.
    torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
    optimizer.step()
    schedule.step()
