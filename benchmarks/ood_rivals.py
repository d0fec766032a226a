"""Leaders of OpenOOD's table and monitors of language models, from their papers, on pooled features.

MDSEns (Lee et al. 2018): Mahalanobis distances at all layers, summed. ASH-S (Djurisic et al. 2023) and SCALE
(Xu et al. 2024): energy of the head on shaped features, percentiles 90 and 85. GEN (Liu et al. 2023):
generalized entropy of the softmax. fDBD (Liu & Qin 2024): distance to the decision boundaries. NCI (Liu & Qin
2025): closeness to the weight of the predicted class, and the norm. NAC-UE (Liu et al. 2024): coverage of
neuron states, of the last layer. LCF (arXiv 2604.24542): diagonal Mahalanobis distances of all differences
between layers, combined. TV-score (Wang et al. 2024): change of the Mahalanobis distance through depth.
Gram (Sastry & Oore 2020): how far Gram matrices of orders 1 to 10 leave the range of the predicted class.
CombOOD (Rajasekaran et al. 2024): nearest neighbors at the last point, and a Mahalanobis distance of the
extremes of all layers.

Each has the numbers of its paper; nothing is tuned. ASH and SCALE take features that are not negative. Of
pooled features a Gram matrix is an outer product, and extremes are over channels alone: ``ood_maps.py`` has
both on feature maps, and AdaSCALE, which needs gradients of the input. Monitors of generated tokens are in
``ood_token_rivals.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp, softmax
from sklearn.covariance import LedoitWolf
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import PowerTransformer, StandardScaler

from repdyn.paths import RepresentationPaths

__all__ = ["Rival", "combood", "extremes", "gram", "gram_sums", "lcf", "rivals", "tv"]

Array = NDArray[Any]
GEN_CLASSES, GEN_GAMMA = 100, 0.1
ASH_PERCENTILE, SCALE_PERCENTILE = 90, 85
NCI_NORM = 1e-3
NAC_SHARPNESS, NAC_BINS, NAC_FULL = 100.0, 50, 50
GRAM_ORDERS = range(1, 11)
GRAM_PER_CLASS, GRAM_HELD_OUT = 4, 0.1
"""Samples that a predicted class needs on average for its own range, and the share that scales layers."""
COMB_NEIGHBORS, COMB_RIDGE = 50, 1.0


class Rival:
    """A function of paths as a detector; higher is more normal."""

    def __init__(self, score: Callable[[RepresentationPaths], Array]) -> None:
        self.score_samples = score


def rivals(fit: RepresentationPaths, classes: Array, head: tuple[Array, Array] | None) -> dict[str, Rival]:
    """All that the data and the head allow, fitted."""
    found = {"MDSEns (all layers)": _mdsens(fit, classes), "TV-score": _of_all(tv, fit)}
    found["Gram (pooled)"] = _pooled_gram(fit)
    found["CombOOD (pooled)"] = _pooled_combood(fit)
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


def gram_sums(x: Array) -> Array:
    """Row sums of the Gram matrices of vectors ``(N, D)``, by order, ``(N, 10, D)``.

    The matrix of order p has the entries ``sign(m) |m|^(1/p)`` with ``m_ij = x_i^p x_j^p`` for one position;
    as in the authors' code, rows are summed before the root is taken.
    """
    found = []
    for order in GRAM_ORDERS:
        total = (x**order).sum(axis=1, keepdims=True)
        sign = np.sign(total) * (np.sign(x) if order % 2 else 1)
        found.append(sign * np.abs(x) * np.abs(total) ** (1 / order))
    return np.stack(found, axis=1)


def gram(
    fit: Mapping[str, Array], logits: Array | None, seed: int = 0
) -> Callable[[Mapping[str, Array], Array | None], Array]:
    """Gram's score from row sums ``(N, K)`` by layer, and logits ``(N, C)``.

    A layer's deviation is how far its entries leave the range that they have in the predicted class, relative
    to the ends of that range. It is divided by the probability of the class, and by its mean over samples
    that the ranges were not taken from; these are summed over layers.
    """
    count = len(next(iter(fit.values())))
    predicted = np.zeros(count, dtype=int) if logits is None else logits.argmax(axis=1)
    if count < GRAM_PER_CLASS * len(np.unique(predicted)):
        predicted, logits = np.zeros(count, dtype=int), None
    by_class = logits is not None
    order = np.random.default_rng(seed).permutation(count)
    held, kept = np.split(order, [max(1, int(GRAM_HELD_OUT * count))])
    whole = {name: (x[kept].min(axis=0), x[kept].max(axis=0)) for name, x in fit.items()}
    ranges: dict[int, dict[str, tuple[Array, Array]]] = {}
    for k in np.unique(predicted[kept]) if by_class else ():
        own = kept[predicted[kept] == k]
        ranges[int(k)] = {name: (x[own].min(axis=0), x[own].max(axis=0)) for name, x in fit.items()}

    def deviations(rows: Mapping[str, Array], of: Array | None) -> Array:
        total = np.empty((len(next(iter(rows.values()))), len(whole)))
        chance = np.ones(len(total)) if of is None or not by_class else softmax(of, axis=1).max(axis=1)
        group = np.zeros(len(total), dtype=int) if of is None or not by_class else of.argmax(axis=1)
        for k in np.unique(group):
            own = group == k
            for column, name in enumerate(whole):
                low, high = ranges.get(int(k), whole)[name]
                x = rows[name][own]
                below = np.maximum(low - x, 0) / np.abs(low + 1e-6)
                above = np.maximum(x - high, 0) / np.abs(high + 1e-6)
                total[own, column] = (below + above).sum(axis=1)
        return np.asarray(total / chance[:, None])

    own_logits = None if logits is None else logits[held]
    scale = deviations({name: x[held] for name, x in fit.items()}, own_logits).mean(axis=0) + 1e-7
    return lambda rows, of: -(deviations(rows, of) / scale).sum(axis=1)


def _pooled_gram(fit: RepresentationPaths) -> Rival:
    def sums(paths: RepresentationPaths) -> dict[str, Array]:
        return {point: gram_sums(_at(paths, point)).reshape(len(paths), -1) for point in paths.points}

    def logits(paths: RepresentationPaths) -> Array | None:
        return None if paths.logits is None else np.asarray(paths.logits, dtype=np.float64)

    score = gram(sums(fit), logits(fit))
    return Rival(lambda paths: score(sums(paths), logits(paths)))


def extremes(layers: Sequence[Array]) -> Array:
    """Minus the smallest and the largest entry of each sample at each layer, ``(N, 2 L)``."""
    flat = [x.reshape(len(x), -1) for x in layers]
    return np.stack([end for x in flat for end in (-x.min(axis=1), x.max(axis=1))], axis=1)


def combood(last: Array, ends: Array) -> Callable[[Array, Array], Array]:
    """CombOOD from the last point ``(N, D)`` and the extremes ``(N, K)``.

    The authors' "square" score: -sqrt(D) log d² - m², where d is the distance to the 50th neighbor of unit
    vectors, and m the Mahalanobis distance from the origin of extremes that were made normal by a power
    transform, with the identity added to the covariance.
    """
    scaler, normal = StandardScaler().fit(ends), PowerTransformer()
    x = normal.fit_transform(scaler.transform(ends))
    precision = np.linalg.inv(np.cov(x, rowvar=False) + COMB_RIDGE * np.eye(x.shape[1]))
    count = min(COMB_NEIGHBORS, len(last))
    found = NearestNeighbors(n_neighbors=count, algorithm="brute").fit(_unit(last))

    def score(last: Array, ends: Array) -> Array:
        x = normal.transform(scaler.transform(ends))
        far = found.kneighbors(_unit(last))[0][:, -1]
        near = -np.sqrt(last.shape[1]) * np.log(np.maximum(far**2, 1e-12))
        return np.asarray(near - np.einsum("ni,ij,nj->n", x, precision, x))

    return score


def _unit(x: Array) -> Array:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def _pooled_combood(fit: RepresentationPaths) -> Rival:
    def parts(paths: RepresentationPaths) -> tuple[Array, Array]:
        layers = [_at(paths, point) for point in paths.points]
        last = layers[-1]
        if paths.logits is not None:
            layers.append(np.asarray(paths.logits, dtype=np.float64))
        return last, extremes(layers)

    score = combood(*parts(fit))
    return Rival(lambda paths: score(*parts(paths)))


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
