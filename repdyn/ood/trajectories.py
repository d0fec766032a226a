"""Detectors over a latent vector field: how an auto-encoder moves a code says how well it knows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from repdyn.conformity import check_arrays, check_values
from repdyn.errors import RepdynError
from repdyn.ood.attractor import AttractorDetector
from repdyn.ood.chunks import read
from repdyn.ood.crossfit import cross_fit, folds
from repdyn.ood.detector import Detector, record_all, revive_all
from repdyn.ood.gaussian import ShrunkGaussian, fit_gaussian
from repdyn.ood.orbits import Map, apply, as_numpy, as_tensor, orbit_features
from repdyn.ood.residuals import FieldDetector, ReconstructionDetector, ResidualDetector

if TYPE_CHECKING:
    from repdyn.ood.modules import TrajectoryModule
    from repdyn.paths import RepresentationPaths

__all__ = ["TrajectoryDetector"]

Array = NDArray[np.float64]

# A hundredth of a feature's spread, squared. The logarithms of a contracting orbit are collinear up to
# rounding; without a floor that rounding would become a distance.
NOISE = 1e-4
STEADY = 1e-3  # logarithms and cosines that vary less over the samples are constant, float32 aside
FLIGHT = 1e3  # times the largest fitted code: a diverging orbit is held there, far out but finite


class TrajectoryDetector(FieldDetector):
    """How unusual the first steps of a code's orbit under z ↦ E(D(z)) are.

    From z_0 = E(x), z_{k+1} = E(D(z_k)), v_k = z_{k+1} − z_k: the logarithms of the reconstruction error,
    of ‖z_0‖, of every ‖v_k‖ and of ‖z_n − z_0‖, and the cosine of v_0 and v_1. The score is minus their
    Mahalanobis distance under a Ledoit–Wolf Gaussian of in-distribution samples.

    Parameters
    ----------
    encode, decode, point
        As in :class:`FieldDetector`.
    steps
        Steps n of the orbit. The first few carry the signal: later ones forget where they started.
    seed
        Draws the folds of the cross-fitted calibration scores.

    Attributes
    ----------
    controls_
        The parts alone: reconstruction, first residual, and the score of Fumero et al. (2025).

    References
    ----------
    Fumero, M. et al. (2025). Navigating the latent space dynamics of neural models. arXiv 2505.22785.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from repdyn.paths import RepresentationPaths
    >>> plane = torch.linalg.qr(torch.randn(8, 2, generator=torch.Generator().manual_seed(0))).Q
    >>> codes = np.random.default_rng(0).normal(size=(100, 2)).astype("float32")
    >>> paths = RepresentationPaths.from_arrays({"x": codes @ plane.numpy().T})
    >>> detector = TrajectoryDetector(lambda x: torch.tanh(x @ plane), lambda z: z @ plane.T).fit(paths)
    >>> off = RepresentationPaths.from_arrays({"x": codes @ plane.numpy().T + 3})
    >>> set(detector.predict(off).tolist())
    {-1}
    """

    controls_: dict[str, Detector]

    def __init__(
        self,
        encode: Map | None = None,
        decode: Map | None = None,
        point: str | None = None,
        steps: int = 8,
        seed: int = 0,
    ) -> None:
        super().__init__(encode, decode, point)
        self.steps = steps
        self.seed = seed

    def fit(self, paths: RepresentationPaths) -> Self:
        """Learn the features' density, and fit the controls on the same paths; see the class."""
        if self.steps < 2:
            raise RepdynError(f"steps: must be at least 2, got {self.steps}")
        super().fit(paths)
        maps = (self.encode, self.decode, self.point)
        self.controls_ = {
            "reconstruction": ReconstructionDetector(*maps).fit(paths),
            "first residual": ResidualDetector(*maps).fit(paths),
            "attractor trajectory": AttractorDetector(*maps).fit(paths),
        }
        return self

    def bind(self, encode: Map, decode: Map) -> Self:
        """Give a loaded detector and its controls their auto-encoder back; see :class:`FieldDetector`."""
        super().bind(encode, decode)
        for control in self.controls_.values():
            if isinstance(control, FieldDetector):
                control.bind(encode, decode)
        return self

    def _learn(self, paths: RepresentationPaths) -> Array:
        encode, _ = self._maps()
        (point,) = self.points_
        reach = [
            float(apply(encode, as_tensor(encode, b[point])).norm(dim=1).max())
            for b in read(paths, (point,), "encoding")
        ]
        self._radius = FLIGHT * max(max(reach), 1.0)
        features = np.concatenate([self._features(b) for b in read(paths, (point,), "following orbits")])
        self._location, self._scale = features.mean(axis=0), features.std(axis=0)
        self._scale = np.maximum(self._scale, STEADY)
        fold = folds(self._row_groups, self.seed)
        standard = (features - self._location) / self._scale
        found = cross_fit(standard, None, fold, NOISE)
        if found is None:
            raise RepdynError("fit: all orbits are the same; is the map constant, or are the samples?")
        self._gaussian = fit_gaussian(standard, None, NOISE)
        return -found.plain.distances

    def _score(self, batch: Mapping[str, NDArray[Any]]) -> Array:
        return -self._gaussian.distance((self._features(batch) - self._location) / self._scale)

    def _features(self, batch: Mapping[str, NDArray[Any]]) -> Array:
        encode, decode = self._maps()
        x = as_tensor(encode, batch[self.points_[0]])
        columns = orbit_features(encode, decode, x, self.steps, self._radius)
        return as_numpy(columns)

    def as_module(self) -> TrajectoryModule:
        """The fitted detector as a ``torch.nn.Module``, which holds the auto-encoder too.

        Raises
        ------
        RepdynError
            If encode or decode is a plain function: a module can only carry modules.
        """
        from torch import nn

        from repdyn.ood.modules import TrajectoryModule  # torch is loaded only for a module

        self._fitted()
        encode, decode = self._maps()
        if not (isinstance(encode, nn.Module) and isinstance(decode, nn.Module)):
            raise RepdynError("as_module: encode and decode must be nn.Modules, not functions")
        features = (self.points_[0], self.steps, self._radius)
        standard = (self._gaussian, self._location, self._scale)
        module = TrajectoryModule(encode, decode, features, standard, self.threshold_)
        return module.guarded(self._limits())

    def _state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        _, tensors = super()._state()
        controls, arrays = record_all(self.controls_)
        numbers, own = self._gaussian.to_arrays("orbit.")
        config = {
            "steps": self.steps,
            "seed": self.seed,
            "radius": self._radius,
            "density": numbers,
            "controls": controls,
        }
        return config, {**tensors, **own, "location": self._location, "scale": self._scale, **arrays}

    def _restore(self, config: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> None:
        super()._restore(config, tensors)
        check_values(config, steps=int, seed=int, radius=float, controls=dict[str, dict[str, Any]])
        check_arrays(tensors, True, location="F", scale="F")
        self.steps, self.seed = int(config["steps"]), int(config["seed"])
        self._radius = float(config["radius"])
        self._location, self._scale = tensors["location"], tensors["scale"]
        self._gaussian = ShrunkGaussian.from_arrays("orbit.", config["density"], tensors)
        self.controls_ = revive_all(config["controls"], tensors)
