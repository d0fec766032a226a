import numpy as np
import pytest

from repdyn.errors import RepdynError
from repdyn.topology import LevelSetTree
from repdyn.translation import TreeMatch, match_trees


def trees(planted, seed: int = 1, count: int = 700):
    x, labels_a = planted.clusters(count, seed=seed)
    y, labels_b = planted.clusters(count, seed=seed + 50)
    y = 3 * y @ planted.rotation(24, 9) + 2
    return LevelSetTree.fit(x), LevelSetTree.fit(y), x, y, labels_a, labels_b


def test_leaves_are_matched_to_the_same_cluster_and_unmatched_ones_stay_so(planted) -> None:
    tree_a, tree_b, x, y, labels_a, labels_b = trees(planted)
    match = match_trees(tree_a, tree_b, x, y)
    assert match.verdict == "found", match.reason
    leaves = match.pairs[(match.pairs[:, 0] < len(tree_a.leaves)) & (match.pairs[:, 1] < len(tree_b.leaves))]
    right = [
        np.bincount(labels_a[tree_a.assignment == i]).argmax()
        == np.bincount(labels_b[tree_b.assignment == j]).argmax()
        for i, j in leaves
    ]
    assert np.mean(right) > 0.7
    assert len(np.unique(match.pairs[:, 0])) == len(match.pairs) == len(np.unique(match.pairs[:, 1]))
    assert ((match.confidence > 0) & (match.confidence <= 1 + 1e-9)).all()


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


def test_one_leaf_is_inconclusive_with_the_reason() -> None:
    one = LevelSetTree.fit(np.random.default_rng(0).normal(size=(200, 2))).prune(1)
    match = match_trees(one, one)
    assert match.verdict == "inconclusive"
    assert "leaves" in match.reason
    assert len(match.pairs) == 0
    assert match.to_dict()["verdict"] == "inconclusive"


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
