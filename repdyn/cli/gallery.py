"""Moved to :mod:`repdyn.reporting`; this name works for one release."""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    found = getattr(import_module("repdyn.reporting"), name)
    warnings.warn("repdyn.cli.gallery moved to repdyn.reporting", DeprecationWarning, stacklevel=2)
    return found
