"""How the present command is to behave, which verdicts it came to, and its signature under what it wrote."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from repdyn.errors import RepdynError
from repdyn.writing import whole_file

__all__ = [
    "ask",
    "asked",
    "forget_all",
    "made_by",
    "note_alarm",
    "note_verdicts",
    "present_command",
    "refuse_existing",
    "sign",
    "unfounded",
    "without_folders",
]

_SIGNATURE = "command.json"

_asked: set[str] = set()
_verdicts: list[str] = []
_alarms: list[str] = []
# A path from the root, where a word begins, after "=" or ":" (NAME=/a/b, images:/a/b), or after "file://".
_ABSOLUTE = re.compile(r"(?:(?<=^)|(?<=[\s=:@'\"(,])|(?<=file://))(?:[A-Za-z]:[\\/]|/(?!/))[^\s#,:'\"()]+")


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


def note_alarm(what: str) -> None:
    """Remember that something was found that nobody hopes for, such as drift."""
    _alarms.append(what)


def unfounded() -> list[str]:
    """The verdicts that are not ``"found"``, and the alarms."""
    return [verdict for verdict in _verdicts if verdict != "found"] + _alarms


def refuse_existing(out: Path | None, force: bool) -> None:
    """Refuse, before any work, to replace what is at ``--out`` unless ``--force`` was given."""
    if out is not None and not force and out.exists():
        raise RepdynError(f"--out {out}: exists; give another path, or --force to replace it")


def without_folders(text: str) -> str:
    """A command or a source as it may be passed on: of each path from the root, what is not of this machine.

    A path below the present folder becomes relative to it, any other is cut down to its last part.
    """

    def shortened(found: re.Match[str]) -> str:
        path = found[0].replace("\\", "/")
        here = str(Path.cwd())
        if here != "/" and path.startswith(here + "/"):
            return path.removeprefix(here + "/")
        return path.rstrip("/").rpartition("/")[2]

    return _ABSOLUTE.sub(shortened, text)


def present_command() -> str:
    """The present command, as it may be passed on."""
    return shlex.join(["repdyn", *map(without_folders, sys.argv[1:])])


def sign(folder: Path, seed: int | None) -> None:
    """Write beside a result how it was made: command, seed, version. Stores of paths know it themselves."""
    from repdyn import __version__

    if folder.is_dir() and not (folder / "zarr.json").exists():
        made = {"command": present_command(), "seed": seed, "repdyn": __version__}
        with whole_file(folder / _SIGNATURE) as scratch:
            scratch.write_text(json.dumps(made) + "\n", encoding="utf-8")


def made_by(folder: Path) -> dict[str, Any]:
    """What :func:`sign` wrote in a folder, or in the one that it is a part of; empty where nothing is."""
    for place in (folder, folder.absolute().parent):
        try:
            found = json.loads((place / _SIGNATURE).read_text())
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(found, dict):
            return {key: found[key] for key in ("command", "seed", "repdyn") if found.get(key) is not None}
    return {}


def forget_all() -> None:
    """Begin a new command."""
    _asked.clear()
    _verdicts.clear()
    _alarms.clear()
