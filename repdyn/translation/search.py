"""Explore matchings of two models' density trees, choose without pairs, refine the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from repdyn.topology import LevelSetTree
from repdyn.translation.assignment import quadratic_assignment
from repdyn.translation.composition import Composition, across_compositions
from repdyn.translation.consensus import consensus_weights
from repdyn.translation.coordinates import Cloud, unit_rows
from repdyn.translation.nodes import TREE_COMPONENTS, Nodes, centroids_of, flattened_gram
from repdyn.translation.proposals import guided_gain, maps_from_nodes, padded, partial_procrustes
from repdyn.translation.refine import (
    fit_without_pairs,
    joint_similarity,
    nearest_orthogonal,
    refine,
    settle,
)
from repdyn.translation.rivals import Rival
from repdyn.translation.rivals import rivals as other_maps
from repdyn.translation.verdict import is_different

__all__ = ["Candidate", "Search"]

Floats = NDArray[np.float64]
Rows = NDArray[np.float32]
Index = NDArray[np.int64]

TREE_POINTS = 4000
"""Points a tree is grown on: its time grows with their square, its leaves hardly change."""

LEAVES = (8, 120)
"""Granularities tried, evenly in the logarithm. Which one succeeds depends on the data; none does on all."""

NEIGHBORS = (5, 8, 11)
"""Neighbours of the density tried: fewer show more peaks."""

MEANS = 30
"""Clusters of k-means that are the nodes of every second proposal. Where classes are blurred, the density has
few peaks or false ones, and matched means hold more of the truth. Latents with a Gaussian prior need the
tree."""

STARTS, POLISHED = (16, 400), (16, 40)
"""Starts of the quadratic assignment, and how many of them are polished, for nodes of the tree and means."""

POWERS = (0.35, 1.0)
"""Flattening of the Gram matrices' spectrum."""

SCORED = 1000
"""Points of each side on which a candidate is scored."""

PROBED = 500
"""Points whose translations are compared to tell which candidates agree."""

NODE_COMPONENTS = 64
"""Principal components in which nodes are compared: as many as the short refinement uses."""

BATCH = 1500
"""Points of each side matched per step; the comparison is quadratic in it."""

FREE = 12
"""Proposals before any is guided by the best fitting candidate. A round follows each of them, and
every second of the later ones."""

POOL_EVERY = 4
"""Proposals after which the best fitting are pooled anew. Past the free ones every so many is guided."""

CONSENSUS, CONSENSUS_EVERY = 12, 24
"""Proposals after which the consensus of those that are free is sought first, and how often later."""

POOLED = 8
"""Proposals in a pool."""

KEPT = 48
"""Candidates kept: maps of a wide model at all depths are large, and what fits worse has no turn to be
refined."""

FUNNEL = ((32, 4), (64, 4))
"""Components and steps of the short refinement every candidate gets, which brings all to one rank."""

KNOWN_LEAD = 1.0
"""What known pairs weigh together in the short refinement, in units of all that is matched there, most of it
wrongly. From then on each weighs like one match."""

ROUND = (64, 8)
"""Components and steps of a round, which goes to the candidate that fits best: right ones fit better with
every round, wrong ones do not."""

MOST_ROUNDS = 6
"""Of one candidate; right ones have arrived by then."""

DRIFT = 0.003
"""Cosine by which the map of two rounds ago must be further off than that of one round ago for the map to be
still on its way; where both are as far, only the draws move it."""

FINISH = ((128, 4), (192, 3))
"""Components and steps between those of a round and the last."""

SETTLED = 2
"""Steps with all points at the end of either half; more change nothing."""

SETTLED_WITH_ALL = ((5000, 4), (10_000, 2))
"""Points of each side at most, and steps, with all data at the end. Among more points the nearest is nearer
to the counterpart."""

NEAREST_OF_ALL = 2
"""Points whose mean stands for the counterpart of a point there: data are twice as many as in a half."""

TRUSTED = 10
"""Known pairs that say as much of a candidate as the fit of all points does. Fewer say less, for some wrong
map suits them by chance."""


MOST_COMPARED = 4000
"""Points of either side on which a map is compared with its rivals."""

COMPARED_WIDTH = 128
"""Principal components in which it is."""

