"""Progress with rate and remaining time: a bar on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

from repdyn.cli.context import command
from repdyn.progress import DETAIL, Listener

__all__ = ["bars", "lines", "listener"]

PLAIN_PROGRESS_SECONDS = 5.0  # interval of plain lines, so that a log does not fill with one line per step


def listener() -> Listener:
    """The listener for stderr: bars on a terminal, lines elsewhere, nothing with ``--quiet``."""
    show = bars() if sys.stderr.isatty() else lines(sys.stderr)

    def listen(description: str, done: int, total: int | None) -> None:
        if "quiet" not in command().flags:
            show(description, done, total)

    return listen


def bars(console: Any = None) -> Listener:
    """A bar with count, rate and remaining time, for the innermost loop.

    Parameters
    ----------
    console
        A :class:`rich.console.Console`; default: one on stderr.
    """
    state: dict[str, Any] = {"progress": None, "task": None, "description": None}

    def close() -> None:
        if state["progress"] is not None:
            state["progress"].stop()
            state.update(progress=None, task=None, description=None)

    def listen(description: str, done: int, total: int | None) -> None:
        loop = description.partition(DETAIL)[0]
        if state["description"] != loop:
            close()  # rich draws one live display at a time
            state["progress"] = _progress(console)
            state["progress"].start()
            state["task"] = state["progress"].add_task(description, total=total, completed=done)
            state["description"] = loop
        state["progress"].update(state["task"], completed=done, total=total, description=description)
        if total is not None and done >= total:
            close()

    return listen


def lines(stream: TextIO, clock: Callable[[], float] = time.monotonic) -> Listener:
    """A line every few seconds with description, count, rate and remaining time.

    Parameters
    ----------
    stream
        Stream to print to.
    clock
        Monotonic time in seconds.
    """
    state: dict[str, Any] = {"printed": clock(), "description": None, "began": 0.0, "from": 0}

    def listen(description: str, done: int, total: int | None) -> None:
        now, loop = clock(), description.partition(DETAIL)[0]
        if state["description"] != loop:
            state.update(description=loop, began=now, **{"from": done})
        if now - state["printed"] < PLAIN_PROGRESS_SECONDS:
            return
        state["printed"] = now
        steps, seconds = done - state["from"], now - state["began"]
        line = f"  {description}: {done}{f' of {total}' if total else ''}"
        if steps > 0 and seconds > 0:
            line += f", {_rate(steps / seconds)}"
            if total is not None:
                line += f", {_duration((total - done) * seconds / steps)} left"
        print(line, file=stream, flush=True)

    return listen


def _progress(console: Any) -> Any:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.table import Column
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text("" if not task.speed else _rate(task.speed))

    shown = Console(stderr=True) if console is None else console
    # On a narrow terminal the bar is dropped, and description and remaining time are kept.
    narrow = shown.width < 70
    words = Column(no_wrap=True, overflow="ellipsis", ratio=1 if narrow else None)
    columns: list[ProgressColumn] = [TextColumn("{task.description}", table_column=words, markup=False)]
    columns += [] if narrow else [BarColumn(bar_width=24), MofNCompleteColumn()]
    columns += [Rate(), TimeRemainingColumn(compact=True)]
    return Progress(*columns, console=shown, transient=True, expand=narrow)


def _rate(per_second: float) -> str:
    if per_second >= 10:
        return f"{per_second:.0f}/s"
    return f"{per_second:.1f}/s" if per_second >= 1 else f"{1 / per_second:.1f} s each"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
    )
