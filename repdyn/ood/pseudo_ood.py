"""Pseudo-OOD validation: sets that stand in for out-of-distribution data, made of in-distribution paths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repdyn.ood.comparison import IN_DISTRIBUTION
from repdyn.ood.gaussian import unit
from repdyn.ood.path_chunks import read_point
from repdyn.ood.settings import PSEUDO_OOD
from repdyn.paths import RepresentationPaths
from repdyn.repeats import groups_of_equal_rows

__all__ = ["CONTRACTED", "PseudoOODSplit", "contracted", "draw_paths", "find_groups", "split_pseudo_ood"]

HELD_OUT, SHUFFLED, PARTLY = "held-out groups", "shuffled coordinates", "partly shuffled"
CONTRACTED = "contracted"


@dataclass(frozen=True, eq=False)
class PseudoOODSplit:
    """One split of in-distribution paths into paths to fit on, test paths, and pseudo-OOD sets.

    Attributes
    ----------
    fit
        Paths to fit on.
    sets
        ``"in-distribution"``: other paths of the same groups. ``"held-out groups"``: groups without any
        member in ``fit``; a *near* set. ``"shuffled coordinates"``: every coordinate comes from another of
        the in-distribution paths, which keeps all marginals and breaks their dependence; a *far* set, often
        so far that every detector separates it. ``"partly shuffled"``: a tenth of the coordinates do, which
        is harder.
    """

    fit: RepresentationPaths
    sets: dict[str, RepresentationPaths]


def find_groups(paths: RepresentationPaths, seed: int) -> tuple[NDArray[np.intp], str]:
    """Groups of paths: classes if there are at least five, else k-means clusters of the last point.

    Parameters
    ----------
    paths
        In-distribution paths.
    seed
        Of k-means.

    Returns
    -------
    groups, kind
        Numbers ``(N,)``, and ``"labels"`` or ``"clusters"``.
    """
    if paths.labels is not None and len(np.unique(np.asarray(paths.labels))) >= PSEUDO_OOD.min_groups:
        return np.unique(np.asarray(paths.labels), return_inverse=True)[1].astype(np.intp), "labels"
    from sklearn.cluster import KMeans  # scikit-learn is slow to import

    last = unit(read_point(paths, paths.points[-1]))
    clusters = KMeans(PSEUDO_OOD.clusters, n_init=2, random_state=seed).fit_predict(last)
    return clusters.astype(np.intp), "clusters"


def draw_paths(paths: RepresentationPaths, generator: np.random.Generator) -> RepresentationPaths:
    """At most 3000 of the paths, drawn at random, in their order."""
    if len(paths) <= PSEUDO_OOD.max_paths:
        return paths
    return paths.subset(np.sort(generator.choice(len(paths), PSEUDO_OOD.max_paths, replace=False)))


def split_pseudo_ood(
    paths: RepresentationPaths, group: NDArray[np.intp], generator: np.random.Generator
) -> PseudoOODSplit:
    """Draw the groups that are held out, and the paths of the other groups that are fitted on.

    Parameters
    ----------
    paths
        In-distribution paths.
    group
        Group of each path, ``(N,)``.
    generator
        Draws groups, paths and shuffles.
    """
    held_out = _held_out(group, generator)
    known, foreign = np.flatnonzero(~np.isin(group, held_out)), np.flatnonzero(np.isin(group, held_out))
    equal = groups_of_equal_rows(read_point(paths, paths.points[-1]))[known]
    equal = np.unique(equal, return_inverse=True)[1]
    known = generator.permutation(known)
    tested = max(1, round(PSEUDO_OOD.test_share * len(known)))
    if int(equal.max()) + 1 < len(known):  # equal samples must be on one side
        known = np.sort(known)
        order = generator.permutation(int(equal.max()) + 1)
        filled = np.cumsum(np.bincount(equal)[order])
        side = np.isin(equal, order[: int(np.searchsorted(filled, tested)) + 1])
        known, tested = np.concatenate([known[side], known[~side]]), int(side.sum())
    test = paths.subset(np.sort(known[:tested]))
    sets = {IN_DISTRIBUTION: test, HELD_OUT: paths.subset(foreign)}
    sets[SHUFFLED] = _shuffled(test, 1.0, generator)
    sets[PARTLY] = _shuffled(test, PSEUDO_OOD.partial_shuffle, generator)
    return PseudoOODSplit(paths.subset(np.sort(known[tested:])), sets)


def contracted(paths: RepresentationPaths) -> RepresentationPaths:
    """Paths halfway to their mean at every point: inputs that are *too likely*, such as a blurred picture.

    A density with one mode is higher there than at the paths themselves. The set is no part of the mean that
    candidates are compared by, because a detector that only finds large distances may be the best one for far
    sets. It holds a candidate back that is blind to such inputs where a union is not.
    """

    def contract(x: Any) -> NDArray[Any]:
        x = np.asarray(x)
        mean = x.mean(axis=0, dtype=np.float64)
        return np.asarray(mean + PSEUDO_OOD.contraction * (x - mean), dtype=x.dtype)

    arrays = {point: contract(paths[point]) for point in paths.points}
    logits = None if paths.logits is None else contract(paths.logits)
    return RepresentationPaths.from_arrays(arrays, logits=logits, meta=paths.meta)


def _held_out(group: NDArray[np.intp], generator: np.random.Generator) -> NDArray[np.intp]:
    """Random groups, without those that would leave less than half of the paths to fit and test on."""
    names, sizes = np.unique(group, return_counts=True)
    count = max(1, round(PSEUDO_OOD.held_out_groups * len(names)))
    drawn: list[int] = []
    left = len(group)
    for k in generator.permutation(len(names)):
        if len(drawn) < count and left - sizes[k] >= PSEUDO_OOD.min_known_share * len(group):
            drawn.append(int(k))
            left -= sizes[k]
    return names[drawn or [int(sizes.argmin())]]


def _shuffled(
    paths: RepresentationPaths, share: float, generator: np.random.Generator
) -> RepresentationPaths:
    """Paths of which a share of the coordinates is permuted over the samples, each coordinate on its own."""

    def shuffle(x: Any) -> NDArray[Any]:
        x = np.asarray(x)
        return np.where(generator.random(x.shape) < share, generator.permuted(x, axis=0), x)

    arrays = {point: shuffle(paths[point]) for point in paths.points}
    logits = None if paths.logits is None else shuffle(paths.logits)
    return RepresentationPaths.from_arrays(arrays, logits=logits, meta=paths.meta)
