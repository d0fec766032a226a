"""Check that a loaded result has the types and shapes that its class declares."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

__all__ = ["VERDICTS", "check_arrays", "check_sizes", "check_types", "check_values", "without_alias"]

VERDICTS = ("found", "neighborhoods", "ambiguous", "inconclusive", "not found")
"""Allowed verdicts, unless the field is declared as another ``Literal``."""

_LARGEST = 2**63  # whole numbers beyond are in no result
# kinds of arrays that may stand for a declared one: whole numbers for fractions, never the other way round
_KINDS = {"f": "fiu", "i": "iu", "u": "iu", "b": "b", "c": "cfiu", "U": "UT", "T": "UT"}


def check_types(found: Any) -> None:
    """Compare every field of a dataclass with its annotation, and of the dataclasses in it.

    Parameters
    ----------
    found
        A result; anything else than a dataclass passes.

    Raises
    ------
    ValueError
        Names the field and what it holds.

    Examples
    --------
    >>> from repdyn.intervals import Estimate
    >>> check_types(Estimate(0.5, 0.4, 0.6))
    >>> check_types(Estimate("x", 0.4, 0.6))
    Traceback (most recent call last):
    ...
    ValueError: value is 'x', expected float
    """
    if not is_dataclass(found) or isinstance(found, type):
        return
    kind: type = type(found)
    for name, hint in _hints(kind).items():
        value = getattr(found, name)
        words = value.values() if isinstance(value, Mapping) else (value,)
        # A verdict in words of its own is a Literal, which is compared like any other value.
        usual = name == "verdict" and get_origin(hint) is not Literal
        if not _conforms(value, hint) or (usual and not set(words) <= set(VERDICTS)):
            raise ValueError(f"{name} is {_short(value)}, expected {_words(hint)}")


def check_arrays(arrays: Mapping[str, Any], finite: bool = False, /, **axes: str) -> dict[str, int]:
    """Compare arrays with axes that they share.

    Parameters
    ----------
    arrays
        By name; those without axes here are not looked at.
    finite
        Whether every value must be finite.
    **axes
        For each array the names of its axes, such as ``"N D"``; a number is a length. The same name is the
        same length in all arrays.

    Returns
    -------
    dict
        Length of each named axis.

    Raises
    ------
    ValueError
        Names the array and its shape.

    Examples
    --------
    >>> check_arrays({"x": np.ones((4, 2)), "y": np.ones(4)}, x="N D", y="N")
    {'N': 4, 'D': 2}
    >>> check_arrays({"x": np.ones((4, 2)), "y": np.ones(3)}, x="N D", y="N")
    Traceback (most recent call last):
    ...
    ValueError: y has shape (3,), expected (N=4)
    """
    lengths: dict[str, int] = {}
    for name, wanted in axes.items():
        array = np.asarray(arrays[name])
        expected = wanted.split()
        fits = array.ndim == len(expected)
        for axis, length in zip(expected, array.shape):
            known = int(axis) if axis.isdigit() else lengths.setdefault(axis, length)
            fits &= known == length
        if not fits:
            shape = ", ".join(f"{a}={lengths[a]}" if a in lengths else a for a in expected)
            raise ValueError(f"{name} has shape {array.shape}, expected ({shape})")
        if array.dtype.kind not in "fciub":
            raise ValueError(f"{name} holds {array.dtype}, expected numbers")
        if finite and not np.isfinite(array).all():
            raise ValueError(f"{name} holds values that are not finite")
    return lengths


def check_values(values: Mapping[str, Any], **kinds: Any) -> None:
    """Compare the values of a configuration with the types that they must have.

    Raises
    ------
    KeyError
        Where one is missing.
    ValueError
        Names the value, what it is and what was expected.

    Examples
    --------
    >>> check_values({"k": 3, "points": ["a"]}, k=int, points=list[str])
    >>> check_values({"k": True}, k=int)
    Traceback (most recent call last):
    ...
    ValueError: k is True, expected int
    """
    for name, hint in kinds.items():
        if not _conforms(values[name], hint):
            raise ValueError(f"{name} is {_short(values[name])}, expected {_words(hint)}")


def check_sizes(tensors: Mapping[str, NDArray[Any]], **sizes: int | Sequence[int] | None) -> None:
    """Raise :class:`ValueError` unless every size is the length of an axis of some array.

    A network is laid out by these sizes before its weights are looked at. One that was made up must not ask
    for more memory than the file that it came with.
    """
    known = {length for array in tensors.values() for length in array.shape}
    for name, given in sizes.items():
        for size in () if given is None else (given,) if isinstance(given, int) else given:
            if size not in known:
                raise ValueError(f"{name} is {_short(size)}, and no array is so long: they do not match")


def without_alias(hint: Any) -> Any:
    """What an annotation stands for where it is an alias of the language, as NDArray from NumPy 2.5 on."""
    alias = get_origin(hint) or hint
    if not hasattr(alias, "__value__"):
        return hint
    given = get_args(hint)
    return without_alias(alias.__value__[given] if given else alias.__value__)


@cache
def _hints(kind: type) -> dict[str, Any]:
    """Annotations of a dataclass's fields; names imported for type checking only are left out."""
    try:
        known = get_type_hints(kind)
    except NameError:
        known = {}
    return {field.name: known[field.name] for field in fields(kind) if field.name in known}


