"""One verdict from four tests: replication, excess distance, uniqueness, samples of other compositions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from repdyn.intervals import Estimate
from repdyn.translation.composition import Composition
from repdyn.translation.proposals import padded
from repdyn.translation.rivals import Rival

__all__ = [
    "Figures",
    "Judgment",
    "VerdictSettings",
    "confidence_of",
    "is_different",
    "judge",
    "settled_part",
    "verdict_of",
]

Rows = NDArray[np.float32]


@dataclass(frozen=True)
class VerdictSettings:
    """What decides the verdict of a translation without pairs.

    All values were set on the development half of ``benchmarks/verdicts.py``. The final half has networks,
    clouds and draws of its own, and was read once after that (docs/translation.md).

    Attributes
    ----------
    different
        Retrieval between two maps below which they translate items differently.
    different_clusters
        Share of points that two maps send to the same cluster of B below which they translate clusters
        differently.
    margin
        Share of the excess distance by which the best different map must be worse, for a map to be unique.
    lead
        Standard errors by which it must be worse, under a bootstrap of clusters.
    clear_lead
        Standard errors from which on a smaller margin will do, where points lie among the real ones.
    settled
        Agreement with all maps that fit, from which on items are settled. Below it clusters may be.
    beside
        Excess distance from which on translated points lie beside the real ones.
    found
        Confidence from which on a unique map is found.
    weights
        Of the confidence: constant, margin, retrieval between halves, agreement with rivals, lead, stability
        across compositions.
    temperature
        Margin by which a rival's weight falls to 37 % in the agreement with rivals.
    most_margin, most_lead
        Larger margins and leads count as these.
    errors
        Upper borders of the confidence, and the lowest and highest true share of the ceiling to expect there.
    """

    different: float = 0.5
    different_clusters: float = 0.8
    margin: float = 0.035
    lead: float = 2.0
    clear_lead: float = 5.0
    settled: float = 0.85
    beside: float = 1.4
    found: float = 0.5
    weights: tuple[float, float, float, float, float, float] = (-7.4, 3.5, 1.9, 4.9, 0.36, 1.75)
    temperature: float = 0.02
    most_margin: float = 0.15
    most_lead: float = 6.0
    errors: tuple[tuple[float, float, float], ...] = (
        (0.1, 0.0, 0.4),
        (0.2, 0.0, 0.5),
        (0.5, 0.0, 0.94),
        (0.8, 0.45, 1.0),
        (0.93, 0.55, 1.0),
        (1.0, 0.8, 1.0),
    )


DEFAULT = VerdictSettings()


@dataclass(frozen=True)
class Figures:
    """What the verdict rests on.

    Attributes
    ----------
    replication
        Retrieval between the maps of two disjoint halves.
    excess
        Excess distance of the map.
    margin, cluster_margin
        By what share of it the best map that translates items, or clusters, differently is worse.
    expected
        Agreement with all maps that were found, itself included, each weighted by how well it fits.
    lead, stability
        Of samples of other compositions (:class:`repdyn.translation.composition.Composition`).
    """

    replication: float
    excess: float
    margin: float
    cluster_margin: float
    expected: float
    lead: float
    stability: float


@dataclass(frozen=True)
class Judgment:
    """A verdict with its figures.

    Attributes
    ----------
    verdict, reason
        As in :class:`repdyn.translation.LinearTranslation`.
    confidence
        Retrieval to expect, as a share of what Procrustes with all pairs reaches.
    figures
        What both rest on.
    tied
        Rivals that cannot be told from the map.
    """

    verdict: str
    reason: str
    confidence: Estimate
    figures: Figures
    tied: tuple[Rival, ...]


def is_different(rival: Rival, settings: VerdictSettings = DEFAULT) -> bool:
    """Whether a map translates items, or clusters, differently from the one that it is compared with."""
    return rival.agreement < settings.different or rival.same_cluster < settings.different_clusters


def judge(
    replication: float,
    own: Rival,
    rivals: Sequence[Rival],
    composition: Composition,
    settings: VerdictSettings = DEFAULT,
) -> Judgment:
    r"""Weigh the four tests.

    With the excess distances ρ of the map and ρ_k of its rivals, the margin is

    .. math:: m = \min_{k \text{ different}} \rho_k / \rho - 1

    and the confidence a logistic function of m, the retrieval between halves, the agreement with all
    maps that fit, and what other compositions say, fitted to pairs of models whose true translation is known.

    Parameters
    ----------
    replication
        Retrieval between the maps of two disjoint halves.
    own
        The map, polished like its rivals.
    rivals
        Maps from other starts.
    composition
        What samples of other compositions say of the map.
    settings
        See :class:`VerdictSettings`.
    """
    margin = _margin(own, [r for r in rivals if r.agreement < settings.different])
    clusters = _margin(own, [r for r in rivals if r.same_cluster < settings.different_clusters])
    expected = _expected_agreement(own, rivals, settings)
    tied = tuple(
        r for r in rivals if is_different(r, settings) and r.excess < (1 + settings.margin) * own.excess
    )
    figures = Figures(
        replication, own.excess, margin, clusters, expected, composition.lead, composition.stability
    )
    confidence = confidence_of(figures, settings)
    verdict = verdict_of(figures, settings)
    reasons = {
        "found": "one map fits best and no different one as well",
        "inconclusive": "one map fits best, but not well enough to be sure of it",
        "neighbourhoods": "clusters are matched in one way only, items are not",
        "ambiguous": f"{len(tied)} different maps fit as well within the noise",
        "not found": "no map brings the two together better than different ones do",
    }
    nearest = min(margin, clusters)
    beside = f"the best different map is {nearest:+.1%} beside it"
    if nearest >= 1:
        beside = "no different map comes near"
    reason = (
        f"{reasons[verdict]}: translated points lie {own.excess:.2f} times as far from real ones as these "
        f"from each other, {beside}, and maps from disjoint halves "
        f"retrieve each other's translation of {replication:.0%} of the probes"
    )
    return Judgment(verdict, reason, confidence, figures, tied)


def verdict_of(figures: Figures, settings: VerdictSettings = DEFAULT) -> str:
    """The verdict by the figures alone."""
    margin = min(figures.margin, figures.cluster_margin)
    settled, beside = figures.expected >= settings.settled, figures.excess >= settings.beside
    clear = margin > 0 and figures.lead >= settings.clear_lead and not beside
    if margin >= settings.margin or clear:
        if not settled and not beside:
            return "neighbourhoods"
        sure = figures.lead >= settings.lead and confidence_of(figures, settings).value >= settings.found
        return "found" if sure and settled else "inconclusive"
    if beside:
        return "not found"
    return "neighbourhoods" if figures.cluster_margin >= settings.margin else "ambiguous"


def settled_part(m: Rows, tied: Sequence[Rival], least: float = 0.9) -> tuple[Rows, int]:
    r"""The directions on which a map and its tied rivals agree.

    .. math:: \bar M = U \Sigma V^\top = \mathrm{mean}_k M_k, \qquad
              M' = U_{\sigma \ge .9} V_{\sigma \ge .9}^\top

    A mean of orthogonal maps keeps the length of what all send to the same place, and shortens the rest.

    Parameters
    ----------
    m
        The map, ``(D_a, D_b)``.
    tied
        Its rivals, compared in as many leading components or fewer. No others are settled.
    least
        Singular value from which on a direction is settled.

    Returns
    -------
    (D_a, D_b) array
        The map of the settled directions, zero on the others.
    int
        How many there are.
    """
    mean = np.mean([m, *(padded(rival.maps[-1], *m.shape) for rival in tied)], axis=0)
    left, values, right = np.linalg.svd(mean, full_matrices=False)
    kept = values >= least
    return np.asarray(left[:, kept] @ right[kept], dtype=np.float32), int(kept.sum())


def _margin(own: Rival, different: Sequence[Rival]) -> float:
    """How much worse the best of them is; where none ends elsewhere, as if twice as far."""
    return min((rival.excess for rival in different), default=2 * own.excess) / own.excess - 1


def _expected_agreement(own: Rival, rivals: Sequence[Rival], settings: VerdictSettings) -> float:
    """Mean agreement of the map with all that are found, itself included, by ``exp(-m / temperature)``."""
    weights = np.array(
        [np.exp(-max(r.excess / own.excess - 1, 0.0) / settings.temperature) for r in (own, *rivals)]
    )
    return float(weights @ np.array([1.0, *(r.agreement for r in rivals)]) / weights.sum())


def confidence_of(figures: Figures, settings: VerdictSettings = DEFAULT) -> Estimate:
    """Retrieval to expect as a share of the ceiling, with an interval (``errors``)."""
    told = np.array(
        [
            1.0,
            np.clip(min(figures.margin, figures.cluster_margin), -0.02, settings.most_margin),
            figures.replication,
            figures.expected,
            np.clip(figures.lead, -2.0, settings.most_lead),
            figures.stability,
        ]
    )
    value = float(1 / (1 + np.exp(-told @ np.array(settings.weights))))
    low, high = next((low, high) for border, low, high in settings.errors if value <= border)
    return Estimate(value, min(low, value), max(high, value))
