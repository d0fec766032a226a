"""Fitted results on disk: a folder with ``config.json`` and ``model.safetensors``, never a pickle.

Every result that can be saved uses this layout, so that a report can be told *what* a folder is before
anything is loaded from it.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repdyn.errors import RepdynError

__all__ = ["SCHEMA_VERSION", "Artifact", "load_artifact", "save_artifact"]

SCHEMA_VERSION = 1


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

    The folder is written beside its destination and moved into place, so an interrupted save leaves the
    earlier result as it was. Only a folder that this function wrote is ever replaced.

    Parameters
    ----------
    path
        The folder to write.
    kind
        What it is.
    config
        JSON-able values.
    tensors
        Named arrays of any numeric or boolean dtype.

    Raises
    ------
    RepdynError
        If something that is not a repdyn result is in the way.
    """
    from safetensors.numpy import save_file

    target = Path(path)
    if target.exists() and _document(target) is None:
        raise RepdynError(f"{target}: is in the way and is not a repdyn result; choose another path")
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        document = {"repdyn": {"kind": kind, "schema": SCHEMA_VERSION}, **config}
        (scratch / "config.json").write_text(json.dumps(document, indent=2, allow_nan=True) + "\n")
        arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
        save_file(arrays, scratch / "model.safetensors")
        scratch.chmod(0o755)
        if target.exists():
            shutil.rmtree(target)
        scratch.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


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
        raise RepdynError(f"{folder}: there is no such file or folder")
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
    except (OSError, SafetensorError) as error:
        raise RepdynError(
            f"{folder}: model.safetensors is missing or truncated ({error}); save it again"
        ) from None
    return Artifact(found, document, tensors)


def _document(folder: Path) -> dict[str, Any] | None:
    """The folder's config, or None where it is not one that we wrote."""
    try:
        document = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return None
    header = document.get("repdyn") if isinstance(document, dict) else None
    ours = (
        isinstance(header, dict)
        and isinstance(header.get("kind"), str)
        and isinstance(header.get("schema"), int)
    )
    return document if ours else None
