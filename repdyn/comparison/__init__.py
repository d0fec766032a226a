"""Comparison of two models, two checkpoints or two depths: how alike their representations are.

:func:`compare` measures centered kernel alignment, mutual neighbors, the Procrustes distance and the distance
of density trees, each beside its value by chance (:mod:`repdyn.comparison.similarity`).
"""

from repdyn.comparison.compare import Comparison, Depths, Measure, compare
from repdyn.comparison.similarity import (
    mutual_neighbors,
    neighbor_table,
    procrustes_distance,
    unbiased_gram,
)

__all__ = [
    "Comparison",
    "Depths",
    "Measure",
    "compare",
    "mutual_neighbors",
    "neighbor_table",
    "procrustes_distance",
    "unbiased_gram",
]
