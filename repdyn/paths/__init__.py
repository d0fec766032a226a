"""Representation paths: the representations of every sample at every depth of a model.

:class:`RepresentationPaths` has one interface for data in memory and on disk. Tracing writes
stores with :class:`PathsWriter`; :func:`open_paths` opens them.
"""

from __future__ import annotations

from repdyn.paths.arrays import check_finite
from repdyn.paths.conversion import PathsLike, as_paths, nearby
from repdyn.paths.exporting import export_paths
from repdyn.paths.importing import file_of_vectors, import_paths
from repdyn.paths.inspection import Damage, StoreInfo, Verification, inspect_paths, verify_paths
from repdyn.paths.merging import merge_paths
from repdyn.paths.paths import RepresentationPaths, equal_samples
from repdyn.paths.sampling import Batch, Block, Blocks, drawn_rows
from repdyn.paths.store import open_paths
from repdyn.paths.writer import PathsWriter

__all__ = [
    "Batch",
    "Block",
    "Blocks",
    "Damage",
    "PathsLike",
    "PathsWriter",
    "RepresentationPaths",
    "StoreInfo",
    "Verification",
    "as_paths",
    "check_finite",
    "drawn_rows",
    "equal_samples",
    "export_paths",
    "file_of_vectors",
    "import_paths",
    "inspect_paths",
    "merge_paths",
    "nearby",
    "open_paths",
    "verify_paths",
]
