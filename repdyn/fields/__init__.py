"""Latent vector fields: a self-map of a latent space (encode after decode) and the attractors of its
iteration.

Which attractor a start reaches is decided by plain iteration; acceleration only polishes. A point that only
moves slowly is never called an attractor.
"""

from repdyn.fields.alignment import AttractorHistory, AttractorTracker, FieldAlignment, align_fields
from repdyn.fields.attractors import Attractors, assign_basins
from repdyn.fields.classification import STATUSES, lyapunov_exponents
from repdyn.fields.energy import EnergyField, EnergyWarning
from repdyn.fields.field import LatentField, find_attractors
from repdyn.fields.mean_shift import ScaleSpace
from repdyn.fields.modes import mode_tree
from repdyn.fields.recovery import Memorization, Probing, memorization, probe_without_data
from repdyn.fields.settings import SearchSettings, SurrogateSettings
from repdyn.fields.surrogate import SurrogateAutoencoder, SurrogateWarning
from repdyn.fields.verification import leading_multipliers

__all__ = [
    "STATUSES",
    "AttractorHistory",
    "AttractorTracker",
    "Attractors",
    "EnergyField",
    "EnergyWarning",
    "FieldAlignment",
    "LatentField",
    "Memorization",
    "Probing",
    "ScaleSpace",
    "SearchSettings",
    "SurrogateAutoencoder",
    "SurrogateSettings",
    "SurrogateWarning",
    "align_fields",
    "assign_basins",
    "find_attractors",
    "leading_multipliers",
    "lyapunov_exponents",
    "memorization",
    "mode_tree",
    "probe_without_data",
]
