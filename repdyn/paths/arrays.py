"""From what a user has, arrays in memory, to columns: every shape, type and entry is checked here."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repdyn.errors import RepdynError
from repdyn.paths.checks import check_finite, check_ids, check_labels, check_logits, check_points
from repdyn.paths.columns import Rows, Tokens
from repdyn.paths.origin import complete_meta
from repdyn.reading import as_array

__all__ = ["columns_of_arrays", "parts_in_memory"]


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
