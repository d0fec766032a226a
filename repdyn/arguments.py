"""Checks of numbers that a caller gives: counts are whole, levels lie between 0 and 1."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from repdyn.errors import RepdynError

__all__ = ["fraction", "whole"]


def whole(name: str, value: Any) -> int:
    """A count as an ``int``.

    Parameters
    ----------
    name
        How the error calls it.
    value
        An integer of Python, NumPy or torch, or a float without a fraction, such as 3.0.

    Raises
    ------
    RepdynError
        For 2.5, NaN, a truth value, text, and whatever is not one number.

    Examples
    --------
    >>> whole("neighbors", 3.0)
    3
    """
    try:
        number = float(value)
        if isinstance(value, str | bytes | bool | np.bool_) or number != math.floor(number):
            raise ValueError
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise RepdynError(f"{name}: expected a whole number, got {value!r}") from None
    return int(value)


def fraction(name: str, value: Any) -> float:
    """A level or a rate as a ``float``, strictly between 0 and 1.

    Raises
    ------
    RepdynError
        For 95, which may stand for .95, for 0, 1, NaN, text, and whatever is not one number.

    Examples
    --------
    >>> fraction("level", 0.9)
    0.9
    """
    try:
        number = math.nan if isinstance(value, str | bytes | bool | np.bool_) else float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        number = math.nan
    if not 0 < number < 1:
        raise RepdynError(f"{name}: must lie between 0 and 1, got {value!r}")
    return number
