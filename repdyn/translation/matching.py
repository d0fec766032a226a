"""Which regions of one model's density tree are which of another's: partial, with a confidence each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment

from repdyn.artifacts import load_artifact, save_artifact
from repdyn.errors import RepdynError
from repdyn.translation.assignment import quadratic_assignment
from repdyn.translation.coordinates import Cloud, unit_rows
from repdyn.translation.nodes import Nodes, flattened_gram

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from repdyn.topology import LevelSetTree

__all__ = ["TreeMatch", "match_trees"]

Floats = NDArray[np.float64]
Index = NDArray[np.int64]

RESTARTS = 12
"""Independent matchings, each at its own flattening of the geometry, and as many to a tree of the same masses
and spectrum but random geometry. Confidence is the agreement of the former, chance what the latter reach."""

AGREEMENT = 0.5
"""Mass-weighted confidence that "found" needs, besides an objective above every surrogate's."""

FEWEST_LEAVES = 5
"""n leaves can be matched in n! ways; with fewer than five, more than one guess in a hundred is right."""

INNER_OVERLAP = 0.5
"""Inner nodes pair where their matched leaves share at least this fraction of their joint mass."""


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
        Correlation of the angles between matched leaves, 1 for equal geometries; median over matchings.
    surrogates
        The same for random geometries with equal masses and spectra: the control.
    tree_a, tree_b
        The trees as arrays, for the picture.
    """

    pairs: Index
    confidence: Floats
    verdict: str
    reason: str
    objective: float
    surrogates: Floats
    tree_a: dict[str, NDArray[Any]]
    tree_b: dict[str, NDArray[Any]]

    def __repr__(self) -> str:
        sizes = f"{len(self.tree_a['parent'])} and {len(self.tree_b['parent'])} nodes"
        chance = f"{self.surrogates.max():.3f}" if len(self.surrogates) else "not measured"
        return (
            f"TreeMatch({len(self.pairs)} pairs of {sizes}, verdict={self.verdict!r})\n"
            f"  {self.reason}\n  objective {self.objective:.3f}, highest by chance {chance}"
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
            "surrogates": self.surrogates.tolist(),
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a folder that :meth:`load` reads (kind ``"tree_match"``)."""
        tensors = {"pairs": self.pairs, "confidence": self.confidence, "surrogates": self.surrogates}
        for side, tree in (("a", self.tree_a), ("b", self.tree_b)):
            tensors |= {f"{side}.{name}": array for name, array in tree.items()}
        config = {"verdict": self.verdict, "reason": self.reason, "objective": self.objective}
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
        config = {name: artifact.config[name] for name in ("verdict", "reason", "objective")}
        return cls(**held, **config, tree_a=trees[0], tree_b=trees[1])


