"""The modes of a bank of latents through all scales of noise: a tree, and the scale that replicates best."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from repdyn.conformity import check_arrays
from repdyn.fields.map import to_index
from repdyn.fields.mean_shift import PosteriorMean, settled
from repdyn.fields.settings import ENERGY
from repdyn.fields.verification import merge_points
from repdyn.reading import as_array
from repdyn.results import Result

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = ["ScaleSpace", "scale_space"]


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
    spacing: float,
    spread: float,
    *,
    sigma: float | None = None,
    seed: int = 0,
) -> ScaleSpace:
    """Follow the modes of a bank through the scales, and compare two halves of the bank at each.

    Parameters
    ----------
    mean
        The map of the bank.
    spacing, spread
        Median distance of the bank's points to the nearest other, and root mean square distance from the
        mean: the scales lie between them.
    sigma
        The scale to use; None: the first maximum of the halves' agreement.
    seed
        Of the sample and the halves.
    """
    generator = np.random.default_rng(seed)
    count = len(mean.bank)
    low = min(max(ENERGY.finest * spacing, 1e-3 * spread), spread / 2)
    sigmas = np.geomspace(low, spread, max(ENERGY.levels, round(np.log(spread / low) / ENERGY.log_step)))
    if sigma is not None:
        sigmas = np.unique(np.append(sigmas, sigma))
    rows = np.sort(generator.permutation(count)[: ENERGY.tree_points])
    modes, groups = _ascend(mean.at, mean.bank[to_index(rows, mean.bank)], sigmas)
    agreement, starts = _replication(mean, sigmas, generator)
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
    weights = as_array(mean.log_weights.exp(), np.float64)[rows]
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


def _ascend(
    at: Callable[[float], PosteriorMean], starts: Tensor, sigmas: NDArray[np.float64]
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
    best, clear = 0, max(ENERGY.clear_fall, starts**-0.5)
    for s, value in enumerate(agreement):
        if value > agreement[best]:
            best = s
        elif value < agreement[best] - clear:
            break
    return best


def _replication(
    mean: PosteriorMean, sigmas: NDArray[np.float64], generator: np.random.Generator
) -> tuple[NDArray[np.float64], int]:
    """Adjusted mutual information of two halves' basins at each scale, ``(S,)``, and the number of starts."""
    from sklearn.metrics import adjusted_mutual_info_score  # slow to import

    held = min(ENERGY.half_starts, len(mean.bank) // 5)
    # Few starts say little: small banks are halved several times.
    repeats = int(np.clip(ENERGY.half_starts // held, 1, ENERGY.halvings))
    agreement = np.zeros(len(sigmas))
    for _ in range(repeats):
        order = generator.permutation(len(mean.bank))
        starts, halves = order[:held], np.array_split(order[held:], 2)
        z = mean.bank[to_index(starts, mean.bank)]
        labels = []
        for half in halves:
            index = to_index(half, mean.bank)
            part = PosteriorMean(mean.bank[index], mean.log_weights[index].exp(), 1.0)
            _, groups = _ascend(part.at, z, sigmas)
            node = groups[0]
            labels.append([node] + [node := group[node] for group in groups[1:]])
        for s, (a, b) in enumerate(zip(*labels)):
            # A single basin on either side shares nothing.
            if min(a.max(), b.max()) > 0:
                agreement[s] += adjusted_mutual_info_score(a, b) / repeats
    return agreement, repeats * held
