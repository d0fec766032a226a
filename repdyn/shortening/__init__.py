"""Shortening: a run of a network's blocks is replaced by a fitted map of single tokens."""

from __future__ import annotations

from repdyn.shortening.blocks import PointwiseMap
from repdyn.shortening.shorten import ShortenedModel, Shortening, shorten

__all__ = ["PointwiseMap", "ShortenedModel", "Shortening", "shorten"]
