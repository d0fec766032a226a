"""Settings of tree matching, with the study that each number comes from. The verdict's numbers come first."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["MATCH", "PAIRING", "MatchSettings", "PairingSettings"]


@dataclass(frozen=True)
class MatchSettings:
    """Numbers that decide the verdict of a tree match (benchmarks/match_trees.py, docs/studies/topology.md).

    Attributes
    ----------
    significant
        p-value up to which the verdict can be "found"; up to ten times as much is "inconclusive".
    agreement
        Mass-weighted confidence that "found" also needs.
    min_leaves
        Fewest leaves: n leaves can be matched in n! ways, so with fewer than five a match could be chance.
    symmetric, symmetric_p
        Objective from which on, and p up to which, a match that is not found may be one of several equal
        ones.
    unique_mass
        Share of the matched mass whose partners no tied matching changes, which "found" needs.
    surrogates
        Surrogates of each null; "found" needs all of them below the score, a test at 1 in 100.
    enough
        Surrogates that reach the score, after which no more are drawn.
    further_surrogates
        Surrogates of each null in the two tests after that of whole trees, each at half its level. All three
        tests together find a match by chance in at most one case of fifty.
    min_coarser
        Fewest leaves of the coarser granularities: parts of fewer leaves agree by chance too often.
    coarser
        Ratio of the numbers of leaves of consecutive granularities.
    min_drawn
        Fewest surrogates from which moments of scores are estimated, where several candidates compete.
    """

    significant: float = 0.01
    agreement: float = 0.5
    min_leaves: int = 5
    symmetric: float = 0.9
    symmetric_p: float = 0.25
    unique_mass: float = 0.5
    surrogates: int = 99
    enough: int = 5
    further_surrogates: int = 199
    min_coarser: int = 8
    coarser: float = 2 / 3
    min_drawn: int = 30


@dataclass(frozen=True)
class PairingSettings:
    """How two sets of leaves are paired (benchmarks/match_trees.py where a study is named, else not studied).

    Attributes
    ----------
    core, min_in_core
        Share, and fewest number, of each leaf's densest points that give its centroid: the border of a leaf
        changes between samples more than its core.
    inner_overlap
        Share of the joint mass that matched leaves of two inner nodes must have in common.
    restarts
        Independent matchings of whole sets, each on a bootstrap of the points and with a flattening of its
        own. The confidence of a pair is the share of them that contain it.
    starts
        Starts of each quadratic assignment, for true and surrogate geometries alike.
    powers
        Range of the flattening of the leaves' spectrum: below 1, leading directions weigh less.
    traits
        Weight of the traits relative to the geometry: by chance their correlation varies five times as much.
    tolerance
        Relative difference of two distances that still agree: at .08 unrelated leaves agree too often
        (benchmarks/match_trees.py).
    resampled
        Bootstraps of a partial match; the confidence of a pair is the share of them that contain it.
    max_leaves
        Most leaves of either side in a partial match: the graph of all pairs takes their fourth power in
        memory.
    walk_steps
        Steps of the random walk; most walks have converged after half of them.
    jump
        Part of every step that leaves the graph for the present assignment, so that rivals for one leaf do
        not share its weight.
    sharpness
        Factor in the exponent of the present assignment.
    consistent
        Mean consistency with the other pairs below which a pair is dropped.
    min_pairs
        Pairs that are never dropped: three distances always agree by chance.
    rounds
        Matchings, each with the unit of length that the pairs of the one before agree on.
    enumerated
        Leaves up to which all permutations are tried for symmetries.
    symmetry_starts, symmetry_polished
        Starts of the assignment of the leaves of B to themselves, and how many are polished.
    composed
        Most matchings once those found are composed: symmetries form a group.
    symmetry_bootstraps
        Resamples of the points under which two matchings are compared.
    noise
        Standard deviations over resamples by which a matching must be ahead of another one.
    """

    core: float = 1 / 3
    min_in_core: int = 100
    inner_overlap: float = 0.5
    restarts: int = 12
    starts: int = 16
    powers: tuple[float, float] = (0.5, 1.0)
    traits: float = 0.2
    tolerance: float = 0.05
    resampled: int = 12
    max_leaves: int = 30
    walk_steps: int = 40
    jump: float = 0.4
    sharpness: float = 8.0
    consistent: float = 0.5
    min_pairs: int = 4
    rounds: int = 2
    enumerated: int = 6
    symmetry_starts: int = 64
    symmetry_polished: int = 32
    composed: int = 200
    symmetry_bootstraps: int = 24
    noise: float = 2.0


MATCH, PAIRING = MatchSettings(), PairingSettings()