def match_trees(
    tree_a: LevelSetTree,
    tree_b: LevelSetTree,
    x_a: ArrayLike | None = None,
    x_b: ArrayLike | None = None,
    seed: int = 0,
) -> TreeMatch:
    r"""Match the leaves of two trees so that their geometry agrees, then the inner nodes above them.

    .. math:: \max_\pi \langle A, P_\pi B P_\pi^\top \rangle

    over injective maps of the smaller set of leaves. With points, A and B are inner products of the
    leaves' centroids, mass-weighted and flattened; without, inner products of the tree alone: how high the
    lowest join above two leaves lies. No basis is assumed, and the two trees may stand in spaces of
    different width.

    Parameters
    ----------
    tree_a, tree_b
        Level-set trees of the two models; the samples may be entirely different ones.
    x_a, x_b
        The points the trees were fitted on; give both or neither.
    seed
        Of the starts.

    Returns
    -------
    TreeMatch
        ``"found"`` where the objective lies above that of all surrogates and independent matchings agree.
        Leaves without a partner are in no pair.

    Raises
    ------
    RepdynError
        If points and tree do not belong together.

    References
    ----------
    Vogelstein, J. et al. (2015). Fast approximate quadratic programming for graph matching. PLOS ONE 10(4).
    """
    if (x_a is None) != (x_b is None):
        raise RepdynError("match_trees: give the points of both trees (x_a and x_b) or of neither")
    drawn_a, drawn_b = _arrays(tree_a), _arrays(tree_b)
    leaves = len(tree_a.leaves), len(tree_b.leaves)
    if min(leaves) < FEWEST_LEAVES:
        counts = f"{leaves[0]} and {leaves[1]} leaves"
        reason = f"the trees have {counts}; with fewer than {FEWEST_LEAVES} a guess may be right"
        empty = np.empty((0, 2), dtype=np.int64), np.empty(0)
        return TreeMatch(*empty, "inconclusive", reason, float("nan"), np.empty(0), drawn_a, drawn_b)
    mass_a, form_a = _geometry(tree_a, x_a, "x_a")
    mass_b, form_b = _geometry(tree_b, x_b, "x_b")
    generator = np.random.default_rng(seed)
    votes = np.zeros((leaves[0], leaves[1]))
    objectives, surrogates = np.empty(RESTARTS), np.empty(RESTARTS)
    for k in range(RESTARTS):
        power = float(generator.uniform(0.4, 1.0))
        start = int(generator.integers(2**31))
        objectives[k], pairs = _matched(mass_a, form_a, mass_b, form_b, power, start)
        votes[pairs[:, 0], pairs[:, 1]] += 1 / RESTARTS
        surrogates[k], _ = _matched(mass_a, form_a, mass_b, _mixed(mass_b, form_b, generator), power, start)
    objective = float(np.median(objectives))
    # The matching that independent matchings agree on most, not the one of one lucky objective.
    left, right = linear_sum_assignment(votes, maximize=True)
    voted = votes[left, right] > 0
    leaf_pairs = np.stack([left[voted], right[voted]], axis=1).astype(np.int64)
    confidence = votes[leaf_pairs[:, 0], leaf_pairs[:, 1]]
    weight = np.sqrt(mass_a[leaf_pairs[:, 0]] * mass_b[leaf_pairs[:, 1]])
    agreement = float(weight @ confidence / weight.sum())
    inner_pairs, inner_confidence = _inner(tree_a, tree_b, leaf_pairs, confidence, mass_a, mass_b)
    above = objective > surrogates.max()
    told = (
        f"matchings agree on {agreement:.0%} of the mass, objective {objective:.2f} "
        f"against at most {surrogates.max():.2f} by chance"
    )
    verdict = "found" if above and agreement >= AGREEMENT else "inconclusive" if above else "not found"
    return TreeMatch(
        np.concatenate([leaf_pairs, inner_pairs]),
        np.concatenate([confidence, inner_confidence]),
        verdict,
        told,
        objective,
        surrogates,
        drawn_a,
        drawn_b,
    )


def _geometry(tree: LevelSetTree, x: ArrayLike | None, name: str) -> tuple[Floats, Floats]:
    """Masses of the leaves and vectors whose inner products are their geometry."""
    if x is not None:
        cloud = Cloud.of(x, f"match_trees: {name}")
        if len(cloud.points) != len(tree.assignment):
            raise RepdynError(
                f"match_trees: {name} has {len(cloud.points)} points, its tree has {len(tree.assignment)}"
            )
        nodes = Nodes.from_labels([cloud.points], tree.assignment)
        return nodes.mass, nodes.centroids[0]
    count = len(tree.leaves)
    mass = np.bincount(tree.assignment, minlength=count) / len(tree.assignment)
    heights = tree.height - tree.height.min()
    shared = np.empty((count, count))
    above = [_ancestors(tree.parent, leaf) for leaf in range(count)]
    for i in range(count):
        for j in range(i, count):
            # Two branches share the stem from the root to their join: an ultrametric, so positive definite.
            join = next(node for node in above[i] if node in set(above[j]))
            shared[i, j] = shared[j, i] = heights[join]
    values, vectors = np.linalg.eigh(shared)
    return mass, vectors * np.sqrt(np.maximum(values, 0))


