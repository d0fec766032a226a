"""Progress without printing: long loops report, a listener shows it.

A library that prints cannot be embedded. Loops in repdyn wrap their iterables in :func:`track`; nothing
happens until someone listens. The command line listens with a progress bar. In a notebook, where nobody else
listens, a loop that takes longer than a second shows a bar below its cell, which is removed at the end.
"""

from __future__ import annotations

import html
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

__all__ = ["DETAIL", "Listener", "cell_listener", "listening", "track"]

T = TypeVar("T")
Listener = Callable[[str, int, int | None], None]
"""Called with (what is being done, steps done, steps in all or None). First call has 0 done."""

DETAIL = " | "
"""Separates the name of the loop from the part of a description that changes from step to step."""

_QUIET_SECONDS = 1.0  # of a loop in a notebook, before it shows a bar
_REDRAWN_SECONDS = 0.25

_listener: ContextVar[Listener | None] = ContextVar("repdyn_progress_listener", default=None)


def track(
    iterable: Iterable[T],
    description: str,
    total: int | None = None,
    start: int = 0,
    detail: Callable[[], str] | None = None,
) -> Iterator[T]:
    """Yield the items of an iterable and report progress to the listener, if there is one.

    Parameters
    ----------
    iterable
        What is looped over.
    description
        What is being done, as a user would say it: ``"tracing MiniLM"``.
    total
        Number of steps; taken from ``len`` where it exists.
    start
        Steps already done before (a resumed run).
    detail
        Asked after every step for what to say beside the description: the loss, say.
    """
    listener = _listener.get() or cell_listener()
    if total is None and isinstance(iterable, Sized):
        total = len(iterable) + start
    if listener is None:
        yield from iterable
        return
    listener(description, start, total)
    try:
        for done, item in enumerate(iterable, start + 1):
            yield item
            listener(f"{description}{DETAIL}{detail()}" if detail else description, done, total)
    finally:
        if isinstance(listener, _Cell):  # also where the loop is left early
            listener.close()


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Context in which every :func:`track` reports to ``listener``."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def cell_listener() -> Listener | None:
    """A listener that shows a bar below the running cell of a notebook; ``None`` outside of notebooks."""
    module: Any = sys.modules.get("IPython")  # loaded wherever a notebook runs
    shell = None if module is None else module.get_ipython()
    if shell is None or not hasattr(shell, "kernel"):  # a terminal has no cells
        return None
    return _Cell(_display)


def _display(text: str) -> Any:
    """Show HTML below the cell; the handle updates it."""
    from IPython.display import HTML, display

    handle = display(HTML(text), display_id=True)

    def update(changed: str) -> None:
        handle.update(HTML(changed))

    return update


class _Cell:
    """A bar of HTML for one loop."""

    def __init__(self, show: Callable[[str], Any], clock: Callable[[], float] = time.monotonic) -> None:
        self._show, self._clock = show, clock
        self._began = self._drawn = clock()
        self._update: Any = None

    def __call__(self, description: str, done: int, total: int | None) -> None:
        now = self._clock()
        if now - self._began < _QUIET_SECONDS or now - self._drawn < _REDRAWN_SECONDS:
            return
        self._drawn = now
        size = "" if total is None else f" value='{done}' max='{max(total, 1)}'"
        rate = done / (now - self._began)
        left = "" if total is None or rate == 0 else f", {(total - done) / rate:.0f} s left"
        count = f"{done}{'' if total is None else f' of {total}'}"
        text = f"<progress{size}></progress> {html.escape(description)}: {count}{left}"
        if self._update is None:
            self._update = self._show(text)
        else:
            self._update(text)

    def close(self) -> None:
        """Remove the bar."""
        if self._update is not None:
            self._update("")
            self._update = None
