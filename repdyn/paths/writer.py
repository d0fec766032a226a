"""Writing a store of paths chunk by chunk, with resumption, by one trace at a time."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike, NDArray

from repdyn.errors import RepdynError
from repdyn.paths.arrays import check_labels
from repdyn.paths.chunks import missing_rows, read_content, seal, set_label_dtype, write_chunk
from repdyn.paths.creation import check_same, check_storage, create_store, keep_checksums, plan_layout
from repdyn.paths.layout import Layout, as_storage, read_layout
from repdyn.paths.paths import RepresentationPaths
from repdyn.paths.storage import Folder, Storage, storage_at
from repdyn.paths.store import open_paths
from repdyn.writing import hold

__all__ = ["PathsWriter", "writing_alone"]


class PathsWriter:
    """Writer of a store of paths, chunk by chunk. A new writer continues the store of an interrupted one.

    Several writers may share a store if no two write the same chunk. A writer can be pickled and sent to
    another process or machine with access to the same storage.

    Attributes
    ----------
    storage
        Folder or remote location of the store.
    layout
        Contents of the store.
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
        """Create a store, or continue one with the same contents.

        Parameters
        ----------
        out
            A folder, or a URL of an fsspec file system (``"s3://bucket/a.paths"``).
        points
            Names in order of depth.
        widths
            ``{point: D}``.
        size
            Number of samples N.
        meta
            Provenance as JSON values, at least ``model`` and ``digest`` (of the weights): a store is not
            continued with another model.
        dtype
            ``"float32"``, ``"float16"`` or ``"float64"``.
        logits_width
            Number of logits C, if they are stored.
        resume
            Whether to continue an existing store; otherwise it is removed.
        tokens
            The points that are stored with their tokens.
        labels
            All labels, ``(N,)``. They set the type of the labels before the first chunk, which concurrent
            writers need. Otherwise the first chunk that is written sets it.

        Returns
        -------
        PathsWriter

        Raises
        ------
        RepdynError
            If an existing store has other contents, ``out`` is not a store, or it cannot be written.
        """
        storage = storage_at(out)
        layout = plan_layout(points, widths, size, meta, dtype, logits_width, tokens)
        known_labels = check_labels(labels, size)
        if check_storage(storage) and resume:
            existing = read_layout(storage)
            check_same(storage, existing, layout)
            keep_checksums(storage, existing)
            layout = existing
        else:
            create_store(storage, layout)
        if known_labels is not None:
            set_label_dtype(storage, layout, known_labels, None)
        return cls(storage, layout)

    @property
    def place(self) -> Storage:
        """Old name of :attr:`storage`."""
        warnings.warn("PathsWriter.place was renamed storage", DeprecationWarning, stacklevel=2)
        return self.storage

    @property
    def missing(self) -> list[range]:
        """Sample numbers that are not written yet, one range for each chunk."""
        return missing_rows(self.storage, self.layout)

    @property
    def present(self) -> list[range]:
        """Sample numbers that are written, one range for each chunk."""
        starts = {rows.start for rows in self.missing}
        every = map(self.layout.rows, range(self.layout.chunks))
        return [rows for rows in every if rows.start not in starts]

    def content(self, start: int) -> str | None:
        """Digest of the samples of the chunk that starts at a sample, or ``None`` if none was written."""
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
        """Write the samples of one chunk. They count as written once this method returns.

        Parameters
        ----------
        start
            The chunk's first sample, as in :attr:`missing`.
        arrays
            ``{point: (rows, D)}``; for points with tokens, a list of ``(T, D)`` arrays.
        ids, labels, logits
            Of these samples: ids ``(rows,)``, integers or strings ``(rows,)``, and ``(rows, C)``.
        content
            A digest of the samples' contents, which a continued trace compares.

        Raises
        ------
        RepdynError
            If an array is missing or has the wrong shape, an entry is not finite or too large for the dtype
            (the message names point and sample), or the disk is full.
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
                f"the first is {missing[0].start}; write them before finishing (if another trace writes to "
                "this store, wait for it to end and run this one again)"
            )
        if not self.layout.complete:
            self.layout = seal(self.storage, self.layout)
        return open_paths(str(self.storage))


@contextmanager
def writing_alone(out: str | os.PathLike[str]) -> Iterator[Callable[[], None]]:
    """Context in which no other trace on this machine writes to the store.

    The store's folder is locked, and its parent folder until the store exists, so that two traces cannot
    create one store at once. Storage without locks (object storage, some network drives) is not protected.
    The locks end with the process.

    Yields
    ------
    callable
        To call once the store exists, which may have been created or replaced since.

    Raises
    ------
    RepdynError
        If another trace is writing to the store.
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
        descriptor = hold(storage.path, wait=False)
        if descriptor is not None:
            held.append(descriptor)
        elif storage.path.is_dir() and not storage.path.is_symlink() and _are_locked(storage.path):
            raise RepdynError(
                f"{storage}: another trace is writing to this store; wait until it ends, or choose "
                "another path"
            )

    def begun() -> None:
        take()
        _release(above)

    try:
        if storage.path.parent.is_dir() and (descriptor := hold(storage.path.parent, wait=True)) is not None:
            above.append(descriptor)
        if storage.path.is_dir():
            take()
        yield begun
    finally:
        _release(above)
        _release(held)


def _are_locked(path: Path) -> bool:
    """Whether the path is locked, as opposed to a file system without locks."""
    try:
        import fcntl

        descriptor = os.open(path, os.O_RDONLY)
    except (ImportError, OSError):
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks, where nobody holds one
        return False
    finally:
        os.close(descriptor)
    return False


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether an open descriptor is of the file at a path."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False


def _release(held: list[int]) -> None:
    """Close descriptors, which releases their locks."""
    while held:
        os.close(held.pop())
