"""Chunks of a store: a chunk is written file by file and exists once its ids are written."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repdyn.errors import RepdynError
from repdyn.paths.arrays import check_finite, check_ids, check_labels
from repdyn.paths.columns import Index
from repdyn.paths.layout import (
    Layout,
    array_metadata,
    decode_strings,
    encode_strings,
    group_metadata,
    read_json,
    write_json,
)
from repdyn.paths.storage import Storage, as_bytes

__all__ = [
    "checksum",
    "chunk_is_whole",
    "label_dtype",
    "missing_rows",
    "read_checksums",
    "read_chunk_lengths",
    "read_content",
    "seal",
    "set_label_dtype",
    "write_chunk",
]

Sizes = Callable[[str], int | None]


def missing_rows(storage: Storage, layout: Layout) -> list[range]:
    """Sample numbers of the chunks that are missing or incomplete."""
    labels, sizes = label_dtype(storage), storage.sizes()
    return [
        layout.rows(chunk)
        for chunk in range(layout.chunks)
        if not chunk_is_whole(storage, layout, chunk, sizes, labels)
    ]


def write_chunk(
    storage: Storage,
    layout: Layout,
    start: int,
    arrays: Mapping[str, ArrayLike | Sequence[NDArray[Any]]],
    ids: ArrayLike,
    labels: ArrayLike | None,
    logits: ArrayLike | None,
    content: str | None = None,
) -> None:
    """Check and write the samples of one chunk; the arguments are those of ``PathsWriter.write_chunk``."""
    chunk, offset = divmod(start, layout.chunk_rows)
    if offset or not 0 <= start < layout.size:
        raise RepdynError(
            f"start: no chunk begins at {start}; expected a multiple of {layout.chunk_rows} "
            f"below {layout.size}"
        )
    rows = layout.rows(chunk)
    names = check_ids(ids, len(rows))
    if set(arrays) != set(layout.points):
        differing = sorted(set(arrays) ^ set(layout.points))
        raise RepdynError(
            f"arrays: have points {list(arrays)}, expected {list(layout.points)}; {differing} differ"
        )
    known_labels = check_labels(labels, len(rows))
    packed = np.zeros((layout.chunk_rows, layout.row_width), layout.dtype)
    for point, low in layout.offsets.items():
        values = np.asarray(arrays[point])
        _check(values, point, names, (len(rows), layout.widths[point]))
        packed[: len(rows), low : low + layout.widths[point]] = _cast(values, layout.dtype, point, names)
    ragged = {p: _check_tokens(arrays[p], p, names, layout) for p in layout.tokens}
    outputs = _check_logits(logits, names, layout)
    set_label_dtype(storage, layout, known_labels, chunk)
    # All checks have passed; only the disk can fail from here on. Removing the ids first marks the chunk as
    # absent, so that it never mixes old and new files.
    files = layout.files(chunk)
    storage.remove(files["ids"])
    contents: dict[str, bytes | NDArray[Any]] = {}
    if layout.row_width:
        contents["paths"] = _little(packed)
    for number, samples in enumerate(ragged.values()):
        flat = np.concatenate(samples)
        if len(flat):
            contents[f"tokens/{number}"] = _little(flat)
        write_json(storage, f"tokens/{number}/{chunk}/zarr.json", _token_array(flat.shape, layout))
    if layout.tokens:
        lengths = np.zeros((layout.chunk_rows, len(layout.tokens)), np.int64)
        for number, samples in enumerate(ragged.values()):
            lengths[: len(rows), number] = [len(sample) for sample in samples]
        contents["lengths"] = _little(lengths)
    if outputs is not None:
        contents["logits"] = _little(_padded(outputs, layout.chunk_rows))
    if known_labels is not None:
        contents["labels"] = _encode(known_labels, layout.chunk_rows)
    for name, data in contents.items():
        storage.write(files[name], data)
    contents["ids"] = _encode(names, layout.chunk_rows)
    sums = [checksum(contents[name]) if name in contents else "" for name in files]
    storage.write(f"checksums/c/{chunk}/0", encode_strings(sums))
    _write_content(storage, layout, chunk, content)
    storage.write(files["ids"], contents["ids"])


def seal(storage: Storage, layout: Layout) -> Layout:
    """Mark a store complete and consolidate its metadata; returns the new layout."""
    storage.sweep()
    finished = layout.finished()
    metadata: dict[str, Any] = {name: group_metadata({}) for name in layout.groups()}
    metadata.update(layout.arrays(label_dtype(storage)))
    for chunk in range(layout.chunks if layout.tokens else 0):
        counts = read_chunk_lengths(storage, layout, chunk).sum(axis=0).tolist()
        for number, (point, count) in enumerate(zip(layout.tokens, counts)):
            metadata[f"tokens/{number}/{chunk}"] = _token_array((count, layout.widths[point]), layout)
    document = group_metadata(finished.to_attributes(), dict(sorted(metadata.items())))
    write_json(storage, "zarr.json", document)
    return finished


def checksum(content: bytes | NDArray[Any]) -> str:
    """SHA-256 of a file's contents."""
    return "sha256:" + hashlib.sha256(as_bytes(content)).hexdigest()


