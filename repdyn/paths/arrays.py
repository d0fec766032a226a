"""Checks of arrays and of what describes them, and columns made of arrays in memory.

Every error names the point and the sample.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, partial
from importlib import metadata
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repdyn.errors import NotFiniteError, RepdynError
from repdyn.paths.columns import Rows, Tokens
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
    """What paths in memory are made of, checked; see :meth:`repdyn.RepresentationPaths.from_arrays`."""
    columns, names = columns_of_arrays(arrays, masks or {}, ids)
    known_labels = check_labels(labels, len(names))
    known_logits = check_logits(logits, len(names))
    if known_logits is not None:
        check_finite(known_logits, "logits", names)
    widths = {name: column.width for name, column in columns.items()}
    tokens = [name for name, column in columns.items() if isinstance(column, Tokens)]
    dtype = next(iter(columns.values())).dtype.name
    return {
        "columns": columns,
        "logits": None if known_logits is None else Rows.of(known_logits),
        "read_labels": partial(_known, known_labels),
        "read_ids": partial(_known, names),
        "meta": complete_meta(meta, columns, widths, tokens, dtype),
    }


def columns_of_arrays(
    arrays: Mapping[str, ArrayLike], masks: Mapping[str, ArrayLike], ids: ArrayLike | None
) -> tuple[dict[str, Rows | Tokens], NDArray[np.str_]]:
    """Check arrays ``(N, D)`` or ``(N, T, D)`` and make columns of them, all of one floating-point type.

    Parameters
    ----------
    arrays
        ``{point: array}`` in order of depth.
    masks
        ``{point: (N, T) bool}`` for points with tokens; all are real where there is none.
    ids
        Names of the samples, by default their numbers.

    Returns
    -------
    tuple
        The columns and the names ``(N,)``.

    Raises
    ------
    RepdynError
        If there is nothing, sizes differ, or an entry is not finite.
    """
    points = check_points(arrays)
    found = {point: as_array(arrays[point]) for point in points}
    for point, array in found.items():
        if array.ndim not in (2, 3) or array.dtype.kind not in "fiub":
            raise RepdynError(
                f"point {point!r}: has shape {array.shape} and dtype {array.dtype}; "
                "expected numbers of shape (N, D) or (N, T, D)"
            )
        if 0 in array.shape:
            raise RepdynError(
                f"point {point!r}: is empty, shape {array.shape}; give at least one sample and entry"
            )
    size = len(found[points[0]])
    for point, array in found.items():
        if len(array) != size:
            raise RepdynError(
                f"point {point!r}: has {len(array)} samples but {points[0]!r} has {size}; "
                "give every point all samples"
            )
    for point in masks:
        if point not in found or found[point].ndim != 3:
            raise RepdynError(f"masks: {point!r} is no point with tokens (N, T, D); masks belong to those")
    dtype = _common_dtype(found)
    names = check_ids(ids, size)
    columns: dict[str, Rows | Tokens] = {}
    for point, array in found.items():
        values = array.astype(dtype, copy=False)
        if array.ndim == 2:
            check_finite(values, point, names)
            columns[point] = Rows.of(values)
            continue
        mask = as_array(masks.get(point, np.ones(array.shape[:2], dtype=bool)))
        if mask.shape != array.shape[:2] or mask.dtype != np.bool_:
            raise RepdynError(
                f"masks: that of {point!r} has shape {mask.shape} and dtype {mask.dtype}; "
                f"expected {array.shape[:2]} booleans"
            )
        # What padding holds is nobody's business.
        check_finite(np.where(mask[..., None], values, 0), point, names)
        columns[point] = Tokens.of(values, mask)
    return columns, names


def _common_dtype(arrays: Mapping[str, NDArray[Any]]) -> np.dtype[Any]:
    kinds = {array.dtype for array in arrays.values() if array.dtype.kind == "f"}
    if not kinds:
        return np.dtype(np.float32)
    found = np.result_type(*kinds)
    return np.dtype(np.float64) if found.itemsize > 8 else found.newbyteorder("=")


def _known(values: Any) -> Any:
    """What is read of annotations that are in memory already; a function because those can be pickled."""
    return values


def check_finite(values: NDArray[Any], point: str, ids: Sequence[str] | NDArray[np.str_]) -> None:
    """Refuse representations with NaN or infinity, naming the point and the first sample.

    Parameters
    ----------
    values
        Representations, ``(N, …)``.
    point
        The point they were read at.
    ids
        The ``N`` samples' names.

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
            "leave the sample out or compute in a wider dtype (float32)"
        )


