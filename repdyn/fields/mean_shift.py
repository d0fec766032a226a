"""Mean shift: the map of a noised bank, and where plain iteration of it leads.

:class:`PosteriorMean` is the map and its energy. :func:`settled` follows points to the modes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from repdyn.fields.iteration import ABSORBED, CONVERGED, picard
from repdyn.fields.map import SelfMap, to_index
from repdyn.fields.settings import ENERGY
from repdyn.fields.verification import merge_points
from repdyn.reading import as_array

__all__ = ["PosteriorMean", "in_blocks", "settled", "spacing_of", "spread_of"]

BLOCK = 2**22
"""Numbers in a block of distances: 16 MiB in float32."""


class PosteriorMean(nn.Module):
    r"""Mean of the bank's points given their noised version.

    .. math:: f(z) = \sum_i p_i(z)\, x_i, \qquad
              p_i(z) \propto w_i \exp\!\Big(-\frac{\lVert z - x_i \rVert^2}{2 \sigma^2}\Big)

    Parameters
    ----------
    bank
        Points :math:`x_i`, shape ``(M, d)``.
    weights
        Weights :math:`w_i`, shape ``(M,)``.
    sigma
        Standard deviation of the noise.
    candidates
        Points that a sample is compared with, roughly: those of the cells around its own. None: all points.
    seed
        Of the cells.
    """

    bank: Tensor
    log_weights: Tensor
    centers: Tensor
    members: Tensor

    def __init__(
        self, bank: Tensor, weights: Tensor, sigma: float, candidates: int | None = None, seed: int = 0
    ) -> None:
        super().__init__()
        self.sigma = sigma
        self.register_buffer("bank", bank)
        self.register_buffer("log_weights", weights.log())
        centers, members = cells_of(bank, candidates, seed)
        self.register_buffer("centers", centers)
        self.register_buffer("members", members)

    def at(self, sigma: float) -> PosteriorMean:
        """The same bank under another noise, without a copy of the points."""
        other = PosteriorMean.__new__(PosteriorMean)
        nn.Module.__init__(other)
        other.sigma = sigma
        for name, tensor in self.named_buffers():
            other.register_buffer(name, tensor)
        return other

    def forward(self, z: Tensor) -> Tensor:
        """Images ``(N, d)`` of points ``(N, d)``."""
        return self._by_cell(z, self._means)

    def energy(self, z: Tensor) -> Tensor:
        """The energy at points ``(N, d)``, shape ``(N,)``; see :class:`repdyn.fields.EnergyField`."""
        return self._by_cell(z, self._energies)

    def _by_cell(self, z: Tensor, evaluate: Callable[..., Tensor]) -> Tensor:
        """Values of a function of points, bank and weights, which sees the bank's part beside the points."""
        if not len(self.centers) or not len(z):
            return in_blocks(z, self.bank, partial(evaluate, log_weights=self.log_weights))
        cell = in_blocks(z, self.centers, lambda x, c: torch.cdist(x, c).argmin(dim=1))
        order = torch.argsort(cell, stable=True)
        values, first = [], 0
        for number, count in zip(*(part.tolist() for part in torch.unique(cell, return_counts=True))):
            beside, rows = self.members[number], order[first : first + count]
            near = partial(evaluate, log_weights=self.log_weights[beside])
            values.append(in_blocks(z[rows], self.bank[beside], near))
            first += count
        return torch.cat(values)[torch.argsort(order)]

    def _logits(self, z: Tensor, bank: Tensor, log_weights: Tensor) -> Tensor:
        """Logarithms of unnormalized posteriors ``(n, m)``, without the term of ``z`` alone."""
        # Division comes first, so that no square leaves the number format whatever the units are.
        scaled = bank / self.sigma
        offset = log_weights - 0.5 * scaled.square().sum(dim=1)
        return torch.addmm(offset, z / self.sigma, scaled.T)

    def _means(self, z: Tensor, bank: Tensor, log_weights: Tensor) -> Tensor:
        return torch.softmax(self._logits(z, bank, log_weights), dim=1) @ bank

    def _energies(self, z: Tensor, bank: Tensor, log_weights: Tensor) -> Tensor:
        own = 0.5 * (z / self.sigma).square().sum(dim=1)
        return self.sigma**2 * (own - torch.logsumexp(self._logits(z, bank, log_weights), dim=1))


