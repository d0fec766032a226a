"""Progress without printing: long loops report, a listener shows it.

A library that prints cannot be embedded. Loops in repdyn wrap their iterables in :func:`track`; nothing
happens until someone listens. The command line listens with a progress bar.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

__all__ = ["DETAIL", "Listener", "listening", "track"]

T = TypeVar("T")
Listener = Callable[[str, int, int | None], None]
"""Called with (what is being done, steps done, steps in all or None). First call has 0 done."""

DETAIL = " | "
"""Separates the name of the loop from the part of a description that changes from step to step."""

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
    listener = _listener.get()
    if total is None and isinstance(iterable, Sized):
        total = len(iterable) + start
    if listener is None:
        yield from iterable
        return
    listener(description, start, total)
    for done, item in enumerate(iterable, start + 1):
        yield item
        listener(f"{description}{DETAIL}{detail()}" if detail else description, done, total)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Context in which every :func:`track` reports to ``listener``."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
