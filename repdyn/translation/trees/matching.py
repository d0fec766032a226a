"""Matching of two density trees: pairs of nodes with a confidence each, tested against null models.

:func:`match_trees` tries several candidates (:mod:`repdyn.translation.trees.pairing`) and compares the best
with the best that surrogates reach (:func:`best_by_chance`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repdyn.artifacts import Artifact
from repdyn.errors import RepdynError
from repdyn.progress import track
from repdyn.results import Result, plain
from repdyn.translation.trees.leaves import (
    Leaves,
    MatchedLeaves,
    attractor_traits,
    branches_of,
    granularities,
    inner_pairs_of,
)
from repdyn.translation.trees.pairing import shared_by_chance, shared_pairs, whole_by_chance, whole_pairs
from repdyn.translation.trees.settings import MATCH, PAIRING
from repdyn.translation.trees.symmetries import tied_matchings

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from repdyn.topology import LevelSetTree, NodeAttributes

__all__ = ["MatchCandidate", "TestedMatch", "TreeMatch", "best_by_chance", "highest_by_chance", "match_trees"]

Floats = NDArray[np.float64]
Index = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class TreeMatch(Result, kind="tree_match"):
    """A partial matching of two level-set trees.

    Attributes
    ----------
    pairs
        Node of A and node of B, shape ``(P, 2)``: leaves (at a coarser granularity the branches that are its
        leaves), then inner nodes.
    confidence
        Of each pair, from 0 to 1, shape ``(P,)``: for leaves the share of independent matchings that
        contain it, for inner nodes the mean over their leaves times the overlap.
    verdict
        ``"found"``, ``"ambiguous"``, ``"inconclusive"`` or ``"not found"``.
    reason
        One sentence.
    objective
        Correlation of the angles between matched leaves, 1 for equal geometries; median over matchings. Of
        log-distances where only a part is shared.
    traits
        Mean rank correlation of mass, persistence and spread of matched leaves, which the matching does not
        use; median over matchings.
    score
        The test statistic: objective plus ``0.2 * traits``, median over matchings. Where only a part is
        shared, the agreement of the kept pairs as a share of its maximum for all leaves.
    p_value
        Of the score, (1 + number of surrogates that reach it) / (1 + n), for the null with the largest p.
        Surrogates are matched at the same granularities. NaN where it was not measured.
    surrogates
        Scores of the surrogates, ``(3, n)``: random directions at the same distances from the mean, random
        fine geometry within the same few groups, and angles or distances shuffled within these.
    tree_a, tree_b
        The trees as arrays, for the plot.
    alternatives
        Matchings of the same leaves that fit as well within the noise, shape ``(M, L)``: the node of B for
        the node of A of each of the L leading pairs. Empty where the match is unique.
    """

    pairs: Index
    confidence: Floats
    verdict: str
    reason: str
    objective: float
    traits: float
    score: float
    p_value: float
    surrogates: Floats
    tree_a: dict[str, NDArray[Any]]
    tree_b: dict[str, NDArray[Any]]
    alternatives: Index = field(default_factory=lambda: np.empty((0, 0), dtype=np.int64))

    def __repr__(self) -> str:
        sizes = f"{len(self.tree_a['parent'])} and {len(self.tree_b['parent'])} nodes"
        chance = f"{self.surrogates.max():.3f}" if self.surrogates.size else "not measured"
        text = f"TreeMatch({len(self.pairs)} pairs of {sizes}, verdict={self.verdict!r})\n  {self.reason}"
        if np.isnan(self.objective):  # nothing was matched
            return text
        return (
            f"{text}\n  objective {self.objective:.3f}, traits {self.traits:.3f}, "
            f"score {self.score:.3f}, highest by chance {chance}"
        )

    def plot(self, names_a: Sequence[str] | None = None, names_b: Sequence[str] | None = None) -> Figure:
        """Both trees with their matches between them.

        Parameters
        ----------
        names_a, names_b
            Names of the nodes of each tree. Default: their numbers.
        """
        from repdyn.views.trees import two_trees  # loads plotly

        tree_a: dict[str, Any] = {**self.tree_a, "label": None if names_a is None else list(names_a)}
        tree_b: dict[str, Any] = {**self.tree_b, "label": None if names_b is None else list(names_b)}
        return two_trees(tree_a, tree_b, self.pairs, self.confidence)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for ``--json``; the trees are left out."""
        names = [field.name for field in fields(self) if field.name not in ("tree_a", "tree_b")]
        return {name: plain(getattr(self, name)) for name in names}

    @classmethod
    def _upgrade(cls, artifact: Artifact, path: Path) -> Artifact:
        """Version 0.1 named the arrays of the trees ``a.parent``, ``b.parent``, …"""
        trees: dict[str, dict[str, Any]] = {"tree_a": {}, "tree_b": {}}
        for name in artifact.tensors:
            side, _, own = name.partition(".")
            if own:
                trees[f"tree_{side}"][own] = {"tensor": name}
        return replace(artifact, config={**artifact.config, **trees})


