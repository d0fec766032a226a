"""Inspection of a store: its contents from the metadata, and verification of its files by checksum."""

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
_MOST_DAMAGES = 10_000  # damaged files after which verification stops


@dataclass(frozen=True)
class StoreInfo:
    """Contents of a store, read from its metadata.

    Attributes
    ----------
    path
        The store.
    size, there
        Number of samples, and of samples that are written.
    points, widths, tokens, dtype, logits_width
        As in :class:`repdyn.RepresentationPaths`.
    labels
        ``"int64"``, ``"string"`` or ``None``.
    chunks, chunk_rows, bytes
        Number of chunks, samples in a chunk, and size of the pooled points.
    checksums
        Whether the store has checksums.
    meta
        Provenance of the paths.
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
        """Plain values, for ``--json``."""
        return {**vars(self), "points": list(self.points), "tokens": list(self.tokens)}

    def __repr__(self) -> str:
        meta = self.meta
        state = "complete" if self.complete else f"unfinished, {self.there} are written"
        recorded = meta.get("versions")
        known = recorded if isinstance(recorded, dict) else {}
        versions = ", ".join(f"{name} {version}" for name, version in known.items())
        points = (
            f"{len(self.points)}, {self.points[0]} to {self.points[-1]}, {sum(self.widths.values())} wide"
        )
        lines = [
            f"{self.path}: {self.size} samples, {state}",
            f"  model    {meta.get('model', 'not recorded')}, "
            f"digest {str(meta.get('digest', 'not recorded'))[:16]}",
            f"  data     {str(meta.get('data', 'not recorded'))[:40]}",
            f"  points   {points}{', tokens at ' + ', '.join(self.tokens) if self.tokens else ''}",
            f"  pooling  {meta.get('pooling', 'not recorded')}",
            f"  labels   {self.labels or 'none'}, logits {self.logits_width or 'none'}",
            f"  files    {self.chunks} chunks of {self.chunk_rows} samples, {self.dtype}, "
            f"{self.bytes / 2**20:.1f} MiB pooled, checksums {'sha256' if self.checksums else 'none'}",
            f"  written  {versions or 'by an unknown version'}",
        ]
        return "\n".join(lines)


@dataclass(frozen=True)
class Damage:
    """A file that differs from what was written.

    Attributes
    ----------
    chunk, first, last
        Number of the chunk, and its first and last sample.
    file
        Name in the store.
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
    """Comparison of a store's files with their checksums.

    Attributes
    ----------
    path
        The store.
    files, bytes
        Number of files read, and their size.
    damages
        Damaged files, in the order of the samples.
    """

    path: str
    files: int
    bytes: int
    damages: tuple[Damage, ...]

    @property
    def sound(self) -> bool:
        """Whether no file is damaged."""
        return not self.damages

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for ``--json``."""
        damages = [vars(damage) for damage in self.damages]
        return {
            "path": self.path,
            "files": self.files,
            "bytes": self.bytes,
            "sound": self.sound,
            "damages": damages,
        }

    def __repr__(self) -> str:
        read = f"{self.files} files, {self.bytes / 2**20:.1f} MiB"
        if self.sound:
            return f"{self.path}: sound, {read} match their checksums"
        more = len(self.damages) - _DAMAGES_SHOWN
        lines = [f"{self.path}: {len(self.damages)} of {read} do not match their checksums"]
        lines += [f"  {damage}" for damage in self.damages[:_DAMAGES_SHOWN]]
        lines += [f"  … and {more} more"] if more > 0 else []
        first = self.damages[0]
        lines.append(
            f"  to write a chunk again, remove its ids (ids/c/{first.chunk}) and run the same trace again"
        )
        return "\n".join(lines)


def inspect_paths(path: str | os.PathLike[str]) -> StoreInfo:
    """Read the contents of a store from its metadata, finished or not.

    Parameters
    ----------
    path
        A folder, or a URL of an fsspec file system.

    Returns
    -------
    StoreInfo

    Raises
    ------
    RepdynError
        If there is no store, or its metadata is damaged.
    """
    storage = storage_at(path)
    layout = layout_of(storage, read_json(storage, "zarr.json"))
    missing = 0 if layout.complete else sum(map(len, missing_rows(storage, layout)))
    return StoreInfo(
        path=str(storage),
        size=layout.size,
        there=layout.size - missing,
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
    """Read every file of a store and compare its SHA-256 with the one stored when it was written.

    Parameters
    ----------
    path
        A folder, or a URL of an fsspec file system. Of an unfinished store, the written chunks are read.

    Returns
    -------
    Verification

    Raises
    ------
    RepdynError
        If there is no store, or it has no checksums because an earlier repdyn wrote it.
    """
    storage = storage_at(path)
    layout = layout_of(storage, read_json(storage, "zarr.json"))
    if read_json(storage, "checksums/zarr.json") is None:
        raise RepdynError(f"{storage}: has no checksums, because an earlier repdyn wrote it; save it again")
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
                f"{layout.chunks}; trace its {layout.size} samples again"
            )
    return Verification(str(storage), files, size, tuple(damages))


def _verify_chunk(storage: Storage, layout: Layout, chunk: int) -> Iterator[tuple[str, int, str]]:
    """Name, size and damage (or an empty string) of each file of a chunk."""
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
