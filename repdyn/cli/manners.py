"""How the present command is to behave, which verdicts it came to, and its signature under what it wrote."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["ask", "asked", "forget_all", "made_by", "note_verdicts", "sign", "unfounded"]

_SIGNATURE = "command.json"

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


def sign(folder: Path, seed: int | None) -> None:
    """Write beside a result how it was made: command, seed, version. Stores of paths know it themselves."""
    from repdyn import __version__

    if folder.is_dir() and not (folder / "zarr.json").exists():
        made = {"command": shlex.join(["repdyn", *sys.argv[1:]]), "seed": seed, "repdyn": __version__}
        (folder / _SIGNATURE).write_text(json.dumps(made) + "\n")


def made_by(folder: Path) -> dict[str, Any]:
    """What :func:`sign` wrote in a folder, or in the one that it is a part of; empty where nothing is."""
    for place in (folder, folder.absolute().parent):
        try:
            found = json.loads((place / _SIGNATURE).read_text())
        except (OSError, ValueError):
            continue
        if isinstance(found, dict):
            return {key: found[key] for key in ("command", "seed", "repdyn") if found.get(key) is not None}
    return {}


def forget_all() -> None:
    """Begin a new command."""
    _asked.clear()
    _verdicts.clear()
