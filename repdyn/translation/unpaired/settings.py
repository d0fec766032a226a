"""Settings of the unpaired search, with the study that each number comes from.

Numbers that decide a verdict stand in :class:`TranslationVerdictSettings` and, for maps fitted on pairs, in
:class:`PairedVerdictSettings`.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "CONSENSUS",
    "GROWTH",
    "PAIRED",
    "REFINEMENT",
    "REPLICATION",
    "SAMPLES",
    "SEARCH",
    "ConsensusSettings",
    "GrowthSettings",
    "PairedVerdictSettings",
    "RefinementSettings",
    "ReplicationSettings",
    "SampleSettings",
    "TranslationVerdictSettings",
    "UnpairedSearchSettings",
]


@dataclass(frozen=True)
class TranslationVerdictSettings:
    """What decides the verdict of a translation without pairs.

    All values were set on the development half of ``benchmarks/verdicts.py``. The final half has networks,
    clouds and draws of its own, and was read once after that (docs/studies/translation.md).

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
        Standard errors from which on a smaller margin suffices, where points lie among the real ones.
    items
        Agreement with all maps that fit, from which on items are determined. Below it clusters may be.
    max_excess
        Excess distance from which on translated points do not lie among the real ones.
    found
        Confidence from which on a unique map is found.
    agreed_direction
        Singular value of the mean of tied maps from which on they agree on a direction.
    weights
        Of the confidence: constant, margin, retrieval between halves, agreement with rivals, lead, stability
        across compositions.
    temperature
        Margin by which a rival's weight falls to 37 % in the agreement with rivals.
    max_margin, max_lead
        Larger margins and leads count as these.
    least_confidence
        The confidence is not lower. Of development pairs below it, the mean share of the ceiling is .04, and
        the logistic function does not order shares between 0 and .05.
    errors
        Upper borders of the confidence, and the lowest and highest true share of the ceiling to expect there.
    """

    different: float = 0.5
    different_clusters: float = 0.8
    margin: float = 0.035
    lead: float = 2.0
    clear_lead: float = 5.0
    items: float = 0.85
    max_excess: float = 1.4
    found: float = 0.5
    agreed_direction: float = 0.9
    weights: tuple[float, float, float, float, float, float] = (-7.4, 3.5, 1.9, 4.9, 0.36, 1.75)
    temperature: float = 0.02
    max_margin: float = 0.15
    max_lead: float = 6.0
    least_confidence: float = 0.05
    errors: tuple[tuple[float, float, float], ...] = (
        (0.1, 0.0, 0.4),
        (0.2, 0.0, 0.5),
        (0.5, 0.0, 0.94),
        (0.8, 0.45, 1.0),
        (0.93, 0.55, 1.0),
        (1.0, 0.8, 1.0),
    )


@dataclass(frozen=True)
class PairedVerdictSettings:
    """What decides the verdict of a translation that is fitted on pairs. Not studied.

    Attributes
    ----------
    same_map
        Mean cosine of translations that two fits on disjoint pairs must reach.
    explained_p
        Largest p-value of the share of variance that either half of the pairs explains in the other half.
    """

    same_map: float = 0.5
    explained_p: float = 1e-3


@dataclass(frozen=True)
class SampleSettings:
    """Which samples and depths are used. Not studied, except for the depths.

    Attributes
    ----------
    min_points
        Points of each model below which two halves cannot be matched without pairs.
    max_samples
        Most samples of either model, or pairs.
    max_depths
        Depths matched together, evenly spread; more depths cost time and add little
        (docs/studies/translation.md).
    """

    min_points: int = 200
    max_samples: int = 100_000
    max_depths: int = 4


@dataclass(frozen=True)
class ReplicationSettings:
    """How the searches on two halves are compared (benchmarks/verdicts.py).

    Attributes
    ----------
    averaged
        Retrieval between the maps of two halves from which on they are averaged: they are then one map with
        independent errors.
    probes
        Points of A whose translations by two maps are compared.
    min_leaves
        Peaks of either density below which there are no trees to match.
    candidates_compared
        Candidates of either search that are among the rivals of the map.
    max_exchanges
        Number of times that a map is exchanged for a rival that fits better.
    max_reported_lead
        Larger leads, and those over no different map at all, are reported as this.
    agree
        Retrieval between the halves' best candidates after which no more are tried; chance is one in 500.
    far
        Candidates of each half, and the excess distance of the best candidates of both halves from which on,
        if they disagree, the search ends after so many without rivals: the verdict is "not found". Of 47
        development pairs that are found, the twelve whose halves disagree after eight candidates lie below
        1.6, and the six after twelve below 1.45. Of 14 that are not found, 12 lie above 1.7 after eight; two
        pairs of disjoint intents lie at 1.65 and 1.69 after twelve (docs/studies/translation.md).
    """

    averaged: float = 0.5
    probes: int = 1000
    min_leaves: int = 3
    candidates_compared: int = 4
    max_exchanges: int = 4
    max_reported_lead: float = 20.0
    agree: float = 0.5
    far: tuple[tuple[int, float], ...] = ((8, 1.7), (12, 1.6))


@dataclass(frozen=True)
class UnpairedSearchSettings:
    """How maps are proposed and refined (``benchmarks/translation.py``, docs/studies/translation.md).

    Attributes
    ----------
    tree_points
        Points that a tree is grown on. The time grows with their square, the leaves hardly change.
    tree_components
        Principal components of the density; the nearest neighbors in all components are dominated by noise.
    leaves
        Range of granularities, uniform in the logarithm. The best one depends on the data.
    neighbors
        Neighbors of the density that are tried: fewer give more peaks.
    atoms
        Gaussians of a mixture, as a share of the points, where nodes are its modes. docs/studies/fields.md.
    means
        Clusters of k-means, the nodes of every second proposal. They are better where classes are blurred,
        where the density has few or false peaks; latents with a Gaussian prior need the tree.
    starts, polished
        Starts of the quadratic assignment and how many are polished, for nodes of the tree and for means.
    powers
        Range of the flattening of the Gram matrices' spectrum.
    scored
        Points of each side on which a candidate is scored.
    probed
        Points whose translations are compared between candidates.
    node_components
        Principal components in which nodes are compared, as many as in the short refinement.
    start_rank
        Directions that matched nodes determine reliably.
    batch
        Points of each side matched per step; the comparison is quadratic in it.
    unguided
        Number of proposals before any is guided by the best candidate. Each of them is followed by one round
        of refinement, later every second proposal is.
    pool_every
        Proposals after which the best are pooled again; one of so many later proposals is guided.
    consensus_first, consensus_every
        Proposals after which the consensus of unguided proposals is computed first, and how often later.
    consensus_kept
        Maps of a consensus that are refined by a second round, those that fit best after the first.
    pool_size
        Proposals in a pool.
    kept
        Candidates kept: maps of wide models at all depths are large.
    short
        (components, steps) of the short refinement of every candidate, which makes fits comparable.
    known_weight
        Total weight of known pairs in the short refinement, relative to all matches there.
    round
        (components, steps) of a refinement round of the best candidate. Correct candidates improve with
        every round.
    max_rounds
        Rounds of one candidate; correct ones have converged by then.
    drift
        Cosine by which the map of two rounds ago must be farther off than that of one round ago, or the
        rounds end: the remaining changes are those of the draws.
    wide
        (components, steps) between those of a round and the final refinement.
    final_steps
        Steps of the final refinement on all points of a half; more change nothing.
    final_all
        (points of each side, steps) of the final refinement on all data.
    final_nearest
        Points whose mean is the counterpart of a point there; there are twice as many data as in a half.
    trusted
        Number of known pairs that weigh as much as the fit of all points in the score of a candidate.
    compared
        Points of either side on which a map is compared with its rivals.
    compared_width
        Principal components in which it is.
    better
        Share of the excess distance by which a rival must be better to replace a map.
    far
        Excess distance from which on a map that the halves do not share is no longer replaced. Of 49
        development pairs whose halves disagree, all that were found lie below 1.32. For the others, the
        replacements took half of the time and changed no verdict to "found" (benchmarks/verdicts.py,
        docs/studies/translation.md).
    """

    tree_points: int = 4000
    tree_components: int = 32
    leaves: tuple[int, int] = (8, 120)
    neighbors: tuple[int, ...] = (5, 8, 11)
    atoms: float = 0.1
    means: int = 30
    starts: tuple[int, int] = (16, 400)
    polished: tuple[int, int] = (16, 40)
    powers: tuple[float, float] = (0.35, 1.0)
    scored: int = 1000
    probed: int = 500
    node_components: int = 64
    start_rank: int = 16
    batch: int = 1500
    unguided: int = 12
    pool_every: int = 4
    consensus_first: int = 12
    consensus_every: int = 24
    consensus_kept: int = 4
    pool_size: int = 8
    kept: int = 48
    short: tuple[tuple[int, int], ...] = ((32, 4), (64, 4))
    known_weight: float = 1.0
    round: tuple[int, int] = (64, 8)
    max_rounds: int = 6
    drift: float = 0.003
    wide: tuple[tuple[int, int], ...] = ((128, 4), (192, 3))
    final_steps: int = 2
    final_all: tuple[tuple[int, int], ...] = ((5000, 4), (10_000, 2))
    final_nearest: int = 2
    trusted: int = 10
    compared: int = 4000
    compared_width: int = 128
    better: float = 0.015
    far: float = 1.5


@dataclass(frozen=True)
class GrowthSettings:
    """How maps are grown from what many matchings share (docs/studies/translation.md).

    Schedule, matchings and starts were compared on development seeds of the last layer of the
    documentation strings. Power, ranks and the least width were not compared there.

    Attributes
    ----------
    first
        Matchings whose mean and consensus are the starts.
    matchings
        Guided matchings of a step.
    schedule
        Leading directions of the guide, number of nodes and of starts, one step each. The starts whose
        matchings align best go on.
    power
        Flattening of the Gram matrices of guided matchings.
    assignments
        Starts of a guided assignment and how many are polished.
    ranks
        Upper border of the number of nodes, and the directions that so many matched nodes determine.
    gain
        Share by which a grown map must fit better than the map before, or it is dropped: on six development
        splits five correct ones do by 8 to 9 %, a wrong one by .2 %.
    final
        Final refinements of a grown map; it gains slowly.
    rounds, repeated
        Rounds of one-to-one matching and Procrustes, and how often the result is polished again: a rough map
        gains until the third time (development draws of the strings). The rounds were not compared.
    least_width
        Directions of the narrower model from which on maps are grown: nodes determine the map of fewer.
    least_samples
        Samples of the smaller side from which on maps are grown. On development splits of the documentation
        strings with 700, 1000, 1400 and 2000 samples a side none of eight grown maps is right, although they
        fit 9 to 17 % better; of splits with 4216 samples five of six are (docs/studies/translation.md).
    """

    first: int = 30
    matchings: int = 8
    schedule: tuple[tuple[int, int, int], ...] = (
        (4, 30, 4),
        (6, 40, 4),
        (8, 50, 2),
        (12, 60, 2),
        (16, 80, 1),
        (32, 120, 1),
    )
    power: float = 0.8
    assignments: tuple[int, int] = (8, 2)
    ranks: tuple[tuple[float, int], ...] = ((40, 16), (70, 32), (float("inf"), 64))
    gain: float = 0.02
    final: int = 3
    rounds: int = 8
    repeated: int = 3
    least_width: int = 128
    least_samples: int = 2000


@dataclass(frozen=True)
class ConsensusSettings:
    """Settings of :func:`repdyn.translation.unpaired.proposals.consensus_weights`.

    Attributes
    ----------
    directions
        Principal directions of the proposals that are searched: shared errors take some of them.
    steps
        Steps of each ascent; most have converged after ten.
    same
        Cosine from which on two ascents have ended at one direction.
    """

    directions: int = 6
    steps: int = 50
    same: float = 0.95


@dataclass(frozen=True)
class RefinementSettings:
    """Settings of the refinement by mutual neighbors (``benchmarks/translation.py``).

    Attributes
    ----------
    hub_groups
        Groups of points whose nearest members give a point's hubness, the mean of their similarities.
    early_hubness
        Weight of the hubness correction in early iterations; 1 in the final ones.
    final_components
        Leading components in which points are compared in the final refinement. The map is fitted in all.
    nearest
        Points whose mean is the counterpart of a point in the final refinement of a half. A single one would
        carry most of the noise of the sample; with all points two suffice.
    """

    hub_groups: int = 5
    early_hubness: float = 0.5
    final_components: int = 256
    nearest: int = 5


PAIRED, SAMPLES, REPLICATION = PairedVerdictSettings(), SampleSettings(), ReplicationSettings()
SEARCH, GROWTH = UnpairedSearchSettings(), GrowthSettings()
CONSENSUS, REFINEMENT = ConsensusSettings(), RefinementSettings()