def match_trees(
    tree_a: LevelSetTree,
    tree_b: LevelSetTree,
    x_a: ArrayLike | None = None,
    x_b: ArrayLike | None = None,
    seed: int = 0,
    *,
    nodes_a: NodeAttributes | None = None,
    nodes_b: NodeAttributes | None = None,
) -> TreeMatch:
    r"""Match the leaves of two trees so that their geometry agrees, then the inner nodes above them.

    .. math:: \max_\pi \operatorname{corr}_{i<j} \big(A_{ij}, B_{\pi(i)\pi(j)}\big)

    over injective maps of the smaller set of leaves. With points, A and B are cosines between the leaves'
    centroids about their common mean. Without points, they are heights of the lowest join above two leaves.
    No basis is assumed, and the spaces of the two trees may differ in width. Mass, persistence and spread of
    the leaves are not used in the matching, so their agreement is independent evidence for it.

    Where the whole sets do not match (leaves that one tree lacks move the common mean), and points are given,
    a common part is searched among up to thirty leaves of each: pairs whose distances agree with one another.
    Then both ways are tried at coarser granularities, with two thirds of the leaves each time; the trees as
    given are the finest granularity. Of all these candidates the one with the highest standardized score is
    tested against the highest standardized scores of the surrogates over all granularities.

    Parameters
    ----------
    tree_a, tree_b
        Level-set trees of the two models; the samples may be entirely different ones.
    x_a, x_b
        The points the trees were fitted on; give both or neither.
    seed
        Of starts, bootstraps and surrogates.
    nodes_a, nodes_b
        :func:`repdyn.topology.node_attributes` of both trees, made with the basins and multipliers of each
        model's latent field (for example those of :func:`repdyn.fields.align_fields`). The number of
        attractors of a leaf, the share of it that they attract and the contraction are then traits too.

    Returns
    -------
    TreeMatch
        ``"found"`` where no surrogate of any null reaches the score (p = .01 for whole trees as given, .005
        for parts of them, .005 for the coarser granularities), independent matchings agree, and no other
        matching of the same leaves fits as well within the noise for half of their mass or more.
        ``"ambiguous"`` where only the last fails: ``alternatives`` has the matchings that fit as well.
        Leaves without a partner are in no pair.

    Raises
    ------
    RepdynError
        If points, attributes and tree do not belong together.

    References
    ----------
    Vogelstein, J. et al. (2015). Fast approximate quadratic programming for graph matching. PLOS ONE 10(4).
    Besag, J. and Clifford, P. (1991). Sequential Monte Carlo p-values. Biometrika 78(2) (the early stop).
    """
    if (x_a is None) != (x_b is None):
        raise RepdynError("match_trees: give the points of both trees (x_a and x_b) or of neither")
    if (nodes_a is None) != (nodes_b is None):
        raise RepdynError(
            "match_trees: give the attributes of both trees (nodes_a and nodes_b) or of neither"
        )
    drawn_a, drawn_b = _arrays(tree_a), _arrays(tree_b)
    leaves = len(tree_a.leaves), len(tree_b.leaves)
    if min(leaves) < MATCH.min_leaves:
        counts = f"{leaves[0]} and {leaves[1]} leaves"
        reason = f"the trees have {counts}; with fewer than {MATCH.min_leaves} a match could be chance"
        return TreeMatch(
            pairs=np.empty((0, 2), dtype=np.int64),
            confidence=np.empty(0),
            verdict="inconclusive",
            reason=reason,
            objective=float("nan"),
            traits=float("nan"),
            score=float("nan"),
            p_value=float("nan"),
            surrogates=np.empty((3, 0)),
            tree_a=drawn_a,
            tree_b=drawn_b,
        )
    a, b = Leaves.of(tree_a, x_a, "x_a"), Leaves.of(tree_b, x_b, "x_b")
    if nodes_a is not None and nodes_b is not None:
        more_a, more_b = attractor_traits(tree_a, nodes_a, tree_b, nodes_b)
        a = replace(a, traits=np.column_stack([a.traits, more_a]))
        b = replace(b, traits=np.column_stack([b.traits, more_b]))
    generator = np.random.default_rng(seed)
    tested = best_by_chance(
        [MatchCandidate(whole_pairs(a, b, generator), whole_by_chance, (tree_a, tree_b))],
        MATCH.surrogates,
        MATCH.enough,
        generator,
    )
    verdict = "inconclusive" if tested.p_value <= 10 * MATCH.significant else "not found"
    nodes_of_a, nodes_of_b = tree_a.leaves, tree_b.leaves
    if tested.p_value <= MATCH.significant and tested.best.match.agreement >= MATCH.agreement:
        verdict = "found"
    # Not for trees without points: heights of joins are often equal, and surrogates' distances never are.
    elif x_a is not None and x_b is not None:
        cuts = granularities(tree_a, tree_b, PAIRING.max_leaves, MATCH.min_coarser)
        for some in (cuts[:1], cuts[1:]):
            candidates = [c for cut in some for c in _candidates(cut, (tree_a, tree_b), x_a, x_b, generator)]
            further = (
                best_by_chance(candidates, MATCH.further_surrogates, 1, generator) if candidates else tested
            )
            match = further.best.match
            if (
                further.p_value <= MATCH.significant / 2
                and match.agreement >= MATCH.agreement
                and len(match.pairs) >= MATCH.min_leaves
            ):
                tested, verdict = further, "found"
                nodes_of_a, nodes_of_b = (
                    branches_of(tree, cut) for tree, cut in zip((tree_a, tree_b), further.best.cut)
                )
                break
    match = tested.best.match
    confidence = match.confidence
    tied = np.empty((0, len(match.pairs)), dtype=np.int64)
    # Restarts on a symmetric set agree with the angles, but not with each other.
    symmetric = match.objective >= MATCH.symmetric and tested.p_value <= MATCH.symmetric_p
    if verdict == "found" or symmetric:
        tied = tied_matchings(match, PAIRING.traits, generator)
    share = 0.0
    if len(tied):
        unchanged = (tied == np.arange(len(match.pairs))).all(0)
        share = float(match.weight[unchanged].sum() / match.weight.sum())
        # The confidence of a pair is divided by the number of partners that tied matchings give its leaf.
        partners = np.array([len({k, *column.tolist()}) for k, column in enumerate(tied.T)])
        confidence = confidence / partners
        if share < MATCH.unique_mass:
            verdict = "ambiguous"
    reason = (
        f"{len(match.pairs)} of {len(match.a.mass)} and {len(match.b.mass)} branches are paired, restarts "
        f"agree on {match.agreement:.0%} of their mass, objective {match.objective:.2f}, traits "
        f"{match.traits:.2f}, score {match.score:.2f} against at most {tested.surrogates.max():.2f} "
        f"by chance, p = {tested.p_value:.2g}"
    )
    if len(tied):
        reason += (
            f"; {len(tied)} other matchings of the same leaves fit as well within the noise, and agree on "
            f"{share:.0%} of the mass"
        )
    pairs = np.column_stack([nodes_of_a[match.pairs[:, 0]], nodes_of_b[match.pairs[:, 1]]])
    inner_pairs, inner_confidence = inner_pairs_of(tree_a, tree_b, pairs, confidence, match.weight)
    return TreeMatch(
        np.concatenate([pairs, inner_pairs]),
        np.concatenate([confidence, inner_confidence]),
        verdict,
        reason,
        match.objective,
        match.traits,
        match.score,
        tested.p_value,
        tested.surrogates,
        drawn_a,
        drawn_b,
        pairs[:, 1][tied],
    )


