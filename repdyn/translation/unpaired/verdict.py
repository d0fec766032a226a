"""The verdict from four tests: replication, excess distance, uniqueness, stability across compositions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from repdyn.intervals import Estimate
from repdyn.translation.unpaired.proposals import padded
from repdyn.translation.unpaired.rivals import Composition, Rival
from repdyn.translation.unpaired.settings import TranslationVerdictSettings

__all__ = [
    "Figures",
    "VerdictResult",
    "agreed_directions",
    "confidence_of",
    "far_and_unshared",
    "is_different",
    "judge",
    "verdict_of",
]

Rows = NDArray[np.float32]


DEFAULT = TranslationVerdictSettings()


@dataclass(frozen=True)
class Figures:
    """Figures that the verdict is computed from.

    Attributes
    ----------
    replication
        Retrieval between the maps of two disjoint halves.
    excess
        Excess distance of the map.
    margin, cluster_margin
        Share by which the excess of the best map that translates items, or clusters, differently is larger.
    expected
        Agreement with all rivals and itself, each weighted by its fit.
    lead, stability
        On samples of other compositions (:class:`repdyn.translation.unpaired.rivals.Composition`).
    """

    replication: float
    excess: float
    margin: float
    cluster_margin: float
    expected: float
    lead: float
    stability: float


@dataclass(frozen=True)
class VerdictResult:
    """A verdict with its figures.

    Attributes
    ----------
    verdict, reason
        As in :class:`repdyn.translation.LinearTranslation`.
    confidence
        Expected retrieval, as a share of that of Procrustes with all pairs.
    figures
        What both are computed from.
    tied
        Different rivals that fit as well within the margin.
    """

    verdict: str
    reason: str
    confidence: Estimate
    figures: Figures
    tied: tuple[Rival, ...]


def is_different(rival: Rival, settings: TranslationVerdictSettings = DEFAULT) -> bool:
    """Whether a rival translates items, or clusters, differently from the map."""
    return rival.agreement < settings.different or rival.same_cluster < settings.different_clusters


def judge(
    replication: float,
    own: Rival,
    rivals: Sequence[Rival],
    composition: Composition,
    settings: TranslationVerdictSettings = DEFAULT,
) -> VerdictResult:
    r"""Combine the four tests to a verdict and a confidence.

    With the excess distances ρ of the map and ρ_k of its rivals, the margin is

    .. math:: m = \min_{k \text{ different}} \rho_k / \rho - 1

    and the confidence a logistic function of m, the retrieval between halves, the agreement with all maps
    that fit, and the lead and stability on other compositions. Its weights are fitted to pairs of models
    whose true translation is known. It is at least ``settings.least_confidence``, the mean of maps that
    are not found.

    Parameters
    ----------
    replication
        Retrieval between the maps of two disjoint halves.
    own
        The map, refined like its rivals.
    rivals
        Maps from other starts.
    composition
        Stability and lead on samples of other compositions.
    settings
        See :class:`repdyn.translation.unpaired.settings.TranslationVerdictSettings`.
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
        "found": "one map fits best, and no different map fits as well",
        "inconclusive": "one map fits best, but the confidence is too low or other compositions disagree",
        "neighborhoods": "the match of clusters is unique, that of items is not",
        "ambiguous": f"{len(tied)} different maps fit as well within the noise",
        "not found": "no map fits better than different ones do",
    }
    nearest = min(margin, clusters)
    rival = (
        f"for the best different map this distance is {abs(nearest):.1%} "
        f"{'larger' if nearest >= 0 else 'smaller'}"
    )
    if nearest >= 1:
        rival = "no different map has less than twice this distance"
    reason = (
        f"{reasons[verdict]}: translated points lie {own.excess:.2f} times as far from real ones as these "
        f"from each other, {rival}, and maps from disjoint halves "
        f"retrieve each other's translation of {replication:.0%} of the probes"
    )
    return VerdictResult(verdict, reason, confidence, figures, tied)


