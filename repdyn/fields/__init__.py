"""Latent vector fields: where a self-map of a latent space (encode after decode) takes its points.

Iteration explores, and which attractor a start reaches is the finding; acceleration only polishes. A point
that only moves slowly is never called an attractor.
"""

from repdyn.fields.alignment import FieldAlignment, align_fields
from repdyn.fields.assignment import assign_basins
from repdyn.fields.attractors import Attractors
from repdyn.fields.field import LatentField
from repdyn.fields.memorization import Memorization, memorization
from repdyn.fields.multipliers import leading_multipliers
from repdyn.fields.probing import Probing, probe_without_data
from repdyn.fields.search import find_attractors
from repdyn.fields.status import STATUSES, lyapunov_exponents
from repdyn.fields.surrogate import SurrogateAutoencoder, SurrogateWarning
from repdyn.fields.tracking import AttractorHistory, AttractorTracker

__all__ = [
    "STATUSES",
    "AttractorHistory",
    "AttractorTracker",
    "Attractors",
    "FieldAlignment",
    "LatentField",
    "Memorization",
    "Probing",
    "SurrogateAutoencoder",
    "SurrogateWarning",
    "align_fields",
    "assign_basins",
    "find_attractors",
    "leading_multipliers",
    "lyapunov_exponents",
    "memorization",
    "probe_without_data",
]
