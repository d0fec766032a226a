"""Tracing: representation paths of any model and any inputs.

:func:`load` and :func:`wrap` make a :class:`TracedModel`, :mod:`repdyn.tracing.pooling` pools its
representations, :class:`Reader` reads batches, and :func:`trace` reads all samples to representation paths.
"""

from __future__ import annotations

from repdyn.tracing.hooks import Point
from repdyn.tracing.model import TracedModel
from repdyn.tracing.pooling import Tokens
from repdyn.tracing.reader import Reader, Reading
from repdyn.tracing.registry import Adapter, load, wrap
from repdyn.tracing.trace import trace

__all__ = ["Adapter", "Point", "Reader", "Reading", "Tokens", "TracedModel", "load", "trace", "wrap"]
