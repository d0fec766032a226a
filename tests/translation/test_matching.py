import numpy as np
import pytest

from repdyn.errors import RepdynError
from repdyn.topology import LevelSetTree, node_attributes
from repdyn.translation import TreeMatch, match_trees
from repdyn.translation.leaves import trait_agreement
from repdyn.translation.surrogates import coarse_surrogate, random_surrogate


def trees(planted, seed: int = 1, count: int = 700):
    x, labels_a = planted.clusters(count, seed=seed)
    y, labels_b = planted.clusters(count, seed=seed + 50)
    y = 3 * y @ planted.rotation(24, 9) + 2
    return LevelSetTree.fit(x), LevelSetTree.fit(y), x, y, labels_a, labels_b


def test_leaves_are_matched_to_the_same_cluster_and_unmatched_ones_stay_so(planted) -> None:
    tree_a, tree_b, x, y, labels_a, labels_b = trees(planted)
    match = match_trees(tree_a, tree_b, x, y)
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


def test_what_fields_make_of_the_leaves_bears_witness(planted) -> None:
    tree_a, tree_b, x, y, labels_a, labels_b = trees(planted)
    speed = np.random.default_rng(0).permutation(1 + labels_a.max()) / (2.0 + labels_a.max())

    def witnessed(order) -> TreeMatch:
        # Each cluster is the basin of one attractor; `order` says how fast those of B draw.
        nodes_a = node_attributes(tree_a, x, basin=labels_a, multipliers=speed)
        nodes_b = node_attributes(tree_b, y, basin=labels_b, multipliers=order)
        return match_trees(tree_a, tree_b, x, y, nodes_a=nodes_a, nodes_b=nodes_b)

    true, foreign, silent = witnessed(speed), witnessed(speed[::-1]), match_trees(tree_a, tree_b, x, y)
    np.testing.assert_array_equal(true.pairs, silent.pairs)
    assert true.traits > foreign.traits
    assert true.verdict == "found"
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


def test_a_tree_matches_itself_from_its_own_shape_alone(planted) -> None:
    tree, *_ = trees(planted)
    match = match_trees(tree, tree)
    assert match.objective == pytest.approx(1)
    assert match.verdict != "not found"


def test_a_random_geometry_is_not_found(planted) -> None:
    tree_a, tree_b, x, _, _, _ = trees(planted)
    scrambled = np.random.default_rng(0).normal(size=(len(np.unique(tree_b.assignment)), 24))
    match = match_trees(tree_a, tree_b, x, scrambled[tree_b.assignment])
    assert match.verdict != "found"
    assert match.surrogates.shape[0] == 2
    assert match.p_value > 0.01


@pytest.mark.parametrize("groups", [0, 4])
def test_unrelated_clusters_are_not_found_and_related_ones_are(groups: int, planted) -> None:
    """Also where both fall into a few groups, which match by themselves and say nothing of the leaves."""
    verdicts = {"related": [], "unrelated": []}
    for seed in range(4):
        one, other = (planted.world(k, groups) for k in (seed, 100 + seed))
        x = planted.sampled(one, 500, 2 * seed)
        for name, world in (("related", one), ("unrelated", other)):
            y = planted.sampled(world, 500, 2 * seed + 1) @ planted.rotation(24, seed)
            verdicts[name].append(match_trees(LevelSetTree.fit(x), LevelSetTree.fit(y), x, y).verdict)
    assert verdicts["unrelated"].count("found") == 0
    assert verdicts["related"].count("found") >= 2


def test_a_coarse_surrogate_keeps_the_groups_and_not_the_leaves() -> None:
    generator = np.random.default_rng(0)
    form = np.repeat(5 * generator.normal(size=(3, 8)), 4, axis=0) + generator.normal(size=(12, 8))
    mass = np.full(12, 1 / 12)
    made = coarse_surrogate(mass, form, generator)
    centred = form - form.mean(0)
    means, others = (v.reshape(3, 4, -1).mean(1) for v in (centred, made))
    assert np.allclose(means @ means.T, others @ others.T)
    assert not np.allclose(centred @ centred.T, made @ made.T, atol=0.5)
    mixed = random_surrogate(mass, form, generator)
    assert np.allclose(*(np.linalg.svd(v)[1] for v in (centred, mixed)))


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


def test_odd_points_give_no_confident_wrong_answer(planted) -> None:
    tree_a, _, x, y, _, labels = trees(planted)
    twice = np.concatenate([np.concatenate([y, y]), np.ones((2 * len(y), 5))], axis=1)  # and constant columns
    assert match_trees(tree_a, LevelSetTree.fit(twice, neighbors=30), x, twice).verdict == "found"
    generator = np.random.default_rng(0)
    few = generator.normal(size=(12, 60))  # fewer points than dimensions
    for odd in (few, np.ones((40, 3)), np.repeat(few[:2], 20, axis=0)):
        tree = LevelSetTree.fit(odd, neighbors=3)
        assert match_trees(tree_a, tree, x, odd).verdict == "inconclusive"
    cloud = generator.normal(size=(600, 2))
    noise = LevelSetTree.fit(cloud, neighbors=4).prune(40)  # a tree of quite another size, of nothing
    assert match_trees(tree_a, noise, x, cloud).verdict != "found"
    with pytest.raises(RepdynError, match="finite"):
        match_trees(tree_a, tree_a, x, np.where(np.arange(x.size).reshape(x.shape) == 30, np.nan, x))
    one_class = LevelSetTree.fit(y[labels == 0])
    match = match_trees(tree_a, one_class, x, y[labels == 0])
    assert match.verdict == "inconclusive"
    assert "1 leaves" in match.reason


def test_other_class_sets_match_in_what_they_share(planted) -> None:
    x, labels_a = planted.clusters(700, seed=1)
    y, labels_b = planted.clusters(700, seed=51)
    x, labels_a = x[labels_a < 12], labels_a[labels_a < 12]
    y = y[labels_b > 1] @ planted.rotation(24, 9)
    labels_b = labels_b[labels_b > 1]
    tree_a, tree_b = LevelSetTree.fit(x), LevelSetTree.fit(y)
    match = match_trees(tree_a, tree_b, x, y)
    named = [
        np.array([np.bincount(own[tree.assignment == leaf]).argmax() for leaf in tree.leaves])
        for tree, own in ((tree_a, labels_a), (tree_b, labels_b))
    ]
    sure = (match.pairs < [len(one) for one in named]).all(1) & (match.confidence > 0.8)
    wrong = named[0][match.pairs[sure, 0]] != named[1][match.pairs[sure, 1]]
    assert match.verdict != "found" or wrong.mean() < 0.3


def test_saved_is_loaded_and_drawn(planted, tmp_path) -> None:
    tree_a, tree_b, x, y, _, _ = trees(planted, count=400)
    match = match_trees(tree_a, tree_b, x, y)
    match.save(tmp_path / "m")
    again = TreeMatch.load(tmp_path / "m")
    assert again.to_dict() == match.to_dict()
    assert np.array_equal(again.tree_b["parent"], match.tree_b["parent"])
    assert "pairs" in repr(again)
    assert again.plot().data


def test_bad_input_is_told(planted) -> None:
    tree_a, tree_b, x, y, _, _ = trees(planted, count=300)
    with pytest.raises(RepdynError, match="both"):
        match_trees(tree_a, tree_b, x)
    with pytest.raises(RepdynError, match="its tree"):
        match_trees(tree_a, tree_b, x[:100], y)
