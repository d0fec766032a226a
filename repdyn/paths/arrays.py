"""Checks of arrays and of what describes them, and columns made of arrays in memory.

Every error names the point and the sample.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from importlib import metadata
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repdyn.errors import NotFiniteError, RepdynError
from repdyn.paths.columns import TokenColumn, VectorColumn
from repdyn.reading import as_array

__all__ = [
    "MAY_DIFFER",
    "SCHEMA_VERSION",
    "STORAGE_DTYPES",
    "check_finite",
    "check_ids",
    "check_labels",
    "check_logits",
    "check_points",
    "columns_of_arrays",
    "complete_meta",
    "padded",
    "parts_in_memory",
    "storage_dtype",
]

SCHEMA_VERSION = 1
STORAGE_DTYPES = ("float16", "bfloat16", "float32", "float64")
# Metadata that may differ between a trace and its continuation: they do not change the representations.
MAY_DIFFER = ("versions", "device", "batch_size", "created", "seconds")

_LIBRARIES = ("repdyn", "torch", "numpy", "timm", "transformers")
_ROWS_AT_ONCE = 16_384  # limits the boolean scratch array of a large point


def parts_in_memory(
    arrays: Mapping[str, ArrayLike],
    labels: ArrayLike | None,
    ids: ArrayLike | None,
    logits: ArrayLike | None,
    meta: Mapping[str, Any] | None,
    masks: Mapping[str, ArrayLike] | None,
) -> dict[str, Any]:
    """Checked arguments of :class:`repdyn.RepresentationPaths` for arrays in memory; see ``from_arrays``."""
    columns, names = columns_of_arrays(arrays, masks or {}, ids)
    known_labels = check_labels(labels, len(names))
    known_logits = check_logits(logits, len(names))
    if known_logits is not None:
        check_finite(known_logits, "logits", names)
    widths = {name: column.width for name, column in columns.items()}
    tokens = [name for name, column in columns.items() if isinstance(column, TokenColumn)]
    dtype = next(iter(columns.values())).dtype.name
    return {
        "columns": columns,
        "logits": None if known_logits is None else VectorColumn.of(known_logits),
        "read_labels": partial(_known, known_labels),
        "read_ids": partial(_known, names),
        "meta": complete_meta(meta, columns, widths, tokens, dtype),
    }


def columns_of_arrays(
    arrays: Mapping[str, ArrayLike], masks: Mapping[str, ArrayLike], ids: ArrayLike | None
) -> tuple[dict[str, VectorColumn | TokenColumn], NDArray[np.str_]]:
    """Check arrays ``(N, D)`` or ``(N, T, D)`` and make columns of one floating-point type.

    Parameters
    ----------
    arrays
        ``{point: array}`` in order of depth.
    masks
        ``{point: (N, T) bool}`` for points with tokens, true for real tokens; default: all are real.
    ids
        Ids of the samples; default: their row numbers.

    Returns
    -------
    tuple
        The columns and the ids ``(N,)``.

    Raises
    ------
    RepdynError
        If there are no points or samples, sizes differ, or an entry is not finite.
    """
    points = check_points(arrays)
    checked = {point: as_array(arrays[point]) for point in points}
    for point, array in checked.items():
        if array.ndim not in (2, 3) or array.dtype.kind not in "fiub":
            raise RepdynError(
                f"point {point!r}: has shape {array.shape} and dtype {array.dtype}; "
                "expected numbers of shape (N, D) or (N, T, D)"
            )
        if 0 in array.shape:
            raise RepdynError(
                f"point {point!r}: is empty, shape {array.shape}; give at least one sample and entry"
            )
    size = len(checked[points[0]])
    for point, array in checked.items():
        if len(array) != size:
            raise RepdynError(
                f"point {point!r}: has {len(array)} samples but {points[0]!r} has {size}; "
                "give every point all samples"
            )
    for point in masks:
        if point not in checked or checked[point].ndim != 3:
            raise RepdynError(f"masks: {point!r} is not a point with tokens (N, T, D); leave its mask out")
    dtype = _common_dtype(checked)
    names = check_ids(ids, size)
    columns: dict[str, VectorColumn | TokenColumn] = {}
    for point, array in checked.items():
        values = array.astype(dtype, copy=False)
        if array.ndim == 2:
            check_finite(values, point, names)
            columns[point] = VectorColumn.of(values)
            continue
        mask = as_array(masks.get(point, np.ones(array.shape[:2], dtype=bool)))
        if mask.shape != array.shape[:2] or mask.dtype != np.bool_:
            raise RepdynError(
                f"masks: the mask of {point!r} has shape {mask.shape} and dtype {mask.dtype}; "
                f"expected {array.shape[:2]} booleans"
            )
        # Padding is not kept, so its values are not checked.
        check_finite(np.where(mask[..., None], values, 0), point, names)
        columns[point] = TokenColumn.of(values, mask)
    return columns, names


def _common_dtype(arrays: Mapping[str, NDArray[Any]]) -> np.dtype[Any]:
    """The widest floating-point type of the arrays, at most float64; float32 without any."""
    kinds = {array.dtype for array in arrays.values() if array.dtype.kind == "f"}
    if not kinds:
        return np.dtype(np.float32)
    common = np.result_type(*kinds)
    return np.dtype(np.float64) if common.itemsize > 8 else common.newbyteorder("=")


def _known(values: Any) -> Any:
    """The annotations themselves: a reader for paths in memory, at module level so that it is picklable."""
    return values


def check_finite(values: NDArray[Any], point: str, ids: Sequence[str] | NDArray[np.str_]) -> None:
    """Raise for NaN or infinity in representations; the message names the point and the first sample.

    Parameters
    ----------
    values
        Representations, ``(N, …)``.
    point
        Name of the point.
    ids
        Ids of the samples, ``(N,)``.

    Raises
    ------
    RepdynError
        If any entry is not finite.

    Examples
    --------
    >>> check_finite(np.zeros((2, 3)), "blocks.0", ["a", "b"])
    """
    bad: list[int] = []
    for start in range(0, len(values), _ROWS_AT_ONCE):
        part = values[start : start + _ROWS_AT_ONCE]
        rows = ~np.isfinite(part).reshape(len(part), -1).all(axis=1)
        bad.extend((start + np.flatnonzero(rows)).tolist())
    if bad:
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise NotFiniteError(
            f"point {point!r}, sample {str(ids[bad[0]])!r}{more}: the representation is not finite; "
            "leave the sample out, or compute in a wider dtype (float32)"
        )


def check_points(points: Iterable[str]) -> tuple[str, ...]:
    """The names as a tuple; raise for no names, empty names and duplicates."""
    names = tuple(points)
    if not names:
        raise RepdynError("points: none is given; give at least one")
    for name in names:
        if not isinstance(name, str) or not name:
            raise RepdynError(f"points: {name!r} is not a name; give non-empty strings")
        if names.count(name) > 1:
            raise RepdynError(f"points: {name!r} is given {names.count(name)} times; give each point once")
    return names


def check_labels(labels: ArrayLike | None, size: int) -> NDArray[Any] | None:
    """Labels as ``(N,)`` int64 or strings, or ``None``; raise for another length or type."""
    if labels is None:
        return None
    labels = list(labels) if isinstance(labels, Iterator) else labels
    missing = _missing_label(labels)
    if missing is not None:
        raise RepdynError(
            f"labels: the label of sample {missing} is missing (None or NaN); give it, or "
            "leave the sample out"
        )
    _check_one_kind(labels)
    if isinstance(labels, list | tuple) and labels and all(type(label) is int for label in labels):
        labels = np.asarray(labels, dtype=object)  # NumPy makes floats of integers beyond int64
    array = as_array(labels)
    if array.ndim != 1 or len(array) != size:
        raise RepdynError(f"labels: have shape {array.shape} for {size} samples; give one label per sample")
    if array.dtype.kind == "u" and len(array) and int(array.max()) > np.iinfo(np.int64).max:
        raise RepdynError(
            f"labels: {int(array.max())} does not fit into int64; give strings or smaller integers"
        )
    if array.dtype.kind == "b" or array.dtype.kind in "iu":
        return array.astype(np.int64)
    if array.dtype.kind == "U":
        return array
    if array.dtype.kind == "O" and all(isinstance(label, int | np.integer) for label in array.tolist()):
        least, most = min(array.tolist()), max(array.tolist())
        bounds = np.iinfo(np.int64)
        if least < bounds.min or most > bounds.max:
            wrong = most if most > bounds.max else least
            raise RepdynError(f"labels: {wrong} does not fit into int64; give strings or smaller integers")
        return array.astype(np.int64)
    if array.dtype.kind in "OT" and all(isinstance(label, str) for label in array.tolist()):
        return array.astype(np.str_)
    raise RepdynError(f"labels: have dtype {array.dtype}; give integers or strings")


def _check_one_kind(labels: Any) -> None:
    """Raise an error for texts among numbers or bytes: NumPy would make one class of 1 and "1"."""
    if isinstance(labels, np.ndarray) and labels.dtype.kind != "O":
        return
    values = labels.tolist() if hasattr(labels, "tolist") else labels
    if not isinstance(values, list | tuple):
        return
    first: dict[type, int] = {}
    for number, label in enumerate(values):
        first.setdefault(next((kind for kind in (str, bytes) if isinstance(label, kind)), int), number)
    if len(first) > 1:
        one, other = list(first.values())[:2]
        raise RepdynError(
            f"labels: sample {one} has {values[one]!r} and sample {other} {values[other]!r}; give "
            "texts alone, or whole numbers alone"
        )


def _missing_label(labels: Any) -> int | None:
    """The first sample with a label None, NaN or NA, which NumPy would convert to the string 'nan'."""
    if isinstance(labels, np.ndarray) and labels.dtype.kind not in "Of":
        return None
    values = labels.tolist() if hasattr(labels, "tolist") else labels
    for number, label in enumerate(values if isinstance(values, list | tuple) else ()):
        nothing = label is None or type(label).__name__ in ("NAType", "NaTType")  # of pandas
        if nothing or (isinstance(label, float) and label != label):
            return number
    return None


def check_ids(ids: ArrayLike | None, size: int) -> NDArray[np.str_]:
    """Ids as ``(N,)`` strings; default: row numbers."""
    if ids is None:
        return np.arange(size).astype(np.str_)
    array = np.asarray(ids)
    if array.ndim != 1 or len(array) != size:
        raise RepdynError(f"ids: have shape {array.shape} for {size} samples; give one id per sample")
    return array.astype(np.str_)


def check_logits(logits: ArrayLike | None, size: int) -> NDArray[Any] | None:
    """Logits as ``(N, C)`` float32, or ``None``."""
    if logits is None:
        return None
    array = as_array(logits)
    if array.ndim != 2 or len(array) != size or array.shape[1] == 0:
        raise RepdynError(f"logits: have shape {array.shape}; expected ({size}, classes)")
    with np.errstate(over="ignore", invalid="ignore"):
        kept = array.astype(np.float32, copy=False)
    wide = np.flatnonzero((np.isinf(kept) & np.isfinite(array)).any(axis=1))
    if len(wide):
        raise RepdynError(
            f"logits: those of sample {wide[0]} reach {np.abs(array[wide[0]]).max():.3g}, beyond float32 "
            f"({len(wide)} samples do); divide all logits by one number"
        )
    return kept


def storage_dtype(dtype: Any) -> np.dtype[Any]:
    """The storage dtype of representations; raise for an unsupported dtype."""
    try:
        name = np.dtype(dtype).name
    except TypeError:
        name = str(dtype)
    if name not in STORAGE_DTYPES:
        raise RepdynError(f"dtype: {dtype!r} cannot be stored; expected one of {', '.join(STORAGE_DTYPES)}")
    kind: np.dtype[Any] = np.dtype(name)
    return kind


def complete_meta(
    meta: Mapping[str, Any] | None,
    points: Iterable[str],
    widths: Mapping[str, int],
    tokens: Iterable[str],
    dtype: str,
) -> dict[str, Any]:
    """Metadata of paths as JSON values: those given, versions of libraries, and points, widths and dtype."""
    try:
        given = json.loads(json.dumps(dict(meta or {}), default=_plain))
    except (TypeError, ValueError) as error:
        raise RepdynError(
            f"meta: cannot be written as JSON ({error}); give numbers, strings, lists, dicts"
        ) from None
    return {
        "versions": _versions(),
        **given,
        "schema": SCHEMA_VERSION,
        "points": list(points),
        "widths": dict(widths),
        "tokens": list(tokens),
        "dtype": dtype,
    }


def _plain(value: Any) -> Any:
    """A JSON value of a NumPy value or a path."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{type(value).__name__} is not a JSON type")


@cache
def _versions() -> dict[str, str]:
    """Installed versions of the libraries that produce representations."""
    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def padded(rows: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Ragged tokens as ``(N, T, D)`` with a mask ``(N, T)``."""
    lengths = np.array([len(row) for row in rows])
    padded = np.zeros((len(rows), max(int(lengths.max(initial=0)), 1), rows[0].shape[1]), rows[0].dtype)
    mask = np.arange(padded.shape[1]) < lengths[:, None]
    padded[mask] = np.concatenate(rows)
    return padded, mask
