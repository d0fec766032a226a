"""Detectors that keep fitted samples, and the energy of the logits, plain and guided by neighbors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray
from scipy.special import logsumexp

from repdyn.arguments import whole
from repdyn.conformity import check_arrays, check_values
from repdyn.errors import RepdynError
from repdyn.ood.crossfit import PathStatistics, directions
from repdyn.ood.detector import Detector, sample_note
from repdyn.ood.gaussian import unit
from repdyn.ood.path_chunks import LOGITS, Chunk, MultiPassReader, read_chunks
from repdyn.ood.records import optional_count
from repdyn.ood.settings import FIT
from repdyn.reading import as_array

if TYPE_CHECKING:
    from repdyn.ood.modules import EnergyModule, GuidedEnergyModule, NeighborsModule
    from repdyn.paths import RepresentationPaths

__all__ = ["EnergyDetector", "GuidedEnergyDetector", "KNNDetector", "energy"]

Array = NDArray[np.float64]


class KNNDetector(Detector):
    """Minus the distance of a point's unit vector to its k-th nearest in-distribution neighbor.

    Parameters
    ----------
    k
        Rank of the neighbor.
    point
        The point. Default: the last one.
    bank
        Largest number of fitted samples that is kept, drawn at random: memory and time grow with it.
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

    _distinct: int | None

    def fit_paths(self, paths: RepresentationPaths) -> Self:
        """Keep the neighbors; the calibration scores exclude each sample from its own neighbors."""
        return self.fit_statistics(PathStatistics(paths, self.seed))

    def fit_statistics(self, statistics: PathStatistics) -> Self:
        """:meth:`fit`, with the groups of equal samples from statistics that were computed at the point."""
        paths = statistics.paths
        self._begin(paths, (self.point or paths.points[-1],))
        point = self.points_[0]
        known = statistics.known(point)
        if known is not None and known.groups is not None and known.lengths is not None:
            groups = known.groups
            self._widen_lengths(point, *known.lengths)
        else:
            reader = MultiPassReader(paths, self.points_)
            groups = reader.equal(directions)[point]
            for _, arrays in reader.read("measuring norms"):
                self._record_lengths(point, arrays[point])
        first, kept = _draw_bank(groups, self.k, self.bank, self.seed)
        chunks = read_chunks(paths.subset(first[kept]), self.points_, "keeping neighbors")
        self._keep(np.concatenate([directions(chunk[point]) for chunk in chunks]))
        self._distinct = len(first)
        # A kept sample's nearest neighbor is itself, so its k-th other one is the (k + 1)-th.
        rank = self.k + np.isin(groups, kept)
        scores, start = np.empty(len(paths)), 0
        for chunk in read_chunks(paths, self.points_, "finding neighbors"):
            x = chunk.unit(point) - self._center
            own = rank[start : start + len(x)]
            for k in np.unique(own):
                scores[start : start + len(x)][own == k] = -_kth_distance(x[own == k], self._bank, int(k))
            start += len(x)
        self._calibrate(scores, "cross-fitted", groups=groups)
        return self

    def score_chunk(self, chunk: Chunk) -> Array:
        """Minus the distance to the k-th neighbor, ``(n,)``."""
        return -_kth_distance(chunk.unit(self.points_[0]) - self._center, self._bank, self.k)

    def as_module(self) -> NeighborsModule:
        """The fitted detector as a ``torch.nn.Module``; see :meth:`Detector.as_module`."""
        from repdyn.ood.modules import NeighborsModule  # loads torch

        self.check_fitted()
        module = NeighborsModule(self.points_[0], self._bank, self._center, self.k, self.threshold_)
        return module.guarded(self._all_limits())

    @property
    def neighbors_(self) -> NDArray[np.floating]:
        """The kept unit vectors, ``(M, D)``."""
        return self._neighbors

    def _state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        config = {"k": self.k, "bank": self.bank, "seed": self.seed, "different": self._distinct}
        return config, {"neighbours": self._neighbors}

    def sampling_notes(self) -> list[str]:
        """How many samples are kept, of how many distinct ones."""
        return ["neighbors: " + sample_note(len(self._neighbors), self._distinct, self.seed)]

    def _restore(self, config: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> None:
        check_values(config, k=int, bank=int, seed=int)
        kept = check_arrays(tensors, True, neighbours=f"N {self.widths_[self.points_[0]]}")["N"]
        self.k, self.bank, self.seed = int(config["k"]), int(config["bank"]), int(config["seed"])
        self._distinct = optional_count(config, "different")
        if not 1 <= self.k <= kept:
            raise ValueError(f"k is {self.k}, with {kept} neighbors kept")
        self._keep(np.asarray(tensors["neighbours"]))

    def _keep(self, neighbors: NDArray[np.floating]) -> None:
        """Store unit vectors ``(M, D)``, and their differences from the center, which cancel less."""
        self._neighbors = neighbors
        self._center = np.asarray(neighbors.mean(axis=0, dtype=np.float64))
        self._bank = (neighbors - self._center).astype(neighbors.dtype, copy=False)


class GuidedEnergyDetector(Detector):
    r"""Energy of the logits times the energy-weighted similarity to the nearest fitted samples (NNGuide).

    .. math:: \text{score}(x) = E(x) \cdot \tfrac1k \sum_{i \in \text{NN}_k(x)} E(x_i)\, \cos(h(x), h(x_i))

    with :math:`E` the log-sum-exp of the logits, h one point of the path, and neighbors ranked by the
    weighted similarity itself. Energy alone is high far from the data; similarity alone does not depend on
    the classes.

    Parameters
    ----------
    k
        Number of neighbors.
    point
        The point. Default: the last one.
    bank
        Largest number of fitted samples that is kept, drawn at random: memory and time grow with it.
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

    _distinct: int | None

    def fit_paths(self, paths: RepresentationPaths) -> Self:
        """Keep the neighbors; the calibration scores exclude each sample from its own neighbors.

        Raises
        ------
        RepdynError
            If the paths have no logits, or ``k`` is not below the number of samples.
        """
        self._begin(paths, (self.point or paths.points[-1], LOGITS))
        groups = self._groups(paths)
        first, kept = _draw_bank(groups, self.k, self.bank, self.seed)
        self._weighted = np.concatenate(
            [
                unit(chunk[self.points_[0]], np.float32) * energy(chunk[LOGITS])[:, None].astype(np.float32)
                for chunk in read_chunks(paths.subset(first[kept]), self.points_, "keeping neighbors")
            ]
        )
        self._distinct = len(first)
        slot_of_group = np.full(len(first), -1)
        slot_of_group[kept] = np.arange(len(kept))
        slot = slot_of_group[groups]
        scores, start = [], 0
        for chunk in read_chunks(paths, self.points_, "finding neighbors"):
            size = len(chunk[LOGITS])
            for point in self.points_:
                self._record_lengths(point, chunk[point])
            scores.append(self._guided(chunk, slot[start : start + size]))
            start += size
        self._calibrate(np.concatenate(scores), "cross-fitted", groups=groups)
        return self

    def point_of_matrix(self) -> str:
        """An error: the logits are needed too."""
        raise RepdynError(
            "fit: GuidedEnergyDetector reads vectors and logits, a matrix holds one of them; give paths with "
            "logits, or {'x': (N, D), 'logits': (N, C)}"
        )

    def as_module(self) -> GuidedEnergyModule:
        """The fitted detector as a ``torch.nn.Module``, which also takes ``"logits"``."""
        from repdyn.ood.modules import GuidedEnergyModule  # loads torch

        self.check_fitted()
        module = GuidedEnergyModule(self.points_[0], self._weighted, self.k, self.threshold_)
        return module.guarded(self._all_limits())

    def score_chunk(self, chunk: Chunk) -> Array:
        """Guided energy, ``(n,)``."""
        return self._guided(chunk, None)

    def _guided(self, chunk: Chunk, excluded: NDArray[np.integer] | None) -> Array:
        """Guided energy ``(n,)``, without the kept sample of number ``excluded`` ``(n,)`` for each row."""
        similarity = chunk.unit(self.points_[0]).astype(np.float32) @ self._weighted.T
        if excluded is not None:
            rows = np.flatnonzero(excluded >= 0)
            similarity[rows, excluded[rows]] = -np.inf
        similarity.partition(similarity.shape[1] - self.k, axis=1)
        guidance: Array = similarity[:, -self.k :].mean(axis=1, dtype=np.float64)
        return energy(chunk[LOGITS]) * guidance

    def _state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        config = {"k": self.k, "bank": self.bank, "seed": self.seed, "different": self._distinct}
        return config, {"weighted": self._weighted}

    def sampling_notes(self) -> list[str]:
        """How many samples are kept, of how many distinct ones."""
        return ["neighbors: " + sample_note(len(self._weighted), self._distinct, self.seed)]

    def _restore(self, config: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> None:
        check_values(config, k=int, bank=int, seed=int)
        kept = check_arrays(tensors, True, weighted=f"N {self.widths_[self.points_[0]]}")["N"]
        self.k, self.bank, self.seed = int(config["k"]), int(config["bank"]), int(config["seed"])
        self._distinct = optional_count(config, "different")
        if not 1 <= self.k <= kept:
            raise ValueError(f"k is {self.k}, with {kept} neighbors kept")
        self._weighted = np.asarray(tensors["weighted"])


class EnergyDetector(Detector):
    """Log-sum-exp of the traced logits alone, see :func:`repdyn.ood.energy`.

    Only the threshold is fitted. A head that was trained on the fitted samples is more confident on them
    than on others: call :meth:`calibrate` with held-out paths before the threshold or a p-value is used.

    References
    ----------
    Liu, W. et al. (2020). Energy-based out-of-distribution detection. NeurIPS.
    """

    def fit_paths(self, paths: RepresentationPaths) -> Self:
        """Take the paths' energies as calibration scores."""
        self._begin(paths, (LOGITS,))
        for chunk in read_chunks(paths, self.points_, "reading logits"):
            self._record_lengths(LOGITS, chunk[LOGITS])
        scores = self._score_paths(paths, self.score_chunk)
        self._calibrate(scores, "cross-fitted", groups=self._groups(paths))
        return self

    def point_of_matrix(self) -> str:
        """The logits."""
        return LOGITS

    def as_module(self) -> EnergyModule:
        """The fitted detector as a ``torch.nn.Module``, which takes ``"logits"``."""
        from repdyn.ood.modules import EnergyModule  # loads torch

        self.check_fitted()
        return EnergyModule(self.threshold_).guarded(self._all_limits())

    def score_chunk(self, chunk: Chunk) -> Array:
        """Energy, ``(n,)``."""
        return energy(chunk[LOGITS])

    def _state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        return {}, {}

    def _restore(self, config: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> None:
        """Nothing is saved beyond the state of every detector."""


def energy(logits: ArrayLike) -> Array:
    """Log-sum-exp of the logits, ``(N, C) -> (N,)``: minus the free energy, higher is more normal.

    A logit of minus infinity is a class that cannot be. With NaN or plus infinity the energy is minus
    infinity, which every threshold flags.

    References
    ----------
    Liu, W. et al. (2020). Energy-based out-of-distribution detection. NeurIPS.
    """
    values = as_array(logits, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] == 0:
        raise RepdynError(f"energy: logits must have shape (N, classes), got {values.shape}")
    broken = (np.isnan(values) | (values == np.inf)).any(axis=1)
    return np.asarray(np.where(broken, -np.inf, logsumexp(np.where(broken[:, None], 0.0, values), axis=1)))


def _draw_bank(
    groups: NDArray[np.int64], k: int, bank: int, seed: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """First sample of each group, and the groups that are kept as neighbors: at most ``bank``, at random.

    Equal samples are kept once; duplicates among the neighbors would shrink the distance to the k-th one.

    Raises
    ------
    RepdynError
        If fewer than ``k + 1`` stay.
    """
    first = np.sort(np.unique(groups, return_index=True)[1])
    k, bank = whole("k", k), whole("bank", bank)
    if not 1 <= k < min(len(first), bank):
        raise RepdynError(
            f"k: must lie between 1 and one less than the {min(len(first), bank)} different samples "
            f"kept, got {k}"
        )
    kept = np.arange(len(first))
    if len(first) > bank:
        kept = np.sort(np.random.default_rng(seed).permutation(len(first))[:bank])
    return first, kept


def _kth_distance(x: Array, bank: NDArray[np.floating], k: int) -> Array:
    """Distance of vectors ``(n, D)`` to the k-th nearest row of the bank ``(M, D)``, ``(n,)``.

    Products in float32 come first. Rows whose squared distance is small against the terms it is the
    difference of are computed again in float64, and those still small from differences.
    """
    squared, scale = _kth_squared(x, bank, k, np.float32)
    again = np.flatnonzero(~(squared > FIT.cancellation * scale))
    if len(again):
        squared[again], scale[again] = _kth_squared(x[again], bank, k, np.float64)
        for row in again[~(squared[again] > FIT.cancellation_float64 * scale[again])]:
            squared[row] = np.partition(((bank - x[row]) ** 2).sum(axis=1), k - 1)[k - 1]
    return np.sqrt(squared)


def _kth_squared(x: Array, bank: NDArray[np.floating], k: int, dtype: DTypeLike) -> tuple[Array, Array]:
    """Squared distance to the k-th nearest row, and the size of the terms it is computed from, ``(n,)``."""
    bank = bank.astype(dtype, copy=False)
    sizes = np.einsum("nd,nd->n", bank, bank)
    own = np.einsum("nd,nd->n", x, x)
    difference = x.astype(dtype, copy=False) @ bank.T
    difference *= -2
    difference += sizes
    difference.partition(k - 1, axis=1)  # in place: a copy costs a fifth of the partition
    squared = difference[:, k - 1].astype(np.float64) + own
    return np.maximum(squared, 0), own + float(sizes.max())
