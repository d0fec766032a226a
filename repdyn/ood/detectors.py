"""Density detectors: a distance to a fitted density at each point, and its mean over the points read.

A density detector is a choice of two parts. Its *density* says which cross-fitted distance is read at a point
(:class:`repdyn.ood.crossfit.CrossFit`): plain, relative, or both. Its *reduction* says which points are
read: all of them, whose standardized distances are averaged, or a single one.

=====================================  ==========================  =================
class                                  density                     reduction
=====================================  ==========================  =================
:class:`PathDetector`                  twofold, else plain         mean over depth
:class:`RelativePathDetector`          relative only               mean over depth
:class:`MahalanobisDetector`           plain                       one point
:class:`RelativeMahalanobisDetector`   relative, else plain        one point
=====================================  ==========================  =================
"""

from __future__ import annotations

import logging
import warnings
from abc import abstractmethod
from collections.abc import Collection, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from repdyn.conformity import check_arrays, check_values
from repdyn.errors import RepdynError
from repdyn.ood.crossfit import (
    Density,
    DistanceName,
    PathStatistics,
    RelativeDensity,
    TwofoldDensity,
    share_equal,
)
from repdyn.ood.detector import Detector, joint_groups
from repdyn.ood.gaussian import ShrunkGaussian
from repdyn.ood.inputs import Given, paths_of
from repdyn.ood.neighbor_detectors import KNNDetector
from repdyn.ood.path_chunks import Chunk, read_chunks
from repdyn.ood.records import NamedDetectors, record_all, restore_all
from repdyn.ood.settings import FIT

if TYPE_CHECKING:
    from repdyn.ood.modules import PathModule
    from repdyn.paths import RepresentationPaths

__all__ = [
    "DensityDetector",
    "MahalanobisDetector",
    "PathDetector",
    "RelativeMahalanobisDetector",
    "RelativePathDetector",
    "last_point_controls",
    "share_densities",
]

Array = NDArray[np.float64]
_log = logging.getLogger(__name__)

_CONSTANT = (
    "no point varies over the samples beyond the rounding of its number format; are they all the same input? "
    "If their mean is a million times as large as their spread, give paths in float64"
)