def _conforms(value: Any, hint: Any) -> bool:
    hint = without_alias(hint)
    if hint is Any:
        return True
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind is Literal:
        return value in inner
    if kind in (Union, types.UnionType):
        return any(_conforms(value, one) for one in inner)
    if kind is np.ndarray:
        return isinstance(value, np.ndarray) and _holds(value, inner)
    if kind is tuple:
        if not isinstance(value, tuple):
            return False
        if len(inner) == 2 and inner[1] is Ellipsis:
            return all(_conforms(one, inner[0]) for one in value)
        return not inner or (len(value) == len(inner) and all(map(_conforms, value, inner)))
    if isinstance(kind, type) and issubclass(kind, Mapping):
        return isinstance(value, Mapping) and (
            not inner or all(_conforms(k, inner[0]) and _conforms(v, inner[1]) for k, v in value.items())
        )
    if isinstance(kind, type) and issubclass(kind, Sequence) and kind is not str:
        known = isinstance(value, list | tuple)
        return known and (not inner or all(_conforms(one, inner[0]) for one in value))
    return _is_one(value, kind)


def _is_one(value: Any, kind: Any) -> bool:
    if kind is float:
        return _is_number(value) and (isinstance(value, float | np.floating) or abs(value) < _LARGEST)
    if kind is int:
        return _is_number(value) and not isinstance(value, float | np.floating) and abs(value) < _LARGEST
    if is_dataclass(kind) and isinstance(value, kind):  # type: ignore[arg-type]  # it is a class
        check_types(value)
        return True
    if getattr(kind, "_is_protocol", False):
        # From Python 3.12 on, isinstance does not see the parts of a module, which it finds by __getattr__.
        return all(hasattr(value, name) for name in _members(kind))
    return not isinstance(kind, type) or isinstance(value, kind)


def _members(protocol: type) -> set[str]:
    """Names of the attributes and methods of a protocol."""
    bases = [base for base in protocol.__mro__ if getattr(base, "_is_protocol", False)]
    names = {name for base in bases for name in (*vars(base), *vars(base).get("__annotations__", {}))}
    return {name for name in names if not name.startswith("_")}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def _holds(array: NDArray[Any], inner: tuple[Any, ...]) -> bool:
    wanted = get_args(inner[1]) if len(inner) > 1 else ()
    if not wanted or wanted[0] is Any:
        return True
    scalar = wanted[0]
    if scalar is np.floating:
        return array.dtype.kind in _KINDS["f"]
    try:
        return array.dtype.kind in _KINDS.get(np.dtype(scalar).kind, array.dtype.kind)
    except TypeError:  # an abstract kind of numbers
        return True


def _words(hint: Any) -> str:
    named = isinstance(hint, type) and not get_args(hint)
    return hint.__name__ if named else str(hint).replace("typing.", "")


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}…"
