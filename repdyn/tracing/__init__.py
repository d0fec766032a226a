"""Tracing: from any model and any inputs to representation paths.

Holds what a traced model is (:class:`TracedModel`), how it is found (:func:`load`, :func:`wrap`), how its
representations are pooled (:mod:`repdyn.tracing.pooling`) and the loop that reads them (:func:`trace`).
"""

from __future__ import annotations

from repdyn.tracing.hooks import Point
from repdyn.tracing.model import TracedModel
from repdyn.tracing.pooling import Tokens
from repdyn.tracing.reader import Reader, Reading
from repdyn.tracing.registry import Adapter, load, wrap
from repdyn.tracing.trace import trace

__all__ = ["Adapter", "Point", "Reader", "Reading", "Tokens", "TracedModel", "load", "trace", "wrap"]
