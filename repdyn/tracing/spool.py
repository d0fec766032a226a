"""Samples of an iterable whose length is unknown: in a list, or in a temporary file where they are many.

A store needs the number of samples before the first one is traced, so an iterable is read to its end. Texts
and token ids of more than 64 MiB lie in a file in the folder for temporary files (``TMPDIR``), which
disappears with the process.
"""

from __future__ import annotations

import os
import weakref
from array import array
from collections.abc import Callable, Iterable, Sequence
from tempfile import TemporaryFile
from typing import Any

from repdyn.errors import RepdynError

__all__ = ["Spool", "gathered"]

IN_MEMORY = 2**26
"""Bytes of texts or token ids that are kept in a list."""
_PIECE = 2**20  # bytes that are written at once


class Spool(Sequence[Any]):
    """Texts, or lists of token ids, in a temporary file.

    Parameters
    ----------
    texts
        Whether the items are texts.
    """

    def __init__(self, texts: bool) -> None:
        self._texts = texts
        self._file = TemporaryFile(buffering=_PIECE)  # noqa: SIM115 - open as long as the samples are used
        weakref.finalize(self, self._file.close)
        self._ends = array("q", [0])

    def append(self, item: Any) -> None:
        """Add a text, or a list of token ids."""
        data = item.encode("utf-8", "surrogatepass") if self._texts else array("q", item).tobytes()
        self._file.write(data)
        self._ends.append(self._ends[-1] + len(data))

    def finish(self) -> None:
        """Write what is buffered; nothing can be read before."""
        self._file.flush()

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        start, stop = self._ends[number], self._ends[number + 1]
        # Not seek and read: threads and forked processes share the position in the file.
        data = os.pread(self._file.fileno(), stop - start, start)
        return data.decode("utf-8", "surrogatepass") if self._texts else array("q", data).tolist()

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return list, (list(self),)  # another process may run on another machine


def gathered(items: Iterable[Any]) -> list[Any] | Spool:
    """All items of an iterable, in memory that does not grow with their number if they are texts.

    Parameters
    ----------
    items
        Texts, lists of token ids, or anything else, which stays in memory.

    Raises
    ------
    RepdynError
        If the temporary file cannot be written, or an item is no text and those before it were.
    """
    held: list[Any] = []
    spool: Spool | None = None
    size, alike = 0, True
    for item in items:
        if spool is None:
            held.append(item)
            alike = alike and type(item) is type(held[0]) and _can_be_spooled(item)
            size += len(item) * (1 if isinstance(item, str) else 8) if alike else 0
            if alike and size > IN_MEMORY:
                spool = Spool(isinstance(item, str))
                _write(spool, held)
                held = []
        elif type(item) is not (str if spool._texts else list):
            raise RepdynError(f"is a {type(item).__name__}, those before it are texts or lists of token ids")
        else:
            _write(spool, [item])
    if spool is None:
        return held
    _write(spool, [])
    return spool


def _can_be_spooled(item: Any) -> bool:
    return isinstance(item, str) or (type(item) is list and all(type(token) is int for token in item))


def _write(spool: Spool, items: Sequence[Any]) -> None:
    """Add items; flush if there are none."""
    try:
        for item in items:
            spool.append(item)
        if not items:
            spool.finish()
    except OSError as error:
        raise RepdynError(
            f"no room for the temporary file of the samples ({error.strerror}); free some space, or set "
            "TMPDIR"
        ) from None
