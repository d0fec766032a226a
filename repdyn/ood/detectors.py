"""Detectors over the whole path, and the two that it must beat: distances at the last point."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from repdyn.conformity import check_arrays, check_values
from repdyn.errors import RepdynError
from repdyn.ood.chunks import HELD, Chunk, read
from repdyn.ood.crossfit import FOLDS, CrossFit, Density, HeldOut, RelativeDensity, TwofoldDensity
from repdyn.ood.detector import Detector, joint, record_all, revive_all
from repdyn.ood.fitting import cross_fit_points
from repdyn.ood.gaussian import ShrunkGaussian
from repdyn.ood.neighbours import KNNDetector
from repdyn.paths import nearby

if TYPE_CHECKING:
    from repdyn.ood.modules import PathModule
    from repdyn.paths import RepresentationPaths

__all__ = ["MahalanobisDetector", "PathDetector", "RelativeMahalanobisDetector", "Shared"]

Array = NDArray[np.float64]
Shared = dict[str, CrossFit | None]
_log = logging.getLogger(__name__)

LEAST = 4 * FOLDS  # below four samples a fold, a held-out mean and spread say nothing

_STILL = (
    "no point varies over the samples beyond the rounding of its number format; are they all the same input? "
    "If their mean is a million times as large as their spread, give paths in float64"
)


class PathDetector(Detector):
    """How far a path runs from the usual, at every depth.

    At each point l the unit vector u_l = x_l / ‖x_l‖ has a distance d_l under Ledoit–Wolf Gaussians of the
    in-distribution samples: the Mahalanobis distance, or, with labels and at the points where class means
    describe *held-out* in-distribution samples more shortly (:func:`repdyn.ood.crossfit.cross_fit`), that
    distance and the relative one, nearest class against the whole, together
    (:class:`repdyn.ood.crossfit.TwofoldDensity`). With m_l and s_l the mean and spread of d_l over
    in-distribution samples that the model had not seen (cross-fitting), the score is

        score(x) = − mean_l (d_l − m_l) / s_l.

    The mean over depth is the plain choice: each depth speaks with the same weight in units of its own
    spread, and nothing is tuned.

    Parameters
    ----------
    points
        Points to read; all of them unless told.
    seed
        Draws the folds, and nothing else.

    Attributes
    ----------
    points_
        Points read, without those that do not vary.
    class_means_
        Number of means per point: 1, or the number of classes where they helped.
    threshold_
        Score at a true-positive rate of 95 %: the conformal 5 % quantile of ``calibration_scores_``.
    calibration_scores_
        Cross-fitted scores of the fitted samples, or held-out ones after :meth:`calibrate`.
    controls_
        Fitted on the same paths, at the last point alone: nearest neighbours, the Mahalanobis distance
        and, where class means help there, the relative one.

    Notes
    -----
    With fewer samples than dimensions the covariance is mostly its target, a multiple of the identity:
    the fit works and says so through ``logging``, and the distance tends to the Euclidean one.
    Scale and rotation of a point leave every score as it was.
    Equal samples share a fold, or a held-out sample would have been seen after all.

    That both distances are taken where there are classes was decided on CLINC150's validation
    out-of-scope queries and on far text (German, news, shuffled letters): the class distance alone reached
    an AUROC of .948 on the queries (all-MiniLM-L6-v2), the relative one .978, both .970; but the relative
    one is blind to whatever moves all classes alike. Its test split had been looked at by then, so
    figures on it are optimistic.

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

    class_means_: dict[str, int]
    controls_: dict[str, Detector]
    _usual: tuple[Array, Array, int] | None = None
    _nothing = _STILL

    def __init__(self, points: tuple[str, ...] | None = None, seed: int = 0) -> None:
        self.points = points
        self.seed = seed

    def fit(self, paths: RepresentationPaths) -> Self:
        """Learn each point's density and its held-out spread.

        Paths of more than 256 MiB are read in parts, four times (more often where points are thousands wide),
        and nothing that grows with their number is kept but some numbers for each sample and point.

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
            On fewer than 20 samples, unknown points, non-finite values, or paths that do not vary.
        """
        self.fit_shared(paths)
        return self

    def fit_shared(self, paths: RepresentationPaths) -> Shared:
        """Fit as :meth:`fit` does; returns what each point gave, for other detectors of the same paths."""
        paths = nearby(paths, HELD)
        points = tuple(self.points) if self.points is not None else tuple(paths.points)
        shared = self._fit_points(paths, points)
        mahalanobis, relative = (
            kind(seed=self.seed) for kind in (MahalanobisDetector, RelativeMahalanobisDetector)
        )
        last, at_hand = paths.points[-1], shared
        for control in (mahalanobis, relative):
            at_hand = control._fit_points(paths, (last,), at_hand)
            control.controls_ = {}
        self.controls_ = {
            "nearest neighbours": KNNDetector(seed=self.seed).fit_beside(paths, at_hand[last]),
            "Mahalanobis": mahalanobis,
        }
        if relative.class_means_[relative.points_[0]] > 1:
            self.controls_["relative Mahalanobis"] = relative
        return shared

    def profile(self, paths: RepresentationPaths) -> Array:
        """Standardised distance at each depth, ``(N, L)``: 0 is usual, 2 is two spreads too far.

        Infinite at a depth where a path is not finite, or far outside the range of norms fitted there.
        """
        self._check(paths)
        batches = read(paths, self.points_, "reading depth profiles", judging=True)
        parts = [self._profile(batch) for batch in batches]
        return np.concatenate(parts) if parts else np.empty((0, len(self.points_)))

    def usual_profile(self) -> tuple[Array, Array, int]:
        """Mean and variance of the profile at each depth ``(L,)`` over paths not fitted on, and how many.

        Of the paths it was calibrated on; else of the fitted ones, cross-fitted, 0 and 1 by construction.
        """
        if self._usual is not None:
            return self._usual
        return np.zeros(len(self.points_)), np.ones(len(self.points_)), len(self.calibration_scores_)

    def _note_usual(self, paths: RepresentationPaths, groups: NDArray[np.int64]) -> None:
        profile = self.profile(paths)[np.unique(groups, return_index=True)[1]]
        profile = profile[np.isfinite(profile).all(axis=1)]
        if len(profile) > 1:
            self._usual = profile.mean(axis=0), profile.var(axis=0, ddof=1), len(profile)

    def _fit_points(
        self,
        paths: RepresentationPaths,
        points: tuple[str, ...],
        at_hand: Shared | None = None,
    ) -> Shared:
        """Fit, with what is at hand of the same paths and seed, and return what every point gave."""
        if len(paths) < LEAST:
            raise RepdynError(f"fit: {len(paths)} samples are too few, give at least {LEAST}")
        self._begin(paths, points)
        labels = None
        if paths.labels is not None:
            labels = np.unique(np.asarray(paths.labels), return_inverse=True)[1].astype(np.intp)
        kept, self._densities, self._location, self._spread = [], {}, {}, {}
        self._usual = None
        held_out, shared = np.zeros(len(paths)), dict(at_hand or {})
        groups: list[NDArray[np.int64]] = []
        new = tuple(point for point in points if point not in shared)
        if new:
            shared.update(cross_fit_points(paths, new, labels, self.seed))
        still = []
        for point in points:
            fitted = shared[point]
            found = None if fitted is None else self._choose(fitted)
            if found is None or (spread := float(found.distances.std())) == 0:
                if fitted is None or found is not None:  # not left out by choice
                    still.append(point)
                continue
            kept.append(point)
            if fitted is not None and fitted.groups is not None:
                groups.append(fitted.groups)
            if fitted is not None and fitted.lengths is not None:
                self._widen(point, *fitted.lengths)
            self._densities[point] = found.density
            self._location[point], self._spread[point] = float(found.distances.mean()), spread
            held_out -= (found.distances - self._location[point]) / spread
        # A model has dozens of points, and is fitted as several detectors: one line each, told once.
        wide = {point: self.widths_[point] for point in points if len(paths) < self.widths_[point]}
        if wide and at_hand is None:
            least, most = min(wide.values()), max(wide.values())
            span = f"{least}" if least == most else f"{least} to {most}"
            _log.warning(
                "%s: %d samples in %s dimensions; covariance mostly shrunk", _listed(wide), len(paths), span
            )
        if still and at_hand is None:
            _log.warning("%s: constant over the samples and left out", _listed(still))
        if not kept and len(still) == len(points):
            raise RepdynError(f"fit: {_STILL}")
        if not kept:
            raise RepdynError(f"fit: {self._nothing}")
        self.points_ = tuple(kept)
        self.widths_ = {point: self.widths_[point] for point in kept}
        self.lengths_ = {point: self.lengths_[point] for point in kept}
        self._count_means()
        together = joint(groups)
        different = int(together.max()) + 1
        if different < LEAST:
            raise RepdynError(
                f"fit: only {different} of {len(paths)} samples differ, give at least {LEAST} different ones"
            )
        self._calibrate(held_out / len(kept), "cross-fitted", groups=together)
        return shared

    def _choose(self, fitted: CrossFit) -> HeldOut | None:
        """Which distance is read at a point; None leaves it out."""
        return fitted.twofold or fitted.plain

    def _count_means(self) -> None:
        self.class_means_ = {}
        for point, density in self._densities.items():
            if isinstance(density, TwofoldDensity):
                density = density.relative
            conditional = density.conditional if isinstance(density, RelativeDensity) else density
            self.class_means_[point] = len(conditional.means)

    def _profile(self, batch: Chunk) -> Array:
        columns = []
        for point in self.points_:
            distance = self._densities[point].distance_by(partial(batch.squared, point))
            standard = (distance - self._location[point]) / self._spread[point]
            usual = batch.sound(point, self.limits(point)) & np.isfinite(standard)
            columns.append(np.where(usual, standard, np.inf))
        return np.stack(columns, axis=1)

    def _score(self, batch: Chunk) -> Array:
        return np.asarray(-self._profile(batch).mean(axis=1))

    def _drawn(self) -> list[str]:
        controls = getattr(self, "controls_", {})
        return [f"{name}, {said}" for name, control in controls.items() for said in control._drawn()]

    def as_module(self) -> PathModule:
        """The fitted detector as a ``torch.nn.Module``; see :meth:`Detector.as_module`."""
        from repdyn.ood.modules import PathModule  # torch is loaded only for a module

        self._fitted()
        densities = [self._densities[point] for point in self.points_]
        location = [self._location[point] for point in self.points_]
        spread = [self._spread[point] for point in self.points_]
        module = PathModule(self.points_, densities, location, spread, self.threshold_)
        return module.guarded(self._limits())

    def _state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        tensors: dict[str, NDArray[Any]] = {}
        densities = []
        for depth, point in enumerate(self.points_):
            density = self._densities[point]
            numbers: dict[str, Any] = {"location": self._location[point], "spread": self._spread[point]}
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
        if self._usual is not None:
            mean, variance, count = self._usual
            tensors["usual"] = np.stack([mean, variance, np.full(len(mean), float(count))])
        return {"seed": self.seed, "densities": densities, "controls": controls}, {**tensors, **arrays}

    def _restore(self, config: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> None:
        check_values(config, seed=int, densities=list[dict[str, Any]], controls=dict[str, dict[str, Any]])
        self.seed = int(config["seed"])
        self._densities, self._location, self._spread = {}, {}, {}
        usual = tensors.get("usual")
        if usual is not None:
            check_arrays(tensors, True, usual=f"3 {len(self.points_)}")
        self._usual = None if usual is None else (usual[0], usual[1], int(usual[2, 0]))
        for depth, (point, numbers) in enumerate(zip(self.points_, config["densities"], strict=True)):
            check_values(numbers, location=float, spread=float)
            parts = {
                name: ShrunkGaussian.from_arrays(f"{depth}.{name}.", numbers[name], tensors)
                for name in ("plain", "conditional", "background")
                if name in numbers
            }
            if any(len(part.centre) != self.widths_[point] for part in parts.values()):
                raise ValueError(f"the density at {point!r} is not {self.widths_[point]} wide")
            density: Density = parts["plain"] if "plain" in parts else RelativeDensity(**parts)
            if "twofold" in numbers:
                check_values(numbers, twofold=list[float])
            if isinstance(density, RelativeDensity) and "twofold" in numbers:
                density = TwofoldDensity(density, tuple(numbers["twofold"]))
            self._densities[point] = density
            self._location[point], self._spread[point] = numbers["location"], numbers["spread"]
        self._count_means()
        self.controls_ = revive_all(config["controls"], tensors)


class RelativeMahalanobisDetector(PathDetector):
    """Mahalanobis distance of one point to the nearest class, less that to the whole; labels are needed.

    Without labels, or where class means do not help, it is the :class:`MahalanobisDetector`.

    Parameters
    ----------
    point
        The point; the last one unless told.
    seed
        Draws the folds.

    References
    ----------
    Ren, J. et al. (2021). A simple fix to Mahalanobis distance for improving near-OOD detection.
    arXiv 2106.09022. Here on unit vectors, with shrunk covariances.
    """

    def __init__(self, point: str | None = None, seed: int = 0) -> None:
        super().__init__(None if point is None else (point,), seed)
        self.point = point

    def fit(self, paths: RepresentationPaths) -> Self:
        """Learn the point's density; see :meth:`PathDetector.fit`."""
        self._fit_points(paths, (self.point or paths.points[-1],))
        self.controls_ = {}
        return self

    def _choose(self, fitted: CrossFit) -> HeldOut | None:
        return fitted.relative or fitted.plain


class MahalanobisDetector(RelativeMahalanobisDetector):
    """Mahalanobis distance of one point's unit vector to the mean, or to the nearest class mean.

    Parameters
    ----------
    point
        The point; the last one unless told.
    seed
        Draws the folds.

    References
    ----------
    Lee, K. et al. (2018). A simple unified framework for detecting out-of-distribution samples and
    adversarial attacks. NeurIPS. Müller, M. & Hein, M. (2025). Mahalanobis++. ICML.
    """

    def _choose(self, fitted: CrossFit) -> HeldOut | None:
        return fitted.plain


def _listed(points: Collection[str]) -> str:
    """The first points by name, and how many there are."""
    names = list(points)
    if len(names) <= 3:
        return ", ".join(names)
    return f"{len(names)} points ({', '.join(names[:3])}, …)"
