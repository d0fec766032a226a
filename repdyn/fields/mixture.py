"""Maximum likelihood fit of a mixture of Gaussians with one covariance, instead of a bank of latents."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from repdyn.devices import double, to
from repdyn.fields.settings import ENERGY

__all__ = ["Mixture", "fit_mixture"]


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
    x, share = double(points), double(weights)
    means = _seeded(x, share, min(count, len(x)), seed)
    center = share @ x
    scatter = (x - center).T @ ((x - center) * share[:, None])
    floor = ENERGY.covariance_floor * scatter.trace() / x.shape[1]
    ridge = floor * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    for _ in range(ENERGY.lloyd_steps):
        nearest = torch.zeros(len(x), len(means), dtype=x.dtype, device=x.device)
        nearest[torch.arange(len(x), device=x.device), torch.cdist(x, means).argmin(dim=1)] = 1
        found = _maximized(x, share, nearest, ridge)
        means = found.means
    likelihood = -torch.inf
    for _ in range(ENERGY.em_steps):
        last = likelihood
        posterior, likelihood = _expected(x, share, found)
        found = _maximized(x, share, posterior, ridge)
        if likelihood - last < gain:
            break
    return found


def _seeded(x: Tensor, share: Tensor, count: int, seed: int) -> Tensor:
    """First centers ``(count, d)`` by k-means++: in proportion to the squared distance to those before."""
    generator = torch.Generator().manual_seed(seed)
    draws = to(torch.rand(count, generator=generator, dtype=torch.float64), x.device)
    distance = torch.ones(len(x), dtype=x.dtype, device=x.device)
    chosen = []
    for draw in draws:
        mass = torch.cumsum(share * distance, dim=0)
        row = torch.searchsorted(mass, draw * mass[-1]).clamp_max(len(x) - 1)
        chosen.append(row)
        own = (x - x[row]).square().sum(dim=1)
        distance = own if len(chosen) == 1 else torch.minimum(distance, own)
    # Where fewer points are distinct than centers are asked for, points are drawn twice.
    return x[torch.unique(torch.stack(chosen))]


def _expected(x: Tensor, share: Tensor, mixture: Mixture) -> tuple[Tensor, float]:
    """Posteriors ``(M, K)`` of the Gaussians, and the mean log-likelihood of a point."""
    factor = torch.linalg.cholesky(mixture.covariance)
    white, centers = (
        torch.linalg.solve_triangular(factor, rows.T, upper=False).T for rows in (x, mixture.means)
    )
    # ‖z − m‖² without the square of z, which is the same for all Gaussians.
    offset = mixture.weights.log() - 0.5 * centers.square().sum(dim=1)
    logits = torch.addmm(offset, white, centers.T)
    total = torch.logsumexp(logits, dim=1)
    constant = factor.diagonal().log().sum()
    return (logits - total[:, None]).exp(), float(
        share @ (total - 0.5 * white.square().sum(dim=1)) - constant
    )


def _maximized(x: Tensor, share: Tensor, posterior: Tensor, ridge: Tensor) -> Mixture:
    """The mixture of largest expected likelihood, without Gaussians that have lost their points."""
    mass = share @ posterior
    kept = mass > ENERGY.smallest_share / len(x)
    part = posterior[:, kept] * share[:, None]
    means = (part.T @ x) / mass[kept, None]
    weights = mass[kept] / mass[kept].sum()
    second = x.T @ (x * part.sum(dim=1)[:, None]) - (means * mass[kept, None]).T @ means
    return Mixture(means, weights, second / mass[kept].sum() + ridge)
