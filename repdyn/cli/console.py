"""The edge of the program: printing, ``--json`` files, one-line errors and the exit status."""

from __future__ import annotations

import errno
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from repdyn.cli.manners import asked, forget_all, note_verdicts, unfounded
from repdyn.errors import RepdynError

__all__ = ["run", "say", "table", "write_json"]


def say(text: str) -> None:
    """Print a line for the user; labels and names in it are shown as they are, never as markup.

    With ``--quiet`` nothing, and on stderr where stdout is the figures' (``--json -``).
    """
    if not asked("quiet"):
        print(text, flush=True, file=sys.stderr if asked("json on stdout") else sys.stdout)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], indent: str = "  ") -> None:
    """Print rows under a header, columns aligned: plain text that survives a pipe."""
    widths = [max(len(str(row[k])) for row in (header, *rows)) for k in range(len(header))]
    for row in (header, *rows):
        say(indent + "  ".join(str(cell).ljust(width) for cell, width in zip(row, widths)).rstrip())


def write_json(path: Path | None, figures: Mapping[str, Any]) -> None:
    """Keep a verb's figures: in a file or on stdout (``-``), and their verdicts for the exit status.

    Numbers that are not finite become ``null``.
    """
    note_verdicts(figures)
    if path is None:
        return
    text = json.dumps(_plain(figures), indent=2, allow_nan=False)
    if str(path) == "-":
        print(text, flush=True)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


def run(program: Callable[[], Any]) -> int:
    """Run a program; its exit status.

    A user's error is one line on stderr and status 2, an interrupt is 130, and a verdict that is not
    ``"found"`` is 1 with ``--strict``. With ``--debug`` the traceback is shown as well.
    """
    from repdyn.cli.progressing import listener
    from repdyn.progress import listening

    forget_all()
    try:
        with listening(listener()):
            return _status(program)
    finally:
        forget_all()  # `say` outside of a program is not quiet


def _status(program: Callable[[], Any]) -> int:
    try:
        program()
    except SystemExit as stopped:
        if stopped.code not in (0, None):
            return stopped.code if isinstance(stopped.code, int) else 2
    except RepdynError as error:
        return _refuse(str(error))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return _refuse(f"the disk is full ({error.filename or error.strerror}); free some space")
        if error.filename is not None:
            return _refuse(f"{error.filename}: {error.strerror}")
        raise
    except KeyboardInterrupt:
        print("repdyn: interrupted; run the same command again to continue", file=sys.stderr)
        return 130
    missed = unfounded()
    if missed and asked("strict"):
        print(f"repdyn: --strict: {', '.join(dict.fromkeys(missed))}", file=sys.stderr)
        return 1
    return 0


def _refuse(message: str) -> int:
    if asked("debug"):
        import traceback

        traceback.print_exc()
    print(f"repdyn: error: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _plain(value: Any) -> Any:
    import numpy as np  # here: `repdyn --help` has no use for it

    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, complex):
        return {"re": _plain(value.real), "im": _plain(value.imag)}
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int | bool):
        return value
    if hasattr(value, "to_dict"):
        return _plain(value.to_dict())
    return str(value)
