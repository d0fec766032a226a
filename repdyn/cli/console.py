"""The edge of the program: printing, ``--json`` files, one-line errors and the exit status."""

from __future__ import annotations

import errno
import json
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from repdyn.cli.context import command, record_verdicts, start_command
from repdyn.errors import RepdynError
from repdyn.writing import whole_file

__all__ = ["CRASHED", "run", "say", "say_of_translation", "table", "write_json"]

CRASHED = 70
"""Exit status of an error that is repdyn's own: EX_SOFTWARE of sysexits.h."""


def say(text: str) -> None:
    """Print a line for the user; labels and names in it are shown as they are, never as markup.

    With ``--quiet`` nothing, and on stderr where stdout is the figures' (``--json -``).
    """
    flags = command().flags
    if "quiet" not in flags:
        print(text, flush=True, file=sys.stderr if "json on stdout" in flags else sys.stdout)


def say_of_translation(verdict: str, reason: str) -> None:
    """Print the verdict of a translation that is used, with the reason unless it was found."""
    say("translation: found" if verdict == "found" else f"careful: the translation is {verdict!r}: {reason}")


def table(header: Sequence[str], rows: Sequence[Sequence[str]], indent: str = "  ") -> None:
    """Print rows under a header, columns aligned: plain text that survives a pipe."""
    widths = [max(len(str(row[k])) for row in (header, *rows)) for k in range(len(header))]
    for row in (header, *rows):
        say(indent + "  ".join(str(cell).ljust(width) for cell, width in zip(row, widths)).rstrip())


def write_json(path: Path | None, figures: Mapping[str, Any]) -> None:
    """Keep a verb's figures: in a file or on stdout (``-``), and their verdicts for the exit status.

    Numbers that are not finite become ``null``.
    """
    record_verdicts(figures)
    if path is None:
        return
    text = json.dumps(_plain(figures), indent=2, allow_nan=False)
    if str(path) == "-":
        print(text, flush=True)
    else:
        with whole_file(path) as scratch:
            scratch.write_text(text + "\n", encoding="utf-8")


def run(program: Callable[[], Any]) -> int:
    """Run a program; its exit status.

    A user's error is one line on stderr and status 2, an interrupt is 130, an error of repdyn itself is one
    line and 70, and with ``--strict`` a verdict that is not ``"found"``, or an alarm, is 1. With ``--debug``
    the traceback is shown as well.
    """
    from repdyn.cli.progress import listener
    from repdyn.progress import listening

    start_command()
    try:
        with listening(listener()):
            return _status(program)
    finally:
        start_command()  # `say` outside of a program is not quiet


def _status(program: Callable[[], Any]) -> int:
    try:
        program()
    except SystemExit as stopped:
        if stopped.code not in (0, None):
            return stopped.code if isinstance(stopped.code, int) else 2
    except RepdynError as error:
        return _refuse(str(error))
    except BrokenPipeError:
        _leave_stdout()
        return 141  # as of a program that SIGPIPE ends: what reads stdout has read enough
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return _refuse(f"the disk is full ({error.filename or error.strerror}); free some space")
        if error.errno in (errno.EMFILE, errno.ENFILE):
            return _refuse("too many files are open in this process; raise the limit with `ulimit -n`")
        if error.filename is not None:
            return _refuse(f"{error.filename}: {error.strerror}")
        return _crash(error)
    except KeyboardInterrupt:
        print("repdyn: interrupted; run the same command again to continue", file=sys.stderr)
        return 130
    except MemoryError:
        return _refuse("the memory is full; give fewer samples, points or a smaller batch")
    except Exception as error:  # the edge of the program: whatever was not foreseen ends here
        return _crash(error)
    missed = command().failures
    if missed and "strict" in command().flags:
        print(f"repdyn: --strict: {', '.join(dict.fromkeys(missed))}", file=sys.stderr)
        return 1
    return 0


def _refuse(message: str) -> int:
    _tell(f"error: {message}")
    return 2


def _crash(error: Exception) -> int:
    _tell(
        f"internal error: {type(error).__name__}: {str(error)[:400]}; this is a fault of repdyn, run again "
        "with --debug and report the traceback"
    )
    return CRASHED


def _tell(message: str) -> None:
    if "debug" in command().flags:
        import traceback

        traceback.print_exc()
    line = " ".join(message.encode(errors="backslashreplace").decode().split())
    print(f"repdyn: {line}", file=sys.stderr)


def _leave_stdout() -> None:
    """Nothing more can be written there, and the interpreter must not try when it ends."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
