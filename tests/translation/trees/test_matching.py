from dataclasses import replace

import numpy as np
import pytest

from repdyn.errors import RepdynError
from repdyn.topology import LevelSetTree, node_attributes
from repdyn.translation import TreeMatch, match_trees
from repdyn.translation.trees import matching
from repdyn.translation.trees.leaves import Leaves, trait_agreement


@pytest.fixture(scope="module")
def trees(planted):
    """Two trees of the same clusters, drawn anew and turned; their points and labels."""
    x, labels_a = planted.clusters(500, seed=1, classes=10)
    y, labels_b = planted.clusters(500, seed=51, classes=10)
    y = 3 * y @ planted.rotation(24, 9) + 2
    return LevelSetTree.fit(x), LevelSetTree.fit(y), x, y, labels_a, labels_b


@pytest.fixture(scope="module")
def found(trees) -> TreeMatch:
    return match_trees(*trees[:4])


@pytest.fixture
def untested(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pairs, confidences and traits do not depend on the surrogates: where only these are asked, few do."""
    monkeypatch.setattr(matching, "MATCH", replace(matching.MATCH, surrogates=2, further_surrogates=2))


def test_leaves_are_matched_to_the_same_cluster_and_unmatched_ones_stay_so(trees, found) -> None:
    tree_a, tree_b, _, _, labels_a, labels_b = trees
    match = found
    assert match.verdict == "found", match.reason
    assert match.traits > 0.3  # mass, persistence and spread bear witness
    assert match.score == pytest.approx(match.objective + 0.2 * match.traits, abs=0.1)
    leaves = match.pairs[(match.pairs[:, 0] < len(tree_a.leaves)) & (match.pairs[:, 1] < len(tree_b.leaves))]
    right = [
        np.bincount(labels_a[tree_a.assignment == i]).argmax()
        == np.bincount(labels_b[tree_b.assignment == j]).argmax()
        for i, j in leaves
    ]
    assert np.mean(right) > 0.7
    assert len(np.unique(match.pairs[:, 0])) == len(match.pairs) == len(np.unique(match.pairs[:, 1]))
    assert ((match.confidence > 0) & (match.confidence <= 1 + 1e-9)).all()


@pytest.mark.usefixtures("untested")
def test_what_fields_make_of_the_leaves_bears_witness(trees) -> None:
    tree_a, tree_b, x, y, labels_a, labels_b = trees
    speed = np.random.default_rng(0).permutation(1 + labels_a.max()) / (2.0 + labels_a.max())

    def witnessed(order) -> TreeMatch:
        # Each cluster is the basin of one attractor; `order` says how fast those of B draw.
        nodes_a = node_attributes(tree_a, x, basin=labels_a, multipliers=speed)
        nodes_b = node_attributes(tree_b, y, basin=labels_b, multipliers=order)
        return match_trees(tree_a, tree_b, x, y, nodes_a=nodes_a, nodes_b=nodes_b)

    true, foreign, silent = witnessed(speed), witnessed(speed[::-1]), match_trees(tree_a, tree_b, x, y)
    np.testing.assert_array_equal(true.pairs, silent.pairs)
    assert true.traits > foreign.traits
    assert true.score > foreign.score
    with pytest.raises(RepdynError, match="of both trees"):
        match_trees(tree_a, tree_b, x, y, nodes_a=node_attributes(tree_a, x))
    with pytest.raises(RepdynError, match="nodes_b describes"):
        match_trees(
            tree_a,
            tree_b,
            nodes_a=node_attributes(tree_a, x),
            nodes_b=node_attributes(LevelSetTree.fit(y[:300]), y[:300]),
        )
    # Without basins nothing is known of attractors, and nothing changes.
    unknown = match_trees(
        tree_a, tree_b, x, y, nodes_a=node_attributes(tree_a, x), nodes_b=node_attributes(tree_b, y)
    )
    assert unknown.to_dict() == silent.to_dict()


def test_a_tree_matches_itself_from_its_own_shape_alone(trees) -> None:
    tree, *_ = trees
    match = match_trees(tree, tree)
    assert match.objective == pytest.approx(1)
    assert match.verdict != "not found"


def test_a_random_geometry_is_not_found(trees) -> None:
    tree_a, tree_b, x, _, _, _ = trees
    scrambled = np.random.default_rng(0).normal(size=(len(np.unique(tree_b.assignment)), 24))
    match = match_trees(tree_a, tree_b, x, scrambled[tree_b.assignment])
    assert match.verdict != "found"
    assert match.surrogates.shape[0] == 3
    assert match.p_value > 0.01


@pytest.mark.parametrize("groups", [0, 4])
def test_unrelated_clusters_are_not_found_and_related_ones_are(
    groups: int, planted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where both fall into a few groups, which match by themselves and say nothing of the leaves."""
    verdicts = {"related": [], "unrelated": []}
    for seed in range(2):
        one, other = (planted.world(k, groups, classes=9) for k in (seed, 100 + seed))
        x = planted.sampled(one, 500, 2 * seed)
        for name, world in (("unrelated", other), ("related", one)):
            if name == "related":  # as whole trees; what is tried after them can only find more
                monkeypatch.setattr(matching, "MATCH", replace(matching.MATCH, further_surrogates=2))
            y = planted.sampled(world, 500, 2 * seed + 1) @ planted.rotation(24, seed)
            verdicts[name].append(match_trees(LevelSetTree.fit(x), LevelSetTree.fit(y), x, y).verdict)
            monkeypatch.undo()
    assert verdicts["unrelated"].count("found") == 0
    assert verdicts["related"].count("found") >= 1


def test_clusters_that_are_all_equally_far_apart_are_not_found() -> None:
    """They agree in any order, so a good fit says nothing, and p must not be small."""
    generator = np.random.default_rng(0)
    sides = []
    for _ in range(2):
        centres = np.linalg.qr(generator.normal(size=(64, 9)))[0].T * 8
        label = generator.choice(9, size=500, p=generator.dirichlet(np.full(9, 6.0)))
        sides.append(centres[label] + 0.3 * generator.normal(size=(500, 64)))
    match = match_trees(*map(LevelSetTree.fit, sides), *sides)
    assert match.objective > 0.7
    assert match.verdict == "not found"
    assert match.p_value > 0.05


def test_one_leaf_is_inconclusive_with_the_reason() -> None:
    one = LevelSetTree.fit(np.random.default_rng(0).normal(size=(200, 2))).prune(1)
    match = match_trees(one, one)
    assert match.verdict == "inconclusive"
    assert "leaves" in match.reason
    assert len(match.pairs) == 0
    assert match.to_dict()["verdict"] == "inconclusive"


def test_trait_agreement_by_hand() -> None:
    one = np.array([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]])
    assert trait_agreement(one, 10 * one**3) == pytest.approx(
        0.5
    )  # one column agrees, a constant one is silent
    assert trait_agreement(one[:, :1], -one[:, :1]) == pytest.approx(-1.0)


