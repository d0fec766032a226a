"""Detectors over a latent vector field: how an auto-encoder moves a code says how well it knows it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from repdyn.errors import RepdynError
from repdyn.ood.detector import Detector, read, record_all, revive_all, values
from repdyn.ood.gaussian import FOLDS, ShrunkGaussian, cross_fit

if TYPE_CHECKING:
    from torch import Tensor

    from repdyn.ood.modules import TrajectoryModule
    from repdyn.paths import RepresentationPaths

__all__ = ["FieldDetector", "ReconstructionDetector", "ResidualDetector", "TrajectoryDetector"]

Array = NDArray[np.float64]
Map = Callable[["Tensor"], "Tensor"]

DENSITY = ("whitener", "centre", "means", "log_weights")
# A hundredth of a feature's spread, squared. The logarithms of a contracting orbit are collinear up to
# rounding; without a floor that rounding would become a distance.
NOISE = 1e-4
STEADY = 1e-3  # logarithms and cosines that vary less over the samples are constant, float32 aside
PROBES = 8  # inputs kept to recognise the auto-encoder by when a detector is loaded
FLIGHT = 1e3  # times the largest fitted code: a diverging orbit is held there, far out but finite
FLOOR = 1e-12  # below any float32 residual; keeps a logarithm finite where an orbit stands still


class FieldDetector(Detector):
    """What detectors over an encode-decode map share: the map, and how to recognise it again.

    Parameters
    ----------
    encode
        Maps ``(n, D)`` tensors of the point to codes ``(n, d)``; normalisation, if wanted, is its part.
    decode
        Maps codes back.
    point
        The point of the path that is encoded; the last one unless told.

    Notes
    -----
    A fitted detector is saved without the maps, which are the user's: after loading, :meth:`bind` them.
    The auto-encoder has usually seen the fitted samples, so its residuals on them are too small: call
    :meth:`calibrate` with held-out paths before the threshold or a p-value is used.
    """

    def __init__(
        self, encode: Map | None = None, decode: Map | None = None, point: str | None = None
    ) -> None:
        self.encode = encode
        self.decode = decode
        self.point = point

    def bind(self, encode: Map, decode: Map) -> Self:
        """Give a loaded detector its auto-encoder back.

        Raises
        ------
        RepdynError
            If it moves the kept probes elsewhere than the one fitted with.
        """
        self._fitted()
        self.encode, self.decode = encode, decode
        image = self._image(self._probes)
        if image.shape != self._images.shape or not np.allclose(image, self._images, rtol=1e-2, atol=1e-4):
            self.encode = self.decode = None
            raise RepdynError("bind: this auto-encoder is not the one the detector was fitted with")
        return self

    def fit(self, paths: RepresentationPaths) -> Self:
        """Learn how in-distribution codes move.

        Raises
        ------
        RepdynError
            If the maps are missing, do not fit together, or give non-finite values.
        """
        self._maps()
        if len(paths) < 4 * FOLDS:
            raise RepdynError(f"fit: {len(paths)} samples are too few, give at least {4 * FOLDS}")
        point = self.point or paths.points[-1]
        self._begin(paths, (point,))
        self._probes = np.asarray(values(paths.subset(np.arange(PROBES)), point), dtype=np.float32)
        self._images = self._image(self._probes)
        self._calibrate(self._learn(paths), "cross-fitted")
        return self

    @abstractmethod
    def _learn(self, paths: RepresentationPaths) -> Array:
        """Learn from the paths and give their scores, cross-fitted where something is learned."""

    def _maps(self) -> tuple[Map, Map]:
        if self.encode is None or self.decode is None:
            raise RepdynError(
                f"{type(self).__name__}: has no auto-encoder; give encode and decode, or bind(encode, decode)"
            )
        return self.encode, self.decode

    def _image(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        encode, decode = self._maps()
        code = apply(encode, as_tensor(encode, x))
        back = apply(decode, code)
        if back.shape != x.shape:
            raise RepdynError(f"decode: gave shape {tuple(back.shape)} for inputs of {x.shape}")
        image = apply(encode, back).cpu().numpy()
        if not np.isfinite(image).all():
            raise RepdynError("encode: gives non-finite codes of decoded in-distribution samples")
        return np.asarray(image, dtype=np.float32)

    def _state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        return {}, {"probes": self._probes, "images": self._images}

    def _restore(self, config: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> None:
        self._probes = np.asarray(tensors["probes"], dtype=np.float32)
        self._images = np.asarray(tensors["images"], dtype=np.float32)


class ReconstructionDetector(FieldDetector):
    """Minus the reconstruction error, −‖x − D(E(x))‖: the plain control of every auto-encoder score."""

    def _learn(self, paths: RepresentationPaths) -> Array:
        return self._collect(paths, self._score)

    def _score(self, batch: Mapping[str, NDArray[Any]]) -> Array:
        encode, decode = self._maps()
        x = as_tensor(encode, batch[self.points_[0]])
        return -as_numpy((x - apply(decode, apply(encode, x))).norm(dim=1))


class ResidualDetector(FieldDetector):
    """Minus the length of the field at the code, −‖E(D(z)) − z‖ with z = E(x): one step, no attractor."""

    def _learn(self, paths: RepresentationPaths) -> Array:
        return self._collect(paths, self._score)

    def _score(self, batch: Mapping[str, NDArray[Any]]) -> Array:
        encode, decode = self._maps()
        code = apply(encode, as_tensor(encode, batch[self.points_[0]]))
        return -as_numpy((apply(encode, apply(decode, code)) - code).norm(dim=1))


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
        from repdyn.ood.attractor import AttractorDetector  # that module builds on this one

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
        fold = np.arange(len(paths)) % FOLDS
        np.random.default_rng(self.seed).shuffle(fold)
        found = cross_fit((features - self._location) / self._scale, None, fold, NOISE)
        if found.gaussian is None:
            raise RepdynError("fit: all orbits are the same; is the map constant, or are the samples?")
        self._gaussian = found.gaussian
        return -found.distances

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
        return TrajectoryModule(encode, decode, features, standard, self.threshold_)

    def _state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        _, tensors = super()._state()
        controls, arrays = record_all(self.controls_)
        config = {
            "steps": self.steps,
            "seed": self.seed,
            "radius": self._radius,
            "log_determinant": self._gaussian.log_determinant,
            "intensity": self._gaussian.intensity,
            "controls": controls,
        }
        own = {name: getattr(self._gaussian, name) for name in DENSITY}
        return config, {**tensors, **own, "location": self._location, "scale": self._scale, **arrays}

    def _restore(self, config: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> None:
        super()._restore(config, tensors)
        self.steps, self.seed = int(config["steps"]), int(config["seed"])
        self._radius = float(config["radius"])
        self._location, self._scale = tensors["location"], tensors["scale"]
        self._gaussian = ShrunkGaussian(
            **{name: tensors[name] for name in DENSITY},
            log_determinant=config["log_determinant"],
            intensity=config["intensity"],
        )
        self.controls_ = revive_all(config["controls"], tensors)


def orbit_features(encode: Map, decode: Map, x: Tensor, steps: int, radius: float) -> Tensor:
    """The features of :class:`TrajectoryDetector`, ``(n, D) -> (n, steps + 4)``."""
    import torch

    start = code = _held(apply(encode, x), radius)
    columns, velocities = [], []
    for k in range(steps):
        back = apply(decode, code)
        if k == 0:
            columns += [_log_norm(_held(x - back, radius)), _log_norm(code)]
        after = _held(apply(encode, back), radius)
        velocities.append(after - code)
        columns.append(_log_norm(velocities[-1]))
        code = after
    columns.append(_log_norm(code - start))
    columns.append(torch.cosine_similarity(velocities[0], velocities[1], dim=1))
    return torch.stack(columns, dim=1)


def _held(z: Tensor, radius: float) -> Tensor:
    """Keep an orbit that leaves for infinity on a far sphere, so that what is computed of it is finite."""
    z = z.nan_to_num(nan=radius, posinf=radius, neginf=-radius)
    shrink: Tensor = radius / z.norm(dim=1, keepdim=True).clamp_min(FLOOR)
    return z * shrink.clamp_max(1.0)


def _log_norm(z: Tensor) -> Tensor:
    norm: Tensor = z.norm(dim=1)
    return norm.clamp_min(FLOOR).log()


def apply(function: Map, x: Tensor) -> Tensor:
    """A map without its gradient."""
    import torch

    with torch.no_grad():
        return function(x).detach()


def as_tensor(function: Map, x: NDArray[Any]) -> Tensor:
    """The input on the device and in the precision of the map, float32 on the CPU where it says nothing."""
    import torch
    from torch import nn

    parameter = next(function.parameters(), None) if isinstance(function, nn.Module) else None
    like = torch.empty(0) if parameter is None else parameter
    return torch.as_tensor(np.asarray(x)).to(device=like.device, dtype=like.dtype)


def as_numpy(x: Tensor) -> Array:
    """A tensor as a float64 array."""
    return np.asarray(x.detach().cpu().double().numpy())
