"""Modes through the scales as a level-set tree, and as the nodes of a match and of a translation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.spatial import ConvexHull
from sklearn.metrics import adjusted_rand_score

from repdyn.errors import RepdynError
from repdyn.fields import EnergyField, mode_tree
from repdyn.fields.modes import tree_of_mixture
from repdyn.topology import LevelSetTree, merge_tree_distance
from repdyn.translation import match_trees, translate

pytestmark = pytest.mark.filterwarnings("ignore::repdyn.fields.EnergyWarning")

Array = NDArray[np.float64]


def clusters(seed: int, count: int = 8, width: int = 6, points: int = 400) -> tuple[Array, Array]:
    generator = np.random.default_rng(seed)
    centers = generator.normal(size=(count, width)) * np.linspace(5, 2, width)
    label = np.random.default_rng(seed + 100).choice(
        count, points, p=generator.dirichlet(np.full(count, 9.0))
    )
    return centers[label] + 0.4 * np.random.default_rng(seed + 200).normal(size=(points, width)), label


def turned(x: Array, seed: int = 5) -> Array:
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(x.shape[1], x.shape[1])))
    return np.asarray(3 * x @ q + 2)


KINDS = {
    "clusters": clusters(0)[0],
    "heavy tails": np.random.default_rng(1).standard_t(1.5, size=(200, 3)),
    "integers": np.random.default_rng(2).integers(0, 4, size=(300, 2)).astype(float),
    "repeats": np.repeat(clusters(3, points=40)[0], 5, axis=0),
    "far from the origin": clusters(4)[0] + 1e3,
    "outlier coordinate": clusters(5)[0] * [1, 1, 1, 1, 1, 1000],
}


class TestTree:
    @pytest.mark.parametrize("ratio", [1.0, 3.0])
    def test_two_points_merge_where_two_normal_densities_do(self, ratio: float) -> None:
        # Two equal normal densities at -1 and 1 have one mode from a standard deviation of 1 on. With weights
        # 3 and 1 the border is lower, and is found here from the density on a grid.
        bank = np.repeat([[-1.0], [1.0]], [int(ratio), 1], axis=0)
        grid = np.linspace(-2, 2, 4001)

        def modes(sigma: float) -> int:
            values = np.exp(-((grid[:, None] - bank[:, 0]) ** 2) / (2 * sigma**2)).sum(1)
            return int(((values[1:-1] > values[:-2]) & (values[1:-1] > values[2:])).sum())

        sigmas = np.linspace(0.3, 1.2, 901)
        border = sigmas[[modes(s) for s in sigmas].index(1)]
        tree = mode_tree(EnergyField(0.5, components=None).fit(bank), bank)
        assert len(tree.leaves) == 2
        merged = float(np.exp(-tree.saddle[1]))
        # The scales are a sixteenth of the range apart at most.
        assert border <= merged <= 1.25 * border
        # The mode with more points lives on.
        assert tree.mass[0] == pytest.approx(ratio / (1 + ratio))
        assert tree.persistence[0] >= tree.persistence[1]

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("atoms", [None, 20])
    def test_its_leaves_are_the_basins_at_the_noise(self, kind: str, atoms: int | None) -> None:
        x = KINDS[kind]
        field = EnergyField(1.0, components=None, atoms=atoms).fit(x)
        field = field.at(1.5 * field.spacing_)
        tree = mode_tree(field, x)
        assert adjusted_rand_score(tree.assignment, field.basins(field.encode(x))[0]) > 0.9

    @pytest.mark.parametrize("kind", KINDS)
    def test_it_is_a_tree_of_all_points(self, kind: str) -> None:
        x = KINDS[kind]
        tree = mode_tree(EnergyField(1.0, components=None).fit(x), x)
        for count in {1, 2, min(7, tree.n_peaks), tree.n_peaks}:
            cut = tree.prune(count)
            assert len(cut.leaves) == count
            assert cut.mass[cut.leaves].sum() == pytest.approx(1)
            assert cut.mass[-1] == pytest.approx(1)
            for node, parent in enumerate(cut.parent[:-1]):
                assert parent > node
                assert cut.height[parent] <= cut.height[node]
        assert tree.components == 1
        # A coarser cut only merges: no leaf of it divides one of a finer cut.
        fine, coarse = tree.cut(min(12, tree.n_peaks)), tree.cut(min(4, tree.n_peaks))
        assert all(len(np.unique(coarse[fine == leaf])) == 1 for leaf in np.unique(fine))

    def test_it_does_not_change_with_unit_and_basis(self) -> None:
        x, _ = clusters(0)
        one = mode_tree(EnergyField(1.0, components=None).fit(x), x)
        other = mode_tree(EnergyField(3.0, components=None).fit(turned(x)), turned(x))
        assert adjusted_rand_score(one.assignment, other.assignment) == 1.0
        assert other.persistence == pytest.approx(one.persistence, abs=1e-3)

    def test_the_density_is_highest_inside(self) -> None:
        x, _label = clusters(0, count=3, width=2)
        tree = mode_tree(EnergyField(0.6, components=None).fit(x), x)
        for leaf in tree.leaves:
            own = x[tree.assignment == leaf]
            top = int(np.flatnonzero(tree.assignment == leaf)[tree.density[tree.assignment == leaf].argmax()])
            assert not set(ConvexHull(own).vertices) & set(np.flatnonzero((own == x[top]).all(1)))

    def test_one_point(self) -> None:
        x = np.ones((4, 3))
        assert len(mode_tree(EnergyField(1.0).fit(x), x).leaves) == 1

    def test_points_that_are_not_in_the_bank(self) -> None:
        x, label = clusters(0, points=800)
        field = EnergyField(0.8, components=None).fit(x[:400])
        tree = mode_tree(field, torch.from_numpy(x[400:]))
        assert len(tree.assignment) == 400
        assert adjusted_rand_score(tree.assignment, label[400:]) > 0.9

    def test_refused(self) -> None:
        x, _ = clusters(0)
        with pytest.raises(RepdynError, match="not fitted"):
            mode_tree(EnergyField(1.0), x)
        with pytest.raises(RepdynError, match="x: fitted on shape"):
            mode_tree(EnergyField(1.0).fit(x), x[:, :3])


class TestUse:
    def test_it_is_saved_shown_and_drawn_as_what_it_is(self, tmp_path: Path) -> None:
        x, _ = clusters(0)
        tree = mode_tree(EnergyField(0.8, components=None).fit(x), x)
        tree.save(tmp_path / "modes.tree")
        back = LevelSetTree.load(tmp_path / "modes.tree")
        assert back.level == tree.level == "-log noise" == tree.prune(3).level == tree.to_dict()["level"]
        assert np.array_equal(back.assignment, tree.assignment)
        assert back.merging.elder[0] == -1
        assert "-log noise" in repr(tree)
        assert tree.plot().layout.xaxis.title.text == "-log noise"
        assert LevelSetTree.fit(x).plot().layout.xaxis.title.text == "log-density"
        assert merge_tree_distance(tree, back) == pytest.approx(0)

    def test_modes_are_matched_where_the_clusters_are_the_same(self) -> None:
        (x, label), (y, other) = clusters(0), clusters(0, points=500)
        y = turned(y)
        trees = [mode_tree(EnergyField(s, components=None).fit(z), z) for s, z in ((0.8, x), (2.4, y))]
        match = match_trees(trees[0], trees[1], x, y)
        assert match.verdict == "found"
        leaves = [(i, j) for i, j in match.pairs.tolist() if trees[0].leaf[i] and trees[1].leaf[j]]
        named = [
            [np.bincount(own[tree.assignment == leaf]).argmax() for leaf in tree.leaves]
            for tree, own in zip(trees, (label, other))
        ]
        assert len(leaves) >= 7
        assert all(named[0][i] == named[1][j] for i, j in leaves)

    def test_modes_of_unrelated_clusters_are_not_matched(self) -> None:
        for seed in range(3):
            x, y = clusters(seed)[0], turned(clusters(50 + seed)[0])
            trees = [mode_tree(EnergyField(s, components=None).fit(z), z) for s, z in ((0.8, x), (2.4, y))]
            assert match_trees(trees[0], trees[1], x, y, seed=seed).verdict != "found"

    def test_modes_as_nodes_of_a_translation(self) -> None:
        # 700 points of either model, of different samples, so that no rows are pairs.
        x, _ = clusters(1, count=12, width=10, points=1400)
        y = turned(x)
        found = translate(x[:700], y[700:], nodes="modes", seed=0)
        assert found.verdict == "found"
        moved = found(x[:300])
        nearest = ((moved[:, None] - y[None, :300]) ** 2).sum(2).argmin(1)
        assert (nearest == np.arange(300)).mean() > 0.5
        with pytest.raises(RepdynError, match="expected one of leaves, modes"):
            translate(x[:700], y[700:], nodes="peaks")  # type: ignore[arg-type]

    def test_a_translation_of_unrelated_clouds_is_not_found(self) -> None:
        x, y = clusters(1, count=9, points=500)[0], turned(clusters(60, count=9, points=500)[0])
        assert translate(x, y, nodes="modes", seed=0).verdict != "found"

    def test_the_tree_of_a_search_has_every_granularity(self) -> None:
        x, label = clusters(2, points=600)
        tree = tree_of_mixture(x, 60, seed=0)
        assert adjusted_rand_score(tree.cut(8), label) > 0.9
        assert len(np.unique(tree.cut(30))) == 30
        again = tree_of_mixture(x, 60, seed=0)
        assert np.array_equal(tree.cut(30), again.cut(30))