@pytest.mark.slow
def test_a_coarser_granularity_matches_where_the_finest_does_not(planted) -> None:
    """The trees as given have leaves that noise made, which are not the same on both sides."""
    x, labels_a = planted.clusters(600, seed=1, classes=8)
    y, labels_b = planted.clusters(600, seed=2, classes=8)
    y = y @ planted.rotation(24, 3)
    fine = [LevelSetTree.fit(z, neighbors=8) for z in (x, y)]
    fine = [tree.prune(min(14, tree.n_peaks)) for tree in fine]
    match = match_trees(*fine, x, y)
    assert match.verdict == "found", match.reason
    assert len(match.pairs) <= 2 * 8
    below = [np.zeros((len(tree.parent), 8)) for tree in fine]
    for tree, labels, counts in zip(fine, (labels_a, labels_b), below):
        np.add.at(counts, (tree.assignment, labels), 1)
        for node in range(len(tree.parent) - 1):  # parents come after their children
            counts[tree.parent[node]] += counts[node]
    named = [counts.argmax(1) for counts in below]
    assert np.mean(named[0][match.pairs[:, 0]] == named[1][match.pairs[:, 1]]) > 0.7


def test_centroids_are_of_the_densest_points(trees) -> None:
    _, _, x, *_ = trees
    doubled = LevelSetTree.fit(np.concatenate([x, x + 1e-3]))
    leaves = Leaves.of(doubled, np.concatenate([x, x + 1e-3]), "x")
    for leaf in doubled.leaves:
        own = doubled.density[doubled.assignment == leaf]
        core = doubled.density[leaves.rows[leaves.assignment == leaf]]
        assert len(core) == min(len(own), max(100, int(np.ceil(len(own) / 3))))
        assert core.min() >= np.sort(own)[-len(core)]
    assert leaves.mass.sum() == pytest.approx(1)


def test_odd_points_give_no_confident_wrong_answer(trees) -> None:
    tree_a, _, x, y, _, labels = trees
    twice = np.concatenate([np.concatenate([y, y]), np.ones((2 * len(y), 5))], axis=1)  # and constant columns
    assert match_trees(tree_a, LevelSetTree.fit(twice, neighbors=30), x, twice).verdict == "found"
    generator = np.random.default_rng(0)
    few = generator.normal(size=(12, 60))  # fewer points than dimensions
    for odd in (few, np.ones((40, 3)), np.repeat(few[:2], 20, axis=0)):
        tree = LevelSetTree.fit(odd, neighbors=3)
        assert match_trees(tree_a, tree, x, odd).verdict == "inconclusive"
    with pytest.raises(RepdynError, match="finite"):
        match_trees(tree_a, tree_a, x, np.where(np.arange(x.size).reshape(x.shape) == 30, np.nan, x))
    one_class = LevelSetTree.fit(y[labels == 0])
    match = match_trees(tree_a, one_class, x, y[labels == 0])
    assert match.verdict == "inconclusive"
    assert "1 leaves" in match.reason


def test_saved_is_loaded_and_drawn(found, tmp_path) -> None:
    match = found
    match.save(tmp_path / "m")
    again = TreeMatch.load(tmp_path / "m")
    assert again.to_dict() == match.to_dict()
    assert np.array_equal(again.tree_b["parent"], match.tree_b["parent"])
    assert "pairs" in repr(again)
    assert again.plot().data


def test_bad_input_is_told(trees) -> None:
    tree_a, tree_b, x, y, _, _ = trees
    with pytest.raises(RepdynError, match="both"):
        match_trees(tree_a, tree_b, x)
    with pytest.raises(RepdynError, match="its tree"):
        match_trees(tree_a, tree_b, x[:100], y)
