"""Which regions of one model's density tree are which of another's: partial, with a confidence each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment

from repdyn.artifacts import load_artifact, save_artifact
from repdyn.errors import RepdynError
from repdyn.progress import track
from repdyn.translation.assignment import quadratic_assignment
from repdyn.translation.leaves import (
    Leaves,
    attractor_traits,
    cosines,
    inner_pairs_of,
    standardised,
    trait_agreement,
)
from repdyn.translation.partial import MOST_PAIRS, distance_correlation, shared_pairs
from repdyn.translation.surrogates import coarse_surrogate, random_surrogate

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from repdyn.topology import LevelSetTree, NodeAttributes

__all__ = ["TreeMatch", "match_trees"]

Floats = NDArray[np.float64]
Index = NDArray[np.int64]

RESTARTS = 12
"""Independent matchings, each on a bootstrap of the points and at its own flattening of the geometry: the
confidence of a pair is the share of them that contain it."""

SURROGATES = 99
"""Geometries of either null; none may reach the score, which is a test at 1 in 100."""

ENOUGH = 5
"""Surrogates that reach the score, after which no more are tried: the match is not found at any level."""

SIGNIFICANT = 0.01
"""p from which on the verdict can be "found"; ten times as much is "inconclusive"."""

AGREEMENT = 0.5
"""Mass-weighted confidence that "found" needs besides."""

STARTS = 32
"""Of each quadratic assignment, for true and surrogate geometries alike."""

POWERS = (0.5, 1.0)
"""Flattening of the leaves' spectrum: below one, few leading directions do not decide the match alone."""

TRAITS = 0.2
"""Weight of the traits beside the geometry: by chance their correlation spreads five times as wide."""

FEWEST_LEAVES = 5
"""n leaves can be matched in n! ways; with fewer than five, more than one guess in a hundred is right."""

_CONFIG = ("verdict", "reason", "objective", "traits", "score", "p_value")


