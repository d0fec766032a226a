"""The invertible network of the flow autoencoder, the priors of its latent, and its training."""

from __future__ import annotations

import copy
import math
import warnings
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from repdyn.devices import as_given, to
from repdyn.progress import track
from repdyn.reading import as_array
from repdyn.seeding import drawing
from repdyn.topology.settings import FLOW

__all__ = [
    "FlowNetwork", "Prior", "geodesic_coordinates", "marginal_log_density", "neighbor_log_density", "pad",
    "start_at_geodesics", "train",
]  # fmt: skip

Prior = Literal["free", "mixture", "gaussian"]


class FlowNetwork(nn.Module):
    r"""An invertible network with ``dimension`` free outputs; the others are noise.

    A plain network alternates couplings and rotations and starts close to a rotation of its input. The input
    of an augmented one is d coordinates of known noise *e* and the D of a point, and couplings alternate
    between them:

    .. math:: u = e + T(x), \qquad w = x - S(u), \qquad \dots

    which is an autoencoder with any encoder T and decoder S, and still invertible with volume one. An
    invertible map of the points alone preserves knots and links; this one does not.

    Shapes: points ``(n, D)`` or, augmented, ``(n, d + D)``, the noise first; latents ``(n, d)``, noise the
    rest, log-densities ``(n,)``.
    """

    def __init__(
        self,
        width: int,
        dimension: int,
        prior: Prior,
        volume: str,
        components: int,
        layers: int,
        hidden: tuple[int, ...],
        augmented: bool = False,
    ) -> None:
        super().__init__()
        # zuko is slow to import.
        from zuko.flows.coupling import GeneralCouplingTransform  # type: ignore[import-untyped]
        from zuko.lazy import LazyComposedTransform, UnconditionalTransform  # type: ignore[import-untyped]
        from zuko.mixtures import GMM  # type: ignore[import-untyped]
        from zuko.transforms import AdditiveTransform, MonotonicAffineTransform, RotationTransform  # type: ignore[import-untyped]

        coupling = (
            {"univariate": AdditiveTransform, "shapes": ((),)}
            if volume == "preserved"
            else {"univariate": MonotonicAffineTransform, "shapes": ((), ())}
        )
        inputs = width + dimension * augmented
        parts = []
        for layer in range(layers):
            column = torch.arange(inputs)
            # Masked coordinates are unchanged and determine the shift of the others: first, points shift
            # noise.
            mask = (column >= dimension) == (layer % 2 == 0) if augmented else column % 2 == layer % 2
            part = GeneralCouplingTransform(
                inputs, mask=mask, hidden_features=hidden, activation=nn.SiLU, **coupling
            )
            nn.init.zeros_(part.hyper[-1].weight)
            nn.init.zeros_(part.hyper[-1].bias)
            parts.append(part)
            if not augmented:
                parts.append(UnconditionalTransform(RotationTransform, 0.1 * torch.randn(width, width)))
        self.transform = LazyComposedTransform(*parts)
        self.dimension, self.prior, self.padding = dimension, prior, inputs - width
        self.log_noise = nn.Parameter(torch.full((inputs - dimension,), math.log(FLOW.first_noise)))
        if prior == "mixture":
            self.mixture = GMM(dimension, components=components)
        elif prior == "gaussian":
            self.log_spread = nn.Parameter(torch.zeros(dimension))

    @torch.no_grad()
    def start_prior(self, points: Tensor, seed: int) -> None:
        """Initialize the prior from the latents of points; a mixture by expectation maximization."""
        latents = self.split(points)[0]
        if self.prior == "mixture":
            _start_mixture(self.mixture, latents, seed)
        elif self.prior == "gaussian":
            self.log_spread.copy_(latents.std(dim=0).clamp_min(FLOW.least_noise).log())

    @torch.no_grad()
    def start_noise(self, points: Tensor) -> None:
        """Initialize the noise scale from points."""
        self.log_noise.copy_(self.split(points)[1].std(dim=0).clamp_min(FLOW.least_noise).log())

    def split(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Latents, noise, and log |det| of the map at each point."""
        z, log_volume = self.transform().call_and_ladj(points)
        return z[:, : self.dimension], z[:, self.dimension :], log_volume

    def inverse(self, z: Tensor) -> Tensor:
        """Points ``(n, D)`` from latents and noise ``(n, D)``."""
        points: Tensor = self.transform().inv(z)
        return points

    def noise_scale(self) -> Tensor:
        """Standard deviation of each noise dimension."""
        return self.log_noise.exp()

    def log_density(self, points: Tensor, known: Tensor | None = None) -> Tensor:
        """Log-density at points. A free prior searches neighbors among ``known``; default: the points."""
        latents, noise, log_volume = self.split(points)
        gaussian = -0.5 * (noise / self.noise_scale()) ** 2 - self.log_noise - 0.5 * math.log(2 * math.pi)
        reference = None if known is None or self.prior != "free" else self.split(known)[0]
        return self.prior_log_density(latents, reference) + gaussian.sum(dim=1) + log_volume

    def prior_log_density(self, latents: Tensor, known: Tensor | None = None) -> Tensor:
        """Log-density of latents under the prior."""
        if self.prior == "free":
            return neighbor_log_density(latents, known)
        if self.prior == "mixture":
            mixed: Tensor = self.mixture().log_prob(latents)
            return mixed
        scaled = latents / self.log_spread.exp()
        density: Tensor = -0.5 * scaled**2 - self.log_spread - 0.5 * math.log(2 * math.pi)
        return density.sum(dim=1)

    def sample_prior(self, count: int, seed: int) -> Tensor:
        """Samples ``(count, d)`` of a mixture or a Gaussian prior."""
        with drawing(seed):
            if self.prior == "mixture":
                # On the CPU, so that all devices give the same numbers.
                drawn: Tensor = to(copy.deepcopy(self.mixture), "cpu")().sample((count,))
                return to(drawn, self.log_noise.device)
            return as_given(torch.randn(count, self.dimension), self.log_spread) * self.log_spread.exp()


def _start_mixture(mixture: nn.Module, latents: Tensor, seed: int) -> None:
    """Initialize a mixture from latents ``(n, d)``."""
    from sklearn.mixture import GaussianMixture  # slow to import

    logits, means, log_diagonal, below_diagonal = mixture.phi  # type: ignore[misc]
    x = as_array(latents, np.float64)
    # Few points determine few components. The others start as copies with a small weight.
    known = max(1, min(len(logits), len(np.unique(x, axis=0)) // 5))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a start need not have converged
        ridge = FLOW.least_noise**2 + 1e-4 * float(x.var())
        fitted = GaussianMixture(known, reg_covar=ridge, max_iter=30, random_state=seed).fit(x)
    component = np.arange(len(logits)) % known
    weight = np.where(np.arange(len(logits)) < known, fitted.weights_[component], 1e-4)
    lower = np.linalg.cholesky(fitted.covariances_[component])
    rows, columns = np.tril_indices(x.shape[1], -1)
    logits.copy_(torch.from_numpy(np.log(weight + 1e-12)))
    means.copy_(torch.from_numpy(fitted.means_[component]))
    log_diagonal.copy_(torch.from_numpy(np.log(np.diagonal(lower, axis1=1, axis2=2))))
    below_diagonal.copy_(torch.from_numpy(lower[:, rows, columns]))


def neighbor_log_density(latents: Tensor, known: Tensor | None = None) -> Tensor:
    """Nearest-neighbor log-density (see :func:`repdyn.topology.knn_density`), differentiable.

    Neighbors are searched among ``known``, or among the other latents.
    """
    among = latents if known is None else known
    count = len(among) - (known is None)
    k = min(FLOW.neighbors, count)
    chosen = []
    with torch.no_grad():
        for rows in torch.split(torch.arange(len(latents)), 4096):
            apart = torch.cdist(latents[rows], among)
            if known is None:
                apart[torch.arange(len(rows)), rows] = torch.inf
            chosen.append(apart.topk(k, dim=1, largest=False).indices[:, -1])
    radius = (latents - among[torch.cat(chosen)]).norm(dim=1).clamp_min(1e-6)
    d = latents.shape[1]
    volume = d / 2 * math.log(math.pi) - math.lgamma(d / 2 + 1)
    digamma = float(torch.digamma(torch.tensor(float(k))))
    density: Tensor = digamma - math.log(count) - volume - d * radius.log()
    return density


def pad(points: Tensor, dimensions: int, generator: torch.Generator) -> Tensor:
    """Points ``(n, dimensions + D)`` with coordinates of noise before those of the points ``(n, D)``."""
    noise = FLOW.padding_noise * as_given(torch.randn(len(points), dimensions, generator=generator), points)
    return torch.cat([noise, points], dim=1)


@torch.no_grad()
def marginal_log_density(network: FlowNetwork, points: Tensor, known: Tensor, seed: int) -> Tensor:
    """Log-density at points ``(n, D)``, integrated over the noise that augments them.

    Parameters
    ----------
    network, points
        A trained network, points without noise.
    known
        Points with noise, among which a free prior searches neighbors.
    seed
        Of the draws.
    """
    generator = torch.Generator().manual_seed(seed)
    if network.padding == 0:
        return network.log_density(points, known)
    spread = FLOW.draw_width * FLOW.padding_noise
    drawn = []
    for _ in range(FLOW.n_draws):
        noise = as_given(torch.randn(len(points), network.padding, generator=generator), points)
        of_noise = -0.5 * noise**2 - math.log(spread) - 0.5 * math.log(2 * math.pi)
        padded = torch.cat([spread * noise, points], dim=1)
        drawn.append(network.log_density(padded, known) - of_noise.sum(dim=1))
    return torch.stack(drawn).logsumexp(dim=0) - math.log(FLOW.n_draws)


def geodesic_coordinates(points: Tensor, dimension: int) -> Tensor:
    """Isomap coordinates ``(n, dimension)``, whose distances approximate those along the data.

    Components of the neighbor graph are joined at their closest points.
    """
    from sklearn.manifold import Isomap  # slow to import

    # A little noise, since a sparse graph takes the distance 0 between copies for a missing edge.
    x = as_array(points, np.float64)
    spread = float(x.std()) or 1.0
    x = (x - x.mean(axis=0)) / spread + 1e-6 * np.random.default_rng(0).normal(size=x.shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that it joins components, which is intended
        neighbors = min(FLOW.geodesic_neighbors, len(x) - 1)
        coordinates = Isomap(n_neighbors=neighbors, n_components=dimension).fit_transform(x)
    drawn = torch.from_numpy((np.nan_to_num(coordinates) * spread).astype(np.float32))
    return to(drawn, points.device)


def start_at_geodesics(network: FlowNetwork, points: Tensor, steps: int, generator: torch.Generator) -> None:
    """Train an augmented network to geodesic coordinates as latents and zero noise."""
    if steps == 0:
        return
    chosen = points[torch.randperm(len(points), generator=generator)[: FLOW.geodesic_points]]
    target = geodesic_coordinates(chosen, network.dimension)
    optimizer = torch.optim.Adam(network.parameters(), lr=FLOW.start_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in track(range(steps), "learning geodesic coordinates"):
        batch = torch.randperm(len(chosen), generator=generator)[: FLOW.start_batch]
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
    """Maximize the likelihood of points ``(n, D)``, with new noise at every step."""
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
    """One gradient step, with clipped gradients."""
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    # Two latents that nearly coincide have unbounded gradients under the nearest-neighbor density.
    torch.nn.utils.clip_grad_norm_(network.parameters(), FLOW.gradient_norm)
    optimizer.step()
    schedule.step()
