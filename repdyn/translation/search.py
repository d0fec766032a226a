"""Explore matchings of two models' density trees, choose without pairs, refine the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from repdyn.progress import track
from repdyn.topology import LevelSetTree
from repdyn.translation.assignment import quadratic_assignment
from repdyn.translation.coordinates import Cloud, unit_rows
from repdyn.translation.nodes import TREE_COMPONENTS, Nodes, flattened_gram
from repdyn.translation.refine import (
    fit_without_pairs,
    joint_similarity,
    nearest_orthogonal,
    refine,
    settle,
)

__all__ = ["Candidate", "Search"]

Rows = NDArray[np.float32]
Index = NDArray[np.int64]

TREE_POINTS = 4000
"""Points a tree is grown on: its time grows with their square, its leaves hardly change."""

LEAVES = (8, 120)
"""Granularities tried, evenly in the logarithm. Which one succeeds depends on the data; none does on all."""

NEIGHBORS = (5, 8, 11)
"""Neighbours of the density tried: fewer show more peaks."""

POWERS = (0.35, 1.0)
"""Flattening of the Gram matrices' spectrum."""

START_RANK = 16
"""Directions that matched nodes determine reliably."""

SCORED = 1000
"""Points of each side on which a candidate is scored."""

POOLED = 500
"""Points whose translations are compared to tell which candidates agree."""

BATCH = 1500
"""Points of each side matched per step; the comparison is quadratic in it."""

FUNNEL = ((32, 4), (64, 4))
"""Components and steps of the short refinement every candidate gets, which brings all to one rank."""

EXPLOIT = ((64, 12), (128, 4))
"""Components and at most so many rounds for the pooled map. Right ones improve at every step for long; more
components too early freeze what is still wrong in them."""

ROUND = 8
"""Steps in a round, after which the map is compared with those of the two rounds before."""

DRIFT = 0.003
"""Cosine by which the map of two rounds ago must be further off than that of one round ago for the map to be
still on its way; where both are as far, only the draws move it."""

ENOUGH = 3
"""Candidates that retrieve each other's translations, after which no more are tried."""

ALIKE = 0.3
"""Retrieval between two candidates from which on they are one map with errors; chance is one in 500."""

FINISH = ((128, 6), (192, 4))
"""The same before the last steps in all components."""

