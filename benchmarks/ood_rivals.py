"""Leaders of OpenOOD's table and monitors of language models, from their papers, on pooled features.

MDSEns (Lee et al. 2018): Mahalanobis distances at all layers, summed. ASH-S (Djurisic et al. 2023) and SCALE
(Xu et al. 2024): energy of the head on shaped features, percentiles 90 and 85. GEN (Liu et al. 2023):
generalized entropy of the softmax. fDBD (Liu & Qin 2024): distance to the decision boundaries. NCI (Liu & Qin
2025): closeness to the weight of the predicted class, and the norm. NAC-UE (Liu et al. 2024): coverage of
neuron states, of the last layer. LCF (arXiv 2604.24542): diagonal Mahalanobis distances of all differences
between layers, combined. TV-score (Wang et al. 2024): change of the Mahalanobis distance through depth.

Each has the numbers of its paper; nothing is tuned. ASH and SCALE take features that are not negative. Gram
matrices need feature maps, which pooled paths do not hold; CombOOD and TrajGuard are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp, softmax
from sklearn.covariance import LedoitWolf

from repdyn.paths import RepresentationPaths

__all__ = ["Rival", "lcf", "rivals", "tv"]

Array = NDArray[Any]
GEN_CLASSES, GEN_GAMMA = 100, 0.1
ASH_PERCENTILE, SCALE_PERCENTILE = 90, 85
NCI_NORM = 1e-3
NAC_SHARPNESS, NAC_BINS, NAC_FULL = 100.0, 50, 50


class Rival:
    """A function of paths as a detector; higher is more normal."""

    def __init__(self, score: Callable[[RepresentationPaths], Array]) -> None:
        self.score_samples = score


def rivals(fit: RepresentationPaths, classes: Array, head: tuple[Array, Array] | None) -> dict[str, Rival]:
    """All that the data and the head allow, fitted."""
    found = {"MDSEns (all layers)": _mdsens(fit, classes), "TV-score": _of_all(tv, fit)}
    if len({fit.widths[point] for point in fit.points}) == 1 and len(fit.points) > 2:
        found["LCF"] = _of_all(lcf, fit)
    if fit.logits is not None:
        found["GEN"] = Rival(lambda paths: _gen(np.asarray(paths.logits, dtype=np.float64)))
    last = fit.points[-1]
    if head is None or head[0].shape[1] != fit.widths[last] or len(head[1]) < 2:
        return found
    weight, bias = (np.asarray(part, dtype=np.float64) for part in head)
    x = _at(fit, last)
    found["fDBD"] = Rival(lambda paths: _fdbd(_at(paths, last), weight, bias, x.mean(axis=0)))
    found["NCI"] = Rival(lambda paths: _nci(_at(paths, last), weight, bias, x.mean(axis=0)))
    found["NAC-UE (last layer)"] = _nac(fit, weight, bias)
    if x.min() >= 0:
        found["ASH-S"] = Rival(lambda paths: _shaped(_at(paths, last), weight, bias, ASH_PERCENTILE, True))
        found["SCALE"] = Rival(lambda paths: _shaped(_at(paths, last), weight, bias, SCALE_PERCENTILE, False))
    return found


def _at(paths: RepresentationPaths, point: str) -> Array:
    return np.asarray(paths[point], dtype=np.float64)


def _of_all(fitted: Callable[[Sequence[Array]], Callable[..., Array]], fit: RepresentationPaths) -> Rival:
    """A score of the states at all points."""

    def states(paths: RepresentationPaths) -> list[Array]:
        return [_at(paths, point) for point in paths.points]

    score = fitted(states(fit))
    return Rival(lambda paths: score(states(paths)))


def _mdsens(fit: RepresentationPaths, classes: Array) -> Rival:
    """Squared distance to the nearest class mean under one covariance, summed over all layers."""
    kept = []
    for point in fit.points:
        x = _at(fit, point)
        means = np.stack([x[classes == k].mean(axis=0) for k in np.unique(classes)])
        rest = x - means[np.unique(classes, return_inverse=True)[1]]
        values, vectors = np.linalg.eigh(rest.T @ rest / len(rest))
        good = values > 1e-10 * values.max()
        whitener = vectors[:, good] / np.sqrt(values[good])
        kept.append((point, whitener, means @ whitener))

    def score(paths: RepresentationPaths) -> Array:
        total = np.zeros(len(paths))
        for point, whitener, means in kept:
            white = _at(paths, point) @ whitener
            products = (means**2).sum(axis=1) - 2 * white @ means.T
            total -= (white**2).sum(axis=1) + products.min(axis=1)
        return total

    return Rival(score)


def tv(fit: Sequence[Array]) -> Callable[[Sequence[Array]], Array]:
    """TV-score from the states ``(N, D)`` of each layer."""
    shrunk = [LedoitWolf().fit(x) for x in fit]

    def score(states: Sequence[Array]) -> Array:
        distances = [np.sqrt(own.mahalanobis(x)) for own, x in zip(shrunk, states, strict=True)]
        return -np.abs(np.diff(np.stack(distances, axis=1))).mean(axis=1)

    return score


def lcf(fit: Sequence[Array]) -> Callable[[Sequence[Array]], Array]:
    """LCF from the states ``(N, D)`` of each layer."""

    def steps(states: Sequence[Array]) -> Array:
        return np.diff(np.stack(list(states), axis=1), axis=1)

    own = steps(fit)
    center, spread = own.mean(axis=0), own.std(axis=0) + 1e-9

    def distances(x: Array) -> Array:
        return np.asarray(np.sqrt((((x - center) / spread) ** 2).mean(axis=-1)))

    shrunk = LedoitWolf().fit(distances(own))
    return lambda states: -np.sqrt(shrunk.mahalanobis(distances(steps(states))))


def _gen(logits: Array) -> Array:
    chance = np.sort(softmax(logits, axis=1), axis=1)[:, -GEN_CLASSES:]
    return -((chance * (1 - chance)) ** GEN_GAMMA).sum(axis=1)


def _fdbd(x: Array, weight: Array, bias: Array, center: Array) -> Array:
    logits = x @ weight.T + bias
    predicted = logits.argmax(axis=1)
    gap = logits.max(axis=1, keepdims=True) - logits
    apart = np.sqrt(np.maximum(_squares(weight)[predicted], 0))
    apart[np.arange(len(x)), predicted] = np.inf
    return (gap / apart).sum(axis=1) / (len(bias) - 1) / np.linalg.norm(x - center, axis=1)


def _squares(weight: Array) -> Array:
    """Squared distances between the weights of all classes, ``(C, C)``."""
    own = (weight**2).sum(axis=1)
    squared = own[:, None] + own[None] - 2 * weight @ weight.T
    return np.where(squared > 0, squared, np.inf)


def _nci(x: Array, weight: Array, bias: Array, center: Array) -> Array:
    predicted = (x @ weight.T + bias).argmax(axis=1)
    away = x - center
    closeness = (weight[predicted] * away).sum(axis=1) / np.linalg.norm(away, axis=1)
    return closeness + NCI_NORM * np.abs(x).sum(axis=1)


def _nac(fit: RepresentationPaths, weight: Array, bias: Array) -> Rival:
    """Mean over neurons of the share of fitted samples whose state falls in the same bin, at most full."""
    last = fit.points[-1]

    def bins(paths: RepresentationPaths) -> Array:
        x = _at(paths, last)
        slope = (softmax(x @ weight.T + bias, axis=1) - 1 / len(bias)) @ weight  # of KL(uniform, softmax)
        state = 1 / (1 + np.exp(-np.clip(NAC_SHARPNESS * x * slope, -50, 50)))
        return np.minimum((state * NAC_BINS).astype(int), NAC_BINS - 1)

    own = bins(fit)
    counts = np.stack([(own == k).sum(axis=0) for k in range(NAC_BINS)])  # (bins, D)
    coverage = np.minimum(counts / NAC_FULL, 1)
    return Rival(lambda paths: np.take_along_axis(coverage, bins(paths), axis=0).mean(axis=1))


def _shaped(x: Array, weight: Array, bias: Array, percentile: float, prune: bool) -> Array:
    """Energy of the head on features that are scaled by the share of their largest entries, and pruned."""
    cut = np.percentile(x, percentile, axis=1, keepdims=True)
    top = np.where(x >= cut, x, 0)
    ratio = x.sum(axis=1, keepdims=True) / np.maximum(top.sum(axis=1, keepdims=True), 1e-12)
    return np.asarray(logsumexp((top if prune else x) * np.exp(ratio) @ weight.T + bias, axis=1))
