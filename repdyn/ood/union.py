"""Several detectors as one: their p-values combined, and the combination calibrated again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from repdyn.errors import RepdynError
from repdyn.ood.calibration import smooth_log_p_values
from repdyn.ood.detector import LOGITS, Detector, record_all, revive_all
from repdyn.ood.detectors import PathDetector
from repdyn.ood.guidance import GuidedEnergyDetector

if TYPE_CHECKING:
    from repdyn.ood.modules import UnionModule
    from repdyn.paths import RepresentationPaths

__all__ = ["UnionDetector"]

Array = NDArray[np.float64]


class UnionDetector(Detector):
    """What several detectors say together.

    Each member i turns a path into a p-value p_i by its cross-fitted in-distribution scores; the score is
    Fisher's statistic, halved,

        score(x) = Σ_i log p_i(x),

    which falls when one member is very sure or when several are somewhat. Members depend on each other,
    so its distribution is not Fisher's χ²: the sum is calibrated anew, as the score of any detector.

    Parameters
    ----------
    members
        Detectors by name, unfitted. Unless given: the :class:`PathDetector`, its controls at the last
        point (nearest neighbours, Mahalanobis and relative Mahalanobis distance) and, where logits were
        traced, the :class:`GuidedEnergyDetector`.

    Attributes
    ----------
    members_
        The fitted members.
    controls_
        The same: a union stands beside its parts.

    Notes
    -----
    After :meth:`calibrate` on n held-out in-distribution paths, a fresh one is flagged at rate α with
    probability at most α (:mod:`repdyn.ood.calibration`), however much the members depend on each other.
    Before it, the calibration scores are cross-fitted: a member's p-value of a fitted sample comes from a
    model that had not seen it, but the guarantee is then only approximate.

    References
    ----------
    Fisher, R. A. (1925). Statistical methods for research workers. Bates, S. et al. (2023). Testing for
    outliers with conformal p-values. Annals of Statistics 51(1).

    Examples
    --------
    >>> import numpy as np
    >>> from repdyn.paths import RepresentationPaths
    >>> x = np.random.default_rng(0).normal(size=(200, 8)) + 3
    >>> union = UnionDetector().fit(RepresentationPaths.from_arrays({"x": x}))
    >>> sorted(union.members_)
    ['Mahalanobis', 'nearest neighbours', 'path']
    """

    members_: dict[str, Detector]

    def __init__(self, members: Mapping[str, Detector] | None = None) -> None:
        self.members = members

    @property
    def controls_(self) -> dict[str, Detector]:
        """The fitted members."""
        return self.members_

    def fit(self, paths: RepresentationPaths) -> Self:
        """Fit every member on the same paths and calibrate their combination.

        Raises
        ------
        RepdynError
            If there is no member, or one cannot be fitted.
        """
        if self.members is None:
            path = PathDetector().fit(paths)
            self.members_ = {"path": path, **path.controls_}
            path.controls_ = {}  # they are members here, and need not be kept twice
            if paths.logits is not None:
                self.members_["guided energy"] = GuidedEnergyDetector().fit(paths)
        else:
            self.members_ = {name: member.fit(paths) for name, member in self.members.items()}
        if not self.members_:
            raise RepdynError("members: there is none; give {'name': detector}")
        read = {point for member in self.members_.values() for point in member.points_}
        self._begin(paths, tuple(point for point in (*paths.points, LOGITS) if point in read))
        self._references = {
            name: np.sort(member.calibration_scores_) for name, member in self.members_.items()
        }
        scores = {name: member.calibration_scores_ for name, member in self.members_.items()}
        self._calibrate(self._combine(scores), "cross-fitted")
        return self

    def as_module(self) -> UnionModule:
        """The fitted union as a ``torch.nn.Module``; see :meth:`Detector.as_module`."""
        from repdyn.ood.modules import UnionModule  # torch is loaded only for a module

        self._fitted()
        members = [member.as_module() for member in self.members_.values()]
        return UnionModule(members, list(self._references.values()), self.threshold_)

    def _combine(self, scores: Mapping[str, Array]) -> Array:
        logarithms = [smooth_log_p_values(self._references[name], own) for name, own in scores.items()]
        return np.asarray(np.sum(logarithms, axis=0))

    def _score(self, batch: Mapping[str, NDArray[Any]]) -> Array:
        return self._combine({name: member._score(batch) for name, member in self.members_.items()})

    def _state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        config, tensors = record_all(self.members_)
        references = {f"reference {name}": array for name, array in self._references.items()}
        return {"members": config}, {**tensors, **references}

    def _restore(self, config: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> None:
        self.members_ = revive_all(config["members"], tensors)
        self._references = {name: np.asarray(tensors[f"reference {name}"]) for name in self.members_}
