"""The invertible network of the flow auto-encoder, and the priors of its latent."""

from __future__ import annotations

import copy
import math
import warnings
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from repdyn.reading import as_array
from repdyn.seeding import drawing

__all__ = ["FlowNetwork", "Prior", "neighbor_log_density"]

Prior = Literal["free", "mixture", "gaussian"]

# Of the nearest-neighbour density in a batch: fewer are noisier, more blur the latent. Five left ripples of
# .3 to .7 in the log-density along a knot, fifteen .1 to .5.
NEIGHBORS = 15
# Noise starts at this fraction of the data's scale.
FIRST_NOISE = math.exp(-1.5)
# Of a constant column: a density needs some width.
LEAST_NOISE = 1e-3


class FlowNetwork(nn.Module):
    r"""An invertible network with ``dimension`` outputs free and the others noise.

    Plain, it is couplings and rotations in turn and starts near a rotation of its input. Augmented, its input
    is d coordinates of known noise *e* beside the D of a point, and its couplings take turns between them:

    .. math:: u = e + T(x), \qquad w = x - S(u), \qquad \dots

    which is an auto-encoder of any encoder T and decoder S, and invertible of volume one nevertheless. An
    invertible map of the points alone keeps their knots and links; this one need not.

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
        # Imported here: only flows need them.
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
            place = torch.arange(inputs)
            # What a mask holds is left as it is, and moves the others: first the points the noise.
            mask = (place >= dimension) == (layer % 2 == 0) if augmented else place % 2 == layer % 2
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
        self.log_noise = nn.Parameter(torch.full((inputs - dimension,), math.log(FIRST_NOISE)))
        if prior == "mixture":
            self.mixture = GMM(dimension, components=components)
        elif prior == "gaussian":
            self.log_spread = nn.Parameter(torch.zeros(dimension))

    @torch.no_grad()
    def start_prior(self, points: Tensor, seed: int) -> None:
        """Start the prior at the latents of some points: a mixture where expectation maximisation ends."""
        latents = self.split(points)[0]
        if self.prior == "mixture":
            _start_mixture(self.mixture, latents, seed)
        elif self.prior == "gaussian":
            self.log_spread.copy_(latents.std(dim=0).clamp_min(LEAST_NOISE).log())

    @torch.no_grad()
    def start_noise(self, points: Tensor) -> None:
        """Start the noise at what it is on some points."""
        self.log_noise.copy_(self.split(points)[1].std(dim=0).clamp_min(LEAST_NOISE).log())

    def split(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Latents, noise, and log |det| of the map at each point."""
        z, log_volume = self.transform().call_and_ladj(points)
        return z[:, : self.dimension], z[:, self.dimension :], log_volume

    def inverse(self, z: Tensor) -> Tensor:
        """Points of latents and noise side by side ``(n, D)``."""
        points: Tensor = self.transform().inv(z)
        return points

    def noise_scale(self) -> Tensor:
        """Standard deviation of each noise dimension."""
        return self.log_noise.exp()

    def log_density(self, points: Tensor, known: Tensor | None = None) -> Tensor:
        """Log-density at points; a free prior looks for neighbours among ``known``, else the points."""
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
        """Latents drawn from a mixture or a Gaussian prior ``(count, d)``."""
        with drawing(seed):
            if self.prior == "mixture":
                # Drawn on the CPU: the same numbers on every device.
                drawn: Tensor = copy.deepcopy(self.mixture).cpu()().sample((count,))
                return drawn.to(self.log_noise.device)
            return torch.randn(count, self.dimension).to(self.log_spread) * self.log_spread.exp()


def _start_mixture(mixture: nn.Module, latents: Tensor, seed: int) -> None:
    from sklearn.mixture import GaussianMixture  # imported here: heavy, and only this prior needs it

    logits, means, log_diagonal, below_diagonal = mixture.phi  # type: ignore[misc]
    x = as_array(latents, np.float64)
    # What few points cannot tell apart shares components, which stay at hand with little weight.
    known = max(1, min(len(logits), len(np.unique(x, axis=0)) // 5))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a start need not have converged
        ridge = LEAST_NOISE**2 + 1e-4 * float(x.var())
        found = GaussianMixture(known, reg_covar=ridge, max_iter=30, random_state=seed).fit(x)
    which = np.arange(len(logits)) % known
    weight = np.where(np.arange(len(logits)) < known, found.weights_[which], 1e-4)
    lower = np.linalg.cholesky(found.covariances_[which])
    rows, columns = np.tril_indices(x.shape[1], -1)
    logits.copy_(torch.from_numpy(np.log(weight + 1e-12)))
    means.copy_(torch.from_numpy(found.means_[which]))
    log_diagonal.copy_(torch.from_numpy(np.log(np.diagonal(lower, axis1=1, axis2=2))))
    below_diagonal.copy_(torch.from_numpy(lower[:, rows, columns]))


def neighbor_log_density(latents: Tensor, known: Tensor | None = None) -> Tensor:
    """Nearest-neighbour log-density (see :func:`repdyn.topology.knn_density`), differentiable.

    Neighbours are sought among ``known``, or among the latents themselves, each without itself.
    """
    among = latents if known is None else known
    count = len(among) - (known is None)
    k = min(NEIGHBORS, count)
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
