"""Several detectors as one: their p-values combined, and the combination calibrated again."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from repdyn.conformity import check_arrays, check_values
from repdyn.errors import RepdynError
from repdyn.ood.calibration import smooth_log_p_values
from repdyn.ood.chunks import HELD, Chunk
from repdyn.ood.crossfit import share
from repdyn.ood.detector import LOGITS, Detector, joint, noted, record_all, revive_all
from repdyn.ood.detectors import PathDetector
from repdyn.ood.rehearsal import FEWEST, MOST
from repdyn.ood.weighing import asking, rehearsed_weights
from repdyn.paths import nearby

if TYPE_CHECKING:
    from repdyn.ood.modules import UnionModule
    from repdyn.paths import RepresentationPaths

__all__ = ["UnionDetector"]

Array = NDArray[np.float64]


class UnionDetector(Detector):
    """What several detectors say together.

    Each member i turns a path into a p-value p_i by its cross-fitted in-distribution scores; the score is
    Fisher's statistic, halved, with weights,

        score(x) = Σ_i w_i log p_i(x),

    which falls when one member is very sure or when several are somewhat. Members depend on each other,
    so its distribution is not Fisher's χ²: the sum is calibrated anew, as the score of any detector.

    Parameters
    ----------
    members
        Detectors by name, of equal weight; copies are fitted. Unless given, each asks another question: the
        :class:`PathDetector`; with labels that help, the :class:`RelativePathDetector` and the relative
        distance at the last point; nearest neighbours at the last point. These are weighed by a rehearsal.
        Where logits were traced, their energy, plain and guided, which share a weight of 1.
    seed
        Draws the rehearsal.

    Attributes
    ----------
    members_
        The fitted members.
    weights_
        Their weights. A member of weight 0 is not kept.
    controls_
        The members, and the path's controls: a union stands beside its parts.

    Notes
    -----
    **The rehearsal** looks at in-distribution data alone. Groups of the fitted samples (classes, or clusters)
    are held out and play the near foreign, samples with coordinates shuffled, all or a tenth, play the far
    (:mod:`repdyn.ood.rehearsal`); members are fitted without them, and a logistic regression of known against
    foreign on −log p_i, weights not negative, is drawn towards equal weights, which stay where the rehearsal
    has nothing to say, or where there are fewer than 200 paths. The head does not take part: it was trained
    on the held-out groups, knows them, and would be silenced for it.

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
    >>> x = np.random.default_rng(0).normal(size=(150, 8)) + 3
    >>> union = UnionDetector().fit(RepresentationPaths.from_arrays({"x": x}))
    >>> sorted(union.members_)
    ['nearest neighbours', 'path']
    """

    members_: dict[str, Detector]

    weights_: dict[str, float]

    def __init__(self, members: Mapping[str, Detector] | None = None, seed: int = 0) -> None:
        self.members = members
        self.seed = seed

    @property
    def controls_(self) -> dict[str, Detector]:
        """The fitted members, and what stands beside the path detector."""
        return {**self.members_, **self._others}

    def fit(self, paths: RepresentationPaths) -> Self:
        """Fit every member on the same paths and calibrate their combination.

        Raises
        ------
        RepdynError
            If there is no member, or one cannot be fitted.
        """
        paths, self._others, self._rehearsed = nearby(paths, HELD), {}, None
        if self.members is None:
            fitted, others = asking(paths, self.seed)
            weights = rehearsed_weights(paths, tuple(fitted), self.seed)
            self._rehearsed = min(len(paths), MOST) if len(paths) >= FEWEST else None
            self.members_ = {name: member for name, member in fitted.items() if weights[name] > 0}
            self.weights_ = {name: weights[name] for name in self.members_}
            self._others = {n: d for n, d in {**others, **fitted}.items() if n not in self.members_}
        else:
            self.members_ = {name: copy.copy(member).fit(paths) for name, member in self.members.items()}
            self.weights_ = dict.fromkeys(self.members_, 1.0)
        if not self.members_:
            raise RepdynError("members: there is none; give {'name': detector}")
        read = {point for member in self.members_.values() for point in member.points_}
        self._begin(paths, tuple(point for point in (*paths.points, LOGITS) if point in read))
        self._references = {
            name: np.sort(member.calibration_scores_) for name, member in self.members_.items()
        }
        for member in self.members_.values():
            for point in member.points_:
                for end in member.lengths_.get(point, ()):
                    low, high = self.lengths_.get(point, (end, end))
                    self.lengths_[point] = (min(low, end), max(high, end))
        scores = {name: member._all_scores for name, member in self.members_.items()}
        groups = joint(member._row_groups for member in self.members_.values())
        self._calibrate(self._combine(scores), "cross-fitted", groups=groups)
        return self

    def as_module(self) -> UnionModule:
        """The fitted union as a ``torch.nn.Module``; see :meth:`Detector.as_module`."""
        from repdyn.ood.modules import UnionModule  # torch is loaded only for a module

        self._fitted()
        members = [member.as_module() for member in self.members_.values()]
        weights = list(self.weights_.values())
        module = UnionModule(members, weights, list(self._references.values()), self.threshold_)
        return module.guarded(self._limits())

    def _drawn(self) -> list[str]:
        said = [f"{name}, {own}" for name, member in self.controls_.items() for own in member._drawn()]
        if self._rehearsed is not None:
            said.append(f"weights: rehearsed on {self._rehearsed} samples")
        return said

    def _combine(self, scores: Mapping[str, Array]) -> Array:
        logarithms = [
            self.weights_[name] * smooth_log_p_values(self._references[name], own)
            for name, own in scores.items()
        ]
        return np.asarray(np.sum(logarithms, axis=0))

    def _score(self, batch: Chunk) -> Array:
        return self._combine({name: member._score(batch) for name, member in self.members_.items()})

    def _state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        config, tensors = record_all(self.members_)
        others, arrays = record_all(self._others)
        references = {f"reference {name}": array for name, array in self._references.items()}
        state = {"members": config, "weights": self.weights_, "others": others, "seed": self.seed}
        state["rehearsed"] = self._rehearsed
        return state, {**tensors, **arrays, **references}

    def _restore(self, config: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> None:
        kinds = dict[str, dict[str, Any]]
        check_values(config, members=kinds, others=kinds, weights=dict[str, float], seed=int)
        self._rehearsed = noted(config, "rehearsed")
        names = [f"reference {name}" for name in config["members"]]
        check_arrays(tensors, True, **dict.fromkeys(names, "N"))
        if not names or set(config["weights"]) != set(config["members"]):
            raise ValueError(f"weights are of {list(config['weights'])}, members {list(config['members'])}")
        self.members_ = revive_all(config["members"], tensors)
        share([m._densities for m in self.members_.values() if isinstance(m, PathDetector)])
        self._others = revive_all(config["others"], tensors)
        self.weights_, self.seed = dict(config["weights"]), int(config["seed"])
        self._references = {name: np.asarray(tensors[f"reference {name}"]) for name in self.members_}