BETTER = 0.015
"""Share of the excess distance by which a rival must be better to take a map's place."""

FAR = 1.5
"""Excess distance from which on a map that the halves do not share is exchanged no more. Of 49 development
pairs whose halves disagree, all that were found lie below 1.32; the exchanges took half of the time of the
others and changed no verdict to "found" (benchmarks/verdicts.py, docs/translation.md)."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """Maps at all depths, how well translated points fall among real ones, rounds of refinement so far."""

    fit: float
    maps: list[Rows]
    rounds: int = 0


class Search:
    """Unpaired search for maps at all depths together.

    Parameters
    ----------
    a, b
        Clouds per depth.
    known
        Rows known to be pairs, ``(M, 2)``, possibly none.
    seed
        Of everything drawn.
    """

    def __init__(self, a: Sequence[Cloud], b: Sequence[Cloud], known: Index, seed: int) -> None:
        self.a, self.b, self.known = a, b, known
        self.points_a, self.points_b = [c.points for c in a], [c.points for c in b]
        self.generator = np.random.default_rng(seed)
        self.found: list[Candidate] = []
        self._proposed: list[Candidate] = []
        self._free: list[list[Rows]] = []
        self._trees: dict[tuple[int, int, int], LevelSetTree] = {}
        self.width = min(min(x.shape[1] for x in self.points_a), min(y.shape[1] for y in self.points_b))

    @property
    def leaves(self) -> int:
        """Peaks of the poorer density at the last depth: below three there is nothing to match."""
        return min(self._tree(side, len(self.a) - 1, NEIGHBORS[0]).n_peaks for side in (0, 1))

    @property
    def best(self) -> Candidate:
        """What fits best of all that was explored."""
        return max(self.found, key=lambda candidate: candidate.fit)

    def fit(self, maps: list[Rows]) -> float:
        """How well points translated by these maps fall among real ones."""
        return self._scored(maps).fit

    def explore(self, number: int) -> None:
        """Propose one more candidate, see what all have in common, and refine the best that still moves."""
        if number == 0 and len(self.known) > 1:
            self._proposed.append(self.from_known())
            self.found.append(self._proposed[0])
        early, pooled = number < FREE, (number + 1) % POOL_EVERY == 0
        guided = pooled and not early
        self._proposed.append(self.propose(number, self.best if guided else None))
        self.found.append(self._proposed[-1])
        if not guided:
            # Copies: a view would keep the whole maps.
            self._free.append([m[:NODE_COMPONENTS, :NODE_COMPONENTS].copy() for m in self._proposed[-1].maps])
        if pooled:
            self.found.append(self.pool())
        if number + 1 == CONSENSUS or (number + 1) % CONSENSUS_EVERY == 0:
            self.found += self.consensus()
        self.found = sorted(self.found, key=lambda candidate: -candidate.fit)[:KEPT]
        moving = [k for k, candidate in enumerate(self.found) if candidate.rounds < MOST_ROUNDS]
        if moving and (early or number % 2 == 0):
            candidate = self.found[moving[0]]
            maps = self._refined(candidate.maps, [ROUND], BATCH)
            self.found[moving[0]] = replace(self._scored(maps), rounds=candidate.rounds + 1)

    def pool(self) -> Candidate:
        """The mean of the best fitting proposals, refined by one round.

        Each of them has a few directions right and the others wrong in a way of its own: what is right adds
        up. Refined candidates are left out, for their errors are no longer their own.
        """
        self._proposed = sorted(self._proposed, key=lambda candidate: -candidate.fit)[:POOLED]
        mean = [nearest_orthogonal(sum(maps[1:], maps[0])) for maps in zip(*(c.maps for c in self._proposed))]
        return replace(self._scored(self._refined(mean, [ROUND], BATCH)), rounds=1)

    def consensus(self) -> list[Candidate]:
        """What the free proposals have in common, refined by two rounds.

        It needs no proposal that fits: where all are nearly wrong, pools of the best are wrong as well.
        """
        shared = []
        for weights in consensus_weights([np.concatenate([m.ravel() for m in maps]) for maps in self._free]):
            mean = [
                nearest_orthogonal(np.tensordot(weights, np.stack(maps), axes=1)) for maps in zip(*self._free)
            ]
            maps = [padded(m, x.shape[1], y.shape[1]) for m, x, y in zip(mean, self.points_a, self.points_b)]
            shared.append(replace(self._scored(self._refined(maps, [ROUND, ROUND], BATCH)), rounds=2))
        return shared

    def polish(self, maps: list[Rows]) -> Candidate:
        """Refine a map until it no longer drifts, then in wide and all components."""
        before: list[NDArray[np.floating]] = []
        for _ in range(MOST_ROUNDS):
            maps = self._refined(maps, [ROUND], BATCH)
            before.append(unit_rows(self.points_a[-1][:PROBED] @ maps[-1]))
            if len(before) > 2:
                nearer, farther = (float((before[-1] * before[-k]).sum(1).mean()) for k in (2, 3))
                if nearer - farther < DRIFT:
                    break
        maps = self._refined(maps, FINISH, BATCH)
        seed = int(self.generator.integers(2**31))
        return self._scored(settle(self.points_a, self.points_b, maps, SETTLED, seed=seed, fixed=self._fixed))

    def settle(self, maps: list[Rows]) -> list[Rows]:
        """The last steps of all, where these are all points."""
        for batch, steps in SETTLED_WITH_ALL:
            maps = settle(
                self.points_a,
                self.points_b,
                maps,
                steps,
                nearest=NEAREST_OF_ALL,
                batch=batch,
                seed=int(self.generator.integers(2**31)),
                fixed=self._fixed,
            )
        return maps

    def compared(
        self, maps: list[Rows], others: Sequence[Sequence[Rows]], hops: int, shared: bool
    ) -> tuple[list[Rows], Rival, list[Rival], Composition]:
        """The map beside its rivals; one that fits better takes its place, and is compared in turn.

        A map that is far from the real points is exchanged only where both halves share it.

        Returns
        -------
        maps, own, rivals, composition
            The last map, what it is like once polished like the others, the others, and what samples of
            other compositions say of it.
        """
        orders = [
            self.generator.permutation(len(x[0]))[:MOST_COMPARED] for x in (self.points_a, self.points_b)
        ]
        a = [x[orders[0], :COMPARED_WIDTH] for x in self.points_a]
        b = [y[orders[1], :COMPARED_WIDTH] for y in self.points_b]
        places = [{int(row): k for k, row in enumerate(order)} for order in orders]
        kept = [(places[0][i], places[1][j]) for i, j in self.known if i in places[0] and j in places[1]]
        fixed = (np.array([i for i, _ in kept]), np.array([j for _, j in kept])) if kept else None
        narrow, others = _narrowed(maps), [_narrowed(other) for other in others]
        for hop in range(hops + 1):
            seed = int(self.generator.integers(2**31))
            own, rivals = other_maps(a, b, narrow, seed, others=others, fixed=fixed)
            if hop == hops or not rivals or rivals[0].excess > (1 - BETTER) * own.excess:
                break
            if own.excess > FAR and not shared:
                break
            narrow, others = rivals[0].maps, [narrow, *(rival.maps for rival in rivals[1:4])]
        if hop > 0:
            wide = [
                padded(m, x.shape[1], y.shape[1]) for m, x, y in zip(narrow, self.points_a, self.points_b)
            ]
            maps = self.settle(wide if self.width <= COMPARED_WIDTH else self._refined(wide, FINISH, BATCH))
        seed = int(self.generator.integers(2**31))
        different = [rival for rival in rivals if is_different(rival)]
        return maps, own, rivals, across_compositions(a, b, own, different, seed, fixed)

    @property
    def _fixed(self) -> tuple[Index, Index] | None:
        return (self.known[:, 0], self.known[:, 1]) if len(self.known) else None

    def propose(self, number: int, guide: Candidate | None = None) -> Candidate:
        """One matching at random settings, shortly refined; depths take turns with ``number``.

        With a guide, nodes gain by matching where its maps take them. New nodes see what it has wrong.
        """
        generator = self.generator
        depth = number % len(self.a)
        leaves = int(np.exp(generator.uniform(*np.log(LEAVES))))
        neighbors = int(generator.choice(NEIGHBORS))
        power = float(generator.uniform(*POWERS))
        nodes, node_of = [], []
        # Every depth has its turn with either kind of nodes.
        by_means = (number // len(self.a) + depth) % 2 == 1
        for side, points in enumerate((self.points_a, self.points_b)):
            if by_means:
                labels = self._means(side, depth)
            else:
                tree = self._tree(side, depth, neighbors)
                labels = tree.cut(min(leaves, tree.n_peaks))
            # A node is a set of inputs: grown at one depth, it has a centroid at every depth.
            nodes.append(Nodes.from_labels([x[:TREE_POINTS, :NODE_COMPONENTS] for x in points], labels))
            node_of.append(labels)
        size = max(map(len, nodes))
        a, b = (
            np.stack([flattened_gram(side.mass, c, power, size) for c in side.centroids]) for side in nodes
        )
        seed = int(generator.integers(2**31))
        unary = self._shared_pairs(node_of[0], node_of[1], size)
        if guide is not None:
            unary = unary + guided_gain(nodes[0], nodes[1], guide.maps, size)
        permutations, _ = quadratic_assignment(a, b, unary, STARTS[by_means], POLISHED[by_means], seed)
        small = maps_from_nodes(nodes[0], nodes[1], permutations[0])
        maps = [padded(m, x.shape[1], y.shape[1]) for m, x, y in zip(small, self.points_a, self.points_b)]
        return self._scored(self._refined(maps, FUNNEL, SCORED, KNOWN_LEAD))

    def _refined(
        self, maps: list[Rows], schedule: Sequence[tuple[int, int]], batch: int, known_share: float = 0.0
    ) -> list[Rows]:
        ranks = [min(rank, self.width) for rank, steps in schedule for _ in range(steps)]
        seed = int(self.generator.integers(2**31))
        return refine(self.points_a, self.points_b, maps, ranks, batch, seed, self._fixed, known_share)

    def _scored(self, maps: list[Rows]) -> Candidate:
        # The first rows serve every candidate, so that scores compare.
        a, b = ([x[:SCORED] for x in side] for side in (self.points_a, self.points_b))
        fit = fit_without_pairs(joint_similarity(a, b, maps))
        if len(self.known):
            # A wrong map may put points among real ones, but not known ones near their partners.
            a, b = (
                [x[self.known[:, end]] for x in side]
                for end, side in enumerate((self.points_a, self.points_b))
            )
            share = len(self.known) / (len(self.known) + TRUSTED)
            fit += share * (float(np.diag(joint_similarity(a, b, maps)).mean()) - fit)
        return Candidate(fit, maps)

    def _shared_pairs(self, of_a: Index, of_b: Index, size: int) -> Floats:
        """What the assignment gains by matching two nodes for the known pairs that they share.

        All pairs together weigh as much as the geometry at all depths, whose matrices are of norm one.
        """
        rows = self.known[(self.known < [len(of_a), len(of_b)]).all(1)]
        gain = np.zeros((size, size))
        np.add.at(gain, (of_a[rows[:, 0]], of_b[rows[:, 1]]), len(self.a) / max(len(rows), 1))
        return gain

    def from_known(self) -> Candidate:
        i, j = self.known[:, 0], self.known[:, 1]
        return self._scored([partial_procrustes(x[i].T @ y[j]) for x, y in zip(self.points_a, self.points_b)])

    def _means(self, side: int, depth: int) -> Index:
        """Clusters of k-means from one random start, which differ from proposal to proposal."""
        points = (self.points_a, self.points_b)[side][depth][:TREE_POINTS, :TREE_COMPONENTS]
        return centroids_of(points, MEANS, self.generator)[1]

    def _tree(self, side: int, depth: int, neighbors: int) -> LevelSetTree:
        key = side, depth, neighbors
        if key not in self._trees:
            points = (self.points_a, self.points_b)[side][depth][:TREE_POINTS, :TREE_COMPONENTS]
            self._trees[key] = LevelSetTree.fit(points, neighbors=neighbors)
        return self._trees[key]


def _narrowed(maps: Sequence[Rows]) -> list[Rows]:
    return [m[:COMPARED_WIDTH, :COMPARED_WIDTH] for m in maps]
