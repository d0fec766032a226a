"""Several detectors as one: a weighted sum of their log p-values, calibrated again as one score.

The default members and their weights are chosen on in-distribution data alone, by pseudo-OOD validation
(:mod:`repdyn.ood.pseudo_ood`).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from repdyn.conformity import check_arrays, check_values
from repdyn.errors import RepdynError
from repdyn.ood.calibration import smooth_log_p_values
from repdyn.ood.comparison import IN_DISTRIBUTION
from repdyn.ood.crossfit import PathStatistics
from repdyn.ood.detector import Detector, joint_groups
from repdyn.ood.detectors import PathDetector, RelativePathDetector, last_point_controls, share_densities
from repdyn.ood.energy_trajectories import EnergyTrajectoryDetector
from repdyn.ood.mixture_detector import MixtureDetector
from repdyn.ood.neighbor_detectors import EnergyDetector, GuidedEnergyDetector
from repdyn.ood.path_chunks import HELD, LOGITS, Chunk
from repdyn.ood.pseudo_ood import draw_paths, find_groups, split_pseudo_ood
from repdyn.ood.records import NamedDetectors, optional_count, present_name, record_all, restore_all
from repdyn.ood.settings import PSEUDO_OOD
from repdyn.ood.trajectories import FieldDetector, Map, TrajectoryDetector
from repdyn.paths import nearby

if TYPE_CHECKING:
    from repdyn.ood.modules import UnionModule
    from repdyn.paths import RepresentationPaths

__all__ = ["HEAD_MEMBERS", "LATER_PATHS", "TRAJECTORY", "UnionDetector", "ensemble_weights"]

Array = NDArray[np.float64]

HEAD_MEMBERS = ("guided energy", "energy of the head")
TRAJECTORY = "trajectory"
LATER_PATHS = ("later half", "last third")
"""Members of a union of few samples, beside the whole path and the last point."""


class UnionDetector(Detector):
    """Weighted sum of the log p-values of several detectors.

    Each member i turns a path into a p-value p_i by its cross-fitted in-distribution scores. The score is
    Fisher's statistic, halved, with weights,

        score(x) = Σ_i w_i log p_i(x),

    which is low when one p-value is very small or several are fairly small. Members depend on each other, so
    the distribution of the sum is not Fisher's χ²: it is calibrated as the score of any detector.

    Parameters
    ----------
    members
        Detectors by name, with equal weights; copies are fitted. Default: the :class:`PathDetector`; with
        labels that help, the :class:`RelativePathDetector` and the relative distance at the last point;
        nearest neighbors at the last point. Their weights come from pseudo-OOD validation. If logits were
        traced and labels do not help, also their energy, plain and guided, with weights that add up to 1.
    seed
        Draws the pseudo-OOD split.

    Attributes
    ----------
    members_
        The fitted members.
    weights_
        Their weights. A member of weight 0 is not kept.
    controls_
        The members, the members of weight 0, and the path's controls.

    Notes
    -----
    **Pseudo-OOD validation** uses in-distribution data alone. Groups of the fitted samples (classes, or
    clusters) are held out as the near set; samples with all, or a tenth, of their coordinates shuffled are
    the far sets (:mod:`repdyn.ood.pseudo_ood`). Members are fitted without them. A logistic regression of
    in-distribution against pseudo-OOD samples on −log p_i, with non-negative weights, is penalized towards
    equal weights. Weights stay equal where the sets are uninformative, or where there are fewer than 200
    paths; of so few, the Mahalanobis distance at the last point and paths over the later half and the last
    third of the points take the place of neighbors and of the head.
    The energies take no part: the head was trained on the held-out groups, so it does not find them
    unusual, and would get a weight of 0.

    **The head** knows classes from its own training. Where the fitted samples tell classes apart, distances
    to these classes replace it, and its energies lowered the AUROC on three settings of four; where there are
    no labels, or a sample or two of each class, they raised it (docs/studies/ood.md).

    After :meth:`calibrate` on n held-out in-distribution paths, a fresh one is flagged at rate α with
    probability at most α (:mod:`repdyn.ood.calibration`), for any dependence between the members. Before it,
    the calibration scores are cross-fitted: a member's p-value of a fitted sample comes from a model that was
    not fitted on it, but the guarantee is then only approximate.

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
    ['Mahalanobis', 'mixture', 'path']
    """

    members_: dict[str, Detector]
    weights_: dict[str, float]
    references_: dict[str, Array]

    def __init__(self, members: Mapping[str, Detector] | None = None, seed: int = 0) -> None:
        self.members = members
        self.seed = seed

    @classmethod
    def from_autoencoder(
        cls,
        encode: Map,
        decode: Map,
        points: Sequence[str],
        point: str | None = None,
        seed: int = 0,
    ) -> UnionDetector:
        """The union for an auto-encoder, not fitted: its members have equal weights.

        They are the path over the points besides the encoded one, the :class:`TrajectoryDetector` of the
        auto-encoder, and the :class:`EnergyTrajectoryDetector` at the encoded point. The last one finds
        inputs that are too likely, such as blurred pictures.

        Parameters
        ----------
        encode, decode
            Map ``(n, D)`` tensors of the encoded point to codes, and back.
        points
            All points of the paths that will be fitted.
        point
            The encoded one. Default: the last.
        seed
            Of the members.

        Raises
        ------
        RepdynError
            Without points, or if `encode` or `decode` is no function.

        Examples
        --------
        >>> union = UnionDetector.from_autoencoder(lambda x: x / 2, lambda z: 2 * z, ["layer", "output"])
        >>> sorted(union.members)
        ['energy trajectory', 'path', 'trajectory']
        """
        if not points:
            raise RepdynError("points: expected at least one, got none")
        if not (callable(encode) and callable(decode)):
            given = f"{type(encode).__name__} and {type(decode).__name__}"
            raise RepdynError(f"encode and decode: expected two functions of tensors, got {given}")
        point = points[-1] if point is None else point
        layers = tuple(name for name in points if name != point) or (point,)
        members: dict[str, Detector] = {
            "path": PathDetector(layers, seed=seed),
            TRAJECTORY: TrajectoryDetector(encode, decode, point, seed=seed),
            "energy trajectory": EnergyTrajectoryDetector(point, seed=seed),
        }
        return cls(members, seed)

    def bind(self, encode: Map, decode: Map) -> Self:
        """Set the auto-encoder of the members of a loaded union that read one.

        Raises
        ------
        RepdynError
            If no member reads an auto-encoder, or it is not the one that a member was fitted with.
        """
        readers = [member for member in self.controls_.values() if isinstance(member, FieldDetector)]
        if not readers:
            raise RepdynError("bind: no member of this union reads an auto-encoder")
        for member in readers:
            member.bind(encode, decode)
        return self

    @property
    def controls_(self) -> dict[str, Detector]:
        """The fitted members, the members of weight 0, and the controls of the path detector."""
        return NamedDetectors({**self.members_, **self._others})

    def fit_paths(self, paths: RepresentationPaths) -> Self:
        """Fit every member on the same paths and calibrate their combination.

        Raises
        ------
        RepdynError
            If there is no member, or one cannot be fitted.
        """
        paths, self._others, self._validated = nearby(paths, HELD), {}, None
        self.members_, self.weights_ = NamedDetectors(), NamedDetectors()
        if self.members is None:
            fitted, others = _fit_default_members(paths, self.seed)
            weights = _validated_weights(paths, tuple(fitted), self.seed)
            self._validated = (
                min(len(paths), PSEUDO_OOD.max_paths) if len(paths) >= PSEUDO_OOD.min_paths else None
            )
            self.members_.update({name: member for name, member in fitted.items() if weights[name] > 0})
            self.weights_.update({name: weights[name] for name in self.members_})
            self._others = {n: d for n, d in {**others, **fitted}.items() if n not in self.members_}
        else:
            for name, member in self.members.items():
                self.members_[name], self.weights_[name] = copy.copy(member).fit(paths), 1.0
        if not self.members_:
            raise RepdynError("members: there is none; give {'name': detector}")
        points = {point for member in self.members_.values() for point in member.points_}
        self._begin(paths, tuple(point for point in (*paths.points, LOGITS) if point in points))
        self.references_ = {
            name: np.sort(member.calibration_scores_) for name, member in self.members_.items()
        }
        for member in self.members_.values():
            for point in member.points_:
                for end in member.lengths_.get(point, ()):
                    low, high = self.lengths_.get(point, (end, end))
                    self.lengths_[point] = (min(low, end), max(high, end))
        scores = {name: member.sample_scores_ for name, member in self.members_.items()}
        groups = joint_groups(member.sample_groups_ for member in self.members_.values())
        self._calibrate(self._combine(scores), "cross-fitted", groups=groups)
        return self

    def calibrate_profile(self, paths: RepresentationPaths, groups: NDArray[np.int64]) -> None:
        """Store the depth profile of held-out paths in the members that have one."""
        for member in self.members_.values():
            member.calibrate_profile(paths, groups)

    def as_module(self) -> UnionModule:
        """The fitted union as a ``torch.nn.Module``; see :meth:`Detector.as_module`."""
        from repdyn.ood.modules import UnionModule  # loads torch

        self.check_fitted()
        members = [member.as_module() for member in self.members_.values()]
        weights = list(self.weights_.values())
        module = UnionModule(members, weights, list(self.references_.values()), self.threshold_)
        return module.guarded(self._all_limits())

    def sampling_notes(self) -> list[str]:
        """Notes of the members and controls, and the number of samples that the weights come from."""
        notes = [
            f"{name}, {note}" for name, member in self.controls_.items() for note in member.sampling_notes()
        ]
        if self._validated is not None:
            notes.append(f"weights: pseudo-OOD validation on {self._validated} samples")
        return notes

    def _combine(self, scores: Mapping[str, Array]) -> Array:
        """Weighted sum ``(n,)`` of the members' log p-values, from their scores ``(n,)``."""
        logarithms = [
            self.weights_[name] * smooth_log_p_values(self.references_[name], own)
            for name, own in scores.items()
        ]
        return np.asarray(np.sum(logarithms, axis=0))

    def score_chunk(self, chunk: Chunk) -> Array:
        """Weighted sum of the log p-values, ``(n,)``."""
        return self._combine({name: member.score_chunk(chunk) for name, member in self.members_.items()})

    def _state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        config, tensors = record_all(self.members_)
        others, arrays = record_all(self._others)
        references = {f"reference {name}": array for name, array in self.references_.items()}
        state = {"members": config, "weights": dict(self.weights_), "others": others, "seed": self.seed}
        state["rehearsed"] = self._validated
        return state, {**tensors, **arrays, **references}

    def _restore(self, config: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> None:
        records = dict[str, dict[str, Any]]
        check_values(config, members=records, others=records, weights=dict[str, float], seed=int)
        self._validated = optional_count(config, "rehearsed")
        names = [f"reference {name}" for name in config["members"]]
        check_arrays(tensors, True, **dict.fromkeys(names, "N"))
        if not names or set(config["weights"]) != set(config["members"]):
            raise ValueError(f"weights are of {list(config['weights'])}, members {list(config['members'])}")
        self.members_ = restore_all(config["members"], tensors)
        share_densities(self.members_.values())
        self._others = restore_all(config["others"], tensors)
        self.seed = int(config["seed"])
        self.weights_ = NamedDetectors({present_name(n): w for n, w in config["weights"].items()})
        self.references_ = {
            present_name(name): np.asarray(tensors[f"reference {name}"]) for name in config["members"]
        }


def _fit_default_members(
    paths: RepresentationPaths, seed: int, *, validating: bool = False
) -> tuple[dict[str, Detector], dict[str, Detector]]:
    """Fitted default members, and controls of the path detector that measure the same as a member.

    Parameters
    ----------
    paths
        In-distribution paths.
    seed
        Of all members.
    validating
        Whether these are fitted to find weights: without the energies, which cannot be validated, and with
        neighbors, however few samples the split leaves.
    """
    statistics = PathStatistics(paths, seed)
    members: dict[str, Detector] = {"path": PathDetector(seed=seed).fit_statistics(statistics)}
    class_means_help = statistics.class_means_help()
    controls = last_point_controls(statistics)
    if class_means_help:
        members["relative path"] = RelativePathDetector(seed=seed).fit_statistics(statistics)
    # Of too few samples to validate members on, neighbors are too few too, and a head cannot be judged.
    few = not validating and len(paths) < PSEUDO_OOD.min_paths
    for name in ("relative Mahalanobis", "Mahalanobis" if few else "nearest neighbors"):
        if name in controls:
            members[name] = controls.pop(name)
    if few:
        members.update(_later_paths(statistics, members["path"].points_))
    if paths.labels is None:
        # It finds groups by itself; with labels the members above have better ones.
        members["mixture"] = MixtureDetector(seed=seed).fit(paths)
    # Where the samples tell classes apart, distances to these say more than the head does.
    if not (validating or few or class_means_help) and paths.logits_width is not None:
        guided = GuidedEnergyDetector(seed=seed).fit(paths)
        members.update(zip(HEAD_MEMBERS, (guided, EnergyDetector().fit(paths))))
    return members, controls


def _later_paths(statistics: PathStatistics, points: tuple[str, ...]) -> dict[str, Detector]:
    """Paths over the later half and the last third of the points, where these are no path of another member.

    As members beside the whole path they raised the AUROC of few samples (docs/studies/ood.md).
    """
    half, third = max(2, len(points) - len(points) // 2), max(2, len(points) // 3)
    counts = dict(zip(LATER_PATHS, (half, third) if third < half else (half,)))
    return {
        name: PathDetector(points[-count:], seed=statistics.seed).fit_statistics(statistics)
        for name, count in counts.items()
        if count < len(points)
    }


def _validated_weights(paths: RepresentationPaths, names: tuple[str, ...], seed: int) -> dict[str, float]:
    """Weights of members by name from one pseudo-OOD split; equal weights where the paths allow none."""
    weights = {name: 1 / len(HEAD_MEMBERS) if name in HEAD_MEMBERS else 1.0 for name in names}
    if len(paths) < PSEUDO_OOD.min_paths:
        return weights
    generator = np.random.default_rng(seed)
    paths = draw_paths(paths, generator)
    group, _ = find_groups(paths, seed)
    if len(np.unique(group)) < PSEUDO_OOD.min_groups:
        return weights
    split = split_pseudo_ood(paths, group, generator)
    fitted, _ = _fit_default_members(split.fit, seed, validating=True)
    # With fewer samples class means may help at no point; a member that was not fitted keeps its weight.
    members = {name: member for name, member in fitted.items() if name in names}
    columns = {where: _log_p_columns(members, own) for where, own in split.sets.items()}
    inside = columns.pop(IN_DISTRIBUTION)
    return {**weights, **dict(zip(members, ensemble_weights(inside, columns).tolist()))}


def _log_p_columns(members: Mapping[str, Detector], paths: RepresentationPaths) -> Array:
    """−log p-values, ``(N, M)``."""
    columns = [
        -smooth_log_p_values(member.calibration_scores_, member.score_samples(paths))
        for member in members.values()
    ]
    return np.stack(columns, axis=1)


def ensemble_weights(inside: Array, foreign: Mapping[str, Array]) -> Array:
    r"""Weights by logistic regression of in-distribution against foreign samples, penalized towards 1.

    .. math:: \min_{a,\, s \ge 0,\, w \ge 0}\ \tfrac12 \operatorname{mean}_{\text{in}} \ell(t)
              + \tfrac1{2F} \sum_f \operatorname{mean}_{f} \ell(-t)
              + \tfrac\rho2 \sum_i (w_i - 1)^2,
              \qquad t = s\, x \cdot w - a,\quad \ell(t) = \log(1 + e^t)

    The common slope s is free, so that a hard task does not shrink all weights alike.

    Parameters
    ----------
    inside
        −log p-values of in-distribution samples, ``(N, M)``.
    foreign
        −log p-values of F foreign sets by name, ``(N_f, M)``.

    Returns
    -------
    numpy.ndarray
        Shape ``(M,)``; weights below a fiftieth of the largest are 0.
    """
    count = inside.shape[1]
    rows = np.concatenate([inside, *foreign.values()])
    sign = np.concatenate([np.ones(len(inside)), -np.ones(len(rows) - len(inside))])
    share = [np.full(len(own), 1 / (2 * len(foreign) * len(own))) for own in foreign.values()]
    mass = np.concatenate([np.full(len(inside), 1 / (2 * len(inside))), *share])
    penalty = PSEUDO_OOD.weight_penalty

    def loss(theta: Array) -> tuple[float, Array]:
        shift, slope, w = theta[0], theta[1], theta[2:]
        combined = rows @ w
        t = sign * (slope * combined - shift)
        pulled = mass * sign * expit(t)
        value = float(mass @ np.logaddexp(0, t)) + 0.5 * penalty * float((w - 1) @ (w - 1))
        slopes = slope * (pulled @ rows) + penalty * (w - 1)
        return value, np.concatenate([[-pulled.sum(), pulled @ combined], slopes])

    start = np.concatenate([[float(np.median(inside.sum(axis=1)))], [1.0], np.ones(count)])
    bounds = [(None, None), (0, None), *[(0, None)] * count]
    weights = np.asarray(minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x[2:])
    if weights.max() <= 0:
        return np.ones(count)
    return np.where(weights < PSEUDO_OOD.min_weight * weights.max(), 0.0, weights)
