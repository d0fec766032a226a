"""Detectors over the whole path, and the two that it must beat: distances at the last point."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from repdyn.errors import RepdynError
from repdyn.ood.detector import Detector, read, record_all, revive_all, values
from repdyn.ood.gaussian import FOLDS, ShrunkGaussian, cross_fit, unit
from repdyn.ood.neighbours import KNNDetector
from repdyn.progress import track

if TYPE_CHECKING:
    from repdyn.ood.modules import PathModule
    from repdyn.paths import RepresentationPaths

__all__ = ["MahalanobisDetector", "PathDetector"]

Array = NDArray[np.float64]
_log = logging.getLogger(__name__)

LEAST = 4 * FOLDS  # below four samples a fold, a held-out mean and spread say nothing


class PathDetector(Detector):
    """How far a path runs from the usual, at every depth.

    At each point l the unit vector u_l = x_l / ‖x_l‖ has a Mahalanobis distance
    d_l = min_c ‖Σ_l^{-1/2} (u_l − μ_{l,c})‖ with a Ledoit–Wolf covariance. With m_l and s_l the mean and
    spread of d_l over in-distribution samples *that the model had not seen* (cross-fitting), the score
    is

        score(x) = − mean_l (d_l − m_l) / s_l.

    The mean over depth is the plain choice: each depth speaks with the same weight in units of its own
    spread, nothing is tuned, and no out-of-distribution sample had a say. Class means are used at the
    points where, given labels, they make held-out in-distribution samples likelier
    (:func:`repdyn.ood.gaussian.cross_fit`).

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
        The nearest-neighbour and Mahalanobis detector of the last point, fitted on the same paths.

    Notes
    -----
    With fewer samples than dimensions the covariance is mostly its target, a multiple of the identity:
    the fit works and says so through ``logging``, and the distance tends to the Euclidean one.
    Scale and rotation of a point leave every score as it was.

    References
    ----------
    Lee, K. et al. (2018). A simple unified framework for detecting out-of-distribution samples and
    adversarial attacks. NeurIPS. Müller, M. & Hein, M. (2025). Mahalanobis++. ICML (unit vectors first).

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

    def __init__(self, points: tuple[str, ...] | None = None, seed: int = 0) -> None:
        self.points = points
        self.seed = seed

    def fit(self, paths: RepresentationPaths) -> Self:
        """Learn each point's density and its held-out spread; reads one point at a time.

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
        self._fit_points(paths, tuple(self.points) if self.points is not None else tuple(paths.points))
        self.controls_ = {
            "nearest neighbours": KNNDetector().fit(paths),
            "Mahalanobis": MahalanobisDetector(seed=self.seed).fit(paths),
        }
        return self

    def profile(self, paths: RepresentationPaths) -> Array:
        """Standardised distance at each depth, ``(N, L)``: 0 is usual, 2 is two spreads too far."""
        self._check(paths)
        parts = [self._profile(batch) for batch in read(paths, self.points_, "reading depth profiles")]
        return np.concatenate(parts) if parts else np.empty((0, len(self.points_)))

    def _fit_points(self, paths: RepresentationPaths, points: tuple[str, ...]) -> None:
        if len(paths) < LEAST:
            raise RepdynError(f"fit: {len(paths)} samples are too few, give at least {LEAST}")
        self._begin(paths, points)
        fold = np.arange(len(paths)) % FOLDS
        np.random.default_rng(self.seed).shuffle(fold)
        labels = None
        if paths.labels is not None:
            labels = np.unique(np.asarray(paths.labels), return_inverse=True)[1].astype(np.intp)
        kept, self._gaussians, self._location, self._spread = [], {}, {}, {}
        held_out = np.zeros(len(paths))
        for point in track(points, "fitting densities"):
            x = values(paths, point)
            if len(x) < x.shape[1]:
                _log.warning("%s: %d samples in %d dimensions; covariance mostly shrunk", point, *x.shape)
            found = cross_fit(unit(x), labels, fold)
            spread = float(found.distances.std())
            if found.gaussian is None or spread == 0:
                _log.warning("%s: does not vary over the samples and is left out", point)
                continue
            kept.append(point)
            self._gaussians[point] = found.gaussian
            self._location[point], self._spread[point] = float(found.distances.mean()), spread
            held_out -= (found.distances - self._location[point]) / spread
        if not kept:
            raise RepdynError("fit: no point varies over the samples; are they all the same input?")
        self.points_ = tuple(kept)
        self.widths_ = {point: self.widths_[point] for point in kept}
        self.class_means_ = {point: len(self._gaussians[point].means) for point in kept}
        self._calibrate(held_out / len(kept), "cross-fitted")

    def _profile(self, batch: Mapping[str, NDArray[Any]]) -> Array:
        columns = []
        for point in self.points_:
            # Fitted in float64; distances need no more than float32, which is twice as fast.
            distance = self._gaussians[point].distance(unit(batch[point]).astype(np.float32))
            columns.append((distance - self._location[point]) / self._spread[point])
        return np.stack(columns, axis=1)

    def _score(self, batch: Mapping[str, NDArray[Any]]) -> Array:
        return np.asarray(-self._profile(batch).mean(axis=1))

    def as_module(self) -> PathModule:
        """The fitted detector as a ``torch.nn.Module``; see :meth:`Detector.as_module`."""
        from repdyn.ood.modules import PathModule  # torch is loaded only for a module

        self._fitted()
        densities = [self._gaussians[point] for point in self.points_]
        location = [self._location[point] for point in self.points_]
        spread = [self._spread[point] for point in self.points_]
        return PathModule(self.points_, densities, location, spread, self.threshold_)

    def _state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        tensors: dict[str, NDArray[Any]] = {}
        scalars = []
        for depth, point in enumerate(self.points_):
            gaussian = self._gaussians[point]
            for name in ("whitener", "centre", "means", "log_weights"):
                tensors[f"{depth}.{name}"] = getattr(gaussian, name)
            scalars.append(
                {
                    "log_determinant": gaussian.log_determinant,
                    "intensity": gaussian.intensity,
                    "location": self._location[point],
                    "spread": self._spread[point],
                }
            )
        controls, arrays = record_all(self.controls_)
        return {"seed": self.seed, "densities": scalars, "controls": controls}, {**tensors, **arrays}

    def _restore(self, config: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> None:
        self.seed = int(config["seed"])
        self._gaussians, self._location, self._spread = {}, {}, {}
        for depth, (point, scalars) in enumerate(zip(self.points_, config["densities"])):
            arrays = {n: tensors[f"{depth}.{n}"] for n in ("whitener", "centre", "means", "log_weights")}
            self._gaussians[point] = ShrunkGaussian(
                **arrays, log_determinant=scalars["log_determinant"], intensity=scalars["intensity"]
            )
            self._location[point], self._spread[point] = scalars["location"], scalars["spread"]
        self.class_means_ = {point: len(gaussian.means) for point, gaussian in self._gaussians.items()}
        self.controls_ = revive_all(config["controls"], tensors)


class MahalanobisDetector(PathDetector):
    """Mahalanobis distance at one point: what the path must add something to.

    The same density, normalisation and cross-fitting as :class:`PathDetector`, so that a difference
    between the two is the path's.

    Parameters
    ----------
    point
        The point; the last one unless told.
    seed
        Draws the folds.
    """

    def __init__(self, point: str | None = None, seed: int = 0) -> None:
        super().__init__(None if point is None else (point,), seed)
        self.point = point

    def fit(self, paths: RepresentationPaths) -> Self:
        """Learn the point's density; see :meth:`PathDetector.fit`."""
        self._fit_points(paths, (self.point or paths.points[-1],))
        self.controls_ = {}
        return self
