"""The chunks of a store: written whole, there from the moment their ids are there, redone where damaged."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repdyn.errors import RepdynError
from repdyn.paths.checks import check_finite, check_ids, check_labels
from repdyn.paths.columns import Index
from repdyn.paths.layout import Layout
from repdyn.paths.zarr_format import (
    PARTIAL,
    array_metadata,
    encode_strings,
    group_metadata,
    read_json,
    write_file,
    write_json,
)

__all__ = ["chunk_is_whole", "label_dtype", "missing_rows", "read_chunk_lengths", "seal", "write_chunk"]


def missing_rows(folder: Path, layout: Layout) -> list[range]:
    """The samples of the chunks that are not there in full."""
    labels = label_dtype(folder)
    return [
        layout.rows(chunk)
        for chunk in range(layout.chunks)
        if not chunk_is_whole(folder, layout, chunk, labels)
    ]


def write_chunk(
    folder: Path,
    layout: Layout,
    start: int,
    arrays: Mapping[str, ArrayLike | Sequence[NDArray[Any]]],
    ids: ArrayLike,
    labels: ArrayLike | None,
    logits: ArrayLike | None,
) -> None:
    """Check the samples of one chunk, then write them; see :meth:`PathsWriter.write_chunk`."""
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
            f"arrays: are of points {list(arrays)}, expected {list(layout.points)}; {differing} differ"
        )
    known_labels = check_labels(labels, len(rows))
    packed = np.zeros((layout.chunk_rows, layout.row_width), layout.dtype)
    for point, low in layout.offsets.items():
        values = np.asarray(arrays[point])
        _check(values, point, names, (len(rows), layout.widths[point]))
        packed[: len(rows), low : low + layout.widths[point]] = _cast(values, layout.dtype, point, names)
    ragged = {p: _check_tokens(arrays[p], p, names, layout) for p in layout.tokens}
    outputs = _check_logits(logits, names, layout)
    _agree_on_labels(folder, layout, known_labels, chunk)
    # All is checked: from here on only the disk can refuse. A chunk that is written again is absent
    # meanwhile, so that it never mixes old and new.
    (folder / f"ids/c/{chunk}").unlink(missing_ok=True)
    if layout.row_width:
        write_file(folder / f"paths/c/{chunk}/0", _little(packed))
    for number, samples in enumerate(ragged.values()):
        _write_tokens(folder, layout, number, chunk, samples)
    if layout.tokens:
        lengths = np.zeros((layout.chunk_rows, len(layout.tokens)), np.int64)
        for number, samples in enumerate(ragged.values()):
            lengths[: len(rows), number] = [len(sample) for sample in samples]
        write_file(folder / f"lengths/c/{chunk}/0", _little(lengths))
    if outputs is not None:
        write_file(folder / f"logits/c/{chunk}/0", _little(_padded(outputs, layout.chunk_rows)))
    if known_labels is not None:
        write_file(folder / f"labels/c/{chunk}", _encode(known_labels, layout.chunk_rows))
    write_file(folder / f"ids/c/{chunk}", _encode(names, layout.chunk_rows))


def seal(folder: Path, layout: Layout) -> Layout:
    """Mark a store complete, with the metadata of all its arrays in one place; returns what it now holds."""
    for leftover in folder.rglob(f".*{PARTIAL}"):
        leftover.unlink(missing_ok=True)
    finished = layout.finished()
    metadata = {
        str(file.parent.relative_to(folder)): read_json(file) or {}
        for file in sorted(folder.glob("*/**/zarr.json"))
    }
    write_json(folder / "zarr.json", group_metadata(finished.to_attributes(), metadata))
    return finished


def chunk_is_whole(folder: Path, layout: Layout, chunk: int, labels: str | None = None) -> bool:
    """Whether all files of a chunk are there in full length; its ids are written last.

    With ``labels`` (their dtype) the chunk's labels must be there too.
    """
    try:
        if (folder / f"ids/c/{chunk}").stat().st_size <= 4:
            return False
        if labels is not None:
            size = (folder / f"labels/c/{chunk}").stat().st_size
            if size <= 4 or (labels == "int64" and size != layout.chunk_rows * 8):
                return False
        files = list(layout.fixed_files(chunk))
        if any((folder / name).stat().st_size != size for name, size in files):
            return False
        if layout.tokens:
            lengths = read_chunk_lengths(folder, layout, chunk)
            files = list(layout.token_files(chunk, lengths))
            return all((folder / name).stat().st_size == size for name, size in files)
    except OSError:
        return False
    return True


def label_dtype(folder: Path) -> str | None:
    """The dtype of a store's labels, ``None`` where it has none."""
    document = read_json(folder / "labels/zarr.json")
    return None if document is None else str(document.get("data_type"))


