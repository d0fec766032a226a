"""An interrupted fit on disk: one file, whole or absent, that belongs to one fit."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from repdyn.errors import RepdynError
from repdyn.koopman.states import States
from repdyn.writing import whole_file

__all__ = ["fingerprint", "read_checkpoint", "write_checkpoint"]

_KIND = "repdyn koopman fit"


def fingerprint(states: States, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint must share with the fit that resumes it: settings, and a digest of the data.

    Parameters
    ----------
    states
        Lifted representations.
    settings
        JSON values.
    """
    shape = [states.points, states.samples, states.width]
    return {**settings, "data": states.fingerprint(), "shape": shape}


def write_checkpoint(
    file: str | os.PathLike[str],
    of: Mapping[str, Any],
    progress: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
) -> None:
    """Replace the checkpoint in one rename, so that a kill leaves the earlier one or the new one.

    Parameters
    ----------
    file
        Where it is.
    of
        The :func:`fingerprint` of the fit.
    progress
        JSON values: how far it is.
    tensors
        Weights and moments.
    """
    from safetensors.torch import save

    place = Path(file)
    place.parent.mkdir(parents=True, exist_ok=True)
    header = {"kind": _KIND, "fit": json.dumps(of), "progress": json.dumps(progress)}
    held = save({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, header)
    with whole_file(place) as scratch:
        scratch.write_bytes(held)


def read_checkpoint(
    file: str | os.PathLike[str], of: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """What :func:`write_checkpoint` wrote, or ``None`` where there is no file.

    Parameters
    ----------
    file
        Where it is.
    of
        The :func:`fingerprint` of the fit that wants to go on.

    Raises
    ------
    RepdynError
        If the file is something else, damaged, or the checkpoint of another fit.
    """
    from safetensors import SafetensorError, safe_open

    place = Path(file)
    if not place.exists():
        return None
    try:
        with safe_open(place, framework="pt") as opened:
            header = opened.metadata() or {}
            tensors: dict[str, Tensor] = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        if header.get("kind") != _KIND:
            raise RepdynError(f"{place}: is not the checkpoint of a Koopman fit; choose another file")
        written, progress = json.loads(header["fit"]), json.loads(header["progress"])
    except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
        raise RepdynError(
            f"{place}: is not a readable checkpoint ({error}); delete it to start anew"
        ) from None
    differing = sorted(name for name in {*of, *written} if of.get(name) != written.get(name))
    if differing:
        first = differing[0]
        raise RepdynError(
            f"{place}: is the checkpoint of another fit, with other {', '.join(differing)} "
            f"({first} was {written.get(first)!r}, now {of.get(first)!r}); give another file, or delete it"
        )
    return progress, tensors
