"""Writing a store of paths: whole chunks only, each complete or absent, resumed where it stopped."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from numpy.typing import ArrayLike, NDArray

from repdyn.errors import RepdynError
from repdyn.paths.checks import check_labels
from repdyn.paths.chunks import missing_rows, read_content, seal, settle_labels, write_chunk
from repdyn.paths.layout import Layout, as_place, read_layout
from repdyn.paths.paths import RepresentationPaths
from repdyn.paths.places import Place, place_of
from repdyn.paths.start import check_place, check_same, create_store, keep_checksums, plan_layout
from repdyn.paths.store import open_paths

__all__ = ["PathsWriter"]


class PathsWriter:
    """Writes paths chunk by chunk; a killed writer's store is continued by the next one.

    Several writers may share a store as long as no two write the same chunk. A writer can be pickled and
    sent to another process or machine that reaches the same place.

    Attributes
    ----------
    place
        Where the store is.
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

    def __init__(self, store: Place | str | os.PathLike[str], layout: Layout) -> None:
        self.place = as_place(store)
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
        place = place_of(out)
        layout = plan_layout(points, widths, size, meta, dtype, logits_width, tokens)
        known_labels = check_labels(labels, size)
        if check_place(place) and resume:
            found = read_layout(place)
            check_same(place, found, layout)
            keep_checksums(place, found)
            layout = found
        else:
            create_store(place, layout)
        if known_labels is not None:
            settle_labels(place, layout, known_labels, None)
        return cls(place, layout)

    @property
    def missing(self) -> list[range]:
        """The samples still to write, one range for each whole chunk."""
        return missing_rows(self.place, self.layout)

    @property
    def present(self) -> list[range]:
        """The samples that are written, one range for each whole chunk."""
        starts = {rows.start for rows in self.missing}
        every = map(self.layout.rows, range(self.layout.chunks))
        return [rows for rows in every if rows.start not in starts]

    def content(self, start: int) -> str | None:
        """The digest of the samples of the chunk that begins at a sample; None where none was kept."""
        return read_content(self.place, start // self.chunk_rows)

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
        write_chunk(self.place, self.layout, start, arrays, ids, labels, logits, content)

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
                f"{self.place}: {count} of {self.layout.size} samples are still missing, "
                f"the first is {missing[0].start}; write them before finishing (if another trace writes here "
                "too, let it end and run this one again)"
            )
        if not self.layout.complete:
            self.layout = seal(self.place, self.layout)
        return open_paths(str(self.place))
