"""repdyn: how a network's representations move through depth, and how two networks' representations relate.

The public names are found here; each is imported when it is first used, so that ``import repdyn`` stays
light and loads no model or plotting library.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_ROOMS = {
    "repdyn.paths": ("RepresentationPaths", "merge_paths", "open_paths", "verify_paths"),
    "repdyn.tracing": ("TracedModel", "load", "trace", "wrap"),
    "repdyn.koopman": ("KoopmanAutoencoder", "controls"),
    "repdyn.fields": ("LatentField", "memorization"),
    "repdyn.disentangle": ("SKD", "SSMSKD"),
    "repdyn.ood": ("PathDetector", "UnionDetector", "evaluate", "load_detector"),
    "repdyn.shortening": ("shorten",),
    "repdyn.topology": ("LevelSetTree", "persistence"),
    "repdyn.translation": ("evaluate_translation", "match_trees", "stitch", "translate", "translate_path"),
    "repdyn.comparison": ("compare",),
    "repdyn.migration": ("migrate",),
    "repdyn.datasets": (),
    "repdyn.reporting": ("report",),
    "repdyn.saved": ("load_result", "push_folder"),
    "repdyn.errors": ("RepdynError",),
}
_HOME = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if f"repdyn.{name}" in _ROOMS:  # repdyn.koopman, … without an import of their own
        return import_module(f"repdyn.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'repdyn' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
