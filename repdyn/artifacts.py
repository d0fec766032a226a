"""Fitted results on disk: a folder with ``config.json`` and ``model.safetensors``, never a pickle.

Every result that can be saved uses this layout, so that a report knows *what* a folder is before
anything is loaded from it. config.json keeps a SHA-256 of both files: what was changed or damaged since is
refused. Results of version 0.1 have none and are checked by their types and shapes alone, as all are.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from repdyn.conformity import check_types
from repdyn.errors import RepdynError
from repdyn.hub import repository_at
from repdyn.provenance import SIGNATURE
from repdyn.writing import earlier_of, is_scratch, replace_folder, scratch_folder

__all__ = [
    "SCHEMA_VERSION",
    "Artifact",
    "check_owned",
    "is_result",
    "load_artifact",
    "refuses_damage",
    "refusing_damage",
    "save_artifact",
]

Owner = TypeVar("Owner")
Given = ParamSpec("Given")
Found = TypeVar("Found")

# 2: results are laid out by their fields (repdyn.results); 1: by hand, each in its own way.
SCHEMA_VERSION = 2
_LOOKS, _PAUSE = 5, 0.02  # times that a folder is read before it is called foreign, and seconds between
_CONFIG, _TENSORS = "config.json", "model.safetensors"
_DAMAGE = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError)
# JSON has no word for these; {"float": "nan"} is one that any reader can parse.
_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


@dataclass(frozen=True)
class Artifact:
    """The contents of a saved result.

    Attributes
    ----------
    kind
        Its kind: ``"koopman"``, ``"translation"``, ``"detector"``, ``"attractors"``, ``"tree"``, …
    config
        JSON values.
    tensors
        Named arrays.
    schema
        Of the folder: :data:`SCHEMA_VERSION` or an earlier one.
    """

    kind: str
    config: dict[str, Any]
    tensors: dict[str, NDArray[Any]]
    schema: int = SCHEMA_VERSION


def save_artifact(
    path: str | os.PathLike[str], kind: str, config: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]
) -> None:
    """Write a result so that it is either wholly there or not at all.

    The folder is written beside its destination and exchanged with what is there, so a save that is
    interrupted or killed leaves the earlier result as it was. Of several processes that save one result at
    the same time, the last one wins. Only a folder that this function wrote is ever replaced, and only if
    nothing else lies in it. Results that were saved within it are replaced with it.

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
        If something that is not a repdyn result is in the way or within the folder, or the folder cannot be
        written.
    """
    from safetensors.numpy import save_file

    target = Path(os.path.realpath(path))
    if _is_foreign(target):
        raise RepdynError(f"{target}: is in the way and is not a repdyn result; choose another path")
    check_owned(target)
    header: dict[str, Any] = {"kind": kind, "schema": SCHEMA_VERSION}
    document = _encoded({"repdyn": header, **config})
    json.dumps(document, allow_nan=False)  # raises what cannot be written before anything is
    # safetensors writes memory as it lies; np.ascontiguousarray would turn a scalar into a row.
    arrays = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    try:
        with scratch_folder(target) as scratch:
            save_file(arrays, scratch / _TENSORS)
            document["repdyn"]["sha256"] = _digest(document, scratch / _TENSORS)
            text = json.dumps(document, indent=2, allow_nan=False) + "\n"
            (scratch / _CONFIG).write_text(text, encoding="utf-8")
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
        The folder, or the address of one on the Hugging Face Hub (:mod:`repdyn.hub`).
    kind
        If given, the kind it must be.

    Raises
    ------
    RepdynError
        If it is missing, foreign, truncated, changed since it was saved, of another kind, or written by a
        newer repdyn.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    remote = repository_at(path)
    folder, name = Path(path), str(remote or Path(path))
    if remote is not None:
        file, commit = remote.fetch(_CONFIG)
        folder = file.parent
    elif not folder.exists():
        earlier = earlier_of(Path(os.path.realpath(path)))
        if earlier is None:
            raise RepdynError(f"{name}: there is no such file or folder")
        folder, name = earlier, str(earlier)
    document = _document(folder)
    if document is None:
        raise RepdynError(f"{name}: is not a repdyn result (no readable config.json of ours)")
    header = document.pop("repdyn")
    saved_kind, schema = header["kind"], header["schema"]
    if schema > SCHEMA_VERSION:
        raise RepdynError(
            f"{name}: written by a newer repdyn (schema {schema}, this one reads up to "
            f"{SCHEMA_VERSION}); upgrade repdyn"
        )
    if kind is not None and saved_kind != kind:
        raise RepdynError(f"{name}: holds a {saved_kind!r}, expected a {kind!r}")
    if remote is not None:
        remote.fetch(_TENSORS, commit)
    try:
        tensors = load_file(folder / _TENSORS)
        sound = "sha256" not in header or header["sha256"] == _digest(_read(folder), folder / _TENSORS)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise RepdynError(
                f"{name}: cannot be opened, this process has too many files open; raise `ulimit -n`"
            ) from None
        raise RepdynError(
            f"{name}: model.safetensors is missing or truncated ({error}); save it again"
        ) from None
    except (SafetensorError, *_DAMAGE) as error:
        # Also dtypes that NumPy lacks, malformed headers, and a config nested too deeply for the digest.
        raise RepdynError(
            f"{name}: model.safetensors is truncated or damaged ({error}); save it again"
        ) from None
    if not sound:
        raise RepdynError(
            f"{name}: was damaged or changed after it was saved (its SHA-256 differs); save it again, "
            'or remove "sha256" from its config.json to read it anyway'
        )
    return Artifact(saved_kind, document, tensors, schema)


def refuses_damage(
    load: Callable[Concatenate[type[Owner], str | os.PathLike[str], Given], Found],
) -> Callable[Concatenate[type[Owner], str | os.PathLike[str], Given], Found]:
    """Decorate a class method that reads a saved result, so that wrong contents raise a one-line error.

    Fields of a dataclass must be of the types that it declares, and a result must be able to print itself
    and to give its figures.

    Parameters
    ----------
    load
        Takes the class and the folder. Its own :class:`RepdynError` passes unchanged.
    """

    @wraps(load)
    def refusing(
        cls: type[Owner], path: str | os.PathLike[str], *args: Given.args, **kwargs: Given.kwargs
    ) -> Found:
        with refusing_damage(path, cls.__name__):
            result = load(cls, path, *args, **kwargs)
            check_types(result)
            repr(result)
            if hasattr(result, "to_dict"):
                result.to_dict()
        return result

    return refusing  # type: ignore[return-value]  # the names of its first two arguments are free


@contextmanager
def refusing_damage(path: str | os.PathLike[str], what: str) -> Iterator[None]:
    """Turn any error of reading a saved result into a :class:`RepdynError` that names its folder."""
    try:
        yield
    except RepdynError:
        raise
    except (*_DAMAGE, MemoryError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise RepdynError(
            f"{os.fspath(path)}: the saved {what} is damaged ({reason[:200]}); save it again"
        ) from error


def check_owned(target: Path) -> None:
    """Raise :class:`RepdynError` if replacing a saved result would remove what repdyn did not write there.

    A folder that is no saved result is not looked into.
    """
    if _document(target) is None:
        return
    try:
        entries = sorted(target.iterdir())
    except FileNotFoundError:  # another process is replacing it
        return
    for entry in entries:
        if entry.is_dir() and _document(entry) is not None:
            check_owned(entry)
        elif entry.name not in (_CONFIG, _TENSORS, SIGNATURE) and not is_scratch(entry.name):
            raise RepdynError(
                f"{target}: holds {entry.name!r}, which is no part of the saved result and would be removed "
                "with it; move it away, or choose another path"
            )


def _is_foreign(target: Path) -> bool:
    """Whether something that repdyn did not write is at a path.

    Another process may be replacing a result: for a moment there is nothing to read, or half of it. What is
    foreign stays so.
    """
    for _ in range(_LOOKS):
        if not target.exists() or _document(target) is not None:
            return False
        time.sleep(_PAUSE)
    return True


def _document(folder: Path) -> dict[str, Any] | None:
    """The config of a folder that repdyn wrote, or None."""
    try:
        document = _decoded(_read(folder))
    except (OSError, ValueError, RecursionError):  # the last: JSON nested a thousand deep
        return None
    return document if isinstance(document, dict) and is_result(document) else None


def is_result(document: Mapping[str, Any]) -> bool:
    """Whether the contents of a ``config.json`` are those of a saved result of repdyn."""
    header = document.get("repdyn")
    return (
        isinstance(header, dict)
        and isinstance(header.get("kind"), str)
        and isinstance(header.get("schema"), int)
    )


def _read(folder: Path) -> Any:
    return json.loads((folder / _CONFIG).read_text(encoding="utf-8"))


def _digest(document: Mapping[str, Any], tensors: Path) -> str:
    """SHA-256 of a config as it is read, without its own digest, and of the tensors' file."""
    header = {key: value for key, value in document["repdyn"].items() if key != "sha256"}
    digest = hashlib.sha256(json.dumps({**document, "repdyn": header}).encode())
    with tensors.open("rb") as file:
        digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


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
    """The inverse of :func:`_encoded`; bare NaN of earlier versions is a number already."""
    if isinstance(value, dict):
        if len(value) == 1 and isinstance(value.get("float"), str) and value["float"] in _NOT_FINITE:
            return _NOT_FINITE[value["float"]]
        return {key: _decoded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    return value
