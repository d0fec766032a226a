"""How a point moves under the energy field of in-distribution points, at several noises."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from repdyn.conformity import check_arrays, check_values
from repdyn.errors import RepdynError
from repdyn.ood.crossfit import bank_rows, cross_fit
from repdyn.ood.detector import Detector, sample_note
from repdyn.ood.gaussian import ShrunkGaussian, fit_gaussian
from repdyn.ood.path_chunks import Chunk, read_chunks
from repdyn.ood.settings import ENERGY_TRAJECTORY, FIT, ORBIT
from repdyn.reading import as_array
from repdyn.repeats import folds_by_group

if TYPE_CHECKING:
    from torch import Tensor

    from repdyn.ood.modules import EnergyTrajectoryModule
    from repdyn.paths import RepresentationPaths

__all__ = ["EnergyTrajectoryDetector"]

Array = NDArray[np.float64]


class _Coordinates(NamedTuple):
    """Principal coordinates of a point, and what lies outside of them.

    Attributes
    ----------
    units
        Divisor of each dimension, shape ``(D,)``: 1, or more where one is far wider than the others.
    center, axes
        Mean ``(D,)`` and principal axes ``(D, d)`` of the divided vectors.
    least
        Smallest distance from the subspace, shape ``(1,)``; below it, distances are rounding.
    """

    units: Array
    center: Array
    axes: Array
    least: Array

    def of(self, x: Array) -> tuple[Array, Array]:
        """Coordinates ``(n, d)`` of vectors ``(n, D)``, and their distances from the subspace ``(n,)``."""
        centered = x / self.units - self.center
        z = centered @ self.axes
        return z, np.maximum(np.linalg.norm(centered - z @ self.axes.T, axis=1), self.least)


class EnergyTrajectoryDetector(Detector):
    r"""Mahalanobis distance of how a point moves under the energy field of fitted points, at several noises.

    The field is that of :class:`repdyn.fields.EnergyField` for a bank of fitted points in principal
    coordinates. At each noise :math:`\sigma` the features are the energy :math:`E(z) / \sigma^2`, and the
    logarithms of the first step :math:`\lVert f(z) - z \rVert / \sigma` and of the way after three steps,
    :math:`\lVert f^{3}(z) - z \rVert / \sigma`. Another one is the logarithm of the distance from the
    principal subspace. The score is minus their Mahalanobis distance under a Gaussian of in-distribution
    points, so that a point which is too likely is unusual too, such as a blurred picture.

    Parameters
    ----------
    point
        The point. Default: the first one, such as the pixels.
    bank
        Largest number of fitted points in the bank, drawn at random. All fitted points are scored.
    seed
        Draws the bank and the folds.

    Attributes
    ----------
    sigmas_
        The noises, in units of the divided coordinates.

    Notes
    -----
    Where it helps, it is a member of a :class:`UnionDetector` (docs/studies/ood.md). Features of fitted
    points come from the bank without their own fold.

    Examples
    --------
    >>> import numpy as np
    >>> generator = np.random.default_rng(0)
    >>> usual = np.eye(8)[np.arange(200) % 4] + 0.1 * generator.normal(size=(200, 8))
    >>> detector = EnergyTrajectoryDetector().fit(usual)
    >>> detector.predict(np.stack([np.eye(8)[0] + 0.1 * generator.normal(size=8), np.zeros(8)])).tolist()
    [1, -1]
    """

    sigmas_: Array

    def __init__(self, point: str | None = None, bank: int = 3000, seed: int = 0) -> None:
        self.point = point
        self.bank = bank
        self.seed = seed

    def fit_paths(self, paths: RepresentationPaths) -> Self:
        """Fit the coordinates, the bank and the Gaussian of the features.

        Raises
        ------
        RepdynError
            On fewer than 20 different points, or points that are all equal.
        """
        self._begin(paths, (self.point or paths.points[0],))
        point = self.points_[0]
        for chunk in read_chunks(paths, self.points_, "measuring norms"):
            self._record_lengths(point, chunk[point])
        groups = self._groups(paths)
        kept, self._distinct = bank_rows(groups, self.bank, self.seed, "an energy field")
        self._kept = len(kept)
        chunks = read_chunks(paths.subset(kept), self.points_, "reading the bank")
        x = np.concatenate([np.asarray(chunk[point], dtype=np.float64) for chunk in chunks])
        constant = FIT.constant_variance_float64 if paths.dtype == np.float64 else FIT.constant_variance
        self._coordinates = _fit_coordinates(x, constant)
        self._bank = self._coordinates.of(x)[0]
        self.sigmas_ = _spacing(self._bank, self.seed) * np.array(ENERGY_TRAJECTORY.noises)
        self._steps = ENERGY_TRAJECTORY.steps
        fold = folds_by_group(groups, FIT.folds, np.random.default_rng(self.seed))
        features, start = np.empty((len(paths), 3 * len(self.sigmas_) + 1)), 0
        for own in self._read(paths):
            rows = slice(start, start + len(own[0]))
            for k in range(FIT.folds):
                inside = fold[rows] == k
                bank = self._bank[fold[kept] != k]
                features[rows][inside] = self._features(own[0][inside], own[1][inside], bank)
            start += len(own[0])
        self._location = features.mean(axis=0)
        self._scale = np.maximum(features.std(axis=0), ORBIT.min_scale)
        standardized = (features - self._location) / self._scale
        fitted = cross_fit(standardized, None, fold, ORBIT.feature_floor)
        if fitted is None:
            raise RepdynError("fit: all points move alike under their field")
        self._gaussian = fit_gaussian(standardized, None, ORBIT.feature_floor)
        self._calibrate(-fitted.plain.distances, "cross-fitted", groups=groups)
        return self

    def score_chunk(self, chunk: Chunk) -> Array:
        """Minus the Mahalanobis distance of the features, ``(n,)``."""
        z, rest = self._coordinates.of(np.asarray(chunk[self.points_[0]], dtype=np.float64))
        features = self._features(z, rest, self._bank)
        return -self._gaussian.distance((features - self._location) / self._scale)

    def as_module(self) -> EnergyTrajectoryModule:
        """The fitted detector as a ``torch.nn.Module``; see :meth:`Detector.as_module`."""
        from repdyn.ood.modules import EnergyTrajectoryModule  # loads torch

        self.check_fitted()
        features = partial(moves, sigmas=self.sigmas_.tolist(), steps=self._steps)
        standard = (self._gaussian, self._location, self._scale)
        module = EnergyTrajectoryModule(
            self.points_[0], self._coordinates, self._bank, features, standard, self.threshold_
        )
        return module.guarded(self._all_limits())

    def sampling_notes(self) -> list[str]:
        """From how many samples the bank is."""
        return [f"bank of {self._kept}: " + sample_note(self._kept, self._distinct, self.seed)]

    def _read(self, paths: RepresentationPaths) -> Iterator[tuple[Array, Array]]:
        """Coordinates of all samples, and their distances from the subspace, in chunks."""
        for chunk in read_chunks(paths, self.points_, "following held-out samples"):
            yield self._coordinates.of(np.asarray(chunk[self.points_[0]], dtype=np.float64))

    def _features(self, z: Array, rest: Array, bank: Array) -> Array:
        """:func:`moves` of arrays, in blocks: ``(n, d)``, ``(n,)``, ``(M, d) -> (n, 3 S + 1)``."""
        import torch  # slow to import

        points, own, beside = (torch.from_numpy(np.ascontiguousarray(array)) for array in (z, bank, rest))
        parts = zip(*(torch.split(part, ENERGY_TRAJECTORY.block) for part in (points, beside)))
        found = [moves(z, rest, own, self.sigmas_.tolist(), self._steps) for z, rest in parts]
        return as_array(torch.cat(found), np.float64)

    def _state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        numbers, own = self._gaussian.to_arrays("moves.")
        config = {
            "bank": self.bank, "seed": self.seed, "density": numbers, "different": self._distinct,
            "kept": self._kept, "steps": self._steps,
        }  # fmt: skip
        arrays = {f"field {name}": part for name, part in self._coordinates._asdict().items()}
        arrays |= {"field bank": self._bank, "sigmas": self.sigmas_}
        return config, {**arrays, **own, "location": self._location, "scale": self._scale}

    def _restore(self, config: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> None:
        check_values(config, bank=int, seed=int, kept=int, different=int, steps=int)
        if config["steps"] < 1:
            raise ValueError(f"steps is {config['steps']}")
        self._steps = int(config["steps"])
        width = self.widths_[self.points_[0]]
        named = {name: tensors[f"field {name}"] for name in (*_Coordinates._fields, "bank")}
        check_arrays(
            named, True, units=f"{width}", center=f"{width}", axes=f"{width} d", least="1", bank="M d"
        )
        check_arrays(tensors, True, location="F", scale="F", sigmas="S")
        self.sigmas_ = np.asarray(tensors["sigmas"], dtype=np.float64)
        self._location, self._scale = tensors["location"], tensors["scale"]
        if len(self._location) != 3 * len(self.sigmas_) + 1 or not (self.sigmas_ > 0).all():
            raise ValueError(f"{len(self.sigmas_)} noises, and {len(self._location)} features")
        arrays = {name: np.asarray(part, dtype=np.float64) for name, part in named.items()}
        self._bank = arrays.pop("bank")
        self._coordinates = _Coordinates(**arrays)
        self.bank, self.seed, self._kept = int(config["bank"]), int(config["seed"]), int(config["kept"])
        self._distinct = int(config["different"])
        self._gaussian = ShrunkGaussian.from_arrays("moves.", config["density"], tensors)


def _fit_coordinates(x: Array, constant: float) -> _Coordinates:
    """Principal coordinates of vectors ``(M, D)``; a variance up to ``constant`` of the size is rounding."""
    import torch  # slow to import

    from repdyn.fields.map import narrowed_units

    units = as_array(narrowed_units(torch.from_numpy(x)), np.float64)
    divided = x / units
    center = divided.mean(axis=0)
    values, axes = np.linalg.eigh(np.cov((divided - center).T, bias=True).reshape(x.shape[1], -1))
    if not values.sum() > constant * max(float(np.square(divided).sum(axis=1).mean()), 1e-300):
        raise RepdynError("fit: the samples are all the same vector at this point, up to rounding")
    kept = np.ascontiguousarray(axes[:, ::-1][:, : ENERGY_TRAJECTORY.components])
    least = ENERGY_TRAJECTORY.least_distance * np.sqrt(np.maximum(values, 0).sum(keepdims=True))
    return _Coordinates(units, center, kept, least)


def _spacing(bank: Array, seed: int) -> float:
    """Median distance of the bank's points ``(M, d)`` to the nearest other."""
    import torch

    from repdyn.fields.mean_shift import spacing_of

    return spacing_of(torch.from_numpy(bank), seed)


