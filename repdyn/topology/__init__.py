"""The shape of a representation: its density, the tree of its level sets, its persistent homology."""

from repdyn.topology.attributes import NodeAttributes, node_attributes
from repdyn.topology.complexes import (
    alpha_persistence,
    cubical_persistence,
    sparse_persistence,
)
from repdyn.topology.density import intrinsic_dimension, knn_density, mixture_density
from repdyn.topology.diagrams import PathPersistence, Persistence
from repdyn.topology.distance import merge_tree_distance, merge_tree_edit_distance
from repdyn.topology.flow import FlowAutoencoder
from repdyn.topology.landmarks import farthest_points
from repdyn.topology.neighbors import nearest_neighbors
from repdyn.topology.persistence import persistence
from repdyn.topology.stability import leaf_support
from repdyn.topology.tree import LevelSetTree

__all__ = [
    "FlowAutoencoder",
    "LevelSetTree",
    "NodeAttributes",
    "PathPersistence",
    "Persistence",
    "alpha_persistence",
    "cubical_persistence",
    "farthest_points",
    "intrinsic_dimension",
    "knn_density",
    "leaf_support",
    "merge_tree_distance",
    "merge_tree_edit_distance",
    "mixture_density",
    "nearest_neighbors",
    "node_attributes",
    "persistence",
    "sparse_persistence",
]
