"""The shape of a representation: its density, its level-set tree, its persistent homology."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from repdyn.topology.attributes import NodeAttributes, node_attributes
from repdyn.topology.density import intrinsic_dimension, knn_density, mixture_density
from repdyn.topology.distance import merge_tree_distance, merge_tree_edit_distance
from repdyn.topology.flow import FlowAutoencoder
from repdyn.topology.homology import (
    alpha_persistence,
    cubical_persistence,
    farthest_points,
    sparse_persistence,
)
from repdyn.topology.neighbors import nearest_neighbors
from repdyn.topology.persistence import PathPersistence, Persistence, persistence
from repdyn.topology.tree import LevelSetTree, leaf_support

if TYPE_CHECKING:
    from repdyn.topology.clustering import LevelSetClustering

__all__ = [
    "FlowAutoencoder",
    "LevelSetClustering",
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


def __getattr__(name: str) -> Any:
    if name == "LevelSetClustering":
        from repdyn.topology.clustering import LevelSetClustering  # scikit-learn takes a second to import

        return LevelSetClustering
    raise AttributeError(f"module 'repdyn.topology' has no attribute {name!r}")
