"""Fitted results on disk: a folder with ``config.json`` and ``model.safetensors``, never a pickle.

Every result that can be saved uses this layout, so that a report can be told *what* a folder is before
anything is loaded from it.
"""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from repdyn.errors import RepdynError
from repdyn.writing import earlier_of, replace_folder, scratch_folder

__all__ = ["SCHEMA_VERSION", "Artifact", "load_artifact", "refuses_damage", "save_artifact"]

Owner = TypeVar("Owner")
Given = ParamSpec("Given")
Found = TypeVar("Found")

SCHEMA_VERSION = 1
# JSON has no word for these; {"float": "nan"} is one that any reader can parse.
_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


@dataclass(frozen=True)
class Artifact:
    """What a saved result holds.

    Attributes
    ----------
    kind
        Its kind: ``"koopman"``, ``"translation"``, ``"detector"``, ``"attractors"``, ``"tree"``, …
    config
        JSON values.
    tensors
        Named arrays.
    """

    kind: str
    config: dict[str, Any]
    tensors: dict[str, NDArray[Any]]


def save_artifact(
    path: str | os.PathLike[str], kind: str, config: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]
) -> None:
    """Write a result so that it is either wholly there or not at all.

    The folder is written beside its destination and exchanged with what is there, so a save that is
    interrupted or killed leaves the earlier result as it was. Of several processes that save one result at
    the same time, the last one wins. Only a folder that this function wrote is ever replaced.

    Parameters
    ----------
    path
        The folder to write.
    kind
        What it is.
    config
        JSON-able values; numbers that are not finite are written as ``{"float": "nan"}``.
    tensors
        Named arrays of any numeric or boolean dtype.

    Raises
    ------
    RepdynError
        If something that is not a repdyn result is in the way, or the folder cannot be written.
    """
    from safetensors.numpy import save_file

    target = Path(os.path.realpath(path))
    if target.exists() and _document(target) is None:
        raise RepdynError(f"{target}: is in the way and is not a repdyn result; choose another path")
    document = _encoded({"repdyn": {"kind": kind, "schema": SCHEMA_VERSION}, **config})
    text = json.dumps(document, indent=2, allow_nan=False) + "\n"
    arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    try:
        with scratch_folder(target) as scratch:
            (scratch / "config.json").write_text(text, encoding="utf-8")
            save_file(arrays, scratch / "model.safetensors")
            for file in scratch.iterdir():
                with file.open("rb") as written:
                    os.fsync(written.fileno())
            replace_folder(scratch, target)
    except OSError as error:
        reason = error.strerror or str(error)
        raise RepdynError(
            f"{target}: cannot be written ({reason}); free some space or choose another path"
        ) from error


def load_artifact(path: str | os.PathLike[str], kind: str | None = None) -> Artifact:
    """Read a result that :func:`save_artifact` wrote.

    Parameters
    ----------
    path
        The folder.
    kind
        If given, the kind it must be.

    Raises
    ------
    RepdynError
        If it is missing, foreign, truncated, of another kind, or written by a newer repdyn.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    folder = Path(path)
    if not folder.exists():
        earlier = earlier_of(Path(os.path.realpath(path)))
        if earlier is None:
            raise RepdynError(f"{folder}: there is no such file or folder")
        folder = earlier
    document = _document(folder)
    if document is None:
        raise RepdynError(f"{folder}: is not a repdyn result (no readable config.json of ours)")
    header = document.pop("repdyn")
    found, schema = header["kind"], header["schema"]
    if schema > SCHEMA_VERSION:
        raise RepdynError(
            f"{folder}: written by a newer repdyn (schema {schema}, this one reads up to "
            f"{SCHEMA_VERSION}); upgrade repdyn"
        )
    if kind is not None and found != kind:
        raise RepdynError(f"{folder}: holds a {found!r}, expected a {kind!r}")
    try:
        tensors = load_file(folder / "model.safetensors")
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise RepdynError(
                f"{folder}: cannot be opened, this process has too many files open; raise `ulimit -n`"
            ) from None
        raise RepdynError(
            f"{folder}: model.safetensors is missing or truncated ({error}); save it again"
        ) from None
    except (SafetensorError, ValueError, TypeError, KeyError, AttributeError) as error:
        # The last four: dtypes that NumPy lacks, and headers of a wrong form.
        raise RepdynError(
            f"{folder}: model.safetensors is truncated or damaged ({error}); save it again"
        ) from None
    return Artifact(found, document, tensors)


def refuses_damage(
    load: Callable[Concatenate[type[Owner], str | os.PathLike[str], Given], Found],
) -> Callable[Concatenate[type[Owner], str | os.PathLike[str], Given], Found]:
    """Make a class method that reads a saved result refuse contents of a wrong type or form in one line.

    Parameters
    ----------
    load
        Takes the class and the folder. Its own :class:`RepdynError` passes unchanged.
    """

    @wraps(load)
    def refusing(
        cls: type[Owner], path: str | os.PathLike[str], *args: Given.args, **kwargs: Given.kwargs
    ) -> Found:
        try:
            return load(cls, path, *args, **kwargs)
        except RepdynError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
            said = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise RepdynError(
                f"{os.fspath(path)}: the saved {cls.__name__} is damaged ({said[:200]}); save it again"
            ) from error

    return refusing  # type: ignore[return-value]  # the names of its first two arguments are free


def _document(folder: Path) -> dict[str, Any] | None:
    """The folder's config, or None where it is not one that we wrote."""
    try:
        document = _decoded(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError):  # the last: JSON nested a thousand deep
        return None
    header = document.get("repdyn") if isinstance(document, dict) else None
    ours = (
        isinstance(header, dict)
        and isinstance(header.get("kind"), str)
        and isinstance(header.get("schema"), int)
    )
    return document if ours else None


def _encoded(value: Any) -> Any:
    """JSON values in which every number is finite."""
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(float(value))}
    if isinstance(value, Mapping):
        return {key: _encoded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encoded(item) for item in value]
    return value


def _decoded(value: Any) -> Any:
    """What :func:`_encoded` was given; bare NaN of earlier versions is a number already."""
    if isinstance(value, dict):
        if len(value) == 1 and isinstance(value.get("float"), str) and value["float"] in _NOT_FINITE:
            return _NOT_FINITE[value["float"]]
        return {key: _decoded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    return value
