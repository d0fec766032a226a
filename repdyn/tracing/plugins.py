"""Installed adapters, by the entry-point group ``repdyn.adapters``."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any

from repdyn.errors import RepdynError

__all__ = ["GROUP", "adapters", "interventions"]

GROUP = "repdyn.adapters"


def adapters() -> dict[str, EntryPoint]:
    """Entry points of the installed adapters by scheme.

    Raises
    ------
    RepdynError
        If none is installed.
    """
    known = {entry.name: entry for entry in entry_points(group=GROUP)}
    if not known:
        raise RepdynError("no adapters are installed; reinstall repdyn, which includes some")
    return known


def interventions() -> Any:
    """The module with ``run_from`` and ``patched``, which the adapter of plain modules provides."""
    return adapters()["module"].load()().interventions()
