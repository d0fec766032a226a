"""Layout of a store of paths: its arrays, files and metadata, shared by readers and writers.

::

    a.paths/            a Zarr v3 group; everything below is in its attributes under "repdyn"
      paths/            (N, sum of D)   the pooled points of a sample, concatenated in one row
      lengths/          (N, P)          number of tokens of each sample at the P points with tokens
      tokens/P/K        (tokens, D)     the tokens at point P of the samples of chunk K, concatenated
      logits/           (N, C)
      labels/           (N,)            integers or strings
      checksums/        (K, files)      SHA-256 of every file of the K chunks, written with the chunk
      ids/              (N,)            strings, written last: a chunk exists once its ids do

Metadata is written here and not by zarr-python. A chunk must be put in place by one rename, so that a killed
writer leaves it complete or absent, and opening a store then needs only ``json`` and memory maps. Any Zarr v3
reader reads the result; the tests read it with zarr-python.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ml_dtypes  # registers "bfloat16" with NumPy
import numpy as np
from numpy.typing import NDArray

from repdyn.errors import RepdynError
from repdyn.paths.arrays import SCHEMA_VERSION, STORAGE_DTYPES
from repdyn.paths.storage import Storage, refuse_exhaustion, storage_at

__all__ = [
    "Layout",
    "array_metadata",
    "as_storage",
    "decode_strings",
    "encode_strings",
    "group_metadata",
    "is_paths",
    "is_store",
    "layout_of",
    "read_json",
    "read_layout",
    "rows_per_chunk",
    "write_json",
]

# Files of 16 to 64 MiB with whole rows were fastest for shuffled reads (memory maps of some ten files).
_CHUNK_BYTES = 32 * 2**20
# Even a small store has about this many chunks, because an interruption loses a chunk.
_CHUNKS_WANTED = 16
# Chunks have at least this many rows, and multiples of it, so that batches fill chunks.
_ROWS_WANTED = 64
# A petabyte has fewer chunks; damaged metadata with more must not keep a reader busy.
_MOST_CHUNKS = 10**6


@dataclass(frozen=True)
class Layout:
    """Contents of a store.

    Attributes
    ----------
    points
        Names in order of depth.
    widths
        ``{point: D}``.
    tokens
        The points with tokens.
    size
        Number of samples N of the complete store.
    chunk_rows
        Samples in a chunk (the last may hold fewer).
    dtype
        Storage type of the representations.
    logits_width
        Number of logits C, or ``None``.
    meta
        Provenance of the paths.
    complete
        Whether the writer has finished.
    """

    points: tuple[str, ...]
    widths: dict[str, int]
    tokens: tuple[str, ...]
    size: int
    chunk_rows: int
    dtype: str
    logits_width: int | None
    meta: dict[str, Any] = field(default_factory=dict)
    complete: bool = False

    @property
    def shown_dtype(self) -> np.dtype[Any]:
        """Type that readers return: bfloat16, which NumPy does not compute with, as float32 without loss."""
        stored = np.dtype(self.dtype)
        return np.dtype(np.float32) if stored == ml_dtypes.bfloat16 else stored

    @property
    def chunks(self) -> int:
        """Number of chunks."""
        return -(-self.size // self.chunk_rows)

    @property
    def offsets(self) -> dict[str, int]:
        """First entry of each pooled point in a packed row."""
        offsets, position = {}, 0
        for point in self.points:
            if point not in self.tokens:
                offsets[point] = position
                position += self.widths[point]
        return offsets

    @property
    def row_width(self) -> int:
        """Number of entries of a packed row."""
        return sum(self.widths[point] for point in self.offsets)

    def rows(self, chunk: int) -> range:
        """Sample numbers of a chunk."""
        return range(chunk * self.chunk_rows, min((chunk + 1) * self.chunk_rows, self.size))

    def arrays(self, label_dtype: str | None) -> dict[str, dict[str, Any]]:
        """Metadata of the arrays by name, except the token arrays of single chunks."""
        size, rows = self.size, self.chunk_rows
        arrays = {"ids": array_metadata((size,), (rows,), "string")}
        parts = list(self.files(0))
        arrays["checksums"] = array_metadata((self.chunks, len(parts)), (1, len(parts)), "string")
        arrays["checksums"]["attributes"] = {"algorithm": "sha256", "of": parts}
        if self.row_width:
            arrays["paths"] = array_metadata((size, self.row_width), (rows, self.row_width), self.dtype)
        if self.tokens:
            count = len(self.tokens)
            arrays["lengths"] = array_metadata((size, count), (rows, count), "int64")
        if self.logits_width is not None:
            arrays["logits"] = array_metadata((size, self.logits_width), (rows, self.logits_width), "float32")
        if label_dtype is not None:
            arrays["labels"] = array_metadata((size,), (rows,), label_dtype)
        return arrays

    def groups(self) -> list[str]:
        """Names of the subgroups."""
        return ["tokens", *(f"tokens/{number}" for number in range(len(self.tokens)))] if self.tokens else []

    def files(self, chunk: int) -> dict[str, str]:
        """File names of a chunk by array, including optional ones."""
        flat = {name: f"{name}/c/{chunk}" for name in ("labels", "ids")}
        square = {name: f"{name}/c/{chunk}/0" for name in ("paths", "lengths", "logits")}
        tokens = {f"tokens/{number}": f"tokens/{number}/{chunk}/c/0/0" for number in range(len(self.tokens))}
        return {**square, **flat, **tokens}

    def fixed_files(self, chunk: int) -> Iterator[tuple[str, int]]:
        """Names and sizes in bytes of a chunk's files of fixed size."""
        if self.row_width:
            yield f"paths/c/{chunk}/0", self.chunk_rows * self.row_width * np.dtype(self.dtype).itemsize
        if self.tokens:
            yield f"lengths/c/{chunk}/0", self.chunk_rows * len(self.tokens) * 8
        if self.logits_width is not None:
            yield f"logits/c/{chunk}/0", self.chunk_rows * self.logits_width * 4

    def token_files(self, chunk: int, lengths: NDArray[np.int64]) -> Iterator[tuple[str, int]]:
        """Names and sizes in bytes of a chunk's token files, given the ``(rows, P)`` lengths."""
        for number, point in enumerate(self.tokens):
            count = int(lengths[:, number].sum())
            if count:
                yield (
                    f"tokens/{number}/{chunk}/c/0/0",
                    count * self.widths[point] * np.dtype(self.dtype).itemsize,
                )

    def to_attributes(self) -> dict[str, Any]:
        """The group's attributes, with a digest of them."""
        known = {
            "schema": SCHEMA_VERSION,
            "complete": self.complete,
            "size": self.size,
            "chunk_rows": self.chunk_rows,
            "dtype": self.dtype,
            "points": list(self.points),
            "widths": self.widths,
            "offsets": self.offsets,
            "tokens": list(self.tokens),
            "logits_width": self.logits_width,
            "meta": self.meta,
        }
        return {"repdyn": known | {"sha256": _digest(known)}}

    def finished(self) -> Layout:
        """The layout marked complete."""
        return replace(self, complete=True)


