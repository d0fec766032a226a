"""Disentangling sequences: static and dynamic parts of clips, or of paths with depth as time."""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import Any

from repdyn.deprecation import renamed
from repdyn.disentangle.dci import DCI, dci
from repdyn.disentangle.depth import DepthFactors, depth_factors, depth_swaps
from repdyn.disentangle.factors import Factors
from repdyn.disentangle.interventions import (
    Consistency,
    Exploration,
    SwapTable,
    brute_force,
    explore,
    frame_consistency,
    multifactor_table,
    published_score,
    static_dynamic_table,
    strict_score,
)
from repdyn.disentangle.judges import Judge
from repdyn.disentangle.leakage import Leakage, coordinate_information, leakage
from repdyn.disentangle.losses import LossWeights
from repdyn.disentangle.models import SKD, SSMSKD
from repdyn.disentangle.swaps import Swap, SwapGrid, swap_grid

__all__ = [
    "DCI",
    "SKD",
    "SSMSKD",
    "Consistency",
    "DepthFactors",
    "Exploration",
    "Factors",
    "Judge",
    "Leakage",
    "LossWeights",
    "Swap",
    "SwapGrid",
    "SwapTable",
    "brute_force",
    "coordinate_information",
    "dci",
    "depth_factors",
    "depth_swaps",
    "explore",
    "frame_consistency",
    "leakage",
    "multifactor_table",
    "published_score",
    "static_dynamic_table",
    "strict_score",
    "swap_grid",
]

_renamed = renamed(__name__, {"Weights": "LossWeights"})
_MOVED = {
    "LabelledClips": "LabeledClips",
    "dsprites": "dsprites",
    "moving_dsprites": "moving_dsprites",
    "sprites": "sprites",
}


def __getattr__(name: str) -> Any:
    """Data sets under their old names; they moved to :mod:`repdyn.datasets`."""
    if name not in _MOVED:
        return _renamed(name)
    warnings.warn(
        f"{__name__}.{name} moved to repdyn.datasets.{_MOVED[name]} and will be removed in the next release",
        DeprecationWarning,
        stacklevel=2,
    )
    return getattr(import_module("repdyn.datasets"), _MOVED[name])