def check_points(points: Iterable[str]) -> tuple[str, ...]:
    """Return the names as a tuple; refuse none, empty names and names given twice."""
    names = tuple(points)
    if not names:
        raise RepdynError("points: there are none; give at least one named point of the path")
    for name in names:
        if not isinstance(name, str) or not name:
            raise RepdynError(f"points: {name!r} is not a name; points are named by non-empty strings")
        if names.count(name) > 1:
            raise RepdynError(f"points: {name!r} is named {names.count(name)} times; name each point once")
    return names


def check_labels(labels: ArrayLike | None, size: int) -> NDArray[Any] | None:
    """Return labels as ``(N,)`` int64 or strings; refuse another count or kind."""
    if labels is None:
        return None
    missing = _missing_label(labels)
    if missing is not None:
        raise RepdynError(
            f"labels: that of sample {missing} is missing (None or NaN); give one, or leave the sample out"
        )
    found = as_array(labels)
    if found.ndim != 1 or len(found) != size:
        raise RepdynError(f"labels: have shape {found.shape} for {size} samples; give one label per sample")
    if found.dtype.kind == "u" and len(found) and int(found.max()) > np.iinfo(np.int64).max:
        raise RepdynError(
            f"labels: {int(found.max())} does not fit into int64; give strings or smaller integers"
        )
    if found.dtype.kind == "b" or found.dtype.kind in "iu":
        return found.astype(np.int64)
    if found.dtype.kind == "U":
        return found
    if found.dtype.kind in "OT" and all(isinstance(label, str) for label in found.tolist()):
        return found.astype(np.str_)
    raise RepdynError(f"labels: have dtype {found.dtype}; give integers or strings")


def _missing_label(labels: Any) -> int | None:
    """The first sample whose label is None or NaN, which NumPy would make the string 'nan' among strings."""
    if isinstance(labels, np.ndarray) and labels.dtype.kind not in "Of":
        return None
    values = labels.tolist() if hasattr(labels, "tolist") else labels
    for number, label in enumerate(values if isinstance(values, list | tuple) else ()):
        if label is None or (isinstance(label, float) and label != label):
            return number
    return None


def check_ids(ids: ArrayLike | None, size: int) -> NDArray[np.str_]:
    """Return the samples' names as ``(N,)`` strings, by default their numbers."""
    if ids is None:
        return np.arange(size).astype(np.str_)
    found = np.asarray(ids)
    if found.ndim != 1 or len(found) != size:
        raise RepdynError(f"ids: have shape {found.shape} for {size} samples; give one id per sample")
    return found.astype(np.str_)


def check_logits(logits: ArrayLike | None, size: int) -> NDArray[Any] | None:
    """Return the model's own outputs as ``(N, C)`` float32."""
    if logits is None:
        return None
    found = as_array(logits)
    if found.ndim != 2 or len(found) != size or found.shape[1] == 0:
        raise RepdynError(f"logits: have shape {found.shape}; expected ({size}, classes)")
    with np.errstate(over="ignore", invalid="ignore"):
        kept = found.astype(np.float32, copy=False)
    wide = np.flatnonzero((np.isinf(kept) & np.isfinite(found)).any(axis=1))
    if len(wide):
        raise RepdynError(
            f"logits: those of sample {wide[0]} reach {np.abs(found[wide[0]]).max():.3g}, beyond float32 "
            f"({len(wide)} samples do); divide all logits by one number"
        )
    return kept


def storage_dtype(dtype: Any) -> np.dtype[Any]:
    """Return the dtype that representations are kept in; refuse what paths cannot hold."""
    try:
        name = np.dtype(dtype).name
    except TypeError:
        name = str(dtype)
    if name not in STORAGE_DTYPES:
        raise RepdynError(f"dtype: {dtype!r} cannot be stored; expected one of {', '.join(STORAGE_DTYPES)}")
    found: np.dtype[Any] = np.dtype(name)
    return found


def complete_meta(
    meta: Mapping[str, Any] | None,
    points: Iterable[str],
    widths: Mapping[str, int],
    tokens: Iterable[str],
    dtype: str,
) -> dict[str, Any]:
    """What is told of the paths' origin, as JSON keeps it, with what the paths know of themselves."""
    try:
        given = json.loads(json.dumps(dict(meta or {}), default=_plain))
    except (TypeError, ValueError) as error:
        raise RepdynError(
            f"meta: cannot be kept as JSON ({error}); give numbers, strings, lists, dicts"
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
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{type(value).__name__} is no JSON value")


@cache
def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
