"""The edge of the program: printing, progress, ``--json`` files and one-line errors."""

from __future__ import annotations

import errno
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from repdyn.errors import RepdynError
from repdyn.progress import Listener, listening

__all__ = ["run", "say", "table", "write_json"]

PLAIN_PROGRESS_SECONDS = 5.0  # without a terminal: a line now and then, not one a step


def say(text: str) -> None:
    """Print a line for the user; labels and names in it are shown as they are, never as markup."""
    print(text, flush=True)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], indent: str = "  ") -> None:
    """Print rows under a header, columns aligned: plain text that survives a pipe."""
    widths = [max(len(str(row[k])) for row in (header, *rows)) for k in range(len(header))]
    for row in (header, *rows):
        say(indent + "  ".join(str(cell).ljust(width) for cell, width in zip(row, widths)).rstrip())


def write_json(path: Path | None, figures: Mapping[str, Any]) -> None:
    """Write a verb's figures, machine-readable; numbers that are not finite become ``null``."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(_plain(figures), indent=2, allow_nan=False) + "\n")


def run(program: Callable[[], Any]) -> int:
    """Run a program; a user's error is one line on stderr and status 2, an interrupt is 130.

    With ``--debug`` anywhere on the command line the traceback is shown as well.
    """
    debug = "--debug" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    try:
        with listening(_listener()):
            program()
    except RepdynError as error:
        return _refuse(str(error), debug)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return _refuse(f"the disk is full ({error.filename or error.strerror}); free some space", debug)
        if error.filename is not None:
            return _refuse(f"{error.filename}: {error.strerror}", debug)
        raise
    except KeyboardInterrupt:
        print("repdyn: interrupted; run the same command again to continue", file=sys.stderr)
        return 130
    return 0


def _refuse(message: str, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exc()
    print(f"repdyn: error: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _listener() -> Listener:
    return _bars() if sys.stderr.isatty() else _lines()


def _bars() -> Listener:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    state: dict[str, Any] = {"progress": None, "task": None, "description": None}

    def close() -> None:
        if state["progress"] is not None:
            state["progress"].stop()
            state.update(progress=None, task=None, description=None)

    def listen(description: str, done: int, total: int | None) -> None:
        if state["description"] != description:
            close()
            state["progress"] = Progress(*columns, console=Console(stderr=True), transient=True)
            state["progress"].start()
            state["task"] = state["progress"].add_task(description, total=total)
            state["description"] = description
        state["progress"].update(state["task"], completed=done, total=total)
        if total is not None and done >= total:
            close()

    return listen


def _lines() -> Listener:
    last = {"time": time.monotonic()}

    def listen(description: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if now - last["time"] >= PLAIN_PROGRESS_SECONDS:
            last["time"] = now
            print(f"  {description}: {done}{f' of {total}' if total else ''}", file=sys.stderr, flush=True)

    return listen


def _plain(value: Any) -> Any:
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
