"""Base class of all detectors: scikit-learn's outlier interface over representation paths, read in chunks."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils.metadata_routing import UNUSED

from repdyn.artifacts import load_artifact, refuses_damage, save_artifact
from repdyn.conformity import check_arrays, check_values
from repdyn.errors import RepdynError, nearest_names
from repdyn.estimators import NotFittedError
from repdyn.hub import repository
from repdyn.ood.calibration import conformal_p_values, conformal_threshold
from repdyn.ood.gaussian import lengths
from repdyn.ood.inputs import Given, paths_of, readable
from repdyn.ood.path_chunks import (
    HELD,
    LOGITS,
    LOWEST,
    Chunk,
    MultiPassReader,
    as_arrays,
    as_requested,
    read_chunks,
    select_points,
)
from repdyn.ood.settings import FIT
from repdyn.paths import nearby
from repdyn.paths.importing import VECTORS
from repdyn.publishing import HubMixin
from repdyn.reading import as_array
from repdyn.repeats import groups_of_equal_rows

if TYPE_CHECKING:
    from torch import nn

    from repdyn.paths import RepresentationPaths

__all__ = ["CLASSES", "Detector", "equal_paths", "joint_groups", "sample_note", "scorer_of"]

Array = NDArray[np.float64]
Scorer = Callable[[Chunk], Array]

_SAVED = {
    "points": list[str],
    "widths": dict[str, int],
    "source": dict[str, Any],
    "calibration": Literal["cross-fitted", "held-out"],
    "threshold": float,
}
_SOURCE = ("digest", "pooling")  # metadata that must agree, or scores are not comparable
CLASSES: dict[str, type[Detector]] = {}
"""Every class of detectors, by its name in a saved folder."""


class Detector(HubMixin, OutlierMixin, BaseEstimator, ABC):  # type: ignore[misc]  # sklearn has no types
    """A score of how normal a representation path is; higher is more normal.

    An estimator of scikit-learn: its parameters are those of the constructor, ``fit_predict`` fits and
    predicts, and pipelines and ``clone`` work. The signs are scikit-learn's: :meth:`score_samples` is higher
    for normal paths, :meth:`decision_function` is negative for flagged ones, and :meth:`predict` gives −1 for
    these and 1 for the others. Where a detector reads one point, a matrix ``(N, D)`` is taken instead of
    paths.

    A path whose vector at a point is not finite, or has a norm more than ten times outside of the range
    fitted, scores −10³⁰, the lowest score, and is always flagged.

    Attributes
    ----------
    points_
        Points that are read.
    widths_
        Their widths.
    source_
        Digest and pooling of the model that the fitted paths were traced from.
    lengths_
        The smallest and the largest Euclidean norm fitted at each point.
    calibration_scores_
        Scores of in-distribution paths by models that were not fitted on them. After :meth:`fit`, those of
        the fitted paths in their order; of equal paths only the first counts.
    calibration_
        ``"cross-fitted"`` or ``"held-out"``.
    threshold_
        A path with a lower score is flagged.
    sample_scores_, sample_groups_
        Scores of all calibration samples ``(N,)``, and the group of equal samples of each. Not saved.
    """

    points_: tuple[str, ...]
    widths_: dict[str, int]
    source_: dict[str, Any]
    lengths_: dict[str, tuple[float, float]]
    calibration_scores_: Array
    calibration_: str
    threshold_: float
    sample_scores_: Array
    sample_groups_: NDArray[np.int64]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        CLASSES[cls.__name__] = cls

    # The first argument is the data; without this, scikit-learn takes it for metadata that is routed.
    __metadata_request__fit: ClassVar = {"paths": UNUSED}
    __metadata_request__predict: ClassVar = {"paths": UNUSED}
    __metadata_request__decision_function: ClassVar = {"paths": UNUSED}

    def fit(self, paths: Given, y: ArrayLike | None = None) -> Self:
        """Fit the detector to in-distribution data.

        Parameters
        ----------
        paths
            In-distribution paths, or the address of a store or of a file of vectors. Or ``{point: (N, D)}``,
            in which ``"logits"`` are the model's outputs. Or a matrix ``(N, D)`` of one point: an array, a
            tensor on any device, or a data frame.
        y
            Labels ``(N,)`` of arrays, integers or strings. Paths have labels of their own.

        Returns
        -------
        Self

        Raises
        ------
        RepdynError
            If the data are too few, not finite or constant, or lack what the detector reads.
        """
        return self.fit_paths(paths_of(self, paths, y, fitting=True))

    @abstractmethod
    def fit_paths(self, paths: RepresentationPaths) -> Self:
        """:meth:`fit` to paths."""

    def point_of_matrix(self) -> str:
        """Name of the point that a matrix becomes in :meth:`fit`."""
        named = getattr(self, "point", None) or VECTORS
        return str(named)

    @abstractmethod
    def score_chunk(self, chunk: Chunk) -> Array:
        """Scores ``(n,)`` of one chunk, without the check of norms."""

    @abstractmethod
    def _state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Fitted state of the subclass: JSON values and named arrays."""

    @abstractmethod
    def _restore(self, config: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> None:
        """Set the fitted state from what :meth:`_state` returned."""

    @overload
    def score_samples(self, paths: RepresentationPaths) -> Array: ...
    @overload
    def score_samples(self, paths: Given) -> Any: ...
    def score_samples(self, paths: Given) -> Any:
        """Score paths, reading a chunk at a time: higher is more normal.

        Parameters
        ----------
        paths
            Paths of the model, points and pooling that the detector was fitted on, or the address of a store.
            Or a mapping from points to tensors or arrays ``(N, D)``, as a reader gives it, or a matrix
            ``(N, D)`` where the detector reads one point; the model of these is not checked.

        Returns
        -------
        numpy.ndarray
            Shape ``(N,)``, float64. For tensors a tensor on their device, computed on the host with the
            numbers of stored paths. :meth:`as_module` and :class:`~repdyn.ood.MonitoredModel` compute on the
            device.

        Raises
        ------
        RepdynError
            If the paths are of another model or lack a point.

        Notes
        -----
        The score is −10³⁰ for a path that is not finite, or whose norm is more than ten times outside of the
        range fitted.
        """
        paths = readable(self, paths)
        if isinstance(paths, Mapping):
            self.check_fitted()
            chosen = select_points(paths, self.points_, self.widths_)
            return as_requested(self._checked_scores(Chunk(as_arrays(chosen)), self.score_chunk), chosen)
        self._check_paths(paths)
        return self._score_paths(paths, self.score_chunk)

    def decision_function(self, paths: Given) -> Any:
        """Score minus threshold, ``(N,)``: negative is flagged."""
        return self.score_samples(paths) - self.threshold_

    def predict(self, paths: Given) -> Any:
        """1 for a normal path, −1 for a flagged one, ``(N,)``, int64."""
        return 2 * (self.score_samples(paths) >= self.threshold_) - 1

    def p_values(self, paths: Given) -> Any:
        """Conformal p-value of each path, ``(N,)``: small is unusual.

        After :meth:`calibrate` on held-out paths, P(p ≤ α) ≤ α for in-distribution paths (see
        :mod:`repdyn.ood.calibration`). Before it the calibration scores are cross-fitted: the rate is close
        to α in practice, without the guarantee.
        """
        scores = self.score_samples(paths)
        p_values = conformal_p_values(self.calibration_scores_, as_array(scores))
        return p_values if isinstance(scores, np.ndarray) else scores.new_tensor(p_values)

    def calibrate(self, paths: Given, false_positive_rate: float = FIT.false_positive_rate) -> Self:
        """Set the threshold from in-distribution paths that the detector was not fitted on.

        Parameters
        ----------
        paths
            Held-out in-distribution paths, from the distribution that will be scored; or what :meth:`fit`
            takes.
        false_positive_rate
            Largest expected share of in-distribution paths that is flagged.

        Returns
        -------
        Self

        Raises
        ------
        RepdynError
            If too few paths are given for the rate, or too many of them have the lowest score.
        """
        self.check_fitted()
        paths = nearby(paths_of(self, paths), HELD)
        scores = self.score_samples(paths)
        groups = self._groups(paths)
        wrong = np.flatnonzero(scores <= LOWEST)
        if len(wrong) > false_positive_rate * len(scores):
            raise RepdynError(
                f"paths: {len(wrong)} of {len(scores)} are not finite or of a norm far from those fitted, "
                f"the first is sample {wrong[0]}; they cannot set a threshold, check them or leave them out"
            )
        self._calibrate(scores, "held-out", false_positive_rate, groups)
        self.calibrate_profile(paths, groups)
        return self

    def calibrate_profile(self, paths: RepresentationPaths, groups: NDArray[np.int64]) -> None:
        """Store the depth profile of held-out paths; nothing for detectors without a profile.

        Parameters
        ----------
        paths
            Held-out in-distribution paths.
        groups
            Group of equal paths that each belongs to, ``(N,)``; a group counts once.
        """
        return

    def sampling_notes(self) -> list[str]:
        """One line for each part that was fitted on a sample of the paths: how many, of how many."""
        return []

    @property
    def offset_(self) -> float:
        """scikit-learn's name of :attr:`threshold_`."""
        self.check_fitted()
        return self.threshold_

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "threshold_")

    def __repr__(self) -> str:  # of the fitted state; scikit-learn's shows parameters alone
        if not hasattr(self, "threshold_"):
            return f"{type(self).__name__}, not fitted"
        scores = f"{len(self.calibration_scores_)} {self.calibration_} scores"
        first = (
            f"{type(self).__name__}: {len(self.points_)} points, threshold {self.threshold_:.4g} of {scores}"
        )
        return "\n  ".join([first, *self.sampling_notes()])

    def as_module(self) -> nn.Module:
        """The fitted detector as a ``torch.nn.Module``, to run next to the model.

        Returns
        -------
        torch.nn.Module
            Maps ``{point: (n, D) tensor}`` to scores ``(n,)``, higher is more normal; its buffer
            ``threshold`` is :attr:`threshold_`. It holds buffers only, moves with ``.to(device)``, computes
            in float32, is differentiable, and can be exported by ``torch.export``.

        Raises
        ------
        RepdynError
            If there is no module for this detector.
        """
        raise RepdynError(f"{type(self).__name__}: cannot run as a module; use score_samples")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the detector as a folder (``config.json``, ``model.safetensors``)."""
        self.check_fitted()
        config, tensors = self.to_record()
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
        return cls.from_record(artifact.config, artifact.tensors, str(path))

    @classmethod
    def from_pretrained(
        cls, path: str | os.PathLike[str], *, revision: str | None = None, token: str | None = None
    ) -> Self:
        """As :meth:`load`, of a folder or of ``"user/name"`` on the Hugging Face Hub.

        Parameters
        ----------
        path
            A folder, or what :meth:`push_to_hub` wrote to.
        revision, token
            Branch, tag or commit on the Hub, and the account's token.

        Raises
        ------
        RepdynError
            As :meth:`load`; and if there is no such repository, or the Hub cannot be reached.
        """
        return cls.load(repository(path, revision, token))

    def to_record(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """The fitted detector as JSON values and named arrays."""
        config, tensors = self._state()
        common = {
            "detector": type(self).__name__,
            "points": list(self.points_),
            "widths": self.widths_,
            "source": self.source_,
            "calibration": self.calibration_,
            "threshold": self.threshold_,
            "lengths": {point: list(ends) for point, ends in self.lengths_.items()},
            "parameters": {
                name: value for name, value in self.get_params(deep=False).items() if _plain(value)
            },
        }
        return {**config, **common}, {**tensors, "calibration_scores": self.calibration_scores_}

    @classmethod
    def from_record(cls, config: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]], source: str) -> Self:
        """The detector that :meth:`to_record` recorded.

        Parameters
        ----------
        config, tensors
            The record.
        source
            Where it was read, for errors.
        """
        detector = cls()
        try:
            detector._restore_common(config, tensors)
            detector._restore(config, tensors)
            detector._restore_parameters(config)
        except (KeyError, TypeError, AttributeError) as error:
            raise RepdynError(f"{source}: the saved detector lacks {error}; save it again") from None
        return detector

    def _restore_common(self, config: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> None:
        """Set and check what all detectors save."""
        check_values(config, **_SAVED)
        check_arrays(tensors, True, calibration_scores="N")
        self.points_ = tuple(config["points"])
        self.widths_ = {name: int(width) for name, width in config["widths"].items()}
        self.source_ = dict(config["source"])
        known = config.get("lengths", {})  # not saved by version 0.1
        check_values({"lengths": known}, lengths=dict[str, list[float]])
        self.lengths_ = {point: (float(low), float(high)) for point, (low, high) in known.items()}
        self.calibration_ = str(config["calibration"])
        self.threshold_ = float(config["threshold"])
        self.calibration_scores_ = np.asarray(tensors["calibration_scores"], dtype=np.float64)
        if not self.points_ or set(self.points_) != set(self.widths_) or not np.isfinite(self.threshold_):
            raise ValueError(f"points {self.points_}, widths {self.widths_}, threshold {self.threshold_}")
        if not all(0 <= low <= high < np.inf for low, high in self.lengths_.values()):
            raise ValueError(f"lengths are {self.lengths_}, expected the smallest and the largest")

    def _restore_parameters(self, config: Mapping[str, Any]) -> None:
        """Set the constructor's arguments, so that a loaded detector can be fitted again or cloned."""
        saved = config.get("parameters", {})  # not saved by version 0.1
        check_values({"parameters": saved}, parameters=dict[str, Any])
        for name in saved.keys() & self.get_params(deep=False).keys():
            value = tuple(saved[name]) if isinstance(saved[name], list) else saved[name]
            if not _plain(value):
                raise ValueError(f"the parameter {name!r} is {value!r}")
            setattr(self, name, value)

    def _calibrate(
        self,
        scores: Array,
        how: str,
        rate: float = FIT.false_positive_rate,
        groups: NDArray[np.int64] | None = None,
    ) -> None:
        """Set threshold and calibration scores from scores ``(N,)``; a group of equal samples counts once."""
        self.sample_scores_ = scores
        self.sample_groups_ = np.arange(len(scores)) if groups is None else groups
        once = scores[np.sort(np.unique(self.sample_groups_, return_index=True)[1])]
        threshold = conformal_threshold(once, rate)
        self.calibration_scores_, self.calibration_, self.threshold_ = once, how, threshold

    def _groups(self, paths: RepresentationPaths) -> NDArray[np.int64]:
        """Group of equal paths that each belongs to, ``(N,)``."""
        return equal_paths(paths, self.points_)

    def _record_lengths(self, point: str, x: NDArray[Any]) -> None:
        """Widen the range of norms fitted at a point by those of rows ``(n, D)``."""
        if len(x):
            norms = lengths(x)
            self._widen_lengths(point, float(norms.min()), float(norms.max()))

    def _widen_lengths(self, point: str, smallest: float, largest: float) -> None:
        low, high = self.lengths_.get(point, (np.inf, 0.0))
        self.lengths_[point] = (min(low, smallest), max(high, largest))

    def limits(self, point: str) -> tuple[float, float]:
        """Smallest and largest norm at a point; a path outside of this range is flagged."""
        if point not in self.lengths_:
            return np.finfo(np.float64).tiny, np.inf  # fitted by version 0.1: only zero vectors are flagged
        low, high = self.lengths_[point]
        return low / FIT.length_margin, high * FIT.length_margin

    def _all_limits(self) -> dict[str, tuple[float, float]]:
        return {point: self.limits(point) for point in self.points_}

    def _valid(self, chunk: Chunk) -> NDArray[np.bool_]:
        """Whether every vector of a path is finite and within the limits of norms, ``(n,)``."""
        valid = [chunk.valid(point, self.limits(point)) for point in self.points_]
        return np.asarray(np.logical_and.reduce(valid), dtype=bool)

    def _begin(self, paths: RepresentationPaths, points: tuple[str, ...]) -> None:
        """Set the points read, their widths, and the model they come from."""
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

    def check_fitted(self) -> None:
        """Raise :class:`RepdynError` if the detector is not fitted."""
        if not hasattr(self, "threshold_"):
            raise NotFittedError(f"{type(self).__name__}: is not fitted; call fit(paths) first")

    def _check_paths(self, paths: RepresentationPaths) -> None:
        """Raise if the paths lack a point, or are of another model or pooling than those fitted."""
        self.check_fitted()
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

    def _score_paths(self, paths: RepresentationPaths, score: Scorer) -> Array:
        """Scores ``(N,)`` of paths, chunk by chunk, by a function of a chunk."""
        chunks = read_chunks(paths, self.points_, "scoring paths", allow_nonfinite=True)
        parts = [self._checked_scores(chunk, score) for chunk in chunks]
        return np.concatenate(parts) if parts else np.empty(0)

    def _checked_scores(self, chunk: Chunk, score: Scorer) -> Array:
        """Scores ``(n,)`` of one chunk; the lowest score for invalid rows."""
        with np.errstate(over="ignore", invalid="ignore"):  # only in invalid rows, which are replaced
            scores = np.asarray(score(chunk), dtype=np.float64)
        return np.where(np.isfinite(scores) & self._valid(chunk), np.maximum(scores, LOWEST), LOWEST)