def _candidates(
    cut: tuple[LevelSetTree, LevelSetTree],
    given: tuple[LevelSetTree, LevelSetTree],
    x_a: ArrayLike,
    x_b: ArrayLike,
    generator: np.random.Generator,
) -> list[MatchCandidate]:
    """Candidates at a granularity: the common part, and whole sets unless the trees are those given."""
    a, b = Leaves.of(cut[0], x_a, "x_a"), Leaves.of(cut[1], x_b, "x_b")
    shared = shared_pairs(a.as_given(x_a), b.as_given(x_b), generator)
    found = [MatchCandidate(shared, shared_by_chance, cut)]
    if cut[0] is not given[0] or cut[1] is not given[1]:
        found.append(MatchCandidate(whole_pairs(a, b, generator), whole_by_chance, cut))
    return found


def _arrays(tree: LevelSetTree) -> dict[str, NDArray[Any]]:
    """Arrays of a tree that a plot needs."""
    return {
        "parent": tree.parent,
        "height": tree.height,
        "death": tree.saddle,
        "saddle": tree.saddle,
        "mass": tree.mass,
    }


@dataclass(frozen=True, eq=False)
class MatchCandidate:
    """A matching, and the function that draws the scores of surrogates in its place, one for each null.

    Attributes
    ----------
    match
        The matching.
    by_chance
        Takes the two sets of leaves and a generator.
    cut
        The two trees at their granularity.
    """

    match: MatchedLeaves
    by_chance: Callable[[Leaves, Leaves, np.random.Generator], tuple[float, ...]]
    cut: tuple[LevelSetTree, LevelSetTree]


