"""Moved to :mod:`repdyn.reporting`; this name works for one release."""

from __future__ import annotations

from repdyn.deprecation import moved

__getattr__ = moved(__name__, "repdyn.reporting")
