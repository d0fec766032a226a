"""Unpaired search: propose maps by matching nodes, score them without pairs, refine the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from repdyn.fields.modes import tree_of_mixture
from repdyn.topology import LevelSetTree
from repdyn.translation.coordinates import Cloud, unit_rows
from repdyn.translation.trees.assignment import quadratic_assignment
from repdyn.translation.unpaired.nodes import GeometricNodes, flattened_gram, kmeans_centroids
from repdyn.translation.unpaired.proposals import (
    consensus_weights,
    cross_moments,
    guided_gain,
    maps_from_nodes,
    padded,
    partial_procrustes,
)
from repdyn.translation.unpaired.refine import (
    final_refinement,
    fit_without_pairs,
    joint_similarity,
    nearest_orthogonal,
    refine,
)
from repdyn.translation.unpaired.rivals import (
    Composition,
    Rival,
    across_compositions,
    excess_distance,
    rivals,
)
from repdyn.translation.unpaired.settings import GROWTH, SEARCH
from repdyn.translation.unpaired.verdict import is_different

__all__ = ["Nodes", "ProposedMap", "Search"]

Floats = NDArray[np.float64]
Rows = NDArray[np.float32]
Index = NDArray[np.int64]
Nodes = Literal["leaves", "modes"]


@dataclass(frozen=True, eq=False)
class ProposedMap:
    """A candidate map.

    Attributes
    ----------
    fit
        Similarity of translated points to real ones, higher is better.
    maps
        One ``(D_a, D_b)`` per depth.
    rounds
        Rounds of refinement so far.
    """

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
    nodes
        Of trees: ``"leaves"`` of density level sets, or ``"modes"`` of noised densities.
    """

    def __init__(
        self, a: Sequence[Cloud], b: Sequence[Cloud], known: Index, seed: int, nodes: Nodes = "leaves"
    ) -> None:
        self.a, self.b, self.known, self.nodes = a, b, known, nodes
        self.points_a, self.points_b = [c.points for c in a], [c.points for c in b]
        self.generator = np.random.default_rng(seed)
        self.found: list[ProposedMap] = []
        self._proposed: list[ProposedMap] = []
        self._unguided: list[list[Rows]] = []
        self._trees: dict[tuple[int, int, int], LevelSetTree] = {}
        self.samples = min(len(self.points_a[0]), len(self.points_b[0]))
        self.width = min(min(x.shape[1] for x in self.points_a), min(y.shape[1] for y in self.points_b))

    @property
    def leaves(self) -> int:
        """Number of peaks at the last depth, the smaller of both densities."""
        return min(self._tree(side, len(self.a) - 1, SEARCH.neighbors[0]).n_peaks for side in (0, 1))

    @property
    def best(self) -> ProposedMap:
        """The candidate that fits best."""
        return max(self.found, key=lambda candidate: candidate.fit)

    @property
    def excess(self) -> float:
        """Excess distance of the candidate that fits best, the geometric mean of both ways."""
        ends = self.points_a[-1], self.points_b[-1], self.best.maps[-1]
        return float(np.sqrt(np.prod(excess_distance(*ends, SEARCH.scored))))

    def fit(self, maps: list[Rows]) -> float:
        """Score of maps: similarity of translated points to real ones, and of known pairs."""
        return self._scored(maps).fit

    def explore(self, number: int) -> None:
        """Add one proposal, pools and consensus in their turn, and refine the best unfinished candidate."""
        if number == 0 and len(self.known) > 1:
            self._proposed.append(self.from_known())
            self.found.append(self._proposed[0])
        early, pooled = number < SEARCH.unguided, (number + 1) % SEARCH.pool_every == 0
        guided = pooled and not early
        self._proposed.append(self.propose(number, self.best if guided else None))
        self.found.append(self._proposed[-1])
        if not guided:
            # Copies, because a view would keep the whole maps in memory.
            self._unguided.append(
                [
                    m[: SEARCH.node_components, : SEARCH.node_components].copy()
                    for m in self._proposed[-1].maps
                ]
            )
        if pooled:
            self.found.append(self.pool())
        if number + 1 == SEARCH.consensus_first or (number + 1) % SEARCH.consensus_every == 0:
            self.found += self.consensus()
        self.found = sorted(self.found, key=lambda candidate: -candidate.fit)[: SEARCH.kept]
        moving = [k for k, candidate in enumerate(self.found) if candidate.rounds < SEARCH.max_rounds]
        if moving and (early or number % 2 == 0):
            self.found[moving[0]] = self._next_round(self.found[moving[0]])

    def pool(self) -> ProposedMap:
        """The mean of the best proposals, refined by one round.

        Each proposal has a few correct directions and independent errors in the others, so the correct part
        adds up in the mean. Refined candidates are left out, because their errors are not independent.
        """
        self._proposed = sorted(self._proposed, key=lambda candidate: -candidate.fit)[: SEARCH.pool_size]
        mean = [nearest_orthogonal(sum(maps[1:], maps[0])) for maps in zip(*(c.maps for c in self._proposed))]
        return self._next_round(ProposedMap(0.0, mean))

    def consensus(self) -> list[ProposedMap]:
        """Maps from the consensus of the unguided proposals, refined by one round, the best by two.

        No single proposal needs to fit. Where all proposals are nearly wrong, pools of the best fail too.
        """
        shared = []
        for weights in consensus_weights(
            [np.concatenate([m.ravel() for m in maps]) for maps in self._unguided]
        ):
            mean = [
                nearest_orthogonal(np.tensordot(weights, np.stack(maps), axes=1))
                for maps in zip(*self._unguided)
            ]
            maps = [padded(m, x.shape[1], y.shape[1]) for m, x, y in zip(mean, self.points_a, self.points_b)]
            shared.append(self._next_round(ProposedMap(0.0, maps)))
        best = sorted(shared, key=lambda candidate: -candidate.fit)[: SEARCH.consensus_kept]
        return [self._next_round(candidate) for candidate in best]

    def grow(self) -> ProposedMap:
        r"""A map grown from what many matchings share, polished.

        A single matching of blurred clusters is nearly wrong. The mean of many, and their consensus, have a
        few directions that are nearly right. Kept to its r leading directions, such a moment S guides
        matchings of n nodes, more at each step, whose mean has more right directions:

        .. math:: S_{t+1} = \textstyle\sum_k Q_k(S_t^{(r_t)}, n_t)

        with :math:`Q_k` the Procrustes map of the k-th matching. The polar factor of the first mean would
        give its wrong directions the weight of the right ones.

        Of several starts, those whose matchings align the geometry of the nodes best go on: a guide that is
        wrong keeps its matchings from aligning well.
        """
        first = [self._matched(number, SEARCH.means, 1.0)[0] for number in range(GROWTH.first)]
        weights = consensus_weights([np.concatenate([m.ravel() for m in maps]) for maps in first])
        sums = np.concatenate([np.ones((1, len(first))), weights[: GROWTH.schedule[0][2] - 1]])
        grown = [
            (0.0, [np.tensordot(w, np.stack(maps), axes=1) for maps in zip(*first)])
            for w in sums.astype(np.float32)
        ]
        for rank, nodes, kept in GROWTH.schedule:
            grown = [self._step(moment, rank, nodes) for _, moment in grown[:kept]]
            grown.sort(key=lambda start: -start[0])
        maps = [
            padded(nearest_orthogonal(m), x.shape[1], y.shape[1])
            for m, x, y in zip(grown[0][1], self.points_a, self.points_b)
        ]
        return self.polish(maps)

    def alternate(self) -> ProposedMap:
        r"""A map by one-to-one matching and Procrustes in turn, polished.

        The first matching is on the sum of the cross-covariances of matched centroids,

        .. math:: M = \textstyle\sum_k A_k^\top P_k B_k, \qquad
                  \max_\pi \sum_i x_i M y_{\pi(i)}^\top ,

        which weighs each direction by its share of the variance, unlike the sum of Procrustes maps from
        which :meth:`grow` starts. All further ones are on the map before. With blurred clusters, nearest
        neighbors collapse on hubs where a map is rough; a one-to-one matching cannot.

        References
        ----------
        Grave, E. et al. (2019). Unsupervised alignment of embeddings with Wasserstein Procrustes. AISTATS.
        Schnaus, D. et al. (2026). Shared geometry as a Rosetta Stone. arXiv 2610.09411.
        """
        moments = []
        for number in range(GROWTH.first):
            depth = number % len(self.a)
            nodes = []
            for side in (0, 1):
                centroids = self._nodes(side, depth, SEARCH.means, SEARCH.node_components).centroids
                # Clusters of all sizes count alike: each is a place of the geometry.
                nodes.append(GeometricNodes(np.full(len(centroids[0]), 1 / len(centroids[0])), centroids))
            permutation, _ = self._assigned(nodes[0], nodes[1], 1.0)
            moments.append(cross_moments(nodes[0], nodes[1], permutation))
        maps = [np.sum(of_depth, axis=0).astype(np.float32) for of_depth in zip(*moments)]
        for _ in range(GROWTH.rounds):
            rows, columns = (
                self.generator.permutation(len(side[0]))[: SEARCH.batch]
                for side in (self.points_a, self.points_b)
            )
            a = [x[rows, : len(m)] for x, m in zip(self.points_a, maps)]
            b = [y[columns, : m.shape[1]] for y, m in zip(self.points_b, maps)]
            one, other = linear_sum_assignment(sum(x @ m @ y.T for x, m, y in zip(a, maps, b)), maximize=True)
            maps = [nearest_orthogonal(x[one].T @ y[other]) for x, y in zip(a, b)]
        found = self.polish(
            [padded(m, x.shape[1], y.shape[1]) for m, x, y in zip(maps, self.points_a, self.points_b)]
        )
        for _ in range(GROWTH.repeated):
            # A rough map that is right in a few directions gains with every repetition.
            found = self.polish(found.maps)
        return found

    def _step(self, moment: Sequence[Rows], rank: int, nodes: int) -> tuple[float, list[Rows]]:
        """Mean alignment of guided matchings, and the sum of their maps at each depth."""
        guide = [partial_procrustes(m, rank) for m in moment]
        found = [self._matched(k, nodes, GROWTH.power, guide) for k in range(GROWTH.matchings)]
        aligned = float(np.mean([alignment for _, alignment in found]))
        return aligned, [np.sum(maps, axis=0) for maps in zip(*(maps for maps, _ in found))]

    def _matched(
        self, number: int, count: int, power: float, guide: Sequence[Rows] | None = None
    ) -> tuple[list[Rows], float]:
        """Match k-means nodes of one depth, in the leading components, with a guide or without.

        Returns the maps and the alignment of the nodes' geometry.
        """
        depth = number % len(self.a)
        one, other = (self._nodes(side, depth, count, SEARCH.tree_components) for side in (0, 1))
        permutation, alignment = self._assigned(one, other, power, guide)
        rank = next(rank for most, rank in GROWTH.ranks if count <= most)
        return maps_from_nodes(one, other, permutation, rank), alignment

    def _nodes(self, side: int, depth: int, count: int, components: int) -> GeometricNodes:
        """Clusters of k-means at one depth of one side, with centroids at every depth."""
        kept = [
            x[: SEARCH.tree_points, : SEARCH.node_components] for x in (self.points_a, self.points_b)[side]
        ]
        return GeometricNodes.from_labels(kept, self._means(side, depth, count, components))

    def _assigned(
        self, one: GeometricNodes, other: GeometricNodes, power: float, guide: Sequence[Rows] | None = None
    ) -> tuple[Index, float]:
        """The node of B for each node of A, and the mean cosine of their Gram matrices."""
        size = max(len(one), len(other))
        a, b = (
            np.stack([flattened_gram(side.mass, c, power, size) for c in side.centroids])
            for side in (one, other)
        )
        unary = None if guide is None else guided_gain(one, other, guide, size)
        starts, polished = (SEARCH.starts[1], SEARCH.polished[1]) if guide is None else GROWTH.assignments
        seed = int(self.generator.integers(2**31))
        permutation = quadratic_assignment(a, b, unary, starts, polished, seed)[0][0]
        matched = b[:, permutation][:, :, permutation]
        norms = np.linalg.norm(a, axis=(1, 2)) * np.linalg.norm(b, axis=(1, 2))
        return permutation, float(((a * matched).sum((1, 2)) / norms).mean())

    def _next_round(self, candidate: ProposedMap) -> ProposedMap:
        """A candidate after one more round of refinement."""
        maps = self._refined(candidate.maps, [SEARCH.round], SEARCH.batch)
        return replace(self._scored(maps), rounds=candidate.rounds + 1)

    def polish(self, maps: list[Rows]) -> ProposedMap:
        """Refine a map until it no longer drifts, then in more components, then in all."""
        before: list[NDArray[np.floating]] = []
        for _ in range(SEARCH.max_rounds):
            maps = self._refined(maps, [SEARCH.round], SEARCH.batch)
            before.append(unit_rows(self.points_a[-1][: SEARCH.probed] @ maps[-1]))
            if len(before) > 2:
                nearer, farther = (float((before[-1] * before[-k]).sum(1).mean()) for k in (2, 3))
                if nearer - farther < SEARCH.drift:
                    break
        maps = self._refined(maps, SEARCH.wide, SEARCH.batch)
        seed = int(self.generator.integers(2**31))
        return self._scored(
            final_refinement(
                self.points_a, self.points_b, maps, SEARCH.final_steps, seed=seed, fixed=self._fixed
            )
        )

    def final_refinement(self, maps: list[Rows]) -> list[Rows]:
        """The final refinement on all data."""
        for batch, steps in SEARCH.final_all:
            maps = final_refinement(
                self.points_a,
                self.points_b,
                maps,
                steps,
                nearest=SEARCH.final_nearest,
                batch=batch,
                seed=int(self.generator.integers(2**31)),
                fixed=self._fixed,
            )
        return maps

    def compared(
        self, maps: list[Rows], others: Sequence[Sequence[Rows]], hops: int, shared: bool
    ) -> tuple[list[Rows], Rival, list[Rival], Composition]:
        """Compare a map with rivals; a rival that fits better replaces it and is compared in turn.

        A map that lies far from the real points is replaced only where both halves share it.

        Parameters
        ----------
        maps
            One ``(D_a, D_b)`` per depth.
        others
            Other maps that are used as starts of rivals.
        hops
            Most replacements.
        shared
            Whether the maps of both halves agree.

        Returns
        -------
        maps, own, rivals, composition
            The final map, the same map refined like its rivals, the rivals, and the comparison on samples of
            other compositions.
        """
        orders = [
            self.generator.permutation(len(x[0]))[: SEARCH.compared] for x in (self.points_a, self.points_b)
        ]
        a = [x[orders[0], : SEARCH.compared_width] for x in self.points_a]
        b = [y[orders[1], : SEARCH.compared_width] for y in self.points_b]
        places = [{int(row): k for k, row in enumerate(order)} for order in orders]
        kept = [(places[0][i], places[1][j]) for i, j in self.known if i in places[0] and j in places[1]]
        fixed = (np.array([i for i, _ in kept]), np.array([j for _, j in kept])) if kept else None
        narrow, others = _narrowed(maps), [_narrowed(other) for other in others]
        for hop in range(hops + 1):
            seed = int(self.generator.integers(2**31))
            own, found = rivals(a, b, narrow, seed, others=others, fixed=fixed)
            if hop == hops or not found or found[0].excess > (1 - SEARCH.better) * own.excess:
                break
            if own.excess > SEARCH.far and not shared:
                break
            narrow, others = found[0].maps, [narrow, *(rival.maps for rival in found[1:4])]
        if hop > 0:
            wide = [
                padded(m, x.shape[1], y.shape[1]) for m, x, y in zip(narrow, self.points_a, self.points_b)
            ]
            maps = self.final_refinement(
                wide
                if self.width <= SEARCH.compared_width
                else self._refined(wide, SEARCH.wide, SEARCH.batch)
            )
        seed = int(self.generator.integers(2**31))
        different = [rival for rival in found if is_different(rival)]
        return maps, own, found, across_compositions(a, b, own, different, seed, fixed)

    @property
    def _fixed(self) -> tuple[Index, Index] | None:
        return (self.known[:, 0], self.known[:, 1]) if len(self.known) else None

    def propose(self, number: int, guide: ProposedMap | None = None) -> ProposedMap:
        """One matching at random settings, shortly refined; ``number`` determines the depth.

        With a guide, matching nodes that its maps send to each other gains in the assignment. The nodes are
        new, so errors of the guide can be corrected.
        """
        generator = self.generator
        depth = number % len(self.a)
        leaves = int(np.exp(generator.uniform(*np.log(SEARCH.leaves))))
        neighbors = int(generator.choice(SEARCH.neighbors))
        power = float(generator.uniform(*SEARCH.powers))
        nodes, node_of = [], []
        # Every depth alternates between the two kinds of nodes.
        by_means = (number // len(self.a) + depth) % 2 == 1
        for side, points in enumerate((self.points_a, self.points_b)):
            if by_means:
                labels = self._means(side, depth)
            else:
                tree = self._tree(side, depth, neighbors)
                labels = tree.cut(min(leaves, tree.n_peaks))
            # A node is a set of inputs found at one depth; it has a centroid at every depth.
            nodes.append(
                GeometricNodes.from_labels(
                    [x[: SEARCH.tree_points, : SEARCH.node_components] for x in points], labels
                )
            )
            node_of.append(labels)
        size = max(map(len, nodes))
        a, b = (
            np.stack([flattened_gram(side.mass, c, power, size) for c in side.centroids]) for side in nodes
        )
        seed = int(generator.integers(2**31))
        unary = self._shared_pairs(node_of[0], node_of[1], size)
        if guide is not None:
            unary = unary + guided_gain(nodes[0], nodes[1], guide.maps, size)
        permutations, _ = quadratic_assignment(
            a, b, unary, SEARCH.starts[by_means], SEARCH.polished[by_means], seed
        )
        small = maps_from_nodes(nodes[0], nodes[1], permutations[0])
        maps = [padded(m, x.shape[1], y.shape[1]) for m, x, y in zip(small, self.points_a, self.points_b)]
        return self._scored(self._refined(maps, SEARCH.short, SEARCH.scored, SEARCH.known_weight))

    def _refined(
        self, maps: list[Rows], schedule: Sequence[tuple[int, int]], batch: int, known_share: float = 0.0
    ) -> list[Rows]:
        ranks = [min(rank, self.width) for rank, steps in schedule for _ in range(steps)]
        seed = int(self.generator.integers(2**31))
        return refine(self.points_a, self.points_b, maps, ranks, batch, seed, self._fixed, known_share)

    def _scored(self, maps: list[Rows]) -> ProposedMap:
        # The same first rows are used for every candidate, so that scores are comparable.
        a, b = ([x[: SEARCH.scored] for x in side] for side in (self.points_a, self.points_b))
        fit = fit_without_pairs(joint_similarity(a, b, maps))
        if len(self.known):
            # A wrong map may send points near real ones, but not known points near their partners.
            a, b = (
                [x[self.known[:, end]] for x in side]
                for end, side in enumerate((self.points_a, self.points_b))
            )
            share = len(self.known) / (len(self.known) + SEARCH.trusted)
            fit += share * (float(np.diag(joint_similarity(a, b, maps)).mean()) - fit)
        return ProposedMap(fit, maps)

    def _shared_pairs(self, of_a: Index, of_b: Index, size: int) -> Floats:
        """Gain ``(size, size)`` of matching two nodes by the known pairs that they share.

        All pairs together weigh as much as the geometry at all depths, whose matrices have norm 1.
        """
        rows = self.known[(self.known < [len(of_a), len(of_b)]).all(1)]
        gain = np.zeros((size, size))
        np.add.at(gain, (of_a[rows[:, 0]], of_b[rows[:, 1]]), len(self.a) / max(len(rows), 1))
        return gain

    def from_known(self) -> ProposedMap:
        """Procrustes on the known pairs alone."""
        i, j = self.known[:, 0], self.known[:, 1]
        return self._scored([partial_procrustes(x[i].T @ y[j]) for x, y in zip(self.points_a, self.points_b)])

    def _means(
        self, side: int, depth: int, count: int = SEARCH.means, components: int = SEARCH.tree_components
    ) -> Index:
        """K-means labels ``(n,)`` from one random start; they differ between proposals."""
        points = (self.points_a, self.points_b)[side][depth][: SEARCH.tree_points, :components]
        return kmeans_centroids(points, count, self.generator)[1]

    def _tree(self, side: int, depth: int, neighbors: int) -> LevelSetTree:
        """The density tree of one side at a depth, cached."""
        # Modes have no graph of neighbors.
        key = side, depth, neighbors * (self.nodes == "leaves")
        if key not in self._trees:
            points = (self.points_a, self.points_b)[side][depth][
                : SEARCH.tree_points, : SEARCH.tree_components
            ]
            self._trees[key] = (
                LevelSetTree.fit(points, neighbors=neighbors)
                if self.nodes == "leaves"
                else tree_of_mixture(points, max(1, round(SEARCH.atoms * len(points))), seed=0)
            )
        return self._trees[key]


def _narrowed(maps: Sequence[Rows]) -> list[Rows]:
    """Maps restricted to the leading components in which rivals are compared."""
    return [m[: SEARCH.compared_width, : SEARCH.compared_width] for m in maps]
