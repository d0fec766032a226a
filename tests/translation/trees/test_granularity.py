import numpy as np

from repdyn.topology import LevelSetTree
from repdyn.translation.trees.leaves import branches_of, granularities


def blobs() -> LevelSetTree:
    """Three pairs of clusters on a line, a pair far from the next."""
    generator = np.random.default_rng(0)
    places = np.array([0, 4, 20, 24, 40, 44])
    centres = np.repeat(np.stack([places, 0 * places], axis=1), 60, axis=0)
    return LevelSetTree.fit(centres + generator.normal(size=(360, 2)), persistence=0.5)


def test_both_trees_lose_their_least_persistent_leaves() -> None:
    tree = blobs()
    cuts = granularities(tree, tree.prune(4), most=30, fewest=3)
    assert (len(cuts[0][0].leaves), len(cuts[0][1].leaves)) == (len(tree.leaves), 4)
    sizes = [len(a.leaves) for a, _ in cuts]
    assert sizes == sorted(sizes, reverse=True)
    assert min(sizes) >= 3
    assert cuts[0][0] is tree
    assert len(granularities(tree, tree, most=4, fewest=3)[0][0].leaves) == 4
    assert len(granularities(tree, tree, most=30, fewest=99)) == 1


def test_the_leaves_of_a_coarser_cut_are_branches_of_the_tree() -> None:
    tree = blobs()
    coarse = tree.prune(3)
    nodes = branches_of(tree, coarse)
    assert len(np.unique(nodes)) == 3
    mass = np.bincount(coarse.assignment) / len(coarse.assignment)
    assert np.allclose(tree.mass[nodes], mass, atol=0.05)
    assert np.array_equal(branches_of(tree, tree), tree.leaves)
    assert branches_of(tree, tree.prune(1)).tolist() == [len(tree.parent) - 1]
