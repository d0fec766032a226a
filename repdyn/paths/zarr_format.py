"""The parts of the Zarr v3 format that a store of paths uses.

Metadata is written here and not through zarr-python because a chunk must be put in place by one rename (so
that a killed writer leaves it complete or absent), and because opening a store then needs no more than
``json`` and memory maps. Any Zarr v3 reader reads the result; the tests read it with zarr-python.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from repdyn.errors import RepdynError
from repdyn.paths.places import Place, refuse_exhaustion

__all__ = [
    "array_metadata",
    "decode_strings",
    "encode_strings",
    "group_metadata",
    "read_json",
    "write_json",
]


def array_metadata(shape: Sequence[int], chunks: Sequence[int], dtype: str) -> dict[str, Any]:
    """``zarr.json`` of an array: uncompressed, little-endian, C order; ``dtype`` may be ``"string"``.

    Zarr has no bfloat16: such an array is one of 16-bit integers that are its bits, and says so.
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
    """``zarr.json`` of a group, with the metadata of everything below it where that is given."""
    document: dict[str, Any] = {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)}
    if consolidated is not None:
        document["consolidated_metadata"] = {
            "kind": "inline",
            "must_understand": False,
            "metadata": dict(consolidated),
        }
    return document


def encode_strings(values: Iterable[str]) -> bytes:
    """A chunk of strings as the ``vlen-utf8`` codec lays it out: count, then length and bytes of each."""
    # A file name that is no UTF-8 still is a name: what cannot be encoded is spelled out.
    encoded = [value.encode(errors="backslashreplace") for value in values]
    parts = [struct.pack("<I", len(encoded))]
    for item in encoded:
        parts += [struct.pack("<I", len(item)), item]
    return b"".join(parts)


def decode_strings(data: bytes, source: object) -> list[str]:
    """Read a chunk of strings; ``source`` is named where it is truncated."""
    try:
        (count,) = struct.unpack_from("<I", data, 0)
        position, found = 4, []
        for _ in range(count):
            (length,) = struct.unpack_from("<I", data, position)
            position += 4 + length
            if position > len(data):
                raise struct.error
            found.append(data[position - length : position].decode())
    except (struct.error, UnicodeDecodeError):
        raise RepdynError(f"{source}: is truncated or damaged; trace or save these paths again") from None
    return found


def write_json(place: Place, name: str, document: Mapping[str, Any]) -> None:
    """Write JSON, complete or not at all."""
    place.write(name, (json.dumps(document, indent=1) + "\n").encode())


def read_json(place: Place, name: str) -> dict[str, Any] | None:
    """Read a JSON object; ``None`` where there is none that can be read."""
    try:
        found = json.loads(place.read(name))
    except (OSError, ValueError, RecursionError) as error:  # the last: JSON nested a thousand deep
        refuse_exhaustion(error)
        # A place that cannot be reached says so; a file that is missing or no JSON is no object.
        if isinstance(error, RepdynError):
            raise
        return None
    return found if isinstance(found, dict) else None
