"""What is checked before numbers become representation paths; every complaint names point and sample."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repdyn.errors import NotFiniteError, RepdynError
from repdyn.reading import as_array

__all__ = ["check_finite", "check_ids", "check_labels", "check_logits", "check_points", "storage_dtype"]

STORAGE_DTYPES = ("float16", "bfloat16", "float32", "float64")
# Rows looked at together: keeps the boolean scratch array of a large point small.
_ROWS_AT_ONCE = 16_384


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
