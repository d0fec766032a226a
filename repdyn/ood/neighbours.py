"""Distance to the nearest in-distribution neighbours at one point."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from repdyn.conformity import check_arrays, check_values
from repdyn.errors import RepdynError
from repdyn.ood.chunks import HELD, Chunk, Repeated, read
from repdyn.ood.detector import Detector, noted, told_drawn
from repdyn.ood.fitting import directions
from repdyn.paths import nearby

if TYPE_CHECKING:
    from repdyn.ood.crossfit import CrossFit
    from repdyn.ood.modules import NeighboursModule
    from repdyn.paths import RepresentationPaths

__all__ = ["KNNDetector", "kept_groups"]

Array = NDArray[np.float64]

CANCELS = 1e-4  # share of its terms below which a squared distance is not taken in float32, nor below
CANCELS_DOUBLE = 1e-11  # this one by products at all: both leave it three digits


def kept_groups(
    groups: NDArray[np.int64], k: int, bank: int, seed: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """First sample of each group, and which groups stay among the neighbours: at most ``bank``, at random.

    Equal samples are kept once: a copy among the neighbours says nothing of what is usual.

    Raises
    ------
    RepdynError
        If fewer than ``k + 1`` stay.
    """
    first = np.sort(np.unique(groups, return_index=True)[1])
    if not 1 <= k < min(len(first), bank):
        raise RepdynError(
            f"k: must lie between 1 and one less than the {min(len(first), bank)} different samples "
            f"kept, got {k}"
        )
    kept = np.arange(len(first))
    if len(first) > bank:
        kept = np.sort(np.random.default_rng(seed).permutation(len(first))[:bank])
    return first, kept


class KNNDetector(Detector):
    """Minus the distance of a point's unit vector to its k-th nearest in-distribution neighbour.

    Parameters
    ----------
    k
        Which neighbour.
    point
        The point; default: the last one.
    bank
        At most so many fitted samples are kept, drawn at random: memory and time grow with them.
    seed
        Draws the bank.

    References
    ----------
    Sun, Y. et al. (2022). Out-of-distribution detection with deep nearest neighbors. ICML.
    """

    def __init__(self, k: int = 10, point: str | None = None, bank: int = 20_000, seed: int = 0) -> None:
        self.k = k
        self.point = point
        self.bank = bank
        self.seed = seed

    _different: int | None

    def fit(self, paths: RepresentationPaths) -> Self:
        """Keep the neighbours; the calibration scores leave each sample out of its own neighbours."""
        return self.fit_beside(paths, None)

    def fit_beside(self, paths: RepresentationPaths, at_hand: CrossFit | None) -> Self:
        """The same, with what :func:`repdyn.ood.fitting.cross_fit_points` gave at this point, if it did."""
        paths = nearby(paths, HELD)
        self._begin(paths, (self.point or paths.points[-1],))
        point = self.points_[0]
        if at_hand is not None and at_hand.groups is not None and at_hand.lengths is not None:
            groups = at_hand.groups
            self._widen(point, *at_hand.lengths)
        else:
            again = Repeated(paths, self.points_)
            groups = again.equal(directions)[point]
            for _, arrays in again.read("measuring lengths"):
                self._note(point, arrays[point])
        first, kept = kept_groups(groups, self.k, self.bank, self.seed)
        bank = read(paths.subset(first[kept]), self.points_, "keeping neighbours")
        self._keep(np.concatenate([directions(batch[point]) for batch in bank]))
        self._different = len(first)
        # A kept sample's nearest neighbour is itself, so its k-th other one is the (k + 1)-th.
        rank = self.k + np.isin(groups, kept)
        scores, start = np.empty(len(paths)), 0
        for batch in read(paths, self.points_, "finding neighbours"):
            x = batch.unit(point) - self._centre
            own = rank[start : start + len(x)]
            for k in np.unique(own):
                scores[start : start + len(x)][own == k] = -_kth_distance(x[own == k], self._bank, int(k))
            start += len(x)
        self._calibrate(scores, "cross-fitted", groups=groups)
        return self

    def _score(self, batch: Chunk) -> Array:
        return -_kth_distance(batch.unit(self.points_[0]) - self._centre, self._bank, self.k)

    def as_module(self) -> NeighboursModule:
        """The fitted detector as a ``torch.nn.Module``; see :meth:`Detector.as_module`."""
        from repdyn.ood.modules import NeighboursModule  # torch is loaded only for a module

        self._fitted()
        module = NeighboursModule(self.points_[0], self._bank, self._centre, self.k, self.threshold_)
        return module.guarded(self._limits())

    def _state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        config = {"k": self.k, "bank": self.bank, "seed": self.seed, "different": self._different}
        return config, {"neighbours": self._neighbours}

    def _drawn(self) -> list[str]:
        return ["neighbours: " + told_drawn(len(self._neighbours), self._different, self.seed)]

    def _restore(self, config: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> None:
        check_values(config, k=int, bank=int, seed=int)
        kept = check_arrays(tensors, True, neighbours=f"N {self.widths_[self.points_[0]]}")["N"]
        self.k, self.bank, self.seed = int(config["k"]), int(config["bank"]), int(config["seed"])
        self._different = noted(config, "different")
        if not 1 <= self.k <= kept:
            raise ValueError(f"k is {self.k}, with {kept} neighbours kept")
        self._keep(np.asarray(tensors["neighbours"]))

    def _keep(self, neighbours: NDArray[np.floating]) -> None:
        """Keep unit vectors, and their differences from the center, of which products cancel less."""
        self._neighbours = neighbours
        self._centre = np.asarray(neighbours.mean(axis=0, dtype=np.float64))
        self._bank = (neighbours - self._centre).astype(neighbours.dtype, copy=False)


def _kth_distance(x: Array, bank: NDArray[np.floating], k: int) -> Array:
    """Distance of vectors to the k-th nearest row of the bank, ``(n,)``.

    Products in float32 first; rows whose distance is a small part of what it is a difference of are done
    again in float64, and those that are a small part even then by differences.
    """
    squared, scale = _kth_squared(x, bank, k, np.float32)
    again = np.flatnonzero(~(squared > CANCELS * scale))
    if len(again):
        squared[again], scale[again] = _kth_squared(x[again], bank, k, np.float64)
        for row in again[~(squared[again] > CANCELS_DOUBLE * scale[again])]:
            squared[row] = np.partition(((bank - x[row]) ** 2).sum(axis=1), k - 1)[k - 1]
    return np.sqrt(squared)


def _kth_squared(x: Array, bank: NDArray[np.floating], k: int, dtype: DTypeLike) -> tuple[Array, Array]:
    """Squared distance to the k-th nearest, and the size of the terms whose difference it is, ``(n,)``."""
    bank = bank.astype(dtype, copy=False)
    sizes = np.einsum("nd,nd->n", bank, bank)
    own = np.einsum("nd,nd->n", x, x)
    difference = x.astype(dtype, copy=False) @ bank.T
    difference *= -2
    difference += sizes
    difference.partition(k - 1, axis=1)  # in place: a copy costs a fifth of it
    squared = difference[:, k - 1].astype(np.float64) + own
    return np.maximum(squared, 0), own + float(sizes.max())
