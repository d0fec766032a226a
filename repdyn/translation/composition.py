"""Another sample: whether a translation depends on which clusters either sample holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from repdyn.translation.coordinates import unit_rows
from repdyn.translation.nodes import centroids_of
from repdyn.translation.refine import refine, retrieval
from repdyn.translation.rivals import Rival

__all__ = ["Composition", "CompositionSettings", "across_compositions"]

Floats = NDArray[np.float64]
Rows = NDArray[np.float32]
Index = NDArray[np.int64]


@dataclass(frozen=True)
class CompositionSettings:
    """How samples of other compositions are drawn.

    Attributes
    ----------
    clusters
        Clusters of k-means on either side, at the last depth.
    kept
        Share of the clusters of either side that a sample keeps; each side is drawn by itself.
    refits
        Samples on which the map is fitted anew, starting at itself.
    steps, batch
        Of every such fit.
    bootstraps
        Bootstrap samples of clusters in which the map is compared with its rivals.
    scored
        Points of either side on which the distances are measured.
    """

    clusters: int = 16
    kept: float = 0.7
    refits: int = 4
    steps: int = 8
    batch: int = 1000
    bootstraps: int = 400
    scored: int = 1500


DEFAULT = CompositionSettings()


@dataclass(frozen=True)
class Composition:
    """What other compositions say of a map.

    Attributes
    ----------
    stability
        Retrieval between the translations of the map and of its fits on samples of other compositions,
        mean over these.
    lead
        Margin of the best different map over its standard error, by a bootstrap of clusters on both sides;
        infinite where no map is different.
    """

    stability: float
    lead: float


def across_compositions(
    a: Sequence[Rows],
    b: Sequence[Rows],
    own: Rival,
    different: Sequence[Rival],
    seed: int,
    fixed: tuple[Index, Index] | None = None,
    settings: CompositionSettings = DEFAULT,
) -> Composition:
    """Fit on samples that lack clusters, and compare with rivals under a bootstrap of clusters.

    Parameters
    ----------
    a, b
        Points in principal coordinates per depth, ``(N_a, D_a)`` and ``(N_b, D_b)``, in random order.
    own
        The map.
    different
        Rivals that translate items or clusters differently.
    seed
        Of everything drawn.
    fixed
        Rows of a and of b that are pairs; they are kept in every sample.
    settings
        See :class:`CompositionSettings`.
    """
    generator = np.random.default_rng(seed)
    labels = [centroids_of(unit_rows(side[-1]), settings.clusters, generator)[1] for side in (a, b)]
    probes = a[-1][:500]
    moved = unit_rows(probes @ own.maps[-1])
    rank = min(64, max(x.shape[1] for x in (*a, *b)))
    agreements = []
    for _ in range(settings.refits):
        rows = [
            _kept_rows(of, settings.kept, None if fixed is None else fixed[end], generator)
            for end, of in enumerate(labels)
        ]
        pairs = None
        if fixed is not None:
            pairs = (np.searchsorted(rows[0], fixed[0]), np.searchsorted(rows[1], fixed[1]))
        again = refine(
            [x[rows[0]] for x in a],
            [y[rows[1]] for y in b],
            own.maps,
            [rank] * settings.steps,
            settings.batch,
            int(generator.integers(2**31)),
            pairs,
        )
        agreements.append(retrieval(unit_rows(probes @ again[-1]), moved))
    lead = _lead(a, b, labels, own, different, generator, settings)
    return Composition(float(np.mean(agreements)), lead)


def _lead(
    a: Sequence[Rows],
    b: Sequence[Rows],
    labels: Sequence[Index],
    own: Rival,
    different: Sequence[Rival],
    generator: np.random.Generator,
    settings: CompositionSettings,
) -> float:
    r"""Least of the rivals' mean over standard error of :math:`\log\rho_k - \log\rho`.

    The denominator of the excess distance does not depend on the map, and cancels.
    """
    n = min(settings.scored, len(a[-1]), len(b[-1]))
    weights = [
        np.stack([_cluster_weights(of[:n], generator) for _ in range(settings.bootstraps)]) for of in labels
    ]
    logs = [_log_distances(a[-1][:n], b[-1][:n], rival.maps[-1], weights) for rival in (own, *different)]
    leads = [float((log - logs[0]).mean() / max(float((log - logs[0]).std()), 1e-12)) for log in logs[1:]]
    return min(leads, default=float("inf"))


def _log_distances(a: Rows, b: Rows, m: Rows, weights: Sequence[Floats]) -> Floats:
    """Logarithm of the mean distance to the nearest, both ways, one per bootstrap sample."""
    across = unit_rows(a @ m) @ unit_rows(b).T
    nearest = [1 - across.max(1) + 1e-12, 1 - across.max(0) + 1e-12]
    return np.asarray(sum(np.log(w @ d / w.sum(1)) for w, d in zip(weights, nearest)) / 2)


def _cluster_weights(labels: Index, generator: np.random.Generator) -> Floats:
    """How often each row is drawn where clusters are drawn with replacement."""
    count = int(labels.max()) + 1
    return np.bincount(generator.integers(count, size=count), minlength=count)[labels].astype(np.float64)


def _kept_rows(labels: Index, share: float, always: Index | None, generator: np.random.Generator) -> Index:
    """Rows of a random share of the clusters, sorted; some rows always."""
    count = int(labels.max()) + 1
    kept = generator.permutation(count)[: max(1, round(share * count))]
    rows = np.flatnonzero(np.isin(labels, kept))
    return rows if always is None else np.union1d(rows, always)
