"""What users feed by mistake: through both doors, an error or a verdict, never a confident wrong answer."""

import numpy as np
import pytest
import torch

from repdyn.errors import RepdynError
from repdyn.paths import RepresentationPaths
from repdyn.topology import LevelSetTree
from repdyn.translation import fit_affine, fit_cca, fit_orthogonal, fit_ridge, match_trees, translate


def paths(x: np.ndarray) -> RepresentationPaths:
    return RepresentationPaths.from_arrays({"last": x})


def translated(x: np.ndarray, y: np.ndarray):
    return translate(paths(x), paths(y), candidates=2)


def matched(x: np.ndarray, y: np.ndarray):
    return match_trees(LevelSetTree.fit(x), LevelSetTree.fit(y), x, y)


def right_share(match, x: np.ndarray, y: np.ndarray, labels_a: np.ndarray, labels_b: np.ndarray) -> float:
    """Of the pairs of leaves, how many join the same class."""
    one, other = LevelSetTree.fit(x), LevelSetTree.fit(y)
    leaves = match.pairs[(match.pairs[:, 0] < len(one.leaves)) & (match.pairs[:, 1] < len(other.leaves))]
    same = [
        np.bincount(labels_a[one.assignment == i]).argmax()
        == np.bincount(labels_b[other.assignment == j]).argmax()
        for i, j in leaves
    ]
    return float(np.mean(same))


def test_one_cluster_is_inconclusive_with_the_reason(planted) -> None:
    blob = np.random.default_rng(0).normal(size=(400, 3))
    x, _ = planted.clusters(400, seed=1)
    match = matched(blob, x)
    assert match.verdict == "inconclusive"
    assert "1 and" in match.reason
    assert translated(blob, x[:, :3]).verdict != "found"


def test_duplicates_are_not_structure(planted) -> None:
    x, _ = planted.clusters(60, seed=1)
    repeated = np.repeat(x, 6, axis=0)
    other = planted.sampled(planted.world(7, 0), 360, 2)
    assert matched(repeated, other).verdict != "found"
    assert translated(repeated, other).verdict != "found"


def test_constant_columns_change_no_translation(planted) -> None:
    x, _ = planted.clusters(500, seed=1)
    y = planted.clusters(500, seed=2)[0] @ planted.rotation(24, 3)
    wide = np.concatenate([x, np.full((500, 3), 7.0)], axis=1)
    one, other = LevelSetTree.fit(x), LevelSetTree.fit(wide)
    assert np.array_equal(one.parent, other.parent)
    t = translated(wide, y)
    assert np.isfinite(t.matrix).all()
    assert not t.matrix[24:].any()


def test_fewer_points_than_columns(planted) -> None:
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(210, 256)), generator.normal(size=(220, 300))
    assert translated(x, y).verdict != "found"
    assert matched(x, y).verdict != "found"


def test_classes_that_only_one_model_has_stay_unmatched_or_the_verdict_says_so(planted) -> None:
    x, labels_a = planted.clusters(900, seed=1)
    y, labels_b = planted.clusters(900, seed=2)
    kept_a, kept_b = labels_a < 10, labels_b >= 4
    x, labels_a = x[kept_a], labels_a[kept_a]
    y, labels_b = (y @ planted.rotation(24, 3))[kept_b], labels_b[kept_b]
    match = matched(x, y)
    assert match.verdict != "found" or right_share(match, x, y, labels_a, labels_b) > 0.5


def test_trees_of_very_different_size(planted) -> None:
    few = planted.sampled(planted.world(1, 0, classes=5), 300, 1)
    many = planted.sampled(planted.world(2, 0, classes=40), 2000, 2)
    match = matched(few, many)
    assert match.verdict != "found"
    assert len(match.pairs) <= 2 * len(LevelSetTree.fit(few).leaves)
    assert translated(few, many).verdict != "found"


def test_a_value_that_is_not_finite_is_told_with_its_row(planted) -> None:
    x, _ = planted.clusters(300, seed=1)
    tree = LevelSetTree.fit(x)
    broken = x.copy()
    broken[17, 3] = np.nan
    with pytest.raises(RepdynError, match="sample '17'"):
        translated(broken, x)
    with pytest.raises(RepdynError, match="row 17"):
        LevelSetTree.fit(broken)
    with pytest.raises(RepdynError, match="row 17"):
        match_trees(tree, tree, broken, x)


@pytest.mark.parametrize("fit", [fit_orthogonal, fit_affine, fit_ridge, fit_cca])
def test_bfloat16_and_tensors_in_a_graph_are_read(fit) -> None:
    generator = np.random.default_rng(0)
    x = torch.as_tensor(generator.normal(size=(80, 5)), dtype=torch.bfloat16)
    y = torch.as_tensor(generator.normal(size=(80, 4 if fit is not fit_orthogonal else 5)))
    expected = fit(x.double().numpy(), y.numpy())
    found = fit(x.requires_grad_(), y.requires_grad_())
    np.testing.assert_allclose(found.matrix, expected.matrix)
