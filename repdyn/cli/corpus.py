"""Moved to :mod:`repdyn.datasets`; this name works for one release."""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    found = getattr(import_module("repdyn.datasets"), name)
    warnings.warn("repdyn.cli.corpus moved to repdyn.datasets", DeprecationWarning, stacklevel=2)
    return found