def _plain(value: Any) -> bool:
    """Whether a parameter can be saved: a number, a name, a tuple of names, or nothing."""
    if isinstance(value, list | tuple):
        return all(isinstance(one, str) for one in value)
    return value is None or isinstance(value, str | int | float)


def scorer_of(detector: Detector, paths: RepresentationPaths) -> Scorer:
    """What scores chunks of these paths, ``(n,)`` each: several detectors may share one read of them.

    Raises
    ------
    RepdynError
        If the paths lack a point, or are of another model or pooling than those fitted.
    """
    detector._check_paths(paths)
    return lambda chunk: detector._checked_scores(chunk, detector.score_chunk)


def equal_paths(paths: RepresentationPaths, points: Iterable[str]) -> NDArray[np.int64]:
    """Group of paths that are equal at the points and at the last one, ``(N,)``."""
    # Logits may have few distinct values although samples differ: the last point is compared as well.
    compared = tuple(dict.fromkeys((*points, paths.points[-1])))
    return joint_groups(MultiPassReader(paths, compared, allow_nonfinite=True).equal().values())


def joint_groups(groups: Iterable[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Groups of samples that are in one group by each of several groupings ``(N,)``."""
    joint: NDArray[np.int64] | None = None
    for own in groups:
        if joint is not None and int(joint.max(initial=-1)) + 1 == len(joint):
            return joint  # all samples are distinct
        joint = own if joint is None else groups_of_equal_rows(np.column_stack([joint, own]), 0)
    if joint is None:
        raise RepdynError("there is no point to compare samples at; give points")
    return joint


def sample_note(kept: int, distinct: int | None, seed: int) -> str:
    """How many samples of how many were kept; ``distinct`` is ``None`` for detectors of version 0.1."""
    if distinct is None:
        return f"{kept} samples"
    if kept == distinct:
        return f"all {kept} different samples"
    return f"{kept} of {distinct} different samples, drawn with seed {seed}"


def _widths(paths: RepresentationPaths) -> dict[str, int]:
    """Width of everything that can be read: every point, and the logits if there are any."""
    widths = {} if paths.logits_width is None else {LOGITS: paths.logits_width}
    return {**widths, **{point: int(paths.widths[point]) for point in paths.points}}


def _source(paths: RepresentationPaths) -> dict[str, Any]:
    """The metadata that a score depends on, with the types that JSON gives back."""
    given = {key: paths.meta[key] for key in _SOURCE if paths.meta.get(key) is not None}
    return dict(json.loads(json.dumps(given, default=str)))
