"""Distance to the nearest in-distribution neighbours at one point."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from repdyn.errors import RepdynError
from repdyn.ood.chunks import Chunk, read, values
from repdyn.ood.detector import Detector
from repdyn.ood.gaussian import unit

if TYPE_CHECKING:
    from repdyn.ood.modules import NeighboursModule
    from repdyn.paths import RepresentationPaths

__all__ = ["KNNDetector"]

Array = NDArray[np.float64]


class KNNDetector(Detector):
    """Minus the distance of a point's unit vector to its k-th nearest in-distribution neighbour.

    Parameters
    ----------
    k
        Which neighbour.
    point
        The point; the last one unless told.
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

    def fit(self, paths: RepresentationPaths) -> Self:
        """Keep the neighbours; the calibration scores leave each sample out of its own neighbours."""
        if not 1 <= self.k < min(len(paths), self.bank):
            raise RepdynError(f"k: must lie between 1 and one less than the samples kept, got {self.k}")
        self._begin(paths, (self.point or paths.points[-1],))
        kept = np.arange(len(paths))
        if len(paths) > self.bank:
            kept = np.sort(np.random.default_rng(self.seed).permutation(len(paths))[: self.bank])
        self._neighbours = unit(values(paths.subset(kept), self.points_[0]), np.float32)
        # A kept sample's nearest neighbour is itself, so its k-th other one is the (k + 1)-th.
        rank = self.k + np.isin(np.arange(len(paths)), kept)
        scores, start = np.empty(len(paths)), 0
        for batch in read(paths, self.points_, "finding neighbours"):
            x = batch.unit(self.points_[0])
            own = rank[start : start + len(x)]
            for k in np.unique(own):
                scores[start : start + len(x)][own == k] = -_kth_distance(
                    x[own == k], self._neighbours, int(k)
                )
            start += len(x)
        self._calibrate(scores, "cross-fitted")
        return self

    def _score(self, batch: Chunk) -> Array:
        return -_kth_distance(batch.unit(self.points_[0]), self._neighbours, self.k)

    def as_module(self) -> NeighboursModule:
        """The fitted detector as a ``torch.nn.Module``; see :meth:`Detector.as_module`."""
        from repdyn.ood.modules import NeighboursModule  # torch is loaded only for a module

        self._fitted()
        return NeighboursModule(self.points_[0], self._neighbours, self.k, self.threshold_)

    def _state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        return {"k": self.k, "bank": self.bank, "seed": self.seed}, {"neighbours": self._neighbours}

    def _restore(self, config: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> None:
        self.k, self.bank, self.seed = int(config["k"]), int(config["bank"]), int(config["seed"])
        self._neighbours = np.asarray(tensors["neighbours"])


def _kth_distance(x: NDArray[np.float32], bank: NDArray[np.float32], k: int) -> Array:
    """Distance of unit vectors to the k-th nearest row of the bank, ``(n,)``."""
    similarity = x @ bank.T
    similarity.partition(len(bank) - k, axis=1)  # in place: a copy costs a fifth of it
    return np.sqrt(np.maximum(2 - 2 * similarity[:, len(bank) - k].astype(np.float64), 0))