def moves(z: Tensor, rest: Tensor, bank: Tensor, sigmas: Sequence[float], steps: int) -> Tensor:
    r"""Features of coordinates under the energy fields of a bank, at several noises.

    .. math:: f(z) = \sum_i p_i(z)\, x_i, \quad p_i(z) \propto \exp(-\lVert z - x_i \rVert^2 / 2 \sigma^2),
              \quad E(z) / \sigma^2 = -\log \tfrac1M \sum_i \exp(-\lVert z - x_i \rVert^2 / 2 \sigma^2)

    A point of the bank that equals ``z``, or nearly, is left out of the field: at small noise it would be its
    own mode, so that an input which was fitted would look unlike every input that was not.

    Parameters
    ----------
    z, rest
        Coordinates ``(n, d)``, and the distance from their subspace ``(n,)``, above 0.
    bank
        Points, shape ``(M, d)``.
    sigmas
        The noises, S of them.
    steps
        Steps of each trajectory.

    Returns
    -------
    torch.Tensor
        Shape ``(n, 3 S + 1)``, on the device of ``z``, with gradients.
    """
    import torch

    from repdyn.fields.mean_shift import posterior_logits

    log_weights = torch.full_like(bank[:, 0], -math.log(len(bank)))

    def squares(sigma: float) -> Tensor:
        return (z / sigma).square().sum(dim=1)

    logits = posterior_logits(z, bank, log_weights, sigmas[0])
    distances = squares(sigmas[0])[:, None] - 2 * (logits - log_weights)
    copies = distances < ENERGY_TRAJECTORY.copy**2
    copies = copies & ~copies.all(dim=1, keepdim=True)
    log_weights = torch.where(copies, -math.inf, log_weights)
    columns = [rest.log()]
    for sigma in sigmas:
        logits = posterior_logits(z, bank, log_weights, sigma)
        columns.append(0.5 * squares(sigma) - logits.logsumexp(dim=1))
        moved = logits.softmax(dim=1) @ bank
        ways = [moved]
        for _ in range(steps - 1):
            moved = posterior_logits(moved, bank, log_weights, sigma).softmax(dim=1) @ bank
        ways.append(moved)
        lengths = [(((end - z) / sigma).square().sum(dim=1) + ORBIT.norm_floor).sqrt() for end in ways]
        columns += [length.log() for length in lengths]
    return torch.stack(columns, dim=1)
