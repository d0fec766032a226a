"""How the present command is to behave: what was asked of it, and which verdicts it came to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["ask", "asked", "forget_all", "note_verdicts", "unfounded"]

_asked: set[str] = set()
_verdicts: list[str] = []


def ask(name: str) -> None:
    """Remember that ``--name`` was given."""
    _asked.add(name)


def asked(name: str) -> bool:
    """Whether ``--name`` was given."""
    return name in _asked


def note_verdicts(figures: Mapping[str, Any]) -> None:
    """Remember every verdict among a verb's figures, however deep: ``--strict`` answers for all of them."""
    for key, value in figures.items():
        if key == "verdict":
            _verdicts.extend(value.values() if isinstance(value, Mapping) else [value])
        elif isinstance(value, Mapping):
            note_verdicts(value)


def unfounded() -> list[str]:
    """The verdicts that are not ``"found"``."""
    return [verdict for verdict in _verdicts if verdict != "found"]


def forget_all() -> None:
    """Begin a new command."""
    _asked.clear()
    _verdicts.clear()