def as_storage(store: Storage | str | os.PathLike[str]) -> Storage:
    """The storage at a path or URL, or the storage given."""
    return storage_at(store) if isinstance(store, str | os.PathLike) else store


def is_store(storage: Storage) -> bool:
    """Whether a location holds a store of paths, of any schema, complete or not."""
    return is_paths(read_json(storage, "zarr.json"))


def read_layout(store: Storage | str | os.PathLike[str]) -> Layout:
    """Read the layout of a store.

    Raises
    ------
    RepdynError
        If the store is missing, damaged, of another kind, or written by a newer repdyn.
    """
    storage = as_storage(store)
    return layout_of(storage, read_json(storage, "zarr.json"))


def layout_of(storage: Storage, document: dict[str, Any] | None) -> Layout:
    """The layout from the contents of a store's ``zarr.json``; see :func:`read_layout`."""
    if document is None:
        if not storage.exists():
            hint = "repdyn trace writes a store"
            if str(storage).startswith("hf://"):
                hint = (
                    "a store on the Hub is hf://datasets/user/name, and a private one needs `hf auth login`"
                )
            raise RepdynError(f"{storage}: there is no store of paths and no file of vectors; {hint}")
        what = (
            "is not a store of paths (it has no readable zarr.json), nor a file of vectors by its ending "
            "(.npy, .npz, .parquet, .arrow, .feather, .lance, .safetensors)"
        )
        if any(read_json(storage, f"{name}/zarr.json") is not None for name in ("paths", "ids", "lengths")):
            what = (
                "has lost its attributes (zarr.json is missing or truncated); trace or save the paths again"
            )
        raise RepdynError(f"{storage}: {what}")
    if not is_paths(document):
        raise RepdynError(
            f"{storage}: is a Zarr store, but not of paths; repdyn trace writes stores of paths"
        )
    known = document["attributes"]["repdyn"]
    schema = known.get("schema")
    if isinstance(schema, int) and schema > SCHEMA_VERSION:
        raise RepdynError(
            f"{storage}: was written by a newer repdyn (schema {schema}, this one reads up to "
            f"{SCHEMA_VERSION}); upgrade repdyn"
        )
    try:
        changed = "sha256" in known and known["sha256"] != _digest(known)  # earlier stores have none
        layout = Layout(
            points=tuple(map(str, known["points"])),
            widths={str(point): _whole(width) for point, width in known["widths"].items()},
            tokens=tuple(map(str, known["tokens"])),
            size=_whole(known["size"]),
            chunk_rows=_whole(known["chunk_rows"]),
            dtype=np.dtype(known["dtype"]).name,
            logits_width=None if known["logits_width"] is None else _whole(known["logits_width"]),
            meta=_mapping(known["meta"]),
            complete=bool(known["complete"]),
        )
        # JSON objects are unordered; the points are ordered by depth.
        ordered = {point: layout.widths[point] for point in layout.points}
        if not layout.points or not set(layout.tokens) <= set(layout.points):
            raise ValueError
        if len(ordered) != len(layout.points) or layout.dtype not in STORAGE_DTYPES:
            raise ValueError
        if layout.chunks > _MOST_CHUNKS:
            raise ValueError
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError):
        raise RepdynError(f"{storage}: its attributes are damaged; trace or save the paths again") from None
    if changed:
        raise RepdynError(
            f"{storage}: its attributes are damaged, they differ from those that were written; trace or save "
            "the paths again, or remove sha256 from them (zarr.json) if the change was intended"
        )
    return replace(layout, widths=ordered)


