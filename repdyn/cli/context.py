"""The state of the running command: its common flags and the verdicts that it has recorded."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repdyn.errors import RepdynError

__all__ = ["Command", "command", "record_verdicts", "refuse_existing", "start_command"]


@dataclass
class Command:
    """The command that is running.

    Attributes
    ----------
    flags
        Names of the flags that were given: ``"quiet"``, ``"strict"``, ``"debug"``, ``"json on stdout"``.
    verdicts
        All verdicts in the figures of the verb.
    alarms
        Findings that count as failures with ``--strict``, such as drift.
    """

    flags: set[str] = field(default_factory=set)
    verdicts: list[str] = field(default_factory=list)
    alarms: list[str] = field(default_factory=list)

    @property
    def failures(self) -> list[str]:
        """Verdicts that are not ``"found"``, and alarms; with ``--strict`` any gives exit status 1."""
        return [verdict for verdict in self.verdicts if verdict != "found"] + self.alarms


# A context variable, so that programs in several threads of one process have their own flags and verdicts.
_present: ContextVar[Command] = ContextVar("command")


def start_command() -> Command:
    """Begin a new command with no flags and no verdicts."""
    started = Command()
    _present.set(started)
    return started


def command() -> Command:
    """The running command; outside of a program, a new one."""
    running = _present.get(None)
    return start_command() if running is None else running


def record_verdicts(figures: Mapping[str, Any]) -> None:
    """Record every verdict among a verb's figures, at any depth, for ``--strict``."""
    for key, value in figures.items():
        if key == "verdict":
            command().verdicts.extend(value.values() if isinstance(value, Mapping) else [value])
        elif isinstance(value, Mapping):
            record_verdicts(value)


def refuse_existing(out: Path | None, force: bool) -> None:
    """Raise if ``--out`` exists and ``--force`` was not given, before any work is done."""
    if out is not None and not force and out.exists():
        raise RepdynError(f"--out {out}: exists; give another path, or --force to replace it")
    if out is not None and out.is_dir():
        from repdyn.artifacts import check_owned  # NumPy, which no help text needs

        check_owned(out)  # before a fit that could not be saved
