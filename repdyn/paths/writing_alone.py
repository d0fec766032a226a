"""One trace at a time writes to a store: a lock on its folder, which ends with the process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from repdyn.errors import RepdynError
from repdyn.paths.places import Folder, place_of
from repdyn.writing import hold

__all__ = ["writing_alone"]


@contextmanager
def writing_alone(out: str | os.PathLike[str]) -> Iterator[Callable[[], None]]:
    """Within this context no other trace on this machine writes to the store.

    Two traces that begin one store at once are told apart by a lock on the folder in which it lies. Where
    there are no locks (object storage, some network drives), nothing is refused.

    Yields
    ------
    callable
        To be called once the store is there, which may have been made or replaced since.

    Raises
    ------
    RepdynError
        If another trace is writing to it.
    """
    place = place_of(out)
    if not isinstance(place, Folder):
        yield lambda: None
        return
    held: list[int] = []
    above: list[int] = []

    def take() -> None:
        if held and _is_at(held[-1], place.path):
            return
        found = hold(place.path, wait=False)
        if found is not None:
            held.append(found)
        elif place.path.is_dir() and not place.path.is_symlink() and _are_locked(place.path):
            raise RepdynError(
                f"{place}: another trace is writing to this store; wait until it ends, or choose another path"
            )

    def begun() -> None:
        take()
        _release(above)

    try:
        if place.path.parent.is_dir() and (found := hold(place.path.parent, wait=True)) is not None:
            above.append(found)
        if place.path.is_dir():
            take()
        yield begun
    finally:
        _release(above)
        _release(held)


def _are_locked(path: Path) -> bool:
    """Whether it is a lock that stands in the way, rather than a system without any."""
    try:
        import fcntl

        descriptor = os.open(path, os.O_RDONLY)
    except (ImportError, OSError):
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False


def _release(held: list[int]) -> None:
    while held:
        os.close(held.pop())