@dataclass(frozen=True, eq=False)
class TestedMatch:
    """The best of several candidates.

    Attributes
    ----------
    best
        The candidate whose score lies farthest above its surrogates.
    p_value
        Of the highest standardized score among the highest ones of the surrogates, over all candidates.
    surrogates
        Scores of the surrogates in the place of the best candidate, ``(nulls, n)``.
    """

    best: MatchCandidate
    p_value: float
    surrogates: Floats


def best_by_chance(
    candidates: Sequence[MatchCandidate], draws: int, enough: int, generator: np.random.Generator
) -> TestedMatch:
    """Draw surrogates in the place of every candidate, and compare the best candidate with the best of them.

    Parameters
    ----------
    candidates
        One or more.
    draws
        Surrogates of each null.
    enough
        Of those that reach the best score, after which no more are drawn.
    generator
        Of surrogates.

    References
    ----------
    Besag, J. and Clifford, P. (1991). Sequential Monte Carlo p-values. Biometrika 78(2) (the early stop).
    """
    scores = np.array([candidate.match.score for candidate in candidates])
    found: list[list[tuple[float, ...]]] = []
    for _ in track(range(draws), "matching surrogates"):
        found.append([c.by_chance(c.match.a, c.match.b, generator) for c in candidates])
        drawn = np.array(found).transpose(2, 0, 1)
        above, p_value = highest_by_chance(scores, drawn, enough)
        # With one candidate only the order of scores matters, and no moments are needed.
        known = len(candidates) == 1 or len(found) >= MATCH.min_drawn
        if known and p_value * len(found) >= enough:
            break
    best = int(above.argmax())
    return TestedMatch(candidates[best], p_value, drawn[:, :, best])


def highest_by_chance(score: Floats, surrogates: Floats, enough: int) -> tuple[Floats, float]:
    r"""Standardized scores, and a p-value of the highest of them that accounts for their number.

    .. math:: t_l = (s_l - \mu_l) / \sigma_l, \qquad
              p = \max_\text{null} \frac{1 + \#\{k : \max_l t^k_l \ge \max_l t_l\}}{1 + K}

    Several candidates were tried, so the best is compared with the best that surrogates reach in any.

    Parameters
    ----------
    score
        Of each candidate, ``(L,)``.
    surrogates
        Of each null, draw and candidate, ``(nulls, K, L)``.
    enough
        Surrogates that reach the score from which on p is their share: none were drawn after them.

    Returns
    -------
    (L,) array
        Lowest t over the nulls.
    float
        p of the null that reaches the score most often.

    References
    ----------
    Westfall, P. and Young, S. (1993). Resampling-based multiple testing. Wiley (the step of the maximum).
    """
    # The observed score enters the moments: under the null it is one more draw.
    drawn = np.concatenate([surrogates, np.broadcast_to(score, (len(surrogates), 1, len(score)))], axis=1)
    spread = np.maximum(drawn.std(1, keepdims=True), 1e-12)
    above = (drawn - drawn.mean(1, keepdims=True)) / spread
    highest = above.max(2)
    # Scores that differ by rounding are equal.
    reached = int((highest[:, :-1] >= highest[:, -1:] - 1e-9).sum(1).max())
    count = surrogates.shape[1]
    return above[:, -1].min(0), reached / count if reached >= enough else (1 + reached) / (1 + count)
