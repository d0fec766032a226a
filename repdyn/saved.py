"""Open a saved result or estimator without knowing its kind."""

from __future__ import annotations

import os
import shutil
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from repdyn.artifacts import load_artifact
from repdyn.errors import RepdynError
from repdyn.paths import open_paths
from repdyn.provenance import SIGNATURE
from repdyn.publishing import publish
from repdyn.results import registered

__all__ = ["load_result", "push_folder"]

_ROOMS = (
    "koopman",
    "fields",
    "topology",
    "translation",
    "ood",
    "disentangle",
    "shortening",
    "comparison",
    "migration",
)
# Estimators and networks, which are no results: where each kind is read.
_ESTIMATORS = {
    "koopman": ("repdyn.koopman", "KoopmanAutoencoder.from_pretrained"),
    "edited_koopman": ("repdyn.koopman", "EditedKoopman.load"),
    "detector": ("repdyn.ood", "load_detector"),
    "surrogate": ("repdyn.fields", "SurrogateAutoencoder.from_pretrained"),
    "energy field": ("repdyn.fields", "EnergyField.from_pretrained"),
    "shortened model": ("repdyn.shortening", "ShortenedModel.from_pretrained"),
    "flow": ("repdyn.topology", "FlowAutoencoder.from_pretrained"),
}


def load_result(path: str | os.PathLike[str]) -> Any:
    """Open any folder that a ``save`` or ``save_pretrained`` of repdyn wrote.

    Parameters
    ----------
    path
        The folder, or the address of one on the Hugging Face Hub, ``hf://user/name[@revision][/folder]``.

    Returns
    -------
    Result, Detector or network
        An object of the class that wrote it, on the CPU.

    Raises
    ------
    RepdynError
        If the folder is missing, damaged, or not a repdyn result.

    Examples
    --------
    >>> repdyn.load_result("l6-to-e5.translation")  # doctest: +SKIP
    LinearTranslation(384 -> 384, verdict='found', confidence=0.943)
    """
    artifact = load_artifact(path)
    kind = artifact.kind
    for room in _ROOMS:
        import_module(f"repdyn.{room}")
    if kind in registered():
        return registered()[kind].load(path)
    if kind == "disentangle":  # two models share the kind
        model = "SSMSKD" if artifact.config.get("model") == "SSMSKD" else "SKD"
        return getattr(import_module("repdyn.disentangle"), model).from_pretrained(path)
    if kind not in _ESTIMATORS:
        known = ", ".join(sorted({*registered(), *_ESTIMATORS}))
        raise RepdynError(f"{os.fspath(path)}: holds a {kind!r}, which is none of {known}; upgrade repdyn")
    module, name = _ESTIMATORS[kind]
    found: Any = import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found(path)


def push_folder(
    path: str | os.PathLike[str],
    repo_id: str,
    *,
    commit_message: str | None = None,
    private: bool | None = None,
    token: str | None = None,
    branch: str | None = None,
) -> str:
    """Upload a folder that a verb or ``save`` wrote to the Hugging Face Hub, with its command and its card.

    Results that lie within (``a.kae/fidelity``) are uploaded too, and the card prints the verdicts, controls
    and intervals of all. A store of paths becomes a data set.

    Parameters
    ----------
    path
        A saved result, or a store of paths.
    repo_id
        ``"user/name"``. It is created if it does not exist.
    commit_message, private, token, branch
        As in :meth:`repdyn.koopman.KoopmanAutoencoder.push_to_hub`.

    Returns
    -------
    str
        Address of the commit.

    Raises
    ------
    RepdynError
        If the folder holds no result of repdyn, the account may not write there, the repository holds what
        repdyn did not write, or the Hub cannot be reached.

    Examples
    --------
    >>> repdyn.push_folder("a.kae", "ada/minilm-kae", private=True)  # doctest: +SKIP
    'https://huggingface.co/ada/minilm-kae/commit/…'
    """
    folder = Path(path)
    options: dict[str, Any] = {
        "commit_message": commit_message,
        "private": private,
        "token": token,
        "branch": branch,
    }
    if (folder / "zarr.json").is_file():
        return open_paths(folder).push_to_hub(repo_id, **options)
    held = {"": load_result(folder)}
    parts = sorted(file.parent for file in folder.glob("*/config.json"))
    held |= {part.name: load_result(part) for part in parts}
    with TemporaryDirectory() as scratch:
        copy = Path(scratch) / "result"
        for name in held:
            (copy / name).mkdir(parents=True)
            for file in ("config.json", "model.safetensors", SIGNATURE):
                if (folder / name / file).is_file():
                    shutil.copyfile(folder / name / file, copy / name / file)
        return publish(copy, held, repo_id, **options)
