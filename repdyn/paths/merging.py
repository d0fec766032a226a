"""Merging stores of one model, traced at the same points, into one store."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repdyn.errors import RepdynError
from repdyn.paths.arrays import MAY_DIFFER
from repdyn.paths.chunks import read_content
from repdyn.paths.columns import VectorColumn
from repdyn.paths.layout import read_layout
from repdyn.paths.paths import RepresentationPaths
from repdyn.paths.storage import storage_at
from repdyn.paths.store import open_paths
from repdyn.paths.writer import PathsWriter
from repdyn.progress import track

__all__ = ["merge_paths"]

# Metadata that may differ between merged stores, because their samples do; all other metadata must agree.
_MAY_DIFFER = {*MAY_DIFFER, "data", "merged", "identity"}


def merge_paths(stores: Iterable[str | os.PathLike[str]], out: str | os.PathLike[str]) -> RepresentationPaths:
    """Write the samples of several stores to one, in the order given.

    Parameters
    ----------
    stores
        Two or more stores of one model (by the digest of its weights), traced at the same points with the
        same settings. No sample id may be in two stores.
    out
        The store to write. The store of an interrupted merge is continued.

    Returns
    -------
    RepresentationPaths
        ``meta["merged"]`` lists the number of samples and the data of each store.

    Raises
    ------
    RepdynError
        If the stores differ (the message names the first difference), or share a sample.
    """
    parts = [open_paths(store) for store in stores]
    if len(parts) < 2:
        raise RepdynError(f"stores: {len(parts)} given; merging takes two or more")
    for part in parts[1:]:
        _check_same(parts[0], part)
    _check_ids(parts)
    first = parts[0]
    assert first.path is not None
    data = [_content(part) for part in parts]
    meta = {
        **first.meta,
        "data": hashlib.sha256("\0".join(data).encode()).hexdigest(),
        "merged": [{"size": len(part), "data": known} for part, known in zip(parts, data)],
    }
    ids = np.concatenate([part.ids for part in parts])
    labels = None if first.labels is None else np.concatenate([_labels(part) for part in parts])
    writer = PathsWriter.open(
        out,
        points=first.points,
        widths=first.widths,
        size=len(ids),
        meta=meta,
        dtype=read_layout(storage_at(first.path)).dtype,  # as stored: bfloat16 is shown as float32
        logits_width=first.logits_column.width if first.logits_column is not None else None,
        tokens=first.tokens,
        labels=labels,
    )
    missing = writer.missing
    for rows in track(missing, f"merging into {out}", len(missing)):
        pieces = list(_pieces(parts, rows))
        writer.write_chunk(
            rows.start,
            {point: _values(pieces, point) for point in first.points},
            ids[rows.start : rows.stop].tolist(),
            None if labels is None else labels[rows.start : rows.stop],
            _logits(pieces),
        )
    return writer.finish()


def _content(part: RepresentationPaths) -> str:
    """Digest of a store's samples, including the digests of its chunks."""
    data = str(part.meta.get("data"))
    if part.path is None:
        return data
    storage = storage_at(part.path)
    layout = read_layout(storage)
    chunks = [read_content(storage, chunk) for chunk in range(layout.chunks)]
    if not any(chunks):
        return data
    return hashlib.sha256("\0".join([data, *map(str, chunks)]).encode()).hexdigest()


def _check_same(one: RepresentationPaths, other: RepresentationPaths) -> None:
    """Raise for the first difference between two stores' contents and metadata."""
    digests = [("digest", one.meta.get("digest"), other.meta.get("digest"))]
    here_has, there_has = _known(one), _known(other)
    pairs = digests + [(key, here_has[key], there_has[key]) for key in here_has]
    keys = sorted((one.meta.keys() | other.meta.keys()) - _MAY_DIFFER)
    pairs += [(key, one.meta.get(key), other.meta.get(key)) for key in keys]
    ours, theirs = one.meta.get("identity") or {}, other.meta.get("identity") or {}
    pairs += [(key, ours[key], theirs[key]) for key in sorted((ours.keys() & theirs.keys()) - {"labels"})]
    for key, here, there in pairs:
        if here != there:
            raise RepdynError(
                f"{other.path}: its {key} is {str(there)[:80]!r}, that of {one.path} is {str(here)[:80]!r}; "
                "only paths of one model, traced with the same settings, can be merged"
            )


def _known(paths: RepresentationPaths) -> dict[str, Any]:
    """Properties that must agree, by name."""
    kind = None if paths.labels is None else "strings" if paths.labels.dtype.kind == "U" else "integers"
    return {
        "points": paths.points,
        "widths": paths.widths,
        "tokens": paths.tokens,
        "dtype": paths.dtype,
        "kind of labels": kind,
        "number of logits": None if paths.logits_column is None else paths.logits_column.width,
    }


def _check_ids(parts: Sequence[RepresentationPaths]) -> None:
    """Raise if two stores share a sample id."""
    home: dict[str, int] = {}
    for number, part in enumerate(parts):
        for name in part.ids.tolist():
            before = home.setdefault(name, number)
            if before != number:
                raise RepdynError(
                    f"{part.path}: holds sample {name!r}, which {parts[before].path} holds too; trace with "
                    "unique ids, or leave one of the stores out"
                )


def _labels(part: RepresentationPaths) -> NDArray[Any]:
    """Labels of a store, ``(N,)``."""
    assert part.labels is not None  # _check_same compared the types
    return part.labels


Piece = tuple[RepresentationPaths, NDArray[np.int64]]


def _pieces(parts: Sequence[RepresentationPaths], rows: range) -> Iterable[Piece]:
    """The stores of a chunk's samples, each with the samples' row numbers in it."""
    start = 0
    for part in parts:
        low, high = max(rows.start, start), min(rows.stop, start + len(part))
        if low < high:
            yield part, np.arange(low - start, high - start)
        start += len(part)


def _values(pieces: Sequence[Piece], point: str) -> Any:
    """Representations of a chunk at one point: ``(rows, D)``, or a list of ``(T, D)``."""
    if isinstance(pieces[0][0].column(point), VectorColumn):
        return np.concatenate([part.column(point).take(index) for part, index in pieces])
    tokens: list[NDArray[Any]] = []
    for part, index in pieces:
        column = part.column(point)
        assert not isinstance(column, VectorColumn)
        tokens += column.ragged(index)
    return tokens


def _logits(pieces: Sequence[Piece]) -> NDArray[Any] | None:
    """Logits of a chunk ``(rows, C)``, or ``None``."""
    columns = [(part.logits_column, index) for part, index in pieces]
    logits = [column.take(index) for column, index in columns if column is not None]
    return np.concatenate(logits) if logits else None
