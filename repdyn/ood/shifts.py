"""What kind of shift an input has: covariate shift or another class, told by two detectors."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from repdyn.errors import RepdynError
from repdyn.ood.comparison import IN_DISTRIBUTION
from repdyn.ood.detector import Detector
from repdyn.paths import PathsLike, as_paths

__all__ = ["COVARIATE_SHIFT", "OUT_OF_DISTRIBUTION", "kinds_of_shift"]

COVARIATE_SHIFT, OUT_OF_DISTRIBUTION = "covariate shift", "out-of-distribution"


def kinds_of_shift(detector: Detector, tolerant: Detector, paths: PathsLike) -> NDArray[np.str_]:
    """Whether each path is in-distribution, corrupted, or out-of-distribution.

    A detector of clean data flags inputs of other classes and corrupted inputs of the known classes alike. A
    second detector, fitted and calibrated on clean *and* corrupted inputs of the known classes, accepts
    corruptions. What the first flags and the second accepts has a covariate shift; what both flag is
    out-of-distribution.

    Parameters
    ----------
    detector
        Fitted and calibrated on clean in-distribution paths.
    tolerant
        Fitted and calibrated on clean and corrupted in-distribution paths. Any corruptions that you can make
        yourself will do; how far unknown ones are accepted is measured in docs/studies/ood.md.
    paths
        Paths with the points that both read, or what :func:`repdyn.paths.as_paths` takes.

    Returns
    -------
    numpy.ndarray
        Shape ``(N,)``: ``"in-distribution"``, ``"covariate shift"`` or ``"out-of-distribution"``.

    Raises
    ------
    RepdynError
        If one of them is not fitted, both are the same detector, or a path lacks a point.

    Examples
    --------
    >>> import numpy as np
    >>> from repdyn.ood import MahalanobisDetector
    >>> generator = np.random.default_rng(0)
    >>> clean = np.array([1.0, 0, 0]) + 0.1 * generator.normal(size=(200, 3))
    >>> both = np.concatenate([clean, clean + generator.uniform(0, 2, (200, 1)) * [0, 1, 0]])
    >>> detector, tolerant = MahalanobisDetector().fit(clean), MahalanobisDetector().fit(both)
    >>> kinds_of_shift(detector, tolerant, np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1.0]])).tolist()
    ['in-distribution', 'covariate shift', 'out-of-distribution']
    """
    if detector is tolerant:
        raise RepdynError("tolerant: is the same detector; fit a second one on clean and corrupted paths")
    paths = as_paths(paths, "paths")
    usual, accepted = (np.asarray(one.predict(paths)) > 0 for one in (detector, tolerant))
    shifted = np.where(accepted, COVARIATE_SHIFT, OUT_OF_DISTRIBUTION)
    return np.where(usual, IN_DISTRIBUTION, shifted)
