"""Matching of two models' density trees, with a test against null models."""

from repdyn.translation.trees.matching import TreeMatch, match_trees

__all__ = ["TreeMatch", "match_trees"]
