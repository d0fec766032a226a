"""What paths remember of where they come from."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import metadata
from typing import Any

import numpy as np

from repdyn.errors import RepdynError

__all__ = ["MAY_DIFFER", "SCHEMA_VERSION", "complete_meta"]

SCHEMA_VERSION = 1
# What may differ between a trace and its continuation: these change how the work is done, not its result.
MAY_DIFFER = ("versions", "device", "batch_size", "created", "seconds")

_LIBRARIES = ("repdyn", "torch", "numpy", "timm", "transformers")


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
