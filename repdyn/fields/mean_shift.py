"""Mean shift: the map of a noised bank, its modes, and the tree of the modes through all scales of noise.

:class:`PosteriorMean` is the map and its energy. :func:`settled` follows points to the modes.
:class:`ScaleSpace` is the tree, with the scale that replicates best.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from repdyn.conformity import check_arrays
from repdyn.devices import to
from repdyn.fields.iteration import ABSORBED, CONVERGED, picard
from repdyn.fields.map import SelfMap, to_index
from repdyn.fields.settings import ENERGY
from repdyn.fields.verification import merge_points
from repdyn.reading import as_array
from repdyn.results import Result

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = [
    "PosteriorMean",
    "ScaleSpace",
    "Step",
    "ascend",
    "in_blocks",
    "posterior_logits",
    "scale_space",
    "scales_between",
    "settled",
    "spacing_of",
    "spread_of",
]


BLOCK = 2**22
"""Numbers in a block of distances: 16 MiB in float32."""

Step = Callable[[Tensor], Tensor]
"""A map of points ``(N, d)``."""


class PosteriorMean(nn.Module):
    r"""Posterior mean of a point given its noised version, under a bank or a mixture of Gaussians.

    .. math:: f(z) = \sum_i p_i(z) \Big(x_i + \frac{v}{v + \sigma^2} (z - x_i)\Big), \qquad
              p_i(z) \propto w_i \exp\!\Big(-\sum_j \frac{(z_j - x_{ij})^2}{2 (v_j + \sigma^2)}\Big)

    Without variances :math:`v` the prior is the bank itself, and the map is a step of mean shift.

    Parameters
    ----------
    bank
        Points :math:`x_i`, or the Gaussians' means, shape ``(M, d)``.
    weights
        Weights :math:`w_i`, shape ``(M,)``.
    sigma
        Standard deviation of the noise.
    candidates
        Points that a sample is compared with, roughly: those of the cells around its own. None: all points.
    seed
        Of the cells.
    variances
        Variances :math:`v` of all Gaussians along the coordinates, shape ``(d,)``. None: the bank itself.
    """

    bank: Tensor
    log_weights: Tensor
    variances: Tensor | None
    centers: Tensor
    members: Tensor

    def __init__(
        self,
        bank: Tensor,
        weights: Tensor,
        sigma: float,
        candidates: int | None = None,
        seed: int = 0,
        variances: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.sigma = sigma
        self.register_buffer("bank", bank)
        self.register_buffer("log_weights", weights.log())
        self.register_buffer("variances", variances)
        centers, members = cells_of(bank, candidates, seed)
        self.register_buffer("centers", centers)
        self.register_buffer("members", members)

    def at(self, sigma: float) -> PosteriorMean:
        """The same bank under another noise, without a copy of the points."""
        other = PosteriorMean.__new__(PosteriorMean)
        nn.Module.__init__(other)
        other.sigma = sigma
        for name in ("bank", "log_weights", "variances", "centers", "members"):
            other.register_buffer(name, getattr(self, name))
        return other

    def forward(self, z: Tensor) -> Tensor:
        """Images ``(N, d)`` of points ``(N, d)``."""
        means = self._by_cell(z, self._means)
        if self.variances is None:
            return means
        width = self._widths()
        image: Tensor = means * (self.sigma / width).square() + z * (self.variances.sqrt() / width).square()
        return image

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

    def _widths(self) -> Any:
        """Standard deviations of the Gaussians with the noise, ``(d,)``, or one number."""
        if self.variances is None:
            return self.sigma
        # By the quotient, so that no square leaves the number format.
        return self.sigma * (1 + (self.variances.sqrt() / self.sigma).square()).sqrt()

    def _logits(self, z: Tensor, bank: Tensor, log_weights: Tensor) -> Tensor:
        """Logarithms of unnormalized posteriors ``(n, m)``, without the term of ``z`` alone."""
        return posterior_logits(z, bank, log_weights, self._widths())

    def _means(self, z: Tensor, bank: Tensor, log_weights: Tensor) -> Tensor:
        return torch.softmax(self._logits(z, bank, log_weights), dim=1) @ bank

    def _energies(self, z: Tensor, bank: Tensor, log_weights: Tensor) -> Tensor:
        own: Tensor = 0.5 * (z / self._widths()).square().sum(dim=1)
        return self.sigma**2 * (own - torch.logsumexp(self._logits(z, bank, log_weights), dim=1))


def posterior_logits(z: Tensor, bank: Tensor, log_weights: Tensor, width: Any) -> Tensor:
    """Logarithms of unnormalized posteriors ``(n, m)`` of a bank ``(m, d)``, without the term of ``z`` alone.

    Parameters
    ----------
    z
        Points, shape ``(n, d)``.
    bank, log_weights
        Points of the bank, and logarithms of their weights, shape ``(m,)`` or for each point ``(n, m)``.
    width
        Standard deviation of the noise, one number or ``(d,)``.
    """
    # Division comes first, so that no square leaves the number format whatever the units are.
    scaled = bank / width
    offset = log_weights - 0.5 * scaled.square().sum(dim=1)
    return torch.addmm(offset, z / width, scaled.T)


def settled(step: Step, z: Tensor, sigma: float, max_steps: int = ENERGY.max_steps) -> tuple[Tensor, Tensor]:
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

    def follow(rows: Tensor, starts: Tensor) -> Tensor:
        """Follow starts, write where they end, and return which of them converged by themselves."""
        run = picard(
            field,
            starts,
            tolerance=ENERGY.tolerance * sigma,
            max_steps=max_steps,
            center=z.new_zeros(z.shape[1]),
            escape=math.inf,
            max_period=0,
            region_of=close_to if len(known) else None,
        )
        absorbed = run.outcome == ABSORBED
        ends[rows] = run.z
        ends[rows[absorbed]] = known[run.lag[absorbed]]
        steps[rows] += run.steps
        return run.outcome == CONVERGED

    for rows in _rounds(z):
        own = rows[follow(rows, z[rows])]
        # At a saddle the steps are short too. Starts there are moved on, to the side on which they are.
        away, direction = _leaving(step, ends[own], ENERGY.arrival * sigma)
        own, again = own[~away], own[away]
        if len(again):
            own = torch.cat([own, again[follow(again, ends[again] + direction[away])]])
        # A point that still creeps is no mode, and nothing ends there.
        fresh = torch.cat([known, ends[own]])
        leaders = merge_points(as_array(fresh, np.float64), ENERGY.merge_radius * sigma)[0]
        known = fresh[to_index(leaders, fresh)]
    return ends, steps


def _leaving(step: Step, ends: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """Whether the map moves points away from ends of iteration ``(n, d)``: the ends that are saddles.

    Power iteration of displacements of one length; all multipliers are positive, because the map is the
    gradient of a convex function. Returns ``(n,)``, and the displacement of fastest growth, on the side to
    which the end still moves, ``(n, d)``.
    """
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(ends.shape, generator=generator, dtype=torch.float64)
    v = to(radius * torch.nn.functional.normalize(drawn), ends.device, ends.dtype)
    image = step(ends)
    growth = torch.zeros_like(ends[:, 0])
    for _ in range(ENERGY.saddle_steps):
        moved = step(ends + v) - image
        size = moved.norm(dim=1)
        growth = size / radius
        v = moved * (radius / size.clamp_min(torch.finfo(size.dtype).tiny))[:, None]
    side = torch.where(((image - ends) * v).sum(dim=1) < 0, -1.0, 1.0).to(v.dtype)
    return growth > ENERGY.saddle_growth, v * side[:, None]


def _rounds(z: Tensor) -> Iterator[Tensor]:
    """Rows of points in random order, in parts of which each is four times as large as the one before."""
    order = to(torch.randperm(len(z), generator=torch.Generator().manual_seed(0)), z.device)
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
    # A square root of cells: finding the cell then costs as much as searching it.
    count = max(1, min(round(len(bank) ** 0.5), len(bank) // 2))
    generator = torch.Generator().manual_seed(seed)
    centers = bank[to(torch.randperm(len(bank), generator=generator)[:count], bank.device)]
    for _ in range(ENERGY.lloyd_steps):
        cell = in_blocks(bank, centers, lambda x, c: torch.cdist(x, c).argmin(dim=1))
        sums = torch.zeros_like(centers).index_add_(0, cell, bank)
        counts = torch.bincount(cell, minlength=count).to(bank.dtype)[:, None]
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


@dataclass(frozen=True, eq=False)
class ScaleSpace(Result, kind="scale space"):
    r"""Modes of a noised density at each of several scales, as a tree.

    The modes at the finest scale are those that the bank's points reach. At each coarser scale, the modes are
    those that the modes of the scale before reach, so that modes only merge.

    Attributes
    ----------
    sigmas
        Scales, increasing, shape ``(S,)``.
    counts
        Number of modes at each, shape ``(S,)``.
    level
        The scale of each node, an index of ``sigmas``, shape ``(T,)``, increasing.
    parent
        The node that each becomes at the next scale, or -1 at the last, shape ``(T,)``.
    mass
        Share of the points in each node's basin, shape ``(T,)``.
    modes
        The mode of each node, in coordinates of the field, shape ``(T, d)``.
    rows, leaf
        Rows of the bank that were followed, and the node of each at the finest scale, shape ``(n,)`` each.
    agreement
        Adjusted mutual information of the basins under two halves of the bank, for points held out of both,
        shape ``(S,)``; 0 where both have a single basin.
    sigma
        The scale that is used: the one that was given, or the first maximum of ``agreement`` from the fine
        side. Coarser maxima are those of few basins, which agree easily.
    """

    figures: ClassVar = ("sigma", "sigmas", "counts", "agreement")

    sigmas: NDArray[np.float64]
    counts: NDArray[np.int64]
    level: NDArray[np.int64]
    parent: NDArray[np.int64]
    mass: NDArray[np.float64]
    modes: NDArray[np.float64]
    rows: NDArray[np.int64]
    leaf: NDArray[np.int64]
    agreement: NDArray[np.float64]
    sigma: float

    def __post_init__(self) -> None:
        """Check that the arrays agree; a damaged or hand-made result is refused here."""
        check_arrays({name: getattr(self, name) for name in _AXES}, **_AXES)
        nodes = len(self.level)
        if nodes and not -1 <= self.parent.min() <= self.parent.max() < nodes:
            raise ValueError(f"parent holds {self.parent.max()}, with {nodes} nodes")
        if len(self.leaf) and not 0 <= self.leaf.min() <= self.leaf.max() < nodes:
            raise ValueError(f"leaf holds {self.leaf.max()}, with {nodes} nodes")

    def basins(self, sigma: float | None = None) -> NDArray[np.int64]:
        """The node of each followed row at a scale, by default the one that is used, shape ``(n,)``."""
        target = int(np.abs(np.log(self.sigmas / (sigma or self.sigma))).argmin())
        node = self.leaf.copy()
        for _ in range(target):
            node = self.parent[node]
        return node

    def __repr__(self) -> str:
        lines = ["scale      modes  largest  agreement of halves"]
        used = int(np.abs(self.sigmas - self.sigma).argmin())
        spaced = np.linspace(0, len(self.sigmas) - 1, ENERGY.rows_shown).round().astype(int)
        for s in np.unique([*spaced, used]):
            sigma = self.sigmas[s]
            mark = "*" if s == used else " "
            largest = self.mass[self.level == s].max()
            lines.append(
                f"{mark}{sigma:<9.3g} {self.counts[s]:5d}  {largest:7.1%}  {self.agreement[s]:19.3f}"
            )
        return "\n".join(lines)

    def plot(self, names: Sequence[str] | None = None) -> Figure:
        """The tree through the scales.

        Parameters
        ----------
        names
            A name for each node, shape ``(T,)``, such as the text of the nearest input.
        """
        # plotly is slow to import.
        from repdyn.views.scales import scales

        return scales(
            self.sigmas, self.level, self.parent, self.mass, self.sigma, names=names, agreement=self.agreement
        )


_AXES = {
    "sigmas": "S",
    "counts": "S",
    "level": "T",
    "parent": "T",
    "mass": "T",
    "modes": "T d",
    "rows": "n",
    "leaf": "n",
    "agreement": "S",
}


def scale_space(
    mean: PosteriorMean,
    bank: Tensor,
    shares: Tensor,
    part: Callable[[float, Tensor, Tensor], Callable[[float], Step]],
    spacing: float,
    spread: float,
    *,
    sigma: float | None = None,
    seed: int = 0,
) -> ScaleSpace:
    """Follow the points of a bank through the scales, and compare two halves of the bank at each.

    Parameters
    ----------
    mean
        The map of the bank.
    bank, shares
        Its distinct points, shape ``(M, d)``, and their weights, shape ``(M,)``.
    part
        From a share of the bank, its points and their weights: the map of this part at each noise.
    spacing, spread
        Median distance of the bank's points to the nearest other, and root mean square distance from the
        mean: the scales lie between them.
    sigma
        The scale to use; None: the first maximum of the halves' agreement.
    seed
        Of the sample and the halves.
    """
    generator = np.random.default_rng(seed)
    count = len(bank)
    sigmas = scales_between(spacing, spread, sigma)
    rows = np.sort(generator.permutation(count)[: ENERGY.tree_points])
    modes, groups = ascend(mean.at, bank[to_index(rows, bank)], sigmas)
    agreement, starts = _replication(bank, shares, part, sigmas, generator)
    if sigma is None:
        sigma = float(sigmas[_first_maximum(agreement, starts)])
    # Coarser scales than the first with a single mode say nothing more.
    single = np.array([len(m) == 1 for m in modes]) & (agreement <= 0)
    used = int(np.flatnonzero(sigmas == sigma)[0])
    kept = max(used, int(np.argmax(single)) if single.any() else len(sigmas) - 1) + 1
    sigmas, modes, groups = sigmas[:kept], modes[:kept], groups[:kept]
    counts = np.array([len(m) for m in modes], dtype=np.int64)
    level = np.repeat(np.arange(kept), counts)
    first = np.cumsum(counts) - counts
    above = [first[s] + groups[s] for s in range(1, kept)]
    parent = np.concatenate([*above, np.full(counts[-1], -1)]).astype(np.int64)
    weights = as_array(shares, np.float64)[rows]
    mass = np.zeros(len(level))
    np.add.at(mass, groups[0], weights / weights.sum())
    for s in range(kept - 1):
        own = np.flatnonzero(level == s)
        np.add.at(mass, parent[own], mass[own])
    return ScaleSpace(
        sigmas=sigmas,
        counts=counts,
        level=level,
        parent=parent,
        mass=mass,
        modes=np.concatenate(modes),
        rows=rows.astype(np.int64),
        leaf=groups[0],
        agreement=agreement[:kept],
        sigma=float(sigma),
    )


def scales_between(spacing: float, spread: float, sigma: float | None = None) -> NDArray[np.float64]:
    """Scales from below the spacing of a bank to its spread, and a given one, increasing, shape ``(S,)``."""
    if spread == 0 and sigma is not None:  # a single point
        return np.array([sigma])
    low = min(max(ENERGY.finest * spacing, 1e-3 * spread), spread / 2)
    sigmas = np.geomspace(low, spread, max(ENERGY.levels, round(np.log(spread / low) / ENERGY.log_step)))
    return sigmas if sigma is None else np.unique(np.append(sigmas, sigma))


def ascend(
    at: Callable[[float], Step], starts: Tensor, sigmas: NDArray[np.float64]
) -> tuple[list[NDArray[np.float64]], list[NDArray[np.int64]]]:
    """Modes ``(A_s, d)`` at each scale, and which of them each mode of the scale before becomes.

    The first groups are those of the starts ``(n, d)``.
    """
    modes, groups, now = [], [], starts
    for sigma in sigmas:
        ends = settled(at(float(sigma)), now, float(sigma), ENERGY.tree_steps)[0]
        points = as_array(ends, np.float64)
        leaders, group = merge_points(points, ENERGY.merge_radius * float(sigma))
        now = ends[to_index(leaders, ends)]
        modes.append(points[leaders])
        groups.append(group)
    return modes, groups


def _first_maximum(agreement: NDArray[np.float64], starts: int) -> int:
    """Index of the largest value before the first fall that is clear for this number of starts."""
    # A fall below two standard errors of a share over the starts is noise.
    best, clear = 0, max(ENERGY.clear_fall, starts**-0.5)
    for s, value in enumerate(agreement):
        if value > agreement[best]:
            best = s
        elif value < agreement[best] - clear:
            break
    return best


def _replication(
    bank: Tensor,
    shares: Tensor,
    part: Callable[[float, Tensor, Tensor], Callable[[float], Step]],
    sigmas: NDArray[np.float64],
    generator: np.random.Generator,
) -> tuple[NDArray[np.float64], int]:
    """Adjusted mutual information of two halves' basins at each scale, ``(S,)``, and the number of starts."""
    from sklearn.metrics import adjusted_mutual_info_score  # slow to import

    held = min(ENERGY.half_starts, len(bank) // 5)
    # Few starts say little: small banks are halved several times.
    repeats = int(np.clip(ENERGY.half_starts // held, 1, ENERGY.halvings))
    agreement = np.zeros(len(sigmas))
    for _ in range(repeats):
        order = generator.permutation(len(bank))
        starts, halves = order[:held], np.array_split(order[held:], 2)
        z = bank[to_index(starts, bank)]
        labels = []
        for half in halves:
            index = to_index(half, bank)
            at = part(len(half) / len(bank), bank[index], shares[index])
            _, groups = ascend(at, z, sigmas)
            node = groups[0]
            labels.append([node] + [node := group[node] for group in groups[1:]])
        for s, (a, b) in enumerate(zip(*labels)):
            # A single basin on either side shares nothing.
            if min(a.max(), b.max()) > 0:
                agreement[s] += adjusted_mutual_info_score(a, b) / repeats
    return agreement, repeats * held
