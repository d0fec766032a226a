"""Disentangling sequences: what stays and what changes, in clips or along a network's depth."""

from __future__ import annotations

from repdyn.disentangle.depth import DepthFactors, depth_factors
from repdyn.disentangle.depth_swaps import depth_swaps
from repdyn.disentangle.exploration import Exploration, brute_force, explore
from repdyn.disentangle.factors import Factors
from repdyn.disentangle.grid import SwapGrid, swap_grid
from repdyn.disentangle.judges import Judge
from repdyn.disentangle.leakage import Leakage, coordinate_information, leakage
from repdyn.disentangle.losses import Weights
from repdyn.disentangle.metrics import (
    SwapTable,
    frame_consistency,
    multifactor_table,
    published_score,
    static_dynamic_table,
    strict_score,
)
from repdyn.disentangle.models import SKD, SSMSKD
from repdyn.disentangle.sprites import LabelledClips, dsprites, moving_dsprites, sprites
from repdyn.disentangle.swaps import Swap

__all__ = [
    "SKD",
    "SSMSKD",
    "DepthFactors",
    "Exploration",
    "Factors",
    "Judge",
    "LabelledClips",
    "Leakage",
    "Swap",
    "SwapGrid",
    "SwapTable",
    "Weights",
    "brute_force",
    "coordinate_information",
    "depth_factors",
    "depth_swaps",
    "dsprites",
    "explore",
    "frame_consistency",
    "leakage",
    "moving_dsprites",
    "multifactor_table",
    "published_score",
    "sprites",
    "static_dynamic_table",
    "strict_score",
    "swap_grid",
]
