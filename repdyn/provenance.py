"""How a saved result was made: the command, its seed and the version, without folders of this machine."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

from repdyn.writing import whole_file

__all__ = ["SIGNATURE", "made_by", "present_command", "sign", "without_folders"]

SIGNATURE = "command.json"
# A path from the root, where a word begins, after "=" or ":" (NAME=/a/b, images:/a/b), or after "file://".
_ABSOLUTE = re.compile(r"(?:(?<=^)|(?<=[\s=:@'\"(,])|(?<=file://))(?:[A-Za-z]:[\\/]|/(?!/))[^\s#,:'\"()]+")

_PASSWORDS = re.compile(
    r"(?<=://)([^\s/@:?#]*):[^\s@]*(?=@)|((?:pass(?:word|wd)?|sslpassword)=)[^\s&#]*", re.IGNORECASE
)


def without_folders(text: str) -> str:
    """A command or a source for publication: absolute paths lose the folders of this machine.

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
    """The present command without folders of this machine, and without the passwords of URLs."""
    words = [_PASSWORDS.sub(r"\1\2", word) for word in sys.argv[1:]]
    return shlex.join(["repdyn", *map(without_folders, words)])


def sign(folder: Path, seed: int | None) -> None:
    """Write beside a result how it was made: command, seed, version. Stores of paths record it themselves."""
    from repdyn import __version__

    if folder.is_dir() and not (folder / "zarr.json").exists():
        made = {"command": present_command(), "seed": seed, "repdyn": __version__}
        with whole_file(folder / SIGNATURE) as scratch:
            scratch.write_text(json.dumps(made) + "\n", encoding="utf-8")


def made_by(folder: Path) -> dict[str, Any]:
    """The record that :func:`sign` wrote in a folder or its parent; empty if there is none."""
    for place in (folder, folder.absolute().parent):
        try:
            found = json.loads((place / SIGNATURE).read_text())
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(found, dict):
            return {key: found[key] for key in ("command", "seed", "repdyn") if found.get(key) is not None}
    return {}
