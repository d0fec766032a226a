"""Creating a store of paths: plan its layout, compare it with what exists, and save columns to it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repdyn.errors import RepdynError
from repdyn.paths.arrays import MAY_DIFFER, check_points, complete_meta, storage_dtype
from repdyn.paths.chunks import seal, write_chunk
from repdyn.paths.columns import TokenColumn, VectorColumn
from repdyn.paths.layout import Layout, group_metadata, is_store, read_json, rows_per_chunk, write_json
from repdyn.paths.storage import Folder, Remote, Storage, storage_at

__all__ = [
    "check_same",
    "check_storage",
    "create_store",
    "fill_store",
    "keep_checksums",
    "plan_layout",
    "save_columns",
]

# Names at the root of a store.
_ENTRIES = {"zarr.json", "checksums", "ids", "labels", "lengths", "logits", "paths", "tokens"}
# Tokens of a sample are not known beforehand; for the size of chunks this many are assumed.
_TOKENS_ASSUMED = 128


def save_columns(
    out: str | os.PathLike[str],
    columns: Mapping[str, VectorColumn | TokenColumn],
    ids: NDArray[np.str_],
    labels: NDArray[Any] | None,
    logits: VectorColumn | None,
    meta: Mapping[str, Any],
    source: Path | str | None,
) -> None:
    """Write columns to a store, atomically; an earlier store is replaced.

    Parameters
    ----------
    out
        Folder or URL of the store.
    columns, ids, labels, logits, meta
        Contents of the store.
    source
        The store that the columns are read from, which cannot be replaced.

    Raises
    ------
    RepdynError
        If ``out`` exists and is not a store, holds something beside a store or is the source, or if the disk
        is full.
    """
    target = storage_at(out)
    if _same(target, source):
        raise RepdynError(f"{target}: is the store that these paths are read from; choose another path")
    check_storage(target)
    _check_owned(target)
    widths = {point: column.width for point, column in columns.items()}
    tokens = [point for point, column in columns.items() if isinstance(column, TokenColumn)]
    dtype = next(iter(columns.values())).dtype.name
    outputs = None if logits is None else logits.width
    layout = plan_layout(list(columns), widths, len(ids), meta, dtype, outputs, tokens)
    if not isinstance(target, Folder):
        # Objects cannot be renamed together: the store is unfinished until its last chunk is written.
        create_store(target, layout)
        _write(target, layout, columns, ids, labels, logits)
        return
    scratch = target.scratch()
    try:
        fill_store(scratch, layout)
        _write(scratch, layout, columns, ids, labels, logits)
        target.take_over(scratch)
    finally:
        scratch.remove_below("")


def _write(
    storage: Storage,
    layout: Layout,
    columns: Mapping[str, VectorColumn | TokenColumn],
    ids: NDArray[np.str_],
    labels: NDArray[Any] | None,
    logits: VectorColumn | None,
) -> None:
    """Write all chunks of columns to a new store and mark it complete."""
    for rows in map(layout.rows, range(layout.chunks)):
        here = np.arange(rows.start, rows.stop)
        write_chunk(
            storage,
            layout,
            rows.start,
            {p: c.take(here) if isinstance(c, VectorColumn) else c.ragged(here) for p, c in columns.items()},
            ids[here],
            None if labels is None else labels[here],
            None if logits is None else logits.take(here),
        )
    seal(storage, layout)


def _same(target: Folder | Remote, source: Path | str | None) -> bool:
    """Whether a store to write is the one that the columns are read from."""
    if isinstance(target, Remote):
        return str(target) == str(source)
    return isinstance(source, Path) and target.path.exists() and target.path.samefile(source)


def check_storage(storage: Storage) -> bool:
    """Whether the location holds a store; raise if it holds something else."""
    if is_store(storage):
        return True
    if storage.exists() and not storage.is_empty():
        raise RepdynError(f"{storage}: exists and is not a store of paths; choose another path")
    return False


def _check_owned(storage: Storage) -> None:
    """Raise an error if replacing a store would remove what repdyn did not write there."""
    for name in storage.entries():
        if name not in _ENTRIES:
            raise RepdynError(
                f"{storage}: holds {name!r}, which is no part of a store of paths and would be removed with "
                "it; move it away, or choose another path"
            )


def plan_layout(
    points: Sequence[str],
    widths: Mapping[str, int],
    size: int,
    meta: Mapping[str, Any],
    dtype: str,
    logits_width: int | None,
    tokens: Iterable[str],
) -> Layout:
    """Layout of a new store; raise for invalid names, widths and sizes."""
    names = check_points(points)
    with_tokens = tuple(name for name in names if name in set(tokens))
    unknown = sorted(set(tokens) - set(names))
    if unknown:
        raise RepdynError(f"tokens: {unknown[0]!r} is not one of the points {list(names)}")
    for name in names:
        if widths.get(name, 0) < 1:
            raise RepdynError(f"widths: {widths.get(name)} for point {name!r}; expected 1 or more entries")
    if size < 1:
        raise RepdynError(f"size: there are {size} samples; paths need at least one")
    kind = storage_dtype(dtype).name
    known = {name: int(widths[name]) for name in names}
    entries = sum(width * (_TOKENS_ASSUMED if name in with_tokens else 1) for name, width in known.items())
    rows = rows_per_chunk(size, entries * np.dtype(kind).itemsize)
    origin = complete_meta(meta, names, known, with_tokens, kind)
    return Layout(names, known, with_tokens, size, rows, kind, logits_width, origin)


def check_same(storage: Storage, existing: Layout, wanted: Layout) -> None:
    """Raise if a store cannot be continued with a layout; the message names the first difference."""
    remedy = "choose another path, or start over with resume=False (--no-resume)"
    pairs = [(key, existing.meta.get(key), wanted.meta.get(key)) for key in ("digest", "model")]
    own = ("points", "widths", "tokens", "size", "dtype", "logits_width")
    pairs += [(key, getattr(existing, key), getattr(wanted, key)) for key in own]
    others = sorted((existing.meta.keys() | wanted.meta.keys()) - {*MAY_DIFFER, "identity"})
    pairs += [(key, existing.meta.get(key), wanted.meta.get(key)) for key in others]
    for key, there, here in pairs:
        if there != here:
            raise RepdynError(
                f"{storage}: holds another trace, its {key} is {_short(there)} and not {_short(here)}; "
                f"{remedy}"
            )
    there, here = existing.meta.get("identity"), wanted.meta.get("identity")
    if here is None and there is None:
        return
    if not isinstance(there, dict) or not isinstance(here, dict):
        raise RepdynError(
            f"{storage}: has no digests of its samples and settings, so they cannot be compared; read it "
            "with repdyn.open_paths, " + remedy
        )
    for key in sorted(there.keys() | here.keys()):
        for value in (here.get(key), there.get(key)):
            if isinstance(value, str) and not _is_digest(value):
                raise RepdynError(
                    f"{storage}: cannot be continued, because its {key} cannot be compared "
                    f"({value}); {remedy}"
                )
        if there.get(key) != here.get(key):
            raise RepdynError(f"{storage}: holds another trace, its {key} {_are(key)} different; {remedy}")


def _is_digest(value: str) -> bool:
    """Whether a text is a SHA-256 in hexadecimal digits."""
    return len(value) == 64 and set(value) <= set("0123456789abcdef")


def _are(key: str) -> str:
    """The verb for a key, which may be a plural."""
    return "are" if key.endswith("s") else "is"


def create_store(storage: Storage, layout: Layout) -> None:
    """Create an empty store atomically; an earlier store is removed."""
    _check_owned(storage)
    if isinstance(storage, Folder):
        scratch = storage.scratch()
        try:
            fill_store(scratch, layout)
            storage.take_over(scratch)
        finally:
            scratch.remove_below("")
    else:
        # Objects cannot be renamed together: the group's metadata, which marks a store, is written last.
        storage.remove_below("")
        fill_store(storage, layout)


def fill_store(storage: Storage, layout: Layout) -> None:
    """Write the metadata of a store to an empty location."""
    for name, metadata in layout.arrays(None).items():
        write_json(storage, f"{name}/zarr.json", metadata)
    for name in layout.groups():
        write_json(storage, f"{name}/zarr.json", group_metadata({}))
    write_json(storage, "zarr.json", group_metadata(layout.to_attributes()))


def keep_checksums(storage: Storage, layout: Layout) -> None:
    """Add the checksum array to a store that an earlier repdyn began without one."""
    if read_json(storage, "checksums/zarr.json") is None:
        write_json(storage, "checksums/zarr.json", layout.arrays(None)["checksums"])


def _short(value: Any) -> str:
    """The repr of a value, at most 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"
