"""Orthogonal Procrustes and ridge regression, the two linear fits that every room uses."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from repdyn.devices import double
from repdyn.errors import RepdynError

__all__ = ["polar", "procrustes", "ridge", "ridge_by_leave_one_out", "ridge_path"]

Floats = NDArray[np.float64]
Matrix = TypeVar("Matrix", NDArray[Any], Tensor)


def polar(m: Matrix) -> Matrix:
    """The (semi-)orthogonal matrix nearest to a given one, in Frobenius norm: its polar factor.

    Parameters
    ----------
    m
        Shape ``(p, q)``; an array or a tensor on any device.

    Returns
    -------
    array or Tensor
        ``U V'`` of the singular value decomposition, of shape, type and device of ``m``. Rows are orthonormal
        where ``p <= q``, columns where ``p >= q``.

    Examples
    --------
    >>> polar(np.diag([2.0, -3.0]))
    array([[ 1.,  0.],
           [ 0., -1.]])
    """
    svd = torch.linalg.svd if isinstance(m, Tensor) else np.linalg.svd
    left, _, right = svd(m, full_matrices=False)
    return left @ right  # type: ignore[no-any-return]


def procrustes(x: Floats, y: Floats, weights: Floats | None = None) -> tuple[Floats, float]:
    """Orthogonal map and scale that bring centered rows nearest to others: ``min |s x Q - y|``.

    Parameters
    ----------
    x, y
        Paired centered rows, shapes ``(n, p)`` and ``(n, q)``.
    weights
        Shape ``(n,)``; equal where not given.

    Returns
    -------
    tuple
        ``Q`` of shape ``(p, q)`` and ``s``. ``s`` is 1 where ``x Q`` is zero.

    References
    ----------
    Schönemann, P. (1966). A generalized solution of the orthogonal Procrustes problem. Psychometrika 31.
    """
    left, values, right = np.linalg.svd(
        x.T @ (y if weights is None else weights[:, None] * y), full_matrices=False
    )
    rotation = left @ right
    # Where x is wider, the map drops directions: what is left of x sets the scale.
    squares = ((x @ rotation) ** 2).sum(axis=1)
    size = float(squares.sum() if weights is None else weights @ squares)
    return rotation, float(values.sum()) / size if size > 0 else 1.0


def ridge(x: Tensor, y: Tensor, penalty: float) -> Tensor:
    """Ridge regression in float64.

    ``A = (X'X + p I)^-1 X'Y``, or by its dual ``X'(XX' + p I)^-1 Y`` where there are fewer rows than
    columns: the same matrix from the smaller system. The penalty is never zero, because a rank-deficient
    least-squares solve is silently wrong on some devices.

    Parameters
    ----------
    x, y
        Shapes ``(n, p)`` and ``(n, q)``.
    penalty
        ``p > 0``, in the units of ``X'X``.

    Returns
    -------
    Tensor
        ``A``, shape ``(p, q)``, float64, with ``y ≈ x A``.

    Raises
    ------
    RepdynError
        If the penalty is not positive.

    Examples
    --------
    >>> x = torch.eye(3, dtype=torch.float64)
    >>> bool(torch.allclose(ridge(x, 2 * x, 1e-12), 2 * x))
    True
    """
    if not penalty > 0:
        raise RepdynError(f"ridge: penalty must be positive, got {penalty}")
    x, y = double(x), double(y)
    rows, columns = x.shape
    gram = x @ x.T if rows < columns else x.T @ x
    gram.diagonal().add_(penalty)
    found: Tensor
    found = x.T @ torch.linalg.solve(gram, y) if rows < columns else torch.linalg.solve(gram, x.T @ y)
    return found


def ridge_path(x: Floats, y: Floats, penalties: Floats) -> list[Floats]:
    """Ridge regression at several penalties, from one singular value decomposition.

    Parameters
    ----------
    x, y
        Centred rows, shapes ``(n, p)`` and ``(n, q)``.
    penalties
        Fractions of the mean eigenvalue of ``X'X``.

    Returns
    -------
    list
        A matrix ``(p, q)`` for each penalty; zero where ``x`` is zero.
    """
    _, values, right = np.linalg.svd(x, full_matrices=False)
    scale = float((values**2).sum()) / x.shape[1]
    if scale == 0:
        return [np.zeros((x.shape[1], y.shape[1]))] * len(penalties)
    inner = right @ (x.T @ y)
    return [np.asarray(right.T @ (inner / (values**2 + p * scale)[:, None])) for p in penalties]


def ridge_by_leave_one_out(
    x: Floats, y: Floats, penalties: Floats, groups: NDArray[np.int64] | None = None
) -> Floats:
    """Ridge regression at the penalty whose leave-one-out error is least.

    Parameters
    ----------
    x, y
        Rows that were centered by their own means, shapes ``(n, p)`` and ``(n, q)``.
    penalties
        To choose from; fractions of the mean eigenvalue of ``X'X``.
    groups
        Group of equal rows of ``x`` that each row belongs to, ``(n,)``, as of
        :func:`repdyn.repeats.groups_of_equal_rows`. A whole group is left out at a time: beside its copy, a
        row is not left out. Default: no rows are equal.

    Returns
    -------
    (p, q) array
        Zero where ``x`` is zero.

    References
    ----------
    Allen, D. (1974). The relationship between variable selection and data augmentation. Technometrics 16(1).
    """
    left, values, right = np.linalg.svd(x, full_matrices=False)
    scale = float((values**2).sum()) / x.shape[1]
    if scale == 0:
        return np.zeros((x.shape[1], y.shape[1]))
    kept = values > values[0] * max(x.shape) * np.finfo(x.dtype).eps
    left, values, right = left[:, kept], values[kept], right[kept]
    projected = left.T @ y
    outside = y - left @ projected  # what no penalty fits
    group = np.arange(len(x)) if groups is None else groups
    size = np.bincount(group)[group]
    # What is left of one row of a group if all groups are fitted exactly; 1/n: the mean was fitted too. None
    # where there are no more groups than columns, but for rounding.
    free = 1 - size * (1 / len(x) + (left**2).sum(axis=1))
    free = np.where(free < 1e-9, 0.0, free)
    errors = []
    for penalty in penalties * scale:
        # The diagonal of the hat matrix gives every leave-one-out error in closed form. Equal rows have one
        # leverage h: (I - h 11')^-1 r = r + 1 h sum(r) / (1 - k h) for k of them. Both r and 1 - k h are
        # sums of what the penalty leaves. As differences they would be rounding at small penalties.
        gap = penalty / (values**2 + penalty)
        inside = left @ (gap[:, None] * projected)
        leverage = (left**2) @ (1 - gap) + 1 / len(x)
        left_out = np.maximum(size * ((left**2) @ gap) + free, np.finfo(x.dtype).tiny)
        own = inside + np.where(free > 0, 1.0, 0.0)[:, None] * outside
        if (size > 1).any():
            sums = np.zeros((int(group.max()) + 1, y.shape[1]))
            np.add.at(sums, group, own)
            own = sums[group]
        residual = inside + outside + (leverage / left_out)[:, None] * own
        errors.append(float((residual**2).mean()))
    penalty = penalties[int(np.argmin(errors))] * scale
    return np.asarray(right.T @ ((values / (values**2 + penalty))[:, None] * projected))
