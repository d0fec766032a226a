"""The shape of a representation: its density, the tree of its level sets, its persistent homology."""

from repdyn.topology.density import intrinsic_dimension, knn_density, mixture_density
from repdyn.topology.neighbors import nearest_neighbors
from repdyn.topology.tree import LevelSetTree

__all__ = [
    "LevelSetTree",
    "intrinsic_dimension",
    "knn_density",
    "mixture_density",
    "nearest_neighbors",
]