def read_chunk_lengths(folder: Path, layout: Layout, chunk: int) -> Index:
    """Tokens of each sample of a chunk at the points that keep them, ``(rows, P)``."""
    count = len(layout.tokens)
    found = np.fromfile(folder / f"lengths/c/{chunk}/0", "<i8").reshape(layout.chunk_rows, count)
    return found[: len(layout.rows(chunk))]


def _check(values: NDArray[Any], point: str, ids: NDArray[np.str_], shape: tuple[int, ...]) -> None:
    if values.shape != shape:
        where = f" from sample {str(ids[0])!r} on" if len(ids) else ""
        raise RepdynError(f"point {point!r}: has shape {values.shape}{where}, expected {shape}")
    check_finite(values, point, ids)


def _check_tokens(samples: Any, point: str, ids: NDArray[np.str_], layout: Layout) -> list[NDArray[Any]]:
    if len(samples) != len(ids):
        raise RepdynError(f"point {point!r}: has tokens of {len(samples)} samples, expected {len(ids)}")
    found = []
    for sample, name in zip(samples, ids):
        values = np.asarray(sample)
        count = values.shape[0] if values.ndim else 0
        # Every token answers to its sample's name.
        names = np.full(count, name)
        _check(values, point, names, (count, layout.widths[point]))
        found.append(_cast(values, layout.dtype, point, names))
    return found


def _check_logits(
    logits: ArrayLike | None, ids: NDArray[np.str_], layout: Layout
) -> NDArray[np.float32] | None:
    wanted = layout.logits_width
    if (logits is None) != (wanted is None):
        given = "missing" if logits is None else "given"
        raise RepdynError(f"logits: are {given}, but the store was started with logits_width={wanted}")
    if logits is None or wanted is None:
        return None
    values = np.asarray(logits, dtype=np.float32)
    _check(values, "logits", ids, (len(ids), wanted))
    return values


def _agree_on_labels(folder: Path, layout: Layout, labels: NDArray[Any] | None, chunk: int) -> None:
    """Labels are of one kind, for all samples or none; the first chunk that is written decides."""
    kind = None if labels is None else "int64" if labels.dtype.kind == "i" else "string"
    before = label_dtype(folder)
    if kind == before:
        return
    others = (number for number in range(layout.chunks) if number != chunk)
    if any(chunk_is_whole(folder, layout, number, before) for number in others):
        raise RepdynError(
            f"labels: are {kind or 'missing'} in this chunk but {before or 'missing'} in the others; "
            "give all samples labels of one kind"
        )
    shutil.rmtree(folder / "labels", ignore_errors=True)
    if kind is not None:
        write_json(folder / "labels/zarr.json", layout.arrays(kind)["labels"])


def _write_tokens(folder: Path, layout: Layout, number: int, chunk: int, samples: list[NDArray[Any]]) -> None:
    flat = np.concatenate(samples)
    place = folder / f"tokens/{number}/{chunk}"
    if len(flat):
        write_file(place / "c/0/0", _little(flat))
    grid = (max(len(flat), 1), flat.shape[1])
    write_json(place / "zarr.json", array_metadata(flat.shape, grid, layout.dtype))


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
