"""What a store holds, told from its metadata; and whether its files still hold what was written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from repdyn.errors import RepdynError
from repdyn.paths.chunks import checksum, label_dtype, missing_rows, read_checksums
from repdyn.paths.layout import Layout, layout_of, read_json
from repdyn.paths.storage import Storage, storage_at
from repdyn.progress import track

__all__ = ["Damage", "StoreInfo", "Verification", "inspect_paths", "verify_paths"]

_DAMAGES_SHOWN = 10
_MOST_DAMAGES = 10_000  # a store that lacks so much is not worth reading to its end


@dataclass(frozen=True)
class StoreInfo:
    """What a store says it holds; nothing but its metadata is read.

    Attributes
    ----------
    path
        The store.
    size, there
        Samples in all, and those that are written.
    points, widths, tokens, dtype, logits_width
        As :class:`repdyn.RepresentationPaths` has them.
    labels
        ``"int64"``, ``"string"`` or ``None``.
    chunks, chunk_rows, bytes
        How the pooled points are cut, and what they take.
    checksums
        Whether every chunk was written with checksums.
    meta
        Where the paths come from.
    """

    path: str
    size: int
    there: int
    points: tuple[str, ...]
    widths: dict[str, int]
    tokens: tuple[str, ...]
    dtype: str
    logits_width: int | None
    labels: str | None
    chunks: int
    chunk_rows: int
    bytes: int
    checksums: bool
    meta: dict[str, Any]

    @property
    def complete(self) -> bool:
        """Whether all samples are written."""
        return self.there == self.size

    def to_dict(self) -> dict[str, Any]:
        """The same, for ``--json``."""
        return {**vars(self), "points": list(self.points), "tokens": list(self.tokens)}

    def __repr__(self) -> str:
        meta = self.meta
        state = "complete" if self.complete else f"unfinished, {self.there} are there"
        told = meta.get("versions")
        known = told if isinstance(told, dict) else {}
        versions = ", ".join(f"{name} {found}" for name, found in known.items())
        points = (
            f"{len(self.points)}, {self.points[0]} to {self.points[-1]}, {sum(self.widths.values())} wide"
        )
        lines = [
            f"{self.path}: {self.size} samples, {state}",
            f"  model    {meta.get('model', 'not told')}, digest {str(meta.get('digest', 'not told'))[:16]}",
            f"  data     {str(meta.get('data', 'not told'))[:40]}",
            f"  points   {points}{', tokens at ' + ', '.join(self.tokens) if self.tokens else ''}",
            f"  pooling  {meta.get('pooling', 'not told')}",
            f"  labels   {self.labels or 'none'}, logits {self.logits_width or 'none'}",
            f"  files    {self.chunks} chunks of {self.chunk_rows} samples, {self.dtype}, "
            f"{self.bytes / 2**20:.1f} MiB pooled, checksums {'sha256' if self.checksums else 'none'}",
            f"  written  {versions or 'by an unknown version'}",
        ]
        return "\n".join(lines)


@dataclass(frozen=True)
class Damage:
    """A file that is not what was written.

    Attributes
    ----------
    chunk, first, last
        The chunk, and its samples from first to last.
    file
        Its name in the store.
    what
        ``"missing"``, ``"damaged"`` or ``"without checksum"``.
    """

    chunk: int
    first: int
    last: int
    file: str
    what: str

    def __str__(self) -> str:
        return f"chunk {self.chunk} (samples {self.first} to {self.last}): {self.file} is {self.what}"


@dataclass(frozen=True)
class Verification:
    """Whether the files of a store hold what was written.

    Attributes
    ----------
    path
        The store.
    files, bytes
        How many were read, and how much.
    damages
        What is wrong, in the order of the samples.
    """

    path: str
    files: int
    bytes: int
    damages: tuple[Damage, ...]

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.damages

    def to_dict(self) -> dict[str, Any]:
        """The same, for ``--json``."""
        found = [vars(damage) for damage in self.damages]
        return {
            "path": self.path,
            "files": self.files,
            "bytes": self.bytes,
            "sound": self.sound,
            "damages": found,
        }

    def __repr__(self) -> str:
        read = f"{self.files} files, {self.bytes / 2**20:.1f} MiB"
        if self.sound:
            return f"{self.path}: sound, {read} as they were written"
        more = len(self.damages) - _DAMAGES_SHOWN
        lines = [f"{self.path}: {len(self.damages)} of {read} are not as they were written"]
        lines += [f"  {damage}" for damage in self.damages[:_DAMAGES_SHOWN]]
        lines += [f"  … and {more} more"] if more > 0 else []
        first = self.damages[0]
        lines.append(
            f"  to write a chunk again, remove its ids (ids/c/{first.chunk}) and run the same trace again"
        )
        return "\n".join(lines)


def inspect_paths(path: str | os.PathLike[str]) -> StoreInfo:
    """Tell what a store holds, finished or not, from its metadata.

    Parameters
    ----------
    path
        A folder, or a URL that fsspec knows.

    Returns
    -------
    StoreInfo

    Raises
    ------
    RepdynError
        If there is no store, or its metadata are damaged.
    """
    storage = storage_at(path)
    layout = layout_of(storage, read_json(storage, "zarr.json"))
    gone = 0 if layout.complete else sum(map(len, missing_rows(storage, layout)))
    return StoreInfo(
        path=str(storage),
        size=layout.size,
        there=layout.size - gone,
        points=layout.points,
        widths=layout.widths,
        tokens=layout.tokens,
        dtype=layout.dtype,
        logits_width=layout.logits_width,
        labels=label_dtype(storage),
        chunks=layout.chunks,
        chunk_rows=layout.chunk_rows,
        bytes=layout.size * layout.row_width * np.dtype(layout.dtype).itemsize,
        checksums=read_json(storage, "checksums/zarr.json") is not None,
        meta=layout.meta,
    )


def verify_paths(path: str | os.PathLike[str]) -> Verification:
    """Read every file of a store and compare it with the SHA-256 that was kept when it was written.

    Parameters
    ----------
    path
        A folder, or a URL that fsspec knows. Of an unfinished store, the chunks that are there are read.

    Returns
    -------
    Verification

    Raises
    ------
    RepdynError
        If there is no store, or an earlier repdyn wrote it, which kept no checksums.
    """
    storage = storage_at(path)
    layout = layout_of(storage, read_json(storage, "zarr.json"))
    if read_json(storage, "checksums/zarr.json") is None:
        raise RepdynError(
            f"{storage}: has no checksums, an earlier repdyn wrote it; save it again to get them"
        )
    sizes = storage.sizes()
    files = size = 0
    damages: list[Damage] = []
    for chunk in track(range(layout.chunks), f"verifying {storage}", layout.chunks):
        if not layout.complete and sizes(layout.files(chunk)["ids"]) is None:
            continue  # not written yet
        rows = layout.rows(chunk)
        for file, read, what in _verify_chunk(storage, layout, chunk):
            files, size = files + 1, size + read
            if what:
                damages.append(Damage(chunk, rows.start, rows.stop - 1, file, what))
        if len(damages) > _MOST_DAMAGES:
            raise RepdynError(
                f"{storage}: more than {_MOST_DAMAGES} files are missing or damaged, up to chunk {chunk} of "
                f"{layout.chunks}; trace the {layout.size} samples that it tells of again"
            )
    return Verification(str(storage), files, size, tuple(damages))


def _verify_chunk(storage: Storage, layout: Layout, chunk: int) -> Iterator[tuple[str, int, str]]:
    """Each file's name, the bytes read of it, and what is wrong with it, if anything is."""
    try:
        known = read_checksums(storage, layout, chunk)
    except RepdynError:
        yield f"checksums/c/{chunk}/0", 0, "damaged"
        return
    if known is None:
        yield f"checksums/c/{chunk}/0", 0, "missing"
        return
    for file, before in known.items():
        try:
            data = storage.read(file)
        except FileNotFoundError:
            yield file, 0, "missing"
            continue
        yield file, len(data), "" if checksum(data) == before else "damaged"
