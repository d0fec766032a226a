"""Reading arguments: estimates with their intervals, finite arrays, samples small enough to draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repdyn.errors import RepdynError
from repdyn.reading import as_array

__all__ = ["estimate", "estimates", "finite", "thin"]


def estimate(given: object) -> tuple[float, float, float]:
    """Value and interval of an estimate.

    Parameters
    ----------
    given
        A mapping or an object with ``value``, ``low`` and ``high``, or a bare number, whose interval is then
        unknown (NaN) and drawn as none.

    Returns
    -------
    tuple of float
        ``(value, low, high)``.

    Examples
    --------
    >>> estimate({"value": 0.5, "low": 0.4, "high": 0.6})
    (0.5, 0.4, 0.6)
    """
    if isinstance(given, Mapping):
        value = given.get("value", np.nan)
        low, high = given.get("low", np.nan), given.get("high", np.nan)
    elif hasattr(given, "value"):
        value, low, high = given.value, getattr(given, "low", np.nan), getattr(given, "high", np.nan)
    else:
        value, low, high = given, np.nan, np.nan
    try:
        return _number(value), _number(low), _number(high)
    except (TypeError, ValueError) as error:
        raise RepdynError(
            f"an estimate must hold numbers under 'value', 'low' and 'high', got {str(given)[:80]!r}"
        ) from error


def estimates(given: Sequence[object]) -> NDArray[np.float64]:
    """Many estimates as an array of shape ``(3, K)``: values, low ends, high ends."""
    return np.array([estimate(one) for one in given], dtype=np.float64).reshape(-1, 3).T


def finite(name: str, given: ArrayLike, *, shape: tuple[int | None, ...]) -> NDArray[np.float64]:
    """An array of the wanted shape, refused where nothing in it can be drawn.

    Parameters
    ----------
    name
        Name of the argument, for errors.
    given
        The array. Single NaNs are allowed (they leave a gap); only NaNs are not.
    shape
        Wanted lengths, ``None`` for any.

    Returns
    -------
    numpy.ndarray
        float64.

    Raises
    ------
    RepdynError
        On another shape, on an empty array, and when no entry is finite.
    """
    try:
        array = as_array(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise RepdynError(f"{name} must be an array of numbers: {error}") from error
    fits = array.ndim == len(shape) and all(
        want is None or want == got for want, got in zip(shape, array.shape)
    )
    if not fits:
        wanted = "(" + ", ".join("any" if n is None else str(n) for n in shape) + ")"
        raise RepdynError(f"{name} must have shape {wanted}, got {array.shape}")
    if array.size == 0:
        raise RepdynError(f"{name} is empty; give at least one number")
    if not np.isfinite(array).any():
        raise RepdynError(f"{name} has no finite number; give at least one")
    return array


def thin(count: int, most: int, seed: int = 0) -> NDArray[np.int64]:
    """Which of ``count`` samples to draw: all, or ``most`` drawn without replacement, in order.

    Examples
    --------
    >>> thin(3, 10)
    array([0, 1, 2])
    >>> len(thin(100_000, 1500))
    1500
    """
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, size=most, replace=False))


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)