@dataclass(frozen=True, eq=False)
class TreeMatch:
    """A partial matching of two level-set trees.

    Attributes
    ----------
    pairs
        Node of A and node of B, shape ``(P, 2)``: leaves first, then inner nodes.
    confidence
        Of each pair, from 0 to 1, shape ``(P,)``: for leaves the share of independent matchings that
        contain it, for inner nodes the mean over their leaves times the overlap.
    verdict
        ``"found"``, ``"inconclusive"`` or ``"not found"``.
    reason
        One sentence.
    objective
        Correlation of the angles between matched leaves, 1 for equal geometries; median over matchings. Of
        log-distances where only a part is shared.
    traits
        Mean rank correlation of mass, persistence and spread of matched leaves, which the matching does not
        look at; median over matchings.
    score
        Objective plus ``0.2 * traits``, median over matchings: what is tested. Where only a part is shared:
        how well the kept pairs agree, of the most that all leaves could.
    p_value
        Of the score among the surrogates of the null that reaches it more often:
        (1 + how many reach it) / (1 + n); NaN where none was measured.
    surrogates
        Scores of the surrogates, ``(2, n)``: random geometry of the same masses and spectrum, and random
        fine geometry within the same few groups.
    tree_a, tree_b
        The trees as arrays, for the picture.
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

    def __repr__(self) -> str:
        sizes = f"{len(self.tree_a['parent'])} and {len(self.tree_b['parent'])} nodes"
        chance = f"{self.surrogates.max():.3f}" if self.surrogates.size else "not measured"
        return (
            f"TreeMatch({len(self.pairs)} pairs of {sizes}, verdict={self.verdict!r})\n"
            f"  {self.reason}\n  objective {self.objective:.3f}, traits {self.traits:.3f}, "
            f"score {self.score:.3f}, highest by chance {chance}"
        )

    def plot(self, names_a: Sequence[str] | None = None, names_b: Sequence[str] | None = None) -> Figure:
        """Both trees with their matches between them.

        Parameters
        ----------
        names_a, names_b
            What to call the nodes of each tree, one name for each; they are numbered unless told.
        """
        from repdyn.views.trees import two_trees  # plotly loads only when a picture is asked for

        tree_a: dict[str, Any] = {**self.tree_a, "label": None if names_a is None else list(names_a)}
        tree_b: dict[str, Any] = {**self.tree_b, "label": None if names_b is None else list(names_b)}
        return two_trees(tree_a, tree_b, self.pairs, self.confidence)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for ``--json``."""
        return {
            "pairs": self.pairs.tolist(),
            "confidence": self.confidence.tolist(),
            "verdict": self.verdict,
            "reason": self.reason,
            "objective": self.objective,
            "traits": self.traits,
            "score": self.score,
            "p_value": self.p_value,
            "surrogates": self.surrogates.tolist(),
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a folder that :meth:`load` reads (kind ``"tree_match"``)."""
        tensors = {"pairs": self.pairs, "confidence": self.confidence, "surrogates": self.surrogates}
        for side, tree in (("a", self.tree_a), ("b", self.tree_b)):
            tensors |= {f"{side}.{name}": array for name, array in tree.items()}
        config = {name: getattr(self, name) for name in _CONFIG}
        save_artifact(path, "tree_match", config, tensors)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> TreeMatch:
        """Read what :meth:`save` wrote."""
        artifact = load_artifact(path, "tree_match")
        trees = [
            {name[2:]: array for name, array in artifact.tensors.items() if name.startswith(f"{side}.")}
            for side in "ab"
        ]
        held: dict[str, Any] = {
            name: artifact.tensors[name] for name in ("pairs", "confidence", "surrogates")
        }
        config = {name: artifact.config[name] for name in _CONFIG}
        return cls(**held, **config, tree_a=trees[0], tree_b=trees[1])


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
    centroids about their common mean; without, the tree alone: how high the lowest join above two leaves
    lies. No basis is assumed, and the two trees may stand in spaces of different width. What else is known
    of a leaf (its mass, persistence and spread) takes no part in the matching and so bears witness to it.

    Where the whole sets do not match (leaves that the other tree lacks move the common mean), what they share
    is looked for, given points, among up to thirty leaves of each: pairs whose distances agree with one
    another.

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
        model's latent field (those of :func:`repdyn.fields.align_fields`, for one): how many attractors draw
        a leaf, how much of it and how fast then bear witness too.

    Returns
    -------
    TreeMatch
        ``"found"`` where no surrogate of either null reaches the score (p = .01, or .005 for a part) and
        independent matchings agree. Leaves without a partner are in no pair.

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
    if min(leaves) < FEWEST_LEAVES:
        counts = f"{leaves[0]} and {leaves[1]} leaves"
        reason = f"the trees have {counts}; with fewer than {FEWEST_LEAVES} a guess may be right"
        return TreeMatch(
            pairs=np.empty((0, 2), dtype=np.int64),
            confidence=np.empty(0),
            verdict="inconclusive",
            reason=reason,
            objective=float("nan"),
            traits=float("nan"),
            score=float("nan"),
            p_value=float("nan"),
            surrogates=np.empty((2, 0)),
            tree_a=drawn_a,
            tree_b=drawn_b,
        )
    a, b = Leaves.of(tree_a, x_a, "x_a"), Leaves.of(tree_b, x_b, "x_b")
    if nodes_a is not None and nodes_b is not None:
        more_a, more_b = attractor_traits(tree_a, nodes_a, tree_b, nodes_b)
        a = replace(a, traits=np.column_stack([a.traits, more_a]))
        b = replace(b, traits=np.column_stack([b.traits, more_b]))
    generator = np.random.default_rng(seed)
    votes = np.zeros((leaves[0], leaves[1]))
    told = np.empty((RESTARTS, 2))
    for k in range(RESTARTS):
        power = float(generator.uniform(*POWERS))
        one, other = (side.resampled(generator) for side in (a, b))
        told[k, 0], pairs = _matched(*one, *other, power, int(generator.integers(2**31)))
        told[k, 1] = trait_agreement(a.traits[pairs[:, 0]], b.traits[pairs[:, 1]])
        votes[pairs[:, 0], pairs[:, 1]] += 1 / RESTARTS
    objective, traits = (float(median) for median in np.median(told, axis=0))
    score = float(np.median(told @ [1.0, TRAITS]))
    surrogates, p_value = _null(a, b, score, generator)
    # The matching that independent matchings agree on most, not the one of one lucky objective.
    left, right = linear_sum_assignment(votes, maximize=True)
    voted = votes[left, right] > 0
    leaf_pairs = np.stack([left[voted], right[voted]], axis=1).astype(np.int64)
    confidence = votes[leaf_pairs[:, 0], leaf_pairs[:, 1]]
    agreement = _agreed(leaf_pairs, confidence, a, b)
    reason = (
        f"matchings agree on {agreement:.0%} of the mass, objective {objective:.2f}, traits {traits:.2f}, "
        f"score {score:.2f} against at most {surrogates.max():.2f} by chance, p = {p_value:.2g}"
    )
    if p_value <= SIGNIFICANT and agreement >= AGREEMENT:
        verdict = "found"
    else:
        verdict = "inconclusive" if p_value <= 10 * SIGNIFICANT else "not found"
    # Not for trees alone: heights of joins are often equal, which no surrogate's distances are.
    if verdict != "found" and x_a is not None and x_b is not None and leaves[0] * leaves[1] <= MOST_PAIRS:
        raw = a.as_given(x_a), b.as_given(x_b)
        part = shared_pairs(*raw, generator)
        agreement = _agreed(part.pairs, part.confidence, a, b)
        if part.p_value <= SIGNIFICANT / 2 and agreement >= AGREEMENT and len(part.pairs) >= FEWEST_LEAVES:
            leaf_pairs, confidence, verdict = part.pairs, part.confidence, "found"
            score, p_value, surrogates = part.score, part.p_value, part.surrogates
            traits = trait_agreement(a.traits[leaf_pairs[:, 0]], b.traits[leaf_pairs[:, 1]])
            objective = distance_correlation(*raw, leaf_pairs)
            reason = (
                f"{len(leaf_pairs)} leaves are shared, the others have no partner: matchings agree on "
                f"{agreement:.0%} of their mass, score {score:.2f} against at most {surrogates.max():.2f} by "
                f"chance, p = {p_value:.2g}"
            )
    weight = np.sqrt(a.mass[leaf_pairs[:, 0]] * b.mass[leaf_pairs[:, 1]])
    inner_pairs, inner_confidence = inner_pairs_of(tree_a, tree_b, leaf_pairs, confidence, weight)
    return TreeMatch(
        np.concatenate([leaf_pairs, inner_pairs]),
        np.concatenate([confidence, inner_confidence]),
        verdict,
        reason,
        objective,
        traits,
        score,
        p_value,
        surrogates,
        drawn_a,
        drawn_b,
    )


def _agreed(pairs: Index, confidence: Floats, a: Leaves, b: Leaves) -> float:
    """Mean confidence of pairs by their mass."""
    weight = np.sqrt(a.mass[pairs[:, 0]] * b.mass[pairs[:, 1]])
    return float(weight @ confidence / weight.sum())


def _null(a: Leaves, b: Leaves, score: float, generator: np.random.Generator) -> tuple[Floats, float]:
    """Scores of both nulls in turn, and the p-value of the one that reaches the score more often."""
    found: list[list[float]] = [[], []]
    for _ in track(range(SURROGATES), "matching surrogates"):
        power = float(generator.uniform(*POWERS))
        for made, surrogate in zip(found, (random_surrogate, coarse_surrogate)):
            form = surrogate(b.mass, b.form, generator)
            start = int(generator.integers(2**31))
            objective, pairs = _matched(a.mass, a.form, b.mass, form, power, start)
            traits = trait_agreement(a.traits[pairs[:, 0]], b.traits[pairs[:, 1]])
            made.append(objective + TRAITS * traits)
        if max((np.array(made) >= score).sum() for made in found) >= ENOUGH:
            break
    surrogates = np.array(found)
    reached = int((surrogates >= score).sum(1).max())
    # Stopped early, the share itself is the p-value; else the observed match counts as one more draw.
    count = surrogates.shape[1]
    return surrogates, reached / count if reached >= ENOUGH else (1 + reached) / (1 + count)


def _matched(
    mass_a: Floats, form_a: Floats, mass_b: Floats, form_b: Floats, power: float, seed: int
) -> tuple[float, Index]:
    """One matching: its objective and its pairs of leaves."""
    a, b = cosines(mass_a, form_a, power), cosines(mass_b, form_b, power)
    size = max(len(a), len(b))
    found, _ = quadratic_assignment(
        standardised(a, size), standardised(b, size), starts=STARTS, polished=2, seed=seed
    )
    left = np.flatnonzero(found[0][: len(a)] < len(b))
    right = found[0][left]
    upper = np.triu_indices(len(left), 1)
    one, other = a[np.ix_(left, left)][upper], b[np.ix_(right, right)][upper]
    spread = float(one.std() * other.std())
    if spread <= 1e-12:
        return 0.0, np.stack([left, right], axis=1)
    similarity = float(((one - one.mean()) * (other - other.mean())).mean()) / spread
    return similarity, np.stack([left, right], axis=1)


def _arrays(tree: LevelSetTree) -> dict[str, NDArray[Any]]:
    return {
        "parent": tree.parent,
        "height": tree.height,
        "death": tree.saddle,
        "saddle": tree.saddle,
        "mass": tree.mass,
    }
