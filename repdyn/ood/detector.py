"""What all detectors share: the scikit-learn outlier interface over representation paths, chunked."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from repdyn.artifacts import load_artifact, refuses_damage, save_artifact
from repdyn.errors import RepdynError, nearest_names
from repdyn.ood.calibration import conformal_p_values, conformal_threshold
from repdyn.ood.chunks import Chunk, read

if TYPE_CHECKING:
    from torch import nn

    from repdyn.paths import RepresentationPaths

__all__ = ["LOGITS", "Detector", "load_detector"]

Array = NDArray[np.float64]

FALSE_POSITIVE_RATE = 0.05  # a threshold at 95 % true positives, the field's convention
LOGITS = "logits"  # read like a point, from the logits that were traced with the paths
SOURCE = ("digest", "pooling")  # of the metadata: what must agree for scores to mean the same


class Detector(ABC):
    """A score of how normal a representation path is.

    After :meth:`fit` there are ``points_`` (what is read), ``source_`` (the model it was read from),
    ``calibration_scores_`` (scores of in-distribution paths by models that did not see them; after
    fitting, those of the fitted paths in their order), ``calibration_`` (``"cross-fitted"`` or
    ``"held-out"``) and ``threshold_``.
    """

    _kinds: ClassVar[dict[str, type[Detector]]] = {}

    points_: tuple[str, ...]
    widths_: dict[str, int]
    source_: dict[str, Any]
    calibration_scores_: Array
    calibration_: str
    threshold_: float

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        Detector._kinds[cls.__name__] = cls

    @abstractmethod
    def fit(self, paths: RepresentationPaths) -> Self:
        """Learn what is normal from in-distribution paths."""

    @abstractmethod
    def _score(self, batch: Chunk) -> Array:
        """Scores ``(n,)`` of one chunk, higher is more normal."""

    @abstractmethod
    def _state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """What this kind of detector has learned: JSON values and named arrays."""

    @abstractmethod
    def _restore(self, config: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> None:
        """Take back what :meth:`_state` gave."""

    def score_samples(self, paths: RepresentationPaths) -> Array:
        """Score paths, reading a chunk at a time: higher is more normal.

        Parameters
        ----------
        paths
            Paths of the model, points and pooling that the detector was fitted on.

        Returns
        -------
        numpy.ndarray
            Shape ``(N,)``.

        Raises
        ------
        RepdynError
            If the paths are of another model, lack a point, or hold non-finite values.
        """
        self._check(paths)
        return self._collect(paths, self._score)

    def decision_function(self, paths: RepresentationPaths) -> Array:
        """Score minus threshold, ``(N,)``: negative is flagged."""
        return self.score_samples(paths) - self.threshold_

    def predict(self, paths: RepresentationPaths) -> NDArray[np.int64]:
        """1 for a normal path, −1 for a flagged one, ``(N,)``."""
        return np.where(self.score_samples(paths) < self.threshold_, -1, 1).astype(np.int64)

    def p_values(self, paths: RepresentationPaths) -> Array:
        """Conformal p-value of each path, ``(N,)``: small is unusual.

        After :meth:`calibrate` on held-out paths, P(p ≤ α) ≤ α for in-distribution paths (see
        :mod:`repdyn.ood.calibration`). Before it the calibration scores are cross-fitted: close to that
        in practice, without the guarantee.
        """
        return conformal_p_values(self.calibration_scores_, self.score_samples(paths))

    def calibrate(self, paths: RepresentationPaths, false_positive_rate: float = FALSE_POSITIVE_RATE) -> Self:
        """Set the threshold from in-distribution paths the detector was not fitted on.

        Parameters
        ----------
        paths
            Held-out in-distribution paths, drawn as those to come.
        false_positive_rate
            Share of in-distribution paths that may be flagged, at most, on average.

        Returns
        -------
        Self
        """
        self._calibrate(self.score_samples(paths), "held-out", false_positive_rate)
        return self

    def as_module(self) -> nn.Module:
        """The fitted detector as a ``torch.nn.Module``, to run beside the model.

        Returns
        -------
        torch.nn.Module
            Maps ``{point: (n, D) tensor}`` to scores ``(n,)``, higher is more normal; its buffer
            ``threshold`` is :attr:`threshold_`. It holds buffers only, moves with ``.to(device)``, computes
            in float32, is differentiable, and goes through ``torch.export``.

        Raises
        ------
        RepdynError
            If this kind of detector has no such form.
        """
        raise RepdynError(f"{type(self).__name__}: cannot run as a module; use score_samples")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the detector as a folder (``config.json``, ``model.safetensors``)."""
        self._fitted()
        config, tensors = self._record()
        save_artifact(path, "detector", config, tensors)

    @classmethod
    @refuses_damage
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a detector of this class that :meth:`save` wrote.

        Raises
        ------
        RepdynError
            If it is not there, truncated, or a detector of another class.
        """
        artifact = load_artifact(path, "detector")
        name = artifact.config.get("detector")
        if name != cls.__name__:
            raise RepdynError(f"{path}: holds a {name}, expected a {cls.__name__}; load it with {name}.load")
        detector = cls()
        detector._adopt(artifact.config, artifact.tensors, str(path))
        return detector

    def _record(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        config, tensors = self._state()
        common = {
            "detector": type(self).__name__,
            "points": list(self.points_),
            "widths": self.widths_,
            "source": self.source_,
            "calibration": self.calibration_,
            "threshold": self.threshold_,
        }
        return {**config, **common}, {**tensors, "calibration_scores": self.calibration_scores_}

    def _adopt(self, config: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]], where: str) -> None:
        try:
            self.points_ = tuple(config["points"])
            self.widths_ = {name: int(width) for name, width in config["widths"].items()}
            self.source_ = dict(config["source"])
            self.calibration_ = str(config["calibration"])
            self.threshold_ = float(config["threshold"])
            self.calibration_scores_ = np.asarray(tensors["calibration_scores"], dtype=np.float64)
            self._restore(config, tensors)
        except (KeyError, TypeError, AttributeError) as error:
            raise RepdynError(f"{where}: the saved detector lacks {error}; save it again") from None

    def _calibrate(self, scores: Array, how: str, rate: float = FALSE_POSITIVE_RATE) -> None:
        threshold = conformal_threshold(scores, rate)
        self.calibration_scores_, self.calibration_, self.threshold_ = scores, how, threshold

    def _begin(self, paths: RepresentationPaths, points: tuple[str, ...]) -> None:
        """Note what is read and from which model."""
        widths = _widths(paths)
        for point in points:
            if point not in widths:
                raise RepdynError(
                    f"point {point!r}: not in these paths; {nearest_names(point, tuple(widths))}"
                )
        self.points_ = points
        self.widths_ = {point: widths[point] for point in points}
        self.source_ = _source(paths)

    def _fitted(self) -> None:
        if not hasattr(self, "threshold_"):
            raise RepdynError(f"{type(self).__name__}: is not fitted; call fit(paths) first")

    def _check(self, paths: RepresentationPaths) -> None:
        """Refuse paths whose scores would not mean the same as those the detector was fitted on."""
        self._fitted()
        widths = _widths(paths)
        for point in self.points_:
            if point not in widths:
                raise RepdynError(
                    f"paths: lack the point {point!r} the detector was fitted on; "
                    f"{nearest_names(point, tuple(widths))}; trace with the same points"
                )
            if widths[point] != self.widths_[point]:
                raise RepdynError(
                    f"paths: {point!r} is {widths[point]} wide, the detector was fitted on "
                    f"{self.widths_[point]}; trace with the same model and pooling"
                )
        source = _source(paths)
        for key in self.source_.keys() & source.keys():
            if self.source_[key] != source[key]:
                raise RepdynError(
                    f"paths: their {key} is {source[key]!r}, the detector was fitted on "
                    f"{self.source_[key]!r}; fit a detector on paths like these"
                )

    def _collect(self, paths: RepresentationPaths, score: Any) -> Array:
        parts = [score(batch) for batch in read(paths, self.points_, "scoring paths")]
        return np.concatenate(parts) if parts else np.empty(0)


def load_detector(path: str | os.PathLike[str]) -> Detector:
    """Read a saved detector of any class.

    Raises
    ------
    RepdynError
        If there is none, or it is truncated.
    """
    artifact = load_artifact(path, "detector")
    return revive(artifact.config, artifact.tensors, str(path))


def revive(config: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]], where: str) -> Detector:
    """A detector from what it recorded, of the class it names."""
    name = str(config.get("detector"))
    if name not in Detector._kinds:
        raise RepdynError(f"{where}: holds an unknown detector {name!r}; upgrade repdyn")
    detector = Detector._kinds[name]()
    detector._adopt(config, tensors, where)
    return detector


def record_all(detectors: Mapping[str, Detector]) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """What several named detectors have learned, as one configuration and one set of arrays."""
    config, tensors = {}, {}
    for name, detector in detectors.items():
        config[name], arrays = detector._record()
        tensors.update({f"{name}/{key}": array for key, array in arrays.items()})
    return config, tensors


def revive_all(config: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> dict[str, Detector]:
    """The detectors that :func:`record_all` recorded."""
    found = {}
    for name, inner in config.items():
        arrays = {k.removeprefix(f"{name}/"): a for k, a in tensors.items() if k.startswith(f"{name}/")}
        found[name] = revive(inner, arrays, name)
    return found


def _widths(paths: RepresentationPaths) -> dict[str, int]:
    """Width of all that can be read: every point, and the logits where there are some."""
    found = {} if paths.logits is None else {LOGITS: int(paths.logits.shape[1])}
    return {**found, **{point: int(paths.widths[point]) for point in paths.points}}


def _source(paths: RepresentationPaths) -> dict[str, Any]:
    """The parts of the paths' metadata that a score depends on, as JSON gives them back."""
    found = {key: paths.meta[key] for key in SOURCE if paths.meta.get(key) is not None}
    return dict(json.loads(json.dumps(found, default=str)))
