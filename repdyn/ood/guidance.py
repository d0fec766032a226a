"""The model's own confidence, guided by nearest neighbours: for models with a head and its logits traced."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from repdyn.conformity import check_arrays, check_values
from repdyn.ood.chunks import Chunk, read
from repdyn.ood.controls import energy
from repdyn.ood.detector import LOGITS, Detector, noted, told_drawn
from repdyn.ood.gaussian import unit
from repdyn.ood.neighbours import kept_groups

if TYPE_CHECKING:
    from repdyn.ood.modules import EnergyModule, GuidedEnergyModule
    from repdyn.paths import RepresentationPaths

__all__ = ["EnergyDetector", "GuidedEnergyDetector"]

Array = NDArray[np.float64]


class GuidedEnergyDetector(Detector):
    r"""Energy of the logits times the energy-weighted similarity to the nearest fitted samples (NNGuide).

    .. math:: \text{score}(x) = E(x) \cdot \tfrac1k \sum_{i \in \text{NN}_k(x)} E(x_i)\, \cos(h(x), h(x_i))

    with :math:`E` the log-sum-exp of the logits, h one point of the path, and neighbours ranked by the
    weighted similarity itself. Confidence alone is high far from the data; similarity alone knows nothing
    of the classes.

    Parameters
    ----------
    k
        Number of neighbours.
    point
        The point; default: the last one.
    bank
        At most so many fitted samples are kept, drawn at random: memory and time grow with them.
    seed
        Draws the bank.

    References
    ----------
    Park, J., Jung, Y. G. & Teoh, A. B. J. (2023). Nearest neighbor guidance for out-of-distribution
    detection. ICCV, equations 3 to 5.
    """

    def __init__(self, k: int = 10, point: str | None = None, bank: int = 20_000, seed: int = 0) -> None:
        self.k = k
        self.point = point
        self.bank = bank
        self.seed = seed

    _different: int | None

    def fit(self, paths: RepresentationPaths) -> Self:
        """Keep the neighbours; the calibration scores leave each sample out of its own neighbours.

        Raises
        ------
        RepdynError
            If the paths have no logits, or ``k`` is not below the number of samples.
        """
        self._begin(paths, (self.point or paths.points[-1], LOGITS))
        groups = self._groups(paths)
        first, kept = kept_groups(groups, self.k, self.bank, self.seed)
        self._weighted = np.concatenate(
            [
                unit(batch[self.points_[0]], np.float32) * energy(batch[LOGITS])[:, None].astype(np.float32)
                for batch in read(paths.subset(first[kept]), self.points_, "keeping neighbours")
            ]
        )
        self._different = len(first)
        slot_of_group = np.full(len(first), -1)
        slot_of_group[kept] = np.arange(len(kept))
        slot = slot_of_group[groups]
        scores, start = [], 0
        for batch in read(paths, self.points_, "finding neighbours"):
            size = len(batch[LOGITS])
            for point in self.points_:
                self._note(point, batch[point])
            scores.append(self._guided(batch, slot[start : start + size]))
            start += size
        self._calibrate(np.concatenate(scores), "cross-fitted", groups=groups)
        return self

    def as_module(self) -> GuidedEnergyModule:
        """The fitted detector as a ``torch.nn.Module``, which also takes ``"logits"``."""
        from repdyn.ood.modules import GuidedEnergyModule  # torch is loaded only for a module

        self._fitted()
        module = GuidedEnergyModule(self.points_[0], self._weighted, self.k, self.threshold_)
        return module.guarded(self._limits())

    def _score(self, batch: Chunk) -> Array:
        return self._guided(batch, None)

    def _guided(self, batch: Chunk, itself: NDArray[np.integer] | None) -> Array:
        similarity = batch.unit(self.points_[0]).astype(np.float32) @ self._weighted.T
        if itself is not None:
            rows = np.flatnonzero(itself >= 0)
            similarity[rows, itself[rows]] = -np.inf
        similarity.partition(similarity.shape[1] - self.k, axis=1)
        guidance: Array = similarity[:, -self.k :].mean(axis=1, dtype=np.float64)
        return energy(batch[LOGITS]) * guidance

    def _state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        config = {"k": self.k, "bank": self.bank, "seed": self.seed, "different": self._different}
        return config, {"weighted": self._weighted}

    def _drawn(self) -> list[str]:
        return ["neighbours: " + told_drawn(len(self._weighted), self._different, self.seed)]

    def _restore(self, config: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> None:
        check_values(config, k=int, bank=int, seed=int)
        kept = check_arrays(tensors, True, weighted=f"N {self.widths_[self.points_[0]]}")["N"]
        self.k, self.bank, self.seed = int(config["k"]), int(config["bank"]), int(config["seed"])
        self._different = noted(config, "different")
        if not 1 <= self.k <= kept:
            raise ValueError(f"k is {self.k}, with {kept} neighbours kept")
        self._weighted = np.asarray(tensors["weighted"])


class EnergyDetector(Detector):
    """Log-sum-exp of the traced logits alone, see :func:`repdyn.ood.energy`.

    Nothing is learned but the threshold. A head that was fitted on these very samples is surer of them than
    of others: :meth:`calibrate` with held-out paths before the threshold or a p-value is used.

    References
    ----------
    Liu, W. et al. (2020). Energy-based out-of-distribution detection. NeurIPS.
    """

    def fit(self, paths: RepresentationPaths) -> Self:
        """Take the paths' energies as calibration scores."""
        self._begin(paths, (LOGITS,))
        for batch in read(paths, self.points_, "reading logits"):
            self._note(LOGITS, batch[LOGITS])
        self._calibrate(self._collect(paths, self._score), "cross-fitted", groups=self._groups(paths))
        return self

    def as_module(self) -> EnergyModule:
        """The fitted detector as a ``torch.nn.Module``, which takes ``"logits"``."""
        from repdyn.ood.modules import EnergyModule  # torch is loaded only for a module

        self._fitted()
        return EnergyModule(self.threshold_).guarded(self._limits())

    def _score(self, batch: Mapping[str, NDArray[Any]]) -> Array:
        return energy(batch[LOGITS])

    def _state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        return {}, {}

    def _restore(self, config: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> None:
        """There is nothing beyond what every detector keeps."""
