"""Everything public that takes a model, a tensor or a field, as cases that can run on any device.

One module per room of :mod:`repdyn`; importing it registers its cases in ``CASES``.
"""

from tests.device_cases import disentangle, fields, koopman, models, ood, saving, topology
from tests.device_cases.arrays import ARRAYS
from tests.device_cases.shared import CASES, fitted_koopman, network, normal

__all__ = [
    "ARRAYS",
    "CASES",
    "disentangle",
    "fields",
    "fitted_koopman",
    "koopman",
    "models",
    "network",
    "normal",
    "ood",
    "saving",
    "topology",
]