class DensityDetector(Detector):
    """Minus the mean standardized distance over the points read; the base of all density detectors.

    At each point l the unit vector u_l = x_l / ‖x_l‖ has a distance d_l under densities of the
    in-distribution samples. With m_l and s_l the mean and standard deviation of d_l over held-out
    in-distribution samples (cross-fitting), the score is

        score(x) = − mean_l (d_l − m_l) / s_l.

    Attributes
    ----------
    points_
        Points read, without those that are constant or at which the density does not exist.
    densities_, location_, spread_
        Density, m_l and s_l by point.
    class_means_
        Number of means by point: 1, or the number of classes where class means help.
    controls_
        Fitted on the same paths.
    """

    preference: ClassVar[tuple[DistanceName, ...]]
    """Distances in order of preference; the first that exists at a point is read. Without one the point is
    left out."""
    no_point: ClassVar[str] = _CONSTANT
    """Error where no point is left."""

    seed: int
    densities_: dict[str, Density]
    location_: dict[str, float]
    spread_: dict[str, float]
    class_means_: dict[str, int]
    controls_: dict[str, Detector]
    _profile_moments: tuple[Array, Array, int] | None = None

    @abstractmethod
    def _points_of(self, paths: RepresentationPaths) -> tuple[str, ...]:
        """The points of the paths that are read: the reduction."""

    def fit_paths(self, paths: RepresentationPaths) -> Self:
        """Fit each point's density and the moments of its held-out distances.

        Paths of more than 256 MiB are read in parts, in four passes (more where points are thousands wide),
        and only a few numbers per sample and point are stored.

        Parameters
        ----------
        paths
            In-distribution paths; labels, if they have some, may give class means.

        Returns
        -------
        Self

        Raises
        ------
        RepdynError
            On fewer than 20 samples, unknown points, non-finite values, or constant paths.
        """
        return self.fit_statistics(PathStatistics(paths, self.seed))

    def fit_statistics(self, statistics: PathStatistics) -> Self:
        """Fit to statistics that other detectors of the same paths share, without controls.

        Parameters
        ----------
        statistics
            Of the paths and the seed of this detector. Points that are missing there are computed.
        """
        paths, points = statistics.paths, self._points_of(statistics.paths)
        if len(paths) < FIT.min_samples:
            raise RepdynError(f"fit: {len(paths)} samples are too few, give at least {FIT.min_samples}")
        self._begin(paths, points)
        self.densities_, self.location_, self.spread_ = {}, {}, {}
        self.controls_, self._profile_moments = NamedDetectors(), None
        first_fit = not statistics.computed
        total, groups, constant = np.zeros(len(paths)), [], []
        for point, fit in statistics.at(points).items():
            chosen = None if fit is None else fit.first_of(self.preference)
            if fit is None or chosen is None:
                if fit is None:  # constant; otherwise the distance does not exist at this point
                    constant.append(point)
                continue
            spread = float(chosen.distances.std())
            if spread == 0:
                constant.append(point)
                continue
            if fit.groups is not None:
                groups.append(fit.groups)
            if fit.lengths is not None:
                self._widen_lengths(point, *fit.lengths)
            self.densities_[point] = chosen.density
            self.location_[point], self.spread_[point] = float(chosen.distances.mean()), spread
            total -= (chosen.distances - self.location_[point]) / spread
        if first_fit:  # detectors that share statistics would repeat the warnings
            self._warn(len(paths), points, constant)
        kept = tuple(self.densities_)
        if not kept:
            raise RepdynError(f"fit: {_CONSTANT if len(constant) == len(points) else self.no_point}")
        self.points_ = kept
        self.widths_ = {point: self.widths_[point] for point in kept}
        self.lengths_ = {point: self.lengths_[point] for point in kept}
        self._count_means()
        equal = joint_groups(groups)
        distinct = int(equal.max()) + 1
        if distinct < FIT.min_samples:
            raise RepdynError(
                f"fit: only {distinct} of {len(paths)} samples differ, give at least {FIT.min_samples} "
                "different ones"
            )
        self._calibrate(total / len(kept), "cross-fitted", groups=equal)
        return self

    def _warn(self, samples: int, points: tuple[str, ...], constant: list[str]) -> None:
        """Log points with fewer samples than dimensions, and constant points, in one line each."""
        wide = {point: self.widths_[point] for point in points if samples < self.widths_[point]}
        if wide:
            smallest, largest = min(wide.values()), max(wide.values())
            span = f"{smallest}" if smallest == largest else f"{smallest} to {largest}"
            _log.warning(
                "%s: %d samples in %s dimensions; covariance mostly shrunk", _listed(wide), samples, span
            )
        if constant:
            _log.warning("%s: constant over the samples and left out", _listed(constant))

    def profile(self, paths: Given) -> Array:
        """Standardized distance at each depth, ``(N, L)``: 0 is typical, 2 is two standard deviations off.

        Infinite at a depth where a path is not finite, or its norm is far outside of the range fitted.
        """
        self.check_fitted()
        paths = paths_of(self, paths)
        self._check_paths(paths)
        chunks = read_chunks(paths, self.points_, "reading depth profiles", allow_nonfinite=True)
        parts = [self.profile_chunk(chunk) for chunk in chunks]
        return np.concatenate(parts) if parts else np.empty((0, len(self.points_)))

    def profile_chunk(self, chunk: Chunk) -> Array:
        """:meth:`profile` of one chunk, ``(n, L)``."""
        columns = []
        for point in self.points_:
            distance = self.densities_[point].distance_by(partial(chunk.squared, point))
            standardized = (distance - self.location_[point]) / self.spread_[point]
            valid = chunk.valid(point, self.limits(point)) & np.isfinite(standardized)
            columns.append(np.where(valid, standardized, np.inf))
        return np.stack(columns, axis=1)

    def score_chunk(self, chunk: Chunk) -> Array:
        """Minus the mean of :meth:`profile_chunk` over depth, ``(n,)``."""
        return np.asarray(-self.profile_chunk(chunk).mean(axis=1))

    def usual_profile(self) -> tuple[Array, Array, int]:
        """Mean and variance of the profile at each depth, ``(L,)``, over held-out paths, and their number.

        After :meth:`calibrate`, over the paths given there. Before it, of the cross-fitted distances: 0 and 1
        by construction. Densities of the folds share samples and have fewer of them, so the mean is less
        certain than that of as many held-out paths; the number is ``FIT.cross_fitted_share`` of theirs.
        """
        if self._profile_moments is not None:
            return self._profile_moments
        count = max(int(len(self.calibration_scores_) * FIT.cross_fitted_share), 2)
        return np.zeros(len(self.points_)), np.ones(len(self.points_)), count

    def calibrate_profile(self, paths: RepresentationPaths, groups: NDArray[np.int64]) -> None:
        """Store the mean and the variance of the profile over held-out paths; see :class:`Detector`."""
        profile = self.profile(paths)[np.unique(groups, return_index=True)[1]]
        profile = profile[np.isfinite(profile).all(axis=1)]
        if len(profile) > 1:
            self._profile_moments = profile.mean(axis=0), profile.var(axis=0, ddof=1), len(profile)

    def sampling_notes(self) -> list[str]:
        """Notes of the controls; the densities are fitted on all paths."""
        controls = getattr(self, "controls_", {})
        return [f"{name}, {note}" for name, control in controls.items() for note in control.sampling_notes()]

    def as_module(self) -> PathModule:
        """The fitted detector as a ``torch.nn.Module``; see :meth:`Detector.as_module`."""
        from repdyn.ood.modules import PathModule  # loads torch

        self.check_fitted()
        densities = [self.densities_[point] for point in self.points_]
        location = [self.location_[point] for point in self.points_]
        spread = [self.spread_[point] for point in self.points_]
        module = PathModule(self.points_, densities, location, spread, self.threshold_)
        return module.guarded(self._all_limits())

    def _count_means(self) -> None:
        """Set ``class_means_`` from the densities."""
        self.class_means_ = {}
        for point, density in self.densities_.items():
            if isinstance(density, TwofoldDensity):
                density = density.relative
            conditional = density.conditional if isinstance(density, RelativeDensity) else density
            self.class_means_[point] = len(conditional.means)

    def _state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        tensors: dict[str, NDArray[Any]] = {}
        densities = []
        for depth, point in enumerate(self.points_):
            density = self.densities_[point]
            numbers: dict[str, Any] = {"location": self.location_[point], "spread": self.spread_[point]}
            if isinstance(density, TwofoldDensity):
                numbers["twofold"] = list(density.spread)
                density = density.relative
            if isinstance(density, RelativeDensity):
                parts = {"conditional": density.conditional, "background": density.background}
            else:
                parts = {"plain": density}
            for name, part in parts.items():
                numbers[name], arrays = part.to_arrays(f"{depth}.{name}.")
                tensors.update(arrays)
            densities.append(numbers)
        controls, arrays = record_all(self.controls_)
        if self._profile_moments is not None:
            mean, variance, count = self._profile_moments
            tensors["usual"] = np.stack([mean, variance, np.full(len(mean), float(count))])
        return {"seed": self.seed, "densities": densities, "controls": controls}, {**tensors, **arrays}

    def _restore(self, config: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> None:
        check_values(config, seed=int, densities=list[dict[str, Any]], controls=dict[str, dict[str, Any]])
        self.seed = int(config["seed"])
        self.densities_, self.location_, self.spread_ = {}, {}, {}
        usual = tensors.get("usual")
        if usual is not None:
            check_arrays(tensors, True, usual=f"3 {len(self.points_)}")
        self._profile_moments = None if usual is None else (usual[0], usual[1], int(usual[2, 0]))
        for depth, (point, numbers) in enumerate(zip(self.points_, config["densities"], strict=True)):
            check_values(numbers, location=float, spread=float)
            parts = {
                name: ShrunkGaussian.from_arrays(f"{depth}.{name}.", numbers[name], tensors)
                for name in ("plain", "conditional", "background")
                if name in numbers
            }
            if any(len(part.center) != self.widths_[point] for part in parts.values()):
                raise ValueError(f"the density at {point!r} is not {self.widths_[point]} wide")
            density: Density = parts["plain"] if "plain" in parts else RelativeDensity(**parts)
            if "twofold" in numbers:
                check_values(numbers, twofold=list[float])
            if isinstance(density, RelativeDensity) and "twofold" in numbers:
                density = TwofoldDensity(density, tuple(numbers["twofold"]))
            self.densities_[point] = density
            self.location_[point], self.spread_[point] = numbers["location"], numbers["spread"]
        self._count_means()
        self.controls_ = restore_all(config["controls"], tensors)


class _MeanOverDepth(DensityDetector):
    """Reduction: the mean over several points, all of them by default."""

    def __init__(self, points: tuple[str, ...] | None = None, seed: int = 0) -> None:
        self.points = points
        self.seed = seed

    def point_of_matrix(self) -> str:
        """The point of :attr:`points`; an error if there are several."""
        if self.points is None:
            return super().point_of_matrix()
        if len(self.points) != 1:
            raise RepdynError(
                f"fit: a matrix holds one point, points={tuple(self.points)!r} are {len(self.points)}; give "
                "paths or {point: (N, D)}"
            )
        return self.points[0]

    def _points_of(self, paths: RepresentationPaths) -> tuple[str, ...]:
        return tuple(self.points) if self.points is not None else tuple(paths.points)


class _OnePoint(DensityDetector):
    """Reduction: a single point, the last one by default."""

    def __init__(self, point: str | None = None, seed: int = 0) -> None:
        self.point = point
        self.seed = seed

    def _points_of(self, paths: RepresentationPaths) -> tuple[str, ...]:
        return (self.point or paths.points[-1],)


class PathDetector(_MeanOverDepth):
    """Mean over depth of the distance to in-distribution densities.

    At each point l the unit vector u_l = x_l / ‖x_l‖ has a distance d_l under Ledoit–Wolf Gaussians of the
    in-distribution samples. Without labels d_l is the Mahalanobis distance. With labels, at the points where
    class means describe *held-out* in-distribution samples better
    (:func:`repdyn.ood.crossfit.cross_fit`), d_l is the sum of that distance and the relative one, which
    compares the nearest class with all data (:class:`repdyn.ood.crossfit.TwofoldDensity`). With m_l and s_l
    the mean and standard deviation of d_l over held-out in-distribution samples (cross-fitting), the score is

        score(x) = − mean_l (d_l − m_l) / s_l.

    All depths have the same weight, each in units of its own standard deviation. Nothing is tuned.

    Parameters
    ----------
    points
        Points to read. Default: all.
    seed
        Draws the folds, and nothing else.

    Attributes
    ----------
    points_
        Points read, without constant ones.
    class_means_
        Number of means by point: 1, or the number of classes where class means help.
    threshold_
        Score at a true-positive rate of 95 %: the conformal 5 % quantile of ``calibration_scores_``.
    calibration_scores_
        Cross-fitted scores of the fitted samples, or held-out ones after :meth:`calibrate`.
    controls_
        Fitted on the same paths, at the last point alone: nearest neighbors, the Mahalanobis distance
        and, where class means help there, the relative one.

    Notes
    -----
    With fewer samples than dimensions the covariance is mostly its shrinkage target, a multiple of the
    identity. The fit then works, a warning is logged, and the distance is close to the Euclidean one.
    Scaling or rotating a point leaves every score unchanged.
    Equal samples share a fold; otherwise a copy of a held-out sample would be fitted on.

    The sum of both distances was chosen on CLINC150's validation out-of-scope queries and on far text
    (German, news, shuffled letters). The class distance alone reached an AUROC of .948 on the queries
    (all-MiniLM-L6-v2), the relative one .978, the sum .970; but the relative distance does not detect
    changes that move all classes alike. The test split had been looked at by then, so figures on it are
    optimistic.

    References
    ----------
    Lee, K. et al. (2018). A simple unified framework for detecting out-of-distribution samples and
    adversarial attacks. NeurIPS. Ren, J. et al. (2021). A simple fix to Mahalanobis distance for improving
    near-OOD detection. arXiv 2106.09022. Müller, M. & Hein, M. (2025). Mahalanobis++. ICML (unit vectors).

    Examples
    --------
    >>> import numpy as np
    >>> from repdyn.paths import RepresentationPaths
    >>> x = np.random.default_rng(0).normal(size=(200, 8)) + 3
    >>> detector = PathDetector().fit(RepresentationPaths.from_arrays({"first": x, "second": np.tanh(x)}))
    >>> foreign = RepresentationPaths.from_arrays({"first": -x, "second": np.tanh(-x)})
    >>> set(detector.predict(foreign).tolist())
    {-1}
    """

    preference = ("twofold", "plain")

    def fit_paths(self, paths: RepresentationPaths) -> Self:
        """Fit each point's density, and the controls at the last point."""
        statistics = PathStatistics(paths, self.seed)
        self.fit_statistics(statistics)
        self.controls_ = last_point_controls(statistics)
        return self

    def fit_shared(self, paths: RepresentationPaths) -> PathStatistics:
        """Deprecated: share :class:`repdyn.ood.crossfit.PathStatistics` by :meth:`fit_statistics`."""
        warnings.warn(
            "fit_shared is removed in the next release; use fit_statistics", DeprecationWarning, stacklevel=2
        )
        statistics = PathStatistics(paths, self.seed)
        self.fit_statistics(statistics)
        self.controls_ = last_point_controls(statistics)
        return statistics


class RelativePathDetector(_MeanOverDepth):
    """Mean over depth of the relative Mahalanobis distance, at the points where class means help.

    The relative distance (:class:`repdyn.ood.crossfit.RelativeDensity`) cancels whatever moves all classes
    alike. It detects unfamiliar classes that the variance of a whole path's distance hides, and no other
    kind of change. It is meant as a member of a union, or as a detector of new classes.

    Parameters
    ----------
    points, seed
        As in :class:`PathDetector`.

    References
    ----------
    Ren, J. et al. (2021). A simple fix to Mahalanobis distance for improving near-OOD detection.
    arXiv 2106.09022. Here on unit vectors, with shrunk covariances, at every depth.
    """

    preference = ("relative",)
    no_point = (
        "class means improve the density at no point; give labels with several samples a class, or use "
        "PathDetector"
    )

    def fit_beside(self, paths: RepresentationPaths, at_hand: PathStatistics | None) -> Self:
        """Deprecated: use :meth:`fit_statistics` with what :meth:`PathDetector.fit_shared` returned."""
        warnings.warn(
            "fit_beside is removed in the next release; use fit_statistics", DeprecationWarning, stacklevel=2
        )
        return self.fit(paths) if at_hand is None else self.fit_statistics(at_hand)


class MahalanobisDetector(_OnePoint):
    """Mahalanobis distance of one point's unit vector to the mean, or to the nearest class mean.

    Parameters
    ----------
    point
        The point. Default: the last one.
    seed
        Draws the folds.

    References
    ----------
    Lee, K. et al. (2018). A simple unified framework for detecting out-of-distribution samples and
    adversarial attacks. NeurIPS. Müller, M. & Hein, M. (2025). Mahalanobis++. ICML.
    """

    preference = ("plain",)


class RelativeMahalanobisDetector(_OnePoint):
    """Mahalanobis distance of one point to the nearest class mean, minus that to the common mean.

    Without labels, or where class means do not help, it scores as :class:`MahalanobisDetector`.

    Parameters
    ----------
    point
        The point. Default: the last one.
    seed
        Draws the folds.

    References
    ----------
    Ren, J. et al. (2021). A simple fix to Mahalanobis distance for improving near-OOD detection.
    arXiv 2106.09022. Here on unit vectors, with shrunk covariances.
    """

    preference = ("relative", "plain")


def last_point_controls(statistics: PathStatistics) -> dict[str, Detector]:
    """Fitted detectors at the last point: nearest neighbors, Mahalanobis, the relative one if it differs."""
    mahalanobis, relative = (
        kind(seed=statistics.seed).fit_statistics(statistics)
        for kind in (MahalanobisDetector, RelativeMahalanobisDetector)
    )
    controls: dict[str, Detector] = NamedDetectors()
    controls["nearest neighbors"] = KNNDetector(seed=statistics.seed).fit_statistics(statistics)
    controls["Mahalanobis"] = mahalanobis
    if relative.class_means_[relative.points_[0]] > 1:
        controls["relative Mahalanobis"] = relative
    return controls


def share_densities(detectors: Iterable[Detector]) -> None:
    """Make equal Gaussians of several density detectors one object, so that a chunk computes each once."""
    reading = [detector for detector in detectors if isinstance(detector, DensityDetector)]
    for detector, shared in zip(reading, share_equal(detector.densities_ for detector in reading)):
        detector.densities_ = shared


def _listed(points: Collection[str]) -> str:
    """The first three points by name, and the number of all."""
    names = list(points)
    if len(names) <= 3:
        return ", ".join(names)
    return f"{len(names)} points ({', '.join(names[:3])}, …)"
