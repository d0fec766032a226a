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
"""Exit status of an internal error: EX_SOFTWARE of sysexits.h."""


def say(text: str) -> None:
    """Print a line of plain text; labels and names in it are never parsed as markup.

    Nothing is printed with ``--quiet``. With ``--json -`` the line goes to stderr, because stdout holds the
    figures.
    """
    flags = command().flags
    if "quiet" not in flags:
        print(text, flush=True, file=sys.stderr if "json on stdout" in flags else sys.stdout)


def say_of_translation(verdict: str, reason: str) -> None:
    """Print the verdict of a translation, with the reason if the verdict is not ``"found"``."""
    say("translation: found" if verdict == "found" else f"warning: the translation is {verdict!r}: {reason}")


def table(header: Sequence[str], rows: Sequence[Sequence[str]], indent: str = "  ") -> None:
    """Print rows under a header with aligned columns, as plain text that can be piped."""
    widths = [max(len(str(row[k])) for row in (header, *rows)) for k in range(len(header))]
    for row in (header, *rows):
        say(indent + "  ".join(str(cell).ljust(width) for cell, width in zip(row, widths)).rstrip())


def write_json(path: Path | None, figures: Mapping[str, Any]) -> None:
    """Write the figures of a verb to a file or stdout (``-``); record their verdicts for the exit status.

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
    """Run a program and return its exit status.

    An error of the user prints one line on stderr and gives status 2. An internal error prints one line and
    gives 70. An interrupt gives 130. With ``--strict``, a verdict that is not ``"found"``, or an alarm, gives
    1. With ``--debug``, the traceback is printed as well.
    """
    from repdyn.cli.progress import listener
    from repdyn.progress import listening

    start_command()
    try:
        with listening(listener()):
            return _status(program)
    finally:
        start_command()  # resets --quiet, so that a later `say` outside of a program prints


def _status(program: Callable[[], Any]) -> int:
    """Run a program and map every exception to an exit status."""
    try:
        program()
    except SystemExit as stopped:
        if stopped.code not in (0, None):
            return stopped.code if isinstance(stopped.code, int) else 2
    except RepdynError as error:
        return _refuse(str(error))
    except BrokenPipeError:
        _leave_stdout()
        return 141  # the status of a program that SIGPIPE ends: the reader of stdout has closed the pipe
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
        return _refuse("out of memory; use fewer samples, fewer points or a smaller batch")
    except Exception as error:  # last handler of the program: everything else is an internal error
        return _crash(error)
    missed = command().failures
    if missed and "strict" in command().flags:
        print(f"repdyn: --strict: {', '.join(dict.fromkeys(missed))}", file=sys.stderr)
        return 1
    return 0


def _refuse(message: str) -> int:
    """Print an error of the user; return exit status 2."""
    _print_error(f"error: {message}")
    return 2


def _crash(error: Exception) -> int:
    """Print an internal error; return exit status 70."""
    _print_error(
        f"internal error: {type(error).__name__}: {str(error)[:400]}; this is a fault of repdyn, run again "
        "with --debug and report the traceback"
    )
    return CRASHED


def _print_error(message: str) -> None:
    """Print a message as one line on stderr, after the traceback if ``--debug`` is given."""
    if "debug" in command().flags:
        import traceback

        traceback.print_exc()
    line = " ".join(message.encode(errors="backslashreplace").decode().split())
    print(f"repdyn: {line}", file=sys.stderr)


def _leave_stdout() -> None:
    """Redirect stdout to the null device, so that the interpreter's flush at exit does not fail."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _plain(value: Any) -> Any:
    """Convert a value to JSON types; not-finite floats become None, complex numbers ``{"re", "im"}``."""
    import numpy as np  # imported here, because `repdyn --help` does not need it

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
