"""The modes of a noised density as a level-set tree, whose height is the scale."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from repdyn.fields.energy import EnergyField, mixture_in_axes
from repdyn.fields.mean_shift import PosteriorMean, ascend, scales_between, spacing_of, spread_of
from repdyn.reading import as_array
from repdyn.topology import LevelSetTree
from repdyn.topology.merge_tree import Merging

__all__ = ["mode_tree", "tree_of_mixture"]

Floats = NDArray[np.float64]
Index = NDArray[np.int64]


def mode_tree(field: EnergyField, x: Any) -> LevelSetTree:
    r"""Tree of the modes that points reach, through the scales; its leaves are those at the field's noise.

    .. math:: \text{height} = -\log \sigma

    As the noise grows, modes merge. Of modes that merge, the one with most points lives on, and the others
    end there. The persistence of a leaf is thus the logarithm of the factor by which the noise may grow
    before its mode is lost. With this tree, modes are the nodes of whatever takes a tree:
    :func:`repdyn.translation.match_trees`, :func:`repdyn.topology.merge_tree_distance`,
    :func:`repdyn.topology.node_attributes`.

    Parameters
    ----------
    field
        A fitted field.
    x
        Latents, an array or tensor of shape ``(N, D)``, such as the bank's.

    Returns
    -------
    LevelSetTree
        ``density`` is the logarithm of the noised density at the field's noise, up to a constant.
        ``prune`` and ``simplify`` give the modes at other scales.

    Raises
    ------
    RepdynError
        If the field is not fitted, or ``x`` has another width.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(300, 2)) + 9 * np.repeat(np.eye(3)[:, :2], 100, axis=0)
    >>> len(mode_tree(EnergyField(2.0).fit(x), x).leaves)
    3

    References
    ----------
    Leung, Y., Zhang, J.-S. and Xu, Z.-B. (2000). Clustering by scale-space filtering. IEEE Transactions on
    Pattern Analysis and Machine Intelligence 22(12).
    """
    z = field.encode(x)
    assert isinstance(field.step, PosteriorMean)
    return _tree(field.step, z, field.sigma_, field.spacing_, field.spread_)


def tree_of_mixture(x: NDArray[np.floating], atoms: int, seed: int) -> LevelSetTree:
    """The same of a mixture with so many atoms, fitted to points ``(N, d)``, without a choice of the noise.

    Its leaves are the modes at the spacing of the points; ``prune`` and ``cut`` give those at other scales.
    """
    points = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))
    weights = torch.full((len(points),), 1 / len(points))
    spacing, spread = spacing_of(points, seed), spread_of(points, weights)
    atoms_at, own, variances, turn = mixture_in_axes(points, weights, atoms, seed)
    # Where half of the points are repeated their spacing is 0.
    sigma = max(spacing, 1e-3 * spread)
    mean = PosteriorMean(atoms_at, own, sigma, variances=variances)
    return _tree(mean, points @ turn, sigma, spacing, spread)


def _tree(mean: PosteriorMean, z: Tensor, sigma: float, spacing: float, spread: float) -> LevelSetTree:
    """Tree of the modes that coordinates ``(N, d)`` reach, its leaves those at a noise."""
    sigmas = scales_between(spacing, spread, sigma)
    groups = ascend(mean.at, z, sigmas)[1]
    with torch.no_grad():
        density = -as_array(mean.energy(z), np.float64) / sigma**2
    merging = _merging(groups, sigmas, density)
    # Modes that end at this noise itself have just merged.
    persistence = float(np.nextafter(np.log(sigma) - np.log(sigmas[0]), np.inf))
    return LevelSetTree.from_merging(merging, as_array(z), density, persistence, "-log noise")


def _merging(groups: list[Index], sigmas: Floats, density: Floats) -> Merging:
    """Which modes of the finest scale live on, and at which scale each of the others joins one.

    Parameters
    ----------
    groups
        Mode of each point at the first scale, ``(N,)``; then for each mode of a scale that of the next one.
    sigmas, density
        Scales ``(S,)``, and log-density at each point ``(N,)``.
    """
    mass = np.bincount(groups[0])
    count = len(mass)
    elder = np.full(count, -1, dtype=np.int64)
    ended = np.full(count, len(sigmas) - 1, dtype=np.int64)
    # For each mode of the present scale, the mode of the finest scale that lives on in it. Those of the last
    # scale all join the largest of them.
    alive = np.arange(count)
    joins = [*enumerate(groups[1:], 1), (len(sigmas) - 1, np.zeros(len(np.unique(groups[-1])), np.int64))]
    for scale, group in joins:
        order = np.lexsort((np.arange(len(alive)), -mass, group))
        first = np.r_[True, np.diff(group[order]) > 0]
        oldest = alive[order[first]]
        joined = alive != oldest[group]
        elder[alive[joined]], ended[alive[joined]] = oldest[group[joined]], scale
        mass, alive = np.bincount(group, mass), oldest
    elder[alive[0]] = -1
    # Peaks are numbered from the one that lives longest, so that elders come first.
    last = np.where(elder < 0, len(sigmas), ended)
    order = np.lexsort((np.arange(count), -last))
    number = np.argsort(order)
    elder = np.where(elder[order] < 0, -1, number[elder[order]])
    basin = number[groups[0]]
    highest = np.lexsort((-density, basin))
    peak = highest[np.r_[True, np.diff(basin[highest]) > 0]]
    heights = -np.log(sigmas)
    # Joins in the order of their scales. Their numbers stay below that of the points: none is a bridge.
    position = np.unique(ended[order], return_inverse=True)[1]
    return Merging(
        peak=peak,
        birth=np.full(count, heights[0]),
        death=heights[ended[order]],
        elder=elder,
        across_saddle=elder,
        order=np.where(elder < 0, -1, position),
        basin=basin,
    )