def read_checksums(storage: Storage, layout: Layout, chunk: int) -> dict[str, str] | None:
    """Checksums of a chunk's files by name, or ``None`` if none were written."""
    name = f"checksums/c/{chunk}/0"
    try:
        sums = decode_strings(storage.read(name), f"{storage}/{name}")
    except FileNotFoundError:
        return None
    return {file: known for file, known in zip(layout.files(chunk).values(), sums) if known}


def read_content(storage: Storage, chunk: int) -> str | None:
    """Digest of a chunk's samples, or ``None`` if none was written."""
    name = f"content/c/{chunk}"
    try:
        (digest,) = decode_strings(storage.read(name), f"{storage}/{name}")
    except (FileNotFoundError, ValueError):
        return None
    return digest


def _write_content(storage: Storage, layout: Layout, chunk: int, content: str | None) -> None:
    """Write the digest of a chunk's samples, or remove it."""
    if content is None:
        storage.remove(f"content/c/{chunk}")
        return
    if read_json(storage, "content/zarr.json") is None:
        write_json(storage, "content/zarr.json", array_metadata((layout.chunks,), (1,), "string"))
    storage.write(f"content/c/{chunk}", encode_strings([content]))


def chunk_is_whole(
    storage: Storage, layout: Layout, chunk: int, sizes: Sizes, labels: str | None = None
) -> bool:
    """Whether all files of a chunk exist with their full size; the ids are written last.

    With ``labels`` (their dtype) the chunk must have labels too.
    """
    names = layout.files(chunk)
    # Strings begin with their number, in four bytes. A file of no more than these holds none.
    if (sizes(names["ids"]) or 0) <= 4:
        return False
    if labels is not None:
        size = sizes(names["labels"]) or 0
        if size <= 4 or (labels == "int64" and size != layout.chunk_rows * 8):
            return False
    if any(sizes(name) != size for name, size in layout.fixed_files(chunk)):
        return False
    if layout.tokens:
        lengths = read_chunk_lengths(storage, layout, chunk)
        return all(sizes(name) == size for name, size in layout.token_files(chunk, lengths))
    return True


def label_dtype(storage: Storage) -> str | None:
    """Type of a store's labels, or ``None`` without labels."""
    document = read_json(storage, "labels/zarr.json")
    return None if document is None else str(document.get("data_type"))


def set_label_dtype(storage: Storage, layout: Layout, labels: NDArray[Any] | None, chunk: int | None) -> None:
    """Set the type of a store's labels: one type, for all samples or none.

    The first chunk that is written sets it. With ``chunk=None`` it is set before any chunk is written, which
    concurrent writers need.
    """
    kind = None if labels is None else "int64" if labels.dtype.kind == "i" else "string"
    before = label_dtype(storage)
    if kind == before:
        return
    sizes = storage.sizes()
    others = (number for number in range(layout.chunks) if number != chunk)
    if any(chunk_is_whole(storage, layout, number, sizes, before) for number in others):
        raise RepdynError(
            f"labels: are {kind or 'missing'} in this chunk but {before or 'missing'} in the others; "
            "give all samples labels of one kind"
        )
    storage.remove_below("labels")
    if kind is not None:
        write_json(storage, "labels/zarr.json", layout.arrays(kind)["labels"])