def _ancestors(parent: Index, node: int) -> list[int]:
    """The node itself, its parent, and so on to the root."""
    chain = [node]
    while parent[chain[-1]] >= 0:
        chain.append(int(parent[chain[-1]]))
    return chain


def _matched(
    mass_a: Floats, form_a: Floats, mass_b: Floats, form_b: Floats, power: float, seed: int
) -> tuple[float, Index]:
    """One matching: its objective and its pairs of leaves."""
    size = max(len(mass_a), len(mass_b))
    gram_a, gram_b = flattened_gram(mass_a, form_a, power, size), flattened_gram(mass_b, form_b, power, size)
    found, _ = quadratic_assignment(gram_a, gram_b, starts=16, polished=1, seed=seed)
    left = np.flatnonzero(found[0][: len(mass_a)] < len(mass_b))
    right = found[0][left]
    # Correlation of cosines, not the objective of the assignment: diagonals and masses are equal by chance.
    angles = [unit_rows(f - m @ f) for m, f in ((mass_a, form_a), (mass_b, form_b))]
    upper = np.triu_indices(len(left), 1)
    a, b = ((x[rows] @ x[rows].T)[upper] for x, rows in zip(angles, (left, right)))
    spread = float(a.std() * b.std())
    similarity = float(((a - a.mean()) * (b - b.mean())).mean()) / spread if spread > 1e-12 else 0.0
    return similarity, np.stack([left, right], axis=1)


def _mixed(mass: Floats, form: Floats, generator: np.random.Generator) -> Floats:
    """Leaves of the same masses and spectrum whose geometry is random: their vectors mixed by a rotation."""
    rotation = np.linalg.qr(generator.normal(size=(len(mass), len(mass))))[0]
    weighted = np.sqrt(mass)[:, None] * (form - mass @ form)
    return np.asarray((rotation @ weighted) / np.sqrt(mass)[:, None])


def _inner(
    tree_a: LevelSetTree,
    tree_b: LevelSetTree,
    pairs: Index,
    confidence: Floats,
    mass_a: Floats,
    mass_b: Floats,
) -> tuple[Index, Floats]:
    """Inner nodes whose matched leaves largely coincide; each at most once, the root left out."""
    weight = np.sqrt(mass_a[pairs[:, 0]] * mass_b[pairs[:, 1]])
    below_a, below_b = _below(tree_a, pairs[:, 0]), _below(tree_b, pairs[:, 1])
    scores = []
    for u, of_a in below_a.items():
        for v, of_b in below_b.items():
            union = weight[of_a | of_b].sum()
            overlap = float(weight[of_a & of_b].sum() / union) if union > 0 else 0.0
            if overlap >= INNER_OVERLAP:
                scores.append((overlap * float(confidence[of_a & of_b].mean()), u, v))
    taken: list[tuple[float, int, int]] = []
    for score, u, v in sorted(scores, reverse=True):
        if all(u != other[1] and v != other[2] for other in taken):
            taken.append((score, u, v))
    found = np.array([(u, v) for _, u, v in taken], dtype=np.int64).reshape(-1, 2)
    return found, np.array([score for score, _, _ in taken])


def _below(tree: LevelSetTree, leaves: Index) -> dict[int, NDArray[np.bool_]]:
    """Which of the matched leaves lie under each inner node but the root."""
    found: dict[int, NDArray[np.bool_]] = {}
    for k, leaf in enumerate(leaves):
        for node in _ancestors(tree.parent, int(leaf))[1:-1]:
            found.setdefault(node, np.zeros(len(leaves), dtype=bool))[k] = True
    return found


def _arrays(tree: LevelSetTree) -> dict[str, NDArray[Any]]:
    return {
        "parent": tree.parent,
        "height": tree.height,
        "death": tree.saddle,
        "saddle": tree.saddle,
        "mass": tree.mass,
    }
