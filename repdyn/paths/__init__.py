"""Representation paths: how every sample's representation moves through the depth of a model.

One data structure, :class:`RepresentationPaths`, in memory or on disk, with one interface.
"""

from __future__ import annotations

from repdyn.paths.checks import check_finite
from repdyn.paths.paths import RepresentationPaths
from repdyn.paths.sampling import Batch

__all__ = ["Batch", "RepresentationPaths", "check_finite"]
