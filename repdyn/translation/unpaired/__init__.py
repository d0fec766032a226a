"""The unpaired search for a translation, its refinement, its rivals and its verdict."""

from repdyn.translation.unpaired.translate import translate, translate_path

__all__ = ["translate", "translate_path"]
