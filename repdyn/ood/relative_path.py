"""The part of a path's distance that classes decide, at every depth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from repdyn.ood.crossfit import CrossFit, HeldOut
from repdyn.ood.detectors import PathDetector, Shared

if TYPE_CHECKING:
    from repdyn.paths import RepresentationPaths

__all__ = ["RelativePathDetector"]


class RelativePathDetector(PathDetector):
    """How much less a path is like any class than like the data as a whole, at the depths that know classes.

    The mean over depth of the standardised relative distance (:class:`repdyn.ood.crossfit.RelativeDensity`),
    at the points where class means describe held-out samples more shortly. Whatever moves all classes alike
    cancels, so it hears foreign *content* that is drowned in a whole path's distance, and is blind to what is
    foreign in every other way: a member of a union, or a detector of new classes.

    Parameters
    ----------
    points, seed
        As in :class:`PathDetector`.

    References
    ----------
    Ren, J. et al. (2021). A simple fix to Mahalanobis distance for improving near-OOD detection.
    arXiv 2106.09022. Here on unit vectors, with shrunk covariances, at every depth.
    """

    _nothing = "class means help at no point; give labels with several samples a class, or use PathDetector"

    def fit(self, paths: RepresentationPaths) -> Self:
        """Learn each point's densities; see :meth:`PathDetector.fit`."""
        return self.fit_beside(paths, None)

    def fit_beside(self, paths: RepresentationPaths, at_hand: Shared | None) -> Self:
        """The same, with what :meth:`PathDetector.fit_shared` returned for these paths and this seed."""
        self._fit_points(paths, tuple(self.points) if self.points is not None else paths.points, at_hand)
        self.controls_ = {}
        return self

    def _choose(self, fitted: CrossFit) -> HeldOut | None:
        return fitted.relative
