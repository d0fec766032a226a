"""An interrupted fit on disk: one file, whole or absent, that belongs to one fit."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from repdyn.errors import RepdynError
from repdyn.writing import whole_file

__all__ = ["fingerprint", "read_checkpoint", "write_checkpoint"]

_KIND = "repdyn koopman fit"
_ROWS = 1000  # of the data enter its fingerprint by their values, all of them by their sums


def fingerprint(states: Tensor, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint must share with the fit that resumes it: settings, and a digest of the data.

    Parameters
    ----------
    states
        Lifted representations, shape ``(points, N, width)``.
    settings
        JSON values.
    """
    few = states[:, :: max(1, states.shape[1] // _ROWS)].cpu().contiguous()
    sums = states.sum(dim=1, dtype=torch.float64).cpu()
    digest = hashlib.blake2b(few.numpy().tobytes() + sums.numpy().tobytes(), digest_size=16)
    return {**settings, "data": digest.hexdigest(), "shape": list(states.shape)}


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
