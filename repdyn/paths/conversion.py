"""Paths of what a function is given: a store, a file of vectors, arrays; and a remote store in memory."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from repdyn.errors import RepdynError
from repdyn.paths.columns import VectorColumn
from repdyn.paths.importing import VECTORS
from repdyn.paths.paths import LOGITS, RepresentationPaths
from repdyn.paths.store import open_paths
from repdyn.reading import as_array

__all__ = ["PathsLike", "as_paths", "nearby"]

_NEARBY_BYTES = 2**28  # of a remote store that is read into memory

PathsLike: TypeAlias = RepresentationPaths | str | os.PathLike[str] | Mapping[str, ArrayLike] | ArrayLike
"""What :func:`as_paths` takes."""


def as_paths(x: Any, name: str = "x") -> RepresentationPaths:
    """Paths of what a function was given.

    Parameters
    ----------
    x
        Paths, which are returned as they are. The address of a store or of a file of vectors, see
        :func:`open_paths`. Points ``(N, D)``, an array or a tensor on any device, which become the point
        ``"vectors"``. ``{point: (N, D)}``. A table of pyarrow, polars or duckdb.
    name
        Of the argument, for error messages.

    Returns
    -------
    RepresentationPaths

    Raises
    ------
    RepdynError
        If there are no points, they are of another shape, or they are not finite.

    Examples
    --------
    >>> import numpy as np
    >>> as_paths(np.zeros((5, 3))).widths
    {'vectors': 3}
    """
    if isinstance(x, RepresentationPaths):
        return x
    if isinstance(x, str | os.PathLike):
        return open_paths(x)
    if hasattr(x, "__arrow_c_stream__") and not hasattr(x, "iloc"):  # a data frame of numbers is an array
        try:
            return RepresentationPaths.from_arrow(x)
        except RepdynError as error:
            raise type(error)(f"{name}: {error}") from None
    arrays = dict(x) if isinstance(x, Mapping) else {VECTORS: x}
    try:
        return RepresentationPaths.from_arrays({point: as_array(values) for point, values in arrays.items()})
    except RepdynError as error:
        raise type(error)(f"{name}: {error}") from None
    except (TypeError, ValueError) as error:  # NumPy, on ragged lists and on other objects
        raise RepdynError(
            f"{name}: is a {type(x).__name__}, expected paths, points (N, D), the address of a store or of a "
            f"file of vectors ({' '.join(str(error).split())})"
        ) from None


def nearby(paths: RepresentationPaths, most: int = _NEARBY_BYTES) -> RepresentationPaths:
    """Paths in memory if their store is remote and not too large; otherwise the paths themselves.

    For paths that are read several times.

    Parameters
    ----------
    paths
        Any paths.
    most
        Largest size in bytes that is read into memory.
    """
    if not isinstance(paths.path, str) or paths.tokens:
        return paths
    row = sum(paths.widths.values()) * paths.dtype.itemsize + 4 * (paths.logits_width or 0)
    if len(paths) * row > most:
        return paths
    names = [*paths.points, *([LOGITS] if paths.logits_width and LOGITS not in paths.points else [])]
    (block,) = paths.iterate(names, len(paths))
    columns = {point: VectorColumn.of(np.ascontiguousarray(x)) for point, x in block.items()}
    logits = columns.pop(LOGITS, None) if LOGITS not in paths.points else paths.logits_column
    return RepresentationPaths(
        columns,
        logits=logits,
        read_labels=partial(_labels, paths),
        read_ids=partial(_ids, paths),
        meta=paths.meta,
    )


def _labels(paths: RepresentationPaths) -> Any:
    """Reader of the labels, at module level so that it can be pickled."""
    return paths.labels


def _ids(paths: RepresentationPaths) -> Any:
    """Reader of the ids."""
    return paths.ids
