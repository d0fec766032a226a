"""Old place of the planted sets, which moved to :mod:`repdyn.datasets`; removed in the next release."""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    if name not in ("PLANTED", "PlantedSet"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(f"{__name__}.{name} moved to repdyn.datasets.{name}", DeprecationWarning, stacklevel=2)
    return getattr(import_module("repdyn.datasets"), name)