def read_chunk_lengths(storage: Storage, layout: Layout, chunk: int) -> Index:
    """Number of tokens of each sample of a chunk at the P points with tokens, ``(rows, P)``."""
    name = layout.files(chunk)["lengths"]
    shape = (layout.chunk_rows, len(layout.tokens))
    data = storage.read(name)
    if len(data) != 8 * shape[0] * shape[1]:
        raise RepdynError(f"{storage}/{name}: is truncated or damaged; trace or save these paths again")
    lengths = np.frombuffer(data, "<i8").reshape(shape)[: len(layout.rows(chunk))]
    if (lengths < 0).any():
        raise RepdynError(f"{storage}/{name}: holds a negative length; trace or save these paths again")
    return lengths


def _check(values: NDArray[Any], point: str, ids: NDArray[np.str_], shape: tuple[int, ...]) -> None:
    """Raise if values have another shape or are not finite."""
    if values.shape != shape:
        where = f" from sample {str(ids[0])!r} on" if len(ids) else ""
        raise RepdynError(f"point {point!r}: has shape {values.shape}{where}, expected {shape}")
    check_finite(values, point, ids)


def _check_tokens(samples: Any, point: str, ids: NDArray[np.str_], layout: Layout) -> list[NDArray[Any]]:
    """Tokens of each sample, ``(T, D)`` in the storage type, checked."""
    if len(samples) != len(ids):
        raise RepdynError(f"point {point!r}: has tokens of {len(samples)} samples, expected {len(ids)}")
    tokens = []
    for sample, name in zip(samples, ids):
        values = np.asarray(sample)
        count = values.shape[0] if values.ndim else 0
        # An error of any token names its sample.
        names = np.full(count, name)
        _check(values, point, names, (count, layout.widths[point]))
        tokens.append(_cast(values, layout.dtype, point, names))
    return tokens


def _check_logits(
    logits: ArrayLike | None, ids: NDArray[np.str_], layout: Layout
) -> NDArray[np.float32] | None:
    """Logits ``(rows, C)`` as float32, or ``None``; raise if they do not match the layout."""
    wanted = layout.logits_width
    if (logits is None) != (wanted is None):
        given = "missing" if logits is None else "given"
        raise RepdynError(f"logits: are {given}, but the store was started with logits_width={wanted}")
    if logits is None or wanted is None:
        return None
    values = np.asarray(logits, dtype=np.float32)
    _check(values, "logits", ids, (len(ids), wanted))
    return values


def _token_array(shape: tuple[int, ...], layout: Layout) -> dict[str, Any]:
    """Metadata of the token array of one chunk."""
    return array_metadata(shape, (max(shape[0], 1), shape[1]), layout.dtype)


def _cast(values: NDArray[Any], dtype: str, point: str, ids: NDArray[np.str_]) -> NDArray[Any]:
    """Values in the storage type; raise if one overflows."""
    with np.errstate(over="ignore"):  # checked below
        stored = values.astype(dtype, copy=False)
    if stored.dtype.itemsize < values.dtype.itemsize and len(stored):
        too_large = ~np.isfinite(stored).all(axis=1)
        if too_large.any():
            sample = int(np.argmax(too_large))
            raise RepdynError(
                f"point {point!r}, sample {str(ids[sample])!r}: holds {np.abs(values[sample]).max():.3g}, "
                f"too large for {dtype}; store float32"
            )
    return stored


def _little(values: NDArray[Any]) -> NDArray[Any]:
    """The array in little-endian byte order."""
    return values.astype(values.dtype.newbyteorder("<"), copy=False)


def _padded(values: NDArray[Any], rows: int) -> NDArray[Any]:
    """The array with zeros appended to ``rows`` rows."""
    return np.concatenate([values, np.zeros((rows - len(values), *values.shape[1:]), values.dtype)])


def _encode(values: NDArray[Any], rows: int) -> bytes | NDArray[Any]:
    """Contents of a chunk file of ids or labels, padded to ``rows`` entries."""
    if values.dtype.kind == "U":
        return encode_strings([*values.tolist(), *[""] * (rows - len(values))])
    return _little(_padded(values, rows))
