"""Writing a store of paths: whole chunks only, each complete or absent, resumed where it stopped."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repdyn.errors import RepdynError
from repdyn.paths.checks import check_finite, check_ids, check_labels
from repdyn.paths.layout import Layout, read_layout
from repdyn.paths.start import check_place, check_same, create_store, plan_layout
from repdyn.paths.store import chunk_is_whole, label_dtype, open_paths
from repdyn.paths.zarr_format import (
    PARTIAL,
    array_metadata,
    encode_strings,
    group_metadata,
    read_json,
    write_file,
    write_json,
)

if TYPE_CHECKING:
    from repdyn.paths.paths import RepresentationPaths

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
        labels = self._label_dtype
        return [
            self.layout.rows(chunk)
            for chunk in range(self.layout.chunks)
            if not chunk_is_whole(self.folder, self.layout, chunk, labels)
        ]

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
        layout = self.layout
        chunk, offset = divmod(start, self.chunk_rows)
        if offset or not 0 <= start < layout.size:
            raise RepdynError(
                f"start: no chunk begins at {start}; expected a multiple of {self.chunk_rows} "
                f"below {layout.size}"
            )
        rows = layout.rows(chunk)
        names = check_ids(ids, len(rows))
        if set(arrays) != set(layout.points):
            differing = sorted(set(arrays) ^ set(layout.points))
            raise RepdynError(
                f"arrays: are of points {list(arrays)}, expected {list(layout.points)}; {differing} differ"
            )
        known_labels = check_labels(labels, len(rows))
        packed = np.zeros((self.chunk_rows, layout.row_width), layout.dtype)
        for point, low in layout.offsets.items():
            values = np.asarray(arrays[point])
            self._check(values, point, names, (len(rows), layout.widths[point]))
            packed[: len(rows), low : low + layout.widths[point]] = _cast(values, layout.dtype, point, names)
        ragged = {p: self._check_tokens(arrays[p], p, names) for p in layout.tokens}
        outputs = self._check_logits(logits, names)
        self._agree_on_labels(known_labels, chunk)
        # All is checked: from here on only the disk can refuse. A chunk that is written again is absent
        # meanwhile, so that it never mixes old and new.
        (self.folder / f"ids/c/{chunk}").unlink(missing_ok=True)
        if layout.row_width:
            write_file(self.folder / f"paths/c/{chunk}/0", _little(packed))
        for number, (point, samples) in enumerate(ragged.items()):
            self._write_tokens(number, chunk, samples, layout.widths[point])
        if layout.tokens:
            lengths = np.zeros((self.chunk_rows, len(layout.tokens)), np.int64)
            for number, samples in enumerate(ragged.values()):
                lengths[: len(rows), number] = [len(sample) for sample in samples]
            write_file(self.folder / f"lengths/c/{chunk}/0", _little(lengths))
        if outputs is not None:
            write_file(self.folder / f"logits/c/{chunk}/0", _little(_padded(outputs, self.chunk_rows)))
        if known_labels is not None:
            write_file(self.folder / f"labels/c/{chunk}", _encode(known_labels, self.chunk_rows))
        write_file(self.folder / f"ids/c/{chunk}", _encode(names, self.chunk_rows))

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
            for leftover in self.folder.rglob(f".*{PARTIAL}"):
                leftover.unlink(missing_ok=True)
            self.layout = self.layout.finished()
            metadata = {
                str(file.parent.relative_to(self.folder)): read_json(file) or {}
                for file in sorted(self.folder.glob("*/**/zarr.json"))
            }
            write_json(self.folder / "zarr.json", group_metadata(self.layout.to_attributes(), metadata))
        return open_paths(self.folder)

    @property
    def _label_dtype(self) -> str | None:
        return label_dtype(self.folder)

    def _check(self, values: NDArray[Any], point: str, ids: NDArray[np.str_], shape: tuple[int, ...]) -> None:
        if values.shape != shape:
            where = f" from sample {str(ids[0])!r} on" if len(ids) else ""
            raise RepdynError(f"point {point!r}: has shape {values.shape}{where}, expected {shape}")
        check_finite(values, point, ids)

    def _check_tokens(self, samples: Any, point: str, ids: NDArray[np.str_]) -> list[NDArray[Any]]:
        if len(samples) != len(ids):
            raise RepdynError(f"point {point!r}: has tokens of {len(samples)} samples, expected {len(ids)}")
        found = []
        for sample, name in zip(samples, ids):
            values = np.asarray(sample)
            self._check(
                values, point, np.array([name] * len(values)), (len(values), self.layout.widths[point])
            )
            found.append(_cast(values, self.layout.dtype, point, np.array([name] * len(values))))
        return found

    def _check_logits(self, logits: ArrayLike | None, ids: NDArray[np.str_]) -> NDArray[np.float32] | None:
        wanted = self.layout.logits_width
        if (logits is None) != (wanted is None):
            given = "missing" if logits is None else "given"
            raise RepdynError(f"logits: are {given}, but the store was started with logits_width={wanted}")
        if logits is None or wanted is None:
            return None
        values = np.asarray(logits, dtype=np.float32)
        self._check(values, "logits", ids, (len(ids), wanted))
        return values

    def _agree_on_labels(self, labels: NDArray[Any] | None, chunk: int) -> None:
        """Labels are of one kind, for all samples or none; the first chunk that is written decides."""
        kind = None if labels is None else "int64" if labels.dtype.kind == "i" else "string"
        before = self._label_dtype
        if kind == before:
            return
        others = (number for number in range(self.layout.chunks) if number != chunk)
        if any(chunk_is_whole(self.folder, self.layout, number, before) for number in others):
            raise RepdynError(
                f"labels: are {kind or 'missing'} in this chunk but {before or 'missing'} in the others; "
                "give all samples labels of one kind"
            )
        shutil.rmtree(self.folder / "labels", ignore_errors=True)
        if kind is not None:
            write_json(self.folder / "labels/zarr.json", self.layout.arrays(kind)["labels"])

    def _write_tokens(self, number: int, chunk: int, samples: list[NDArray[Any]], width: int) -> None:
        flat = np.concatenate(samples)
        place = self.folder / f"tokens/{number}/{chunk}"
        if len(flat):
            write_file(place / "c/0/0", _little(flat))
        shape = (len(flat), width)
        write_json(place / "zarr.json", array_metadata(shape, (max(len(flat), 1), width), self.layout.dtype))


def _cast(values: NDArray[Any], dtype: str, point: str, ids: NDArray[np.str_]) -> NDArray[Any]:
    with np.errstate(over="ignore"):  # Found and told below.
        found = values.astype(dtype, copy=False)
    if found.dtype.itemsize < values.dtype.itemsize and len(found):
        too_large = ~np.isfinite(found).all(axis=1)
        if too_large.any():
            sample = int(np.argmax(too_large))
            raise RepdynError(
                f"point {point!r}, sample {str(ids[sample])!r}: holds {np.abs(values[sample]).max():.3g}, "
                f"too large for {dtype}; store float32"
            )
    return found


def _little(values: NDArray[Any]) -> NDArray[Any]:
    return values.astype(values.dtype.newbyteorder("<"), copy=False)


def _padded(values: NDArray[Any], rows: int) -> NDArray[Any]:
    return np.concatenate([values, np.zeros((rows - len(values), *values.shape[1:]), values.dtype)])


def _encode(values: NDArray[Any], rows: int) -> bytes | NDArray[Any]:
    if values.dtype.kind == "U":
        return encode_strings([*values.tolist(), *[""] * (rows - len(values))])
    return _little(_padded(values, rows))
