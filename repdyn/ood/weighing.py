"""The members of a union, and how loud each is: judged on in-distribution data alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from repdyn.ood.calibration import smooth_log_p_values
from repdyn.ood.controls import IN_DISTRIBUTION
from repdyn.ood.detector import Detector
from repdyn.ood.detectors import PathDetector
from repdyn.ood.guidance import EnergyDetector, GuidedEnergyDetector
from repdyn.ood.rehearsal import FEWEST, FEWEST_GROUPS, groups, rehearse, some
from repdyn.ood.relative_path import RelativePathDetector

if TYPE_CHECKING:
    from repdyn.paths import RepresentationPaths

__all__ = ["HEAD", "asking", "rehearsed_weights", "weigh"]

Array = NDArray[np.float64]

PULL = 0.02  # towards equal weights: to silence a member must save a hundredth of a nat for each sample
LEAST = 0.02  # a member of less than a fiftieth of the largest weight is not worth its cost


HEAD = ("guided energy", "energy of the head")


def asking(
    paths: RepresentationPaths, seed: int, *, head: bool = True
) -> tuple[dict[str, Detector], dict[str, Detector]]:
    """Fitted members, each with another question, and the path's controls that ask none of their own."""
    path = PathDetector(seed=seed)
    shared = path.fit_shared(paths)
    others, path.controls_ = dict(path.controls_), {}  # kept here, and need not be kept twice
    members: dict[str, Detector] = {"path": path}
    if any(found is not None and found.relative is not None for found in shared.values()):
        members["relative path"] = RelativePathDetector(seed=seed).fit_beside(paths, shared)
    for name in ("relative Mahalanobis", "nearest neighbours"):
        if name in others:
            members[name] = others.pop(name)
    if head and paths.logits_width is not None:
        guided = GuidedEnergyDetector(seed=seed).fit(paths)
        members.update(zip(HEAD, (guided, EnergyDetector().fit(paths))))
    return members, others


def rehearsed_weights(paths: RepresentationPaths, names: tuple[str, ...], seed: int) -> dict[str, float]:
    """Weights of members by name, from one rehearsal; equal where the paths allow none."""
    weights = {name: 1 / len(HEAD) if name in HEAD else 1.0 for name in names}
    if len(paths) < FEWEST:
        return weights
    generator = np.random.default_rng(seed)
    paths = some(paths, generator)
    group, _ = groups(paths, seed)
    if len(np.unique(group)) < FEWEST_GROUPS:
        return weights
    trial = rehearse(paths, group, generator)
    fitted, _ = asking(trial.fit, seed, head=False)
    # Of fewer samples, class means may help at no point; a member that cannot rehearse keeps its weight.
    members = {name: member for name, member in fitted.items() if name in names}
    columns = {where: _columns(members, own) for where, own in trial.sets.items()}
    inside = columns.pop(IN_DISTRIBUTION)
    return {**weights, **dict(zip(members, weigh(inside, columns).tolist()))}


def _columns(members: Mapping[str, Detector], paths: RepresentationPaths) -> Array:
    """−log p-values, ``(N, M)``."""
    columns = [
        -smooth_log_p_values(member.calibration_scores_, member.score_samples(paths))
        for member in members.values()
    ]
    return np.stack(columns, axis=1)


def weigh(inside: Array, foreign: Mapping[str, Array]) -> Array:
    r"""Weights by logistic regression of known against foreign, drawn towards equal ones.

    .. math:: \min_{a,\, s \ge 0,\, w \ge 0}\ \tfrac12 \operatorname{mean}_{\text{in}} \ell(t)
              + \tfrac1{2F} \sum_f \operatorname{mean}_{f} \ell(-t)
              + \tfrac\rho2 \sum_i (w_i - 1)^2,
              \qquad t = s\, x \cdot w - a,\quad \ell(t) = \log(1 + e^t)

    The common slope s is free, so that a hard task does not silence all members alike.

    Parameters
    ----------
    inside
        −log p-values of known samples, ``(N, M)``.
    foreign
        The same of F foreign sets, by name.

    Returns
    -------
    numpy.ndarray
        Shape ``(M,)``; those of next to no weight are 0.
    """
    count = inside.shape[1]
    rows = np.concatenate([inside, *foreign.values()])
    sign = np.concatenate([np.ones(len(inside)), -np.ones(len(rows) - len(inside))])
    share = [np.full(len(own), 1 / (2 * len(foreign) * len(own))) for own in foreign.values()]
    mass = np.concatenate([np.full(len(inside), 1 / (2 * len(inside))), *share])

    def loss(theta: Array) -> tuple[float, Array]:
        shift, slope, w = theta[0], theta[1], theta[2:]
        both = rows @ w
        t = sign * (slope * both - shift)
        pulled = mass * sign * expit(t)
        value = float(mass @ np.logaddexp(0, t)) + 0.5 * PULL * float((w - 1) @ (w - 1))
        gradient = np.concatenate([[-pulled.sum(), pulled @ both], slope * (pulled @ rows) + PULL * (w - 1)])
        return value, gradient

    start = np.concatenate([[float(np.median(inside.sum(axis=1)))], [1.0], np.ones(count)])
    bounds = [(None, None), (0, None), *[(0, None)] * count]
    found = np.asarray(minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x[2:])
    return np.where(found < LEAST * found.max(), 0.0, found) if found.max() > 0 else np.ones(count)
