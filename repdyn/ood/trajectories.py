"""Detectors over an encode-decode map: how an auto-encoder moves a code under z ↦ E(D(z)).

:class:`TrajectoryDetector` reads the first steps of the orbit. Its controls read parts of it:
:class:`ReconstructionDetector`, :class:`ResidualDetector` (one step) and :class:`AttractorDetector` (the
score of Fumero et al., 2025).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from repdyn.conformity import check_arrays, check_values
from repdyn.errors import RepdynError
from repdyn.ood.crossfit import cross_fit, draw_folds
from repdyn.ood.detector import Detector
from repdyn.ood.gaussian import ShrunkGaussian, fit_gaussian, lengths
from repdyn.ood.path_chunks import Chunk, read_chunks, read_point
from repdyn.ood.records import optional_count, record_all, restore_all
from repdyn.ood.settings import FIT, ORBIT
from repdyn.reading import as_array
from repdyn.repeats import folds_by_group

if TYPE_CHECKING:
    from torch import Tensor

    from repdyn.ood.modules import TrajectoryModule
    from repdyn.paths import RepresentationPaths

__all__ = [
    "AttractorDetector",
    "FieldDetector",
    "Map",
    "ReconstructionDetector",
    "ResidualDetector",
    "TrajectoryDetector",
]

Array = NDArray[np.float64]
Map = Callable[["Tensor"], "Tensor"]


class FieldDetector(Detector):
    """Base of the detectors over an encode-decode map: the map, and inputs to recognize it by.

    Parameters
    ----------
    encode
        Maps ``(n, D)`` tensors of the point to codes ``(n, d)``; normalization, if wanted, is part of it.
    decode
        Maps codes back.
    point
        The point of the path that is encoded. Default: the last one.

    Notes
    -----
    A fitted detector is saved without the maps, which belong to the user: after loading, :meth:`bind` them.
    The auto-encoder has usually been trained on the fitted samples, so its residuals on them are too small:
    call :meth:`calibrate` with held-out paths before the threshold or a p-value is used.
    """

    def __init__(
        self, encode: Map | None = None, decode: Map | None = None, point: str | None = None
    ) -> None:
        self.encode = encode
        self.decode = decode
        self.point = point

    def bind(self, encode: Map, decode: Map) -> Self:
        """Set the auto-encoder of a loaded detector.

        Raises
        ------
        RepdynError
            If it maps the stored probes differently than the auto-encoder of the fit.
        """
        self.check_fitted()
        self.encode, self.decode = encode, decode
        image = self._image(self._probes)
        if image.shape != self._images.shape or not np.allclose(image, self._images, rtol=1e-2, atol=1e-4):
            self.encode = self.decode = None
            raise RepdynError("bind: this auto-encoder is not the one the detector was fitted with")
        return self

    def fit_paths(self, paths: RepresentationPaths) -> Self:
        """Fit the score of in-distribution codes.

        Raises
        ------
        RepdynError
            If the maps are missing, do not fit together, or give non-finite values.
        """
        self._maps()
        if len(paths) < FIT.min_samples:
            raise RepdynError(f"fit: {len(paths)} samples are too few, give at least {FIT.min_samples}")
        point = self.point or paths.points[-1]
        self._begin(paths, (point,))
        self._probes = np.asarray(read_point(paths.subset(np.arange(ORBIT.probes)), point), dtype=np.float32)
        self._images = self._image(self._probes)
        for chunk in read_chunks(paths, self.points_, "reading samples to encode"):
            self._record_lengths(point, chunk[point])
        groups = self._groups(paths)
        self._calibrate(self._fit_scores(paths, groups), "cross-fitted", groups=groups)
        return self

    @abstractmethod
    def _fit_scores(self, paths: RepresentationPaths, groups: NDArray[np.int64]) -> Array:
        """Fit to the paths and return their scores ``(N,)``, cross-fitted where something is fitted.

        Parameters
        ----------
        paths
            In-distribution paths.
        groups
            Group of equal paths that each belongs to, ``(N,)``.
        """

    def _maps(self) -> tuple[Map, Map]:
        if self.encode is None or self.decode is None:
            raise RepdynError(
                f"{type(self).__name__}: has no auto-encoder; give encode and decode, or bind(encode, decode)"
            )
        return self.encode, self.decode

    def _encoded(self, chunk: Mapping[str, NDArray[Any]]) -> tuple[Tensor, Tensor]:
        """Inputs ``(n, D)`` of a chunk on the encoder's device, and their codes ``(n, d)``."""
        encode, _ = self._maps()
        x = _as_tensor(encode, chunk[self.points_[0]])
        return x, _apply(encode, x)

    def _image(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Codes of decoded codes, E(D(E(x))), ``(n, D) -> (n, d)``."""
        encode, decode = self._maps()
        code = _apply(encode, _as_tensor(encode, x))
        back = _apply(decode, code)
        if back.shape != x.shape:
            raise RepdynError(f"decode: gave shape {tuple(back.shape)} for inputs of {x.shape}")
        image = as_array(_apply(encode, back))
        if not np.isfinite(image).all():
            raise RepdynError("encode: gives non-finite codes of decoded in-distribution samples")
        return np.asarray(image, dtype=np.float32)

    def _state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        return {}, {"probes": self._probes, "images": self._images}

    def _restore(self, config: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> None:
        check_arrays(tensors, True, probes=f"N {self.widths_[self.points_[0]]}")
        if len(tensors["images"]) != len(tensors["probes"]) or not np.isfinite(tensors["images"]).all():
            raise ValueError(f"images have shape {tensors['images'].shape}, or are not finite")
        self._probes = np.asarray(tensors["probes"], dtype=np.float32)
        self._images = np.asarray(tensors["images"], dtype=np.float32)


class TrajectoryDetector(FieldDetector):
    """Mahalanobis distance of the first steps of a code's orbit under z ↦ E(D(z)).

    From z_0 = E(x), z_{k+1} = E(D(z_k)), v_k = z_{k+1} − z_k: the features are the logarithms of the
    reconstruction error, of ‖z_0‖, of every ‖v_k‖ and of ‖z_n − z_0‖, and the cosine of v_0 and v_1. The
    score is minus their Mahalanobis distance under a Ledoit–Wolf Gaussian of in-distribution samples.

    Parameters
    ----------
    encode, decode, point
        As in :class:`FieldDetector`.
    steps
        Steps n of the orbit. The first few carry the signal; later ones depend little on the start.
    seed
        Draws the folds of the cross-fitted calibration scores.

    Attributes
    ----------
    controls_
        Parts of the score alone: reconstruction, first residual, and the score of Fumero et al. (2025).

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

    def fit_paths(self, paths: RepresentationPaths) -> Self:
        """Fit the density of the features, and the controls on the same paths."""
        if self.steps < 2:
            raise RepdynError(f"steps: must be at least 2, got {self.steps}")
        super().fit_paths(paths)
        maps = (self.encode, self.decode, self.point)
        self.controls_ = {
            "reconstruction": ReconstructionDetector(*maps).fit(paths),
            "first residual": ResidualDetector(*maps).fit(paths),
            "attractor trajectory": AttractorDetector(*maps).fit(paths),
        }
        return self

    def bind(self, encode: Map, decode: Map) -> Self:
        """Set the auto-encoder of a loaded detector and of its controls; see :class:`FieldDetector`."""
        super().bind(encode, decode)
        for control in self.controls_.values():
            if isinstance(control, FieldDetector):
                control.bind(encode, decode)
        return self

    def _fit_scores(self, paths: RepresentationPaths, groups: NDArray[np.int64]) -> Array:
        encode, _ = self._maps()
        (point,) = self.points_
        largest = [
            float(_apply(encode, _as_tensor(encode, chunk[point])).norm(dim=1).max())
            for chunk in read_chunks(paths, (point,), "encoding")
        ]
        self._radius = ORBIT.escape_radius * max(max(largest), 1.0)
        chunks = read_chunks(paths, (point,), "following orbits")
        features = np.concatenate([self._features(chunk) for chunk in chunks])
        self._location, self._scale = features.mean(axis=0), features.std(axis=0)
        self._scale = np.maximum(self._scale, ORBIT.min_scale)
        standardized = (features - self._location) / self._scale
        fitted = cross_fit(standardized, None, draw_folds(groups, self.seed), ORBIT.feature_floor)
        if fitted is None:
            raise RepdynError("fit: all orbits are the same; is the map constant, or are the samples?")
        self._gaussian = fit_gaussian(standardized, None, ORBIT.feature_floor)
        return -fitted.plain.distances

    def score_chunk(self, chunk: Chunk) -> Array:
        """Minus the Mahalanobis distance of the features, ``(n,)``."""
        return -self._gaussian.distance((self._features(chunk) - self._location) / self._scale)

    def _features(self, chunk: Mapping[str, NDArray[Any]]) -> Array:
        """Features of the orbits, ``(n, steps + 4)``."""
        encode, decode = self._maps()
        x = _as_tensor(encode, chunk[self.points_[0]])
        return _as_numpy(orbit_features(encode, decode, x, self.steps, self._radius))

    def as_module(self) -> TrajectoryModule:
        """The fitted detector as a ``torch.nn.Module``, which holds the auto-encoder too.

        Raises
        ------
        RepdynError
            If encode or decode is a plain function: a module can only hold modules.
        """
        from torch import nn

        from repdyn.ood.modules import TrajectoryModule  # loads torch

        self.check_fitted()
        encode, decode = self._maps()
        if not (isinstance(encode, nn.Module) and isinstance(decode, nn.Module)):
            raise RepdynError("as_module: encode and decode must be nn.Modules, not functions")
        features = partial(orbit_features, steps=self.steps, radius=self._radius, gradient=True)
        standard = (self._gaussian, self._location, self._scale)
        module = TrajectoryModule(encode, decode, self.points_[0], features, standard, self.threshold_)
        return module.guarded(self._all_limits())

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
        self.controls_ = restore_all(config["controls"], tensors)


class ReconstructionDetector(FieldDetector):
    """Minus the reconstruction error, −‖x − D(E(x))‖: the simplest control of any auto-encoder score."""

    def _fit_scores(self, paths: RepresentationPaths, groups: NDArray[np.int64]) -> Array:
        return self._score_paths(paths, self.score_chunk)

    def score_chunk(self, chunk: Chunk) -> Array:
        """Minus the reconstruction error, ``(n,)``."""
        _, decode = self._maps()
        x, code = self._encoded(chunk)
        return -_as_numpy((x - _apply(decode, code)).norm(dim=1))


class ResidualDetector(FieldDetector):
    """Minus the length of the field at the code, −‖E(D(z)) − z‖ with z = E(x): one step, no attractor."""

    def _fit_scores(self, paths: RepresentationPaths, groups: NDArray[np.int64]) -> Array:
        return self._score_paths(paths, self.score_chunk)

    def score_chunk(self, chunk: Chunk) -> Array:
        """Minus the length of the first step, ``(n,)``."""
        encode, decode = self._maps()
        _, code = self._encoded(chunk)
        return -_as_numpy((_apply(encode, _apply(decode, code)) - code).norm(dim=1))


class AttractorDetector(FieldDetector):
    """Minus the mean distance of a code's orbit to the nearest attractor of training codes.

        score(x) = − (1 / n) Σ_{k < n} min_{a ∈ Z*} ‖z_k − a‖,   z_{k+1} = E(D(z_k)), z_0 = E(x),

    over the orbit until ‖z_{k+1} − z_k‖² < ``tol`` or ``max_steps``. Z* are the ends of training orbits
    under the same rule; ends whose cosine is above 0.99 count once.

    Parameters
    ----------
    encode, decode, point
        As in :class:`FieldDetector`.
    starts
        Largest number of training codes that are followed to attractors (the paper: 2000).
    tol, max_steps
        The stopping rule (the paper: 1e-6 and 3000 for small auto-encoders, 1e-5 and 500 for large ones).
        The tolerance is absolute and squared, as published, so it depends on the scale of the codes.
    seed
        Draws the starts and the folds.

    Notes
    -----
    A reproduction for comparison, not a recommendation: in our runs on small auto-encoders and feature
    surrogates it stayed below the first residual and the reconstruction error. The paper reports it on a
    ViT-MAE, which was not tried. An orbit end that has not converged counts as an attractor, as published.

    References
    ----------
    Fumero, M., Moschella, L., Rodolà, E. & Locatello, F. (2025). Navigating the latent space dynamics of
    neural models. arXiv 2505.22785, section 5.3.
    """

    def __init__(
        self,
        encode: Map | None = None,
        decode: Map | None = None,
        point: str | None = None,
        starts: int = 2000,
        tol: float = 1e-6,
        max_steps: int = 500,
        seed: int = 0,
    ) -> None:
        super().__init__(encode, decode, point)
        self.starts = starts
        self.tol = tol
        self.max_steps = max_steps
        self.seed = seed

    attractors_: NDArray[np.float32]
    _followed: tuple[int | None, int | None]

    def _fit_scores(self, paths: RepresentationPaths, groups: NDArray[np.int64]) -> Array:
        generator = np.random.default_rng(self.seed)
        chosen = np.sort(generator.permutation(len(paths))[: self.starts])
        # Equal samples end at one attractor: they share a fold.
        _, group = np.unique(groups[chosen], return_inverse=True)
        fold = folds_by_group(group, FIT.folds, generator)
        chunks = read_chunks(paths.subset(chosen), self.points_, "following training codes")
        ends = np.concatenate([self._orbit_ends(chunk) for chunk in chunks])
        usable = np.isfinite(ends).all(axis=1)
        if not usable.any():
            raise RepdynError(
                "fit: every training orbit diverges; the map expands, there is no attractor to find"
            )
        self.attractors_ = _distinct_ends(ends[usable])
        self._followed = len(chosen), len(paths)
        # A training sample's own end is an attractor at distance 0: it is scored against the ends of others.
        scores = np.empty(len(paths))
        rest = np.setdiff1d(np.arange(len(paths)), chosen)
        if len(rest):
            scores[rest] = self._score_paths(paths.subset(rest), self.score_chunk)
        for k in range(FIT.folds):
            others = usable & (fold != k)
            if (fold == k).any():
                held_out = _distinct_ends(ends[others]) if others.any() else self.attractors_
                chunks = read_chunks(paths.subset(chosen[fold == k]), self.points_, "scoring held-out codes")
                scores[chosen[fold == k]] = np.concatenate([self._mean_distance(c, held_out) for c in chunks])
        return scores

    def score_chunk(self, chunk: Chunk) -> Array:
        """Minus the mean distance to the nearest attractor, ``(n,)``."""
        return self._mean_distance(chunk, self.attractors_)

    def _orbit_ends(self, chunk: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Ends of the orbits, ``(n, d)``."""
        _, code = self._encoded(chunk)
        return as_array(self._follow(code, None)[0], np.float32)

    def _mean_distance(self, chunk: Mapping[str, NDArray[Any]], attractors: NDArray[np.float32]) -> Array:
        """Minus the mean distance ``(n,)`` of the orbits to the nearest of the attractors ``(A, d)``."""
        from repdyn.devices import as_given  # loads torch

        _, code = self._encoded(chunk)
        mean = self._follow(code, as_given(attractors, code))[1]
        # A diverged orbit is infinitely far; a score must be finite to be ranked.
        return -_as_numpy(mean.nan_to_num(nan=1e30, posinf=1e30).clamp_max(1e30))

    def _follow(self, code: Tensor, attractors: Tensor | None) -> tuple[Tensor, Tensor]:
        """Orbit ends ``(n, d)`` and mean distances to the nearest attractor ``(n,)``.

        Orbits that meet the stopping rule leave the batch.
        """
        import torch

        encode, decode = self._maps()
        ends, total, count = code.clone(), code.new_zeros(len(code)), code.new_zeros(len(code))
        active = torch.arange(len(code), device=code.device)
        for _ in range(self.max_steps):
            if attractors is not None:
                total[active] += torch.cdist(code, attractors).amin(dim=1)
            count[active] += 1
            after = _apply(encode, _apply(decode, code))
            ends[active] = after
            speed = (after - code).square().sum(dim=1)
            going = (speed >= self.tol) & speed.isfinite()
            active, code = active[going], after[going]
            if len(active) == 0:
                break
        return ends, total / count

    def _state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        config, tensors = super()._state()
        own = {"starts": self.starts, "tol": self.tol, "max_steps": self.max_steps, "seed": self.seed}
        counts = dict(zip(("followed", "samples"), self._followed))
        return {**config, **own, **counts}, {**tensors, "attractors": self.attractors_}

    def sampling_notes(self) -> list[str]:
        """From how many samples the attractors were reached; nothing for detectors of version 0.1."""
        followed, samples = self._followed
        if followed is None:
            return []
        return [f"attractors: reached from {followed} of {samples} samples, drawn with seed {self.seed}"]

    def _restore(self, config: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> None:
        super()._restore(config, tensors)
        check_values(config, starts=int, tol=float, max_steps=int, seed=int)
        check_arrays(tensors, True, attractors="A D")
        self.starts, self.tol = int(config["starts"]), float(config["tol"])
        self.max_steps, self.seed = int(config["max_steps"]), int(config["seed"])
        self._followed = optional_count(config, "followed"), optional_count(config, "samples")
        self.attractors_ = np.asarray(tensors["attractors"], dtype=np.float32)


def orbit_features(
    encode: Map, decode: Map, x: Tensor, steps: int, radius: float, *, gradient: bool = False
) -> Tensor:
    """The features of :class:`TrajectoryDetector`, ``(n, D) -> (n, steps + 4)``.

    Parameters
    ----------
    encode, decode
        The auto-encoder.
    x
        Inputs ``(n, D)``.
    steps
        Steps of the orbit.
    radius
        Norm at which a diverging orbit is held.
    gradient
        Whether gradients are kept.
    """
    import torch

    run = _call if gradient else _apply
    start = code = _limited(run(encode, x), radius)
    columns, velocities = [], []
    for k in range(steps):
        back = run(decode, code)
        if k == 0:
            columns += [_log_norm(_limited(x - back, radius)), _log_norm(code)]
        after = _limited(run(encode, back), radius)
        velocities.append(after - code)
        columns.append(_log_norm(velocities[-1]))
        code = after
    columns.append(_log_norm(code - start))
    columns.append(torch.cosine_similarity(velocities[0], velocities[1], dim=1))
    return torch.stack(columns, dim=1)


def _limited(z: Tensor, radius: float) -> Tensor:
    """Vectors ``(n, d)`` with norms of at most ``radius``: features of a diverging orbit are then finite."""
    z = z.nan_to_num(nan=radius, posinf=radius, neginf=-radius)
    shrink: Tensor = radius / z.norm(dim=1, keepdim=True).clamp_min(ORBIT.norm_floor)
    return z * shrink.clamp_max(1.0)


def _log_norm(z: Tensor) -> Tensor:
    """Logarithm of each row's norm, ``(n, d) -> (n,)``; finite where an orbit does not move."""
    norm: Tensor = z.norm(dim=1)
    return norm.clamp_min(ORBIT.norm_floor).log()


def _call(function: Map, x: Tensor) -> Tensor:
    return function(x)


def _apply(function: Map, x: Tensor) -> Tensor:
    """A map without its gradient."""
    import torch

    with torch.no_grad():
        return function(x).detach()


def _as_tensor(function: Map, x: NDArray[Any]) -> Tensor:
    """The input on the device and in the precision of the map; float32 on the CPU for a plain function."""
    import torch

    from repdyn.devices import device_of, dtype_of, to  # loads torch

    own = np.require(x, requirements="W")  # torch warns of memory that cannot be written, as a memory map's
    moved: Tensor = to(torch.as_tensor(own), device_of(function), dtype_of(function) or torch.float32)
    return moved


def _as_numpy(x: Tensor) -> Array:
    """A tensor as a float64 array."""
    array: Array = as_array(x, np.float64)
    return array


def _distinct_ends(ends: NDArray[np.float32]) -> NDArray[np.float32]:
    """The first of every group of ends ``(n, d)`` whose cosine is above 0.99, ``(A, d)``."""
    norm = lengths(ends)[:, None]  # in float64: orbits that diverge have ends near the largest float32
    units = (ends / np.maximum(norm, 1e-12)).astype(ends.dtype)
    kept: list[int] = []
    free = np.ones(len(ends), dtype=bool)
    for row in range(len(ends)):
        if free[row]:
            kept.append(row)
            free &= units @ units[row] <= ORBIT.same_attractor
    return ends[kept]
