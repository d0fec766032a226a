"""Writing a store of paths: whole chunks only, each complete or absent, resumed where it stopped."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike, NDArray

from repdyn.errors import RepdynError
from repdyn.paths.arrays import check_labels
from repdyn.paths.chunks import missing_rows, read_content, seal, settle_labels, write_chunk
from repdyn.paths.creation import check_same, check_storage, create_store, keep_checksums, plan_layout
from repdyn.paths.layout import Layout, as_storage, read_layout
from repdyn.paths.paths import RepresentationPaths
from repdyn.paths.storage import Folder, Storage, storage_at
from repdyn.paths.store import open_paths
from repdyn.writing import hold

__all__ = ["PathsWriter", "writing_alone"]


class PathsWriter:
    """Writes paths chunk by chunk; a killed writer's store is continued by the next one.

    Several writers may share a store as long as no two write the same chunk. A writer can be pickled and
    sent to another process or machine that reaches the same storage.

    Attributes
    ----------
    storage
        Folder or remote location of the store.
    layout
        What it holds.
    chunk_rows
        Samples in a chunk (the last may hold fewer).

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> import numpy as np
    >>> out = mkdtemp() + "/a.paths"
    >>> writer = PathsWriter.open(out, points=["stem"], widths={"stem": 3}, size=5, meta={})
    >>> for rows in writer.missing:
    ...     writer.write_chunk(rows.start, {"stem": np.ones((len(rows), 3))}, [f"sample {i}" for i in rows])
    >>> len(writer.finish())
    5
    """

    def __init__(self, store: Storage | str | os.PathLike[str], layout: Layout) -> None:
        self.storage = as_storage(store)
        self.layout = layout
        self.chunk_rows = layout.chunk_rows

    @classmethod
    def open(
        cls,
        out: str | os.PathLike[str],
        points: Sequence[str],
        widths: Mapping[str, int],
        size: int,
        meta: Mapping[str, Any],
        dtype: str = "float32",
        logits_width: int | None = None,
        resume: bool = True,
        tokens: Iterable[str] = (),
        labels: ArrayLike | None = None,
    ) -> PathsWriter:
        """Start a store, or continue one that holds the same.

        Parameters
        ----------
        out
            The folder, or a URL that fsspec knows (``"s3://bucket/a.paths"``).
        points
            Names in order of depth.
        widths
            ``{point: D}``.
        size
            Number of samples N.
        meta
            Where the paths come from, JSON-able: at least ``model`` and ``digest`` (of the weights), so that
            one model's store is not continued with another.
        dtype
            ``"float32"``, ``"float16"`` or ``"float64"``.
        logits_width
            Number of logits C, if they are kept.
        resume
            Whether to continue what is there; otherwise an earlier store is removed.
        tokens
            The points that keep their tokens, unpooled.
        labels
            All ``(N,)`` of them, from which their kind is settled before the first chunk: needed where
            several writers begin at once, otherwise the first chunk that is written settles it.

        Returns
        -------
        PathsWriter

        Raises
        ------
        RepdynError
            If the store that is there holds something else, or ``out`` is no store, or cannot be written.
        """
        storage = storage_at(out)
        layout = plan_layout(points, widths, size, meta, dtype, logits_width, tokens)
        known_labels = check_labels(labels, size)
        if check_storage(storage) and resume:
            found = read_layout(storage)
            check_same(storage, found, layout)
            keep_checksums(storage, found)
            layout = found
        else:
            create_store(storage, layout)
        if known_labels is not None:
            settle_labels(storage, layout, known_labels, None)
        return cls(storage, layout)

    @property
    def missing(self) -> list[range]:
        """The samples still to write, one range for each whole chunk."""
        return missing_rows(self.storage, self.layout)

    @property
    def present(self) -> list[range]:
        """The samples that are written, one range for each whole chunk."""
        starts = {rows.start for rows in self.missing}
        every = map(self.layout.rows, range(self.layout.chunks))
        return [rows for rows in every if rows.start not in starts]

    def content(self, start: int) -> str | None:
        """The digest of the samples of the chunk that begins at a sample; None where none was kept."""
        return read_content(self.storage, start // self.chunk_rows)

    def write_chunk(
        self,
        start: int,
        arrays: Mapping[str, ArrayLike | Sequence[NDArray[Any]]],
        ids: Sequence[str],
        labels: ArrayLike | None = None,
        logits: ArrayLike | None = None,
        content: str | None = None,
    ) -> None:
        """Write the samples of one whole chunk; until this returns, none of them count as written.

        Parameters
        ----------
        start
            The chunk's first sample, as in :attr:`missing`.
        arrays
            ``{point: (rows, D)}``; for points with tokens, a list of ``(T, D)`` arrays.
        ids, labels, logits
            Of these samples: names, ``(rows,)`` integers or strings, ``(rows, C)``.
        content
            A digest of what these samples are, by which a continued trace knows them again.

        Raises
        ------
        RepdynError
            If something is missing or has the wrong shape, an entry is not finite (point and sample are
            named) or too large for the dtype, or the disk is full.
        """
        write_chunk(self.storage, self.layout, start, arrays, ids, labels, logits, content)

    def finish(self) -> RepresentationPaths:
        """Mark the store complete and open it.

        Raises
        ------
        RepdynError
            If chunks are missing.
        """
        missing = self.missing
        if missing:
            count = sum(map(len, missing))
            raise RepdynError(
                f"{self.storage}: {count} of {self.layout.size} samples are still missing, "
                f"the first is {missing[0].start}; write them before finishing (if another trace writes here "
                "too, let it end and run this one again)"
            )
        if not self.layout.complete:
            self.layout = seal(self.storage, self.layout)
        return open_paths(str(self.storage))


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
    storage = storage_at(out)
    if not isinstance(storage, Folder):
        yield lambda: None
        return
    held: list[int] = []
    above: list[int] = []

    def take() -> None:
        if held and _is_at(held[-1], storage.path):
            return
        found = hold(storage.path, wait=False)
        if found is not None:
            held.append(found)
        elif storage.path.is_dir() and not storage.path.is_symlink() and _are_locked(storage.path):
            raise RepdynError(
                f"{storage}: another trace is writing to this store; wait until it ends, or choose "
                "another path"
            )

    def begun() -> None:
        take()
        _release(above)

    try:
        if storage.path.parent.is_dir() and (found := hold(storage.path.parent, wait=True)) is not None:
            above.append(found)
        if storage.path.is_dir():
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
