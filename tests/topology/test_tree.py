"""Level-set trees: known answers, invariances, oracles, faults."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repdyn.errors import RepdynError
from repdyn.topology import LevelSetTree, nearest_neighbors
from repdyn.topology.merge_tree import merge_superlevel_sets


def blobs(sizes=(300, 300, 300), dimensions=5, distance=8.0, seed=0):
    rng = np.random.default_rng(seed)
    centres = distance * np.eye(len(sizes), dimensions)
    x = np.concatenate([c + rng.normal(size=(n, dimensions)) for c, n in zip(centres, sizes)])
    return x, np.repeat(np.arange(len(sizes)), sizes)


def chain(values):
    """A path graph: vertex i is joined to i + 1."""
    n = len(values)
    neighbors = np.minimum(np.arange(n) + 1, n - 1)[:, None]
    return merge_superlevel_sets(np.asarray(values, dtype=float), neighbors)


def test_merging_on_a_chain_by_hand():
    merging = chain([1, 5, 2, 4, 0, 3])
    assert merging.peak.tolist() == [1, 3, 5]
    assert merging.birth.tolist() == [5, 4, 3]
    assert merging.death.tolist() == [0, 2, 0]
    assert merging.elder.tolist() == [-1, 0, 0]
    assert merging.across_saddle.tolist() == [-1, 0, 1]
    assert merging.order.tolist() == [-1, 3, 5]
    assert merging.components == 1
    assert merging.basin[[0, 1, 3, 5]].tolist() == [0, 0, 1, 2]


def brute_force_diagram(values, neighbors):
    """Components of every superlevel set, by flooding: the definition."""
    n = len(values)
    joined = np.zeros((n, n), dtype=bool)
    joined[np.repeat(np.arange(n), neighbors.shape[1]), neighbors.ravel()] = True
    joined |= joined.T
    label, born, pairs = {}, {}, []
    for i in sorted(range(n), key=lambda i: (-values[i], i)):
        roots = {label[j] for j in np.flatnonzero(joined[i]) if j in label}
        if not roots:
            label[i], born[i] = i, values[i]
            continue
        oldest = max(roots, key=lambda r: (born[r], -r))
        pairs += [(born[r], values[i]) for r in roots if r != oldest]
        label = {j: oldest if r in roots else r for j, r in label.items()}
        label[i] = oldest
    pairs += [(born[r], values.min()) for r in set(label.values())]
    return sorted((b, d) for b, d in pairs)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(2, 40), st.integers(1, 4), st.booleans())
def test_merging_equals_its_definition(seed, n, k, ties):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 5, n).astype(float) if ties else rng.normal(size=n)
    neighbors = rng.integers(0, n, size=(n, k))
    merging = merge_superlevel_sets(values, neighbors)
    assert sorted(zip(merging.birth, merging.death)) == brute_force_diagram(values, neighbors)


@pytest.mark.parametrize("dimensions", [2, 20])
def test_agrees_with_gudhi_tomato(dimensions):
    tomato = pytest.importorskip("gudhi.clustering.tomato")
    x, _ = blobs((250, 250, 250), dimensions + 1, distance=5.0)
    tree = LevelSetTree.fit(x, persistence=0.0)
    _, graph = nearest_neighbors(x, 15)
    theirs = tomato.Tomato(graph_type="manual", density_type="manual", symmetrize_graph=True)
    theirs.fit([list(map(int, row)) for row in graph], weights=tree.density)
    dead = tree.diagram[tree.merging.death[: tree.n_peaks] > tree.density.min()]
    np.testing.assert_array_equal(sorted(map(tuple, theirs.diagram_)), sorted(map(tuple, dead)))
    for n in (2, 3, min(6, tree.n_peaks), tree.n_peaks):
        theirs.n_clusters_ = n
        pairs = set(zip(theirs.labels_.tolist(), tree.cut(n).tolist()))
        assert len(pairs) == n  # a one-to-one renaming of the same clusters


def test_agrees_with_hdbscan_on_its_own_kind_of_example():
    from sklearn.cluster import HDBSCAN
    from sklearn.metrics import adjusted_rand_score

    x, _ = blobs()
    theirs = HDBSCAN(min_cluster_size=20, copy=True).fit_predict(x)
    inside = theirs >= 0
    tree = LevelSetTree.fit(x)
    assert len(tree.leaves) == len(set(theirs[inside]))
    assert adjusted_rand_score(theirs[inside], tree.assignment[inside]) == 1.0


def test_agrees_with_tomato_and_hdbscan_on_their_own_examples():
    from sklearn.cluster import HDBSCAN
    from sklearn.datasets import make_blobs, make_moons
    from sklearn.metrics import adjusted_rand_score

    # gudhi, src/python/test/test_tomato.py: two clusters, and their labels.
    x = np.array([(1, 2), (1.1, 1.9), (0.9, 1.8), (10, 0), (10.1, 0.05), (10.2, -0.1), (5.4, 0)])
    assert LevelSetTree.fit(x, neighbors=3, persistence=0.0).cut(2).tolist() == [1, 1, 1, 0, 0, 0, 0]
    # scikit-learn, "Demo of HDBSCAN clustering algorithm".
    centres = [[1, 1], [-1, -1], [1.5, -1.5]]
    x, truth = make_blobs(750, centers=centres, cluster_std=[0.4, 0.1, 0.75], random_state=0)
    theirs, tree = HDBSCAN(copy=True).fit_predict(x), LevelSetTree.fit(x)
    inside = theirs >= 0
    assert len(tree.leaves) == len(set(theirs[inside])) == 3
    assert adjusted_rand_score(theirs[inside], tree.assignment[inside]) > 0.95
    assert adjusted_rand_score(truth, tree.assignment) > adjusted_rand_score(truth, theirs)
    # The hdbscan package, "How HDBSCAN works": two moons and two blobs.
    moons, _ = make_moons(50, noise=0.05, random_state=0)
    blobs, _ = make_blobs(50, centers=[(-0.75, 2.25), (1.0, 2.0)], cluster_std=0.25, random_state=0)
    x = np.vstack([moons, blobs])
    theirs, tree = HDBSCAN(min_cluster_size=5, copy=True).fit_predict(x), LevelSetTree.fit(x, neighbors=5)
    inside = theirs >= 0
    assert len(tree.leaves) == len(set(theirs[inside]))
    assert adjusted_rand_score(theirs[inside], tree.assignment[inside]) == 1.0


def test_finds_planted_clusters_and_a_tree_of_them():
    # Two pairs of clusters: near ones join first.
    rng = np.random.default_rng(0)
    centres = np.array([[0, 0, 0], [5, 0, 0], [0, 40, 0], [5, 40, 0]], dtype=float)
    x = np.concatenate([c + rng.normal(size=(400, 3)) for c in centres])
    tree = LevelSetTree.fit(x, neighbors=30)
    assert len(tree.leaves) == 4
    truth = np.repeat(np.arange(4), 400)
    leaf_of = [np.bincount(tree.assignment[truth == c]).argmax() for c in range(4)]
    assert tree.parent[leaf_of[0]] == tree.parent[leaf_of[1]]
    assert tree.parent[leaf_of[2]] == tree.parent[leaf_of[3]]
    assert tree.parent[leaf_of[0]] != tree.parent[leaf_of[2]]


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 1000))
def test_structure_holds_for_any_data(seed):
    rng = np.random.default_rng(seed)
    tree = LevelSetTree.fit(rng.normal(size=(150, 3)) ** 3, persistence=0.2, neighbors=8)
    nodes = len(tree.parent)
    assert tree.parent[-1] == -1
    assert (tree.parent[:-1] > np.arange(nodes - 1)).all()
    assert (tree.height >= tree.saddle).all()
    assert (tree.saddle[:-1] == tree.height[tree.parent[:-1]]).all()
    assert tree.mass[-1] == pytest.approx(1.0)
    assert tree.mass[tree.leaf].sum() == pytest.approx(1.0)
    inner = np.flatnonzero(~tree.leaf)
    for node in inner:
        assert tree.mass[node] == pytest.approx(tree.mass[tree.parent == node].sum())
    assert (np.diff(tree.height[tree.leaf]) <= 0).all()
    assert (tree.assignment[tree.peak[tree.leaf]] == tree.leaves).all()


def test_components_of_the_graph_join_by_nearness():
    # Four clusters that no neighbour joins; the first two and the last two are near each other.
    rng = np.random.default_rng(0)
    centres = np.array([0.0, 20.0, 1000.0, 1030.0])
    x = np.concatenate([c + rng.normal(size=(60, 2)) for c in centres])
    tree = LevelSetTree.fit(x, neighbors=5).prune(4)
    assert tree.components == 4
    truth = np.repeat(np.arange(4), 60)
    leaf_of = [np.bincount(tree.assignment[truth == c]).argmax() for c in range(4)]
    assert tree.parent[leaf_of[0]] == tree.parent[leaf_of[1]] != tree.parent[leaf_of[2]]
    three = tree.cut(3)  # the lowest peak goes, its points to the cluster beside it, not to the highest
    assert not set(three[:120]) & set(three[120:])


def test_needs_no_basis():
    x, _ = blobs()
    rotation, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(5, 5)))
    one, other = LevelSetTree.fit(x), LevelSetTree.fit(3.0 * x @ rotation + 7.0)
    np.testing.assert_array_equal(one.assignment, other.assignment)
    np.testing.assert_array_equal(one.parent, other.parent)
    np.testing.assert_allclose(one.persistence, other.persistence, atol=1e-8)


def test_one_gaussian_is_one_leaf():
    for seed in range(5):
        x = np.random.default_rng(seed).normal(size=(1000, 4))
        assert len(LevelSetTree.fit(x).leaves) == 1


def test_cut_is_nested_and_simplify_is_reversible():
    x, _ = blobs(distance=4.0)
    tree = LevelSetTree.fit(x, neighbors=6)
    for n in (2, 3, 5):
        coarse, fine = tree.cut(n), tree.cut(n + 1)
        assert len(np.unique(coarse)) == n
        assert all(len(np.unique(coarse[fine == leaf])) == 1 for leaf in range(n + 1))
    back = tree.simplify(2.0).simplify(tree.threshold)
    np.testing.assert_array_equal(back.assignment, tree.assignment)
    np.testing.assert_array_equal(back.parent, tree.parent)
    assert (tree.simplify(1.0).diagram @ [1, -1] >= 1.0).all()


def test_other_densities():
    x, labels = blobs()
    for density in (
        "mixture",
        lambda points: -np.min(np.abs(points - x[labels == 0].mean(0)).sum(1)) - np.abs(points).sum(1),
        np.zeros(len(x)),
    ):
        tree = LevelSetTree.fit(x, density=density, persistence=0.5)
        assert tree.assignment.shape == (len(x),)
    assert len(LevelSetTree.fit(x, density="mixture", persistence=0.5).leaves) == 3


def test_saves_and_loads(tmp_path):
    x, _ = blobs()
    tree = LevelSetTree.fit(x, neighbors=6)
    tree.save(tmp_path / "tree")
    loaded = LevelSetTree.load(tmp_path / "tree")
    for name in ("parent", "height", "saddle", "persistence", "mass", "leaf", "peak", "assignment"):
        np.testing.assert_array_equal(getattr(tree, name), getattr(loaded, name))
    assert loaded.to_dict() == tree.to_dict()
    np.testing.assert_array_equal(loaded.cut(7), tree.cut(7))


def test_bad_input_is_told_or_answered_honestly():
    rng = np.random.default_rng(0)
    with pytest.raises(RepdynError, match="row 3"):
        LevelSetTree.fit(np.where(np.arange(30).reshape(10, 3) == 9, np.nan, 1.0))
    with pytest.raises(RepdynError, match="shape"):
        LevelSetTree.fit(np.zeros(10))
    with pytest.raises(RepdynError, match="shape"):
        LevelSetTree.fit(np.zeros((0, 3)))
    with pytest.raises(RepdynError, match="expected 'knn'"):
        LevelSetTree.fit(np.zeros((10, 2)), density="kde")
    with pytest.raises(RepdynError, match="one log-density per point"):
        LevelSetTree.fit(np.zeros((10, 2)), density=np.zeros(9))
    with pytest.raises(RepdynError, match="not finite at point 4"):
        LevelSetTree.fit(np.zeros((10, 2)), density=np.where(np.arange(10) == 4, np.inf, 0))
    with pytest.raises(RepdynError, match="0 or more"):
        LevelSetTree.fit(np.zeros((10, 2)), persistence=-1)
    tree = LevelSetTree.fit(rng.normal(size=(50, 2)))
    with pytest.raises(RepdynError, match="peaks"):
        tree.cut(51)
    assert len(LevelSetTree.fit(np.zeros((1, 3))).leaves) == 1  # one point
    assert len(LevelSetTree.fit(np.ones((40, 3))).leaves) == 1  # all the same
    assert len(LevelSetTree.fit(np.ones((40, 30))).leaves) == 1
    assert len(LevelSetTree.fit(rng.normal(size=(20, 300))).leaves) == 1  # fewer points than dimensions


def test_duplicates_and_constant_columns_change_no_finding():
    x, _ = blobs()
    constant = np.concatenate([x, np.full((len(x), 9), 3.0)], axis=1)
    np.testing.assert_array_equal(LevelSetTree.fit(constant).assignment, LevelSetTree.fit(x).assignment)
    twice = LevelSetTree.fit(np.concatenate([x, x]), neighbors=30)
    assert len(twice.leaves) == 3
    assert np.isfinite(LevelSetTree.fit(np.concatenate([x, np.repeat(x[:1], 50, axis=0)])).density).all()
