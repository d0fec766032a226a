"""Maximum likelihood fit of a mixture of Gaussians with one covariance, instead of a bank of latents."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from repdyn.devices import double, to
from repdyn.fields.settings import ENERGY

__all__ = ["Mixture", "fit_mixture"]

BLOCK = 2**22
"""Posteriors that are held at a time: 32 MiB."""


class Mixture(NamedTuple):
    """A mixture of Gaussians with one covariance.

    Attributes
    ----------
    means
        Centers, shape ``(K, d)``.
    weights
        Their shares, shape ``(K,)``.
    covariance
        The covariance that all have, shape ``(d, d)``.
    """

    means: Tensor
    weights: Tensor
    covariance: Tensor


def fit_mixture(
    points: Tensor, weights: Tensor, count: int, seed: int = 0, gain: float = ENERGY.em_gain
) -> Mixture:
    r"""Fit a mixture :math:`\sum_k w_k\, \mathcal N(m_k, C)` to weighted points by expectation-maximization.

    Parameters
    ----------
    points
        Distinct points, shape ``(M, d)``, on any device.
    weights
        Their weights, shape ``(M,)``, with sum 1.
    count
        Number of Gaussians K. Those that lose their points are left out of the result.
    seed
        Of the first centers.
    gain
        Gain of the mean log-likelihood at which a further step is the last.

    Returns
    -------
    Mixture
        In float64, on the device of the points.

    References
    ----------
    Dempster, Laird, Rubin (1977). Maximum likelihood from incomplete data via the EM algorithm. JRSS B 39.
    Arthur, Vassilvitskii (2007). k-means++: the advantages of careful seeding. SODA.
    """
    share = double(weights)
    center = share @ double(points)
    # Centered, so that second moments do not cancel.
    x = double(points) - center
    scatter = x.T @ (x * share[:, None])
    floor = ENERGY.covariance_floor * scatter.trace() / x.shape[1]
    ridge = floor * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    means = _seeded(x, share, min(count, len(x)), seed)

    def nearest(rows: Tensor) -> tuple[Tensor, Tensor]:
        beside = torch.cdist(rows, means).argmin(dim=1)
        return rows.new_zeros(len(rows), len(means)).scatter_(1, beside[:, None], 1.0), rows[:, 0]

    for _ in range(ENERGY.lloyd_steps):
        found, _ = _maximized(x, share, scatter, ridge, nearest, len(means))
        means = found.means
    likelihood = -torch.inf
    for _ in range(ENERGY.em_steps):
        last = likelihood
        found, likelihood = _maximized(x, share, scatter, ridge, _posterior(found), len(found.means))
        if likelihood - last < gain:
            break
    return found._replace(means=found.means + center)


def _seeded(x: Tensor, share: Tensor, count: int, seed: int) -> Tensor:
    """First centers ``(count, d)`` by k-means++: in proportion to the squared distance to those before."""
    generator = torch.Generator().manual_seed(seed)
    draws = to(torch.rand(count, generator=generator, dtype=torch.float64), x.device)
    # By products: differences of all points would be as large as the bank for each center.
    squares = x.square().sum(dim=1)
    distance = torch.ones(len(x), dtype=x.dtype, device=x.device)
    chosen = []
    for draw in draws:
        mass = torch.cumsum(share * distance, dim=0)
        row = torch.searchsorted(mass, draw * mass[-1]).clamp_max(len(x) - 1)
        chosen.append(row)
        own = (squares + squares[row] - 2 * (x @ x[row])).clamp_min(0)
        distance = own if len(chosen) == 1 else torch.minimum(distance, own)
    # Where fewer points are distinct than centers are asked for, points are drawn twice.
    return x[torch.unique(torch.stack(chosen))]


def _posterior(mixture: Mixture) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """From points: posteriors ``(n, K)`` of the Gaussians, and log-likelihoods ``(n,)`` up to a constant."""
    factor = torch.linalg.cholesky(mixture.covariance)

    def white(rows: Tensor) -> Tensor:
        found: Tensor = torch.linalg.solve_triangular(factor, rows.T, upper=False).T
        return found

    centers, constant = white(mixture.means), factor.diagonal().log().sum()
    # ‖z − m‖² without the square of z, which is the same for all Gaussians.
    offset = mixture.weights.log() - 0.5 * centers.square().sum(dim=1)

    def of(rows: Tensor) -> tuple[Tensor, Tensor]:
        z = white(rows)
        logits = torch.addmm(offset, z, centers.T)
        total = torch.logsumexp(logits, dim=1)
        return (logits - total[:, None]).exp(), total - 0.5 * z.square().sum(dim=1) - constant

    return of


def _maximized(
    x: Tensor,
    share: Tensor,
    scatter: Tensor,
    ridge: Tensor,
    posterior: Callable[[Tensor], tuple[Tensor, Tensor]],
    width: int,
) -> tuple[Mixture, float]:
    """The mixture of largest expected likelihood, without Gaussians that have lost their points.

    Also the mean log-likelihood of the points under the mixture of the posterior, which has this width.
    Points are read in blocks.
    """
    mass, sums, likelihood = x.new_zeros(width), x.new_zeros(width, x.shape[1]), x.new_zeros(())
    count = max(1, BLOCK // width)
    for first in range(0, len(x), count):
        rows = slice(first, first + count)
        p, log = posterior(x[rows])
        own = p * share[rows, None]
        mass += own.sum(dim=0)
        sums += own.T @ x[rows]
        likelihood += share[rows] @ log
    kept = mass > ENERGY.smallest_share / len(x)
    means = sums[kept] / mass[kept, None]
    covariance = scatter - (means * mass[kept, None]).T @ means + ridge
    return Mixture(means, mass[kept] / mass[kept].sum(), covariance), float(likelihood)