def rows_per_chunk(size: int, row_bytes: int) -> int:
    """Samples in a chunk: about 32 MiB, or fewer for at least about sixteen chunks."""
    by_bytes = max(_CHUNK_BYTES // max(row_bytes, 1), 1)
    rows = min(by_bytes, -(-size // _CHUNKS_WANTED))
    if rows > _ROWS_WANTED:
        # Rounded up for small stores and down for wide rows, within the limit of bytes.
        up = -(-rows // _ROWS_WANTED) * _ROWS_WANTED
        rows = up if up <= by_bytes else rows // _ROWS_WANTED * _ROWS_WANTED
    else:
        rows = min(_ROWS_WANTED, by_bytes)
    return min(rows, size)


def _whole(value: Any) -> int:
    """A whole number from 1, of what JSON may hold in its storage."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < 2**62:
        raise ValueError
    return value


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError
    return value


def _digest(attributes: Mapping[str, Any]) -> str:
    """SHA-256 of attributes as JSON holds them, whatever their order."""
    held = json.loads(json.dumps({key: value for key, value in attributes.items() if key != "sha256"}))
    return hashlib.sha256(json.dumps(held, sort_keys=True).encode()).hexdigest()


def is_paths(document: Mapping[str, Any] | None) -> bool:
    """Whether the contents of a ``zarr.json`` are those of a store of paths."""
    attributes = document.get("attributes") if document else None
    return isinstance(attributes, dict) and isinstance(attributes.get("repdyn"), dict)


def array_metadata(shape: Sequence[int], chunks: Sequence[int], dtype: str) -> dict[str, Any]:
    """``zarr.json`` of an array: uncompressed, little-endian, C order; ``dtype`` may be ``"string"``.

    Zarr has no bfloat16. Such an array has type uint16 and the attribute ``bits_of``.
    """
    text, bits = dtype == "string", dtype == "bfloat16"
    codec: dict[str, Any] = (
        {"name": "vlen-utf8", "configuration": {}}
        if text
        else {"name": "bytes", "configuration": {"endian": "little"}}
    )
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": "uint16" if bits else dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunks)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": "" if text else 0 if bits or dtype.startswith("int") else 0.0,
        "codecs": [codec],
        "attributes": {"bits_of": dtype} if bits else {},
        "storage_transformers": [],
    }


def group_metadata(
    attributes: Mapping[str, Any], consolidated: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, Any]:
    """``zarr.json`` of a group, with consolidated metadata if given."""
    document: dict[str, Any] = {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)}
    if consolidated is not None:
        document["consolidated_metadata"] = {
            "kind": "inline",
            "must_understand": False,
            "metadata": dict(consolidated),
        }
    return document


def encode_strings(values: Iterable[str]) -> bytes:
    """A chunk of strings in the ``vlen-utf8`` codec: the count, then length and bytes of each string."""
    # File names need not be UTF-8; characters that cannot be encoded are escaped.
    encoded = [value.encode(errors="backslashreplace") for value in values]
    parts = [struct.pack("<I", len(encoded))]
    for item in encoded:
        parts += [struct.pack("<I", len(item)), item]
    return b"".join(parts)


def decode_strings(data: bytes, source: object) -> list[str]:
    """Read a chunk of strings; an error names ``source``."""
    try:
        (count,) = struct.unpack_from("<I", data, 0)
        position, strings = 4, []
        for _ in range(count):
            (length,) = struct.unpack_from("<I", data, position)
            position += 4 + length
            if position > len(data):
                raise struct.error
            strings.append(data[position - length : position].decode())
    except (struct.error, UnicodeDecodeError):
        raise RepdynError(f"{source}: is truncated or damaged; trace or save these paths again") from None
    return strings


def write_json(storage: Storage, name: str, document: Mapping[str, Any]) -> None:
    """Write a JSON file atomically."""
    storage.write(name, (json.dumps(document, indent=1) + "\n").encode())


def read_json(storage: Storage, name: str) -> dict[str, Any] | None:
    """Read a JSON object; ``None`` if there is none or it is not readable."""
    try:
        document = json.loads(storage.read(name))
    except (OSError, ValueError, RecursionError) as error:  # the last: JSON nested a thousand deep
        refuse_exhaustion(error)
        # Storage that cannot be reached raises; a file that is missing or not JSON gives None.
        if isinstance(error, RepdynError):
            raise
        return None
    return document if isinstance(document, dict) else None
