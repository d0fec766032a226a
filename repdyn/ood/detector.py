"""What all detectors share: the scikit-learn outlier interface over representation paths, chunked."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, overload

import numpy as np
from numpy.typing import NDArray

from repdyn.artifacts import load_artifact, refuses_damage, refusing_damage, save_artifact
from repdyn.conformity import check_arrays, check_values
from repdyn.errors import RepdynError, nearest_names
from repdyn.ood.calibration import conformal_p_values, conformal_threshold
from repdyn.ood.chunks import HELD, Chunk, Repeated, read
from repdyn.ood.gaussian import lengths
from repdyn.paths import nearby
from repdyn.reading import as_array
from repdyn.repeats import groups_of_equal_rows

if TYPE_CHECKING:
    from torch import nn

    from repdyn.paths import RepresentationPaths

__all__ = ["LOGITS", "Detector", "load_detector"]

Array = NDArray[np.float64]

FALSE_POSITIVE_RATE = 0.05  # a threshold at 95 % true positives, the field's convention
# Lengths beyond ten times the largest fitted one, or below a tenth of the least, are of a layer that died or
# exploded. Under any tail up to Cauchy's, one of n fitted samples' likes is there once in 10 n.
REACH = 10.0
LOWEST = -1e30  # a score must be finite to be ranked, averaged and written
_SAVED = {
    "points": list[str],
    "widths": dict[str, int],
    "source": dict[str, Any],
    "calibration": Literal["cross-fitted", "held-out"],
    "threshold": float,
}
LOGITS = "logits"  # read like a point, from the logits that were traced with the paths
SOURCE = ("digest", "pooling")  # of the metadata: what must agree for scores to mean the same


class Detector(ABC):
    """A score of how normal a representation path is.

    After :meth:`fit` there are ``points_`` (what is read), ``source_`` (the model it was read from),
    ``calibration_scores_`` (scores of in-distribution paths by models that did not see them; after
    fitting, those of the fitted paths in their order; of equal paths only the first counts),
    ``calibration_`` (``"cross-fitted"`` or ``"held-out"``), ``threshold_``, and ``lengths_``, the least and
    the largest Euclidean norm seen at each point. A path that is not finite at a point, or of a norm more
    than ten times outside of that range, scores −10³⁰, the lowest there is: it is always flagged.
    """

    _kinds: ClassVar[dict[str, type[Detector]]] = {}

    points_: tuple[str, ...]
    widths_: dict[str, int]
    source_: dict[str, Any]
    lengths_: dict[str, tuple[float, float]]
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

    @overload
    def score_samples(self, paths: RepresentationPaths) -> Array: ...
    @overload
    def score_samples(self, paths: Mapping[str, Any]) -> Any: ...
    def score_samples(self, paths: RepresentationPaths | Mapping[str, Any]) -> Any:
        """Score paths, reading a chunk at a time: higher is more normal.

        Parameters
        ----------
        paths
            Paths of the model, points and pooling that the detector was fitted on. Or a mapping from points
            to tensors or arrays ``(N, D)``, as a reader gives it; whose model it is of is not known.

        Returns
        -------
        numpy.ndarray
            Shape ``(N,)``, float64. Of tensors a tensor, on their device; the numbers are those of paths,
            computed on the host. What :meth:`as_module` gives stays on the device, and so does
            :class:`~repdyn.ood.MonitoredModel`.

        Raises
        ------
        RepdynError
            If the paths are of another model or lack a point.

        Notes
        -----
        −10³⁰ for a path that is not finite, or whose norm is more than ten times outside of the range fitted.
        """
        if isinstance(paths, Mapping):
            from repdyn.ood.mappings import answered, arrays_of, taken  # torch is loaded only for tensors

            self._fitted()
            chosen = taken(paths, self.points_, self.widths_)
            return answered(chosen, self._judged(Chunk(arrays_of(chosen)), self._score))
        self._check(paths)
        return self._collect(paths, self._score)

    def decision_function(self, paths: RepresentationPaths | Mapping[str, Any]) -> Any:
        """Score minus threshold, ``(N,)``: negative is flagged."""
        return self.score_samples(paths) - self.threshold_

    def predict(self, paths: RepresentationPaths | Mapping[str, Any]) -> Any:
        """1 for a normal path, −1 for a flagged one, ``(N,)``, int64."""
        return 2 * (self.score_samples(paths) >= self.threshold_) - 1

    def p_values(self, paths: RepresentationPaths | Mapping[str, Any]) -> Any:
        """Conformal p-value of each path, ``(N,)``: small is unusual.

        After :meth:`calibrate` on held-out paths, P(p ≤ α) ≤ α for in-distribution paths (see
        :mod:`repdyn.ood.calibration`). Before it the calibration scores are cross-fitted: close to that
        in practice, without the guarantee.
        """
        scores = self.score_samples(paths)
        found = conformal_p_values(self.calibration_scores_, as_array(scores))
        return found if isinstance(scores, np.ndarray) else scores.new_tensor(found)

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
        paths = nearby(paths, HELD)
        scores = self.score_samples(paths)
        groups = self._groups(paths)
        wrong = np.flatnonzero(scores <= LOWEST)
        if len(wrong) > false_positive_rate * len(scores):
            raise RepdynError(
                f"paths: {len(wrong)} of {len(scores)} are not finite or of a norm far from those fitted, "
                f"the first is sample {wrong[0]}; they cannot set a threshold, look at them or leave them out"
            )
        self._calibrate(scores, "held-out", false_positive_rate, groups)
        for part in (self, *getattr(self, "members_", {}).values()):
            part._note_usual(paths, groups)
        return self

    def _drawn(self) -> list[str]:
        """What was learned from a sample of the fitted paths instead of all: of how many, how many."""
        return []

    def __repr__(self) -> str:
        if not hasattr(self, "threshold_"):
            return f"{type(self).__name__}, not fitted"
        scores = f"{len(self.calibration_scores_)} {self.calibration_} scores"
        first = (
            f"{type(self).__name__}: {len(self.points_)} points, threshold {self.threshold_:.4g} of {scores}"
        )
        return "\n  ".join([first, *self._drawn()])

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
            "lengths": {point: list(ends) for point, ends in self.lengths_.items()},
        }
        return {**config, **common}, {**tensors, "calibration_scores": self.calibration_scores_}

    def _adopt(self, config: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]], where: str) -> None:
        try:
            check_values(config, **_SAVED)
            check_arrays(tensors, True, calibration_scores="N")
            self.points_ = tuple(config["points"])
            self.widths_ = {name: int(width) for name, width in config["widths"].items()}
            self.source_ = dict(config["source"])
            known = config.get("lengths", {})  # version 0.1 did not keep them
            check_values({"lengths": known}, lengths=dict[str, list[float]])
            self.lengths_ = {point: (float(low), float(high)) for point, (low, high) in known.items()}
            self.calibration_ = str(config["calibration"])
            self.threshold_ = float(config["threshold"])
            self.calibration_scores_ = np.asarray(tensors["calibration_scores"], dtype=np.float64)
            if not self.points_ or set(self.points_) != set(self.widths_) or not np.isfinite(self.threshold_):
                raise ValueError(f"points {self.points_}, widths {self.widths_}, threshold {self.threshold_}")
            if not all(0 <= low <= high < np.inf for low, high in self.lengths_.values()):
                raise ValueError(f"lengths are {self.lengths_}, expected the least and the largest")
            self._restore(config, tensors)
        except (KeyError, TypeError, AttributeError) as error:
            raise RepdynError(f"{where}: the saved detector lacks {error}; save it again") from None

    def _calibrate(
        self,
        scores: Array,
        how: str,
        rate: float = FALSE_POSITIVE_RATE,
        groups: NDArray[np.int64] | None = None,
    ) -> None:
        """Calibrate by scores ``(N,)``, of which equal samples (by group) count once."""
        self._all_scores, self._row_groups = scores, np.arange(len(scores)) if groups is None else groups
        once = scores[np.sort(np.unique(self._row_groups, return_index=True)[1])]
        threshold = conformal_threshold(once, rate)
        self.calibration_scores_, self.calibration_, self.threshold_ = once, how, threshold

    def _groups(self, paths: RepresentationPaths) -> NDArray[np.int64]:
        return equal_paths(paths, self.points_)

    def _note_usual(self, paths: RepresentationPaths, groups: NDArray[np.int64]) -> None:
        """Keep what held-out paths look like at each depth; without a profile, nothing."""
        return

    def _note(self, point: str, x: NDArray[Any]) -> None:
        """Widen the range of lengths seen at a point."""
        if len(x):
            own = lengths(x)
            self._widen(point, float(own.min()), float(own.max()))

    def _widen(self, point: str, least: float, largest: float) -> None:
        low, high = self.lengths_.get(point, (np.inf, 0.0))
        self.lengths_[point] = (min(low, least), max(high, largest))

    def limits(self, point: str) -> tuple[float, float]:
        """Lengths at a point outside of which a path is flagged whatever its direction."""
        if point not in self.lengths_:
            return np.finfo(np.float64).tiny, np.inf  # fitted by version 0.1: zero alone is told
        low, high = self.lengths_[point]
        return low / REACH, high * REACH

    def _limits(self) -> dict[str, tuple[float, float]]:
        return {point: self.limits(point) for point in self.points_}

    def _sound(self, batch: Chunk) -> NDArray[np.bool_]:
        """Whether every vector read of a path is finite and of a length like those fitted, ``(n,)``."""
        sound = [batch.sound(point, self.limits(point)) for point in self.points_]
        return np.asarray(np.logical_and.reduce(sound), dtype=bool)

    def _begin(self, paths: RepresentationPaths, points: tuple[str, ...]) -> None:
        """Note what is read and from which model."""
        widths = _widths(paths)
        for point in points:
            if point not in widths:
                raise RepdynError(
                    f"point {point!r}: not in these paths; {nearest_names(point, tuple(widths))}"
                )
        self.points_ = points
        self.lengths_ = {}
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
        batches = read(paths, self.points_, "scoring paths", judging=True)
        parts = [self._judged(batch, score) for batch in batches]
        return np.concatenate(parts) if parts else np.empty(0)

    def _judged(self, batch: Chunk, score: Any) -> Array:
        """Scores of one chunk; the lowest for rows that no score is meant for."""
        with np.errstate(over="ignore", invalid="ignore"):  # of rows that are flagged below
            found = np.asarray(score(batch), dtype=np.float64)
        return np.where(np.isfinite(found) & self._sound(batch), np.maximum(found, LOWEST), LOWEST)


def equal_paths(paths: RepresentationPaths, points: Iterable[str]) -> NDArray[np.int64]:
    """Group of paths equal at the points and at the last; what does not fit is read in parts."""
    # Logits alone may be few and equal though the samples differ: the last point is looked at too.
    looked = tuple(dict.fromkeys((*points, paths.points[-1])))
    return joint(Repeated(paths, looked, judging=True).equal().values())


def joint(groups: Iterable[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Groups of samples that are in one group by every one of several groupings."""
    found: NDArray[np.int64] | None = None
    for own in groups:
        if found is not None and int(found.max(initial=-1)) + 1 == len(found):
            return found  # no two are equal
        found = own if found is None else groups_of_equal_rows(np.column_stack([found, own]), 0)
    if found is None:
        raise RepdynError("there is no point to compare samples at; give points")
    return found


def told_drawn(kept: int, different: int | None, seed: int) -> str:
    """How many of how many, in words; ``None`` where a detector of version 0.1 did not note it."""
    if different is None:
        return f"{kept} samples"
    if kept == different:
        return f"all {kept} different samples"
    return f"{kept} of {different} different samples, drawn with seed {seed}"


def noted(config: Mapping[str, Any], name: str) -> int | None:
    """A count that version 0.1 did not save."""
    if config.get(name) is None:
        return None
    check_values(config, **{name: int})
    return int(config[name])


def load_detector(path: str | os.PathLike[str]) -> Detector:
    """Read a saved detector of any class.

    Raises
    ------
    RepdynError
        If there is none, or it is truncated.
    """
    artifact = load_artifact(path, "detector")
    with refusing_damage(path, "detector"):
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
    found = {} if paths.logits_width is None else {LOGITS: paths.logits_width}
    return {**found, **{point: int(paths.widths[point]) for point in paths.points}}


def _source(paths: RepresentationPaths) -> dict[str, Any]:
    """The parts of the paths' metadata that a score depends on, as JSON gives them back."""
    found = {key: paths.meta[key] for key in SOURCE if paths.meta.get(key) is not None}
    return dict(json.loads(json.dumps(found, default=str)))
