"""Foreign data made of in-distribution data, to try detectors on before anything foreign was seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from repdyn.ood.chunks import values
from repdyn.ood.controls import IN_DISTRIBUTION
from repdyn.ood.gaussian import unit
from repdyn.repeats import groups_of_equal_rows

if TYPE_CHECKING:
    from repdyn.paths import RepresentationPaths

__all__ = ["FEWEST", "FEWEST_GROUPS", "Rehearsal", "groups", "rehearse", "some"]

FEWEST = 200  # paths: with fewer, neither the fits nor the shares held out say anything
FEWEST_GROUPS = 5
MOST = 3000  # paths taken for a trial, which bounds its time
HELD = 0.2  # share of the groups that is held out
GROUPS = 10  # clusters, where there are no labels
TESTED = 0.3  # share of the known groups' paths that no detector is fitted on
SOME = 0.1  # share of the coordinates that come from elsewhere where not all do
HELD_OUT, SHUFFLED, PARTLY = "held-out groups", "shuffled coordinates", "partly shuffled"


@dataclass(frozen=True, eq=False)
class Rehearsal:
    """One way to hold parts out.

    Attributes
    ----------
    fit
        Paths to fit on.
    sets
        ``"in-distribution"``: other paths of the same groups. ``"held-out groups"``: groups of which
        ``fit`` has no member, which is *near*. ``"shuffled coordinates"``: every coordinate comes from
        another of the in-distribution paths, which keeps all marginals and breaks what holds them together;
        it is *far*, often so far that every detector hears it. ``"partly shuffled"``: a tenth of the
        coordinates do, which asks for more.
    """

    fit: RepresentationPaths
    sets: dict[str, RepresentationPaths]


def groups(paths: RepresentationPaths, seed: int) -> tuple[NDArray[np.intp], str]:
    """Labels where there are enough, else clusters of the last point: numbers ``(N,)``, and which it is."""
    if paths.labels is not None and len(np.unique(np.asarray(paths.labels))) >= FEWEST_GROUPS:
        return np.unique(np.asarray(paths.labels), return_inverse=True)[1].astype(np.intp), "labels"
    from sklearn.cluster import KMeans  # scikit-learn is slow to import

    last = unit(values(paths, paths.points[-1]))
    found = KMeans(GROUPS, n_init=2, random_state=seed).fit_predict(last)
    return found.astype(np.intp), "clusters"


def some(paths: RepresentationPaths, generator: np.random.Generator) -> RepresentationPaths:
    """At most 3000 of the paths, in their order."""
    if len(paths) <= MOST:
        return paths
    return paths.subset(np.sort(generator.choice(len(paths), MOST, replace=False)))


def rehearse(
    paths: RepresentationPaths, group: NDArray[np.intp], generator: np.random.Generator
) -> Rehearsal:
    """Draw which groups are held out, and which of the other paths are fitted on."""
    names = np.unique(group)
    held = generator.permutation(names)[: max(1, round(HELD * len(names)))]
    known, foreign = np.flatnonzero(~np.isin(group, held)), np.flatnonzero(np.isin(group, held))
    alike = groups_of_equal_rows(values(paths, paths.points[-1]))[known]
    alike = np.unique(alike, return_inverse=True)[1]
    known = generator.permutation(known)
    tested = max(1, round(TESTED * len(known)))
    if int(alike.max()) + 1 < len(known):  # equal samples are on one side
        known = np.sort(known)
        order = generator.permutation(int(alike.max()) + 1)
        filled = np.cumsum(np.bincount(alike)[order])
        side = np.isin(alike, order[: int(np.searchsorted(filled, tested)) + 1])
        known, tested = np.concatenate([known[side], known[~side]]), int(side.sum())
    test = paths.subset(np.sort(known[:tested]))
    sets = {IN_DISTRIBUTION: test, HELD_OUT: paths.subset(foreign)}
    sets[SHUFFLED] = _shuffled(test, 1.0, generator)
    sets[PARTLY] = _shuffled(test, SOME, generator)
    return Rehearsal(paths.subset(np.sort(known[tested:])), sets)


def _shuffled(
    paths: RepresentationPaths, share: float, generator: np.random.Generator
) -> RepresentationPaths:
    from repdyn.paths import RepresentationPaths

    def shuffle(x: Any) -> NDArray[Any]:
        x = np.asarray(x)
        return np.where(generator.random(x.shape) < share, generator.permuted(x, axis=0), x)

    arrays = {point: shuffle(paths[point]) for point in paths.points}
    logits = None if paths.logits is None else shuffle(paths.logits)
    return RepresentationPaths.from_arrays(arrays, logits=logits, meta=paths.meta)
