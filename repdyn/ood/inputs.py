"""What a detector is given: paths, a store's address, a mapping, or a matrix of one point."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias

from numpy.typing import ArrayLike

from repdyn.errors import RepdynError
from repdyn.estimators import check_matrix
from repdyn.ood.path_chunks import LOGITS
from repdyn.paths import RepresentationPaths, as_paths
from repdyn.reading import as_array

__all__ = ["Given", "paths_of", "readable"]

Given: TypeAlias = RepresentationPaths | Mapping[str, Any] | ArrayLike | str | os.PathLike[str]
"""What :func:`paths_of` takes."""


class Reads(Protocol):
    """A detector, as far as inputs depend on it."""

    points_: tuple[str, ...]

    def check_fitted(self) -> None:
        """Raise if it is not fitted."""

    def point_of_matrix(self) -> str:
        """Name of the point that a matrix becomes when it is fitted."""


def paths_of(
    detector: Reads, given: Any, labels: Any = None, *, fitting: bool = False
) -> RepresentationPaths:
    """Paths of what a method of a detector was given.

    Parameters
    ----------
    detector
        Its parameters or, if it is fitted, its only point name the point of a matrix.
    given
        Paths; the address of a store or of a file of vectors; ``{point: (N, D)}``, in which ``"logits"`` are
        the model's outputs; a table of vectors; or a matrix ``(N, D)``, array, tensor or data frame.
    labels
        Labels ``(N,)`` of a mapping or a matrix, or ``None``.
    fitting
        Whether the detector is being fitted.

    Raises
    ------
    RepdynError
        If labels are given beside paths, which have their own, or a matrix cannot be what the detector reads.
    """
    if fitting:  # of an earlier fit to a matrix
        for name in ("n_features_in_", "feature_names_in_"):
            vars(detector).pop(name, None)
    if _is_mapping(given):
        arrays = {point: as_array(values) for point, values in given.items()}
        logits = arrays.pop(LOGITS, None) if len(arrays) > 1 else None
        return RepresentationPaths.from_arrays(arrays, labels, logits=logits)
    if not _is_matrix(given):
        if labels is not None:
            raise RepdynError(
                f"{type(detector).__name__}: y was given beside paths, which have labels of their own; give "
                "the labels with the paths"
            )
        return as_paths(given, "paths")
    matrix = check_matrix(detector, given, fitting=fitting)
    point = detector.point_of_matrix() if fitting else _only_point(detector)
    return RepresentationPaths.from_arrays({point: matrix}, labels)


def readable(detector: Reads, given: Any) -> RepresentationPaths | Mapping[str, Any]:
    """Paths or a mapping, of what a fitted detector is to score; tensors stay on their device.

    Unlike :func:`paths_of`, rows that are not finite are kept: they get the lowest score.
    """
    if isinstance(given, RepresentationPaths) or _is_mapping(given):
        return given  # type: ignore[no-any-return]
    if not _is_matrix(given):
        return as_paths(given, "paths")
    detector.check_fitted()
    point = _only_point(detector)
    matrix = check_matrix(detector, given, allow_nonfinite=True)
    return {point: given if hasattr(given, "detach") else matrix}


def _is_mapping(given: Any) -> bool:
    """Whether it has arrays by point. A sparse matrix of scipy is a dictionary too, and is refused later."""
    return isinstance(given, Mapping) and not hasattr(given, "toarray")


def _is_matrix(given: Any) -> bool:
    """Whether it holds numbers, and is no paths, address or table of vectors."""
    if isinstance(given, RepresentationPaths | str | os.PathLike):
        return False
    return not hasattr(given, "__arrow_c_stream__") or hasattr(given, "iloc")  # a data frame of numbers


def _only_point(detector: Reads) -> str:
    """The point that a fitted detector reads, if it reads one."""
    if len(detector.points_) != 1:
        points = detector.points_
        listed = ", ".join(map(repr, points[:3])) + (", …" if len(points) > 3 else "")
        raise RepdynError(
            f"{type(detector).__name__}: reads {len(points)} points ({listed}), a matrix holds one; give "
            "paths or {point: (N, D)}"
        )
    return detector.points_[0]