SETTLED = 2
"""Steps with all points at the very end; more change little."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """Maps at all depths and how well translated points fall among real ones under them."""

    fit: float
    maps: list[Rows]


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
        self._trees: dict[tuple[int, int, int], LevelSetTree] = {}
        self.width = min(min(x.shape[1] for x in self.points_a), min(y.shape[1] for y in self.points_b))

    @property
    def leaves(self) -> int:
        """Peaks of the poorer density at the last depth: below three there is nothing to match."""
        return min(self._tree(side, len(self.a) - 1, NEIGHBORS[0]).n_peaks for side in (0, 1))

    def run(self, candidates: int) -> Candidate:
        """Explore, pool the candidates that agree, refine the pool."""
        found = [self._from_known()] if len(self.known) > 1 else []
        for number in track(range(candidates), "matching trees"):
            found.append(self.propose(number))
            if self._agreeing(found) >= ENOUGH:
                break
        best = max(found, key=lambda candidate: candidate.fit)
        starts = [best.maps, self._pooled(found)] if len(found) > 1 else [best.maps]
        tried = [self._scored(self._refined(maps, FUNNEL, BATCH)) for maps in starts]
        start = max(tried, key=lambda candidate: candidate.fit)
        return self._scored(self.finish(self._exploited(start.maps)))

    def finish(self, maps: list[Rows]) -> list[Rows]:
        """Refine in wide and then all components, on more points."""
        return self._refined(maps, (*FINISH, (self.width, 3)), 2 * BATCH)

    def settle(self, maps: list[Rows]) -> list[Rows]:
        """The last steps, on all points or very many."""
        seed = int(self.generator.integers(2**31))
        return settle(self.points_a, self.points_b, maps, SETTLED, seed=seed, fixed=self._fixed)

    @property
    def _fixed(self) -> tuple[Index, Index] | None:
        return (self.known[:, 0], self.known[:, 1]) if len(self.known) else None

    def _exploited(self, maps: list[Rows]) -> list[Rows]:
        """Refine until the map no longer drifts."""
        for rank, rounds in EXPLOIT:
            before: list[NDArray[np.floating]] = []
            for _ in range(rounds):
                maps = self._refined(maps, [(rank, ROUND)], BATCH)
                before.append(unit_rows(self.points_a[-1][:POOLED] @ maps[-1]))
                if len(before) > 2:
                    nearer, farther = (float((before[-1] * before[-k]).sum(1).mean()) for k in (2, 3))
                    if nearer - farther < DRIFT:
                        break
        return maps

    def _agreeing(self, found: Sequence[Candidate]) -> int:
        """How many candidates retrieve the newest one's translations, itself included."""
        moved = [unit_rows(self.points_a[-1][:POOLED] @ candidate.maps[-1]) for candidate in found]
        right = np.arange(len(moved[0]))
        return sum(bool(((moved[-1] @ other.T).argmax(1) == right).mean() >= ALIKE) for other in moved)

    def _pooled(self, found: list[Candidate]) -> list[Rows]:
        r"""Weighted mean of the candidates' maps; the weights are the leading eigenvector of their agreement.

        Right candidates are the truth plus independent errors, so they agree with each other and their
        mean is nearer to the truth than any of them; wrong ones agree with nothing.
        """
        translated = np.stack(
            [
                np.concatenate(
                    [unit_rows(x[:POOLED] @ m) for x, m in zip(self.points_a, candidate.maps)], axis=1
                ).ravel()
                for candidate in found
            ]
        )
        _, vectors = np.linalg.eigh((translated @ translated.T).astype(np.float64))
        leading = vectors[:, -1] * np.sign(vectors[:, -1].sum() or 1)
        weights = np.maximum(leading, 0).astype(np.float32)
        return [
            nearest_orthogonal(sum(w * candidate.maps[d] for w, candidate in zip(weights, found)))
            for d in range(len(self.a))
        ]

    def propose(self, number: int) -> Candidate:
        """One matching at random settings, shortly refined; depths take turns with ``number``."""
        generator = self.generator
        depth = number % len(self.a)
        leaves = int(np.exp(generator.uniform(*np.log(LEAVES))))
        neighbors = int(generator.choice(NEIGHBORS))
        power = float(generator.uniform(*POWERS))
        nodes, node_of = [], []
        for side, points in enumerate((self.points_a, self.points_b)):
            tree = self._tree(side, depth, neighbors)
            labels = tree.cut(min(leaves, tree.n_peaks))
            # A node is a set of inputs: grown at one depth, it has a centroid at every depth.
            nodes.append(Nodes.from_labels([x[:TREE_POINTS] for x in points], labels))
            node_of.append(labels)
        size = max(map(len, nodes))
        a, b = (
            np.stack([flattened_gram(side.mass, c, power, size) for c in side.centroids]) for side in nodes
        )
        seed = int(generator.integers(2**31))
        unary = self._shared_pairs(node_of[0], node_of[1], size)
        permutations, _ = quadratic_assignment(a, b, unary, starts=16, polished=1, seed=seed)
        maps = _maps_from_nodes(nodes[0], nodes[1], permutations[0])
        return self._scored(self._refined(maps, FUNNEL, SCORED))

    def _refined(self, maps: list[Rows], schedule: Sequence[tuple[int, int]], batch: int) -> list[Rows]:
        ranks = [min(rank, self.width) for rank, steps in schedule for _ in range(steps)]
        seed = int(self.generator.integers(2**31))
        return refine(self.points_a, self.points_b, maps, ranks, batch=batch, seed=seed, fixed=self._fixed)

    def _scored(self, maps: list[Rows]) -> Candidate:
        # The first rows serve every candidate, so that scores compare.
        a, b = ([x[:SCORED] for x in side] for side in (self.points_a, self.points_b))
        return Candidate(fit_without_pairs(joint_similarity(a, b, maps)), maps)

    def _shared_pairs(self, of_a: Index, of_b: Index, size: int) -> NDArray[np.float64] | None:
        """What the assignment gains by matching two nodes for the known pairs that they share.

        All pairs together weigh as much as the geometry at all depths, whose matrices are of norm one.
        """
        inside = (self.known < [len(of_a), len(of_b)]).all(1)
        if not inside.any():
            return None
        rows = self.known[inside]
        gain = np.zeros((size, size))
        np.add.at(gain, (of_a[rows[:, 0]], of_b[rows[:, 1]]), len(self.a) / len(rows))
        return gain

    def _from_known(self) -> Candidate:
        i, j = self.known[:, 0], self.known[:, 1]
        return self._scored([_procrustes(x[i].T @ y[j]) for x, y in zip(self.points_a, self.points_b)])

    def _tree(self, side: int, depth: int, neighbors: int) -> LevelSetTree:
        key = side, depth, neighbors
        if key not in self._trees:
            points = (self.points_a, self.points_b)[side][depth][:TREE_POINTS, :TREE_COMPONENTS]
            self._trees[key] = LevelSetTree.fit(points, neighbors=neighbors)
        return self._trees[key]


def _maps_from_nodes(a: Nodes, b: Nodes, permutation: Index) -> list[Rows]:
    """Procrustes on matched centroids at each depth, in the directions that they determine."""
    left = np.flatnonzero(permutation[: len(a)] < len(b))
    right = permutation[left]
    weight = np.sqrt(a.mass[left] * b.mass[right])
    maps = []
    for x, y in zip(a.centroids, b.centroids):
        maps.append(_procrustes((x[left] * weight[:, None]).T @ y[right], START_RANK))
    return maps


def _procrustes(moment: NDArray[np.floating], most: int | None = None) -> Rows:
    """The polar factor in the directions that the moment determines, and zero in all others."""
    u, values, v = np.linalg.svd(moment, full_matrices=False)
    rank = int((values > 1e-6 * max(float(values[0]), 1e-30)).sum())
    rank = rank if most is None else min(rank, most)
    return np.asarray(u[:, :rank] @ v[:rank], dtype=np.float32)
