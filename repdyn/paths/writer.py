"""Writing a store of paths: whole chunks only, each complete or absent, resumed where it stopped."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike, NDArray

from repdyn.errors import RepdynError
from repdyn.paths.chunks import missing_rows, seal, write_chunk
from repdyn.paths.layout import Layout, read_layout
from repdyn.paths.paths import RepresentationPaths
from repdyn.paths.start import check_place, check_same, create_store, plan_layout
from repdyn.paths.store import open_paths

__all__ = ["PathsWriter"]


class PathsWriter:
    """Writes paths chunk by chunk; a killed writer's store is continued by the next one.

    Several writers may share a store as long as no two write the same chunk.

    Attributes
    ----------
    folder
        The store.
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

    def __init__(self, folder: Path, layout: Layout) -> None:
        self.folder = folder
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
    ) -> PathsWriter:
        """Start a store, or continue one that holds the same.

        Parameters
        ----------
        out
            The folder.
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

        Returns
        -------
        PathsWriter

        Raises
        ------
        RepdynError
            If the store that is there holds something else, or ``out`` is no store, or cannot be written.
        """
        folder = Path(out)
        wanted = plan_layout(points, widths, size, meta, dtype, logits_width, tokens)
        if check_place(folder) and resume:
            found = read_layout(folder)
            check_same(folder, found, wanted)
            return cls(folder, found)
        create_store(folder, wanted)
        return cls(folder, wanted)

    @property
    def missing(self) -> list[range]:
        """The samples still to write, one range for each whole chunk."""
        return missing_rows(self.folder, self.layout)

    def write_chunk(
        self,
        start: int,
        arrays: Mapping[str, ArrayLike | Sequence[NDArray[Any]]],
        ids: Sequence[str],
        labels: ArrayLike | None = None,
        logits: ArrayLike | None = None,
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

        Raises
        ------
        RepdynError
            If something is missing or has the wrong shape, an entry is not finite (point and sample are
            named) or too large for the dtype, or the disk is full.
        """
        write_chunk(self.folder, self.layout, start, arrays, ids, labels, logits)

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
                f"{self.folder}: {count} of {self.layout.size} samples are still missing, "
                f"the first is {missing[0].start}; write them before finishing"
            )
        if not self.layout.complete:
            self.layout = seal(self.folder, self.layout)
        return open_paths(self.folder)
