"""Paths of what a function is given: paths, a store, a file of vectors, an array, a dictionary of arrays."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, TypeAlias

from numpy.typing import ArrayLike

from repdyn.errors import RepdynError
from repdyn.paths.importing import VECTORS
from repdyn.paths.paths import RepresentationPaths
from repdyn.paths.store import open_paths
from repdyn.reading import as_array

__all__ = ["PathsLike", "as_paths"]

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