def far_and_unshared(
    replication: float, excess: float, settings: TranslationVerdictSettings = DEFAULT
) -> VerdictResult:
    """The verdict where the halves disagree and translated points lie far from real ones.

    No rival is needed: it could only show that another map fits as badly.

    Parameters
    ----------
    replication
        Retrieval between the best candidates of the halves.
    excess
        The smaller excess distance of both.
    settings
        As in :func:`judge`.
    """
    figures = Figures(replication, excess, 0.0, 0.0, replication, 0.0, replication)
    reason = (
        f"no map lies near the data: translated points lie {excess:.2f} times as far from real ones as these "
        "from each other, and maps from disjoint halves retrieve each other's translation of "
        f"{replication:.0%} of the probes"
    )
    return VerdictResult("not found", reason, confidence_of(figures, settings), figures, ())


def verdict_of(figures: Figures, settings: TranslationVerdictSettings = DEFAULT) -> str:
    """The verdict by the figures alone."""
    margin = min(figures.margin, figures.cluster_margin)
    # Clusters are determined if no other match fits, and maps from other compositions translate alike.
    unique = figures.cluster_margin >= settings.margin
    clusters = unique and figures.stability >= settings.different
    items, off = figures.expected >= settings.items, figures.excess >= settings.max_excess
    clear = margin > 0 and figures.lead >= settings.clear_lead and not off
    if margin >= settings.margin or clear:
        if not items and not off:
            return "neighborhoods" if clusters else "inconclusive" if unique else "ambiguous"
        confident = figures.lead >= settings.lead and confidence_of(figures, settings).value >= settings.found
        return "found" if confident and items else "inconclusive"
    if off:
        return "not found"
    return "neighborhoods" if clusters else "ambiguous"


def agreed_directions(
    m: Rows, tied: Sequence[Rival], least: float = DEFAULT.agreed_direction
) -> tuple[Rows, int]:
    r"""The map on the directions on which it and its tied rivals agree.

    .. math:: \bar M = U \Sigma V^\top = \mathrm{mean}_k M_k, \qquad
              M' = U_{\sigma \ge .9} V_{\sigma \ge .9}^\top

    A mean of orthogonal maps keeps the length of vectors that all send to the same image, and shortens
    others.

    Parameters
    ----------
    m
        The map, ``(D_a, D_b)``.
    tied
        Its tied rivals, in as many leading components or fewer; other components count as different.
    least
        Singular value from which on the maps agree on a direction.

    Returns
    -------
    (D_a, D_b) array
        The map on the agreed directions, zero on the others.
    int
        Their number.
    """
    mean = np.mean([m, *(padded(rival.maps[-1], *m.shape) for rival in tied)], axis=0)
    left, values, right = np.linalg.svd(mean, full_matrices=False)
    kept = values >= least
    return np.asarray(left[:, kept] @ right[kept], dtype=np.float32), int(kept.sum())


def _margin(own: Rival, different: Sequence[Rival]) -> float:
    """Relative excess of the best different rival; 1, as for twice the distance, where there is none."""
    return min((rival.excess for rival in different), default=2 * own.excess) / own.excess - 1


def _expected_agreement(own: Rival, rivals: Sequence[Rival], settings: TranslationVerdictSettings) -> float:
    """Mean agreement with all rivals and itself, weighted by ``exp(-margin / temperature)``."""
    weights = np.array(
        [np.exp(-max(r.excess / own.excess - 1, 0.0) / settings.temperature) for r in (own, *rivals)]
    )
    return float(weights @ np.array([1.0, *(r.agreement for r in rivals)]) / weights.sum())


def confidence_of(figures: Figures, settings: TranslationVerdictSettings = DEFAULT) -> Estimate:
    """Expected retrieval as a share of the ceiling, with an interval (``errors``)."""
    features = np.array(
        [
            1.0,
            np.clip(min(figures.margin, figures.cluster_margin), -0.02, settings.max_margin),
            figures.replication,
            figures.expected,
            np.clip(figures.lead, -2.0, settings.max_lead),
            figures.stability,
        ]
    )
    value = float(1 / (1 + np.exp(-features @ np.array(settings.weights))))
    value = max(value, settings.least_confidence)
    low, high = next((low, high) for border, low, high in settings.errors if value <= border)
    return Estimate(value, min(low, value), max(high, value))