def settled(
    step: Callable[[Tensor], Tensor], z: Tensor, sigma: float, max_steps: int = ENERGY.max_steps
) -> tuple[Tensor, Tensor]:
    """Modes ``(N, d)`` that points ``(N, d)`` reach, and their numbers of steps ``(N,)``.

    Parameters
    ----------
    step
        The map.
    z
        Points, on the device of the bank.
    sigma
        Its noise, to which tolerances are relative.
    max_steps
        Largest number of steps.

    Notes
    -----
    Points are followed in growing rounds. A point that comes close to a mode of an earlier round is finished.
    """
    field = SelfMap(step)
    ends = z.clone()
    steps = torch.zeros(len(z), dtype=torch.long, device=z.device)
    known = z[:0]

    def close_to(points: Tensor) -> Tensor:
        """The known mode beside each point, or -1."""
        distance, index = torch.cdist(points, known).min(dim=1)
        return torch.where(distance <= ENERGY.arrival * sigma, index, torch.full_like(index, -1))

    for rows in _rounds(z):
        run = picard(
            field,
            z[rows],
            tolerance=ENERGY.tolerance * sigma,
            max_steps=max_steps,
            center=z.new_zeros(z.shape[1]),
            escape=math.inf,
            max_period=0,
            region_of=close_to if len(known) else None,
        )
        own = run.outcome != ABSORBED
        ends[rows] = torch.where(own[:, None], run.z, known[run.lag] if len(known) else run.z)
        steps[rows] = run.steps
        # A point that still creeps is no mode, and nothing ends there.
        fresh = torch.cat([known, run.z[run.outcome == CONVERGED]])
        leaders = merge_points(as_array(fresh, np.float64), ENERGY.merge_radius * sigma)[0]
        known = fresh[to_index(leaders, fresh)]
    return ends, steps


def _rounds(z: Tensor) -> Iterator[Tensor]:
    """Rows of points in random order, in parts of which each is four times as large as the one before."""
    order = torch.randperm(len(z), generator=torch.Generator().manual_seed(0)).to(z.device)
    first, size = 0, ENERGY.first_round
    while first < len(z):
        # A small rest joins the last round.
        last = first + size if len(z) - first >= 2 * size else len(z)
        yield order[first:last]
        first, size = last, 4 * size


def in_blocks(z: Tensor, bank: Tensor, evaluate: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Values of a function of points ``(N, d)`` and a bank ``(M, d)``, in blocks of points."""
    rows = max(1, BLOCK // max(1, len(bank)))
    return torch.cat([evaluate(z[i : i + rows], bank) for i in range(0, max(1, len(z)), rows)])


def cells_of(bank: Tensor, candidates: int | None, seed: int) -> tuple[Tensor, Tensor]:
    """Centers ``(C, d)`` of cells, and for each the points of the bank around it ``(C, candidates)``.

    No cells where all points are candidates.
    """
    if candidates is None or candidates >= len(bank):
        return bank[:0], torch.zeros((0, 0), dtype=torch.long, device=bank.device)
    count = max(1, min(round(len(bank) ** 0.5), len(bank) // 2))
    generator = torch.Generator().manual_seed(seed)
    centers = bank[torch.randperm(len(bank), generator=generator)[:count].to(bank.device)]
    for _ in range(ENERGY.lloyd_steps):
        cell = in_blocks(bank, centers, lambda x, c: torch.cdist(x, c).argmin(dim=1))
        sums = torch.zeros_like(centers).index_add_(0, cell, bank)
        counts = torch.bincount(cell, minlength=count).to(bank)[:, None]
        centers = torch.where(counts > 0, sums / counts.clamp_min(1), centers)
    nearest = in_blocks(
        centers, bank, lambda c, x: torch.cdist(c, x).topk(candidates, largest=False, sorted=False).indices
    )
    return centers, nearest


def spacing_of(bank: Tensor, seed: int) -> float:
    """Median distance of distinct points ``(M, d)`` to the nearest other; 0 for a single point."""
    if len(bank) < 2:
        return 0.0
    sample = np.random.default_rng(seed).permutation(len(bank))[: ENERGY.sampled_spacing]
    points = bank[to_index(sample, bank)]
    # By differences: a matrix product loses the small distances.
    exact = "donot_use_mm_for_euclid_dist"
    nearest = in_blocks(
        points, bank, lambda x, b: torch.cdist(x, b, compute_mode=exact).topk(2, largest=False).values[:, 1]
    )
    return float(nearest.median())


def spread_of(bank: Tensor, weights: Tensor) -> float:
    """Root mean square distance of weighted points ``(M, d)`` from their mean."""
    center = weights @ bank
    return float((weights @ (bank - center).square().sum(dim=1)).sqrt())
